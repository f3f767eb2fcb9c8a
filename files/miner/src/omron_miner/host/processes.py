"""Processes, and which of them are the miner."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omron_miner.host.cpu import TICKS_PER_SECOND
from omron_miner.host.kernel_files import PROC, read_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_COMMAND_NAMES = {"omron-miner", "omron_miner"}
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Process:
    """A process as /proc/PID/stat shows it (proc_pid_stat(5))."""

    pid: int
    parent: int
    cpu_seconds: float
    """Its own, and those of its exited children that were waited for."""
    started_seconds: float
    """Since boot."""
    resident_bytes: int


def miner_tree(proc: Path = PROC, program: str | None = None) -> list[Process]:
    """The oldest visible process ``omron-miner serve`` on this host, then its workers; empty without one.

    With `program` that of the program of this name, such as ``sn2-miner``.
    """
    processes = [one for pid in _pids(proc) if (one := read_process(pid, proc)) is not None]
    runs = _runs(program) if program else is_miner
    mains = [one for one in processes if runs(one.pid, proc)]
    if not mains:
        return []
    tree = [min(mains, key=lambda one: (one.started_seconds, one.pid))]
    children: dict[int, list[Process]] = {}
    for one in processes:
        children.setdefault(one.parent, []).append(one)
    for one in tree:
        tree += children.get(one.pid, [])
    return tree


def is_miner(pid: int, proc: Path = PROC) -> bool:
    """Whether process `pid` runs ``omron-miner serve``; False when it has exited or is not visible."""
    arguments = (read_file(proc / str(pid) / "cmdline") or "").split("\0")
    # "omron-miner serve", "python .../omron-miner serve", "python -m omron_miner serve"
    return "serve" in arguments and any(os.path.basename(argument) in _COMMAND_NAMES for argument in arguments[:3])


def _runs(program: str) -> Callable[[int, Path], bool]:
    def runs(pid: int, proc: Path) -> bool:
        arguments = (read_file(proc / str(pid) / "cmdline") or "").split("\0")
        # "/opt/…/sn2-miner --netuid 2", or "python /opt/…/sn2-miner --netuid 2"
        first, second = (os.path.basename(argument) for argument in [*arguments, ""][:2])
        return first == program or (first.startswith("python") and second == program)

    return runs


def read_process(pid: int, proc: Path = PROC) -> Process | None:
    """The process `pid`; None when it has exited or is not visible."""
    text = read_file(proc / str(pid) / "stat")
    if text is None or ")" not in text:
        return None
    cells = text.rpartition(")")[2].split()  # the name in () may contain anything
    *ticks, started, pages = (int(cells[number - 3]) for number in (14, 15, 16, 17, 22, 24))
    return Process(pid, int(cells[1]), sum(ticks) / TICKS_PER_SECOND, started / TICKS_PER_SECOND, pages * _PAGE_BYTES)


def read_disk_reads(pid: int, proc: Path = PROC) -> int:
    """Bytes that process `pid` and its exited children read from disk; 0 when /proc/PID/io is not readable."""
    found = re.search(r"^read_bytes: (\d+)", read_file(proc / str(pid) / "io") or "", re.MULTILINE)
    return int(found[1]) if found else 0


def _pids(proc: Path) -> list[int]:
    try:
        return [int(name) for name in os.listdir(proc) if name.isdigit()]
    except OSError:
        return []
