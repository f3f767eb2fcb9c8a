"""The role firewall with a real ufw and a real firewalld, each in a network namespace and with its own settings."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from namespaced_play import run_namespaced

if TYPE_CHECKING:
    from pathlib import Path

PORT, RANGE = "8091", "203.0.113.0/24"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making namespaces takes root: run bin/test with sudo"),
]


@dataclass(frozen=True)
class Firewall:
    """Shell commands, run in a namespace."""

    start: str
    rules: str
    """Prints what is open."""
    limit: str
    """Opens the port to some callers only, as an operator does."""


FIREWALLS = {
    "ufw": Firewall(
        """
        cp --archive /etc/ufw etc; cp /etc/default/ufw default
        mount --bind etc /etc/ufw; mount --bind default /etc/default/ufw
        ufw --force enable
        """,
        "ufw show added",
        f"""printf '[Miner]\\ntitle=x\\ndescription=x\\nports={PORT}/tcp\\n' >/etc/ufw/applications.d/miner
        ufw allow from {RANGE} to any app Miner""",
    ),
    "firewalld": Firewall(
        """
        mount -t tmpfs tmpfs /etc/firewalld
        mkdir -p /run/dbus; mount -t tmpfs tmpfs /run/dbus
        dbus-daemon --system --fork --nopidfile >dbus.log 2>&1
        firewalld --nofork --nopid >firewalld.log 2>&1 &
        until firewall-cmd --state; do sleep 0.2; done
        """,
        "firewall-cmd --list-ports; firewall-cmd --permanent --list-ports; firewall-cmd --list-rich-rules",
        f"firewall-cmd --permanent --add-rich-rule="
        f"'rule family=ipv4 source address={RANGE} port port={PORT} protocol=tcp accept'; firewall-cmd --reload",
    ),
}


def role(tasks_from: str = "main") -> dict[str, Any]:
    return {"ansible.builtin.include_role": {"name": "firewall", "tasks_from": tasks_from}}


def keep_rules(firewall: Firewall, name: str) -> dict[str, Any]:
    return {
        "name": f"Keep the rules {name}",
        "ansible.builtin.shell": f"({firewall.rules}) > {name}",
        "changed_when": False,
    }


@pytest.mark.parametrize("name", list(FIREWALLS))
def test_the_ports_are_opened_left_to_the_operators_own_rules_and_given_back(name: str, tmp_path: Path) -> None:
    if not shutil.which(name):
        pytest.skip(
            f"{name} is not installed; it is not put on a machine for a test, because it begins to filter at once"
        )
    firewall = FIREWALLS[name]
    tasks = [
        keep_rules(firewall, "before"),
        role(),
        keep_rules(firewall, "opened"),
        role(),
        {"name": "Limit the port", "ansible.builtin.shell": firewall.limit},
        role(),
        keep_rules(firewall, "limited"),
        role("restore"),
        keep_rules(firewall, "restored"),
    ]
    given = {"firewall_tcp_ports": [PORT], "firewall_udp_ports": [PORT]}
    output = run_namespaced(tmp_path, firewall.start, tasks, given)
    second_run = output.partition("Keep the rules opened")[2].partition("Limit the port")[0]
    assert "ok: [localhost]" in second_run
    assert "changed: [localhost]" not in second_run
    before, opened, limited, restored = (
        (tmp_path / one).read_text() for one in ("before", "opened", "limited", "restored")
    )
    assert PORT not in before
    assert {f"{PORT}/tcp", f"{PORT}/udp"} <= set(opened.split())
    assert f"{PORT}/udp" in limited.split()
    assert f"{PORT}/tcp" not in limited.split(), "an operator's limit is not widened"
    assert RANGE in limited
    assert RANGE in restored, "what was the operator's stays"
    assert not {f"{PORT}/tcp", f"{PORT}/udp"} & set(restored.split())
