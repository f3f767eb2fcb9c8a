"""The units as they are rendered: sandboxed as systemd's own analysis has it, and what is off is not in them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

ROOT = Path(__file__).parents[2]
UNITS = [
    "omron-pm2",
    "omron-cpu-governor",
    "omron-firewall",
    "omron-fleet-firewall",
    "omron-miner-monitor",
    "omron-sn2-circuits",
]


def render(unit: str, **variables: Any) -> str:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True)  # noqa: S701
    given: dict[str, Any] = {}
    for path in ROOT.glob("roles/*/defaults/main.yml"):
        given |= yaml.safe_load(path.read_text())
    internal = ("pm2_ecosystem", "pm2_home", "pm2_programs", "pm2_node", "pm2_program", "cpu_governor_program")
    given |= {f"__{name}": "/opt/omron-miner/x" for name in (*internal, "firewall_program", "fleet_firewall_rules")}
    given |= {"__pm2_memory_max": "", "__sn2_miner_sync_arguments": ["live", "circuits", "sync"]}
    given |= {"__sn2_miner_environment_file": "/etc/omron-miner/sn2-circuits.env"}
    given |= {"__monitor_tells": True, "__firewall_ports": ["8091/tcp", "8091/udp"]}
    template = environment.from_string((ROOT / f"templates/units/{unit}.service.j2").read_text())
    return template.render({**given, **variables})


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_a_unit_little_exposed(tmp_path: Path, unit: str) -> None:
    file = tmp_path / f"{unit}.service"
    file.write_text(render(unit))
    # In tenths: 4.0. systemd-analyze is on every system that the tests run on, CI's included.
    command: list[str | Path] = ["systemd-analyze", "security", "--offline=true", "--threshold=40", "--no-pager", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


def test_pinning_and_memory_nodes_are_in_the_unit_only_when_asked_for() -> None:
    plain = render("omron-pm2")
    assert not [line for line in plain.splitlines() if line.startswith(("CPUAffinity", "NUMA", "OOMScore"))]
    asked = render(
        "omron-pm2",
        pm2_cpu_affinity="0-15",
        pm2_numa_policy="bind",
        pm2_numa_mask="0",
        pm2_oom_score_adjust=-100,
    )
    added = [line for line in asked.splitlines() if line not in plain.splitlines()]
    assert added == ["OOMScoreAdjust=-100", "CPUAffinity=0-15", "NUMAPolicy=bind", "NUMAMask=0"]


def test_upstreams_miner_has_a_memory_limit_and_writes_to_no_wallet() -> None:
    plain = render("omron-pm2").splitlines()
    live = render("omron-pm2", omron_engine="sn2", __pm2_memory_max="85%").splitlines()
    added = [line for line in live if line not in plain and not line.startswith("#")]
    assert added == [
        "MemoryMax=85%",
        "ReadOnlyPaths=-/var/lib/omron-miner/wallets",
        "ReadWritePaths=-/var/lib/omron-miner/wallets/sn2-miner",
    ]


def test_one_process_that_memory_runs_out_for_does_not_end_the_others() -> None:
    assert "OOMPolicy=continue" in render("omron-pm2").splitlines()


@pytest.mark.parametrize("unit", ["omron-pm2", "omron-firewall", "omron-fleet-firewall"])
def test_a_slow_or_failed_start_at_boot_is_not_the_last(unit: str) -> None:
    """Nobody may look at the host for days; without these the miner does not run, or no validator gets through."""
    lines = render(unit).splitlines()
    assert {"Restart=on-failure", "StartLimitIntervalSec=0", "TimeoutStartSec=300"} <= set(lines)


TLP = """[Unit]
After=multi-user.target NetworkManager.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
[Install]
WantedBy=multi-user.target
"""
PROFILES = """[Unit]
Before=multi-user.target
[Service]
ExecStart=/bin/true
[Install]
WantedBy=graphical.target
"""


def test_the_governors_unit_comes_after_every_program_that_sets_one_at_boot(tmp_path: Path) -> None:
    """Their units as their packages have them: an ordering that goes round in a circle would drop one of them."""
    units = tmp_path / "etc/systemd/system"
    wants = units / "multi-user.target.wants"
    wants.mkdir(parents=True)
    ours = render("omron-cpu-governor", __cpu_governor_program="/bin/true")
    for name, text in (("omron-cpu-governor", ours), ("tlp", TLP), ("power-profiles-daemon", PROFILES)):
        (units / f"{name}.service").write_text(text)
        (wants / f"{name}.service").symlink_to(units / f"{name}.service")
    search = f"{units}:/usr/lib/systemd/system:/lib/systemd/system"
    command = ["systemd-analyze", "verify", "--man=no", "multi-user.target"]
    done = subprocess.run(
        command, env={**os.environ, "SYSTEMD_UNIT_PATH": search}, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert "cycle" not in said, said
    assert done.returncode == 0, said
    after = {name for line in ours.splitlines() if line.startswith("After=") for name in line[6:].split()}
    assert {"tuned.service", "power-profiles-daemon.service", "tlp.service", "auto-cpufreq.service"} <= after
    assert {"cpupower.service", "cpufrequtils.service"} <= after, "preflight names neither: they set it once at boot"
