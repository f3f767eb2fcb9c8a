"""The host's settings: those the play configured (host.toml next to constants.toml) and the kernel's current values.

A setting that is not in host.toml was not configured: it is shown, not checked. Without any host.toml (the play has not
run yet), swap and a slow governor are amber, because every miner needs them changed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from omron_miner.doctor import firewall
from omron_miner.doctor.check import NOT_OURS, Check, Status, check_that, unseen
from omron_miner.engine import OWN_MINER, SN2_PROGRAM, Engine
from omron_miner.formatting import size
from omron_miner.host import (
    file_system_bytes,
    miner_tree,
    read_governors,
    read_line,
    read_memory,
    read_swap,
)
from omron_miner.untrusted import parse_toml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from omron_miner.host import Machine

HOST_FILE = "host.toml"
"""In the folder of constants.toml: the settings that the play applied."""
_SHM = "/dev/shm"  # noqa: S108  the RAM disk itself
_SHM_SLACK = 0.02
"""The kernel rounds to pages, and 75 % of its RAM is not quite 75 % of MemTotal."""
_ELSEWHERE = "this is a container: change it on its host"


class WantedSettings:
    """The expected settings from host.toml; any of them may be absent."""

    def __init__(self, tables: Mapping[str, Any] | None, engine: Engine = OWN_MINER) -> None:
        """`tables`: the file's content, None when there is no file. `engine`: the miner of this host."""
        self.is_there = tables is not None
        self.engine = engine
        self._tables = tables or {}

    def get(self, table: str, key: str) -> Any:
        """The value of `key`; None when it is absent."""
        found = self._tables.get(table)
        return found.get(key) if isinstance(found, dict) else None


def read_wanted(file: Path, engine: Engine = OWN_MINER) -> tuple[WantedSettings, Check]:
    """host.toml at `file` on a host of `engine`, and a check that reports whether it could be read."""
    name, wanted = "host.toml", "written by the play"
    try:
        tables = parse_toml(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return WantedSettings(None, engine), unseen(
            name, wanted, f"{file} is missing", "run the play: until then settings are shown, not checked"
        )
    except (OSError, ValueError) as error:
        return WantedSettings(None, engine), Check(
            name, Status.WARN, wanted, f"{file}: {error}", "run playbooks/host.yml"
        )
    return WantedSettings(tables, engine), Check(name, Status.OK, wanted, str(file))


def host_settings(wanted: WantedSettings, machine: Machine) -> Iterator[Check]:
    """One check per setting."""
    yield _swap(wanted, machine)
    yield _shm(wanted, machine)
    yield _governor(wanted, machine)
    yield from _energy_preference(wanted, machine)
    yield _huge_pages(wanted, machine)
    yield from _sysctl(wanted, machine)
    yield from _overcommit(wanted, machine)
    yield from _limits(wanted, machine)
    yield from firewall.check(wanted.get("firewall", "tcp_ports"), machine)
    udp_ports = wanted.get("firewall", "udp_ports") or []
    if wanted.engine.is_sn2 and wanted.engine.axon_port not in udp_ports:
        udp_ports = [*udp_ports, wanted.engine.axon_port]
    yield from firewall.check(udp_ports, machine, "udp")


def _swap(wanted: WantedSettings, machine: Machine) -> Check:
    devices = read_swap(machine.proc)
    if devices is None:
        return unseen("swap", "off", "/proc/swaps cannot be read")
    live = f"on: {', '.join(device.name for device in devices)}" if devices else "off"
    if wanted.is_there and not wanted.get("swap", "off"):
        return Check("swap", Status.OK, NOT_OURS, live)
    is_ours = wanted.is_there and not machine.is_container
    advice = _ELSEWHERE if machine.is_container else "swapoff -a; to keep it off run the play with --tags swap"
    return check_that("swap", not devices, "off", live, advice, Status.FAIL if is_ours else Status.WARN)


def _shm(wanted: WantedSettings, machine: Machine) -> Check:
    # A share of the memory of the host or container, as in the role; a limit of the miner's unit is separate.
    total, asked = read_memory(1, machine.proc, machine.sys / "fs/cgroup").total_bytes, wanted.get("shm", "size")
    live_bytes = file_system_bytes(_SHM, machine.statvfs)
    if live_bytes is None:
        return unseen(_SHM, str(asked or NOT_OURS), "cannot be seen")
    live = f"{size(live_bytes)}, {100 * live_bytes / total:.0f} % of memory" if total else size(live_bytes)
    wanted_bytes = _shm_bytes(str(asked), total)
    if asked is None or wanted_bytes is None:
        return Check(_SHM, Status.OK, NOT_OURS, live)
    is_well = abs(live_bytes - wanted_bytes) <= _SHM_SLACK * wanted_bytes
    return check_that(_SHM, is_well, str(asked), live, "run the play with --tags shm")


def _shm_bytes(asked: str, memory_bytes: int) -> int | None:
    """Bytes of ``75%`` or ``16G``, the two forms that mount(8) and the role accept."""
    match = re.fullmatch(r"([1-9][0-9]*)([%KMGT]?)", asked.strip(), re.IGNORECASE)
    if not match:
        return None
    number, unit = int(match[1]), match[2].upper()
    return memory_bytes * number // 100 if unit == "%" else number << 10 * " KMGT".index(unit or " ")


def _governor(wanted: WantedSettings, machine: Machine) -> Check:
    name, asked = "CPU governor", wanted.get("cpu", "governor")
    governors = read_governors(machine.sys)
    shown = asked or (NOT_OURS if wanted.is_there else "performance")
    if not governors:
        return Check(name, Status.OK, shown, "no cpufreq on this host")
    live = _on_cpus(governors)
    if wanted.is_there and not asked:
        return Check(name, Status.OK, shown, live)
    is_well = set(governors.values()) == {shown}
    advice = (
        "run the play with --tags cpu_governor: it names a program that resets the governor (tuned, "
        "power-profiles-daemon, TLP, auto-cpufreq)"
    )
    return check_that(name, is_well, shown, live, _ELSEWHERE if machine.is_container else advice)


def _on_cpus(values: Mapping[str, str]) -> str:
    """``performance on 8 CPUs``, or each value with its share."""
    counts = {value: list(values.values()).count(value) for value in sorted(set(values.values()))}
    return ", ".join(f"{value} on {count} CPU{'s' * (count != 1)}" for value, count in counts.items())


def _energy_preference(wanted: WantedSettings, machine: Machine) -> Iterator[Check]:
    """Only on CPUs that have it, or where it was configured."""
    name, asked = "energy preference", wanted.get("cpu", "energy_preference")
    files = machine.sys.glob("devices/system/cpu/cpufreq/policy*/energy_performance_preference")
    found = {file.parent.name: text for file in sorted(files) if (text := read_line(file))}
    if not found:
        if asked:
            yield Check(name, Status.OK, asked, "the CPU has none")
        return
    live = ", ".join(sorted(set(found.values())))
    advice = _ELSEWHERE if machine.is_container else "run the play with --tags cpu_governor"
    yield check_that(name, asked is None or set(found.values()) == {asked}, asked or NOT_OURS, live, advice)


def _huge_pages(wanted: WantedSettings, machine: Machine) -> Check:
    name, asked = "huge pages", wanted.get("kernel", "transparent_hugepages")
    text = read_line(machine.sys / "kernel/mm/transparent_hugepage/enabled")
    chosen = re.search(r"\[(\w+)\]", text or "")
    if not chosen:
        return unseen(name, asked or NOT_OURS, "not in this kernel, or not visible")
    advice = _ELSEWHERE if machine.is_container else "run the play with --tags kernel"
    return check_that(name, asked in (None, chosen[1]), asked or NOT_OURS, chosen[1], advice)


def _sysctl(wanted: WantedSettings, machine: Machine) -> Iterator[Check]:
    for name, asked in (wanted.get("kernel", "sysctl") or {}).items():
        # As sysctl(8): dots separate the parts of the name, a slash in it represents a dot.
        path = name.translate(str.maketrans("./", "/."))
        text = read_line(machine.proc / "sys" / path)
        if text is None:
            yield unseen(name, str(asked), "not in this kernel, or not visible")
            continue
        advice = (
            _ELSEWHERE if machine.is_container else "run the play with --tags kernel; sysctl --system shows who sets it"
        )
        yield check_that(name, text.split() == str(asked).split(), str(asked), " ".join(text.split()), advice)


def _overcommit(wanted: WantedSettings, machine: Machine) -> Iterator[Check]:
    """Where host.toml does not set it: a value of 1 was set deliberately and stays, 2 makes proofs fail."""
    name = "vm.overcommit_memory"
    live = read_line(machine.proc / "sys/vm/overcommit_memory")
    if live not in ("1", "2") or name in (wanted.get("kernel", "sysctl") or {}):
        return
    shown = "1, set by another program such as Redis" if live == "1" else "2"
    advice = _ELSEWHERE if machine.is_container else "large proofs are refused: run the play with --tags kernel"
    yield check_that(name, live == "1", "0 or 1", shown, advice)


def _limits(wanted: WantedSettings, machine: Machine) -> Iterator[Check]:
    """Limits of the running miner, compared with its unit: a changed unit does not affect a running process."""
    names = {"NOFILE": ("open files", "Max open files"), "MEMLOCK": ("locked memory", "Max locked memory")}
    try:
        unit = (machine.root / "etc/systemd/system/omron-pm2.service").read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    asked = {key: found[1] for key in names if (found := re.search(rf"^Limit{key}=(\S+)$", unit, re.MULTILINE))}
    if not asked:
        return
    tree = miner_tree(machine.proc, SN2_PROGRAM if wanted.engine.is_sn2 else None)
    text = read_line(machine.proc / str(tree[0].pid) / "limits") if tree else None
    for key, value in asked.items():
        name, row = names[key]
        found = re.search(rf"^{row}\s+(\S+)", text or "", re.MULTILINE)
        if not found:
            yield unseen(name, value, "the miner does not run, or cannot be seen")
            continue
        is_well = _limit(found[1]) >= _limit(value)
        yield check_that(name, is_well, value, found[1], "systemctl restart omron-pm2")


def _limit(text: str) -> float:
    """A limit as /proc or systemd writes it: ``infinity``, ``8M``, ``65536``; of ``soft:hard`` the soft one."""
    text = text.partition(":")[0]
    match = re.fullmatch(r"([0-9]+)([KMGT]?)", text)
    return float(int(match[1]) << 10 * " KMGT".index(match[2] or " ")) if match else float("inf")
