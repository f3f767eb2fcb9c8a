"""The host's knobs: what the play was asked for (host.toml beside constants.toml) and what the kernel says now.

A knob that is not in host.toml was not asked for: it is shown and not judged. Where there is no host.toml at all (the
play did not run yet), swap and a slow governor are amber, because every miner wants them otherwise.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import psutil

from omron_miner.doctor import firewall, probes
from omron_miner.doctor.check import NOT_OURS, Check, Status, judged, unseen
from omron_miner.monitor import host
from omron_miner.monitor.render import size

if sys.version_info >= (3, 11):
    import tomllib
else:  # Ubuntu 22.04
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_SHM = "/dev/shm"  # noqa: S108  the RAM disk itself
_SHM_SLACK = 0.02
"""The kernel rounds to pages, and 75 % of its RAM is not quite 75 % of MemTotal."""
_ELSEWHERE = "this is a container: turn it on the system below"


class Wanted:
    """What host.toml asks for; every look-up may come back empty."""

    def __init__(self, tables: Mapping[str, Any] | None) -> None:
        """`tables`: the file's content, None when there is no file."""
        self.is_there = tables is not None
        self._tables = tables or {}

    def get(self, table: str, key: str) -> Any:
        """The value of `key`; None when it is absent."""
        found = self._tables.get(table)
        return found.get(key) if isinstance(found, dict) else None


def read_wanted(file: Path) -> tuple[Wanted, Check]:
    """host.toml, and a check that tells whether it could be read."""
    name, wanted = "host.toml", "written by the play"
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Wanted(None), unseen(name, wanted, f"{file} is missing", "run the play: the host's knobs are only shown")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return Wanted(None), Check(name, Status.WARN, wanted, f"{file}: {error}", "run the play with --tags wanted")
    return Wanted(tables), Check(name, Status.OK, wanted, str(file))


def knobs(wanted: Wanted) -> Iterator[Check]:
    """One check per knob."""
    contained = probes.in_container()
    yield _swap(wanted, contained)
    yield _shm(wanted)
    yield _governor(wanted, contained)
    yield from _energy_preference(wanted, contained)
    yield _huge_pages(wanted, contained)
    yield from _sysctl(wanted, contained)
    yield from _limits(wanted)
    yield from firewall.check(wanted.get("firewall", "tcp_ports"))


def _swap(wanted: Wanted, contained: bool) -> Check:
    devices = host.read_swap()
    if devices is None:
        return unseen("swap", "off", "/proc/swaps cannot be read")
    live = f"on: {', '.join(device.name for device in devices)}" if devices else "off"
    if wanted.is_there and not wanted.get("swap", "off"):
        return Check("swap", Status.OK, NOT_OURS, live)
    is_ours = wanted.is_there and not contained
    advice = _ELSEWHERE if contained else "swapoff -a; to keep it off run the play with --tags swap"
    return judged("swap", not devices, "off", live, advice, Status.FAIL if is_ours else Status.WARN)


def _shm(wanted: Wanted) -> Check:
    total, asked = psutil.virtual_memory().total, wanted.get("shm", "size")
    live_bytes = probes.file_system_bytes(_SHM)
    if live_bytes is None:
        return unseen(_SHM, str(asked or NOT_OURS), "cannot be seen")
    live = f"{size(live_bytes)}, {100 * live_bytes / total:.0f} % of memory"
    wanted_bytes = _shm_bytes(str(asked), total)
    if asked is None or wanted_bytes is None:
        return Check(_SHM, Status.OK, NOT_OURS, live)
    is_well = abs(live_bytes - wanted_bytes) <= _SHM_SLACK * wanted_bytes
    return judged(_SHM, is_well, str(asked), live, "run the play with --tags shm")


def _shm_bytes(asked: str, memory_bytes: int) -> int | None:
    """Bytes of ``75%`` or ``16G``, the two forms that mount(8) and the role take."""
    match = re.fullmatch(r"([1-9][0-9]*)([%KMGT]?)", asked.strip(), re.IGNORECASE)
    if not match:
        return None
    number, unit = int(match[1]), match[2].upper()
    return memory_bytes * number // 100 if unit == "%" else number << 10 * " KMGT".index(unit or " ")


def _governor(wanted: Wanted, contained: bool) -> Check:
    name, asked = "CPU governor", wanted.get("cpu", "governor")
    governors = host.read_governors()
    shown = asked or (NOT_OURS if wanted.is_there else "performance")
    if not governors:
        return Check(name, Status.OK, shown, "no cpufreq on this host")
    live = _on_cpus(governors)
    if wanted.is_there and not asked:
        return Check(name, Status.OK, shown, live)
    is_well = set(governors.values()) == {shown}
    return judged(name, is_well, shown, live, _ELSEWHERE if contained else "run the play with --tags cpu_governor")


def _on_cpus(values: Mapping[str, str]) -> str:
    """``performance on 8 CPUs``, or each value with its share."""
    counts = {value: list(values.values()).count(value) for value in sorted(set(values.values()))}
    return ", ".join(f"{value} on {count} CPU{'s' * (count != 1)}" for value, count in counts.items())


def _energy_preference(wanted: Wanted, contained: bool) -> Iterator[Check]:
    """Only on CPUs that have it, or where it was asked for."""
    name, asked = "energy preference", wanted.get("cpu", "energy_preference")
    files = probes.SYS.glob("devices/system/cpu/cpufreq/policy*/energy_performance_preference")
    found = {file.parent.name: text for file in sorted(files) if (text := probes.read_line(file))}
    if not found:
        if asked:
            yield Check(name, Status.OK, asked, "the CPU has none")
        return
    live = ", ".join(sorted(set(found.values())))
    advice = _ELSEWHERE if contained else "run the play with --tags cpu_governor"
    yield judged(name, asked is None or set(found.values()) == {asked}, asked or NOT_OURS, live, advice)


def _huge_pages(wanted: Wanted, contained: bool) -> Check:
    name, asked = "huge pages", wanted.get("kernel", "transparent_hugepages")
    text = probes.read_line(probes.SYS / "kernel/mm/transparent_hugepage/enabled")
    chosen = re.search(r"\[(\w+)\]", text or "")
    if not chosen:
        return unseen(name, asked or NOT_OURS, "not in this kernel, or not to be seen")
    advice = _ELSEWHERE if contained else "run the play with --tags kernel"
    return judged(name, asked in (None, chosen[1]), asked or NOT_OURS, chosen[1], advice)


def _sysctl(wanted: Wanted, contained: bool) -> Iterator[Check]:
    for name, asked in (wanted.get("kernel", "sysctl") or {}).items():
        # As sysctl(8): dots part the name, a slash in it stands for a dot.
        path = name.translate(str.maketrans("./", "/."))
        text = probes.read_line(probes.PROC / "sys" / path)
        if text is None:
            yield unseen(name, str(asked), "not in this kernel, or not to be seen")
            continue
        advice = _ELSEWHERE if contained else "run the play with --tags kernel; sysctl --system shows who sets it"
        yield judged(name, text.split() == str(asked).split(), str(asked), " ".join(text.split()), advice)


def _limits(wanted: Wanted) -> Iterator[Check]:
    """Of the running miner: what a unit file says is not yet what the process got."""
    names = {"nofile": ("open files", "Max open files"), "memlock": ("locked memory", "Max locked memory")}
    asked = {key: value for key in names if (value := wanted.get("limits", key)) is not None}
    if not asked:
        return
    tree = host.miner_tree()
    text = probes.read_line(probes.PROC / str(tree[0].pid) / "limits") if tree else None
    for key, value in asked.items():
        name, row = names[key]
        found = re.search(rf"^{row}\s+(\S+)", text or "", re.MULTILINE)
        if not found:
            yield unseen(name, str(value), "the miner does not run, or cannot be seen")
            continue
        is_well = _limit(found[1]) >= _limit(str(value))
        yield judged(
            name, is_well, str(value), found[1], "run the play with --tags pm2, then systemctl restart omron-pm2"
        )


def _limit(text: str) -> float:
    """A limit as /proc or systemd writes it: ``infinity``, ``8M``, ``65536``; of ``soft:hard`` the soft one."""
    text = text.partition(":")[0]
    match = re.fullmatch(r"([0-9]+)([KMGT]?)", text)
    return float(int(match[1]) << 10 * " KMGT".index(match[2] or " ")) if match else float("inf")
