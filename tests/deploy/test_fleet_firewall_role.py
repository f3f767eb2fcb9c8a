"""The role fleet_firewall with real nftables, in a network namespace, with a caller of the fleet and one that is not.

systemctl is a stand-in that runs what the unit says.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PORT = "8786"
FLEET, STRANGER = "10.9.0.2", "10.9.0.3"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making namespaces takes root: run bin/test with sudo"),
]

SYSTEMCTL = """#!/bin/sh
unit=/etc/systemd/system/omron-fleet-firewall.service
run() { sed -n "s/^$1=//p" $unit | sh -e; }
stop() { test ! -e active || run ExecStop; rm -f active; }
cd FOLDER
case "$*" in
    *show*) echo LoadState=loaded; echo ActiveState=$(test -e active && echo active || echo inactive);;
    *is-enabled*) test -e enabled || { echo disabled; exit 1; }; echo enabled;;
    *restart*) stop; run ExecStart && touch active;;
    *start*) run ExecStart && touch active;;
    *stop*) stop;;
    *enable*) touch enabled;;
    *disable*) rm -f enabled;;
esac
"""

SET_UP = """
set -eu
mkdir -p state
mount -t tmpfs none /etc/systemd/system
mount -t tmpfs none /run/netns 2>/dev/null || { mkdir -p /run/netns; mount -t tmpfs none /run/netns; }
ip netns add outside
ip link set lo up
ip link add inner type veth peer name outer netns outside
ip addr add 10.9.0.1/24 dev inner
ip link set inner up
ip -n outside addr add FLEET/24 dev outer
ip -n outside addr add STRANGER/24 dev outer
ip -n outside link set outer up
"$2" -m http.server PORT >served.log 2>&1 &
until "$2" reach.py 127.0.0.1 127.0.0.1; do sleep 0.1; done
PATH=$PWD/bin:$PATH "$1" -i localhost, play.yml -e @given.json
"""

REACH = f"""
import socket, sys
try:
    socket.create_connection((sys.argv[2], {PORT}), 2, (sys.argv[1], 0)).close()
except TimeoutError:
    sys.exit(1)
"""


def role(**changes: Any) -> dict[str, Any]:
    return {"name": "Run the role", "vars": changes, "ansible.builtin.include_role": {"name": "fleet_firewall"}}


def look(name: str) -> dict[str, Any]:
    """Who gets through, in a file of that name."""
    ask = f"{sys.executable} reach.py"
    outside = f"ip netns exec outside {ask}"
    lines = [
        f"{ask} 127.0.0.1 127.0.0.1 && echo here",
        f"{outside} {FLEET} 10.9.0.1 && echo fleet",
        f"{outside} {STRANGER} 10.9.0.1 && echo stranger",
    ]
    return {"name": f"Look {name}", "ansible.builtin.shell": f"({'; '.join(lines)}) > {name}; true"}


def test_only_the_fleets_hosts_reach_its_port_until_the_role_is_asked_for_none(tmp_path: Path) -> None:
    if not shutil.which("nft"):
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("nftables is not installed; bin/test installs it")
    tasks = [look("before"), role(), look("filtered"), role(), {"name": "Twice", "ansible.builtin.command": "true"},
             role(fleet_firewall_addresses=[FLEET, STRANGER]), look("widened"),
             role(fleet_firewall_tcp_ports=[]), look("restored")]  # fmt: skip
    play = {"hosts": "localhost", "connection": "local", "gather_facts": True, "roles": ["omron"], "tasks": tasks}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play | {"gather_subset": ["!all", "!min", "virtual"]}]))
    rules = tmp_path / "fleet.nft"
    given = {
        "ansible_python_interpreter": "/usr/bin/python3",
        "omron_state": str(tmp_path / "state"),
        "__fleet_firewall_rules": str(rules),
        "__fleet_firewall_in_container": False,  # Ansible takes these namespaces for one
    }
    (tmp_path / "given.json").write_text(json.dumps(given))
    defaults = {"fleet_firewall_tcp_ports": [int(PORT)], "fleet_firewall_addresses": [FLEET]}
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/all.json").write_text(json.dumps(defaults))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemctl").write_text(SYSTEMCTL.replace("FOLDER", str(tmp_path)))
    (tmp_path / "bin/systemctl").chmod(0o755)
    (tmp_path / "reach.py").write_text(REACH)
    names = {"FLEET": FLEET, "STRANGER": STRANGER, "PORT": PORT}
    script = SET_UP
    for name, value in names.items():
        script = script.replace(name, value)
    (tmp_path / "run.sh").write_text(script)
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "run.sh",
         Path(sys.executable).with_name("ansible-playbook"), sys.executable],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_ROLES_PATH": str(ROOT / "roles"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    seen = {name: (tmp_path / name).read_text().split() for name in ("before", "filtered", "widened", "restored")}
    everybody = ["here", "fleet", "stranger"]
    assert seen == {"before": everybody, "filtered": ["here", "fleet"], "widened": everybody, "restored": everybody}
    second_run = done.stdout.partition("TASK [Look filtered]")[2].partition("TASK [Twice]")[0].partition("TASK")[2]
    assert "ok: [localhost]" in second_run
    assert "changed: [localhost]" not in second_run
    assert not rules.exists()
