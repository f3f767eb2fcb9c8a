"""What the host's tuning would run into: swap that does not fit into memory, other tuners, limits of containers.

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
"""Units that set the governor again while the host runs, with what makes them choose the fastest. Those that set it
once at boot (cpufrequtils, cpupower) come before our unit."""


def tuning_problems(values: Mapping[str, Any], seen: Mapping[str, Any], container: bool) -> list[str]:
    """All of this module, for the inventory's `values` and what was `seen` of the host (``tuning`` of the action)."""
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
        f"{swapped // 1024} MiB are swapped out, and only {max(0, available) // 1024} MiB of memory are free to take "
        "them back when swap is turned off: stop what uses the memory (`ps aux --sort=-rss | head`), restart the host, "
        "or set swap_enabled to false"
    ]


def policies(cpufreq: str) -> int:
    """How many cpufreq policies there are; `cpufreq` has a line ``path:value`` for each of their files."""
    return len(re.findall(r"/scaling_governor:", cpufreq))


def governor_program_problems(governor: str, preference: str, cpufreq: str, units: str) -> list[str]:
    """Programs that run, or will at the next boot, and set another governor or energy preference than these.

    `cpufreq` is as `policies` takes it, `units` what ``systemctl show`` prints of `GOVERNOR_PROGRAMS`. Where the live
    values are as wanted such a program agrees with them.
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
                f"{name} sets the CPU governor and would take {governor} back: turn it off (`systemctl disable --now "
                f"{name}`), or have it choose the same ({GOVERNOR_PROGRAMS[name]}), or leave the governor to it with "
                "cpu_governor_enabled: false"
            )
    return problems


def remount_problems(said: str) -> list[str]:
    """A container that may not size its /dev/shm; `said` is how mount(8) failed there, empty where it did not."""
    if not said:
        return []
    return [
        f"{SHM} cannot be remounted in this container ({said.strip()}): give it its size outside (LXC: "
        "`lxc.mount.entry = tmpfs dev/shm tmpfs rw,nosuid,nodev,size=8G,create=dir 0 0`) and set shm_enabled to false"
    ]


def sandbox_problems(said: str) -> list[str]:
    """A container in which systemd cannot sandbox a service; `said` is what systemd-run wrote."""
    if "Job for " not in said:
        return []
    return [
        "systemd cannot sandbox services in this container, so the miner's units would not start: allow nesting "
        "outside and restart it (Proxmox: `pct set ID --features nesting=1`; Incus or LXD: `incus config set NAME "
        "security.nesting=true`)"
    ]
