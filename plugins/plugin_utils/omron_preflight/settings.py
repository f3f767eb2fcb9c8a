"""The inventory itself: placeholders, the network, and settings of several roles that depend on each other."""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from omron_preflight.values import whole_number

NETWORKS = ("local", "test", "finney")

_PLACEHOLDER = re.compile(
    r"change.?me|replace.?me|placeholder|\btodo\b|\byour[-_ ]|<[^<>]+>|\bx\.x\.x\.x\b|\bxxx+\b", re.I
)
_SS58 = re.compile(r"5[1-9A-HJ-NP-Za-km-z]{47}")


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def placeholder_problems(settings: Mapping[str, Any]) -> list[str]:
    """Placeholders that were not replaced, in any of `settings` and at any depth."""
    return [
        f"{name} still holds the placeholder {text!r}: write the real value"
        for name, value in settings.items()
        for text in _strings(value)
        if _PLACEHOLDER.search(text)
    ]


def _address_problem(address: str) -> str | None:
    try:
        ip = ipaddress.IPv4Address(address)
    except ValueError:
        return f"omron_external_ip {address!r} is not an IPv4 address: write the host's public one"
    if not ip.is_global or ip.is_multicast:
        return f"omron_external_ip {address} cannot be reached from the internet: write the host's public IPv4 address"
    return None


def _is_ip(address: Any) -> bool:
    try:
        ipaddress.ip_address(str(address))
    except ValueError:
        return False
    return True


def axon_problems(values: Mapping[str, Any]) -> list[str]:
    """The address that the miner's axon listens on."""
    bound = values["miner_axon_bind_ip"]
    if bound == "localhost" or _is_ip(bound):
        return []
    return [f"miner_axon_bind_ip {bound!r} is not an IP address: write one of this host, or remove it to listen on all"]


def _is_unpaid(settings: Mapping[str, Any], netuid: int | None) -> bool:
    is_paying_network = settings["omron_network"] == "finney" and netuid == 2
    return is_paying_network and settings["omron_engine"] == "ezkl" and not settings["omron_accept_unpaid"]


def network_problems(settings: Mapping[str, Any]) -> list[str]:
    """The network and what it needs or forbids. `settings` holds the shared ``omron_`` variables."""
    network = settings["omron_network"]
    if network not in NETWORKS:
        return [f"omron_network {network!r} is unknown: choose one of {', '.join(NETWORKS)}"]
    problems = []
    netuid = whole_number(settings["omron_netuid"])
    if netuid is None or netuid > 65535:
        problems.append(f"omron_netuid {settings['omron_netuid']!r} is not a subnet: 2 on finney, 118 on test")
    elif _is_unpaid(settings, netuid):
        problems.append(
            "subnet 2 on finney does not pay for this miner's proofs: its validators request JSTprove proofs over "
            "QUIC, which only upstream's sn2-miner makes. Deploy that with omron_engine: sn2 (docs/live.md), or set "
            "omron_accept_unpaid: true"
        )
    address, validators = settings["omron_external_ip"], settings["omron_local_validator_hotkeys"]
    if network != "local":
        if not address:
            problems.append(
                f"omron_external_ip is empty, but validators of {network} need an address to call: "
                "write the host's public IPv4 address"
            )
        elif not _PLACEHOLDER.search(str(address)) and (problem := _address_problem(str(address))):
            problems.append(problem)
        if validators:
            problems.append(
                "omron_local_validator_hotkeys is for the local network only: remove it; "
                f"on {network} the metagraph decides"
            )
        return problems
    if address and not _PLACEHOLDER.search(str(address)) and not _is_ip(address):
        problems.append(f"omron_external_ip {address!r} is not an IP address: write one of this host, or remove it")
    if not isinstance(validators, list):
        problems.append("omron_local_validator_hotkeys is not a list: write a YAML list with one SS58 address per line")
        return problems
    problems += [
        f"omron_local_validator_hotkeys holds {key!r}, which is not an SS58 address (48 characters, the first a 5)"
        for key in validators
        if not isinstance(key, str) or not _SS58.fullmatch(key)
    ]
    return problems


def stop_time_problems(values: Mapping[str, Any]) -> list[str]:
    """The times to stop: the miner's own must be shorter than pm2's, and pm2's shorter than systemd's."""
    times = (
        ("miner_deadlines_stop_seconds", values["miner_deadlines_stop_seconds"]),
        ("miner_kill_timeout_ms", values["miner_kill_timeout_ms"] / 1000),
        ("pm2_stop_timeout_seconds", values["pm2_stop_timeout_seconds"]),
    )
    return [
        f"{name} is {seconds:g} s and {other} {limit:g} s: the first must be shorter"
        for (name, seconds), (other, limit) in itertools.pairwise(times)
        if seconds >= limit
    ]
