"""The prover host's side: its pool, its reports, and the miners that it proves for. Does not use Dask.

Runs in one event loop. A miner that does not call for twice `provers.lost_seconds` has left: its proofs are cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from omron_miner.circuits.circuit import ezkl_version
from omron_miner.errors import OmronError
from omron_miner.events import LOGGER_NAME, FailureKind
from omron_miner.provers.hosts import PROTOCOL, Catalogue, HostReport, StoredCircuits, host_name, prove_in, release
from omron_miner.proving.prover import ProverPool
from omron_miner.proving.verified_model_session import failed

if TYPE_CHECKING:
    from collections.abc import Collection

    from omron_miner.circuits.inputs import Inputs
    from omron_miner.constants import Constants
    from omron_miner.proving.verified_model_session import ProofResult
    from omron_miner.proving.worker_process import Work

_log = logging.getLogger(LOGGER_NAME)
_LOOK_SECONDS = 10.0
"""How often it checks for new or changed circuits."""
_AGAIN_SECONDS = 300.0
"""Interval after which a circuit that could not be proved is retried."""
QUEUE_SECONDS = 1.0
"""The longest wait in a host's own queue: requests queue at the miner. Time for a worker to become free."""


def pool_constants(constants: Constants, workers: int | None = None) -> Constants:
    """The settings of a pool that gets its work from `MultiHostPool`; `workers`: as configured when None."""
    deadlines = constants.deadlines.model_copy(update={"external_queue_seconds": QUEUE_SECONDS})
    prover = constants.prover.model_copy(update={} if workers is None else {"workers": workers})
    return constants.model_copy(update={"deadlines": deadlines, "prover": prover})


@dataclass(frozen=True)
class _Refused:
    """A circuit that could not be proved here."""

    digest: str
    why: str
    until: float
    """When it is retried, unless its files change before."""


@dataclass
class _Miner:
    """One connection of a miner."""

    last_call: float = field(default_factory=time.monotonic)
    proofs: dict[int, asyncio.Task[ProofResult]] = field(default_factory=dict)


class ProverService:
    """Proves for miners. `start` blocks and may be called in any thread, the rest runs in one event loop."""

    def __init__(self, constants: Constants, work: Work | None = None, catalogue: Catalogue | None = None) -> None:
        """`work` runs in the worker processes: by default real proofs. Starts nothing yet."""
        self._constants = constants
        self._lease_seconds = 2 * constants.provers.lost_seconds
        self._catalogue = catalogue or StoredCircuits(constants)
        self._pool = ProverPool(pool_constants(constants), self._lost, work, second_try=False)
        self._circuits: dict[str, str] = {}
        self._refused: dict[str, _Refused] = {}
        self._miners: dict[str, _Miner] = {}
        self._draining = False
        self._closed = threading.Event()

    def start(self) -> None:
        """Starts the workers, proves and verifies every circuit once. Raises OmronError when none can be proved."""
        self._pool.start()
        self._try_circuits()
        if not self._circuits:
            self._pool.close(0)
            reasons = "; ".join(f"{circuit_id[:8]}: {one.why}" for circuit_id, one in self._refused.items())
            folder = self._constants.circuits.directory
            message = f"no circuit can be proved here: {reasons or f'there is none in {folder}'}"
            raise OmronError(message, "omron-miner circuit list shows which circuits are refused and why")
        threading.Thread(target=self._keep_trying, name="prover-circuits", daemon=True).start()

    @property
    def circuits(self) -> list[str]:
        """The ids of the circuits that are proved here."""
        return sorted(self._circuits)

    async def prove(self, miner: str, number: int, circuit_id: str, rows: Inputs, within: float) -> ProofResult:
        """A proof for a miner, which numbers its proofs. Cancelled when it leaves or no longer needs it."""
        proofs = self._miners.setdefault(miner, _Miner()).proofs
        task = asyncio.ensure_future(prove_in(self._pool, circuit_id, rows, within))
        proofs[number] = task
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()  # when this call itself is cancelled
            proofs.pop(number, None)
        if task.cancelled():
            return failed(circuit_id, FailureKind.CANCELLED, "the miner no longer needs the proof")
        return task.result()

    def end(self, miner: str, number: int) -> None:
        """Cancels a proof, if it is still running."""
        task = self._miners[miner].proofs.get(number) if miner in self._miners else None
        if task:
            task.cancel()

    async def report(self, miner: str, wanted: Collection[int], last: int) -> HostReport:
        """This host's report to the calling miner; cancels the proofs that the miner no longer needs."""
        caller = self._miners.setdefault(miner, _Miner())
        caller.last_call = time.monotonic()
        for number in [one for one in caller.proofs if one <= last and one not in wanted]:
            self.end(miner, number)
        state = await asyncio.wrap_future(self._pool.state())
        return HostReport(
            host_name(self._constants),
            release(),
            ezkl_version(),
            dict(self._circuits),
            state.ready,
            state.free_bytes,
            state.pace,
            self._draining,
            {circuit_id: one.why for circuit_id, one in self._refused.items()},
            PROTOCOL,
        )

    async def keep_leases(self) -> None:
        """Cancels the proofs of miners that left. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(self._lease_seconds / 4)
            now = time.monotonic()
            for miner, one in list(self._miners.items()):
                if now - one.last_call > self._lease_seconds:
                    if one.proofs:
                        _log.warning("The miner left; cancelling %d proofs", len(one.proofs))
                    self.leave(miner)

    def leave(self, miner: str) -> None:
        """Cancels all proofs of a miner."""
        left = self._miners.pop(miner, None)
        for task in list(left.proofs.values()) if left else ():
            task.cancel()

    def leave_all(self) -> None:
        """Cancels all proofs: the connection to all miners is lost."""
        for miner in list(self._miners):
            self.leave(miner)

    async def drain(self, seconds: float) -> None:
        """Takes no more work and waits until all proofs are finished, at most this long."""
        self._draining = True
        until = time.monotonic() + seconds
        # One heartbeat beyond the last proof: until then the miner may still send one.
        await asyncio.sleep(2 * self._constants.provers.heartbeat_seconds)
        while any(one.proofs for one in self._miners.values()) and time.monotonic() < until:
            await asyncio.sleep(0.05)

    def close(self) -> None:
        """Stops the workers. Blocks briefly."""
        self._closed.set()
        self._pool.close(0)

    def _keep_trying(self) -> None:
        while not self._closed.wait(_LOOK_SECONDS):
            try:
                self._try_circuits()
            except Exception:
                _log.exception("The circuits could not be checked")

    def _try_circuits(self) -> None:
        """Proves every new or changed circuit once; one that does not verify is not offered for some minutes."""
        digests, now = self._catalogue.digests(), time.monotonic()
        self._circuits = {one: digest for one, digest in self._circuits.items() if digests.get(one) == digest}
        self._refused = {
            one: known for one, known in self._refused.items() if digests.get(one) == known.digest and now < known.until
        }
        for circuit_id, digest in digests.items():
            if circuit_id in self._circuits or circuit_id in self._refused:
                continue
            failure, why = self._try(circuit_id)
            if failure is None:
                self._circuits = {**self._circuits, circuit_id: digest}
            elif failure not in (FailureKind.QUEUE_FULL, FailureKind.STOPPING):  # retried at the next check
                _log.error("Circuit %s is not offered: %s: %s", circuit_id, failure.value, why)
                refused = _Refused(digest, why, time.monotonic() + _AGAIN_SECONDS)
                self._refused = {**self._refused, circuit_id: refused}

    def _try(self, circuit_id: str) -> tuple[FailureKind | None, str]:
        """Whether the circuit can be proved here; None when it can."""
        limit = self._constants.deadlines.circuit_timeout_seconds
        try:
            rows = self._catalogue.example(circuit_id)
        except OmronError as error:
            return FailureKind.BAD_INPUT, error.message
        # The first proof loads keys and may take longer than any later one.
        result = self._pool.submit(circuit_id, rows, time.monotonic() + 2 * limit).result()
        return result.failure, result.detail

    def _lost(self, detail: str) -> None:
        _log.warning("A worker was lost: %s", detail)
