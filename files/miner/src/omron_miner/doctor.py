"""Checks this host: everything the miner needs, each with what is wanted, what is there, and one line of advice.

Looks only; changes nothing, opens no circuit with EZKL and asks no chain. Best run as root or as the service user,
because others cannot see into the wallet and the session directory: what cannot be seen is "unknown", not "ok".
"""

from __future__ import annotations

import json
import os
import platform
import re
import stat
import subprocess
import time
from dataclasses import asdict, dataclass
from enum import Enum
from importlib import metadata
from typing import TYPE_CHECKING

import psutil

from omron_miner.circuit import FOLDER_PREFIX
from omron_miner.circuit_store import CircuitStore
from omron_miner.constants import read_constants
from omron_miner.errors import ConfigError, SrsError
from omron_miner.monitor import host
from omron_miner.monitor.render import duration, size
from omron_miner.srs import check_srs, test_marker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from omron_miner.constants import Constants, Monitor, Wallet

SUPPORTED_OS = {("debian", "12"), ("debian", "13"), ("ubuntu", "22.04"), ("ubuntu", "24.04")}
MINIMUM_MEMORY_BYTES, WANTED_MEMORY_BYTES = 16_000_000_000, 32_000_000_000
"""16 and 32 GB as they are sold: what a kernel and a hypervisor keep for themselves must not fail a host."""
MINIMUM_CORES, WANTED_CORES = 2, 8
LOW_DISK_BYTES, NO_DISK_BYTES = 20 * 1024**3, 2 * 1024**3
"""A circuit's proving key may be several GiB; below the second not even logs are safe."""
STALE_SUMMARY_SECONDS = 600.0
"""Older than this means that the monitor does not run: its timer's longest interval is half of it."""
_COMMAND_SECONDS = 5.0


class Status(str, Enum):
    """How one check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"
    """Cannot be seen from here."""


@dataclass(frozen=True)
class Check:
    """One thing about this host."""

    name: str
    status: Status
    wanted: str
    live: str
    advice: str
    """The next thing to try; empty when all is well."""


def examine(config: Path) -> list[Check]:
    """All checks of this host against the constants.toml at `config`; without a valid one those that need none."""
    try:
        constants = read_constants(config)
    except ConfigError as error:
        wrong = Check("constants", Status.FAIL, "a valid file", error.message, error.hint or "")
        return [wrong, *_host_checks(is_real=False)]
    return [
        Check("constants", Status.OK, "a valid file", str(config), ""),
        *_host_checks(is_real=constants.network.name != "local"),
        *_ram_disk(constants),
        *_disks(constants),
        _session_directory(constants),
        _ezkl(),
        *_circuits(constants),
        _hotkey(constants),
        _coldkey(constants.wallet),
        _port(constants.axon.port),
        _unit("pm2", "omron-pm2.service", Status.FAIL, "systemctl status omron-pm2; deploy again if it is not there"),
        _unit("monitor timer", "omron-miner-monitor.timer", Status.WARN, "systemctl enable --now it; or deploy again"),
        _summary(constants.monitor),
    ]


def to_json(checks: list[Check]) -> str:
    """One JSON object: the worst status and every check."""
    return (
        json.dumps({"schema_version": 1, "status": worst(checks), "checks": [asdict(check) for check in checks]}) + "\n"
    )


def to_text(checks: list[Check]) -> str:
    """A table, the advice below each line that needs one, the outcome last. Holds colours; `click.echo` drops them
    when it does not write to a terminal.
    """
    colours = {Status.OK: "32", Status.WARN: "33", Status.FAIL: "31", Status.UNKNOWN: "36"}
    name_width = max(len(check.name) for check in checks)
    live_width = min(44, max(len(check.live) for check in checks))
    lines = []
    for check in checks:
        word = f"\x1b[{colours[check.status]}m{check.status.value:7}\x1b[0m"
        lines.append(f"{word}  {check.name:{name_width}}  {check.live:{live_width}}  wanted: {check.wanted}")
        if check.advice:
            lines.append(f"{'':9}{'':{name_width}}  try: {check.advice}")
    counts = ", ".join(
        f"{count} {status.value}" for status in Status if (count := sum(check.status is status for check in checks))
    )
    return "\n".join([*lines, "", f"{worst(checks).value}: {counts}", ""])


def worst(checks: list[Check]) -> Status:
    """FAIL if one failed, else WARN if one warns, else OK: what is unknown is no fault."""
    statuses = {check.status for check in checks}
    return next((status for status in (Status.FAIL, Status.WARN) if status in statuses), Status.OK)


def _host_checks(is_real: bool) -> Iterator[Check]:
    yield _operating_system()
    yield _memory(is_real)
    yield _cores()
    yield _swap()
    yield _governor()
    yield _clock()


def _operating_system() -> Check:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    known = (release.get("ID", ""), release.get("VERSION_ID", "")) in SUPPORTED_OS
    wanted = "Debian 12 or 13, Ubuntu 22.04 or 24.04"
    advice = "" if known else "this system is not tested; use one that is"
    live = release.get("PRETTY_NAME", platform.system())
    return Check("operating system", Status.OK if known else Status.WARN, wanted, live, advice)


def _memory(is_real: bool) -> Check:
    total = psutil.virtual_memory().total
    if total >= WANTED_MEMORY_BYTES:
        status, advice = Status.OK, ""
    elif total >= MINIMUM_MEMORY_BYTES:
        status, advice = Status.WARN, "enough for small circuits; take a larger machine for the others"
    else:
        status = Status.FAIL if is_real else Status.WARN
        advice = "too little for validators' circuits: take a larger machine"
    return Check("memory", status, "32 GB, at least 16 GB", size(total), advice)


def _cores() -> Check:
    count = os.cpu_count() or 1
    status = Status.OK if count >= WANTED_CORES else Status.WARN if count >= MINIMUM_CORES else Status.FAIL
    advice = "" if status is Status.OK else "proofs get faster with cores: 20 to 30 s need 8 to 16"
    return Check("cores", status, f"{WANTED_CORES}, at least {MINIMUM_CORES}", f"{count}", advice)


def _swap() -> Check:
    devices = host.read_swap()
    if devices is None:
        return Check("swap", Status.UNKNOWN, "off", "/proc/swaps cannot be read", "")
    if devices:
        live = f"on: {', '.join(device.name for device in devices)}"
        return Check("swap", Status.FAIL, "off", live, "swapoff -a; to keep it off run the play with --tags swap")
    return Check("swap", Status.OK, "off", "off", "")


def _governor() -> Check:
    governors = host.read_governors()
    if not governors:
        return Check("CPU governor", Status.OK, "performance", "no cpufreq on this host", "")
    slow = {number: governor for number, governor in governors.items() if governor != "performance"}
    if slow:
        live = f"{', '.join(sorted(set(slow.values())))} on {len(slow)} of {len(governors)} CPUs"
        return Check("CPU governor", Status.WARN, "performance", live, "run the play with --tags cpu_governor")
    return Check("CPU governor", Status.OK, "performance", f"performance on {len(governors)} CPUs", "")


def _clock() -> Check:
    answer = _run("timedatectl", "show", "--property=NTPSynchronized", "--value")
    if answer == "yes":
        return Check("clock", Status.OK, "synchronised", "synchronised", "")
    if answer == "no":
        advice = "validators' requests are refused when the clock is off by seconds: timedatectl set-ntp true"
        return Check("clock", Status.WARN, "synchronised", "not synchronised", advice)
    return Check("clock", Status.UNKNOWN, "synchronised", "unknown: timedatectl does not tell", "")


def _ram_disk(constants: Constants) -> Iterator[Check]:
    disk = host.read_ram_disk(constants.sessions.directory)
    if disk is None:
        yield Check("RAM disk", Status.UNKNOWN, "tmpfs", "cannot be seen", "")
        return
    needed, memory = constants.sessions.minimum_free_bytes, psutil.virtual_memory().total
    fits = disk.free_bytes >= needed and disk.size_bytes <= memory
    is_ram = disk.filesystem in ("tmpfs", "ramfs")
    yield Check(
        "RAM disk",
        Status.OK if fits and is_ram else Status.WARN,
        f"tmpfs, {size(needed)} free, at most {size(memory)}",
        f"{disk.mount_point}: {disk.filesystem}, {size(disk.free_bytes)} free of {size(disk.size_bytes)}",
        "" if fits and is_ram else "run the play with --tags shm, and look for files left behind there",
    )
    missing = [option for option in ("rw", "nosuid", "nodev") if option not in disk.options]
    status = Status.OK if not missing else Status.FAIL if "rw" in missing else Status.WARN
    advice = f"mount -o remount,{','.join(missing)} {disk.mount_point}" if missing else ""
    live = ",".join(option for option in disk.options if not option.startswith(("size=", "inode")))
    yield Check("RAM disk options", status, "rw,nosuid,nodev", live, advice)


def _disks(constants: Constants) -> Iterator[Check]:
    for disk in host.read_disks(constants.monitor.directory, constants.log.directory, constants.circuits.directory):
        free = disk.free_bytes
        status = Status.OK if free >= LOW_DISK_BYTES else Status.WARN if free >= NO_DISK_BYTES else Status.FAIL
        advice = "" if status is Status.OK else f"make room: du -xh --max-depth=2 {disk.path}"
        yield Check("disk", status, f"{size(LOW_DISK_BYTES)} free", f"{size(free)} free at {disk.path}", advice)


def _session_directory(constants: Constants) -> Check:
    directory, name, wanted = constants.sessions.directory, "session directory", "0700, the service user's"
    try:
        status = directory.stat()
    except FileNotFoundError:
        return Check(name, Status.WARN, wanted, f"{directory} is missing", "start the miner: it makes the directory")
    except OSError as error:
        return Check(name, Status.UNKNOWN, wanted, str(error), "run this as root")
    return _owned(name, wanted, directory, status, {0o700}, constants)


def _ezkl() -> Check:
    try:
        version = metadata.version("ezkl")
    except metadata.PackageNotFoundError:
        return Check("EZKL", Status.FAIL, "the circuits' version", "not installed", "deploy again")
    return Check("EZKL", Status.OK, "the circuits' version", version, "")


def _circuits(constants: Constants) -> Iterator[Check]:
    circuits = constants.circuits
    store = CircuitStore(circuits)
    usable, refused = [store.get(circuit_id) for circuit_id in store.ids()], store.refused()
    for circuit in usable:
        live = f"{circuit.label}, logrows {circuit.settings.logrows}"
        yield Check(_short(circuit.id), Status.OK, "loads", live, "")
    for folder, reason in refused.items():
        advice = f"build it again or remove {circuits.directory / folder}"
        yield Check(_short(folder.removeprefix(FOLDER_PREFIX)), Status.FAIL, "loads", reason, advice)
    if not usable and not refused:
        live = f"none in {circuits.directory}"
        yield Check("circuits", Status.FAIL, "at least one", live, "set omron_circuits and deploy again")
    for logrows in sorted({circuit.settings.logrows for circuit in usable}):
        yield _srs(logrows, circuits.srs_directory, constants.network.name)


def _srs(logrows: int, directory: Path, network: str) -> Check:
    name = f"SRS {logrows}"
    wanted = "complete" if network == "local" else "complete and of the public ceremony"
    try:
        path = check_srs(logrows, directory, network)
        live = size(path.stat().st_size) + (", for tests only" if test_marker(path).exists() else "")
    except SrsError as error:
        return Check(name, Status.FAIL, wanted, error.message, error.hint or "")
    except OSError as error:
        return Check(name, Status.UNKNOWN, wanted, str(error), "run this as root")
    return Check(name, Status.OK, wanted, live, "")


def _hotkey(constants: Constants) -> Check:
    file, name, wanted = constants.wallet.hotkey_file, "hotkey", "0600, the service user's"
    try:
        status = file.stat()
    except FileNotFoundError:
        advice = "set omron_hotkey_file and deploy again"
        return Check(name, Status.FAIL, wanted, f"{file} is missing", advice)
    except OSError as error:
        return Check(name, Status.UNKNOWN, wanted, str(error), "run this as root")
    return _owned(name, wanted, file, status, {0o600, 0o400}, constants)


def _owned(name: str, wanted: str, path: Path, status: os.stat_result, modes: set[int], constants: Constants) -> Check:
    """Whether `path` has one of `modes` and belongs to the service user, who is the owner of the logs."""
    mode, faults = stat.S_IMODE(status.st_mode), []
    if mode not in modes:
        faults.append(f"chmod {max(modes):04o} {path}")
    try:
        owner = constants.log.directory.stat().st_uid
    except OSError:
        owner = status.st_uid  # no logs, no deploy: other checks say so
    if status.st_uid != owner:
        faults.append(f"chown {owner} {path}")
    live = f"{mode:04o}, owner {status.st_uid}, {path}"
    return Check(name, Status.FAIL if faults else Status.OK, wanted, live, "; ".join(faults))


def _coldkey(wallet: Wallet) -> Check:
    try:
        found = sorted(file for folder in wallet.path.iterdir() if (file := folder / "coldkey").exists())
    except FileNotFoundError:
        found = []
    except OSError as error:  # others may not look in here
        return Check("coldkey", Status.UNKNOWN, "absent", str(error), "run this as root")
    if found:
        advice = "move it off this host at once: whoever owns this host owns the stake"
        return Check("coldkey", Status.FAIL, "absent", str(found[0]), advice)
    return Check("coldkey", Status.OK, "absent", "absent", "")


def _port(port: int) -> Check:
    listening = host.is_listening(port)
    live = {True: "listening", False: "nothing listens", None: "cannot be seen"}[listening]
    status = {True: Status.OK, False: Status.FAIL, None: Status.UNKNOWN}[listening]
    advice = "see the end of miner.log; start with: systemctl restart omron-pm2" if listening is False else ""
    return Check("axon port", status, f"TCP {port} listening", live, advice)


def _unit(name: str, unit: str, otherwise: Status, advice: str) -> Check:
    state = _run("systemctl", "is-active", unit)
    if state is None:
        return Check(name, Status.UNKNOWN, f"{unit} active", "unknown: systemctl does not tell", "")
    is_active = state == "active"
    return Check(name, Status.OK if is_active else otherwise, f"{unit} active", state, "" if is_active else advice)


def _summary(monitor: Monitor) -> Check:
    file, wanted = monitor.directory / "summary.json", f"under {duration(STALE_SUMMARY_SECONDS)} old"
    advice = "systemctl start omron-miner-monitor.service; journalctl -u omron-miner-monitor"
    try:
        age = time.time() - float(json.loads(file.read_text(encoding="utf-8"))["time"])
    except FileNotFoundError:
        return Check("summary", Status.WARN, wanted, f"{file} is missing", advice)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Check("summary", Status.WARN, wanted, f"unreadable: {error}", advice)
    if age > STALE_SUMMARY_SECONDS:
        return Check("summary", Status.WARN, wanted, f"{duration(age)} old", advice)
    return Check("summary", Status.OK, wanted, f"{duration(max(0.0, age))} old", "")


def _short(circuit_id: str) -> str:
    return f"circuit {circuit_id[:8]}"


def _run(*command: str) -> str | None:
    """What `command` prints, one line; None when there is no such command, no systemd behind it or no answer."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # is-active ends with 3 for "inactive": what counts is whether it answered with a word
    answer = done.stdout.strip()
    return answer if re.fullmatch(r"[a-z-]+", answer) else None
