"""What the workers of `test_prover.py` do instead of proving. A module of its own: spawned processes import it."""

import os
import signal
import time

from omron_miner.constants import Constants
from omron_miner.events import FailureKind, Timings
from omron_miner.verified_model_session import ProofResult


def warm_up(_constants: Constants, _parent: int) -> None:
    """Ready at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def refuse_to_start(_constants: Constants, _parent: int) -> None:
    """As when EZKL cannot be imported."""
    raise ImportError("no EZKL here")


def prove(circuit_id: str, inputs: dict[str, object], _deadline: float) -> ProofResult:
    """Does what `inputs` say; `detail` is the process it was done in."""
    if inputs.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if inputs.get("raise"):
        raise KeyError("a bug")
    seconds = inputs.get("seconds", 0.0)
    assert isinstance(seconds, float)
    time.sleep(seconds)
    timings = Timings(prove_s=seconds)
    failure = FailureKind.PROVING_FAILED if inputs.get("fail") else None
    memory = inputs.get("memory", 0)
    assert isinstance(memory, int)
    return ProofResult(
        circuit_id, "label", "proof", "[]", [1.0], failure is None, failure, str(os.getpid()), timings, 1, memory
    )
