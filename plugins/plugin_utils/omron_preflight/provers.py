"""Miners and their prover hosts: assignment, addresses, ports and clocks."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from omron_preflight.values import whole_number

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

FLEET_VALUES = {
    "ansible_host": "",
    "miner_circuits_ignored": [],
    "miner_prover_engine": "local",
    "miner_provers_port": 8785,
    "miner_provers_scheduler_port": 8786,
    "omron_circuits": [{"name": "demo", "model": "demo"}],
    "omron_engine": "ezkl",
    "omron_prover_address": "",
    "omron_prover_of": "",
}
"""Variables read for every miner and prover host, also for those outside this deploy, with their defaults."""
_CLOCKS_APART_SECONDS = 300


def miner_of(name: str, hosts: Mapping[str, Mapping[str, Any]], miners: Sequence[str]) -> str:
    """The miner of the prover host `name`: the configured one, or the only one; empty if it is ambiguous."""
    named = str(hosts[name]["omron_prover_of"] or "")
    return named if named in miners else miners[0] if len(miners) == 1 and not named else ""


def prover_problems(
    provers: Sequence[str],
    miners: Sequence[str],
    hosts: Mapping[str, Mapping[str, Any]],
    clocks: Mapping[str, int],
) -> dict[str, list[str]]:
    """For each host the problems that prevent `provers` from proving for `miners`.

    `hosts` has the FLEET_VALUES of all of them by name, `clocks` the seconds since 1970 of those that were read, all at
    about the same moment.
    """
    problems: dict[str, list[str]] = defaultdict(list)
    served = set()
    for name in provers:
        if name in miners:
            problems[name].append(
                "it is in the groups of miners and of prover hosts: keep it in one; a miner proves, too, with "
                "miner_prover_local_workers workers"
            )
            continue
        problems[name] += _address_problems(hosts[name])
        miner = miner_of(name, hosts, miners)
        if miner:
            served.add(miner)
            problems[name] += _pair_problems(hosts[name], miner, hosts[miner])
            problems[name] += _clock_problems(name, miner, clocks)
        else:
            problems[name] += _miner_problems(hosts[name]["omron_prover_of"], miners)
    for name in miners:
        if hosts[name]["miner_prover_engine"] != "local":
            problems[name] += _address_problems(hosts[name])
    for names, sentence in _shared_addresses(provers, served, hosts):
        for name in names:
            problems[name].append(sentence)
    return {name: found for name, found in problems.items() if found}


def address_of(values: Mapping[str, Any]) -> str:
    """The IP address at which the rest of the fleet reaches a host: omron_prover_address, else ansible_host.

    Empty when neither is an IP address. Also the filter ``prover_address``.
    """
    for name in ("omron_prover_address", "ansible_host"):
        try:
            return str(ipaddress.ip_address(str(values.get(name) or "")))
        except ValueError:
            continue
    return ""


def _address_problems(values: Mapping[str, Any]) -> Iterator[str]:
    given = str(values["omron_prover_address"] or "")
    try:
        address = ipaddress.ip_address(given) if given else None
    except ValueError:
        yield f"omron_prover_address {given!r} is not an IP address: write one of an interface of this host"
        return
    if address and (address.is_unspecified or address.is_multicast):
        yield f"omron_prover_address {given} is not a host address: write one of an interface of this host"
    elif not address_of(values):
        yield (
            "it has no address for its miner and prover hosts, as ansible_host is not an IP address: set "
            "omron_prover_address to one of an interface of this host"
        )


def _miner_problems(named: Any, miners: Sequence[str]) -> Iterator[str]:
    names = ", ".join(miners)
    if named:
        yield f"omron_prover_of {named} is not a miner in this inventory: name one of {names}"
    else:
        yield f"omron_prover_of is empty, and there are several miners: name one of {names}"


def _pair_problems(values: Mapping[str, Any], miner: str, its: Mapping[str, Any]) -> Iterator[str]:
    if its["omron_engine"] != "ezkl":
        yield f"its miner {miner} is upstream's, with omron_engine {its['omron_engine']}, which takes no prover hosts"
    elif its["miner_prover_engine"] == "local":
        yield f"its miner {miner} uses no prover hosts: set miner_prover_engine to dask for {miner}"
    own, other = address_of(values), address_of(its)
    if own and other and ipaddress.ip_address(own).is_loopback != ipaddress.ip_address(other).is_loopback:
        yield (
            f"it has the address {own}, its miner {miner} {other}: they cannot reach each other, set "
            "omron_prover_address"
        )
    ids = [_circuit_id(circuit) for circuit in its["omron_circuits"] if isinstance(circuit, dict)]
    if ids and set(ids) <= set(values["miner_circuits_ignored"]):
        yield f"miner_circuits_ignored names every circuit of its miner {miner}: they have no circuit in common"


def _circuit_id(circuit: Mapping[str, Any]) -> str:
    return PurePath(str(circuit.get("folder", ""))).name.removeprefix("model_")


def _clock_problems(name: str, miner: str, clocks: Mapping[str, int]) -> Iterator[str]:
    if name in clocks and miner in clocks:
        apart = abs(clocks[name] - clocks[miner])
        if apart > _CLOCKS_APART_SECONDS:
            yield (
                f"its clock and that of its miner {miner} are {apart} s apart, so certificates would be rejected as "
                "not yet valid or expired: synchronise both"
            )


def _shared_addresses(
    provers: Sequence[str], served: set[str], hosts: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[list[str], str]]:
    taken: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name, variable in [
        *((name, "miner_provers_port") for name in provers),
        *((name, "miner_provers_scheduler_port") for name in sorted(served)),
    ]:
        address, port = address_of(hosts[name]), whole_number(hosts[name][variable])
        if address and port:
            taken[address, port].append(name)
    for (address, port), names in taken.items():
        if len(names) > 1:
            yield (
                names,
                f"{address}, port {port}, is the address of {' and '.join(names)} among prover hosts: give each its "
                "own omron_prover_address, or its own miner_provers_port",
            )
