"""The state of this host: processors, memory, RAM disk, swap, governors, disks and the miner's processes.

Read-only and cheap: /proc, /sys and statvfs; no subprocess, no socket. A value that is not available is None, never 0.
Sizes are bytes, durations seconds. The kernel's counters are compared with the last run's `Counters`, so that the share
of busy processors covers the whole time between two runs, not a moment.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from omron_miner import __version__
from omron_miner.circuits.folders import key_sizes
from omron_miner.engine import OWN_MINER, SN2_PROGRAM, Engine
from omron_miner.host import (
    PROC,
    installed_version,
    is_bound,
    is_clock_synchronized,
    is_listening,
    miner_tree,
    read_boot_id,
    read_core_count,
    read_cpu_times,
    read_disk_reads,
    read_disks,
    read_governors,
    read_memory,
    read_os_release,
    read_pressure,
    read_ram_disk,
    read_swap,
    read_uptime,
)
from omron_miner.monitor.model import Clock, Cpu, Host, MinerProcess, Pressure, ProcessMemory, Versions

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.constants import Constants
    from omron_miner.host import Process

SAMPLE_SECONDS = 0.2
"""How long to measure processor use, sleeping, when there is no last run to compare with."""
CLOCK_SLACK_SECONDS = 1.0
"""A clock that moved this much more than the elapsed time was stepped; less is normal synchronisation."""
LONGEST_COMPARISON_SECONDS = 3600.0


@dataclass(frozen=True)
class Counters:
    """The kernel's counters at one moment."""

    boot_id: str
    since_boot: float
    """Seconds, by CLOCK_BOOTTIME, which cannot be set."""
    wall: float
    """Unix time at that moment."""
    cpu: list[float]
    """Seconds of all cores: total, idle, waiting for a disk, stolen by the hypervisor."""
    miner: str = ""
    """The miner's main process: its pid and start."""
    miner_cpu: float = 0.0
    """Seconds of the miner and all its workers, including those that have exited."""
    miner_read_bytes: int = 0

    def dump(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @staticmethod
    def load(data: dict[str, Any] | None) -> Counters | None:
        """The counters that `dump` returned as `data`; None for None."""
        return Counters(**data) if data else None


class Use(NamedTuple):
    """How busy the processors and the miner were between two `Counters`."""

    seconds: float
    percent: float
    """Of all cores together, like the three below."""
    iowait_percent: float
    steal_percent: float
    miner_percent: float
    miner_cores: float
    miner_read_bytes_per_second: float


def count_now(processes: list[Process] | None = None, proc: Path = PROC) -> Counters:
    """The counters of this moment; `processes` are the miner's, looked for when not given."""
    tree = miner_tree(proc) if processes is None else processes
    cpu = read_cpu_times(proc)
    return Counters(
        boot_id=read_boot_id(proc),
        since_boot=time.clock_gettime(time.CLOCK_BOOTTIME),
        wall=time.time(),
        cpu=[cpu.total, cpu.idle, cpu.iowait, cpu.steal],
        miner=f"{tree[0].pid} {tree[0].started_seconds:.2f}" if tree else "",
        miner_cpu=sum(one.cpu_seconds for one in tree),
        miner_read_bytes=sum(read_disk_reads(one.pid, proc) for one in tree),
    )


def is_comparable(last: Counters | None, now: Counters) -> bool:
    """Whether `last` is of the same boot as `now`, and neither too recent nor more than an hour old."""
    if last is None or last.boot_id != now.boot_id:
        return False
    return 0.1 < now.since_boot - last.since_boot < LONGEST_COMPARISON_SECONDS


def use_between(last: Counters, now: Counters) -> Use:
    """How busy processors and miner were from `last` to `now`, two moments of one boot."""
    seconds = now.since_boot - last.since_boot
    total, idle, iowait, steal = (max(0.0, after - before) for before, after in zip(last.cpu, now.cpu, strict=True))
    miner_cpu, miner_read = now.miner_cpu, now.miner_read_bytes
    if last.miner == now.miner:  # otherwise it started in between, at 0
        miner_cpu, miner_read = max(0.0, miner_cpu - last.miner_cpu), max(0, miner_read - last.miner_read_bytes)

    def percent(busy: float) -> float:
        return round(min(100.0, 100.0 * busy / total), 1) if total else 0.0

    return Use(
        seconds=seconds,
        percent=percent(total - idle - iowait),
        iowait_percent=percent(iowait),
        steal_percent=percent(steal),
        miner_percent=percent(miner_cpu),
        miner_cores=miner_cpu / seconds,
        miner_read_bytes_per_second=miner_read / seconds,
    )


def clock_step(last: Counters | None, now: Counters) -> float:
    """Seconds by which the clock was stepped between two moments of one boot; 0 when it was not, or if unknown."""
    if last is None or last.boot_id != now.boot_id:
        return 0.0
    step = now.wall - last.wall - (now.since_boot - last.since_boot)
    return round(step, 3) if abs(step) > CLOCK_SLACK_SECONDS else 0.0


def collect_host(
    constants: Constants, last: Counters | None = None, engine: Engine = OWN_MINER
) -> tuple[Host, Counters]:
    """Everything in `Host`, compared with `last`, and the counters to compare the next run with; `engine`'s miner.

    Without a `last` of this boot, at most an hour old, it takes `SAMPLE_SECONDS` longer. Missing values raise nothing.
    """
    program = SN2_PROGRAM if engine.is_sn2 else None
    port = engine.axon_port if engine.is_sn2 else constants.axon.port
    tree = miner_tree(program=program)
    counters = count_now(tree)
    step = clock_step(last, counters)
    if last is None or not is_comparable(last, counters):
        last = counters
        time.sleep(SAMPLE_SECONDS)
        tree = miner_tree(program=program)
        counters = count_now(tree)
    use = use_between(last, counters)
    loads = [round(load, 2) for load in os.getloadavg()]
    host = Host(
        name=platform.node(),
        uptime_seconds=read_uptime(),
        cpu=Cpu(
            count=read_core_count(),
            percent=use.percent,
            load_1min=loads[0],
            load_5min=loads[1],
            load_15min=loads[2],
            governors=read_governors(),
            iowait_percent=use.iowait_percent,
            steal_percent=use.steal_percent,
            miner_percent=use.miner_percent if tree else None,
            measured_seconds=round(use.seconds, 1),
        ),
        memory=read_memory(tree[0].pid if tree else 1),  # not the monitor's own: its unit has a small limit
        ram_disk=read_ram_disk(constants.sessions.directory),
        swap=read_swap(),
        disks=read_disks(constants.monitor.directory, constants.log.directory, constants.circuits.directory),
        miner=_miner(tree, use),
        port=port,
        port_listening=is_bound(port) if engine.is_sn2 else is_listening(port),
        pressure=Pressure(*(read_pressure(resource) for resource in ("cpu", "memory", "io"))),
        clock=Clock(is_clock_synchronized(), step),
        circuit_keys_bytes=key_sizes(constants.circuits.directory),
    )
    return host, counters


def read_versions() -> Versions:
    """Versions of the software on this host, without importing any of it."""
    return Versions(
        omron_miner=__version__,
        python=platform.python_version(),
        ezkl=installed_version("ezkl"),
        bittensor=installed_version("bittensor"),
        kernel=platform.release(),
        system=read_os_release().get("PRETTY_NAME"),
    )


def _miner(tree: list[Process], use: Use) -> MinerProcess | None:
    if not tree:
        return None
    up = time.clock_gettime(time.CLOCK_BOOTTIME)
    by_process = [
        ProcessMemory(
            one.pid, "worker" if number else "main", one.resident_bytes, round(max(0.0, up - one.started_seconds), 1)
        )
        for number, one in enumerate(tree)
    ]
    return MinerProcess(
        pid=tree[0].pid,
        processes=len(tree),
        uptime_seconds=by_process[0].uptime_seconds,
        resident_bytes=sum(one.resident_bytes for one in tree),
        cpu_cores=round(use.miner_cores, 2),
        by_process=by_process,
        read_bytes_per_second=round(use.miner_read_bytes_per_second, 1),
    )
