"""How many proofs to run in parallel: learned from the proofs that are made anyway.

Every worker may use all cores, so proofs that run at the same time share them. Whether that makes more proofs a minute
than proving sequentially depends on the circuit and the host (EZKL leaves cores idle in parts of a proof, and memory
bandwidth is shared), so it is measured: first alone, then, when requests come together anyway and all of them would
still meet their deadlines, two at a time, and more as long as that increases throughput. No request is made for it.

Pure: nothing here uses processes, queues or clocks.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from statistics import median

_REMEMBERED = 8
"""Proofs kept per circuit and number at a time."""
_PROOFS_PER_STEP = 2
"""Proofs at one number before it is evaluated, and twice as many for each doubling: a pair counts as two."""
_MINIMUM_SPEEDUP = 1.1
"""Minimum throughput of parallel proofs relative to sequential ones. At 1.2 times, two pairs of four proofs finish on
average as early as four in sequence, at 1.11 times those of eight; below that, first proofs only finish later."""
_UNKNOWN = 1.15
"""Estimate for n proofs at a time without a measurement: n times as long as one, times this."""


@dataclass(frozen=True)
class CircuitPace:
    """Measurements of one circuit's proofs on one host, for planning elsewhere."""

    seconds: tuple[float, ...] = ()
    """Expected duration of a proof while 1, 2, ... proofs run; empty before the first proof."""
    at_a_time: int = 1
    """The number of concurrent proofs that maximises throughput, or is worth trying."""
    fastest: float = 0.0
    """Seconds of the fastest proof so far; 0 when there was none."""
    peak_bytes: int = 0
    """The most memory that a worker had while it proved the circuit; 0 when not known."""


class Pace:
    """How long each circuit's proofs take by how many run at a time. One thread."""

    def __init__(self, most: int) -> None:
        """`most`: the largest number of proofs at a time, at least 1."""
        self._steps = [1 << bit for bit in range(most.bit_length()) if 1 << bit < most] + [most]
        self._seconds: dict[str, dict[int, deque[float]]] = defaultdict(
            lambda: defaultdict(lambda: deque(maxlen=_REMEMBERED))
        )
        self._fastest: dict[str, float] = {}
        self._memory: dict[str, int] = {}

    def note(self, circuit_id: str, at_a_time: float, seconds: float, peak_bytes: int = 0) -> None:
        """A proof took `seconds` while on average `at_a_time` proofs ran, itself included.

        Averages that are not within a tenth of a step up to `most` are not representative and are not kept.
        """
        self._fastest[circuit_id] = min(seconds, self._fastest.get(circuit_id, seconds))
        self._memory[circuit_id] = max(peak_bytes, self._memory.get(circuit_id, 0))
        nearest = min(self._steps, key=lambda step: abs(step - at_a_time))
        if abs(nearest - at_a_time) <= 0.1 * nearest:
            self._seconds[circuit_id][nearest].append(seconds)

    def fastest(self, circuit_id: str) -> float:
        """Seconds of the fastest proof so far; 0 when there was none."""
        return self._fastest.get(circuit_id, 0.0)

    def peak_bytes(self, circuit_id: str) -> int:
        """The largest memory of a worker that proved it; 0 if not known."""
        return self._memory.get(circuit_id, 0)

    def expected(self, circuit_id: str, at_a_time: int) -> float | None:
        """Seconds a proof takes while `at_a_time` run, rounded up rather than down; None before the first proof."""
        known = self._seconds.get(circuit_id)
        if not known:
            return None
        if at_a_time in known:
            return max(known[at_a_time])
        below = [step for step in known if step < at_a_time]
        step = max(below) if below else min(known)
        return max(known[step]) * max(1.0, at_a_time / step) * _UNKNOWN

    def best(self, circuit_id: str) -> int:
        """The number of concurrent proofs of this circuit that maximises throughput, or is worth trying."""
        known = self._seconds.get(circuit_id, {})
        best, best_rate = 1, 0.0
        for step in self._steps:
            proofs = known.get(step, ())
            if len(proofs) < _PROOFS_PER_STEP * step and len(proofs) < _REMEMBERED:
                # Not evaluated yet. Tried only if the step below it is the best so far.
                return step if best == max((one for one in self._steps if one < step), default=1) else best
            rate = step / median(proofs)
            if step == 1:
                best_rate = rate * _MINIMUM_SPEEDUP
            elif rate > best_rate:
                best, best_rate = step, rate
        return best

    def of_circuits(self) -> dict[str, CircuitPace]:
        """Measurements of every circuit that was proved here, by its id."""
        found = {}
        for circuit_id, fastest in self._fastest.items():
            expected = [self.expected(circuit_id, number) for number in range(1, self._steps[-1] + 1)]
            seconds = tuple(one for one in expected if one is not None)
            found[circuit_id] = CircuitPace(seconds, self.best(circuit_id), fastest, self.peak_bytes(circuit_id))
        return found
