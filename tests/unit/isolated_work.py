"""Functions for test_isolated: another process must be able to import them."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from omron_miner import progress
from omron_miner.errors import CircuitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from omron_miner.proving.session_storage import SessionStorage

FULL_SHM = (
    "unshare",
    "--mount",
    "sh",
    "-c",
    'mount -t tmpfs -o size=64k tmpfs /dev/shm && ! head -c 1M /dev/zero 2>/dev/null >/dev/shm/fill && exec "$@"',
    "sh",
)
"""Runs a command with a RAM disk of its own that is full."""


def where() -> tuple[int, str | None]:
    return os.getpid(), os.environ.get("EZKL_REPO_PATH")


def count(up_to: int, send: Callable[[str], None]) -> int:
    for number in range(up_to):
        send(str(number))
    return up_to


def say_and_count() -> None:
    progress.say("a line")
    step = progress.count("step", 8)
    for _ in range(8):
        step()


def refuse() -> None:
    raise CircuitError("it will not", "try another")


def fill_the_disk() -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        full.write(b"1")


def fail() -> None:
    raise ZeroDivisionError("a bug")


def abort(last_words: str = "memory allocation of 7521983764243677184 bytes failed") -> None:
    print(last_words, file=sys.stderr, flush=True)
    os.abort()


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def work_and_answer(seconds: float) -> str:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    return "done"


def prove_for_ever(storage: SessionStorage) -> None:
    """Keeps files in a session until it is killed."""
    with storage.session() as session:
        session.path("witness.json").write_text("{}")
        time.sleep(60)


def report_pid_and_hang(path: str) -> None:
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(60)
