"""Disks and the RAM disk: free space for what is installed and for the circuits that are copied, /dev/shm's size."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omron_preflight.circuits import prebuilt_keys
from omron_preflight.shm_size import shm_size_bytes, shm_size_problems
from omron_preflight.values import size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


PLACES = ("programs", "state", "logs", "supplied", "circuits", "srs", "transfer")
"""Places whose file systems are measured: programs, state and logs; files copied from the operator, served circuits and
the SRS; and Ansible's temporary files during a transfer."""
_MINIMUM = ("programs", "state", "logs")


class _Disk(NamedTuple):
    """The file system that holds, or will hold, a place."""

    number: str
    free: int
    mount: str
    total: int


def read_disks(measured: str) -> dict[str, _Disk]:
    """The disks by place, of a line for each of `PLACES`: the device's number and what ``df -P -B 1`` prints."""
    disks = {}
    for place, line in zip(PLACES, measured.splitlines(), strict=True):
        number, rest = line.split(maxsplit=1)
        _, total, _, available, _, mount = rest.split(maxsplit=5)
        disks[place] = _Disk(number, int(available), mount, int(total))
    return disks


def disk_problems(measured: str, minimum_mb: int) -> list[str]:
    """Free disk space; `measured` is as `read_disks` has it, `minimum_mb` in MiB per file system."""
    disks = read_disks(measured)
    by_number = {disk.number: disk for disk in (disks[place] for place in _MINIMUM)}
    return [
        f"{disk.free // 2**20} MiB are free on {disk.mount}, at least {minimum_mb} MiB are needed: free or add space, "
        "or lower preflight_minimum_disk_mb"
        for disk in by_number.values()
        if disk.free // 2**20 < minimum_mb
    ]


def _files(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.iterdir() if path.is_file()]


def room_problems(circuits: Any, measured: str, there: Iterable[Mapping[str, Any]], srs_file: Any) -> list[str]:
    """Whether the prebuilt folders fit on the host's disks; `measured` is as for `read_disks`.

    `there` are the proving keys already copied to the host, as the module find lists them: a folder whose key is there,
    with the same size, takes no more space. A circuit is served from a hard link to the copied file, or from a second
    copy on another file system; the SRS is stored twice (the operator's and the installed one); and a file in transfer
    takes its space once more unless it can be moved.
    """
    present = {(Path(str(file["path"])).parent.name, file["size"]) for file in there}
    disks = read_disks(measured)
    copied = [
        file_bytes
        for _, key in prebuilt_keys(circuits)
        if (key.parent.name, key.stat().st_size) not in present
        for file_bytes in _files(key.parent)
    ]
    if not copied:
        return []
    wanted = {"supplied": sum(copied)}
    if disks["circuits"].number != disks["supplied"].number:
        wanted["circuits"] = sum(copied)
    if srs_file and (srs := Path(str(srs_file)).expanduser()).is_file():
        wanted["supplied"] += srs.stat().st_size
        wanted["srs"] = srs.stat().st_size
        copied.append(srs.stat().st_size)
    if disks["transfer"].number != disks["supplied"].number:
        wanted["transfer"] = max(copied)
    by_disk: dict[str, int] = defaultdict(int)
    for place, taken in wanted.items():
        by_disk[disks[place].number] += taken
    by_number = {disk.number: disk for disk in disks.values()}
    return [
        f"the circuits to copy need {size(taken)}, but only {size(disk.free)} are free on {disk.mount}: "
        "free or add space, or copy fewer circuits"
        for number, taken in by_disk.items()
        if (disk := by_number[number]).free < taken
    ]


def shm(values: Mapping[str, Any], memory_bytes: int) -> tuple[int | None, list[str]]:
    """The bytes that `shm_size` makes /dev/shm on a host with `memory_bytes` of RAM, and what is wrong with it.

    None if it is not changed, or cannot be determined.
    """
    if not values["shm_enabled"]:
        return None, []
    problems = shm_size_problems(values["shm_size"], memory_bytes)
    return None if problems else shm_size_bytes(values["shm_size"], memory_bytes), problems
