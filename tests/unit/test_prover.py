from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import omron_miner
import prover_work
from isolated_work import FULL_SHM
from omron_miner.constants import Circuits, Constants, Deadlines, Log, Prover, Sessions
from omron_miner.errors import OmronError
from omron_miner.events import EventLog, FailureKind
from omron_miner.proving.prover import ProverPool, worker_count
from omron_miner.proving.worker_process import Work, threads_per_worker
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from omron_miner.proving.verified_model_session import ProofResult

    MakePool = Callable[..., ProverPool]


pytestmark = pytest.mark.slow  # every test starts processes


@pytest.fixture
def lost() -> list[str]:
    return []


@pytest.fixture
def make_pool(tmp_path: Path, lost: list[str]) -> Iterator[MakePool]:
    pools: list[ProverPool] = []

    work: Any = prover_work.prove  # takes what the tests submit

    def make(queue: float = 60.0, warm_up: Any = prover_work.warm_up, **settings: Any) -> ProverPool:
        constants = Constants(
            prover=Prover(**{"workers": 1, **settings}),
            deadlines=Deadlines(external_queue_seconds=queue, circuit_timeout_seconds=2 * queue),
            sessions=Sessions(directory=tmp_path / "ram", fallback_directory=tmp_path / "disk"),
            log=Log(directory=tmp_path),
            circuits=Circuits(directory=tmp_path / "circuits"),
        )
        pool = ProverPool(constants, lost.append, Work(warm_up, work))
        pools.append(pool)
        pool.start()
        return pool

    yield make
    for pool in pools:
        pool.close(0)


def submit(pool: ProverPool, within: float = 60.0, **inputs: object) -> Future[ProofResult]:
    rows: Any = inputs  # the pool only passes them on
    return pool.submit("c", rows, time.monotonic() + within)


def worker_of(pool: ProverPool) -> int:
    """The pid of a worker, taken from a proof it made."""
    return int(submit(pool).result(60).detail)


def test_a_job_is_done_in_a_warm_process_that_stays(make_pool: MakePool) -> None:
    pool = make_pool()
    first, second = submit(pool).result(60), submit(pool).result(60)
    assert first.verified
    assert first.detail == second.detail != str(os.getpid())


def test_the_wait_for_a_worker_is_in_the_timings(make_pool: MakePool) -> None:
    pool = make_pool()
    jobs = [submit(pool, seconds=0.3), submit(pool, seconds=0.0)]
    first, second = (job.result(60).timings.queue_s for job in jobs)
    assert second > first + 0.25


def learn(pool: ProverPool, seconds: float) -> None:
    """What a proof takes alone, as often as it takes to be believed."""
    for _ in range(2):
        assert submit(pool, seconds=seconds).result(60).verified


def most_at_a_time(pool: ProverPool, jobs: list[Future[ProofResult]]) -> int:
    most = 0
    while not all(job.done() for job in jobs):
        most = max(most, pool.capacity()["proving"])
        time.sleep(0.01)
    assert all(job.result().verified for job in jobs)
    return most


def test_two_at_a_time_are_tried_and_kept_when_it_pays(make_pool: MakePool) -> None:
    pool = make_pool(workers=2)  # sleeping side by side takes no longer than alone
    learn(pool, 0.2)
    for _ in range(2):
        assert most_at_a_time(pool, [submit(pool, seconds=0.4) for _ in range(4)]) == 2


def test_no_job_starts_without_enough_memory(make_pool: MakePool) -> None:
    pool = make_pool(workers=2, queue=0.3)
    for _ in range(2):
        assert submit(pool, seconds=0.1, memory=1 << 60).result(60).verified  # alone it is tried all the same
    running, waiting = submit(pool, seconds=1.0), submit(pool)
    assert waiting.result(60).failure is FailureKind.QUEUE_FULL
    assert running.result(60).verified


def test_a_crash_fails_its_request_only_and_the_pool_heals(make_pool: MakePool, lost: list[str]) -> None:
    pool = make_pool()
    crashed, waiting = submit(pool, die=True), submit(pool)
    assert crashed.result(60).failure is FailureKind.WORKER_CRASHED
    assert waiting.result(60).verified
    assert crashed.result(0).tries == len(lost) == 2
    assert "was killed" in lost[0]


@pytest.mark.parametrize("fault", ["die", "raise", "fail_inside"])
def test_what_the_host_does_to_one_try_is_tried_once_more_on_another_worker(
    make_pool: MakePool, tmp_path: Path, fault: str
) -> None:
    pool = make_pool(workers=2)
    result = submit(pool, once=str(tmp_path / "once"), **{fault: True}).result(60)
    assert result.verified
    assert result.tries == 2
    assert (tmp_path / "once").read_text() != result.detail, "the same worker"


def test_a_hung_worker_is_given_up_while_another_try_can_be_in_time(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool()
    assert submit(pool, seconds=3.0).result(60).verified  # so another try is left time for a slow start of its worker
    result = submit(pool, within=20.0, once=str(tmp_path / "once"), hang=True).result(60)
    assert result.tries == 2


def test_a_circuit_that_kills_worker_after_worker_is_set_aside_until_its_files_change(
    make_pool: MakePool, lost: list[str], tmp_path: Path
) -> None:
    pool = make_pool()
    for _ in range(2):
        assert submit(pool, die=True).result(60).tries == 2
    refused = submit(pool).result(1)
    assert (refused.failure, refused.tries, len(lost)) == (FailureKind.WORKER_CRASHED, 0, 4)
    assert "suspended" in refused.detail
    assert pool.submit("other", {}, time.monotonic() + 20).result(60).verified  # the others are served
    (folder := tmp_path / "circuits" / "model_c").mkdir(parents=True)

    def changed_and_served() -> bool:
        """Its files keep changing: their state is known after the first check."""
        (folder / f"file {len(list(folder.iterdir()))}").touch()
        return submit(pool).result(60).verified

    wait_until(changed_and_served)


def test_no_thread_dies_of_a_log_that_cannot_be_written(make_pool: MakePool, tmp_path: Path, lost: list[str]) -> None:
    (tmp_path / "log").mkdir()
    events = EventLog(Log(directory=tmp_path / "log"))
    try:
        pool = make_pool()
        shutil.rmtree(tmp_path / "log")
        assert not submit(pool, die=True).result(60).verified  # the pool logs that
        assert submit(pool).result(60).verified
        (tmp_path / "log").mkdir()
        assert not submit(pool, die=True).result(60).verified
        assert "lines were lost" in (tmp_path / "log" / "miner.log").read_text()
        pool.close(0)  # a loss is reported after its job is answered
    finally:
        events.close()
    assert len(lost) == 4


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a RAM disk takes root")
def test_a_pool_needs_no_room_on_the_ram_disk(tmp_path: Path) -> None:
    """It starts, proves, and recycles a worker while other processes fill the RAM disk."""
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import prover_work
from pathlib import Path
from omron_miner.constants import Constants, Log, Prover, Sessions
from omron_miner.proving.prover import ProverPool
from omron_miner.proving.worker_process import Work
place = Path({str(tmp_path)!r})
constants = Constants(prover=Prover(workers=1, recycle_after_tasks=1), log=Log(directory=place),
                      sessions=Sessions(fallback_directory=place / "disk"))
pool = ProverPool(constants, print, Work(prover_work.warm_up, prover_work.prove))
pool.start()
makers = set()
until = time.monotonic() + 20
while len(makers) < 2 and time.monotonic() < until:
    makers.add(pool.submit("c", {{}}, time.monotonic() + 20).result().detail)
pool.close(0)
print(len(makers))
"""
    command = [*FULL_SHM, sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_a_worker_that_dies_idle_is_replaced(make_pool: MakePool, lost: list[str]) -> None:
    pool = make_pool()
    pid = worker_of(pool)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: bool(lost))
    assert worker_of(pool) != pid


def test_an_overrun_is_killed_at_its_deadline(make_pool: MakePool) -> None:
    pool = make_pool()
    pid = worker_of(pool)
    assert submit(pool, within=0.4, seconds=600.0).result(60).failure is FailureKind.TIMEOUT
    wait_until(lambda: not psutil.pid_exists(pid))
    assert submit(pool).result(60).verified


def test_who_waits_too_long_is_refused(make_pool: MakePool) -> None:
    pool = make_pool(queue=0.3)
    running, waiting = submit(pool, seconds=2.0), submit(pool)
    assert waiting.result(60).failure is FailureKind.QUEUE_FULL, "it was proved after the other"
    assert running.result(60).verified


def test_cancelling_frees_the_worker(make_pool: MakePool, lost: list[str]) -> None:
    pool = make_pool()
    pid = worker_of(pool)
    running, cancelled, waiting = submit(pool, seconds=30.0), submit(pool), submit(pool)
    wait_until(lambda: pool.capacity()["proving"] == 1)
    pool.cancel(cancelled)
    assert cancelled.result(5).failure is FailureKind.CANCELLED
    assert not running.done(), "it was not the one that was cancelled"
    pool.cancel(running)
    assert running.result(5).failure is FailureKind.CANCELLED
    assert waiting.result(60).detail != str(pid)
    assert lost == []


def test_a_worker_due_for_recycling_serves_until_its_replacement_is_warm(make_pool: MakePool) -> None:
    pool = make_pool(recycle_after_tasks=2)
    old = worker_of(pool)
    assert worker_of(pool) == old
    assert worker_of(pool) == old, "a request waited for the restart"
    wait_until(lambda: worker_of(pool) != old, 60)
    wait_until(lambda: not psutil.pid_exists(old))


def test_a_bug_in_the_worker_is_an_internal_error(make_pool: MakePool) -> None:
    result = submit(make_pool(), **{"raise": True}).result(60)
    assert result.failure is FailureKind.INTERNAL_ERROR
    assert "a bug" in result.detail


def test_workers_leave_the_stop_to_the_miner(make_pool: MakePool) -> None:
    pool = make_pool()
    pid = worker_of(pool)
    job = submit(pool, seconds=0.5)
    wait_until(lambda: pool.capacity()["proving"] == 1)
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGINT)
    assert job.result(60).verified


def test_closing_lets_finish_what_can_and_answers_the_rest(make_pool: MakePool) -> None:
    pool = make_pool()
    pid = worker_of(pool)
    soon, late, waiting = submit(pool, seconds=0.1), submit(pool, seconds=600.0), submit(pool)
    pool.close(1.5)
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
    assert all(job.result(60).verified for job in jobs)


def test_files_of_a_killed_worker_are_swept(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool()
    pid = worker_of(pool)
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]  # part of the session's name
    left = tmp_path / "ram" / f"session-{pid}-{ticks}-x"
    left.mkdir(parents=True)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not left.exists())


def test_a_pool_whose_workers_do_not_start_reports_the_reason(make_pool: MakePool) -> None:
    with pytest.raises(OmronError, match=r"did not start: a worker did not start: .*no EZKL here"):
        make_pool(warm_up=prover_work.refuse_to_start)


def test_a_pool_whose_every_worker_check_fails_still_proves_and_closes(tmp_path: Path) -> None:
    nothing: Any = None
    work: Any = prover_work.prove
    broken = Prover.model_construct(workers=1, recycle_after_tasks=nothing, start_seconds=20.0)
    sessions = Sessions(directory=tmp_path / "ram", fallback_directory=tmp_path / "disk")
    constants = Constants(sessions=sessions).model_copy(update={"prover": broken})
    pool = ProverPool(constants, work=Work(prover_work.warm_up, work))
    pool.start()
    assert submit(pool).result(60).verified
    pool.close(0)


def test_no_code_waits_for_a_future_with_the_builtin_timeout() -> None:
    """On Python 3.10 the TimeoutErrors of concurrent.futures and asyncio are different classes."""
    package = Path(omron_miner.__file__).parent
    waiting = [path for path in package.rglob("*.py") if re.search("concurrent.futures|asyncio", path.read_text())]
    assert len(waiting) > 3
    builtin = re.compile(r"except [^\n]*(?<![\w.])TimeoutError")
    assert [path.name for path in waiting if builtin.search(path.read_text())] == []


def test_workers_die_with_their_parent() -> None:
    program = (
        "import os, time\n"
        "from omron_miner.proving.isolated import die_with_parent\n"
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


def test_a_busy_pool_delays_recycling_instead_of_starting_a_worker_during_a_proof(make_pool: MakePool) -> None:
    pool = make_pool(recycle_after_tasks=2)
    jobs = [submit(pool, seconds=0.1) for _ in range(4)]
    makers = {job.result(60).detail for job in jobs}
    assert len(makers) == 1, "a successor was started while jobs waited"


def test_a_worker_that_dies_after_its_replacement_did_is_replaced_immediately(
    make_pool: MakePool, lost: list[str]
) -> None:
    pool = make_pool(recycle_after_tasks=1)
    old = worker_of(pool)

    def successors() -> list[psutil.Process]:
        children = [child for child in psutil.Process().children() if child.pid != old]
        return [child for child in children if "serve_calls" in " ".join(child.cmdline())]

    wait_until(lambda: bool(successors()))
    for successor in successors():
        successor.kill()
    wait_until(lambda: len(lost) == 1)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: len(lost) == 2)
    wait_until(lambda: pool.capacity()["ready"] == 1)
    assert worker_of(pool) != old
