"""Verifies proofs of other hosts once more on the miner's host, in a warm process that a malformed proof may crash.

It is a `ProverPool` whose work is to verify: deadlines and the handling of hung and dead processes are the same.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from omron_miner.circuits.circuit import ProofSystem
from omron_miner.circuits.circuit_store import CircuitStore
from omron_miner.errors import CircuitError, OmronError
from omron_miner.events import FailureKind, Timings
from omron_miner.proving.proof_handlers import get_handler
from omron_miner.proving.prover import ProverPool
from omron_miner.proving.session_storage import SessionStorage
from omron_miner.proving.verified_model_session import failed
from omron_miner.proving.worker_process import Work, prepare_process

if TYPE_CHECKING:
    from concurrent.futures import Future

    from omron_miner.circuits.inputs import Inputs
    from omron_miner.constants import Constants
    from omron_miner.proving.verified_model_session import ProofResult


class SecondVerification:
    """One process that verifies. Any thread."""

    def __init__(self, constants: Constants, work: Work | None = None) -> None:
        """`work` runs in the process: by default real verification. Starts nothing yet."""
        limit = constants.deadlines.circuit_timeout_seconds
        deadlines = constants.deadlines.model_copy(update={"external_queue_seconds": limit})
        settings = constants.prover.model_copy(update={"workers": 1, "recycle_after_tasks": 1000})
        constants = constants.model_copy(update={"deadlines": deadlines, "prover": settings})
        self._pool = ProverPool(constants, None, work or Work(_warm_up, _verify), second_try=False)

    def start(self) -> None:
        """Starts the process and waits until it is warm. Raises OmronError."""
        self._pool.start()

    def submit(self, rows: Inputs, result: ProofResult, deadline: float) -> Future[ProofResult]:
        """Verifies a proof before `deadline` (`time.monotonic` seconds).

        The future's result has the measured outputs of the proof and no failure when it verifies. VERIFICATION_FAILED
        and WORKER_CRASHED blame the proof, other failures do not.
        """
        task: Any = (rows, result.proof, result.public_signals)  # the pool only passes it on
        return self._pool.submit(result.circuit_id, task, deadline)

    def cancel(self, answer: Future[ProofResult]) -> None:
        """Cancels a verification."""
        self._pool.cancel(answer)

    def close(self) -> None:
        """Stops the process."""
        self._pool.close(0)


# Code that runs in the verifying process.

_state: tuple[Constants, CircuitStore, SessionStorage] | None = None


def _warm_up(constants: Constants) -> None:
    global _state
    prepare_process(constants)
    get_handler(ProofSystem.EZKL, constants.circuits.srs_directory)
    _state = (constants, CircuitStore(constants), SessionStorage(constants.sessions))


def _verify(circuit_id: str, task: Any, _deadline: float) -> ProofResult:
    if _state is None:
        raise RuntimeError("the process was not warmed up")
    constants, store, storage = _state
    rows, proof, signals = task
    begun = time.perf_counter()
    try:
        circuit = store.get(circuit_id)
        with storage.session() as session:
            handler = get_handler(circuit.proof_system, constants.circuits.srs_directory)
            found = handler.verify(circuit, rows, proof, session, signals)
    except CircuitError:  # the circuit was removed: the proof is not to blame
        raise
    except OmronError as error:
        return failed(circuit_id, FailureKind.VERIFICATION_FAILED, str(error), tries=1)
    seconds = time.perf_counter() - begun
    result = failed(circuit_id, FailureKind.VERIFICATION_FAILED, "", tries=1)
    return replace(result, verified=True, failure=None, outputs=found.outputs, timings=Timings(verify_s=seconds))
