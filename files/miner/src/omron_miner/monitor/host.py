"""What this host is doing now: processors, memory, RAM disk, swap, governors, disks and the miner's processes.

Only looks, and cheaply: /proc, /sys and statvfs; no subprocess, no socket. A value that cannot be had is None, never 0.
Sizes are bytes, durations seconds. What the kernel counts up is compared with the last run's `Counters`, so that busy
processors are those of the whole time between two runs, not of a moment.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omron_miner import __version__
from omron_miner.monitor.model import (
    Clock,
    Cpu,
    Disk,
    Host,
    Memory,
    MinerProcess,
    Pressure,
    ProcessMemory,
    RamDisk,
    SwapDevice,
    Versions,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omron_miner.constants import Constants

PROC = Path("/proc")
SYS = Path("/sys")
SAMPLE_SECONDS = 0.2
"""How long processor use is measured, asleep, when there is no last run to compare with."""
CLOCK_SLACK_SECONDS = 1.0
"""A clock that moved this much more than time passed was set; less is how programs keep it right."""
LONGEST_COMPARISON_SECONDS = 3600.0
_TCP_LISTEN = "0A"  # include/net/tcp_states.h
_COMMAND_NAMES = {"omron-miner", "omron_miner"}
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Process:
    """A process as /proc/PID/stat tells it (proc(5))."""

    pid: int
    parent: int
    cpu_seconds: float
    """Its own and those of its children that ended and were waited for."""
    started_seconds: float
    """Since boot."""
    resident_bytes: int


@dataclass(frozen=True)
class Counters:
    """What the kernel counts up, at one moment."""

    boot_id: str
    since_boot: float
    """Seconds, by CLOCK_BOOTTIME, which nobody can set."""
    wall: float
    """Unix time at that moment."""
    cpu: list[float]
    """Seconds of all cores: all together, idle, waiting for a disk, stolen."""
    miner: str = ""
    """The miner's main process: its pid and start."""
    miner_cpu: float = 0.0
    """Seconds of the miner and all its workers, those that ended included."""
    miner_read_bytes: int = 0

    def dump(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @staticmethod
    def load(data: dict[str, Any] | None) -> Counters | None:
        """What `dump` made `data` of; None of None."""
        return Counters(**data) if data else None


def count_now(processes: list[Process] | None = None, proc: Path = PROC) -> Counters:
    """The counters of this moment; `processes` are the miner's, looked for when not given."""
    tree = miner_tree(proc) if processes is None else processes
    return Counters(
        boot_id=(_read(proc / "sys/kernel/random/boot_id") or "").strip(),
        since_boot=time.clock_gettime(time.CLOCK_BOOTTIME),
        wall=time.time(),
        cpu=_cpu_times(proc),
        miner=f"{tree[0].pid} {tree[0].started_seconds:.2f}" if tree else "",
        miner_cpu=sum(one.cpu_seconds for one in tree),
        miner_read_bytes=sum(_read_bytes(one.pid, proc) for one in tree),
    )


def collect_host(constants: Constants, last: Counters | None = None) -> tuple[Host, Counters]:
    """Everything in `Host`, compared with `last`, and the counters to compare the next run with.

    Without a `last` of this boot, of at most an hour ago, it takes `SAMPLE_SECONDS` longer. Raises nothing for what
    is missing.
    """
    step = 0.0
    boot_id, now = (_read(PROC / "sys/kernel/random/boot_id") or "").strip(), time.clock_gettime(time.CLOCK_BOOTTIME)
    if last is not None and last.boot_id == boot_id:
        step = time.time() - last.wall - (now - last.since_boot)
    if last is None or last.boot_id != boot_id or not 0.1 < now - last.since_boot < LONGEST_COMPARISON_SECONDS:
        last = count_now()
        time.sleep(SAMPLE_SECONDS)
    tree = miner_tree()
    counters = count_now(tree)
    passed = counters.since_boot - last.since_boot
    every, idle, waiting, stolen = (max(0.0, b - a) for a, b in zip(last.cpu, counters.cpu, strict=True))
    miner_cpu, miner_read = counters.miner_cpu, counters.miner_read_bytes
    if last.miner == counters.miner:  # else it started since, at 0
        miner_cpu, miner_read = max(0.0, miner_cpu - last.miner_cpu), max(0, miner_read - last.miner_read_bytes)
    loads = [round(load, 2) for load in os.getloadavg()]

    def percent(seconds: float) -> float:
        return round(min(100.0, 100.0 * seconds / every), 1) if every else 0.0

    host = Host(
        name=platform.node(),
        uptime_seconds=_uptime(),
        cpu=Cpu(
            count=os.cpu_count() or 1,
            percent=percent(every - idle - waiting),
            load_1min=loads[0],
            load_5min=loads[1],
            load_15min=loads[2],
            governors=read_governors(),
            iowait_percent=percent(waiting),
            steal_percent=percent(stolen),
            miner_percent=percent(miner_cpu) if tree else None,
            measured_seconds=round(passed, 1),
        ),
        memory=read_memory(),
        ram_disk=read_ram_disk(constants.sessions.directory),
        swap=read_swap(),
        disks=read_disks(constants.monitor.directory, constants.log.directory, constants.circuits.directory),
        miner=_miner(tree, miner_cpu / passed, miner_read / passed),
        port=constants.axon.port,
        port_listening=is_listening(constants.axon.port),
        pressure=Pressure(*(read_pressure(what) for what in ("cpu", "memory", "io"))),
        clock=Clock(_synchronized(), round(step, 3) if abs(step) > CLOCK_SLACK_SECONDS else 0.0),
        circuit_keys_bytes=read_key_sizes(constants.circuits.directory),
    )
    return host, counters


def read_versions() -> Versions:
    """What runs here, without importing any of it."""
    release = re.search(r'^PRETTY_NAME="?([^"\n]*)', _read(Path("/etc/os-release")) or "", re.MULTILINE)
    return Versions(
        omron_miner=__version__,
        python=platform.python_version(),
        ezkl=_installed("ezkl"),
        bittensor=_installed("bittensor"),
        kernel=platform.release(),
        system=release[1] if release else None,
    )


def read_memory(proc: Path = PROC) -> Memory:
    """RAM, by the kernel's own estimate of what is available."""
    values = dict(re.findall(r"^(\w+):\s+(\d+)", _read(proc / "meminfo") or "", re.MULTILINE))
    return Memory(int(values.get("MemTotal", 0)) * 1024, int(values.get("MemAvailable", 0)) * 1024)


def read_pressure(what: str, proc: Path = PROC) -> float | None:
    """Percent of the last five minutes in which some task waited for `what`; None when the kernel does not count it."""
    found = re.search(r"^some .*avg300=([\d.]+)", _read(proc / "pressure" / what) or "", re.MULTILINE)
    return float(found[1]) if found else None


def read_governors(sys: Path = SYS) -> dict[str, str]:
    """cpufreq's governor by processor number, in number order; empty on a host without cpufreq."""
    governors = {}
    for file in (sys / "devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"):
        text = _read(file)
        if text is not None:
            governors[file.parts[-3].removeprefix("cpu")] = text.strip()
    return dict(sorted(governors.items(), key=lambda item: int(item[0])))


def read_swap(proc: Path = PROC) -> list[SwapDevice] | None:
    """Every swap device that is on; None when the kernel does not tell."""
    text = _read(proc / "swaps")
    if text is None:
        return None
    devices = []
    for line in text.splitlines()[1:]:
        name, _, size, used, *_ = line.split()
        devices.append(SwapDevice(_unescape(name), int(size) * 1024, int(used) * 1024))
    return devices


def read_ram_disk(session_directory: Path, proc: Path = PROC) -> RamDisk | None:
    """The file system that `session_directory` is or would be on, and the files below the directory."""
    existing = next(path for path in (session_directory, *session_directory.parents) if os.path.exists(path))
    mount = _mount_of(existing, proc)
    try:
        usage = os.statvfs(existing)
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


def read_disks(*paths: Path) -> list[Disk]:
    """The file systems of those `paths` that exist, each once."""
    disks: dict[int, Disk] = {}
    for path in paths:
        try:
            device, usage = path.stat().st_dev, os.statvfs(path)
        except OSError:
            continue
        size, free = usage.f_frsize * usage.f_blocks, usage.f_frsize * usage.f_bavail
        disks.setdefault(device, Disk(str(path), size, free))
    return list(disks.values())


def is_listening(port: int, proc: Path = PROC) -> bool | None:
    """Whether anything on this host listens on TCP `port`; None when the kernel does not tell.

    Asks the kernel's tables: a connection would show up in the miner's own log.
    """
    tables = [text for name in ("tcp", "tcp6") if (text := _read(proc / "net" / name)) is not None]
    if not tables:
        return None
    wanted = f":{port:04X}"
    for table in tables:
        for line in table.splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == _TCP_LISTEN and local.endswith(wanted):
                return True
    return False


def read_key_sizes(directory: Path) -> dict[str, int]:
    """Size of every circuit's proving key below `directory`, by the circuit's id."""
    sizes = {}
    for file in directory.glob("model_*/pk.key"):
        try:
            sizes[file.parent.name.removeprefix("model_")] = file.stat().st_size
        except OSError:
            continue
    return sizes


def circuit_files(directory: Path) -> dict[str, str]:
    """Of every circuit below `directory`, by its id: how many files of how many bytes, and when the last changed."""
    found = {}
    for folder in sorted(directory.glob("model_*")):
        try:
            files = [entry.stat() for entry in os.scandir(folder) if entry.is_file()]
        except OSError:
            continue
        newest = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(max((one.st_mtime for one in files), default=0.0)))
        size = sum(one.st_size for one in files)
        found[folder.name.removeprefix("model_")] = f"{len(files)} files, {size} bytes, last changed {newest} UTC"
    return found


def miner_tree(proc: Path = PROC) -> list[Process]:
    """The oldest process ``omron-miner serve`` on this host that we may see, then its workers; empty without one."""
    processes = [one for pid in _pids(proc) if (one := read_process(pid, proc)) is not None]
    mains = [one for one in processes if _is_miner(one.pid, proc)]
    if not mains:
        return []
    tree = [min(mains, key=lambda one: (one.started_seconds, one.pid))]
    children: dict[int, list[Process]] = {}
    for one in processes:
        children.setdefault(one.parent, []).append(one)
    for one in tree:
        tree += children.get(one.pid, [])
    return tree


def read_process(pid: int, proc: Path = PROC) -> Process | None:
    """The process `pid`; None when it is gone or cannot be seen."""
    text = _read(proc / str(pid) / "stat")
    if text is None or ")" not in text:
        return None
    cells = text.rpartition(")")[2].split()  # the name in () may hold anything
    *ticks, started, pages = (int(cells[number - 3]) for number in (14, 15, 16, 17, 22, 24))
    return Process(pid, int(cells[1]), sum(ticks) / _TICKS, started / _TICKS, pages * _PAGE)


def _pids(proc: Path) -> list[int]:
    try:
        return [int(name) for name in os.listdir(proc) if name.isdigit()]
    except OSError:
        return []


def _is_miner(pid: int, proc: Path) -> bool:
    arguments = (_read(proc / str(pid) / "cmdline") or "").split("\0")
    # "omron-miner serve", "python .../omron-miner serve", "python -m omron_miner serve"
    return "serve" in arguments and any(os.path.basename(argument) in _COMMAND_NAMES for argument in arguments[:3])


def _miner(tree: list[Process], cpu_cores: float, read_bytes_per_second: float) -> MinerProcess | None:
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
        cpu_cores=round(cpu_cores, 2),
        by_process=by_process,
        read_bytes_per_second=round(read_bytes_per_second, 1),
    )


def _cpu_times(proc: Path) -> list[float]:
    """All, idle, waiting and stolen seconds of all cores since boot."""
    line = (_read(proc / "stat") or "").partition("\n")[0].split()[1:9]
    if len(line) < 8:
        return [0.0] * 4
    user, nice, system, idle, waiting, interrupts, soft, stolen = (int(cell) / _TICKS for cell in line)
    return [user + nice + system + idle + waiting + interrupts + soft + stolen, idle, waiting, stolen]


def _read_bytes(pid: int, proc: Path) -> int:
    """What the process, and its children that ended, had fetched from disk; 0 when it is not ours to see."""
    found = re.search(r"^read_bytes: (\d+)", _read(proc / str(pid) / "io") or "", re.MULTILINE)
    return int(found[1]) if found else 0


def _synchronized(run: Path = Path("/run/systemd/timesync")) -> bool | None:
    """systemd-timesyncd(8) makes a file in its directory once it has set the clock."""
    try:
        return (run / "synchronized").exists() if run.is_dir() else None
    except OSError:
        return None


def _installed(name: str) -> str | None:
    """A distribution's version by the name of its folder: importlib.metadata costs more than all the rest of a run."""
    for folder in sys.path:
        try:
            for entry in os.listdir(folder or "."):
                if entry.startswith(f"{name}-") and entry.endswith(".dist-info"):
                    return entry.removeprefix(f"{name}-").removesuffix(".dist-info")
        except OSError:
            continue
    return None


def _uptime(proc: Path = PROC) -> float | None:
    text = _read(proc / "uptime")
    return float(text.split()[0]) if text else None


def _mount_of(path: Path, proc: Path) -> tuple[str, str, str] | None:
    """Mount point, type and options of the file system that holds `path`."""
    best: tuple[str, str, str] | None = None
    for line in (_read(proc / "self/mounts") or "").splitlines():
        _, point, filesystem, options, *_ = line.split()
        point = _unescape(point)
        # <=: of two mounts on one point the later covers the earlier
        if path.is_relative_to(point) and (best is None or len(best[0]) <= len(point)):
            best = (point, filesystem, options)
    return best


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
            except FileNotFoundError:  # a request ended meanwhile
                continue


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _unescape(text: str) -> str:
    """/proc writes a blank in a name as an octal escape."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
