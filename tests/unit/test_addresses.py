from __future__ import annotations

import pytest

from omron_miner.addresses import host_and_port, local_target, peer_of


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("192.0.2.1", "192.0.2.1:8091"),
        ("miner.example", "miner.example:8091"),
        ("::1", "[::1]:8091"),
        ("[::1]", "[::1]:8091"),
        ("2001:db8::2", "[2001:db8::2]:8091"),
    ],
)
def test_a_port_follows_an_ipv6_address_in_brackets(host: str, text: str) -> None:
    assert host_and_port(host, 8091) == text


@pytest.mark.parametrize(
    ("bound", "target"),
    [
        ("0.0.0.0", "127.0.0.1"),  # noqa: S104
        ("::", "::1"),
        ("0:0:0:0:0:0:0:0", "::1"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::2", "2001:db8::2"),
        ("localhost", "localhost"),
    ],
)
def test_a_port_opened_on_every_address_is_called_on_loopback(bound: str, target: str) -> None:
    assert local_target(bound) == target


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("2001:db8:1:3::9", "2001:db8:1:3::"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
    ],
)
def test_a_caller_is_an_ipv4_address_or_the_network_of_an_ipv6_one(address: str, peer: str) -> None:
    assert peer_of(address) == peer
