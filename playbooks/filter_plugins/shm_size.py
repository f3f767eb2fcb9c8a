"""The size of /dev/shm as an operator writes it: ``75%`` of RAM, or bytes like ``16G``.

Shared by the roles preflight (which lists problems) and shm (which applies the size). Not for other sizes.
"""

from __future__ import annotations

import re
from typing import Any

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
        raise ValueError(f"shm_size {value} is more than the {memory_bytes / 2**30:.1f} GiB of RAM: choose less")
    if size < _MINIMUM_BYTES:
        raise ValueError(f"shm_size {value} is {size} bytes, too little to hold a proof's files: choose at least 64M")
    return size


def shm_size_problems(value: Any, memory_bytes: int) -> list[str]:
    """What is wrong with `value`, as `shm_size_bytes` says it; empty when it is fine."""
    try:
        shm_size_bytes(value, memory_bytes)
    except ValueError as error:
        return [str(error)]
    return []


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """The filters by name."""
        return {"shm_size_bytes": shm_size_bytes, "shm_size_problems": shm_size_problems}
