"""The pool of warm worker processes: proofs on the far side of the process wall, each with a deadline.

EZKL is native code that may abort its process on a bad file, and cannot be stopped while it proves. So every proof
runs in a process of its own kind: spawned (a fork of a process that has used EZKL deadlocks), warm (EZKL imported
before the first request), killed when it overruns, replaced when it dies or has made enough proofs. pebble runs each
process; this module decides which job goes to which and when, and answers for those that get none.

Every worker may use all cores. How many prove at a time is learned per circuit (`pacing`), within the memory there is;
a request that would be refused for having waited too long is rather proved beside the others, if by what was learned
all of them still meet their deadlines.

One thread, the keeper, owns all state: everybody else sends it a step to take. It also starts every worker, because a
worker is bound to the life of the thread that started it (see `isolated.die_with_parent`).

Not for: HTTP, circuits' files, or what a proof is. The face is four calls (submit, cancel, capacity, close), so that
something distributed can stand behind it without the axon's side noticing.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import deque
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pebble
import psutil

from omron_miner.circuit import FOLDER_PREFIX, ProofSystem, check_files
from omron_miner.circuit_store import CircuitStore
from omron_miner.errors import CircuitError, OmronError
from omron_miner.events import LOGGER_NAME, EventLog, FailureKind, Timings
from omron_miner.isolated import die_with_parent
from omron_miner.pacing import Pace
from omron_miner.proof_handlers import get_handler
from omron_miner.session_storage import SessionStorage
from omron_miner.verified_model_session import ProofResult, prove_verified
from omron_miner.warm_up import keep_memory, load_keys, read_through

if TYPE_CHECKING:
    from collections.abc import Callable

    from omron_miner.circuit import Inputs
    from omron_miner.constants import Constants

# Workers ignore SIGTERM, so waiting for it to work only delays the SIGKILL that follows.
pebble.CONSTS.term_timeout = 0.0

_log = logging.getLogger(LOGGER_NAME)
_TICK_SECONDS = 1.0
"""How often the keeper looks after idle workers when nothing else happens."""
_LONGEST_PAUSE_SECONDS = 30.0
"""Upper bound of the pause before another worker is tried when workers do not become ready."""
_HOPE = 0.9
"""A proof may take this share of the fastest one so far; a job with less time left than that is not begun."""
_MARGIN = 1.1
"""Proofs are begun beside others only if all would meet their deadlines though they took this many times as long."""
_MEMORY_MARGIN = 1.2
"""Memory a proof may take, in times of the most its circuit took so far."""
_MOST_AT_A_TIME = 4
"""Workers when `prover.workers` is 0, cores permitting: more would share what four fill."""
_SHARE_OF_START = 0.5
"""Of `prover.start_seconds`, after which no further key is loaded: the first request then loads it."""
_OVERDUE = 2
"""A worn worker is replaced when the pool is idle, or at the latest after this many times its proofs."""
_OOM_SCORE_ADJUSTMENT = "500"
"""Short of memory, the kernel should end a worker, which is replaced, rather than the miner."""


@dataclass(eq=False)
class _Job:
    circuit_id: str
    rows: Inputs
    deadline: float  # time.monotonic
    submitted: float = field(default_factory=time.monotonic)
    dispatched: float | None = None
    company: float = 0.0
    """Seconds times proofs that ran, this one included: over the seconds it took, how many ran on average."""
    done: float = 0.0
    """Share of the proof that should be behind it, by what proofs like it took."""
    answer: Future[ProofResult] = field(default_factory=Future)

    def fail(self, failure: FailureKind, detail: str) -> None:
        result = ProofResult(
            circuit_id=self.circuit_id,
            label="",
            proof="",
            public_signals="",
            outputs=[],
            verified=False,
            failure=failure,
            detail=detail,
            timings=Timings(queue_s=(self.dispatched or time.monotonic()) - self.submitted),
            tries=int(self.dispatched is not None),
        )
        self.answer.set_result(result)


@dataclass(eq=False)
class _Worker:
    """One process. pebble's pool of one: a worker that is killed takes nothing of the others' with it."""

    pool: pebble.ProcessPool
    begun: float = field(default_factory=time.monotonic)
    ready: bool = False
    pid: int = 0
    """0 until it is ready."""
    start_failed: bool = False
    job: _Job | None = None
    jobs_done: int = 0

    @property
    def dead(self) -> bool:
        """Its process is gone; or was, before it got ready, and pebble may have started another in its place."""
        return self.start_failed or not self.pool.active

    @property
    def idle(self) -> bool:
        return self.ready and self.job is None


class ProverPool:
    """Proves with up to `constants.prover.workers` processes; `on_worker_lost` is told why one died or was killed.

    `on_worker_lost` is called in the pool's thread and must not block. Every future that `submit` gives resolves to a
    `ProofResult`, whatever happens; it never holds an exception and cannot be cancelled but by `cancel`.
    """

    def __init__(self, constants: Constants, on_worker_lost: Callable[[str], None] | None = None) -> None:
        self._constants = constants
        self._on_worker_lost = on_worker_lost or (lambda _detail: None)
        self._storage = SessionStorage(constants.sessions)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._door = threading.Lock()
        self._open = False
        self._keeper = threading.Thread(target=self._keep, name="prover-pool", daemon=True)
        self._all_ready: Future[None] = Future()
        # The keeper's own; nobody else changes these.
        self._pending: deque[_Job] = deque()
        self._workers: list[_Worker] = []
        self._successor: _Worker | None = None
        self._pace = Pace(worker_count(constants))
        self._counted = time.monotonic()
        self._reapers: list[threading.Thread] = []
        self._failed_starts = 0
        self._next_start = 0.0
        self._next_successor = 0.0
        self._closing: float | None = None

    def start(self) -> None:
        """Starts the workers and waits until all are warm.

        Raises OmronError when one cannot be started within `prover.start_seconds`.
        """
        self._open = True
        self._keeper.start()
        try:
            self._all_ready.result(2 * self._constants.prover.start_seconds)
        except OmronError:
            self.close(0)
            raise
        except TimeoutError as error:  # the keeper itself stumbles; it logs over what
            self.close(0)
            raise OmronError("the prover did not start in time", "see the log, run omron-miner doctor") from error

    def submit(self, circuit_id: str, rows: Inputs, deadline: float) -> Future[ProofResult]:
        """Queues a proof that must be done at `deadline` (`time.monotonic` seconds). Returns at once.

        `rows` are inputs that passed `circuit.validate_inputs`.

        The result's `failure` is QUEUE_FULL when no worker got free within `deadlines.external_queue_seconds`, TIMEOUT
        when the deadline passed or cannot be met any more, WORKER_CRASHED, CANCELLED, STOPPING, or whatever
        `prove_verified` found. `timings.queue_s` is the wait for a worker; `label` is empty when no worker took it.
        """
        job = _Job(circuit_id, rows, deadline)
        job.answer.set_running_or_notify_cancel()
        if not self._tell(partial(self._take_in, job)):
            job.fail(FailureKind.STOPPING, "the miner is stopping")
        return job.answer

    def cancel(self, answer: Future[ProofResult]) -> None:
        """Gives up a job: its future resolves to CANCELLED, its worker is killed and replaced. Returns at once."""
        self._tell(partial(self._cancel, answer))

    def capacity(self) -> dict[str, int]:
        """How many workers there should be, are warm, are proving, and how many jobs wait. A snapshot; never blocks."""
        workers = list(self._workers)
        return {
            "workers": worker_count(self._constants),
            "ready": sum(worker.ready for worker in workers),
            "proving": sum(worker.job is not None for worker in workers),
            "queued": len(self._pending),
        }

    def close(self, grace_seconds: float) -> None:
        """Takes no more jobs, gives those it has `grace_seconds`, answers the rest STOPPING, ends the workers."""
        if self._tell(partial(self._begin_closing, time.monotonic() + grace_seconds)):
            self._keeper.join()

    # From here on everything runs in the keeper's thread, except where said otherwise.

    def _tell(self, step: Callable[[], None]) -> bool:
        """Hands the keeper a step to take. Any thread. False when the pool is not open."""
        with self._door:
            if self._open:
                self._inbox.put(step)
            return self._open

    def _keep(self) -> None:
        while not self._closed():
            try:
                self._tend()
                with suppress(queue.Empty):
                    self._inbox.get(timeout=self._pause())()
            except Exception:  # a bug must not leave every later request without an answer
                _log.exception("the prover pool stumbled")
                time.sleep(_TICK_SECONDS)
        self._shut()

    def _closed(self) -> bool:
        if self._closing is None:
            return False
        busy = self._pending or any(worker.job for worker in self._workers)
        return not busy or time.monotonic() >= self._closing

    def _shut(self) -> None:
        with self._door:
            self._open = False
        while not self._inbox.empty():  # submitted before the door closed
            self._inbox.get()()
        for worker in [*self._workers, *filter(None, [self._successor])]:
            if worker.job:
                worker.job.fail(FailureKind.STOPPING, "the miner stopped before the proof was done")
                worker.job = None
            self._end(worker)
        while self._pending:
            self._pending.popleft().fail(FailureKind.STOPPING, "the miner stopped before the proof was begun")
        self._workers, self._successor = [], None
        for reaper in self._reapers:
            reaper.join()
        if not self._all_ready.done():
            self._all_ready.set_exception(OmronError("the prover was closed while it started"))

    def _tend(self) -> None:
        """Brings everything up to date: dead and slow workers, the queue's deadlines, free workers, new workers."""
        now = time.monotonic()
        for worker in list(self._workers):
            self._check(worker, now)
        self._hand_over()
        self._begin_what_may(now)
        for job in list(self._pending):
            self._expire(job, now)
        if self._closing is None and now >= self._next_start:
            self._keep_up_numbers()

    def _check(self, worker: _Worker, now: float) -> None:
        job = worker.job
        if job and now >= job.deadline:
            budget = job.deadline - job.submitted
            self._lose(worker, FailureKind.TIMEOUT, f"not proved within {budget:.1f} s; its worker was stopped")
        elif worker.dead:
            detail = "a worker died" if worker.ready else "a worker did not start: see its error output"
            self._lose(worker, FailureKind.WORKER_CRASHED, detail)
        elif not worker.ready and now >= worker.begun + self._constants.prover.start_seconds:
            seconds = self._constants.prover.start_seconds
            self._lose(worker, FailureKind.WORKER_CRASHED, f"a worker was not ready within {seconds:.0f} s")

    def _expire(self, job: _Job, now: float) -> None:
        """Answers a waiting job that has waited too long, or that even the fastest proof so far would not save."""
        longest = self._constants.deadlines.external_queue_seconds
        if now >= self._last_chance(job):
            self._pending.remove(job)
            job.fail(FailureKind.TIMEOUT, f"no time left to prove after {now - job.submitted:.1f} s in the queue")
        elif now >= job.submitted + longest:
            self._pending.remove(job)
            job.fail(FailureKind.QUEUE_FULL, f"no free prover within {longest:g} s")

    def _last_chance(self, job: _Job) -> float:
        """When proving must have begun for its deadline to be met, going by the circuit's fastest proof so far."""
        return job.deadline - _HOPE * self._pace.fastest(job.circuit_id)

    def _begin_what_may(self, now: float) -> None:
        """Begins waiting jobs in their order; out of it only one that would be refused next."""
        self._count(now)
        blocked = False
        for job in list(self._pending):
            refused_next = now >= job.submitted + self._constants.deadlines.external_queue_seconds
            if (blocked and not refused_next) or now >= self._last_chance(job):
                continue
            idle = [worker for worker in self._workers if worker.idle]
            if idle and self._may_begin(job, now, refused_next):
                worker = max(idle, key=lambda one: one.jobs_done)  # its memory is there already
                if self._has_memory(job, worker):
                    self._pending.remove(job)
                    self._dispatch(job, worker)
                    continue
            blocked = True

    def _may_begin(self, job: _Job, now: float, refused_next: bool) -> bool:
        """Whether `job` may run beside those that do: it pays or has waited enough, and all meet their deadlines."""
        running = self._running()
        if not running:
            return True
        at_a_time = len(running) + 1
        if not refused_next and any(self._pace.best(one.circuit_id) < at_a_time for one in [*running, job]):
            return False
        for one in [*running, job]:
            expected = self._pace.expected(one.circuit_id, at_a_time)
            if expected is None or now + _MARGIN * expected * max(0.05, 1 - one.done) >= one.deadline:
                return False
        return True

    def _has_memory(self, job: _Job, worker: _Worker) -> bool:
        """Whether `worker` can prove `job` in the memory there is; idle workers that hold too much of it are replaced.

        A job alone is always begun: it may fit after all, and waiting frees nothing.
        """
        needed = _MEMORY_MARGIN * self._pace.peak_bytes(job.circuit_id) - _resident(worker.pid)
        if needed <= psutil.virtual_memory().available:
            return True
        for other in list(self._workers):
            if other.idle and other.jobs_done and other is not worker:
                self._workers.remove(other)
                self._end(other)
        return not self._running()

    def _running(self) -> list[_Job]:
        return [worker.job for worker in self._workers if worker.job]

    def _count(self, now: float) -> None:
        """Adds up who ran beside whom since it was last called; call before that changes."""
        passed, self._counted = now - self._counted, now
        running = self._running()
        for job in running:
            job.company += passed * len(running)
            expected = self._pace.expected(job.circuit_id, len(running))
            job.done += passed / expected if expected else 0.0

    def _dispatch(self, job: _Job, worker: _Worker) -> None:
        try:
            task = worker.pool.schedule(_prove, (job.circuit_id, job.rows, job.deadline))
        except RuntimeError:  # it died since we looked
            self._pending.appendleft(job)
            self._lose(worker, FailureKind.WORKER_CRASHED, "a worker died")
            return
        worker.job, job.dispatched = job, time.monotonic()
        task.add_done_callback(lambda done: self._tell(partial(self._finish, worker, job, done)))

    def _finish(self, worker: _Worker, job: _Job, done: Future[ProofResult]) -> None:
        if worker.job is not job:
            return  # already answered: killed or cancelled
        error = done.exception()
        if isinstance(error, (pebble.ProcessExpired, BrokenProcessPool)):
            code = getattr(error, "exitcode", "unknown")
            doing = self._storage.last_step(worker.pid) or "proving"
            threading.Thread(target=self._find_spoilt_file, args=(job.circuit_id,), daemon=True).start()
            self._lose(worker, FailureKind.WORKER_CRASHED, f"the worker died (exit code {code}) while {doing}")
            return
        self._count(time.monotonic())
        worker.job = None
        worker.jobs_done += 1
        if error:  # a bug: prove_verified does not raise for what a request can cause
            job.fail(FailureKind.INTERNAL_ERROR, f"{type(error).__name__}: {error}")
            return
        result, waited = done.result(), (job.dispatched or job.submitted) - job.submitted
        if result.verified and result.tries == 1:
            seconds = time.monotonic() - job.submitted - waited
            self._pace.note(job.circuit_id, job.company / max(seconds, 1e-9), seconds, result.peak_memory_bytes)
        job.answer.set_result(replace(result, timings=replace(result.timings, queue_s=waited)))

    def _take_in(self, job: _Job) -> None:
        if self._closing is not None:
            job.fail(FailureKind.STOPPING, "the miner is stopping")
        else:
            self._pending.append(job)

    def _cancel(self, answer: Future[ProofResult]) -> None:
        for job in self._pending:
            if job.answer is answer:
                self._pending.remove(job)
                job.fail(FailureKind.CANCELLED, "the caller went away while the request waited")
                return
        for worker in self._workers:
            if worker.job and worker.job.answer is answer:
                self._lose(worker, FailureKind.CANCELLED, "the caller went away; its worker was stopped")
                return

    def _lose(self, worker: _Worker, failure: FailureKind, detail: str) -> None:
        """Ends a worker, answers the job it may have with `failure`, makes way for another worker."""
        self._count(time.monotonic())
        self._workers.remove(worker)
        self._end(worker)
        if worker.job:
            worker.job.fail(failure, detail)
            worker.job = None
        if failure is not FailureKind.CANCELLED:
            self._on_worker_lost(detail)
        if not worker.ready:
            self._failed_starts = min(self._failed_starts + 1, 10)
            self._next_start = time.monotonic() + min(2.0**self._failed_starts, _LONGEST_PAUSE_SECONDS)
            if not self._all_ready.done():
                self._all_ready.set_exception(
                    OmronError(f"the prover did not start: {detail}", "run omron-miner doctor")
                )

    def _end(self, worker: _Worker) -> None:
        """Kills the process and clears up after it, in a thread: pebble takes up to 0.2 s for it."""
        worker.pool.stop()
        reaper = threading.Thread(target=self._reap, args=(worker.pool,), name="prover-reaper", daemon=True)
        reaper.start()
        self._reapers = [*(one for one in self._reapers if one.is_alive()), reaper]

    def _reap(self, pool: pebble.ProcessPool) -> None:
        """In a thread of its own: no worker may be started here."""
        pool.join()
        self._storage.sweep()

    def _find_spoilt_file(self, circuit_id: str) -> None:
        """Says in the log which of a circuit's files is not what it was. In a thread of its own: keys are large."""
        try:
            check_files(self._constants.circuits.directory / f"{FOLDER_PREFIX}{circuit_id}")
        except (CircuitError, OSError) as error:
            _log.error("A worker died over %s", error)

    def _keep_up_numbers(self) -> None:
        """Starts a missing worker, or a worn one's successor, which warms up while the worn one goes on proving.

        A start costs a second or so of a core, so it waits for a moment without a job, but not for ever.
        """
        wanted, limit = worker_count(self._constants), self._constants.prover.recycle_after_tasks
        while len(self._workers) < wanted:
            self._workers.append(self._start_worker())
        if self._pending or self._running():
            limit *= _OVERDUE
        worn = any(worker.jobs_done >= limit for worker in self._workers)
        if worn and self._successor is None and time.monotonic() >= self._next_successor:
            self._successor = self._start_worker()

    def _hand_over(self) -> None:
        """Lets the successor take the place of a worn worker between two jobs; a successor that failed is dropped."""
        successor, limit = self._successor, self._constants.prover.recycle_after_tasks
        if successor is None:
            return
        overdue = time.monotonic() >= successor.begun + self._constants.prover.start_seconds
        if successor.dead or (overdue and not successor.ready):
            self._end(successor)
            self._successor, self._next_successor = None, time.monotonic() + _LONGEST_PAUSE_SECONDS
            self._on_worker_lost("a successor did not start; the worn worker goes on")
            return
        worn = [worker for worker in self._workers if worker.idle and worker.jobs_done >= limit]
        if successor.ready and worn:
            self._workers[self._workers.index(worn[0])] = successor
            self._successor = None
            self._end(worn[0])

    def _start_worker(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        pool = pebble.ProcessPool(1, 0, _warm_up, (self._constants, os.getpid()), context)
        worker = _Worker(pool)
        pool.schedule(os.getpid).add_done_callback(lambda done: self._tell(partial(self._welcome, worker, done)))
        return worker

    def _welcome(self, worker: _Worker, done: Future[int]) -> None:
        if done.exception() is not None:
            worker.start_failed = True
            return
        worker.ready, worker.pid = True, done.result()
        self._failed_starts = 0
        if not self._all_ready.done() and self.capacity()["ready"] == worker_count(self._constants):
            self._all_ready.set_result(None)

    def _begin_closing(self, until: float) -> None:
        self._closing = until

    def _pause(self) -> float:
        """Seconds until something is due. A finished job or a new one wakes the keeper at once."""
        now = time.monotonic()
        due = [now + _TICK_SECONDS, *(worker.job.deadline for worker in self._workers if worker.job)]
        for job in self._pending:
            due.append(job.submitted + self._constants.deadlines.external_queue_seconds)
            due.append(self._last_chance(job))
        if self._closing is not None:
            due.append(self._closing)
        return max(0.0, min(due) - now)


# What runs in the worker process.


@dataclass(frozen=True)
class _Bench:
    """What a worker keeps between jobs."""

    constants: Constants
    store: CircuitStore
    storage: SessionStorage


_bench: _Bench | None = None


def _warm_up(constants: Constants, parent: int) -> None:
    """Makes the process ready: whatever a first request would otherwise wait for. Order matters, see the comments."""
    global _bench
    die_with_parent(parent)
    for number in (signal.SIGINT, signal.SIGTERM):  # pm2 and Ctrl-C signal the whole tree; the miner decides
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):  # not allowed in some containers
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE_ADJUSTMENT, encoding="ascii")
    keep_memory()
    # EZKL and its thread pool read these once, when they are first used.
    os.environ["EZKL_REPO_PATH"] = str(constants.circuits.ezkl_directory)
    os.environ["RAYON_NUM_THREADS"] = str(threads_per_worker(constants))
    with suppress(OSError):  # a worker without a log still proves
        EventLog(constants.log)
    get_handler(ProofSystem.EZKL)  # loads EZKL: the slow part, here rather than in the first request
    _bench = _Bench(constants, CircuitStore(constants.circuits), SessionStorage(constants.sessions))
    usable = _bench.store.usable()
    read_through(usable, constants.circuits.srs_directory)
    load_keys(usable, _SHARE_OF_START * constants.prover.start_seconds)


def worker_count(constants: Constants) -> int:
    """Worker processes: as configured, or as many as there are cores for, at most four."""
    return constants.prover.workers or min(len(os.sched_getaffinity(0)), _MOST_AT_A_TIME)


def threads_per_worker(constants: Constants) -> int:
    """Threads each worker proves with: as configured, or all cores we may use."""
    return constants.prover.threads_per_worker or len(os.sched_getaffinity(0))


def _resident(pid: int) -> int:
    """Bytes of memory the process holds; 0 when it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _prove(circuit_id: str, rows: Inputs, deadline: float) -> ProofResult:
    """One job. `deadline` is the parent's `time.monotonic`, which is the same clock in every process on Linux."""
    if _bench is None:
        raise RuntimeError("the worker was not warmed up")
    constants = _bench.constants
    circuit = _bench.store.get(circuit_id)
    return prove_verified(
        circuit,
        rows,
        _bench.storage,
        constants.circuits.srs_directory,
        verify_retries=constants.prover.verify_retries,
        deadline=deadline,
        compact=constants.prover.compact_proofs,
    )
