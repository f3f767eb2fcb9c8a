from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import prover_work
from omron_miner import prover
from omron_miner.constants import Constants, Deadlines, Log, Prover, Sessions
from omron_miner.errors import OmronError
from omron_miner.events import FailureKind
from omron_miner.prover import ProverPool, threads_per_worker, worker_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from omron_miner.verified_model_session import ProofResult

    MakePool = Callable[..., ProverPool]


pytestmark = pytest.mark.slow  # every test starts processes


@pytest.fixture
def lost() -> list[str]:
    return []


@pytest.fixture
def make_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: list[str]) -> Iterator[MakePool]:
    monkeypatch.setattr(prover, "_warm_up", prover_work.warm_up)
    monkeypatch.setattr(prover, "_prove", prover_work.prove)
    pools: list[ProverPool] = []

    def make(queue: float = 5.0, **settings: Any) -> ProverPool:
        constants = Constants(
            prover=Prover(**{"workers": 1, **settings}),
            deadlines=Deadlines(external_queue_seconds=queue),
            sessions=Sessions(directory=tmp_path / "ram", fallback_directory=tmp_path / "disk"),
            log=Log(directory=tmp_path),
        )
        pool = ProverPool(constants, lost.append)
        pools.append(pool)
        pool.start()
        return pool

    yield make
    for pool in pools:
        pool.close(0)


def submit(pool: ProverPool, within: float = 20.0, **inputs: object) -> Future[ProofResult]:
    rows: Any = inputs  # the pool only passes them on
    return pool.submit("c", rows, time.monotonic() + within)


def worker_of(pool: ProverPool) -> int:
    """The pid of a worker, taken from a proof it made."""
    return int(submit(pool).result(20).detail)


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.01)


def test_a_job_is_done_in_a_warm_process_that_stays(make_pool: MakePool) -> None:
    pool = make_pool()
    first, second = submit(pool).result(20), submit(pool).result(20)
    assert first.verified
    assert first.detail == second.detail != str(os.getpid())


def test_the_wait_for_a_worker_is_in_the_timings(make_pool: MakePool) -> None:
    pool = make_pool()
    jobs = [submit(pool, seconds=0.3), submit(pool, seconds=0.0)]
    assert jobs[0].result(20).timings.queue_s < 0.2
    assert 0.25 < jobs[1].result(20).timings.queue_s < 1.0


def learn(pool: ProverPool, seconds: float) -> None:
    """What a proof takes alone, as often as it takes to be believed."""
    for _ in range(2):
        assert submit(pool, seconds=seconds).result(20).verified


def most_at_a_time(pool: ProverPool, jobs: list[Future[ProofResult]]) -> int:
    most = 0
    while not all(job.done() for job in jobs):
        most = max(most, pool.capacity()["proving"])
        time.sleep(0.01)
    assert all(job.result().verified for job in jobs)
    return most


def test_proofs_run_one_after_another_until_it_is_known_what_they_take(make_pool: MakePool) -> None:
    pool = make_pool(workers=2)
    assert most_at_a_time(pool, [submit(pool, seconds=0.3) for _ in range(2)]) == 1


def test_two_at_a_time_are_tried_and_kept_when_it_pays(make_pool: MakePool) -> None:
    pool = make_pool(workers=2)  # sleeping side by side takes no longer than alone
    learn(pool, 0.2)
    for _ in range(3):
        assert most_at_a_time(pool, [submit(pool, seconds=0.4) for _ in range(4)]) == 2


def test_two_at_a_time_are_given_up_when_it_does_not_pay(make_pool: MakePool) -> None:
    pool = make_pool(workers=2)
    learn(pool, 0.2)
    most_at_a_time(pool, [submit(pool, seconds=1.0) for _ in range(4)])  # as if they had held each other up
    assert most_at_a_time(pool, [submit(pool, seconds=0.2) for _ in range(4)]) == 1


def test_who_would_be_refused_is_proved_beside_the_other_if_both_meet_their_deadlines(make_pool: MakePool) -> None:
    pool = make_pool(workers=2, queue=0.3)
    learn(pool, 1.0)
    jobs = [submit(pool, within=30, seconds=1.0), submit(pool, within=30, seconds=1.0)]
    results = [job.result(20) for job in jobs]
    assert all(result.verified for result in results)
    assert results[0].detail != results[1].detail


def test_nobody_is_begun_whose_company_would_cost_another_its_deadline(make_pool: MakePool) -> None:
    pool = make_pool(workers=2, queue=0.3)
    learn(pool, 1.0)
    running, waiting = submit(pool, within=1.9, seconds=1.0), submit(pool, within=30, seconds=1.0)
    assert waiting.result(20).failure is FailureKind.QUEUE_FULL
    assert running.result(20).verified


def test_nobody_is_begun_for_whom_there_is_no_memory(make_pool: MakePool) -> None:
    pool = make_pool(workers=2, queue=0.3)
    for _ in range(2):
        assert submit(pool, seconds=0.1, memory=1 << 60).result(20).verified  # alone it is tried all the same
    running, waiting = submit(pool, seconds=1.0), submit(pool)
    assert waiting.result(20).failure is FailureKind.QUEUE_FULL
    assert running.result(20).verified


def test_a_crash_fails_its_request_only_and_the_pool_heals(make_pool: MakePool, lost: list[str]) -> None:
    pool = make_pool()
    crashed, waiting = submit(pool, die=True), submit(pool)
    assert crashed.result(20).failure is FailureKind.WORKER_CRASHED
    assert waiting.result(20).verified
    assert len(lost) == 1
    assert "-9" in lost[0]


def test_a_worker_that_dies_idle_is_replaced(make_pool: MakePool, lost: list[str]) -> None:
    pool = make_pool()
    pid = worker_of(pool)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: bool(lost))
    assert worker_of(pool) != pid


def test_an_overrun_is_killed_at_its_deadline(make_pool: MakePool) -> None:
    pool = make_pool()
    pid = worker_of(pool)
    began = time.monotonic()
    assert submit(pool, within=0.4, seconds=30.0).result(20).failure is FailureKind.TIMEOUT
    assert time.monotonic() - began < 0.8
    wait_until(lambda: not psutil.pid_exists(pid), 1.0)
    assert submit(pool).result(20).verified


def test_who_waits_too_long_is_refused(make_pool: MakePool) -> None:
    pool = make_pool(queue=0.3)
    running, waiting = submit(pool, seconds=1.0), submit(pool)
    assert waiting.result(0.8).failure is FailureKind.QUEUE_FULL
    assert running.result(20).verified


def test_a_job_that_can_no_longer_finish_is_not_begun(make_pool: MakePool) -> None:
    pool = make_pool()
    assert submit(pool, seconds=0.5).result(20).verified
    late = submit(pool, within=0.3, seconds=0.5).result(0.2)
    assert late.failure is FailureKind.TIMEOUT
    assert late.tries == 0


def test_cancelling_frees_the_worker(make_pool: MakePool, lost: list[str]) -> None:
    pool = make_pool()
    pid = worker_of(pool)
    running, waiting = submit(pool, seconds=30.0), submit(pool)
    wait_until(lambda: pool.capacity()["proving"] == 1)
    pool.cancel(running)
    assert running.result(1).failure is FailureKind.CANCELLED
    assert waiting.result(20).detail != str(pid)
    assert lost == []


def test_cancelling_a_waiting_job_leaves_the_running_one(make_pool: MakePool) -> None:
    pool = make_pool()
    running, waiting = submit(pool, seconds=0.5), submit(pool)
    pool.cancel(waiting)
    assert waiting.result(0.4).failure is FailureKind.CANCELLED
    assert running.result(20).verified


def test_a_worn_worker_serves_until_its_successor_is_warm(make_pool: MakePool) -> None:
    pool = make_pool(recycle_after_tasks=2)
    old = worker_of(pool)
    assert worker_of(pool) == old
    assert submit(pool).result(0.1).detail == str(old), "a request waited for the restart"
    wait_until(lambda: worker_of(pool) != old)
    wait_until(lambda: not psutil.pid_exists(old))


def test_a_bug_in_the_worker_is_an_internal_error(make_pool: MakePool) -> None:
    result = submit(make_pool(), **{"raise": True}).result(20)
    assert result.failure is FailureKind.INTERNAL_ERROR
    assert "a bug" in result.detail


def test_workers_leave_the_stop_to_the_miner(make_pool: MakePool) -> None:
    pool = make_pool()
    pid = worker_of(pool)
    job = submit(pool, seconds=0.5)
    wait_until(lambda: pool.capacity()["proving"] == 1)
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGINT)
    assert job.result(20).verified


def test_closing_lets_finish_what_can_and_answers_the_rest(make_pool: MakePool) -> None:
    pool = make_pool()
    pid = worker_of(pool)
    soon, late, waiting = submit(pool, seconds=0.2), submit(pool, seconds=30.0), submit(pool)
    began = time.monotonic()
    pool.close(0.6)
    assert time.monotonic() - began < 1.3
    assert soon.result(0).verified
    assert late.result(0).failure is FailureKind.STOPPING
    assert waiting.result(0).failure is FailureKind.STOPPING
    assert submit(pool).result(0).failure is FailureKind.STOPPING
    assert not psutil.pid_exists(pid)


def test_capacity_counts(make_pool: MakePool) -> None:
    pool = make_pool()
    assert pool.capacity() == {"workers": 1, "ready": 1, "proving": 0, "queued": 0}
    jobs = [submit(pool, seconds=0.3), submit(pool)]
    wait_until(lambda: pool.capacity() == {"workers": 1, "ready": 1, "proving": 1, "queued": 1})
    assert all(job.result(20).verified for job in jobs)


def test_files_of_a_killed_worker_are_swept(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool()
    pid = worker_of(pool)
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]  # part of the session's name
    left = tmp_path / "ram" / f"session-{pid}-{ticks}-x"
    left.mkdir(parents=True)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not left.exists())


def test_a_pool_whose_workers_do_not_start_says_so(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prover, "_warm_up", prover_work.refuse_to_start)
    with pytest.raises(OmronError, match="did not start"):
        make_pool()


def test_workers_die_with_their_parent() -> None:
    program = (
        "import os, time\n"
        "from omron_miner.isolated import die_with_parent\n"
        "parent = os.getpid()\n"
        "if os.fork() == 0:\n"
        "    die_with_parent(parent)\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        assert worker.is_running()
        parent.kill()
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 3)


def test_every_worker_may_use_all_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    assert threads_per_worker(Constants()) == cores
    assert threads_per_worker(Constants(prover=Prover(threads_per_worker=3))) == 3
    assert worker_count(Constants()) == min(cores, 4)
    assert worker_count(Constants(prover=Prover(workers=7))) == 7


def test_a_busy_pools_worn_worker_is_replaced_late_rather_than_beside_a_proof(make_pool: MakePool) -> None:
    pool = make_pool(recycle_after_tasks=2)
    jobs = [submit(pool, seconds=0.1) for _ in range(4)]
    makers = {job.result(20).detail for job in jobs}
    assert len(makers) == 1, "a successor was started while jobs waited"


def test_a_worker_that_dies_after_its_successor_did_is_replaced_at_once(make_pool: MakePool, lost: list[str]) -> None:
    pool = make_pool(recycle_after_tasks=1)
    old = worker_of(pool)

    def successors() -> list[psutil.Process]:
        children = [child for child in psutil.Process().children() if child.pid != old]
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

    wait_until(lambda: bool(successors()))
    for successor in successors():
        successor.kill()
    wait_until(lambda: len(lost) == 1)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: len(lost) == 2)
    wait_until(lambda: pool.capacity()["ready"] == 1)
    assert worker_of(pool) != old
