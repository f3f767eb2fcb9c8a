"""The pool of warm worker processes: proofs in separate processes, each with a deadline.

EZKL is native code that may abort its process on a bad file, and cannot be stopped while it proves. So every proof
runs in a separate process: a new one (a fork of a process that has used EZKL deadlocks), warm (EZKL imported
before the first request), killed when it overruns, replaced when it dies or has made enough proofs.

    axon's threads         the keeper's thread             a thread per worker       its process
    submit, cancel  ──> inbox ──> tick:                    (isolated.Child)
                                   schedule.plan(...) ──> tasks ──────────────────> warm_up, then
    future <───────────────────── answer <── inbox <───── answer or loss <───────── prove, prove, ...
                                   pace, circuit_breaker

The keeper owns all state; other threads send it steps to take, and it waits only for the inbox. `schedule` decides
which job starts, is refused or waits; `pacing` learns how long proofs take. A job whose worker is lost, or hangs, or
whose host failed it, is tried once more on another worker while there is time; a circuit that keeps losing workers is
suspended (`circuit_breaker`).

A worker and its job are in `worker`, what its process does in `worker_process`.
Not for: HTTP, circuits' files, or what a proof is. The interface is four calls (submit, cancel, capacity, close);
`provers.multi_host_pool` offers the same for several hosts, each with such a pool.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Protocol

from omron_miner.backoff import pause_after
from omron_miner.circuits.checksums import check_files, fingerprint
from omron_miner.circuits.circuit import circuit_folder
from omron_miner.errors import CircuitError, OmronError, first_line
from omron_miner.events import LOGGER_NAME, FailureKind
from omron_miner.host import read_memory
from omron_miner.proving import schedule
from omron_miner.proving.circuit_breaker import CircuitBreaker
from omron_miner.proving.isolated import Child, ProcessLostError
from omron_miner.proving.pacing import CircuitPace, Pace
from omron_miner.proving.session_storage import SessionStorage
from omron_miner.proving.worker import WantedProof, Worker
from omron_miner.proving.worker_process import Work, prove, warm_up

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from omron_miner.circuits.inputs import Inputs
    from omron_miner.constants import Constants
    from omron_miner.proving.verified_model_session import ProofResult

_log = logging.getLogger(LOGGER_NAME)
_TICK_SECONDS = 1.0
"""How often the keeper checks its workers when nothing else happens."""
_LONGEST_PAUSE_SECONDS = 30.0
"""Upper bound of the pause before another worker is tried when workers do not become ready."""
_MOST_AT_A_TIME = 4
"""Workers when `prover.workers` is 0, cores permitting: more would share what four fill."""
_OVERDUE = 2
"""A worker due for recycling is replaced when the pool is idle, or at the latest after this many times its proofs."""
_LOOK_SECONDS = 2.0
"""How often the files of a suspended circuit are checked."""
_GONE_SECONDS = 5.0
"""How long a close waits for killed processes to exit."""


@dataclass(frozen=True)
class PoolState:
    """A pool's free capacity and measured pace, for the code that places proofs on several hosts."""

    ready: int
    """Warm workers."""
    free_bytes: int
    """Memory that another proof could use: what is available, and what idle workers hold."""
    pace: dict[str, CircuitPace]


class Pool(Protocol):
    """The pool interface that the axon uses; see `ProverPool`."""

    def start(self) -> None:
        """Starts it and waits until it can prove. Raises OmronError."""

    def submit(self, circuit_id: str, rows: Inputs, deadline: float) -> Future[ProofResult]:
        """Queues a proof that must be done at `deadline` (`time.monotonic` seconds). Returns immediately."""

    def cancel(self, answer: Future[ProofResult]) -> None:
        """Cancels a job. Returns immediately."""

    def capacity(self) -> dict[str, int]:
        """How many workers there should be, are warm, are proving, and how many jobs wait. Never blocks."""

    def close(self, grace_seconds: float) -> None:
        """Takes no more jobs, gives those it has `grace_seconds`, stops."""


class ProverPool:
    """Proves with up to `constants.prover.workers` processes; calls `on_worker_lost` with the reason when one dies.

    `on_worker_lost` is called in the pool's thread and must not block. Every future that `submit` gives resolves to a
    `ProofResult`, whatever happens; it never holds an exception and cannot be cancelled but by `cancel`.
    """

    def __init__(
        self,
        constants: Constants,
        on_worker_lost: Callable[[str], None] | None = None,
        work: Work | None = None,
        second_try: bool = True,
    ) -> None:
        """`work` is what the processes do: real proofs by default. Starts nothing yet.

        Without `second_try` a job that the host failed is answered immediately: its owner tries it on another host.
        """
        self._second_try = second_try
        self._constants = constants
        self._on_worker_lost = on_worker_lost or (lambda _detail: None)
        self._work = work or Work(warm_up, prove)
        self._storage = SessionStorage(constants.sessions)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open = False
        self._keeper = threading.Thread(target=self._keep, name="prover-pool", daemon=True)
        self._all_ready: Future[None] = Future()
        # Only the keeper changes these.
        self._pending: deque[WantedProof] = deque()
        self._workers: list[Worker] = []
        self._successor: Worker | None = None
        self._leaving: list[Worker] = []
        self._numbers = count()
        self._pace = Pace(worker_count(constants))
        self._breaker = CircuitBreaker()
        self._watcher: threading.Thread | None = None
        self._counted = time.monotonic()
        self._wake = 0.0
        self._start_seconds = 0.0  # how long the last start took
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
        except FutureTimeoutError as error:  # the keeper itself fails; it logs the reason
            self.close(0)
            raise OmronError("the prover did not start in time", "see the log, run omron-miner doctor") from error

    def submit(self, circuit_id: str, rows: Inputs, deadline: float) -> Future[ProofResult]:
        """Queues a proof that must be done at `deadline` (`time.monotonic` seconds). Returns immediately.

        `rows` are inputs that passed `circuit.validate_inputs`.

        The result's `failure` is QUEUE_FULL when no worker got free within `deadlines.external_queue_seconds`, TIMEOUT
        when the deadline passed or cannot be met any more, WORKER_CRASHED (twice, or without time for another try, or
        so often that the circuit is suspended), CANCELLED, STOPPING, or whatever `prove_verified` found.
        `timings.queue_s` is the wait for a worker; `label` is empty when no worker took it.
        """
        job = WantedProof(circuit_id=circuit_id, rows=rows, deadline=deadline)
        job.answer.set_running_or_notify_cancel()
        if not self._post(partial(self._enqueue, job)):
            job.fail(FailureKind.STOPPING, "the miner is stopping")
        return job.answer

    def cancel(self, answer: Future[ProofResult]) -> None:
        """Cancels a job: its future resolves to CANCELLED, its worker is killed and replaced. Returns immediately."""
        self._post(partial(self._cancel, answer))

    def capacity(self) -> dict[str, int]:
        """How many workers there should be, are warm, are proving, and how many jobs wait. A snapshot; never blocks."""
        workers = list(self._workers)
        return {
            "workers": worker_count(self._constants),
            "ready": sum(worker.ready for worker in workers),
            "proving": sum(worker.job is not None for worker in workers),
            "queued": len(self._pending),
        }

    def state(self) -> Future[PoolState]:
        """The pool's free capacity and measured pace; an OmronError when the pool is not open."""
        answer: Future[PoolState] = Future()
        answer.set_running_or_notify_cancel()
        if not self._post(lambda: answer.set_result(self._state())):
            answer.set_exception(OmronError("the prover pool is closed"))
        return answer

    def close(self, grace_seconds: float) -> None:
        """Takes no more jobs, gives those it has `grace_seconds`, answers the rest STOPPING, stops the workers."""
        if self._post(partial(self._begin_closing, time.monotonic() + grace_seconds)):
            self._keeper.join()

    # From here on everything runs in the keeper's thread, except where noted.

    def _post(self, step: Callable[[], None]) -> bool:
        """Hands the keeper a step to take. Any thread. False when the pool is not open."""
        with self._lock:
            if self._open:
                self._inbox.put(step)
            return self._open

    def _keep(self) -> None:
        while not self._closed():
            pause = self._pause() if self._take(self._tick) else _TICK_SECONDS
            with suppress(queue.Empty):
                self._take(self._inbox.get(timeout=pause))
        self._shut()

    def _take(self, step: Callable[[], None]) -> bool:
        """Takes a step. A bug in one must neither kill this thread nor leave later requests unanswered."""
        try:
            step()
        except Exception:
            with suppress(Exception):
                _log.exception("unexpected error in the prover pool")
            return False
        return True

    def _closed(self) -> bool:
        if self._closing is None:
            return False
        busy = self._pending or any(worker.job for worker in self._workers)
        return not busy or time.monotonic() >= self._closing

    def _shut(self) -> None:
        with self._lock:
            self._open = False
        while not self._inbox.empty():  # submitted before it closed
            self._take(self._inbox.get())
        for worker in [*self._workers, *filter(None, [self._successor])]:
            if worker.job:
                worker.job.fail(FailureKind.STOPPING, "the miner stopped before the proof was done")
                worker.job = None
            self._end(worker)
        while self._pending:
            self._pending.popleft().fail(FailureKind.STOPPING, "the miner stopped before the proof was started")
        self._workers, self._successor = [], None
        until = time.monotonic() + _GONE_SECONDS
        for worker in self._leaving:
            if worker.thread:
                worker.thread.join(max(0.0, until - time.monotonic()))
        if not self._all_ready.done():
            self._all_ready.set_exception(OmronError("the prover was closed while it started"))

    def _tick(self) -> None:
        """Brings everything up to date: dead and slow workers, the queue's deadlines, free workers, new workers."""
        now = time.monotonic()
        for worker in list(self._workers):
            self._check(worker, now)
        self._hand_over()
        self._follow_plan(now)
        self._keep_watch()
        if self._closing is None and now >= self._next_start:
            self._keep_up_numbers()

    def _check(self, worker: Worker, now: float) -> None:
        job = worker.job
        if job and now >= job.deadline:
            budget = job.deadline - job.submitted
            self._lose(worker, FailureKind.TIMEOUT, f"not proved within {budget:.1f} s; its worker was stopped")
        elif job and self._is_worth_another_try(worker, job, now):
            seconds = now - worker.progressed
            self._lose(worker, FailureKind.WORKER_CRASHED, f"the worker hung: it used no CPU for {seconds:.0f} s")
        elif worker.dead():
            self._lose(worker, FailureKind.WORKER_CRASHED, "a worker died while it was idle")
        elif not worker.ready and now >= worker.begun + self._constants.prover.start_seconds:
            seconds = self._constants.prover.start_seconds
            self._lose(worker, FailureKind.WORKER_CRASHED, f"a worker was not ready within {seconds:.0f} s")

    def _is_worth_another_try(self, worker: Worker, job: WantedProof, now: float) -> bool:
        start_seconds = 0.0 if any(one.idle for one in self._workers) else self._start_seconds
        return schedule.is_worth_another_try(job, now, worker.idle_seconds(now), self._pace, start_seconds)

    def _follow_plan(self, now: float) -> None:
        """Starts and refuses jobs and frees memory according to the schedule."""
        self._count(now)
        self._wake = now + _TICK_SECONDS
        if not self._pending:
            return
        idle = [worker for worker in self._workers if worker.idle]
        plan = schedule.plan(
            now,
            list(self._pending),
            self._running(),
            [schedule.IdleWorker(one.number, one.jobs_done, one.resident_bytes()) for one in idle],
            self._pace,
            queue_seconds=self._constants.deadlines.external_queue_seconds,
            available_bytes=read_memory().available_bytes,
        )
        self._wake = plan.wake
        workers = {worker.number: worker for worker in idle}
        for job, failure, detail in plan.refuse:
            self._pending.remove(job)
            job.fail(failure, detail)
        for number in plan.release:
            self._workers.remove(workers[number])
            self._end(workers[number])
        for job, number in plan.begin:
            if workers[number].dead():  # the job keeps its place: nothing was tried
                self._lose(workers[number], FailureKind.WORKER_CRASHED, "a worker died while it was idle")
                self._wake = now
            else:
                self._begin(job, workers[number])

    def _state(self) -> PoolState:
        held = sum(worker.resident_bytes() for worker in self._workers if worker.idle)
        ready = sum(worker.ready for worker in self._workers)
        return PoolState(ready, read_memory().available_bytes + held, self._pace.of_circuits())

    def _running(self) -> list[WantedProof]:
        return [worker.job for worker in self._workers if worker.job]

    def _count(self, now: float) -> None:
        """Accounts for the proofs that ran together since the last call; call before that set changes."""
        passed, self._counted = now - self._counted, now
        schedule.note_progress(self._running(), self._pace, passed)

    def _begin(self, job: WantedProof, worker: Worker) -> None:
        self._pending.remove(job)
        job.begin(worker.number)
        worker.job, worker.progressed = job, time.monotonic()
        worker.tasks.put(job)

    def _finish(self, worker: Worker, job: WantedProof, outcome: ProofResult | Exception) -> None:
        if worker.job is not job:
            return  # already answered: killed or cancelled
        self._count(time.monotonic())
        worker.job = None
        worker.jobs_done += 1
        if self._breaker.reset(job.circuit_id):
            _log.warning("Circuit %s resumed: a proof succeeded", job.circuit_id)
        if isinstance(outcome, OmronError):  # the circuit was removed or damaged since the request was admitted
            job.fail(FailureKind.INTERNAL_ERROR, f"{type(outcome).__name__}: {outcome}")
            return
        if isinstance(outcome, Exception):  # a bug: prove_verified does not raise for a fault of the request
            _log.error("proving %s failed: %s", job.circuit_id, outcome)
            self._retry_or_fail(job, FailureKind.INTERNAL_ERROR, first_line(outcome))
            return
        if outcome.failure is FailureKind.INTERNAL_ERROR and not job.lost:
            self._retry_or_fail(job, FailureKind.INTERNAL_ERROR, outcome.detail)
            return
        if outcome.verified and outcome.tries == 1 and job.dispatched:
            seconds = time.monotonic() - job.dispatched
            at_a_time = job.concurrency_seconds / max(seconds, 1e-9)
            self._pace.note(job.circuit_id, at_a_time, seconds, outcome.peak_memory_bytes)
        timings = replace(outcome.timings, queue_s=job.waited)
        job.answer.set_result(replace(outcome, timings=timings, tries=outcome.tries + job.tries - 1))

    def _enqueue(self, job: WantedProof) -> None:
        if self._closing is not None:
            job.fail(FailureKind.STOPPING, "the miner is stopping")
        elif (seconds := self._breaker.remaining_seconds(job.circuit_id, time.monotonic())) is not None:
            job.fail(FailureKind.WORKER_CRASHED, f"the circuit is suspended for another {seconds:.0f} s")
        else:
            self._pending.append(job)

    def _cancel(self, answer: Future[ProofResult]) -> None:
        for job in self._pending:
            if job.answer is answer:
                self._pending.remove(job)
                job.fail(FailureKind.CANCELLED, "the caller disconnected while the request was queued")
                return
        for worker in self._workers:
            if worker.job and worker.job.answer is answer:
                self._lose(worker, FailureKind.CANCELLED, "the caller disconnected; its worker was stopped")
                return

    # --- workers that are lost ----------------------------------------------------------------------------------------

    def _lose(self, worker: Worker, failure: FailureKind, detail: str) -> None:
        """Stops a worker, handles the job it may have, and frees its slot."""
        self._count(time.monotonic())
        self._workers.remove(worker)
        self._end(worker)
        job, worker.job = worker.job, None
        if job and failure is FailureKind.WORKER_CRASHED:
            self._note_loss(job, detail)
        elif job:
            job.fail(failure, detail)
        if failure is not FailureKind.CANCELLED:
            self._say_lost(detail)
        if not worker.ready:
            self._failed_starts += 1
            self._next_start = time.monotonic() + pause_after(self._failed_starts, 2.0, _LONGEST_PAUSE_SECONDS)
            if not self._all_ready.done():
                self._all_ready.set_exception(
                    OmronError(f"the prover did not start: {detail}", "run omron-miner doctor")
                )

    def _note_loss(self, job: WantedProof, detail: str) -> None:
        """Retries a job whose worker was lost, unless its circuit has lost too many."""
        circuit_id, now = job.circuit_id, time.monotonic()
        if not self._breaker.record_failure(circuit_id, now):
            self._retry_or_fail(job, FailureKind.WORKER_CRASHED, detail)
            return
        job.fail(FailureKind.WORKER_CRASHED, detail)
        seconds = self._breaker.remaining_seconds(circuit_id, now) or 0.0
        why = f"suspended for {seconds:.0f} s or until its files change, because its proofs keep killing workers"
        _log.error("Circuit %s: %s. Last: %s", circuit_id, why, detail)
        for other in [one for one in self._pending if one.circuit_id == circuit_id]:
            self._pending.remove(other)
            other.fail(FailureKind.WORKER_CRASHED, f"the circuit is suspended for {seconds:.0f} s")

    def _retry_or_fail(self, job: WantedProof, failure: FailureKind, detail: str) -> None:
        """Puts a job that the host failed at the head of the queue, once; the schedule knows whether there is time."""
        if job.lost or not self._second_try:
            job.fail(failure, detail)
            if failure is FailureKind.WORKER_CRASHED:
                threading.Thread(target=self._find_spoilt_file, args=(job.circuit_id,), daemon=True).start()
            return
        _log.warning("Retrying a proof of %s: %s", job.circuit_id, detail)
        job.wait_again(detail)
        self._pending.appendleft(job)

    def _gone(self, worker: Worker, detail: str) -> None:
        """A worker's thread reports that its process has exited."""
        if worker is self._successor:
            self._drop_successor(detail)
        elif worker in self._workers:
            self._lose(worker, FailureKind.WORKER_CRASHED, detail)

    def _say_lost(self, detail: str) -> None:
        try:
            self._on_worker_lost(detail)
        except Exception:
            with suppress(Exception):
                _log.exception("the loss of a worker could not be reported: %s", detail)

    def _end(self, worker: Worker) -> None:
        """Kills the process; its thread cleans up after it."""
        worker.end()
        alive = [one for one in self._leaving if one.thread and one.thread.is_alive()]
        self._leaving = [*alive, worker]

    def _find_spoilt_file(self, circuit_id: str) -> None:
        """Logs which of a circuit's files has changed. In a separate thread: keys are large."""
        try:
            check_files(self._folder(circuit_id))
        except (CircuitError, OSError) as error:
            _log.error("A worker died because of %s", error)

    def _folder(self, circuit_id: str) -> Path:
        return circuit_folder(self._constants.circuits.directory, circuit_id)

    def _keep_watch(self) -> None:
        """Resumes suspended circuits when their files change, which a thread checks: a disk may hang."""
        if self._breaker.circuits and not (self._watcher and self._watcher.is_alive()):
            self._watcher = threading.Thread(target=self._watch_files, name="prover-watch", daemon=True)
            self._watcher.start()

    def _watch_files(self) -> None:
        """In a separate thread, which ends when no circuit is suspended."""
        seen: dict[str, object] = {}
        while self._open and (circuits := self._breaker.circuits):
            for circuit_id in circuits:
                files = self._files(circuit_id)
                if seen.setdefault(circuit_id, files) != files:
                    del seen[circuit_id]
                    self._post(partial(self._readmit, circuit_id))
            time.sleep(_LOOK_SECONDS)

    def _files(self, circuit_id: str) -> object:
        try:
            return fingerprint(self._folder(circuit_id))
        except OSError:
            return None

    def _readmit(self, circuit_id: str) -> None:
        if self._breaker.reset(circuit_id):
            _log.warning("Circuit %s resumed: its files changed", circuit_id)

    # --- workers that start -------------------------------------------------------------------------------------------

    def _keep_up_numbers(self) -> None:
        """Starts a missing worker, or the replacement of one due for recycling, which keeps proving meanwhile.

        A start costs about a second of a core, so it waits for a moment without a job, but not indefinitely.
        """
        wanted, limit = worker_count(self._constants), self._constants.prover.recycle_after_tasks
        while len(self._workers) < wanted:
            self._workers.append(self._start_worker())
        if self._pending or self._running():
            limit *= _OVERDUE
        due = any(worker.jobs_done >= limit for worker in self._workers)
        if due and self._successor is None and time.monotonic() >= self._next_successor:
            self._successor = self._start_worker()

    def _hand_over(self) -> None:
        """Swaps in the replacement of a worker between two jobs; a replacement that failed is dropped."""
        successor, limit = self._successor, self._constants.prover.recycle_after_tasks
        if successor is None:
            return
        overdue = time.monotonic() >= successor.begun + self._constants.prover.start_seconds
        if successor.dead() or (overdue and not successor.ready):
            self._drop_successor("it was not ready in time" if overdue else "it died")
            return
        due = [worker for worker in self._workers if worker.idle and worker.jobs_done >= limit]
        if successor.ready and due:
            self._workers[self._workers.index(due[0])] = successor
            self._successor = None
            self._end(due[0])

    def _drop_successor(self, detail: str) -> None:
        if self._successor:
            self._end(self._successor)
        self._successor, self._next_successor = None, time.monotonic() + _LONGEST_PAUSE_SECONDS
        self._say_lost(f"a replacement worker did not start, the old one stays in use: {detail}")

    def _start_worker(self) -> Worker:
        worker = Worker(next(self._numbers))
        worker.thread = threading.Thread(target=self._talk, args=(worker,), name="prover-worker", daemon=True)
        try:
            worker.thread.start()
        except RuntimeError as error:  # no more threads
            worker.thread = None
            self._inbox.put(partial(self._gone, worker, f"a worker did not start: {error}"))
        return worker

    def _talk(self, worker: Worker) -> None:
        """A worker's thread: starts its process, passes it jobs, reports the results to the keeper.

        The process does not outlive this thread, and only this thread waits for it.
        """
        try:
            with Child() as child:
                worker.child = child
                try:
                    self._talk_to(child, worker)
                except OmronError as error:
                    doing = self._storage.last_step(child.pid) or ("proving" if worker.ready else "it started")
                    self._post(partial(self._gone, worker, f"the worker was lost while {doing}: {error}"))
        except Exception as error:  # no process can start, or it cannot warm up
            self._post(partial(self._gone, worker, f"a worker did not start: {first_line(error)}"))
        with suppress(OSError):
            self._storage.sweep()

    def _talk_to(self, child: Child, worker: Worker) -> None:
        if worker.ended:
            return
        child.call(self._work.warm_up, self._constants)
        self._post(partial(self._welcome, worker))
        while (job := worker.tasks.get()) is not None:
            outcome: ProofResult | Exception
            try:
                outcome = child.call(self._work.prove, job.circuit_id, job.rows, job.deadline)
            except ProcessLostError:
                raise
            except Exception as error:  # an error of the job: the process lives
                outcome = error
            self._post(partial(self._finish, worker, job, outcome))

    def _welcome(self, worker: Worker) -> None:
        worker.ready = True
        self._start_seconds = time.monotonic() - worker.begun
        self._failed_starts = 0
        if not self._all_ready.done() and self.capacity()["ready"] == worker_count(self._constants):
            self._all_ready.set_result(None)

    def _begin_closing(self, until: float) -> None:
        self._closing = until

    def _pause(self) -> float:
        """Seconds until something is due. A finished job or a new one wakes the keeper immediately."""
        now = time.monotonic()
        due = [now + _TICK_SECONDS, self._wake, *(worker.job.deadline for worker in self._workers if worker.job)]
        if self._closing is not None:
            due.append(self._closing)
        return max(0.0, min(due) - now)


def worker_count(constants: Constants) -> int:
    """Worker processes: as configured, or as many as there are cores for, at most four."""
    return constants.prover.workers or min(len(os.sched_getaffinity(0)), _MOST_AT_A_TIME)
