"""How the doctor looks: commands, connections and files of the kernel, each with a limit. Changes nothing."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from omron_miner.doctor.check import Check, unseen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

COMMAND_SECONDS = 5.0
CONNECT_SECONDS = 2.0
LIMIT_SECONDS = 20.0
"""For all checks together, which run side by side: a file system that hangs must not take the doctor with it."""
SYS, PROC = Path("/sys"), Path("/proc")

Group = tuple[str, "Callable[[], Iterable[Check]]"]
"""What is looked at, and the checks of it."""


def side_by_side(groups: Sequence[Group], limit_seconds: float = LIMIT_SECONDS) -> list[Check]:
    """The checks of all `groups`, in order. One that gives no answer in time or breaks ends in a check that says so."""
    found: list[list[Check]] = [[] for _ in groups]
    threads = [
        threading.Thread(target=_run, args=(name, checks, into), daemon=True)  # one that hangs ends with the process
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
            advice = "something hangs: look at dmesg, and at what is mounted"
            results.append(unseen(name, "an answer", f"none within {limit_seconds:g} s", advice))
    return results


def _run(name: str, checks: Callable[[], Iterable[Check]], into: list[Check]) -> None:
    try:
        for check in checks():  # one by one: what was found before a break counts
            into.append(check)
    except PermissionError as error:
        into.append(unseen(name, "readable", str(error), "run this as root"))
    except Exception as error:
        into.append(unseen(name, "readable", f"{type(error).__name__}: {error}", "tell the maintainers"))


def ask(*command: str) -> str | None:
    """What `command` prints; None when there is no such command or it does not end in time.

    Its exit code is not looked at: is-active ends with 3 for "inactive".
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip()


def ask_word(*command: str) -> str | None:
    """As `ask`, for commands that answer in one word; None as well when it is no word (no systemd behind it)."""
    answer = ask(*command)
    return answer if answer and re.fullmatch(r"[a-z-]+", answer) else None


def reach(address: str, port: int) -> str | None:
    """Why `address`:`port` takes no TCP connection from this host; None when it does. Sends nothing."""
    try:
        socket.create_connection((address, port), CONNECT_SECONDS).close()
    except TimeoutError:
        return f"no answer within {CONNECT_SECONDS:g} s"
    except OSError as error:
        return error.strerror or str(error)
    return None


def in_container() -> bool:
    """Whether the kernel is another system's: systemd notes at boot what it found itself in."""
    return ask_word("systemd-detect-virt", "--container") not in (None, "none")


def read_line(file: Path) -> str | None:
    """A file of the kernel without its line end; None when it is not there or not ours to read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def file_system_bytes(path: str) -> int | None:
    """Size of the file system at `path`; None when it cannot be seen."""
    try:
        usage = os.statvfs(path)
    except OSError:
        return None
    return usage.f_frsize * usage.f_blocks


def is_rotating(path: Path, sys: Path = SYS, mounts: Path = Path("/proc/self/mountinfo")) -> bool | None:
    """Whether the disks below `path` rotate, as the kernel believes; None when it cannot be told.

    Followed through partitions, LVM, encryption and RAID; one rotating disk makes it rotating. A virtual machine's
    disk is what its hypervisor says it is.
    """
    device = _device_of(path, mounts)
    if device is None:
        return None
    answers = set(_rotational((sys / "dev/block" / device).resolve()))
    return (True in answers) if answers else None


def _device_of(path: Path, mounts: Path) -> str | None:
    """``major:minor`` of the block device that holds `path`; None for a network's or a file system in memory."""
    while not path.exists() and path != path.parent:
        path = path.parent
    number = path.stat().st_dev
    if os.major(number):
        return f"{os.major(number)}:{os.minor(number)}"
    # btrfs and the like have a number of their own: their mount names the device.
    wanted = f"{os.major(number)}:{os.minor(number)}"
    for line in (read_line(mounts) or "").splitlines():
        cells, _, source = line.partition(" - ")
        name = source.split()[1] if len(source.split()) > 1 else ""
        if cells.split()[2] == wanted and name.startswith("/dev/"):
            with suppress(OSError):
                number = os.stat(name).st_rdev
                return f"{os.major(number)}:{os.minor(number)}" if os.major(number) else None
    return None


def _rotational(device: Path) -> Iterable[bool]:
    if (device / "partition").exists():
        device = device.parent
    below = sorted((device / "slaves").glob("*"))
    for slave in below:
        yield from _rotational(slave.resolve())
    flag = read_line(device / "queue/rotational")
    if not below and flag in ("0", "1"):
        yield flag == "1"


def clock_offset() -> tuple[float, str] | None:
    """Seconds this clock is off, and the program that measured it; None when none here did.

    Asks the programs that keep the clock for what they know; the network is not asked.
    """
    found = re.search(r"\boffset=(-?[\d.]+)", ask("ntpq", "-c", "rv 0 offset") or "")  # ms
    if found:
        return float(found[1]) / 1e3, "ntpd"
    cells = (ask("chronyc", "-n", "-c", "tracking") or "").split(",")
    if len(cells) > 13 and cells[13].strip() != "Not synchronised":
        with suppress(ValueError):
            return float(cells[4]), "chronyd"
    found = re.search(r"^\s*Offset: ([+-]?)(\S.*)$", ask("timedatectl", "timesync-status") or "", re.MULTILINE)
    if found:
        with suppress(ValueError):
            return _seconds(found[2]) * (-1 if found[1] == "-" else 1), "systemd-timesyncd"
    return None


def _seconds(text: str) -> float:
    """Of systemd's way to write a time: ``1min 2.5s``, ``1.166ms``. Raises ValueError for anything else."""
    units = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
    parts = [re.fullmatch(r"([\d.]+)(us|ms|s|min|h)", part) for part in text.replace("µs", "us").split()]
    if not parts or not all(parts):
        raise ValueError(f"no time: {text!r}")
    return sum(float(part[1]) * units[part[2]] for part in parts if part)
