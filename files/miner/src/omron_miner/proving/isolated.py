"""Calls functions in a separate process: EZKL may abort, hang, be killed for lack of memory, or crash at exit.

`run` is for commands (building, checking, proving once); each worker of `prover` is a `Child`, which is called
repeatedly.

    our thread                                     the child's main thread
    Child(...)  ── starts Python ────────────────> die_with_parent, enters our folder
                <───────────────────── "ready" ──
    call(f, x)  ── f, x ─────────────────────────> f(x)
                <─────────── "progress", line ... ──
                <─────────────── "sent", text ... ──
                <── "answer", value or "error", e ──
    kill()      ── SIGKILL: call() raises ProcessLostError

The process is a new one, never a fork: a fork of a process that has used EZKL hangs. It is reached by a socket pair
alone: multiprocessing's queues and locks are semaphores in /dev/shm, which other programs may fill.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import traceback
from multiprocessing import connection as pipes
from multiprocessing.spawn import import_main_path
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import psutil

from omron_miner.errors import OmronError
from omron_miner.progress import LineHandler, say, show
from omron_miner.proving.session_storage import SessionStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from multiprocessing.connection import Connection

    from omron_miner.constants import Constants

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_IDLE_CPU_SECONDS = 0.05
_GONE_SECONDS = 5.0
"""How long a process may take to exit after it closed its side."""
_SAFE_FOLDER = "/"
"""Where a child starts: any user may enter it. It then changes to our working directory if permitted."""
_PROGRAM = """
import sys
from multiprocessing.connection import Connection
connection = Connection({descriptor})
sys.path[:] = connection.recv()
from omron_miner.proving.isolated import serve_calls
serve_calls(connection, {parent})
"""
_NO_ALLOCATION = re.compile(r"memory allocation of (\d+) bytes failed")
"""Rust's allocator prints this before it aborts."""
_KERNEL_LOG = "see the kernel's log: journalctl -k"


class ProcessLostError(OmronError):
    """The process exited without an answer.

    `signal_number` is the signal that killed it, None when it exited, hung or did not start. `host_fault`: it is known
    that the host is to blame (killed from outside, short of memory, no process could start), not what it worked on.
    `started`: it was up; if not, the next one is not likely to be either.
    """

    def __init__(
        self,
        message: str,
        hint: str | None = None,
        signal_number: int | None = None,
        host_fault: bool = False,
        started: bool = True,
    ) -> None:
        super().__init__(message, hint)
        self.signal_number = signal_number
        self.host_fault = host_fault
        self.started = started


class Child:
    """A process to call functions in. One thread makes, calls and closes it; any may query and kill it.

    The kernel kills it when the thread that made it ends. Also a context manager, which closes it.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, stderr: int | None = None) -> None:
        """Starts the process, with `environment` added to ours; `stderr`: a file descriptor, None for our own stderr.

        Returns before the process is up. Raises OSError when the host lets no process start.
        """
        self._stderr = stderr
        self._ready = False
        self._ooms = _oom_kills()
        self._connection, theirs = pipes.Pipe()
        try:
            program = _PROGRAM.format(descriptor=theirs.fileno(), parent=os.getpid())
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.DEVNULL,
                stderr=stderr,
                cwd=_SAFE_FOLDER,
                env={**os.environ, **(environment or {})},
                pass_fds=[theirs.fileno()],
            )
        except BaseException:
            self._connection.close()
            raise
        finally:
            theirs.close()
        with contextlib.suppress(OSError):  # it has exited already: the first call reports that
            here = _working_directory()
            self._connection.send([path or here for path in sys.path])
            self._connection.send(here)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def call(
        self,
        function: Callable[..., T],
        *arguments: object,
        receive: Callable[[str], None] | None = None,
        idle_seconds: float | None = None,
    ) -> T:
        """What ``function(*arguments)`` returns there. Function, arguments and answer must be picklable.

        Its progress is reported here. With `receive`, the function gets a keyword argument ``send``, whose texts
        arrive at `receive` as they come. With `idle_seconds` the process is lost when it uses no CPU for so long.
        Raises the function's OmronErrors and OSErrors as they are, ProcessLostError when the process dies, RuntimeError
        with its traceback for anything else it raises.
        """
        scripts = any(getattr(one, "__module__", None) == "__main__" for one in (function, *arguments))
        main = getattr(sys.modules["__main__"], "__file__", None) if scripts else None
        request = pickle.dumps((function, arguments, receive is not None))
        try:
            self._connection.send(main)
            self._connection.send_bytes(request)
        except OSError:
            raise self._lost() from None
        while True:
            kind, value = self._receive(idle_seconds)
            if kind == "ready":
                self._ready = True
            elif kind == "progress":
                say(value)
            elif kind == "sent":
                if receive:
                    receive(value)
            elif kind == "error":
                raise value
            else:
                return value  # type: ignore[no-any-return]

    def cpu_seconds(self) -> float:
        """CPU time it has used so far; 0 when it has exited. Any thread."""
        return _cpu_seconds(self.pid)

    def is_running(self) -> bool:
        """Whether it is running. Any thread."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Kills it; does not wait for its exit. Any thread."""
        self._process.kill()

    def close(self) -> None:
        """Kills it and waits for its exit."""
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def __enter__(self) -> Child:
        """Itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Closes it."""
        self.close()

    def _receive(self, idle_seconds: float | None) -> tuple[str, Any]:
        used = 0.0
        try:
            while not self._connection.poll(idle_seconds):
                before, used = used, self.cpu_seconds()
                if used - before <= _IDLE_CPU_SECONDS:
                    self.kill()
                    raise self._hung(idle_seconds or 0.0)
            content = self._connection.recv_bytes()
        except (EOFError, OSError):
            raise self._lost() from None
        answer: tuple[str, Any] = pickle.loads(content)  # noqa: S301  our own process, our own socket pair
        return answer

    def _hung(self, seconds: float) -> ProcessLostError:
        message = f"the proving process hung: it used no CPU for {seconds:g} s{self._last_output()}"
        return ProcessLostError(message, "check the input values, the files and the run args")

    def _lost(self) -> ProcessLostError:
        """Why the process exited, as far as known."""
        try:
            code = self._process.wait(_GONE_SECONDS)
        except subprocess.TimeoutExpired:  # it closed its side and does not exit
            self.kill()
            code = self._process.wait()
        said = self._last_output()
        if not self._ready and code >= 0:
            message = f"a process ended while it started (exit code {code}){said}"
            return ProcessLostError(message, "run omron-miner doctor", None, host_fault=True, started=False)
        if code >= 0:
            return ProcessLostError(f"the proving process ended with {code}{said}", "run omron-miner doctor")
        number = -code
        if number == signal.SIGKILL:
            hint, message = _who_killed(self._ooms), f"the proving process was killed{said}"
            return ProcessLostError(message, hint, number, host_fault=True)
        message = f"the proving process died of {_signal_name(number)}{said}"
        short = _is_short_of_memory(said)
        hint = _why_aborted(short) if short is not None else _HINTS.get(number, _KERNEL_LOG)
        return ProcessLostError(message, hint, number, host_fault=bool(short) or not self._ready)

    def _last_output(self) -> str:
        """The last line on its stderr, if that was kept, as the end of a sentence."""
        if self._stderr is None:
            return ""
        size = os.fstat(self._stderr).st_size
        text = os.pread(self._stderr, 65_536, max(0, size - 65_536)).decode(errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        return f"; its last output: {lines[-1][:300]}" if lines else ""


def run(
    function: Callable[..., T],
    *arguments: object,
    receive: Callable[[str], None] | None = None,
    ezkl_directory: Path | None = None,
    idle_seconds: float = 120.0,
    sessions: SessionStorage | None = None,
) -> T:
    """What ``function(*arguments)`` returns, called in a new process whose EZKL caches in `ezkl_directory`.

    As `Child.call`, and raises the same. The stderr of native code is kept and shown only when the process is lost,
    which it also is when it uses no CPU for `idle_seconds`: some faults deadlock EZKL's threads. Its leftover
    `sessions` are removed, also when this process is asked to exit.
    """
    with _kept_stderr() as stderr:
        try:
            cache = ezkl_environment(ezkl_directory) if ezkl_directory else {}
            child = Child({"RUST_BACKTRACE": "0", **cache}, stderr)
        except OSError as error:
            message = f"no process can be started: {error}"
            raise ProcessLostError(message, "run omron-miner doctor", None, host_fault=True, started=False) from error
        try:
            with child:
                child.call(_log_to_stderr)
                return child.call(function, *arguments, receive=receive, idle_seconds=idle_seconds)
        finally:
            if sessions:
                sessions.sweep(child.pid)


def run_configured(
    constants: Constants,
    function: Callable[..., T],
    *arguments: object,
    receive: Callable[[str], None] | None = None,
) -> T:
    """As `run`, with EZKL's cache and the sessions where the constants have them."""
    cache, sessions = constants.circuits.ezkl_directory, SessionStorage(constants.sessions)
    return run(function, *arguments, receive=receive, ezkl_directory=cache, sessions=sessions)


def ezkl_environment(directory: Path) -> dict[str, str]:
    """The variable that makes EZKL cache its lookup tables in `directory`, which is made. EZKL reads it once."""
    with contextlib.suppress(OSError):  # only some commands need it, and not every user may write there
        directory.mkdir(parents=True, exist_ok=True)
    return {"EZKL_REPO_PATH": str(directory)}


@contextlib.contextmanager
def _kept_stderr() -> Iterator[int]:
    """A writable descriptor that is not on a disk: a full disk must not stop a command."""
    descriptor = os.memfd_create("omron-miner-stderr")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def die_with_parent(parent: int) -> None:
    """Asks the kernel to kill this process when the thread that started it ends, so that none is left behind.

    `parent` is the starting process's pid: if it is no longer our parent, it died before the call.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


@contextlib.contextmanager
def killed_after(seconds: float) -> Iterator[None]:
    """Has the kernel kill this process when the body takes longer: nothing else stops native code."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def limit_address_space(size: int) -> None:
    """Gives this process, from here on, at most `size` bytes of address space (RLIMIT_AS), as validators do."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = size if hard == resource.RLIM_INFINITY else min(hard, size)
    resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))


# --- why a process exited -----------------------------------------------------------------------------------------

_HINTS: dict[int, str] = {
    signal.SIGBUS: "a file was truncated while it was read, or its file system is full",
    signal.SIGALRM: "it exceeded its time limit",
    signal.SIGTERM: "another process terminated it",
}


def _who_killed(ooms_before: int | None) -> str:
    ooms = _oom_kills()
    if ooms is None or ooms_before is None:
        return f"perhaps for lack of memory: {_KERNEL_LOG}"
    if ooms > ooms_before:
        return "most likely for lack of memory: the kernel killed a process for that meanwhile"
    return f"by another process; the kernel reports no out-of-memory kill; {_KERNEL_LOG}"


def _why_aborted(short_of_memory: bool) -> str:
    return "memory is short" if short_of_memory else "its input file is corrupt: it requests more memory than exists"


def _is_short_of_memory(said: str) -> bool | None:
    """Whether the failed allocation was within the host's RAM; None if memory was not the cause."""
    found = _NO_ALLOCATION.search(said)
    return int(found[1]) <= psutil.virtual_memory().total if found else None


def _oom_kills() -> int | None:
    """How many processes the kernel killed for lack of memory since boot; None when not available."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = Path("/proc/vmstat").read_text(encoding="ascii")
        return int(text.partition("\noom_kill ")[2].split()[0])
    return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _cpu_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return _SAFE_FOLDER


# --- in the separate process --------------------------------------------------------------------------------------


def serve_calls(connection: Connection, parent: int) -> NoReturn:
    """Answers calls until the other side disconnects. Never returns."""
    die_with_parent(parent)  # a killed command leaves no EZKL running
    try:
        with contextlib.suppress(OSError):  # the user may not be allowed where the command was run
            os.chdir(connection.recv())
        connection.send(("ready", None))
        with show(LineHandler(lambda line: connection.send(("progress", line)))):
            while True:
                main, request = connection.recv(), connection.recv_bytes()
                connection.send_bytes(_answer(connection, main, request))
    except (EOFError, OSError):
        pass
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        # EZKL 22's threads crash the interpreter during finalization ("PyGILState_Release …"): exit without it.
        os._exit(0)


def _answer(connection: Connection, main: str | None, request: bytes) -> bytes:
    try:
        if main and sys.modules["__main__"].__name__ != "__mp_main__":
            import_main_path(main)
        function, arguments, may_send = pickle.loads(request)  # noqa: S301  our own parent
        named = {"send": lambda text: connection.send(("sent", text))} if may_send else {}
        return pickle.dumps(("answer", function(*arguments, **named)))
    except (OmronError, OSError) as error:  # OSError: a full disk, for example, which the caller explains
        return pickle.dumps(("error", error))
    except BaseException as error:  # EZKL's panics are not Exceptions
        return pickle.dumps(("error", RuntimeError(f"{error!r}\n{traceback.format_exc()}")))


def _log_to_stderr() -> None:
    """Sends log records to stderr, where the last output of a lost process is read."""
    logging.getLogger().addHandler(logging.StreamHandler(sys.stderr))
