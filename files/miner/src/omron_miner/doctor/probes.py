"""Runs the doctor's checks, each with a time limit, and provides probes that several checks share. Read-only."""

from __future__ import annotations

import ctypes
import os
import re
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from omron_miner.doctor.check import Check, unreadable_advice, unseen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from omron_miner.host import Machine

LIMIT_SECONDS = 20.0
"""For all checks together, which run concurrently: a hanging file system must not block the doctor."""

Group = tuple[str, "Callable[[], Iterable[Check]]"]
"""What is checked, and its checks."""


def side_by_side(groups: Sequence[Group], limit_seconds: float = LIMIT_SECONDS) -> list[Check]:
    """The checks of all `groups`, in order. A group that times out or raises gives a check that reports it."""
    found: list[list[Check]] = [[] for _ in groups]
    threads = [
        threading.Thread(target=_run, args=(name, checks, into), daemon=True)  # a hanging one dies with the process
        for (name, checks), into in zip(groups, found, strict=True)
    ]
    until = time.monotonic() + limit_seconds
    for thread in threads:
        thread.start()
    results = []
    for (name, _), thread, checks_found in zip(groups, threads, found, strict=True):
        thread.join(max(0.0, until - time.monotonic()))
        results += checks_found
        if thread.is_alive():
            advice = "something hangs: check dmesg and the mounts"
            results.append(unseen(name, "an answer", f"none within {limit_seconds:g} s", advice))
    return results


def _run(name: str, checks: Callable[[], Iterable[Check]], into: list[Check]) -> None:
    try:
        for check in checks():  # one by one: results before an exception count
            into.append(check)
    except PermissionError as error:
        into.append(unseen(name, "readable", str(error), unreadable_advice()))
    except Exception as error:
        into.append(unseen(name, "readable", f"{type(error).__name__}: {error}", "report this to the maintainers"))


def as_owner_of(directory: Path, checks: Callable[[], Iterable[Check]]) -> Iterable[Check]:
    """Runs `checks`; if root does so, this thread opens files with the rights of the owner of `directory` from then on.

    root would follow a link that the service user has made in its own folder. setfsuid(2) holds for one thread, whose
    groups stay root's, and not for programs that it starts.
    """
    with suppress(OSError):
        owner = directory.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            libc = ctypes.CDLL(None)
            libc.setfsgid(owner.st_gid)
            libc.setfsuid(owner.st_uid)  # last: it takes away the right to the first
    yield from checks()


def unreadable(folder: Path) -> str | None:
    """Why this user cannot read `folder` or a file in it; None when it can, or it does not exist."""
    try:
        for entry in os.scandir(folder):
            if entry.is_file() and not os.access(entry.path, os.R_OK, effective_ids=True):
                return f"{entry.path} is not readable by this user"
    except PermissionError as error:
        return f"{error.filename or folder}: {error.strerror}"
    except OSError:
        return None
    return None


def clock_offset(machine: Machine) -> tuple[float, str] | None:
    """The clock's offset in seconds, and the program that measured it; None when no program did.

    Queries the time synchronisation programs on this host; no network access.
    """
    found = re.search(r"\boffset=(-?[\d.]+)", machine.run_command("ntpq", "-c", "rv 0 offset") or "")  # ms
    if found:
        return float(found[1]) / 1e3, "ntpd"
    cells = (machine.run_command("chronyc", "-n", "-c", "tracking") or "").split(",")
    if len(cells) > 13 and cells[13].strip() != "Not synchronised":
        with suppress(ValueError):
            return float(cells[4]), "chronyd"
    found = re.search(
        r"^\s*Offset: ([+-]?)(\S.*)$", machine.run_command("timedatectl", "timesync-status") or "", re.MULTILINE
    )
    if found:
        with suppress(ValueError):
            return _seconds(found[2]) * (-1 if found[1] == "-" else 1), "systemd-timesyncd"
    return None


def _seconds(text: str) -> float:
    """Seconds of a time in systemd's format: ``1min 2.5s``, ``1.166ms``. Raises ValueError for anything else."""
    units = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
    parts = [re.fullmatch(r"([\d.]+)(us|ms|s|min|h)", part) for part in text.replace("µs", "us").split()]
    if not parts or not all(parts):
        raise ValueError(f"no time: {text!r}")
    return sum(float(part[1]) * units[part[2]] for part in parts if part)
