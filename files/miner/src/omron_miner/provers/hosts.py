"""The interface of a prover host, its report, and the miner's own host as one of them."""

from __future__ import annotations

import asyncio
import hashlib
import platform
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import omron_miner
from omron_miner.circuits.checksums import fingerprint
from omron_miner.circuits.circuit import ezkl_version
from omron_miner.circuits.circuit_store import CircuitStore
from omron_miner.circuits.examples import example_inputs
from omron_miner.circuits.inputs import validate_inputs
from omron_miner.files import sha256

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.circuits.inputs import Inputs
    from omron_miner.constants import Constants
    from omron_miner.proving.pacing import CircuitPace
    from omron_miner.proving.prover import ProverPool
    from omron_miner.proving.verified_model_session import ProofResult


PROTOCOL = 1
"""Version of the protocol between a miner and its prover hosts: the actor's calls, pickled classes, Dask's messages.
Raised by a change after which this release and the one before cannot work together."""
_LOOK_SECONDS = 5.0
"""How often the digests of the miner's circuits, which other hosts are compared with, are refreshed."""


@dataclass(frozen=True)
class HostReport:
    """A host's report, several times a second. Plain data, picklable."""

    name: str
    release: str
    ezkl: str
    circuits: Mapping[str, str]
    """Id to digest of the circuits that it proved and verified."""
    ready: int
    """Warm workers."""
    free_bytes: int
    pace: Mapping[str, CircuitPace]
    draining: bool = False
    """Draining: it finishes its proofs and accepts no more."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Id to reason, of the circuits that it has but does not prove."""
    protocol: int = 0
    """Its `PROTOCOL`; 0: older than the field."""


class ProverHost(Protocol):
    """A host that proves. Used in the event loop of the pool."""

    name: str
    """Unique among the hosts of a pool."""
    is_local: bool
    """Whether it is the miner's own: it needs no heartbeat, and no second verification."""

    async def prove(self, number: int, circuit_id: str, rows: Inputs, within: float) -> ProofResult:
        """The proof with this `number`, made within this many seconds. Cancelling it stops the proof on the host.

        Raises any error that shows that the host is down.
        """

    async def report(self, wanted: Collection[int], last: int) -> HostReport:
        """The host's report. The host cancels the proofs up to number `last` that are not `wanted`.

        Raises any error that shows that the host is down; the caller sets the time limit.
        """


class Catalogue(Protocol):
    """The circuits of this host."""

    def digests(self) -> dict[str, str]:
        """Id to digest of all that can be proved here. Reads files: call it in a thread."""

    def example(self, circuit_id: str) -> Inputs:
        """Inputs to try a circuit with. Raises OmronError."""


class StoredCircuits:
    """The circuits in `circuits.directory`. One thread at a time."""

    def __init__(self, constants: Constants) -> None:
        self._store = CircuitStore(constants)
        self._known: dict[str, tuple[object, str]] = {}

    def digests(self) -> dict[str, str]:
        """See `Catalogue`."""
        found = {circuit.id: digest for circuit in self._store.usable() if (digest := self._digest(circuit))}
        self._known = {circuit_id: known for circuit_id, known in self._known.items() if circuit_id in found}
        return found

    def example(self, circuit_id: str) -> Inputs:
        """See `Catalogue`. Raises CircuitError or InputError."""
        circuit = self._store.get(circuit_id)
        return validate_inputs(circuit, example_inputs(circuit))

    def _digest(self, circuit: Circuit) -> str:
        """Digest of the files that make and verify a proof, without the large proving key, which follows from them."""
        try:
            seen = fingerprint(circuit.directory)
            known = self._known.get(circuit.id)
            if known is None or known[0] != seen:
                files = [circuit.vk, circuit.model_compiled, *([circuit.settings_file] if circuit.ezkl else [])]
                known = (seen, hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest())
                self._known[circuit.id] = known
        except OSError:  # removed meanwhile
            return ""
        return known[1]


class LocalHost:
    """The miner's own pool as one host among others. It proves every circuit that a request was admitted for."""

    is_local = True

    def __init__(self, pool: ProverPool, catalogue: Catalogue) -> None:
        self.name = "this host"
        self._pool, self._catalogue = pool, catalogue
        self._digests: dict[str, str] = {}
        self._look_again = 0.0

    async def prove(self, number: int, circuit_id: str, rows: Inputs, within: float) -> ProofResult:
        """See `ProverHost`."""
        return await prove_in(self._pool, circuit_id, rows, within)

    async def report(self, wanted: Collection[int], last: int) -> HostReport:
        """See `ProverHost`."""
        state = await asyncio.wrap_future(self._pool.state())
        if time.monotonic() >= self._look_again:
            self._digests = await asyncio.get_running_loop().run_in_executor(None, self._catalogue.digests)
            self._look_again = time.monotonic() + _LOOK_SECONDS
        return HostReport(
            self.name,
            release(),
            ezkl_version(),
            self._digests,
            state.ready,
            state.free_bytes,
            state.pace,
            protocol=PROTOCOL,
        )


async def prove_in(pool: ProverPool, circuit_id: str, rows: Inputs, within: float) -> ProofResult:
    """A proof of a pool of this host; when this is cancelled, its worker is stopped."""
    job = pool.submit(circuit_id, rows, time.monotonic() + within)
    try:
        return await asyncio.wrap_future(job)
    except asyncio.CancelledError:
        pool.cancel(job)
        raise


@lru_cache(maxsize=1)
def release() -> str:
    """Names the code that runs here: the version and a hash of the package's files. Reads them once."""
    package = Path(omron_miner.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)} {sha256(path)}\n".encode())
    return f"{omron_miner.__version__}-{digest.hexdigest()[:12]}"


def host_name(constants: Constants) -> str:
    """This host's name as a prover."""
    return constants.provers.name or platform.node()


def incompatibility(report: HostReport, verified_again: bool) -> str:
    """Why a host gets no work at all; empty when it does.

    A host of another release does during an upgrade, if its proofs are `verified_again` by the miner.
    """
    ours = release()
    if report.protocol != PROTOCOL or (report.release != ours and not verified_again):
        return f"it runs release {report.release}, the miner {ours}: deploy both with the same play"
    if report.ezkl != (our_ezkl := ezkl_version()):
        return f"it has EZKL {report.ezkl}, the miner {our_ezkl}: deploy both with the same omron_ezkl_version"
    return ""


def differing(report: HostReport, digests: Mapping[str, str]) -> dict[str, str]:
    """Circuits of ours that the host may not prove, each with the reason."""
    found = {}
    for circuit_id, digest in digests.items():
        if circuit_id in report.refused:
            found[circuit_id] = report.refused[circuit_id]
        elif circuit_id in report.circuits and report.circuits[circuit_id] != digest:
            found[circuit_id] = "its files are not the miner's: run the play again, which copies them"
    return found
