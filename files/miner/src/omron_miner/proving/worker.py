"""A worker process as the pool sees it, and its current job. The code that runs in it is in `worker_process`."""

from __future__ import annotations

import queue
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

from omron_miner.proving import schedule
from omron_miner.proving.verified_model_session import ProofResult, failed

if TYPE_CHECKING:
    import threading

    from omron_miner.circuits.inputs import Inputs
    from omron_miner.events import FailureKind
    from omron_miner.proving.isolated import Child

_PROGRESS_CPU_SECONDS = 0.05
"""A process that used less CPU time than this counts as idle."""


@dataclass(eq=False, kw_only=True)
class WantedProof(schedule.Job):
    """A requested proof, and the future for its result."""

    rows: Inputs
    queued: float = field(default_factory=time.monotonic)
    submitted: float = field(default_factory=time.monotonic)
    dispatched: float | None = None
    waited: float = 0.0
    """Seconds in the queue before it was started, over its tries."""
    tries: int = 0
    answer: Future[ProofResult] = field(default_factory=Future)

    def begin(self, worker: int) -> None:
        """Records that the worker with this number starts it."""
        self.dispatched = time.monotonic()
        self.waited += self.dispatched - self.queued
        self.tries += 1
        self.tried_by = worker
        self.concurrency_seconds = self.done = 0.0

    def wait_again(self, why: str) -> None:
        """Records that it was lost and waits for a retry."""
        self.lost, self.queued, self.dispatched = why or "the first try failed", time.monotonic(), None

    def fail(self, failure: FailureKind, detail: str) -> None:
        """Resolves the future with a failure."""
        waits = 0.0 if self.dispatched else time.monotonic() - self.queued
        self.answer.set_result(failed(self.circuit_id, failure, detail, self.waited + waits, self.tries))


@dataclass(eq=False)
class Worker:
    """One process, and the thread that talks to it. The keeper's, except `child` and `tasks`."""

    number: int
    begun: float = field(default_factory=time.monotonic)
    ready: bool = False
    job: WantedProof | None = None
    jobs_done: int = 0
    ended: bool = False
    child: Child | None = None
    tasks: queue.SimpleQueue[WantedProof | None] = field(default_factory=queue.SimpleQueue)
    thread: threading.Thread | None = None
    cpu_seconds: float = 0.0
    progressed: float = 0.0
    """When its process was last seen to have used CPU time."""

    @property
    def idle(self) -> bool:
        """Whether it could start a proof."""
        return self.ready and self.job is None

    def dead(self) -> bool:
        """Whether its process has exited; while it starts or proves, its thread reports that."""
        return self.idle and self.child is not None and not self.child.is_running()

    def end(self) -> None:
        """Kills the process and has the thread finish. Returns immediately."""
        self.ended = True
        if self.child:
            self.child.kill()
        self.tasks.put(None)

    def idle_seconds(self, now: float) -> float:
        """Seconds for which its process has used no CPU, as observed by calls of this method."""
        used = self.child.cpu_seconds() if self.child else 0.0
        if abs(used - self.cpu_seconds) > _PROGRESS_CPU_SECONDS:
            self.cpu_seconds, self.progressed = used, now
        return now - self.progressed

    def resident_bytes(self) -> int:
        """Memory its process holds; 0 when it has exited."""
        try:
            return int(psutil.Process(self.child.pid).memory_info().rss) if self.child else 0
        except psutil.Error:
            return 0
