"""The active swap devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from omron_miner.host.kernel_files import PROC, read_file, unescape

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class SwapDevice:
    """A swap partition, file or zram device that is active."""

    name: str
    size_bytes: int
    used_bytes: int


def read_swap(proc: Path = PROC) -> list[SwapDevice] | None:
    """Every active swap device; None when /proc/swaps cannot be read."""
    text = read_file(proc / "swaps")
    if text is None:
        return None
    devices = []
    for line in text.splitlines()[1:]:
        name, _, size, used, *_ = line.split()
        devices.append(SwapDevice(unescape(name), int(size) * 1024, int(used) * 1024))
    return devices
