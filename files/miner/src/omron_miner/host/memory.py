"""How much memory a process may use: the host's, or less where its control group (cgroup) allows less.

A container, a systemd unit with MemoryMax and a slice each limit their processes, and the kernel kills a process that
exceeds the smallest limit, however much the host has. Both versions of cgroups are read; see cgroups(7) and
the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

import re
import resource
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Memory:
    """RAM that the miner may use; `available_bytes` is available without swapping."""

    total_bytes: int
    available_bytes: int
    limited_by: str = ""
    """The control group that allows less than the host has; empty without one."""

    def limit_in_words(self) -> str:
        """``, limited by <control group>``, to be appended to a size; empty without a limit."""
        return f", limited by {self.limited_by}" if self.limited_by else ""


@dataclass(frozen=True)
class _Version:
    """The names that one version of cgroups gives to its files."""

    limits: tuple[str, ...]
    usage: str
    reclaimable: tuple[str, ...]
    """In memory.stat: page cache that the kernel drops when memory is needed. Files on a tmpfs are not in it."""


_V1 = _Version(("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
# Above memory.high the kernel does not kill but throttles: no proof is in time then.
_V2 = _Version(("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file", "slab_reclaimable"))


def read_memory(pid: int | str = "self", proc: Path = PROC, cgroups: Path = CGROUPS) -> Memory:
    """What process `pid` (this one by default) may use: the smaller of the host's and of every limit above it.

    Total and available are each the smallest. Of a process that cannot be seen only the limit at the root of `cgroups`
    is known, which in most containers is the container's. Raises nothing; both are 0 where /proc has no value.
    """
    host, available = read_host_memory(proc)
    total, limited_by = host, ""
    for group, version in _groups(pid, proc, cgroups):
        limit = min((found for name in version.limits if (found := _number(group / name)) is not None), default=None)
        if limit is None or limit >= host:
            continue
        if limit < total:
            total, limited_by = limit, str(group)
        used = (_number(group / version.usage) or 0) - _reclaimable(group, version)
        available = min(available, max(0, limit - max(0, used)))
    return Memory(total, available, limited_by)


def read_host_memory(proc: Path = PROC) -> tuple[int, int]:
    """Bytes of RAM of the whole host, and of it available by the kernel's own estimate; 0 where not available."""
    values = dict(re.findall(r"^(\w+):\s+(\d+)", _read(proc / "meminfo"), re.MULTILINE))
    return int(values.get("MemTotal", 0)) * 1024, int(values.get("MemAvailable", 0)) * 1024


def peak_memory() -> int:
    """The most bytes of RAM that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _groups(pid: int | str, proc: Path, cgroups: Path) -> Iterator[tuple[Path, _Version]]:
    """The control groups with a memory controller that hold process `pid`, from its own up to the root."""
    paths = {"0": "/", "memory": "/"}
    for line in _read(proc / str(pid) / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for name in ("memory",) if "memory" in controllers.split(",") else ("0",) if number == "0" else ():
            # A path that leaves the namespace ("/../..") or that is not mounted here: the visible part counts.
            paths[name] = "/" if ".." in path.split("/") else path
    for name, root, version in (("memory", cgroups / "memory", _V1), ("0", cgroups, _V2)):
        group = PurePosixPath(paths[name].lstrip("/"))
        yield from ((root / one, version) for one in (group, *group.parents))


def _reclaimable(group: Path, version: _Version) -> int:
    found = dict(re.findall(r"^(\w+) (\d+)$", _read(group / "memory.stat"), re.MULTILINE))
    return sum(int(found.get(name, 0)) for name in version.reclaimable)


def _number(file: Path) -> int | None:
    """The number in `file`; None where there is none: no such file, or ``max``."""
    text = _read(file).strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
