"""Which of an operator's rules in ufw and firewalld say to whom a port is open."""

from __future__ import annotations

import pytest

from plugin_loading import load_plugin

plugin = load_plugin("plugins/filter/firewall.py")


PROFILES = """Profile: OpenSSH
Title: Secure shell server, an rshd replacement
Description: OpenSSH is a free implementation of the Secure Shell protocol.

Port:
  22/tcp

--

Profile: Omron Miner
Title: Miner
Description: several
  lines

Ports:
  80,443/tcp
  8091
  9000:9010/udp
"""


@pytest.mark.parametrize(
    ("rule", "is_limited"),
    [
        ("ufw allow from 203.0.113.0/24 to any port 8091 proto tcp", True),
        ("ufw allow from 203.0.113.7 to any port 80,8091 proto tcp comment 'validators only'", True),
        ("ufw allow in on wg0 to any port 8090:8095 proto tcp", True),
        ("ufw deny 8091/tcp", True),
        ("ufw allow to any port 8091 proto tcp from 203.0.113.7", True),
        ("ufw allow from 10.0.0.0/8", False),
        ("ufw allow from 10.0.0.0/8 to any port 1024:65535 proto tcp", False),
        ("ufw allow from 10.0.0.0/8 to any port 8000:8200 proto tcp", True),
        ("ufw allow from 203.0.113.7 to any app 'Omron Miner'", True),
        ("ufw allow in on wg0 to any app 'Omron Miner' comment 'some'", True),
        ("ufw deny 'Omron Miner'", True),
        ("ufw allow from 203.0.113.7 to any app OpenSSH", False),
        ("ufw allow from 203.0.113.7 to any app Unknown", False),
        ("ufw allow from 203.0.113.7 app 'Omron Miner'", False),  # of the caller
        ("ufw deny from 203.0.113.7 to any app 'Omron Miner'", False),
        ("ufw allow 'Omron Miner'", False),
        ("ufw allow from 203.0.113.7 to any port 8091 proto udp", False),
        ("ufw allow from 203.0.113.7 port 8091 to any port 22 proto tcp", False),
        ("ufw deny from 203.0.113.7 to any port 8091 proto tcp", False),
        ("ufw allow 8091/tcp comment 'omron-miner'", False),
        ("ufw allow 22/tcp", False),
        ("ufw allow 'Nginx Full'", False),
        ("ufw allow out 8091/tcp", False),
        ("ufw allow 'unclosed", False),
        ("(None)", False),
    ],
)
def test_rules_of_ufw_about_the_port_for_some(rule: str, is_limited: bool) -> None:
    lines = ["Added user rules:", "ufw allow 22/tcp", rule]
    profiles = plugin.ufw_profiles(PROFILES)
    assert profiles == {"OpenSSH": ["22/tcp"], "Omron Miner": ["80,443/tcp", "8091", "9000:9010/udp"]}
    assert plugin.ufw_limited(lines, ["8091/tcp"], profiles) == ["8091/tcp"] * is_limited
    if " app " in rule or rule == "ufw deny 'Omron Miner'":
        assert plugin.ufw_needs_profiles(lines)


def test_profiles_are_not_asked_for_where_no_rule_limits_by_one() -> None:
    assert not plugin.ufw_needs_profiles(
        ["ufw allow OpenSSH", "ufw deny 23/tcp", "ufw deny from 10.0.0.1", "ufw deny in on a"]
    )


def test_what_the_operator_opens_to_all_is_open_and_our_own_rule_does_not_count() -> None:
    some = "ufw allow from 203.0.113.7 to any port 8091"
    assert plugin.ufw_limited([some, "ufw allow 8091/tcp comment 'omron-miner'"], ["8091/tcp"]) == ["8091/tcp"]
    assert plugin.ufw_limited([some, "ufw allow 8091/tcp"], ["8091/tcp"]) == []


ZONES = """
public (active)
  target: default
  interfaces: eth0
  sources: {public_sources}
  services: ssh own
  ports: 8091/tcp
  rich rules: {rich}

office
  target: default
  interfaces: {office_interfaces}
  sources: {office_sources}
  services: {office_services}
  ports: {office_ports}
  rich rules:
"""

NOTHING = dict.fromkeys(("public_sources", "rich", "office_interfaces", "office_sources", "office_services"), "")
NOTHING["office_ports"] = "8000-8099/tcp 9000/udp"


@pytest.mark.parametrize(
    ("given", "is_limited"),
    [
        ({}, False),
        ({"public_sources": "203.0.113.0/24"}, False),  # our own zone
        ({"office_interfaces": "eth1"}, False),
        ({"office_sources": "203.0.113.0/24"}, True),
        ({"office_sources": "203.0.113.0/24", "office_ports": "", "office_services": "ssh miner"}, True),
        ({"office_sources": "203.0.113.0/24", "office_ports": "", "office_services": "ssh"}, False),
        ({"rich": '\n\trule family="ipv4" source address="1.1.1.1" service name="miner" accept'}, True),
        ({"rich": '\n\trule family="ipv4" source address="1.1.1.1" service name="ssh" accept'}, False),
        ({"rich": '\n\trule family="ipv4" source address="1.1.1.1" port port="8091" protocol="tcp" drop'}, False),
        ({"rich": '\n\trule family="ipv4" source NOT address="1.1.1.1" service name="miner" reject'}, True),
        ({"rich": '\n\trule service name="miner" drop'}, True),
        ({"rich": '\n\trule family="ipv4" source address="1.1.1.1" port port="8091" protocol="tcp" accept'}, True),
        ({"rich": '\n\trule family="ipv4" source address="1.1.1.1" port port="8092" protocol="tcp" accept'}, False),
    ],
)
def test_rules_of_firewalld_about_the_port_for_some(given: dict[str, str], is_limited: bool) -> None:
    listed = ZONES.format(**NOTHING | given)
    services = {
        name: {"miner": "8091/tcp 9000-9010/udp", "ssh": "22/tcp"}[name]
        for name in plugin.firewalld_services(listed, "public")
    }
    assert plugin.firewalld_limited(listed, "public", ["8091/tcp"], services) == ["8091/tcp"] * is_limited


def test_ports_that_ufw_opens_to_everybody_are_of_one_protocol_or_of_both() -> None:
    lines = [
        "Added user rules:",
        "ufw allow 8091/udp comment 'omron-miner'",
        "ufw limit 22",
        "ufw allow from 203.0.113.7 to any port 9000 proto udp",
        "ufw deny 9001/udp",
    ]
    assert plugin.ufw_open(lines) == ["8091/udp", "22/tcp", "22/udp"]


def test_rules_for_one_protocol_do_not_limit_the_other() -> None:
    rule = "ufw allow from 203.0.113.7 to any port 8091 proto udp"
    assert plugin.ufw_limited([rule], ["8091/tcp", "8091/udp"]) == ["8091/udp"]
    rich = '\n\trule family="ipv4" source address="1.1.1.1" port port="8091" protocol="udp" accept'
    assert plugin.firewalld_limited(ZONES.format(**NOTHING | {"rich": rich}), "public", ["8091/tcp", "8091/udp"]) == [
        "8091/udp"
    ]
