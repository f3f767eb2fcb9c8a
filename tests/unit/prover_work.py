"""Work of the workers of `test_prover.py` instead of proving. A separate module: spawned processes import it."""

import os
import signal
import time
from dataclasses import replace

from omron_miner.constants import Constants
from omron_miner.events import FailureKind, Timings
from omron_miner.proving.verified_model_session import ProofResult


def warm_up(_constants: Constants) -> None:
    """Ready immediately."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def refuse_to_start(_constants: Constants) -> None:
    """As when EZKL cannot be imported."""
    raise ImportError("no EZKL here")


def first_try(path: object) -> bool:
    """Whether this is the first call, as recorded with the process in the file at `path`; always without a path."""
    if not isinstance(path, str):
        return True
    try:
        with open(path, "x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return False
    return True


def prove(circuit_id: str, inputs: dict[str, object], _deadline: float) -> ProofResult:
    """Does what `inputs` say; `detail` is the process it was done in."""
    if first_try(inputs.get("once")):
        if inputs.get("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        if inputs.get("hang"):
            os.kill(os.getpid(), signal.SIGSTOP)
        if inputs.get("raise"):
            raise KeyError("a bug")
        if inputs.get("fail_inside"):
            return replace(prove(circuit_id, {}, _deadline), verified=False, failure=FailureKind.INTERNAL_ERROR)
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


def verify(circuit_id: str, task: tuple[object, str, str], _deadline: float) -> ProofResult:
    """Stands for a second verification: only what `prove` gives verifies; "crash" takes the process with it."""
    _rows, proof, _signals = task
    if proof == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    failure = None if proof == "proof" else FailureKind.VERIFICATION_FAILED
    return ProofResult(circuit_id, "", "", "", [2.0], failure is None, failure, "", Timings(verify_s=0.001), 1)
