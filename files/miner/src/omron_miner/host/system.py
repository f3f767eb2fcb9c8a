"""The operating system: its name, boot, clock, and the Python packages that are installed."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from omron_miner.host.kernel_files import PROC, read_file, read_line


def read_os_release(file: Path = Path("/etc/os-release")) -> dict[str, str]:
    """The keys of os-release(5), such as ID and VERSION_ID; empty when the file cannot be read."""
    found = re.findall(r"""^([A-Z_0-9]+)=(["']?)(.*)\2\s*$""", read_file(file) or "", re.MULTILINE)
    return {key: value for key, _, value in found}


def read_boot_id(proc: Path = PROC) -> str:
    """The kernel's random name of this boot; empty when it cannot be read."""
    return read_line(proc / "sys/kernel/random/boot_id") or ""


def read_uptime(proc: Path = PROC) -> float | None:
    """Seconds since boot; None when /proc/uptime cannot be read."""
    text = read_file(proc / "uptime")
    return float(text.split()[0]) if text else None


def is_clock_synchronized(timesync: Path = Path("/run/systemd/timesync")) -> bool | None:
    """Whether systemd-timesyncd(8) has set the clock, for which it makes a file; None when it does not run."""
    try:
        return (timesync / "synchronized").exists() if timesync.is_dir() else None
    except OSError:
        return None


def installed_version(package: str) -> str | None:
    """A Python package's version; None when it is not installed.

    By the name of its folder: importlib.metadata would take longer than the rest of a monitor's run.
    """
    for folder in sys.path:
        try:
            for entry in os.listdir(folder or "."):
                if entry.startswith(f"{package}-") and entry.endswith(".dist-info"):
                    return entry.removeprefix(f"{package}-").removesuffix(".dist-info")
        except OSError:
            continue
    return None
