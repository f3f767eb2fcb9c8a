"""The role fleet_firewall with real nftables, in a network namespace, with a caller of the fleet and one that is not.

systemctl is a stand-in that runs what the unit says.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest

from namespaced_play import run_namespaced

if TYPE_CHECKING:
    from pathlib import Path

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

SET_UP = f"""
mount -t tmpfs none /etc/systemd/system
mkdir -p /run/netns
mount -t tmpfs none /run/netns
ip netns add outside
ip link add inner type veth peer name outer netns outside
ip addr add 10.9.0.1/24 dev inner
ip link set inner up
ip -n outside addr add {FLEET}/24 dev outer
ip -n outside addr add {STRANGER}/24 dev outer
ip -n outside link set outer up
{sys.executable} -m http.server {PORT} >served.log 2>&1 &
until {sys.executable} reach.py 127.0.0.1 127.0.0.1; do sleep 0.1; done
export PATH=$PWD/bin:$PATH
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
    rules = tmp_path / "fleet.nft"
    # Below the role's own variables, which tasks change: not given on the command line.
    defaults = {"fleet_firewall_tcp_ports": [int(PORT)], "fleet_firewall_addresses": [FLEET]}
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/all.json").write_text(json.dumps(defaults))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemctl").write_text(SYSTEMCTL.replace("FOLDER", str(tmp_path)))
    (tmp_path / "bin/systemctl").chmod(0o755)
    (tmp_path / "reach.py").write_text(REACH)
    given = {
        "__fleet_firewall_rules": str(rules),
        "__fleet_firewall_in_container": False,  # Ansible takes these namespaces for one
    }
    output = run_namespaced(tmp_path, SET_UP, tasks, given)
    seen = {name: (tmp_path / name).read_text().split() for name in ("before", "filtered", "widened", "restored")}
    everybody = ["here", "fleet", "stranger"]
    assert seen == {"before": everybody, "filtered": ["here", "fleet"], "widened": everybody, "restored": everybody}
    second_run = output.partition("TASK [Look filtered]")[2].partition("TASK [Twice]")[0].partition("TASK")[2]
    assert "ok: [localhost]" in second_run
    assert "changed: [localhost]" not in second_run
    assert not rules.exists()
