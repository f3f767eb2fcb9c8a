"""One request from input to verified proof, with a timing per phase.

Runs inside a worker process: all native code runs here, in a separate process. A request's faults (a
proof that cannot be made or does not verify, no time left) come back as a `ProofResult`, never as an
exception. Nothing here uses HTTP, queues or other processes.
"""

from __future__ import annotations

import errno
import logging
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omron_miner.circuits.needs import needs_of
from omron_miner.errors import OmronError
from omron_miner.events import LOGGER_NAME, FailureKind, Timings
from omron_miner.host import peak_memory
from omron_miner.proving.proof_handlers import Proof, ProofError, VerificationError, get_handler
from omron_miner.proving.steps import make_witness, prove_witness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from omron_miner.circuits.circuit import Circuit, ProofSystem
    from omron_miner.circuits.inputs import Inputs
    from omron_miner.proving.proof_handlers import ProofHandler
    from omron_miner.proving.session_storage import Session, SessionStorage

    HandlerOf = Callable[[ProofSystem, Path], ProofHandler]

_log = logging.getLogger(LOGGER_NAME)
_MOST_TRIES = 2
_LONGEST_DETAIL = 300
"""Characters of a failure's detail: EZKL's messages can contain whole witnesses."""


@dataclass(frozen=True)
class ProofResult:
    """The result of one request. Plain data, picklable.

    `proof` and `public_signals` are the wire strings for the validator; both are empty unless `verified`.
    `outputs` are the model's outputs as floats, all of them in one list. `timings.total_s` is the time inside the
    worker; the queue is not in it.
    """

    circuit_id: str
    label: str
    proof: str
    public_signals: str
    outputs: list[float]
    verified: bool
    failure: FailureKind | None
    detail: str
    timings: Timings
    tries: int
    peak_memory_bytes: int = 0
    """The most memory this process has had so far, this proof included."""


def failed(
    circuit_id: str, failure: FailureKind, detail: str, queue_seconds: float = 0.0, tries: int = 0
) -> ProofResult:
    """The result of a request that got no proof."""
    timings = Timings(queue_s=queue_seconds)
    return ProofResult(circuit_id, "", "", "", [], False, failure, detail, timings, tries)


class _OutOfTime(OmronError):
    pass


class _RamDiskFullError(OmronError):
    pass


class _Clock:
    """Seconds per phase, summed over tries, and the deadline they must keep."""

    def __init__(self, deadline: float | None) -> None:
        self._begun = time.perf_counter()
        self._deadline = deadline
        self._spent = dict.fromkeys(("input", "witness", "prove", "verify"), 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a phase. Raises _OutOfTime instead of starting one after the deadline."""
        if not self.allows(0.0):
            raise _OutOfTime(f"the deadline passed before {name}")
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._spent[name] += time.perf_counter() - begun

    def allows(self, seconds: float) -> bool:
        """Whether a step of this duration can finish before the deadline."""
        return self._deadline is None or time.monotonic() + seconds < self._deadline

    def timings(self) -> Timings:
        """The time spent so far."""
        return Timings(
            total_s=time.perf_counter() - self._begun, **{f"{name}_s": spent for name, spent in self._spent.items()}
        )


@dataclass
class _Request:
    """One request on its way, with what `prove_verified` was given."""

    circuit: Circuit
    srs_directory: Path
    handler_of: HandlerOf
    clock: _Clock
    tries: int = 0

    def run(self, rows: Inputs, storage: SessionStorage) -> Proof:
        """Tries until a proof verifies. Raises OmronError or OSError."""
        with self.clock.phase("input"):
            handler = self.handler_of(self.circuit.proof_system, self.srs_directory)
        try:
            return self._tries(handler, rows, storage)
        except _RamDiskFullError:
            return self._tries(handler, rows, storage, on_disk=True)

    def _tries(self, handler: ProofHandler, rows: Inputs, storage: SessionStorage, on_disk: bool = False) -> Proof:
        with storage.session(on_disk=on_disk, needed_bytes=_session_bytes(self.circuit)) as session:
            while True:
                begun = time.monotonic()
                try:
                    return self._try(handler, rows, session)
                except (ProofError, VerificationError, OSError) as error:
                    if session.is_full():
                        if on_disk:  # EZKL does not report it
                            raise OSError(errno.ENOSPC, "the disk is full", str(session.directory)) from error
                        raise _RamDiskFullError("the RAM disk filled up") from error
                    again = isinstance(error, VerificationError) and self.tries < _MOST_TRIES
                    if not again or not self.clock.allows(time.monotonic() - begun):
                        raise
                    session.discard()

    def _try(self, handler: ProofHandler, rows: Inputs, session: Session) -> Proof:
        make_witness(handler, self.circuit, rows, session, self._phase)
        return prove_witness(handler, self.circuit, rows, session, self._phase)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        with self.clock.phase(name):
            self.tries += name == "prove"
            yield

    def result(self, proof: Proof | None, failure: FailureKind | None = None, detail: str = "") -> ProofResult:
        """The answer: a verified proof, or a failure and why."""
        return ProofResult(
            circuit_id=self.circuit.id,
            label=self.circuit.label,
            proof=proof.proof if proof else "",
            public_signals=proof.public_signals if proof else "",
            outputs=proof.outputs if proof else [],
            verified=proof is not None,
            failure=failure,
            detail=" ".join(detail.split())[:_LONGEST_DETAIL],
            timings=self.clock.timings(),
            tries=self.tries,
            peak_memory_bytes=peak_memory(),
        )


def _session_bytes(circuit: Circuit) -> int:
    """Measured size of the request's files; 0 when not known."""
    with suppress(OSError):
        needed = needs_of(circuit)
        return needed.ram_disk if needed else 0
    return 0


def prove_verified(
    circuit: Circuit,
    rows: Inputs,
    storage: SessionStorage,
    srs_directory: Path,
    *,
    deadline: float | None = None,
    handler_of: HandlerOf = get_handler,
) -> ProofResult:
    """Proves `circuit` for a request's inputs and verifies the proof by the validator's own criterion.

    `rows` passed `inputs.validate_inputs`. A proof that does not verify is made once more, if as long as the first try
    still ends before `deadline` (`time.monotonic` seconds; None: no limit). Never raises for a fault of the request:
    `failure` is PROVING_FAILED, VERIFICATION_FAILED, TIMEOUT, or INTERNAL_ERROR for a fault of the host.
    """
    request = _Request(circuit, srs_directory, handler_of, _Clock(deadline))
    try:
        return request.result(request.run(rows, storage))
    except _OutOfTime as error:
        return request.result(None, FailureKind.TIMEOUT, str(error))
    except VerificationError as error:
        return request.result(None, FailureKind.VERIFICATION_FAILED, str(error))
    except ProofError as error:
        return request.result(None, FailureKind.PROVING_FAILED, str(error))
    except Exception as error:  # the disk is full, a bug: this request fails, its traceback is logged, others continue
        _log.exception("proving %s failed", circuit.label)
        return request.result(None, FailureKind.INTERNAL_ERROR, f"{type(error).__name__}: {error}")
