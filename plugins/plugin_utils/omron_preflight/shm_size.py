"""The size of /dev/shm as an operator writes it (``75%`` of RAM, or bytes like ``16G``), and how it is put in place.

Preflight lists what is wrong with it, the role shm applies it (through `plugins/filter/shm_size.py`). Not for other
sizes or mounts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from omron_preflight import values

if TYPE_CHECKING:
    from collections.abc import Iterable

SHM = "/dev/shm"  # noqa: S108  the RAM disk itself
_PATTERN = re.compile(r"([1-9][0-9]*)([%KMGT]?)", re.IGNORECASE)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}  # as mount(8) reads them
_MINIMUM_BYTES = 64 * 2**20  # below this the miner counts the RAM disk as full and would never use it
_HOW = 'write a percentage of RAM like "75%" or bytes like "16G", in quotes'


def shm_size_bytes(value: Any, memory_bytes: int) -> int:
    """The bytes `value` stands for on a host with `memory_bytes` of RAM.

    Raises ValueError, saying what to write instead, for YAML booleans, words, other units and fractions, for less than
    64 MiB and for more than the RAM.
    """
    if isinstance(value, bool):
        raise ValueError(f"shm_size is the YAML boolean {str(value).lower()} (on, off, yes and no are): {_HOW}")
    match = _PATTERN.fullmatch(value.strip() if isinstance(value, str) else str(value))
    if not match:
        raise ValueError(f"shm_size {value!r} is not a size: {_HOW}")
    number, unit = int(match[1]), match[2].upper()
    size = memory_bytes * number // 100 if unit == "%" else number * _UNITS[unit]
    if size > memory_bytes:
        raise ValueError(f"shm_size {value} is more than the {values.size(memory_bytes)} of RAM: choose a smaller size")
    if size < _MINIMUM_BYTES:
        raise ValueError(f"shm_size {value} is {size} bytes, too little to hold a proof's files: choose at least 64M")
    return size


def shm_size_problems(value: Any, memory_bytes: int) -> list[str]:
    """The error of `shm_size_bytes`, as a list; empty if `value` is valid."""
    try:
        shm_size_bytes(value, memory_bytes)
    except ValueError as error:
        return [str(error)]
    return []


def shm_tolerance_bytes(value: Any, wanted_bytes: int) -> int:
    """How far the size may be from the `wanted_bytes` that `value` stands for.

    The kernel rounds to pages, and the total RAM, of which a percentage is taken, differs slightly between kernels.
    """
    return wanted_bytes // 100 if "%" in str(value) else 65536


_NOT_FOR_REMOUNT = {"seclabel", "uid", "gid"}
"""Options of a live tmpfs that a remount does not change, and that mount(8) may refuse.

A container with its own user ids (an unprivileged LXC) sees the ids that the owner has outside, which it cannot set.
"""


def visible_mount(mountinfo: str, path: str = SHM) -> dict[str, Any]:
    """``type`` and ``options`` (a list, for a remount) of the mount at `path`; an empty type where there is none.

    `mountinfo` is the text of /proc/self/mountinfo, see proc_pid_mountinfo(5). Of several stacked mounts the top one is
    visible: it is the parent of no other.
    """
    found = {}
    for line in mountinfo.splitlines():
        mount, separator, superblock = line.partition(" - ")
        if not separator:
            continue
        number, parent, _, _, where, options, *_ = mount.split()
        if where == path:
            kind, _, super_options = superblock.split(maxsplit=2)
            both = [*options.split(","), *super_options.split(",")]
            kept = [option for option in dict.fromkeys(both) if option.partition("=")[0] not in _NOT_FOR_REMOUNT]
            found[number] = (parent, {"type": kind, "options": kept})
    parents = {parent for parent, _ in found.values()}
    tops = [mount for number, (_, mount) in found.items() if number not in parents]
    return tops[-1] if tops else {"type": "", "options": []}


def mount_problems(mountinfo: str) -> list[str]:
    """A /dev/shm that is no tmpfs and so has no size to set; `mountinfo` as for `visible_mount`."""
    kind = visible_mount(mountinfo)["type"]
    if kind == "tmpfs":
        return []
    found = f"is a mount of the type {kind}" if kind else "is not mounted"
    return [
        f"{SHM} {found}, but must be a tmpfs: mount one (`mount -t tmpfs -o nosuid,nodev tmpfs {SHM}`; "
        "for a container, in its configuration), or set shm_enabled to false and omron_session_directory to a folder "
        "on disk"
    ]


_NOT_TO_BE_SET = {"size", "nr_blocks", "seclabel"}
"""Options that are a tmpfs's size, or that mount(8) refuses."""
_NOT_FOR_FSTAB = {"rw", "relatime", "inode32", "inode64", "noswap", "usrquota", "grpquota"}
"""The kernel's defaults, and options that systemd's remount at boot cannot turn on."""


def sized_options(options: Iterable[str], size_bytes: int) -> str:
    """The live `options` of a tmpfs for a remount that changes nothing but its size."""
    kept = [option for option in options if option.partition("=")[0] not in _NOT_TO_BE_SET]
    return ",".join([*kept, f"size={size_bytes}"])


def fstab_entry(line: str, live_options: Iterable[str], size_bytes: int, tolerance_bytes: int) -> dict[str, str]:
    """``source``, ``options``, ``dump`` and ``pass`` for the line of /dev/shm in /etc/fstab.

    `line` is the one that is there: only its size changes, and not by less than `tolerance_bytes`. Where it is empty,
    the mount's `live_options` become the line's.
    """
    fields = dict(zip(("source", "path", "type", "options", "dump", "pass"), line.split(), strict=False))
    given = fields.get("options", "")
    if line:
        kept = [option for option in given.split(",") if option.partition("=")[0] not in _NOT_TO_BE_SET]
        size = re.search(r"(?:^|,)size=([0-9]+)([KMGT]?)(?:,|$)", given, re.IGNORECASE)
        there = int(size[1]) * _UNITS[size[2].upper()] if size else None
        if there is not None and abs(there - size_bytes) <= tolerance_bytes:
            size_bytes = there
    else:
        kept = [o for o in live_options if o.partition("=")[0] not in _NOT_TO_BE_SET | _NOT_FOR_FSTAB]
    kept = [option for option in kept if option != "defaults"]
    return {
        "source": fields.get("source", "tmpfs"),
        "options": ",".join([*kept, f"size={size_bytes}"]),
        "dump": fields.get("dump", "0"),
        "pass": fields.get("pass", "0"),
    }
