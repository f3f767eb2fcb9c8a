"""host.toml says what is asked of the host, as the doctor reads it, and nothing about what is switched off."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
import tomllib
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def render(**variables: Any) -> dict[str, Any]:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True)  # noqa: S701
    environment.filters |= {"to_json": json.dumps, "bool": bool}
    defaults = yaml.safe_load((ROOT / "roles/wanted/defaults/main.yml").read_text())
    template = environment.from_string((ROOT / "templates/host.toml.j2").read_text())
    return tomllib.loads(template.render({"ansible_managed": "managed", **defaults, **variables}))


def test_nothing_is_wanted_of_a_host_whose_roles_are_off() -> None:
    assert render() == {}


def test_everything_that_is_wanted_is_there_under_its_name() -> None:
    assert render(
        wanted_swap_off=True,
        wanted_shm_size="75%",
        wanted_cpu_governor="performance",
        wanted_cpu_energy_preference="performance",
        wanted_kernel_transparent_hugepages="madvise",
        wanted_kernel_sysctl={"vm.overcommit_memory": 0},
        wanted_clock_synchronised=True,
        wanted_firewall_tcp_ports=[8091],
        wanted_limits_nofile=65536,
        wanted_limits_memlock="8M",
    ) == {
        "swap": {"off": True},
        "shm": {"size": "75%"},
        "cpu": {"governor": "performance", "energy_preference": "performance"},
        "kernel": {"transparent_hugepages": "madvise", "sysctl": {"vm.overcommit_memory": "0"}},
        "clock": {"synchronised": True},
        "firewall": {"tcp_ports": [8091]},
        "limits": {"nofile": 65536, "memlock": "8M"},
    }


def written(tmp_path: Path, variables: dict[str, Any]) -> dict[str, Any]:
    """host.toml as playbooks/host.yml would write it, in a dry run on this machine that looks at nothing else."""
    [play] = yaml.safe_load((ROOT / "playbooks/host.yml").read_text())
    play |= {"hosts": "localhost", "connection": "local", "become": False, "gather_facts": False}
    play["roles"] = [role for role in play["roles"] if role["role"] != "preflight"]  # it judges this machine
    play["vars_files"] = [str(ROOT / "playbooks/group_vars/all.yml")]
    playbook = tmp_path / "host.yml"
    playbook.write_text(yaml.safe_dump([play]))
    given = tmp_path / "given.yml"
    given.write_text(yaml.safe_dump({**variables, "omron_etc": str(tmp_path / "etc")}))
    command: list[str | Path] = [BIN / "ansible-playbook", "-i", "localhost,", playbook, "-e", f"@{given}"]
    command += ["-e", f"ansible_python_interpreter={sys.executable}", "--tags=wanted", "--check", "--diff"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line[1:] for line in done.stdout.splitlines() if line[:1] == "+" and line[:2] != "++"]
    return tomllib.loads("\n".join(lines[lines.index("# Ansible managed") :]))


@pytest.mark.slow
def test_the_playbook_writes_down_the_roles_defaults(tmp_path: Path) -> None:
    assert written(tmp_path, {}) == {
        "swap": {"off": True},
        "shm": {"size": "75%"},
        "cpu": {"governor": "performance", "energy_preference": "performance"},
        "kernel": {"sysctl": {"vm.overcommit_memory": "0"}},
        "clock": {"synchronised": True},
        "firewall": {"tcp_ports": [8091]},
        "limits": {"nofile": 65536},
    }


@pytest.mark.slow
def test_a_port_that_only_this_host_can_reach_is_opened_nowhere(tmp_path: Path) -> None:
    assert "firewall" not in written(tmp_path, {"miner_axon_bind_ip": "127.0.0.1"})


@pytest.mark.slow
def test_the_playbook_writes_down_nothing_about_roles_that_are_off(tmp_path: Path) -> None:
    roles = ("swap", "shm", "cpu_governor", "kernel", "clock", "firewall", "pm2")
    assert written(tmp_path, {f"{role}_enabled": False for role in roles}) == {}
