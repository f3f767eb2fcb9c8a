"""File systems: free space, the RAM disk of the session files, and whether a disk rotates."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omron_miner.host.kernel_files import PROC, SYS, read_file, read_line, unescape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path


@dataclass(frozen=True)
class RamDisk:
    """The file system of the session directory, and the files in that directory."""

    mount_point: str
    filesystem: str
    options: list[str]
    size_bytes: int
    used_bytes: int
    free_bytes: int
    session_directory: str
    session_files: int | None
    """None: the directory is missing or not readable."""
    session_bytes: int | None
    oldest_session_file_seconds: float | None
    """Age of the oldest file; None without files."""


@dataclass(frozen=True)
class Disk:
    """A file system that we write to; `free_bytes` is what an unprivileged user may still write."""

    path: str
    size_bytes: int
    free_bytes: int


def device_number(path: str | Path) -> int:
    """The number (st_dev) of the device that holds `path`. Raises OSError."""
    return os.stat(path).st_dev


def read_disks(
    *paths: Path,
    statvfs: Callable[[str | Path], os.statvfs_result] = os.statvfs,
) -> list[Disk]:
    """The file systems of those `paths` that exist, each once."""
    disks: dict[int, Disk] = {}
    for path in paths:
        try:
            device, usage = device_number(path), statvfs(path)
        except OSError:
            continue
        size, free = usage.f_frsize * usage.f_blocks, usage.f_frsize * usage.f_bavail
        disks.setdefault(device, Disk(str(path), size, free))
    return list(disks.values())


def file_system_bytes(path: str | Path, statvfs: Callable[[str | Path], os.statvfs_result] = os.statvfs) -> int | None:
    """Size of the file system at `path`; None when it cannot be seen."""
    try:
        usage = statvfs(path)
    except OSError:
        return None
    return usage.f_frsize * usage.f_blocks


def read_ram_disk(
    session_directory: Path,
    proc: Path = PROC,
    statvfs: Callable[[str | Path], os.statvfs_result] = os.statvfs,
) -> RamDisk | None:
    """The file system that `session_directory` is or would be on, and the files below the directory.

    None when the file system cannot be seen.
    """
    existing = next(path for path in (session_directory, *session_directory.parents) if os.path.exists(path))
    mount = mount_of(existing, proc)
    try:
        usage = statvfs(existing)
    except OSError:
        return None
    if mount is None:
        return None
    files = _files_below(session_directory)
    oldest = min((modified for _, modified in files), default=None) if files is not None else None
    return RamDisk(
        mount_point=mount[0],
        filesystem=mount[1],
        options=mount[2].split(","),
        size_bytes=usage.f_frsize * usage.f_blocks,
        used_bytes=usage.f_frsize * (usage.f_blocks - usage.f_bfree),
        free_bytes=usage.f_frsize * usage.f_bavail,
        session_directory=str(session_directory),
        session_files=len(files) if files is not None else None,
        session_bytes=sum(size for size, _ in files) if files is not None else None,
        oldest_session_file_seconds=max(0.0, time.time() - oldest) if oldest is not None else None,
    )


def mount_of(path: Path, proc: Path = PROC) -> tuple[str, str, str] | None:
    """Mount point, type and options of the file system that holds `path`; None when it is not listed."""
    best: tuple[str, str, str] | None = None
    for line in (read_file(proc / "self/mounts") or "").splitlines():
        _, point, filesystem, options, *_ = line.split()
        point = unescape(point)
        # <=: of two mounts on one point the later covers the earlier
        if path.is_relative_to(point) and (best is None or len(best[0]) <= len(point)):
            best = (point, filesystem, options)
    return best


def is_rotating(
    path: Path, sys: Path = SYS, proc: Path = PROC, device_of: Callable[[str | Path], int] = device_number
) -> bool | None:
    """Whether the disks below `path` rotate, according to the kernel; None when not available.

    Followed through partitions, LVM, encryption and RAID; one rotating disk is enough. For a virtual
    machine's disk the hypervisor decides. `device_of` gives the device number of a path.
    """
    device = _block_device(path, proc, device_of)
    if device is None:
        return None
    answers = set(_rotational((sys / "dev/block" / device).resolve()))
    return (True in answers) if answers else None


def _block_device(path: Path, proc: Path, device_of: Callable[[str | Path], int]) -> str | None:
    """``major:minor`` of the block device that holds `path`; None for a file system on a network or in memory."""
    while not path.exists() and path != path.parent:
        path = path.parent
    number = device_of(path)
    if os.major(number):
        return f"{os.major(number)}:{os.minor(number)}"
    # btrfs and others have their own number: their mount names the device.
    wanted = f"{os.major(number)}:{os.minor(number)}"
    for line in (read_line(proc / "self/mountinfo") or "").splitlines():
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


def _files_below(directory: Path) -> list[tuple[int, float]] | None:
    """Size and modification time of every file below `directory`; None when it cannot be listed."""
    try:
        return list(_walk(str(directory)))
    except OSError:
        return None


def _walk(directory: str) -> Iterator[tuple[int, float]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    yield from _walk(entry.path)
                else:
                    status = entry.stat(follow_symlinks=False)
                    yield status.st_size, status.st_mtime
            except FileNotFoundError:  # a request finished in the meantime
                continue
