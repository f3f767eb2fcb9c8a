"""Upstream's miner, sn2-miner: its requirements, and settings that do not apply to it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omron_preflight.files import ABSOLUTE, file_problem
from omron_preflight.storage import read_disks

if TYPE_CHECKING:
    from collections.abc import Mapping

RELEASE_FILES = ("sn2-miner-linux-x86_64", "SHA256SUMS", "SHA256SUMS.sigstore.json")
NETUIDS = {"finney": 2, "test": 118}
OLDEST_GLIBC = (2, 35)
"""Upstream builds on Ubuntu 22.04."""

_TAG = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
_MEMORY = re.compile(r"[1-9][0-9]*[KMGT]|[1-9][0-9]?%|100%|infinity|")
_URL = re.compile(r"https?://[^\s/?#]+[^\s?#]*|")
_SET_BY_THE_ROLE = (
    *("--no-auto-update", "--loopback", "--network", "--netuid", "--axon-host", "--axon-port", "--external-ip"),
    *("--wallet-path", "--wallet-name", "--wallet-hotkey", "--log-level", "--handler-timeout", "--no-nftables"),
    *("--additional-circuits", "--subtensor-chain-endpoint"),
)
_NEVER = ("--disable-blacklist",)


def sn2_problems(values: Mapping[str, Any], glibc: str, measured: str | None) -> list[str]:
    """All problems that prevent sn2-miner on one host; none with another `omron_engine`.

    `values` are the inventory's; `glibc` is the output of ``getconf GNU_LIBC_VERSION``; `measured` is as for
    `read_disks`, or None if disks are not checked.
    """
    if values["omron_engine"] != "sn2":
        return []
    return [
        *_release_problems(values),
        *_network_problems(values),
        *_argument_problems(values["sn2_miner_extra_arguments"]),
        *_number_problems(values),
        *_glibc_problems(glibc),
        *(_disk_problems(values, measured) if measured is not None else ()),
    ]


def _release_problems(values: Mapping[str, Any]) -> list[str]:
    problems = []
    if not (tag := values["sn2_miner_release"]):
        problems.append(
            "sn2_miner_release is empty, but omron_engine is sn2: write the tag of a release that upstream signed, "
            "for example v14.7.5"
        )
    elif not _TAG.fullmatch(tag):
        problems.append(f"sn2_miner_release {tag!r} is not the tag of a release: write one such as v14.7.5")
    if not _URL.fullmatch(values["sn2_miner_release_url"]):
        problems.append(
            f"sn2_miner_release_url {values['sn2_miner_release_url']!r} is not an address of releases: "
            "https://HOST/PATH, where a release's files are at /TAG/NAME below it"
        )
    if given := values["sn2_miner_release_folder"]:
        folder = Path(given).expanduser()
        if not folder.is_absolute():
            problems.append(f"sn2_miner_release_folder {given} is relative: {ABSOLUTE}")
        elif missing := [name for name in RELEASE_FILES if not (folder / name).is_file()]:
            problems.append(
                f"sn2_miner_release_folder {given} lacks {' and '.join(missing)} on the control node: "
                "download all files of the release"
            )
    if root := values["sn2_miner_trusted_root_file"]:
        problem = file_problem("sn2_miner_trusted_root_file", root, "Sigstore's trusted_root.json")
        problems += [problem] if problem else []
    return problems


def _network_problems(values: Mapping[str, Any]) -> list[str]:
    problems = []
    network, netuid = values["omron_network"], values["omron_netuid"]
    if network in NETUIDS and netuid != NETUIDS[network]:
        problems.append(
            f"sn2-miner serves subnet {NETUIDS[network]} of {network}, not {netuid}: set omron_netuid to "
            f"{NETUIDS[network]}"
        )
    if values["miner_axon_external_port"]:
        problems.append(
            "miner_axon_external_port is set, but sn2-miner announces the port it listens on: set omron_axon_port to "
            "the port that validators call, and forward that one"
        )
    listens = ("0.0.0.0", "127.0.0.1") if network == "local" else ("0.0.0.0",)  # noqa: S104  # no socket of ours
    if values["miner_axon_bind_ip"] not in listens:
        problems.append(
            f"miner_axon_bind_ip is {values['miner_axon_bind_ip']}, but sn2-miner listens on every IPv4 address, and "
            "on the local network on 127.0.0.1: remove it, and restrict access to omron_axon_port with the firewall"
        )
    if values["omron_competition_enabled"]:
        problems.append("omron_competition_enabled is set, but sn2-miner has no competitions: set it to false")
    return problems


def _argument_problems(arguments: list[str]) -> list[str]:
    names = [argument.partition("=")[0] for argument in arguments]
    return [
        f"sn2_miner_extra_arguments holds {name}, which the role sets itself: use its variable (docs/live.md)"
        for name in names
        if name in _SET_BY_THE_ROLE
    ] + [
        f"sn2_miner_extra_arguments holds {name}, which lets anybody use the miner: remove it"
        for name in names
        if name in _NEVER
    ]


def _number_problems(values: Mapping[str, Any]) -> list[str]:
    trial, port = values["sn2_miner_trial_port"], values["omron_axon_port"]
    problems = []
    if not 1025 <= trial <= 65534 or trial == port:
        problems.append(
            f"sn2_miner_trial_port {trial} is not a port from 1025 to 65534 other than omron_axon_port: choose another"
        )
    least = {
        "sn2_miner_threads": 0,
        "sn2_miner_purge_delay_ms": -1,
        "sn2_miner_start_timeout_seconds": 5,
        "sn2_miner_circuits_parallel": 1,
        "sn2_miner_circuits_keep_free_gib": 0,
        "sn2_miner_circuits_interval_minutes": 1,
        "sn2_miner_circuits_first_seconds": 1,
    }
    problems += [
        f"{name} is {values[name]}, at least {minimum} is needed: raise it"
        for name, minimum in least.items()
        if values[name] < minimum
    ]
    if values["sn2_miner_circuits_parallel"] > 32:
        problems.append("sn2_miner_circuits_parallel is above 32: lower it")
    kill, stop = values["sn2_miner_kill_timeout_ms"] / 1000, values["pm2_stop_timeout_seconds"]
    if kill >= stop:
        problems.append(
            f"sn2_miner_kill_timeout_ms is {kill:g} s and pm2_stop_timeout_seconds {stop:g} s: the first "
            "must be shorter"
        )
    return problems


def memory_limit_problems(value: str) -> list[str]:
    """`pm2_memory_max`, which systemd would refuse only at the switch."""
    if _MEMORY.fullmatch(value):
        return []
    return [f"pm2_memory_max {value!r} is not a size such as 24G, a share such as 85%, or infinity: write one"]


def _glibc_problems(said: str) -> list[str]:
    name, _, version = said.strip().partition(" ")
    found = tuple(int(part) for part in version.split(".") if part.isdigit())
    if name == "glibc" and found >= OLDEST_GLIBC:
        return []
    return [
        f"the C library is {said.strip() or 'unknown'}, sn2-miner needs glibc 2.35 or newer: use Debian 12, "
        "Ubuntu 22.04 or a newer system"
    ]


def _disk_problems(values: Mapping[str, Any], measured: str) -> list[str]:
    disk, wanted = read_disks(measured)["state"], values["sn2_miner_minimum_disk_gib"]
    if values["omron_network"] == "local" or disk.total >= wanted * 2**30:
        return []
    return [
        f"{disk.mount} has {disk.total // 2**30} GiB, at least {wanted} GiB are needed for the circuit cache below "
        f"{values['omron_state']}: use a larger disk, or lower sn2_miner_minimum_disk_gib"
    ]
