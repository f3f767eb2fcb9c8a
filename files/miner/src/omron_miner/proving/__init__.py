"""From inputs to a verified proof: handlers, sessions, and the pool of worker processes."""

__all__ = [
    "ezkl_srs",
    "isolated",
    "pacing",
    "process_folders",
    "proof_handlers",
    "prover",
    "schedule",
    "session_storage",
    "steps",
    "verified_model_session",
    "verifier",
    "worker_process",
]
