"""One pool over several hosts: `ProverPool`'s interface, with the miner's own host and any number of others behind it.

    axon's threads           this pool's event loop                        hosts
    submit, cancel  ──> call_soon ──> placement.plan ──> host.prove ─────> this host's ProverPool, or another's
    future <────────── answer <── verify once more <── result or loss <──┘
                              report, several times a second ────────────> ready, memory, pace, circuits

Requests wait here, not at the hosts, so that only running proofs are lost when a host leaves; these are
retried on another host while there is time. A host that does not answer for `provers.lost_seconds` gets no work until
it answers again. A connector (`dask_client`) adds and removes hosts with `join` and `leave`.

Not for: how a host is reached, or which host proves what (`placement`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from omron_miner.errors import OmronError, first_line
from omron_miner.events import LOGGER_NAME, FailureKind
from omron_miner.provers import placement
from omron_miner.provers.hosts import Catalogue, LocalHost, StoredCircuits, differing, incompatibility, release
from omron_miner.provers.prover_service import pool_constants
from omron_miner.provers.second_verification import SecondVerification
from omron_miner.provers.status import (
    REMEMBER_SECONDS,
    WRITE_SECONDS,
    CircuitSeconds,
    HostState,
    ProversStatus,
    read_status,
    write_status,
)
from omron_miner.proving.prover import ProverPool
from omron_miner.proving.verified_model_session import failed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from omron_miner.circuits.inputs import Inputs
    from omron_miner.constants import Constants
    from omron_miner.provers.hosts import HostReport, ProverHost
    from omron_miner.proving.verified_model_session import ProofResult
    from omron_miner.proving.worker_process import Work

    Connector = Callable[["MultiHostPool"], Coroutine[Any, Any, None]]

_log = logging.getLogger(LOGGER_NAME)
_MOST_LOSSES = 3
"""Number of hosts that one request may lose before it is answered with a failure."""
_MOST_FAULTS = 2
"""Number of tries of a request that fails on hosts that stay up, as with a single host."""
_BUSY_SECONDS = 0.5
"""Pause for a host that refused a proof for lack of a free worker."""
_DISTRUST_SECONDS = 300.0
"""Pause for a host one of whose proofs did not verify here."""
_REPORT_SECONDS = 0.5
"""Minimum interval between two reports on the hosts."""
_CLOSE_SECONDS = 0.3
"""How long a connector may take to disconnect."""
_HOST_FAULTS = (FailureKind.WORKER_CRASHED, FailureKind.INTERNAL_ERROR, FailureKind.VERIFICATION_FAILED)
_NOT_BEGUN = (FailureKind.QUEUE_FULL, FailureKind.STOPPING)


@dataclass(eq=False, kw_only=True)
class _Job(placement.Job):
    """A requested proof, and the future for its result."""

    rows: Inputs
    answer: Future[ProofResult] = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    waited: float = 0.0
    """Seconds in the queue before it was started, over its tries."""
    tries: int = 0
    losses: int = 0
    faults: int = 0
    failure: FailureKind = FailureKind.WORKER_CRASHED
    """Its failure when no time is left for a retry."""
    number: int = 0
    """Of its running try."""
    begun: float = 0.0
    host: _Host | None = None
    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None


@dataclass(eq=False)
class _Host:
    host: ProverHost
    report: HostReport | None = None
    state: str = "it has not answered yet"
    circuits: frozenset[str] = frozenset()
    differing: dict[str, str] = field(default_factory=dict)
    jobs: dict[int, _Job] = field(default_factory=dict)
    proofs: int = 0
    failures: int = 0
    busy_until: float = 0.0
    distrusted_until: float = 0.0
    since: float = field(default_factory=time.time)
    """Unix time since which it gets work, or gets none."""
    look: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to ask it for a report now."""
    watch: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.host.name

    @property
    def label(self) -> str:
        """For messages: the name that the host reports, if known."""
        named = self.report.name if self.report else ""
        return f"{named} ({self.name})" if named not in ("", self.name) else self.name

    def why_not(self, now: float) -> str:
        """Why it gets no work; empty when it does."""
        if self.state:
            return self.state
        if now < self.distrusted_until:
            return "one of its proofs did not verify here"
        return "its workers are busy" if now < self.busy_until else ""

    def as_reported(self, now: float, circuits: int) -> HostState:
        """For reports; `circuits`: the number that it may prove."""
        report = self.report
        pace = report.pace.items() if report else ()
        return HostState(
            name=report.name if report and report.name else self.name,
            address="" if self.host.is_local else self.name,
            gets_work=not self.state and now >= self.distrusted_until,
            state=self.why_not(now),
            since=self.since,
            circuits=circuits,
            workers=report.ready if report else 0,
            running=len(self.jobs),
            proofs=self.proofs,
            failures=self.failures,
            release=report.release if report else "",
            pace={
                circuit_id: CircuitSeconds(round(one.seconds[0], 3), round(one.fastest, 3))
                for circuit_id, one in pace
                if one.seconds
            },
        )

    def as_seen(self, standby: bool) -> placement.Host:
        """For a plan. Only of a host that has reported."""
        assert self.report is not None  # noqa: S101  for the type checker: `state` is empty after a report only
        running = tuple(placement.Running(one.circuit_id, one.begun, one.deadline) for one in self.jobs.values())
        circuits = None if self.host.is_local else self.circuits
        report = self.report
        return placement.Host(self.name, report.ready, report.free_bytes, report.pace, circuits, running, standby)


class MultiHostPool:
    """Proves on this host and on those that join. As `ProverPool`; only its event loop changes state."""

    def __init__(
        self,
        constants: Constants,
        on_worker_lost: Callable[[str], None] | None = None,
        connect: Connector | None = None,
        *,
        work: Work | None = None,
        verification: Work | None = None,
        catalogue: Catalogue | None = None,
    ) -> None:
        """`connect` runs in the event loop for as long as the pool is open and calls `join` and `leave`.

        `work` and `verification` run in the processes of this host: by default real proofs and verification.
        Starts nothing yet.
        """
        self._constants, self._settings = constants, constants.provers
        self._on_worker_lost = on_worker_lost or (lambda _detail: None)
        self._connect = connect
        self._standby = constants.prover.local_workers == 0
        workers = max(1, constants.prover.local_workers)
        self._pool = ProverPool(pool_constants(constants, workers), self._on_worker_lost, work, second_try=False)
        self._local = LocalHost(self._pool, catalogue or StoredCircuits(constants))
        self._verification = SecondVerification(constants, verification) if self._settings.verify_again else None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="prover-hosts", daemon=True)
        self._lock = threading.Lock()
        self._open = False
        # Only the event loop changes these.
        self._hosts: dict[str, _Host] = {}
        self._gone: dict[str, HostState] = {}
        """Hosts that left, by address."""
        self._jobs: dict[Future[ProofResult], _Job] = {}
        self._pending: list[_Job] = []
        self._last_number = 0
        self._digests: dict[str, str] = {}
        self._plan_is_due = False
        self._wake: asyncio.TimerHandle | None = None
        self._closing = False
        self._connector: asyncio.Task[None] | None = None
        self._reporter: asyncio.Task[None] | None = None
        self._hosts_changed = asyncio.Event()
        self.placement_seconds: list[float] | None = None
        """CPU time of plans, kept if this is a list: for benches."""

    def start(self) -> None:
        """Starts this host's workers and waits until all are warm; other hosts join when they can.

        Raises OmronError when a worker of this host cannot be started within `prover.start_seconds`.
        """
        starts = [self._pool.start, *([self._verification.start] if self._verification else [])]
        with ThreadPoolExecutor(len(starts)) as threads:
            errors = [one.exception() for one in [threads.submit(start) for start in starts]]
        if error := next(filter(None, errors), None):
            self._close_processes()
            raise error
        self._thread.start()
        self._open = True
        asyncio.run_coroutine_threadsafe(self._begin(), self._loop).result()

    def submit(self, circuit_id: str, rows: Inputs, deadline: float) -> Future[ProofResult]:
        """As `ProverPool.submit`.

        QUEUE_FULL is also the answer when no host can prove the circuit; TIMEOUT comes immediately when no host can
        prove it in time; WORKER_CRASHED is a host or a worker that was lost, twice or without time for a retry.
        """
        job = _Job(circuit_id=circuit_id, rows=rows, deadline=deadline, queued=time.monotonic())
        job.answer.set_running_or_notify_cancel()
        if not self._post(partial(self._enqueue, job)):
            self._fail(job, FailureKind.STOPPING, "the miner is stopping")
        return job.answer

    def cancel(self, answer: Future[ProofResult]) -> None:
        """Cancels a job: its future resolves to CANCELLED, its host stops the proof. Returns immediately."""
        self._post(partial(self._cancel, answer))

    def capacity(self) -> dict[str, int]:
        """As `ProverPool.capacity`, over all hosts that may get work. A snapshot; never blocks."""
        now, local = time.monotonic(), self._pool.capacity()
        others = [one for one in list(self._hosts.values()) if not one.host.is_local and not one.why_not(now)]
        ready = sum(one.report.ready for one in others if one.report)
        return {
            "workers": local["workers"] + ready,
            "ready": local["ready"] + ready,
            "proving": local["proving"] + sum(len(one.jobs) for one in others),
            "queued": len(self._pending),
        }

    def hosts(self) -> list[HostState]:
        """Every known host, this one first, then those that left. A snapshot; never blocks."""
        now, here = time.monotonic(), list(self._hosts.values())
        found = [one.as_reported(now, len(self._digests if one.host.is_local else one.circuits)) for one in here]
        return [*found, *self._gone.values()]

    def close(self, grace_seconds: float) -> None:
        """As `ProverPool.close`."""
        if self._post(lambda: None):
            asyncio.run_coroutine_threadsafe(self._close(grace_seconds), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        self._close_processes()

    # From here on everything runs in the event loop, except where noted.

    def join(self, host: ProverHost) -> None:
        """A host joined. It gets work once it has reported."""
        self._hosts[host.name] = joined = _Host(host)
        joined.watch = self._loop.create_task(self._watch(joined))

    def leave(self, name: str, why: str) -> None:
        """A host left; its proofs are retried on others."""
        host = self._hosts.pop(name, None)
        if host is None:
            return
        if host.watch:
            host.watch.cancel()
        if not host.state:
            _log.warning("Prover host %s left: %s", host.label, why)
        if host.report is not None:  # one that never answered never joined
            last = host.as_reported(time.monotonic(), len(host.circuits))
            self._remember(replace(last, state=f"it left: {why}", since=time.time()))
        self._requeue_jobs(host, f"prover host {host.label} left: {why}")

    def _remember(self, gone: HostState) -> None:
        """Keeps the last status of a host that left. The mapping is replaced, because other threads read it."""
        self._hosts_changed.set()
        self._gone = {**self._gone, gone.address: replace(gone, gets_work=False, left=True, workers=0, running=0)}

    def _forget(self, address: str) -> None:
        """The host joined again."""
        if address in self._gone:
            self._gone = {known: one for known, one in self._gone.items() if known != address}

    def _post(self, step: Callable[[], None]) -> bool:
        """Has the event loop take a step. Any thread. False when the pool is not open."""
        with self._lock:
            if self._open:
                self._loop.call_soon_threadsafe(step)
            return self._open

    def _close_processes(self) -> None:
        """Any thread."""
        self._pool.close(0)
        if self._verification:
            self._verification.close()

    async def _begin(self) -> None:
        """Takes the local pool as the first host, and waits for its first report."""
        self.join(self._local)
        while self._hosts[self._local.name].report is None:
            await asyncio.sleep(0.005)
        if self._connect:
            self._connector = self._loop.create_task(self._keep_connecting(self._connect))
        self._reporter = self._loop.create_task(self._keep_reporting())

    async def _keep_reporting(self) -> None:
        """Writes the status of the hosts for the monitor, starting with the hosts of the last process."""
        path, in_thread, said = self._constants.log.prover_hosts, self._loop.run_in_executor, ""
        with suppress(OmronError):
            before = await in_thread(None, read_status, path)
            there = {"", *self._hosts}
            for one in before.hosts:
                if one.address not in there:
                    state, since = (one.state, one.since) if one.left else ("it has not joined", time.time())
                    self._remember(replace(one, state=state, since=since, proofs=0, failures=0))
        while True:
            self._hosts_changed.clear()
            now = time.time()
            self._gone = {address: one for address, one in self._gone.items() if now - one.since < REMEMBER_SECONDS}
            status = ProversStatus(now, len(self._pending), tuple(self.hosts()))
            try:
                await in_thread(None, write_status, path, status)
                said = ""
            except OSError as error:
                if (why := error.strerror or str(error)) != said:
                    _log.warning("Cannot write the status of the prover hosts for the monitor to %s: %s", path, why)
                    said = why
            await asyncio.sleep(_REPORT_SECONDS)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._hosts_changed.wait(), WRITE_SECONDS - _REPORT_SECONDS)

    async def _keep_connecting(self, connect: Connector) -> None:
        """A bug in the connector must not leave the miner without its other hosts permanently."""
        while True:
            try:
                await connect(self)
            except OmronError as error:
                _log.error("Prover hosts cannot be reached: %s", error)
            except Exception:
                _log.exception("The connection to the prover hosts failed unexpectedly")
            for host in [one for one in self._hosts.values() if not one.host.is_local]:
                self.leave(host.name, "the connection to the prover hosts failed")
            await asyncio.sleep(5.0)

    async def _close(self, grace_seconds: float) -> None:
        self._closing = True
        until = time.monotonic() + grace_seconds
        while self._jobs and time.monotonic() < until:
            await asyncio.sleep(0.01)
        with self._lock:
            self._open = False
        for job in list(self._jobs.values()):
            begun = "done" if job.tries else "begun"
            self._end(job)
            self._fail(job, FailureKind.STOPPING, f"the miner stopped before the proof was {begun}")
        if self._connector:  # first, so that it can disconnect cleanly
            self._connector.cancel()
            await asyncio.wait({self._connector}, timeout=_CLOSE_SECONDS)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_SECONDS)

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def _enqueue(self, job: _Job) -> None:
        if self._closing:
            self._fail(job, FailureKind.STOPPING, "the miner is stopping")
            return
        self._jobs[job.answer] = job
        job.timer = self._loop.call_at(job.deadline, self._expire, job)
        self._pending.append(job)
        self._plan_soon()

    def _plan_soon(self) -> None:
        if not self._plan_is_due:
            self._plan_is_due = True
            self._loop.call_soon(self._plan)

    def _plan(self) -> None:
        """Starts and refuses jobs according to the placement."""
        self._plan_is_due = False
        if self._wake:
            self._wake.cancel()
        if not self._pending:
            return
        now, begun = time.monotonic(), time.thread_time()
        usable = {one.name: one for one in self._hosts.values() if not one.why_not(now)}
        seen = [one.as_seen(self._standby and one.host.is_local) for one in usable.values()]
        plan = placement.plan(now, self._pending, seen, self._constants.deadlines.external_queue_seconds)
        for job, failure, detail in plan.refuse:
            self._pending.remove(job)
            self._fail(job, job.failure if job.lost else failure, detail)
        for job, name in plan.begin:
            self._pending.remove(job)
            self._begin_on(job, usable[name])
        if self._pending:  # the end of a pause is not reported by the host
            self._wake = self._loop.call_at(min(plan.wake, now + _BUSY_SECONDS), self._plan_soon)
        if self.placement_seconds is not None:
            self.placement_seconds.append(time.thread_time() - begun)

    def _begin_on(self, job: _Job, host: _Host) -> None:
        self._last_number += 1
        job.number, job.host, job.begun = self._last_number, host, time.monotonic()
        job.waited += job.begun - job.queued
        job.tries += 1
        host.jobs[job.number] = job
        job.task = self._loop.create_task(self._prove(job, host, job.number))

    async def _prove(self, job: _Job, host: _Host, number: int) -> None:
        within = job.deadline - time.monotonic()
        try:
            result = await host.host.prove(number, job.circuit_id, job.rows, within)
            host.jobs.pop(number, None)
            self._plan_soon()
            if host.report and job.circuit_id not in host.report.pace:
                host.look.set()  # the host is known now
            if result.verified and self._verification and not host.host.is_local:
                result = await self._verified_again(job, host, result)
        except Exception as error:  # the host did not prove it, for any reason; its next report re-admits it
            self._exclude(host, first_line(error))
            self._note_loss(job, host, f"prover host {host.label}: {first_line(error)}")
            host.look.set()
            return
        self._finish(job, host, result)

    async def _verified_again(self, job: _Job, host: _Host, result: ProofResult) -> ProofResult:
        """The result, or the failure of its verification here."""
        assert self._verification is not None  # noqa: S101  for the type checker
        checking = self._verification.submit(job.rows, result, job.deadline)
        try:
            checked = await asyncio.wrap_future(checking)
        except asyncio.CancelledError:
            self._verification.cancel(checking)
            raise
        if checked.verified:
            verify = result.timings.verify_s + checked.timings.verify_s
            return replace(result, outputs=checked.outputs, timings=replace(result.timings, verify_s=verify))
        failure = checked.failure or FailureKind.INTERNAL_ERROR
        detail = f"a proof of prover host {host.label} does not verify here: {checked.detail}"
        if failure in (FailureKind.VERIFICATION_FAILED, FailureKind.WORKER_CRASHED):
            host.distrusted_until = time.monotonic() + _DISTRUST_SECONDS
            _log.error("%s; it gets no work for %.0f s", detail, _DISTRUST_SECONDS)
            failure = FailureKind.VERIFICATION_FAILED
        return failed(job.circuit_id, failure, detail, tries=result.tries)

    def _finish(self, job: _Job, host: _Host, result: ProofResult) -> None:
        """Answers a job, or retries it on another host."""
        host.jobs.pop(job.number, None)
        if result.verified:
            host.proofs += 1
        elif result.failure in _NOT_BEGUN:
            host.busy_until = time.monotonic() + _BUSY_SECONDS
            self._queue_again(job, "")
            return
        elif result.failure is FailureKind.CANCELLED:  # not by us: the host considered us disconnected
            self._note_loss(job, host, f"prover host {host.label} cancelled the proof")
            return
        elif result.failure in _HOST_FAULTS:
            host.failures += 1
            job.faults += 1
            job.tried |= {host.name}
            # The host has already retried a proof that does not verify.
            elsewhere = result.failure is not FailureKind.VERIFICATION_FAILED or self._others(job)
            if job.faults < _MOST_FAULTS and elsewhere:
                self._queue_again(job, result.detail or result.failure.value, result.failure)
                return
        timings = replace(result.timings, queue_s=job.waited + result.timings.queue_s)
        self._answer(job, replace(result, timings=timings, tries=result.tries + job.tries - 1))

    def _others(self, job: _Job) -> bool:
        """Whether there is a host that may prove the job and has not tried."""
        now = time.monotonic()
        return any(
            one.name not in job.tried and not one.why_not(now) and (one.host.is_local or job.circuit_id in one.circuits)
            for one in self._hosts.values()
        )

    def _note_loss(self, job: _Job, host: _Host, why: str) -> None:
        """The host did not do it, and may be down."""
        if job.answer.done() or job.host is not host:  # recorded already
            return
        host.jobs.pop(job.number, None)
        host.failures += 1
        job.losses += 1
        job.tried |= {host.name}
        if job.losses < _MOST_LOSSES:
            self._queue_again(job, why, FailureKind.WORKER_CRASHED)
        else:
            self._fail(job, FailureKind.WORKER_CRASHED, why)

    def _queue_again(self, job: _Job, why: str, failure: FailureKind = FailureKind.QUEUE_FULL) -> None:
        """Puts a job back; `why` its try was lost, empty when none was made."""
        if job.answer.done():
            return
        if why:
            _log.warning("Retrying a proof of %s: %s", job.circuit_id, why)
            job.lost, job.failure, job.queued = why, failure, time.monotonic()
        else:
            job.tries -= 1
            job.waited -= job.begun - job.queued
        job.host = job.task = None
        self._pending.append(job)
        self._plan_soon()

    def _cancel(self, answer: Future[ProofResult]) -> None:
        job = self._jobs.get(answer)
        if job:
            where = "its proof was cancelled" if job.tries else "the request was queued"
            self._end(job)
            self._fail(job, FailureKind.CANCELLED, f"the caller disconnected; {where}")

    def _expire(self, job: _Job) -> None:
        """The deadline has passed."""
        if not job.answer.done():
            host = job.host
            self._end(job)
            budget = job.deadline - job.submitted
            why = job.lost or (f"not proved within {budget:.1f} s" + (f" by {host.label}" if host else ""))
            self._fail(job, job.failure if job.lost else FailureKind.TIMEOUT, why)

    def _end(self, job: _Job) -> None:
        """Removes a job from the queue or its host."""
        if job in self._pending:
            self._pending.remove(job)
        if job.host:
            job.host.jobs.pop(job.number, None)
        if job.task:
            job.task.cancel()
        self._plan_soon()

    def _fail(self, job: _Job, failure: FailureKind, detail: str) -> None:
        waits = time.monotonic() - job.queued if job.host is None else 0.0
        self._answer(job, failed(job.circuit_id, failure, detail, job.waited + waits, job.tries))

    def _answer(self, job: _Job, result: ProofResult) -> None:
        self._jobs.pop(job.answer, None)
        if job.timer:
            job.timer.cancel()
        if not job.answer.done():
            job.answer.set_result(result)

    # --- hosts --------------------------------------------------------------------------------------------------------

    async def _watch(self, host: _Host) -> None:
        """Polls a host for its report; gives it no work while it does not answer."""
        limit = self._settings.lost_seconds
        while True:
            host.look.clear()
            try:
                report = await asyncio.wait_for(host.host.report(list(host.jobs), self._last_number), limit)
            except asyncio.TimeoutError:
                self._exclude(host, f"it did not answer for {limit:g} s")
            except Exception as error:
                self._exclude(host, first_line(error))
            else:
                self._on_report(host, report)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(host.look.wait(), self._settings.heartbeat_seconds)

    def _exclude(self, host: _Host, why: str) -> None:
        if not host.state:
            _log.warning("Prover host %s is offline until it answers: %s", host.label, why)
            self._report_lost(f"prover host {host.label}: {why}")
        self._note_state(host, why)
        self._requeue_jobs(host, f"prover host {host.label}: {why}")

    def _note_state(self, host: _Host, state: str) -> None:
        """Why it gets no work from now on; empty: it does."""
        if bool(state) != bool(host.state):
            host.since = time.time()
        if state != host.state:
            self._hosts_changed.set()
        host.state = state

    def _requeue_jobs(self, host: _Host, why: str) -> None:
        """Retries the proofs of a host that is down on others."""
        for job in list(host.jobs.values()):
            if job.task and job.task is not asyncio.current_task():
                job.task.cancel()
            self._note_loss(job, host, why)

    def _on_report(self, host: _Host, report: HostReport) -> None:
        """A host reported: admits it, or logs why not."""
        host.report, before = report, host.state
        self._forget(host.name)
        if host.host.is_local:
            if self._digests != report.circuits:
                self._digests = dict(report.circuits)
            self._note_state(host, "")
        else:
            wrong = differing(report, self._digests)
            for circuit_id in wrong.keys() - host.differing.keys():
                _log.error("Prover host %s does not prove circuit %s: %s", host.label, circuit_id, wrong[circuit_id])
            host.differing = wrong
            host.circuits = frozenset(report.circuits.keys() & self._digests.keys() - wrong.keys())
            state = incompatibility(report, verified_again=self._verification is not None)
            if not state and report.draining:
                state = "draining: it finishes its proofs and stops"
            self._note_state(host, state or ("" if host.circuits else "it has no circuit in common with the miner"))
            if host.state != before:
                level = logging.WARNING if host.state else logging.INFO
                text = f"gets no work: {host.state}" if host.state else f"proves {len(host.circuits)} circuits"
                if not host.state and report.release != release():
                    level, text = logging.WARNING, f"{text} with release {report.release}, the miner has {release()}"
                _log.log(level, "Prover host %s %s", host.label, text)
        if self._pending:
            self._plan_soon()

    def _report_lost(self, detail: str) -> None:
        try:
            self._on_worker_lost(detail)
        except Exception:
            with suppress(Exception):
                _log.exception("the loss of a prover host could not be reported: %s", detail)
