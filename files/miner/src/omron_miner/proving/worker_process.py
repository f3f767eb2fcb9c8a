"""The code that runs in a worker process of `prover`: one warm-up, then one proof after the other.

Everything here is called in the worker; `Work` names the functions that the pool calls, so that they can be replaced.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omron_miner.circuits.circuit import ProofSystem
from omron_miner.circuits.circuit_store import CircuitStore
from omron_miner.events import EventLog
from omron_miner.proving.isolated import ezkl_environment
from omron_miner.proving.proof_handlers import get_handler
from omron_miner.proving.session_storage import SessionStorage
from omron_miner.proving.verified_model_session import ProofResult, prove_verified
from omron_miner.proving.warm_up import keep_memory, load_keys, read_through

if TYPE_CHECKING:
    from collections.abc import Callable

    from omron_miner.circuits.inputs import Inputs
    from omron_miner.constants import Constants

_SHARE_OF_START = 0.5
"""Share of `prover.start_seconds` after which no further key is loaded: the first request then loads it."""
_OOM_SCORE_ADJUSTMENT = "500"
"""Short of memory, the kernel should kill a worker, which is replaced, rather than the miner."""


@dataclass(frozen=True)
class Work:
    """The functions of a worker process. Both are importable functions: they are called in another process."""

    warm_up: Callable[[Constants], None]
    """Called once, before the first job."""
    prove: Callable[[str, Inputs, float], ProofResult]
    """Called for each job, with what `ProverPool.submit` was given."""


@dataclass(frozen=True)
class _WorkerState:
    """A worker's state between jobs."""

    constants: Constants
    store: CircuitStore
    storage: SessionStorage


_state: _WorkerState | None = None


def warm_up(constants: Constants) -> None:
    """Prepares the process: everything that a first request would otherwise wait for. The order matters."""
    global _state
    prepare_process(constants)
    # Loads EZKL: the slow part, here rather than in the first request.
    get_handler(ProofSystem.EZKL, constants.circuits.srs_directory)
    _state = _WorkerState(constants, CircuitStore(constants), SessionStorage(constants.sessions))
    usable = _state.store.usable()
    read_through(usable, constants.circuits.srs_directory)
    load_keys(usable, constants.circuits.srs_directory, _SHARE_OF_START * constants.prover.start_seconds)


def prepare_process(constants: Constants) -> None:
    """Signals, memory, threads and the log of a process that is to use EZKL. Before EZKL is loaded."""
    for number in (signal.SIGINT, signal.SIGTERM):  # pm2 and Ctrl-C signal the whole tree; the miner decides
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):  # not allowed in some containers
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE_ADJUSTMENT, encoding="ascii")
    keep_memory()
    # EZKL and its thread pool read these once, when they are first used.
    os.environ.update(ezkl_environment(constants.circuits.ezkl_directory))
    os.environ["RAYON_NUM_THREADS"] = str(threads_per_worker(constants))
    EventLog(constants.log, patient=True)  # a worker without a log still proves


def threads_per_worker(constants: Constants) -> int:
    """Threads each worker proves with: as configured, or all cores we may use."""
    return constants.prover.threads_per_worker or len(os.sched_getaffinity(0))


def prove(circuit_id: str, rows: Inputs, deadline: float) -> ProofResult:
    """One job. `deadline` is the parent's `time.monotonic`, which is the same clock in every process on Linux."""
    if _state is None:
        raise RuntimeError("the worker was not warmed up")
    constants = _state.constants
    circuit = _state.store.get(circuit_id)
    return prove_verified(
        circuit,
        rows,
        _state.storage,
        constants.circuits.srs_directory,
        deadline=deadline,
    )
