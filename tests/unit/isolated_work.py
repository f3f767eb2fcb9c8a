"""Functions for test_isolated: another process must be able to import them."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from omron_miner.errors import CircuitError

if TYPE_CHECKING:
    from collections.abc import Callable


def where() -> tuple[int, str | None]:
    return os.getpid(), os.environ.get("EZKL_REPO_PATH")


def count(up_to: int, say: Callable[[str], None]) -> int:
    for number in range(up_to):
        say(str(number))
    return up_to


def refuse() -> None:
    raise CircuitError("it will not", "try another")


def fail() -> None:
    raise ZeroDivisionError("a bug")


def abort() -> None:
    print("memory allocation of 7521983764243677184 bytes failed", file=sys.stderr, flush=True)
    os.abort()


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def work_and_answer(seconds: float) -> str:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    return "done"


def report_pid_and_hang(path: str) -> None:
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(60)
