"""Prover hosts that sleep instead of proving, and can be made to fail; and the circuits of a miner that has one."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from omron_miner.circuits.circuit import ezkl_version
from omron_miner.events import FailureKind, Timings
from omron_miner.provers.hosts import PROTOCOL, HostReport, release
from omron_miner.proving.pacing import CircuitPace
from omron_miner.proving.verified_model_session import ProofResult, failed

if TYPE_CHECKING:
    from collections.abc import Collection

    from omron_miner.provers.hosts import ProverHost
    from omron_miner.provers.multi_host_pool import MultiHostPool

DIGEST = "as the miner's"


class OneCircuit:
    """A catalogue of circuit "c"."""

    def __init__(self, digest: str = DIGEST) -> None:
        self.digest = digest

    def digests(self) -> dict[str, str]:
        return {"c": self.digest}

    def example(self, _circuit_id: str) -> Any:
        return {"seconds": 0.0}


class Door:
    """A connector: through it hosts come to a pool and go, from any thread."""

    def __init__(self) -> None:
        self._open = threading.Event()

    async def run(self, pool: MultiHostPool) -> None:
        self._pool, self._loop = pool, asyncio.get_running_loop()
        self._open.set()
        await asyncio.Event().wait()

    def join(self, host: ProverHost) -> None:
        assert self._open.wait(10)
        self._loop.call_soon_threadsafe(self._pool.join, host)

    def leave(self, name: str, why: str) -> None:
        self._loop.call_soon_threadsafe(self._pool.leave, name, why)


class SimulatedHost:
    """Proves circuit "c" in `seconds`. `state`: well, gone, paused, bad proof, crashing proof, or a failure's value."""

    is_local = False

    def __init__(self, name: str, seconds: float = 0.05, state: str = "well") -> None:
        self.name, self.seconds, self.state = name, seconds, state
        self.proving: set[int] = set()
        self.ended: list[int] = []
        self.proofs = 0
        self.says = HostReport(
            name,
            release(),
            ezkl_version(),
            {"c": DIGEST},
            1,
            1 << 34,
            {"c": CircuitPace((seconds,), 1, seconds)},
            protocol=PROTOCOL,
        )

    def say(self, **changes: Any) -> None:
        self.says = replace(self.says, **changes)

    async def prove(self, number: int, circuit_id: str, rows: Any, _within: float) -> ProofResult:
        self.proving.add(number)
        try:
            await self._answer()
            await asyncio.sleep(self.seconds)
            await self._answer()
        except asyncio.CancelledError:
            self.ended.append(number)
            raise
        finally:
            self.proving.discard(number)
        if self.state in set(FailureKind):
            return failed(circuit_id, FailureKind(self.state), f"{self.name} could not", tries=1)
        self.proofs += 1
        proof = {"bad proof": "bad", "crashing proof": "crash"}.get(self.state, "proof")
        return ProofResult(circuit_id, "label", proof, "[]", [1.0], True, None, self.name, Timings(), 1)

    async def report(self, _wanted: Collection[int], _last: int) -> HostReport:
        await self._answer()
        return self.says

    async def _answer(self) -> None:
        if self.state == "gone":
            raise OSError("connection refused")
        while self.state == "paused":
            await asyncio.sleep(0.01)
