"""Obstacles to tuning the host: swap that does not fit into memory, other tuning programs, limits of containers.

The host itself (system, memory, port, users) is checked in ``host``, the size of /dev/shm in ``storage``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from omron_preflight.shm_size import SHM, mount_problems

if TYPE_CHECKING:
    from collections.abc import Mapping

_RESERVE_KB = 256 * 1024
"""Memory to leave for the host during swapoff: without it the kernel would kill processes."""

GOVERNOR_PROGRAMS = {
    "tuned.service": "`tuned-adm profile throughput-performance`",
    "power-profiles-daemon.service": "`powerprofilesctl set performance`",
    "tlp.service": "CPU_SCALING_GOVERNOR_ON_AC and CPU_ENERGY_PERF_POLICY_ON_AC=performance in /etc/tlp.conf",
    "auto-cpufreq.service": "governor = performance in /etc/auto-cpufreq.conf",
}
"""Units that set the governor while the host runs, and the setting that makes them choose the fastest. Programs that
set it only at boot (cpufrequtils, cpupower) run before our unit."""


def tuning_problems(values: Mapping[str, Any], seen: Mapping[str, Any], container: bool) -> list[str]:
    """All checks of this module. `seen` is the action's ``tuning``: what was read from the host."""
    problems = []
    if values["swap_enabled"] and not container:
        problems += swap_problems(seen["proc"])
    if values["shm_enabled"]:
        problems += mount_problems(seen["proc"])
        problems += remount_problems(seen["shm_remount"])
    if values["cpu_governor_enabled"] and not container:
        wanted = (values["cpu_governor_name"], values["cpu_governor_energy_preference"])
        problems += governor_program_problems(*wanted, seen["cpufreq"], seen["governor_programs"])
    return problems + sandbox_problems(seen["sandbox"])


def swap_problems(meminfo: str) -> list[str]:
    """Too little free memory for the swapped-out data; `meminfo` holds the text of /proc/meminfo."""
    kb = {name: int(number) for name, number in re.findall(r"^(\w+): +([0-9]+) kB", meminfo, re.MULTILINE)}
    swapped = kb.get("SwapTotal", 0) - kb.get("SwapFree", 0) - kb.get("SwapCached", 0)
    available = kb.get("MemAvailable", 0) - _RESERVE_KB
    if swapped <= 0 or swapped <= available:
        return []
    return [
        f"{swapped // 1024} MiB are swapped out, but only {max(0, available) // 1024} MiB of memory are free to hold "
        "them when swap is turned off: stop what uses the memory (`ps aux --sort=-rss | head`), restart the host, "
        "or set swap_enabled to false"
    ]


def policies(cpufreq: str) -> int:
    """How many cpufreq policies there are; `cpufreq` has a line ``path:value`` for each of their files."""
    return len(re.findall(r"/scaling_governor:", cpufreq))


def governor_program_problems(governor: str, preference: str, cpufreq: str, units: str) -> list[str]:
    """Programs that run, or will at the next boot, and set another governor or energy preference than these.

    `cpufreq` is as for `policies`; `units` is what ``systemctl show`` prints of `GOVERNOR_PROGRAMS`. If the live values
    are the configured ones, such a program agrees with them.
    """
    live = re.findall(r"/(scaling_governor|energy_performance_preference):(\S+)$", cpufreq, re.MULTILINE)
    wanted = {"scaling_governor": governor, "energy_performance_preference": preference}
    if all(value == wanted[file] or not wanted[file] for file, value in live):
        return []
    problems = []
    for block in units.split("\n\n"):
        shown = dict(line.partition("=")[::2] for line in block.splitlines())
        name = shown.get("Id", "")
        on = shown.get("ActiveState") in ("active", "activating") or shown.get("UnitFileState") == "enabled"
        if on and name in GOVERNOR_PROGRAMS:
            problems.append(
                f"{name} sets the CPU governor and would override {governor}: disable it (`systemctl disable --now "
                f"{name}`), configure it to the same governor ({GOVERNOR_PROGRAMS[name]}), or leave the governor to it "
                "with cpu_governor_enabled: false"
            )
    return problems


def remount_problems(said: str) -> list[str]:
    """A container that may not resize its /dev/shm; `said` is mount(8)'s error, empty if it succeeded."""
    if not said:
        return []
    return [
        f"{SHM} cannot be remounted in this container ({said.strip()}): set its size outside (LXC: "
        "`lxc.mount.entry = tmpfs dev/shm tmpfs rw,nosuid,nodev,size=8G,create=dir 0 0`) and set shm_enabled to false"
    ]


def sandbox_problems(said: str) -> list[str]:
    """A container in which systemd cannot sandbox a service; `said` is what systemd-run wrote."""
    if "Job for " not in said:
        return []
    return [
        "systemd cannot sandbox services in this container, so the miner's units would not start: enable nesting "
        "on its host and restart it (Proxmox: `pct set ID --features nesting=1`; Incus or LXD: `incus config set NAME "
        "security.nesting=true`)"
    ]
