"""Decides which host proves which request now, and which are refused or wait: a function of time, hosts and queue.

A request waits at the miner until the host that should finish it first, by the pace measured there, is free. So a slow
host gets fewer requests, and no queue is lost when a host leaves. A request that no host can finish in time, even at
the fastest pace so far and after the requests before it, is refused immediately.

Pure: nothing here reads a clock or changes its arguments. Times are `time.monotonic` seconds.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from heapq import heapify, heapreplace
from typing import TYPE_CHECKING, Generic, TypeVar

from omron_miner.events import FailureKind
from omron_miner.proving.pacing import CircuitPace
from omron_miner.proving.schedule import BEST_CASE, LEAST_LEFT, MARGIN, MEMORY_MARGIN, lost_for_good, waited_too_long

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from omron_miner.proving.schedule import Refusal

_NOMINAL_SECONDS = 1.0
"""Estimated duration of a proof of a circuit that was never proved on its host."""
_UNKNOWN = CircuitPace()


@dataclass(eq=False, kw_only=True)
class Job:
    """A requested proof."""

    circuit_id: str
    deadline: float
    queued: float
    """Since when it waits."""
    lost: str = ""
    """Why its last try failed; empty before the first. Such a job comes first."""
    tried: frozenset[str] = frozenset()
    """Names of the hosts that failed it; others are preferred."""


JobT = TypeVar("JobT", bound=Job)


@dataclass(frozen=True)
class Running:
    """A running proof."""

    circuit_id: str
    begun: float
    deadline: float


@dataclass(frozen=True)
class Host:
    """A host that may get work, as it is now."""

    name: str
    ready: int
    """Warm workers: no more proofs run at a time."""
    free_bytes: int
    """Memory that another proof could use."""
    pace: Mapping[str, CircuitPace]
    circuits: frozenset[str] | None
    """Circuits that it may prove; None: all."""
    running: tuple[Running, ...] = ()
    standby: bool = False
    """Gets only what no other host can prove in time."""


@dataclass
class Plan(Generic[JobT]):
    """What to do now."""

    begin: list[tuple[JobT, str]] = field(default_factory=list)
    """Jobs and the names of their hosts."""
    refuse: list[tuple[JobT, FailureKind, str]] = field(default_factory=list)
    """Jobs to answer with a failure, and why."""
    wake: float = float("inf")
    """When a waiting job is due to be refused, or to be started next to others."""


def plan(now: float, waiting: Sequence[JobT], hosts: Sequence[Host], queue_seconds: float) -> Plan[JobT]:
    """Plans for `waiting`: lost jobs first, then in order of arrival; `queue_seconds`: the longest wait."""
    made: Plan[JobT] = Plan()
    loads = [_Load(host, now) for host in hosts]
    queues: dict[str, _Candidates] = {}
    for job in sorted(waiting, key=lambda one: not one.lost):  # stable
        if job.circuit_id not in queues:
            queues[job.circuit_id] = _Candidates(job.circuit_id, loads)
        load = queues[job.circuit_id].best_for(job)
        start = load.start(job.circuit_id) if load else now
        impatient = bool(job.lost) or now >= job.queued + queue_seconds
        if load and start > now and impatient and (parallel := _in_parallel(job, queues[job.circuit_id].loads, now)):
            load, start = parallel, now
        if load and start <= now:
            load.add(job, now)
            made.begin.append((job, load.host.name))
        elif why := _refusal(job, queues[job.circuit_id].loads if load is None else None, now, queue_seconds):
            made.refuse.append((job, *why))
        else:
            due = job.deadline if job.lost else min(job.deadline, job.queued + queue_seconds)
            made.wake = min(made.wake, load.latest_start(job) if load else due, due)
            if load:
                load.add(job, start)
    return made


class _Load:
    """One host's proofs with the times at which they end: those that run, and those the plan adds."""

    def __init__(self, host: Host, now: float) -> None:
        self.host, self._now = host, now
        self._running = list(host.running)
        self._ends: list[float] = []
        """When they end, estimated from earlier proofs; ascending."""
        self._most = host.ready
        """How many proofs may run at a time, given the running ones."""
        self._earliest: list[float] = []
        """The same by the fastest proofs so far."""
        number = len(self._running)
        for one in self._running:
            pace = host.pace.get(one.circuit_id, _UNKNOWN)
            self._most = min(self._most, pace.at_a_time)
            seconds = _expected(pace, number) or _NOMINAL_SECONDS
            self._ends.append(max(one.begun + seconds, now + LEAST_LEFT * seconds))
            self._earliest.append(max(one.begun + BEST_CASE * pace.fastest, now))
        self._ends.sort()
        self._earliest.sort()

    def _lanes(self, circuit_id: str) -> int:
        """How many proofs may run at a time with one of `circuit_id` among them."""
        return min(self._most, self.host.pace.get(circuit_id, _UNKNOWN).at_a_time)

    def has_memory(self, circuit_id: str) -> bool:
        """Whether there is memory for another proof; a single one is always started: it may fit after all."""
        needed = MEMORY_MARGIN * self.host.pace.get(circuit_id, _UNKNOWN).peak_bytes
        return not self._running or needed <= self.host.free_bytes

    def start(self, circuit_id: str) -> float:
        """When another proof of this circuit could start here; infinity while no worker is warm."""
        return self._start(self._ends, circuit_id)

    def finish(self, circuit_id: str, unknown: float = 0.0) -> float:
        """When it would end, with `unknown` as the duration of a circuit never proved here."""
        seconds = _expected(self.host.pace.get(circuit_id, _UNKNOWN), self._together(circuit_id))
        return self._start(self._ends, circuit_id) + (unknown if seconds is None else seconds)

    def earliest_finish(self, circuit_id: str) -> float:
        """The same at the fastest pace so far."""
        fastest = self.host.pace.get(circuit_id, _UNKNOWN).fastest
        return self._start(self._earliest, circuit_id) + BEST_CASE * fastest

    def latest_start(self, job: Job) -> float:
        """The latest start of a proof here that can meet the deadline, judging by the fastest proof so far."""
        return job.deadline - BEST_CASE * self.host.pace.get(job.circuit_id, _UNKNOWN).fastest

    def add(self, job: Job, start: float) -> None:
        """Counts a proof that starts at `start`."""
        pace = self.host.pace.get(job.circuit_id, _UNKNOWN)
        ends = start + (_expected(pace, self._together(job.circuit_id)) or _NOMINAL_SECONDS)
        earliest = max(self._start(self._earliest, job.circuit_id), self._now) + BEST_CASE * pace.fastest
        self._most = min(self._most, pace.at_a_time)
        self._running.append(Running(job.circuit_id, start, job.deadline))
        insort(self._ends, ends)
        insort(self._earliest, earliest)

    def fits_in_parallel(self, job: Job, now: float) -> bool:
        """Whether `job` and all running proofs would meet their deadlines if it started now, even without a gain."""
        number = len(self._running) + 1
        if number > self.host.ready or not self.has_memory(job.circuit_id):
            return False
        if any(one.begun > now for one in self._running):  # promised to a job before this one
            return False
        for one in (*self._running, Running(job.circuit_id, now, job.deadline)):
            seconds = _expected(self.host.pace.get(one.circuit_id, _UNKNOWN), number)
            if seconds is None:
                return False
            left = max(LEAST_LEFT, 1 - (now - one.begun) / seconds) if seconds else 0.0
            if now + MARGIN * seconds * left >= one.deadline:
                return False
        return True

    def _together(self, circuit_id: str) -> int:
        return max(1, min(len(self._running) + 1, self._lanes(circuit_id)))

    def _start(self, ends: list[float], circuit_id: str) -> float:
        if not self.host.ready:
            return float("inf")
        if not ends:
            return self._now
        lanes = self._lanes(circuit_id) if self.has_memory(circuit_id) else 1
        return self._now if len(ends) < lanes else max(self._now, ends[len(ends) - lanes])


class _Candidates:
    """The hosts that may prove one circuit, the one that would finish first in front."""

    def __init__(self, circuit_id: str, loads: Iterable[_Load]) -> None:
        offering = [one for one in loads if one.host.circuits is None or circuit_id in one.host.circuits]
        self.loads = offering
        """All that may prove it."""
        self._usual = [one for one in offering if not one.host.standby] or offering
        self._circuit_id = circuit_id
        known = [pace.seconds[0] for one in offering if (pace := one.host.pace.get(circuit_id)) and pace.seconds]
        self._unknown = max(known, default=0.0)
        self._heap = [(self._finish(one), number) for number, one in enumerate(self._usual)]
        heapify(self._heap)

    def best_for(self, job: Job) -> _Load | None:
        """The host to prove `job`, now or when it is free; None when none can end in time, or there is none."""
        first = self._first()
        if first is None or (not job.tried and self._in_time(first, job)):
            return first
        able = [one for one in self._usual if self._in_time(one, job)]
        able = able or [one for one in self.loads if self._in_time(one, job)]
        return min(able, key=lambda one: (one.host.name in job.tried, self._finish(one)), default=None)

    def _in_time(self, load: _Load, job: Job) -> bool:
        return load.earliest_finish(self._circuit_id) < job.deadline

    def _finish(self, load: _Load) -> float:
        return load.finish(self._circuit_id, self._unknown)

    def _first(self) -> _Load | None:
        """Proofs are only added, so a host's entry may be too early, never too late."""
        while self._heap:
            noted, number = self._heap[0]
            finish = self._finish(self._usual[number])
            if finish <= noted:
                return self._usual[number]
            heapreplace(self._heap, (finish, number))
        return None


def _in_parallel(job: Job, loads: Sequence[_Load], now: float) -> _Load | None:
    fitting = [one for one in loads if one.fits_in_parallel(job, now)]
    return min(fitting, key=lambda one: (one.host.name in job.tried, one.finish(job.circuit_id)), default=None)


def _expected(pace: CircuitPace, at_a_time: int) -> float | None:
    return pace.seconds[min(at_a_time, len(pace.seconds)) - 1] if pace.seconds else None


def _refusal(job: Job, loads: Sequence[_Load] | None, now: float, queue_seconds: float) -> Refusal | None:
    """Why a job that does not start now is refused; None when it waits. `loads`: the hosts, if all are too slow."""
    left = max(0.0, job.deadline - now)
    ends = min((one.earliest_finish(job.circuit_id) for one in loads or ()), default=float("inf"))
    may_come = any(not one.host.ready for one in loads or ())  # its workers start again
    if left == 0.0 or (ends < float("inf") and not may_come):
        if job.lost:
            return lost_for_good(job.lost)
        needed = "" if ends == float("inf") else f", {ends - now:.1f} s are needed"
        return FailureKind.TIMEOUT, f"no host can prove it in time: {left:.1f} s are left{needed}"
    return None if job.lost else waited_too_long(job.queued, now, queue_seconds)
