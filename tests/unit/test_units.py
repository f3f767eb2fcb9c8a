"""The units as they are rendered: sandboxed as far as systemd itself can judge, and what is off is not in them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

ROOT = Path(__file__).parents[2]
UNITS = ["omron-pm2", "omron-cpu-governor", "omron-firewall", "omron-miner-monitor"]


def render(unit: str, **variables: Any) -> str:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True)  # noqa: S701
    given: dict[str, Any] = {}
    for path in ROOT.glob("roles/*/defaults/main.yml"):
        given |= yaml.safe_load(path.read_text())
    given |= yaml.safe_load((ROOT / "playbooks/group_vars/all.yml").read_text())
    internal = ("pm2_ecosystem", "pm2_home", "pm2_directory", "pm2_node", "pm2_program", "cpu_governor_program")
    given |= {f"__{name}": "/opt/omron-miner/x" for name in (*internal, "firewall_program")}
    given |= {"ansible_managed": "managed", "__monitor_tells": True, "firewall_tcp_ports": [8091]}
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


def test_one_process_that_memory_runs_out_for_does_not_end_the_others() -> None:
    assert "OOMPolicy=continue" in render("omron-pm2").splitlines()
