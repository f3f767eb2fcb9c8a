"""Processors: their number, CPU time since boot, frequency governors, and how long tasks waited."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omron_miner.host.kernel_files import PROC, SYS, read_file, read_line

if TYPE_CHECKING:
    from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class CpuTimes:
    """Seconds since boot, summed over all cores."""

    total: float
    idle: float
    iowait: float
    """Seconds idle while a task waited for a disk."""
    steal: float
    """Steal time: used by the hypervisor for other guests."""


def read_cpu_times(proc: Path = PROC) -> CpuTimes:
    """The first line of /proc/stat (proc_stat(5)); all 0 when it cannot be read."""
    line = (read_file(proc / "stat") or "").partition("\n")[0].split()[1:9]
    if len(line) < 8:
        return CpuTimes(0.0, 0.0, 0.0, 0.0)
    user, nice, system, idle, iowait, irq, softirq, steal = (int(cell) / TICKS_PER_SECOND for cell in line)
    return CpuTimes(user + nice + system + idle + iowait + irq + softirq + steal, idle, iowait, steal)


def read_core_count(sys: Path = SYS) -> int:
    """Cores that are online; at least 1."""
    cores = 0
    for part in (read_line(sys / "devices/system/cpu/online") or "").split(","):
        if found := re.fullmatch(r"(\d+)(?:-(\d+))?", part):
            cores += int(found[2] or found[1]) - int(found[1]) + 1
    return cores or os.cpu_count() or 1


def read_governors(sys: Path = SYS) -> dict[str, str]:
    """cpufreq's governor by processor number, in number order; empty on a host without cpufreq."""
    governors = {}
    for file in (sys / "devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"):
        text = read_line(file)
        if text is not None:
            governors[file.parts[-3].removeprefix("cpu")] = text
    return dict(sorted(governors.items(), key=lambda item: int(item[0])))


def read_pressure(resource: str, proc: Path = PROC) -> float | None:
    """Percent of the last five minutes in which some task waited for `resource`: cpu, memory or io.

    None when the kernel does not record it. See the kernel's Documentation/accounting/psi.rst.
    """
    found = re.search(r"^some .*avg300=([\d.]+)", read_file(proc / "pressure" / resource) or "", re.MULTILINE)
    return float(found[1]) if found else None
