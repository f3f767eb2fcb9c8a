"""Whatever native code does to its process, the command that started it gets an answer or a message."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

import isolated_work as work
from omron_miner.errors import CircuitError
from omron_miner.proving.isolated import Child, ProcessLostError, run


def test_the_answer_comes_from_another_process_with_its_own_environment() -> None:
    pid, ezkl = run(work.where, ezkl_directory=Path("/somewhere"))
    assert pid != os.getpid()
    assert ezkl == "/somewhere"
    assert os.environ.get("EZKL_REPO_PATH") != "/somewhere"


def test_what_it_sends_arrives_in_order() -> None:
    received: list[str] = []
    assert run(work.count, 3, receive=received.append) == 3
    assert received == ["0", "1", "2"]


def test_its_progress_is_ours(progress: list[str]) -> None:
    run(work.say_and_count)
    assert progress == ["a line", "step 2 of 8", "step 4 of 8", "step 6 of 8", "step 8 of 8"]


def test_our_errors_arrive_whole() -> None:
    with pytest.raises(CircuitError) as caught:
        run(work.refuse)
    assert (caught.value.message, caught.value.hint) == ("it will not", "try another")


def test_a_full_disk_is_reported_as_one() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        run(work.fill_the_disk)
    assert caught.value.errno == errno.ENOSPC


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)ZeroDivisionError.*isolated_work\.py"):
        run(work.fail)


def test_an_abort_becomes_a_message_with_its_last_output() -> None:
    with pytest.raises(ProcessLostError, match=r"died of SIGABRT; its last output: memory allocation of 752") as caught:
        run(work.abort)
    assert caught.value.signal_number == signal.SIGABRT


def test_a_kill_by_another_process_is_not_blamed_on_memory_or_the_file() -> None:
    with pytest.raises(ProcessLostError, match="was killed") as caught:
        run(work.be_killed)
    assert caught.value.host_fault
    assert caught.value.started
    assert "most likely for lack of memory" not in str(caught.value)


@pytest.mark.parametrize(("wanted", "hint"), [(1 << 62, "is corrupt"), (1 << 20, "memory is short")])
def test_short_memory_is_distinguished_from_a_file_that_requests_the_impossible(wanted: int, hint: str) -> None:
    with pytest.raises(ProcessLostError, match=hint) as caught:
        run(work.abort, f"memory allocation of {wanted} bytes failed")
    assert caught.value.host_fault == (hint == "memory is short")


def test_a_scripts_own_functions_can_be_run(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from omron_miner.proving.isolated import run\ndef f(): return 7\nif __name__ == '__main__': print(run(f))"
    )
    assert subprocess.run([sys.executable, script], capture_output=True, text=True, check=False).stdout == "7\n"


def test_functions_run_where_the_command_was_run_so_that_relative_paths_hold(tmp_path: Path) -> None:
    done = _python(tmp_path, "import os; from omron_miner.proving.isolated import run; print(run(os.getcwd))")
    assert done.stdout.strip() == str(tmp_path)


def test_a_removed_working_directory_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    script = "import os; os.rmdir(os.getcwd()); from omron_miner.proving.isolated import run; print(run(os.getpid) > 0)"
    done = _python(tmp_path / "gone", script)
    assert (done.stdout.strip(), done.stderr) == ("True", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be put where it may not be")
def test_a_folder_that_the_user_may_not_enter_does_not_matter(tmp_path: Path) -> None:
    """As ``cd /root; sudo -u omron omron-miner …``: our working directory, which our child processes may not enter."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    os.chown(closed, 65534, 65534)
    script = "import os; from omron_miner.proving.isolated import run; print(run(os.getcwd))"
    done = _python(closed, script, "setpriv", "--bounding-set=-dac_override,-dac_read_search")
    assert (done.stdout.strip(), done.stderr) == ("/", "")


def test_a_process_that_dies_while_it_starts_is_reported_immediately_and_blames_no_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(ProcessLostError, match=r"ended while it started .*; its last output: ") as caught:
        run(os.getpid)
    assert caught.value.host_fault
    assert not caught.value.started
    assert "corrupt" not in str(caught.value)


def test_a_host_that_lets_no_process_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ProcessLostError, match=r"no process can be started: .*/nowhere/python") as caught:
        run(os.getpid)
    assert caught.value.host_fault
    assert not caught.value.started


def test_a_child_is_called_repeatedly_and_killed_from_another_thread() -> None:
    with Child() as child:
        assert child.call(os.getpid) == child.call(os.getpid) == child.pid
        threading.Timer(0.1, child.kill).start()
        with pytest.raises(ProcessLostError, match="was killed"):
            child.call(time.sleep, 60.0)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a RAM disk takes root")
def test_a_full_ram_disk_does_not_matter(tmp_path: Path) -> None:
    """multiprocessing's semaphores live there; none is made."""
    script = "import os; from omron_miner.proving.isolated import run; print(run(os.getpid) > 0)"
    done = _python(tmp_path, script, *work.FULL_SHM)
    assert (done.stdout.strip(), done.stderr) == ("True", "")


def _python(directory: Path, script: str, *wrapper: str) -> subprocess.CompletedProcess[str]:
    command = [*wrapper, sys.executable, "-c", script]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.slow
def test_a_process_that_hangs_is_ended_and_one_that_works_is_not() -> None:
    with pytest.raises(ProcessLostError, match=r"hung: it used no CPU for 0\.5 s"):
        run(time.sleep, 60.0, idle_seconds=0.5)
    assert run(work.work_and_answer, 1.5, idle_seconds=0.5) == "done"


@pytest.mark.slow
def test_nothing_keeps_running_when_the_command_is_killed(tmp_path: Path) -> None:
    script = "import sys, isolated_work; from omron_miner.proving.isolated import run; " \
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


PROVING = """
import pathlib, sys
import isolated_work
from omron_miner.cli.common import exit_at_sigterm
from omron_miner.constants import Sessions
from omron_miner.proving.isolated import run
from omron_miner.proving.session_storage import SessionStorage

if __name__ == "__main__":
    exit_at_sigterm()
    base = pathlib.Path(sys.argv[1])
    sessions = Sessions(directory=base / "memory", fallback_directory=base / "disk", minimum_free_bytes=0)
    storage = SessionStorage(sessions)
    run(isolated_work.prove_for_ever, storage, sessions=storage)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_terminated_command_leaves_no_session_files(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "script.py"
    script.write_text(PROVING)
    found_by = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": found_by}
    command = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], env=environment, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: [signal.signal(one, signal.default_int_handler if one is signal.SIGINT else signal.SIG_DFL)
                            for one in (signal.SIGINT, signal.SIGHUP)],
    )  # fmt: skip
    until = time.monotonic() + 60
    while not list((tmp_path / "memory").glob("*/witness.json")):
        assert time.monotonic() < until
        time.sleep(0.02)
    command.send_signal(how)
    assert command.wait(60) != 0
    assert list((tmp_path / "memory").iterdir()) == []


def _wait_for(path: Path) -> str:
    until = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return path.read_text()
