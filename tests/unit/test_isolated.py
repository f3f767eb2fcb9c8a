"""Whatever native code does to its process, the command that started it gets an answer or a message."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import isolated_work as work
from omron_miner.errors import CircuitError
from omron_miner.isolated import ProcessLostError, run


def test_the_answer_comes_from_another_process_with_its_own_environment() -> None:
    pid, ezkl = run(work.where, environment={"EZKL_REPO_PATH": "/somewhere"})
    assert pid != os.getpid()
    assert ezkl == "/somewhere"
    assert os.environ.get("EZKL_REPO_PATH") != "/somewhere"


def test_what_it_says_arrives_in_order() -> None:
    heard: list[str] = []
    assert run(work.count, 3, say=heard.append) == 3
    assert heard == ["0", "1", "2"]


def test_our_errors_arrive_whole() -> None:
    with pytest.raises(CircuitError) as caught:
        run(work.refuse)
    assert (caught.value.message, caught.value.hint) == ("it will not", "try another")


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)ZeroDivisionError.*isolated_work\.py"):
        run(work.fail)


def test_an_abort_becomes_a_message_with_its_last_words() -> None:
    with pytest.raises(ProcessLostError, match=r"died of SIGABRT; its last words: memory allocation of 7521") as caught:
        run(work.abort)
    assert caught.value.signal_number == signal.SIGABRT


def test_a_kill_is_put_down_to_memory() -> None:
    with pytest.raises(ProcessLostError, match="most likely for lack of memory"):
        run(work.be_killed)


@pytest.mark.slow
def test_a_process_that_hangs_is_ended_and_one_that_works_is_not() -> None:
    with pytest.raises(ProcessLostError, match=r"hung: it did nothing for 0\.5 s"):
        run(time.sleep, 60.0, idle_seconds=0.5)
    assert run(work.work_and_answer, 1.5, idle_seconds=0.5) == "done"


@pytest.mark.slow
def test_nothing_keeps_running_when_the_command_is_killed(tmp_path: Path) -> None:
    script = "import sys, isolated_work; from omron_miner.isolated import run; " \
        "run(isolated_work.report_pid_and_hang, sys.argv[1])"  # fmt: skip
    path = tmp_path / "pid"
    command = subprocess.Popen([sys.executable, "-c", script, str(path)], cwd=Path(__file__).parent)
    try:
        pid = int(_wait_for(path))
    finally:
        command.kill()
        command.wait()
    _, alive = psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=5)
    assert alive == []


def _wait_for(path: Path) -> str:
    until = time.monotonic() + 10
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return path.read_text()
