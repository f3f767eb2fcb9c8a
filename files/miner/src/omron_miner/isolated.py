"""Runs one function in a process of its own: EZKL may abort, be killed for lack of memory, or crash at exit.

For commands (building, checking, proving once). Requests go to the warm workers of `prover` instead. The process is
spawned, never forked: a fork of a process that has used EZKL hangs.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from omron_miner.errors import OmronError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_IDLE_CPU_SECONDS = 0.05


class ProcessLostError(OmronError):
    """The process ended without an answer; `signal_number` is what killed it, None when it exited by itself."""

    def __init__(self, message: str, hint: str, signal_number: int | None) -> None:
        super().__init__(message, hint)
        self.signal_number = signal_number


def run(
    function: Callable[..., T],
    *arguments: object,
    say: Callable[[str], None] | None = None,
    environment: Mapping[str, str] | None = None,
    idle_seconds: float = 120.0,
) -> T:
    """What ``function(*arguments)`` returns, called in a new process with `environment` added to ours.

    With `say`, the function gets a keyword argument ``say`` whose texts arrive at ours as they come. Function,
    arguments and answer must be picklable. What native code writes to stderr is kept back and only told when the
    process is lost, which it also is when it uses no CPU for `idle_seconds`: some faults leave EZKL's threads waiting
    for each other for ever. Raises the function's OmronErrors as they are, ProcessLostError when the process dies,
    RuntimeError with its traceback for anything else the function raises.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile(prefix="omron-miner-stderr-") as noise:
        job = (function, arguments, say is not None, dict(environment or {}), noise.name)
        process = context.Process(target=_child, args=(os.getpid(), theirs, *job), daemon=True)
        process.start()
        theirs.close()
        try:
            answer = _listen(ours, process, say, idle_seconds)
            if answer is None:
                raise _lost(process, Path(noise.name), idle_seconds)
            process.join(5)  # it answered: all it still has to do is go
        finally:
            process.kill()
            process.join()
    kind, value = answer
    if kind == "error":
        raise value
    return value  # type: ignore[no-any-return]


def _listen(
    connection: Connection, process: BaseProcess, say: Callable[[str], None] | None, idle_seconds: float
) -> tuple[str, Any] | None:
    """The answer; None when the process ended without one or is idle."""
    used = 0.0
    while True:
        try:
            if not connection.poll(idle_seconds):
                before, used = used, _cpu_seconds(process)
                if used - before > _IDLE_CPU_SECONDS:
                    continue
                return None
            kind, value = connection.recv()
        except EOFError:
            process.join()
            return None
        if kind != "say":
            return kind, value
        if say:
            say(value)


def _cpu_seconds(process: BaseProcess) -> float:
    try:
        times = psutil.Process(process.pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _lost(process: BaseProcess, noise: Path, idle_seconds: float) -> ProcessLostError:
    lines = [line for line in noise.read_text(errors="replace").splitlines() if line.strip()]
    said = f"; its last words: {lines[-1][:300]}" if lines else ""
    exit_code = process.exitcode
    if exit_code is None:
        message = f"EZKL's process hung: it did nothing for {idle_seconds:g} s{said}"
        return ProcessLostError(message, "an input or a file it cannot take; see the values and the run args", None)
    if exit_code == -signal.SIGKILL:
        return ProcessLostError("EZKL's process was killed" + said, "most likely for lack of memory", signal.SIGKILL)
    number = -exit_code if exit_code and exit_code < 0 else None
    how = f"died of {signal.Signals(number).name}" if number else f"ended with {exit_code}"
    return ProcessLostError(
        f"EZKL's process {how}{said}", "the file it worked on is broken, or memory is short", number
    )


def die_with_parent(parent: int) -> None:
    """Asks the kernel to kill this process when the thread that started it ends, so that none is left over.

    `parent` is the starting process's pid: when it is not our parent any more, it died before we asked.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


@contextlib.contextmanager
def killed_after(seconds: float) -> Iterator[None]:
    """Has the kernel kill this process when what is inside takes longer: nothing else stops native code."""
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


def _child(
    parent: int,
    connection: Connection,
    function: Callable[..., object],
    arguments: tuple[object, ...],
    with_say: bool,
    environment: dict[str, str],
    noise: str,
) -> None:
    die_with_parent(parent)  # a killed command leaves no EZKL running
    descriptor = os.open(noise, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 2)
    os.environ.update({"RUST_BACKTRACE": "0", **environment})
    logging.getLogger().addHandler(logging.StreamHandler(sys.stderr))
    named = {"say": lambda text: connection.send(("say", text))} if with_say else {}
    try:
        answer = ("answer", function(*arguments, **named))
    except OmronError as error:
        answer = ("error", error)
    except Exception as error:
        import traceback

        answer = ("error", RuntimeError(f"{error!r}\n{traceback.format_exc()}"))
    connection.send(answer)
    connection.close()
    # EZKL 22's threads crash an interpreter that takes itself apart ("PyGILState_Release …"): leave without that.
    os._exit(0)
