"""Conflicts between hosts: values that no two of them may share."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omron_preflight.values import whole_number
from omron_preflight.wallet import hotkey_identity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from omron_preflight.files import Reader

SHARED_BY_NONE = {
    "omron_network": "local",
    "omron_netuid": 2,
    "omron_hotkey_file": "",
    "omron_external_ip": "",
    "omron_axon_port": 8091,
    "miner_axon_external_port": 0,
}
"""Variables that can make two hosts conflict, with their defaults."""


def shared_problems(hosts: Mapping[str, Mapping[str, Any]], read: Reader = Path.read_bytes) -> dict[str, list[str]]:
    """For each of `hosts` (name to the inventory's values) the values that it must not share with another, but does.

    On a real network a hotkey answers at one address: a second host would take the first one's place on the chain.
    `read` reads a hotkey's file, decrypted.
    """
    hotkeys, addresses = defaultdict(list), defaultdict(list)
    for name, values in hosts.items():
        if values["omron_network"] == "local":
            continue
        if identity := hotkey_identity(values["omron_hotkey_file"], read):
            hotkeys[values["omron_network"], str(values["omron_netuid"]), identity].append(name)
        port = whole_number(values["miner_axon_external_port"]) or whole_number(values["omron_axon_port"])
        if values["omron_external_ip"] and port:
            addresses[str(values["omron_external_ip"]), port].append(name)
    problems: dict[str, list[str]] = defaultdict(list)
    for (network, netuid, identity), names in hotkeys.items():
        sentence = (
            f"the hotkey {identity} is used on {_and(names)}, but subnet {netuid} of {network} has one address per "
            "hotkey: give each host its own hotkey in omron_hotkey_file"
        )
        _tell(problems, names, sentence)
    for (address, port), names in addresses.items():
        sentence = (
            f"{address}, port {port}, is the address of {_and(names)}: give each host its own omron_external_ip, "
            "or its own omron_axon_port (behind one address: miner_axon_external_port)"
        )
        _tell(problems, names, sentence)
    return dict(problems)


def _tell(problems: dict[str, list[str]], names: list[str], sentence: str) -> None:
    for name in names if len(names) > 1 else []:
        problems[name].append(sentence)


def _and(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def report(problems: Mapping[str, list[str]]) -> list[str]:
    """Each problem once, after the names of the hosts that have it, in order; `problems` are those of each host."""
    sentences: dict[str, list[str]] = defaultdict(list)
    for name, found in problems.items():
        for sentence in dict.fromkeys(found):
            sentences[sentence].append(name)
    return [
        f"{f'all {len(problems)} hosts' if len(names) == len(problems) > 3 else ', '.join(names)}: {sentence}"
        for sentence, names in sentences.items()
    ]
