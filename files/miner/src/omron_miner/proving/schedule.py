"""Decides which proofs start, are refused or wait: a function of time, queue, running proofs and memory.

Every worker may use all cores. How many prove at a time is learned per circuit (`pacing`), within the memory there is;
a request that would otherwise be refused for waiting too long is proved next to others if, by the pace learned, all of
them still meet their deadlines.

Pure: nothing here reads a clock, starts a process or changes its arguments, except `note_progress` (totals).
Times are `time.monotonic` seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from omron_miner.events import FailureKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omron_miner.proving.pacing import Pace

    Refusal = tuple[FailureKind, str]
    """Why a job is not proved."""

BEST_CASE = 0.9
"""A job is not started if less than this share of the fastest proof time so far is left."""
MARGIN = 1.1
"""Proofs start next to others only if all would meet their deadlines even at this many times the expected time."""
MEMORY_MARGIN = 1.2
"""Expected memory of a proof, as a multiple of the maximum of its circuit so far."""
STUCK_SECONDS = 3.0
"""A proof whose process has used no CPU for this long is stuck."""
LEAST_LEFT = 0.05
"""Minimum share of a proof that counts as remaining, however long it has run."""


@dataclass(eq=False, kw_only=True)
class Job:
    """A requested proof."""

    circuit_id: str
    deadline: float
    queued: float
    """Since when it waits, or waited before it was started."""
    lost: str = ""
    """Why the host lost its first try; empty before that. A job gets two tries."""
    tried_by: int | None = None
    """The number of the worker of its first try; another one is taken for the second if there is one."""
    concurrency_seconds: float = 0.0
    """Integral of the number of running proofs over time; divided by the duration it gives the average number."""
    done: float = 0.0
    """Share of the proof that should be done, judging by earlier proofs of the circuit."""


JobT = TypeVar("JobT", bound=Job)


@dataclass(frozen=True)
class IdleWorker:
    """A worker that could start a proof."""

    number: int
    jobs_done: int
    resident_bytes: int
    """Memory it holds, and would use again."""


@dataclass
class Plan(Generic[JobT]):
    """What to do now."""

    begin: list[tuple[JobT, int]] = field(default_factory=list)
    """Jobs and the numbers of the workers to prove them."""
    release: list[int] = field(default_factory=list)
    """Workers to stop, because a waiting job needs the memory that they hold."""
    refuse: list[tuple[JobT, FailureKind, str]] = field(default_factory=list)
    """Jobs to answer with a failure, and why."""
    wake: float = float("inf")
    """When the next waiting job is to be started next to others or refused."""


def plan(
    now: float,
    waiting: Sequence[JobT],
    running: Sequence[Job],
    idle: Sequence[IdleWorker],
    pace: Pace,
    *,
    queue_seconds: float,
    available_bytes: int,
) -> Plan[JobT]:
    """Plans for `waiting` jobs, first come first, with `queue_seconds` as the longest wait before one is refused.

    Jobs start in order; only one that would be refused next starts out of order.
    """
    made: Plan[JobT] = Plan()
    together, free, memory = list(running), list(idle), available_bytes
    blocked = False
    for job in waiting:
        refused_next = bool(job.lost) or now >= job.queued + queue_seconds
        if now < last_chance(job, pace) and (refused_next or not blocked):
            worker = _worker_for(job, free)
            if worker and _may_begin(job, now, refused_next, together, pace):
                needed = max(0, int(MEMORY_MARGIN * pace.peak_bytes(job.circuit_id)) - worker.resident_bytes)
                spare = [one for one in free if one.jobs_done and one is not worker] if needed > memory else []
                made.release += [one.number for one in spare]
                free = [one for one in free if one not in spare]
                # A job alone is always started: it may fit after all, and waiting frees nothing.
                if needed <= memory or not together:
                    made.begin.append((job, worker.number))
                    together.append(job)
                    free.remove(worker)
                    memory -= needed
                    continue
            blocked = True
        failure = _refusal(job, now, pace, queue_seconds)
        if failure:
            made.refuse.append((job, *failure))
        else:
            due = last_chance(job, pace)
            made.wake = min(made.wake, due if job.lost else min(due, job.queued + queue_seconds))
    return made


def last_chance(job: Job, pace: Pace) -> float:
    """The latest start that can meet the deadline, judging by the circuit's fastest proof so far."""
    return job.deadline - BEST_CASE * pace.fastest(job.circuit_id)


def is_worth_another_try(job: Job, now: float, idle_seconds: float, pace: Pace, start_seconds: float) -> bool:
    """Whether a running job's process, which used no CPU for `idle_seconds`, is to be abandoned for a second try.

    Only at the last moment at which a second try can be in time: a slow disk looks the same. `start_seconds` is
    how long that one would wait for a worker.
    """
    alone = pace.expected(job.circuit_id, 1)
    if job.lost or alone is None or idle_seconds < STUCK_SECONDS:
        return False
    return job.deadline - MARGIN * (alone + start_seconds) - 1.0 <= now < last_chance(job, pace) - start_seconds


def note_progress(running: Sequence[Job], pace: Pace, passed: float) -> None:
    """Accounts for the proofs that ran together for `passed` seconds; call before that set changes."""
    for job in running:
        job.concurrency_seconds += passed * len(running)
        expected = pace.expected(job.circuit_id, len(running))
        job.done += passed / expected if expected else 0.0


def _worker_for(job: Job, free: Sequence[IdleWorker]) -> IdleWorker | None:
    """The worker to prove `job`: not the one that failed it if there is another, and one whose memory suffices."""
    return max(free, key=lambda one: (one.number != job.tried_by, one.jobs_done), default=None)


def _may_begin(job: Job, now: float, refused_next: bool, running: Sequence[Job], pace: Pace) -> bool:
    """Whether `job` may run next to those that do: it pays or has waited enough, and all meet their deadlines."""
    if not running:
        return True
    at_a_time = len(running) + 1
    if not refused_next and any(pace.best(one.circuit_id) < at_a_time for one in [*running, job]):
        return False
    for one in [*running, job]:
        expected = pace.expected(one.circuit_id, at_a_time)
        if expected is None or now + MARGIN * expected * max(LEAST_LEFT, 1 - one.done) >= one.deadline:
            return False
    return True


def _refusal(job: Job, now: float, pace: Pace, queue_seconds: float) -> Refusal | None:
    """Why a job that does not start has waited too long, or would be late even at the fastest time so far."""
    if now >= last_chance(job, pace):
        if job.lost:
            return lost_for_good(job.lost)
        return FailureKind.TIMEOUT, f"no time left to prove after {now - job.queued:.1f} s in the queue"
    return None if job.lost else waited_too_long(job.queued, now, queue_seconds)


def lost_for_good(lost: str) -> Refusal:
    """The failure of a job whose prover was lost for the reason `lost`."""
    return FailureKind.WORKER_CRASHED, f"{lost}; no time was left for a retry"


def waited_too_long(queued: float, now: float, queue_seconds: float) -> Refusal | None:
    """The failure of a job that arrived at `queued` and may wait for `queue_seconds`."""
    if now < queued + queue_seconds:
        return None
    return FailureKind.QUEUE_FULL, f"no free prover within {queue_seconds:g} s"
