"""host.toml says what was asked of the host, as the doctor reads it, and nothing about what is switched off."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomllib
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

CPU = {"governor": "performance", "energy_preference": "performance"}
DEFAULTS: dict[str, Any] = {
    "swap": {"off": True},
    "shm": {"size": "75%"},
    "cpu": CPU,
    "clock": {"synchronised": True},
    "firewall": {"tcp_ports": [8091]},
}
ROLES = ("swap", "shm", "cpu_governor", "kernel", "clock", "firewall")
ASKED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults": ({}, DEFAULTS),
    "loopback": ({"miner_axon_bind_ip": "127.0.0.1"}, {k: v for k, v in DEFAULTS.items() if k != "firewall"}),
    "off": ({f"{role}_enabled": False for role in ROLES}, {}),
    "others": (
        {
            "swap_enabled": False,
            "shm_size": "16G",
            "cpu_governor_name": "schedutil",
            "cpu_governor_energy_preference": "",
            "kernel_transparent_hugepages": "madvise",
            "kernel_sysctl": {"vm.overcommit_memory": 0},
            "clock_enabled": "false",  # as an inventory in the INI format gives it
            "omron_axon_port": "9000",
        },
        {
            "shm": {"size": "16G"},
            "cpu": {"governor": "schedutil"},
            "kernel": {"transparent_hugepages": "madvise", "sysctl": {"vm.overcommit_memory": "0"}},
            "firewall": {"tcp_ports": [9000]},
        },
    ),
}
"""What hosts ask for, and what is then in their host.toml."""


@pytest.mark.slow
def test_the_playbook_writes_down_what_each_host_was_asked_for(tmp_path: Path) -> None:
    """In a dry run on this machine, which changes nothing and looks at nothing else."""
    [_, play] = yaml.safe_load((ROOT / "playbooks/host.yml").read_text())  # the first one checks this machine
    play |= {"hosts": "all", "become": False, "gather_facts": False}
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "templates").symlink_to(ROOT / "templates")
    playbook = tmp_path / "playbooks/host.yml"
    playbook.write_text(yaml.safe_dump([play]))
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    live = {"omron_engine": "sn2", "omron_network": "test", "omron_external_ip": "8.8.8.8"}
    asked = {
        **ASKED,
        "live": (live, DEFAULTS | {"firewall": {"udp_ports": [8091]}}),
        "loop": ({"omron_engine": "sn2"}, {k: v for k, v in DEFAULTS.items() if k != "firewall"}),
    }
    hosts = {name: {**here, **given, "omron_etc": str(tmp_path / name)} for name, (given, _) in asked.items()}
    inventory = tmp_path / "inventory.yml"
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
    command: list[str | Path] = [BIN / "ansible-playbook", "-i", inventory, playbook]
    done = subprocess.run(
        [*command, "--tags=host_toml", "--check", "--diff"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    task = done.stdout[done.stdout.index("TASK [Write host.toml") : done.stdout.index("PLAY RECAP")]
    parts = re.split(r"^changed: \[(\w+)\]$", task, flags=re.MULTILINE)
    written = {}
    for text, name in zip(parts[::2], parts[1::2], strict=False):
        lines = [line[1:] for line in text.splitlines() if line[:1] == "+" and line[:2] != "++"]
        written[name] = tomllib.loads("\n".join(lines))
    assert written == {name: wanted for name, (_, wanted) in asked.items()}
