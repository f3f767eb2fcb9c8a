"""The miner's own things: its directories, wallet, port, units and summary. Never looks into a key."""

from __future__ import annotations

import json
import stat
import time
from typing import TYPE_CHECKING

from omron_miner.doctor import probes
from omron_miner.doctor.check import Check, Status, judged, unseen
from omron_miner.monitor import host
from omron_miner.monitor.render import duration

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

    from omron_miner.constants import Axon, Constants, Monitor, Wallet

STALE_SUMMARY_SECONDS = 600.0
"""Older than this means that the monitor does not run: its timer's longest interval is half of it."""
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  bound to all: asked at one of them
_START_ADVICE = "see the end of miner.log; start with: systemctl restart omron-pm2"


def files(constants: Constants) -> Iterator[Check]:
    """Who may read what."""
    yield _session_directory(constants)
    yield _hotkey(constants)
    yield _coldkey(constants.wallet)


def port(axon: Axon) -> Iterator[Check]:
    """Whether the axon takes connections: here, and at the address that validators are told."""
    name, wanted = "axon port", f"TCP {axon.port} takes connections"
    listening = host.is_listening(axon.port)
    if listening is False:
        yield Check(name, Status.FAIL, wanted, "nothing listens", _START_ADVICE)
        return
    address = _ANY_ADDRESS.get(axon.bind_ip, axon.bind_ip)
    fault = probes.reach(address, axon.port)
    live = f"{address}:{axon.port} {'answers' if fault is None else fault}"
    yield judged(name, fault is None, wanted, live, _START_ADVICE, Status.FAIL if listening else Status.UNKNOWN)
    if axon.external_ip:
        yield _outside(axon.external_ip, axon.external_port or axon.port)


def _outside(address: str, number: int) -> Check:
    """From here to our own public address: that many routers do not turn round (hairpin) says nothing of others."""
    fault = probes.reach(address, number)
    name, wanted = "from outside", f"{address}:{number} takes connections"
    if fault is None:
        return Check(name, Status.OK, wanted, "answers, asked from this host itself")
    advice = f"this host may not reach its own public address; from another one: nc -vz {address} {number}"
    return unseen(name, wanted, f"asked from this host itself: {fault}", advice)


def units(monitor: Monitor) -> Iterator[Check]:
    """What systemd keeps running, and what came out of it."""
    advice = "systemctl status omron-pm2; deploy again if it is not there"
    yield _unit("pm2", "omron-pm2.service", Status.FAIL, advice)
    yield _process()
    yield _unit("monitor timer", "omron-miner-monitor.timer", Status.WARN, "systemctl enable --now it; or deploy again")
    yield _summary(monitor)


def _session_directory(constants: Constants) -> Check:
    directory, name, wanted = constants.sessions.directory, "session directory", "0700, the service user's"
    try:
        status = directory.stat()
    except FileNotFoundError:
        return Check(name, Status.OK, wanted, "not there yet: the first request makes it")
    except OSError as error:
        return unseen(name, wanted, str(error), "run this as root")
    return _owned(name, wanted, directory, status, {0o700}, constants)


def _hotkey(constants: Constants) -> Check:
    file, name, wanted = constants.wallet.hotkey_file, "hotkey", "0600, the service user's"
    try:
        status = file.stat()
    except FileNotFoundError:
        advice = "set omron_hotkey_file and deploy again"
        return Check(name, Status.FAIL, wanted, f"{file} is missing", advice)
    except OSError as error:
        return unseen(name, wanted, str(error), "run this as root")
    return _owned(name, wanted, file, status, {0o600, 0o400}, constants)


def _owned(name: str, wanted: str, path: Path, status: os.stat_result, modes: set[int], constants: Constants) -> Check:
    """Whether `path` has one of `modes` and belongs to the service user, who is the owner of the logs."""
    mode, faults = stat.S_IMODE(status.st_mode), []
    if mode not in modes:
        faults.append(f"chmod {max(modes):04o} {path}")
    try:
        owner = constants.log.directory.stat().st_uid
    except OSError:
        owner = status.st_uid  # no logs, no deploy: other checks say so
    if status.st_uid != owner:
        faults.append(f"chown {owner} {path}")
    live = f"{mode:04o}, owner {status.st_uid}, {path}"
    return judged(name, not faults, wanted, live, "; ".join(faults), Status.FAIL)


def _coldkey(wallet: Wallet) -> Check:
    try:
        found = sorted(file for folder in wallet.path.iterdir() if (file := folder / "coldkey").exists())
    except FileNotFoundError:
        found = []
    except OSError as error:  # others may not look in here
        return unseen("coldkey", "absent", str(error), "run this as root")
    advice = "move it off this host at once: whoever owns this host owns the stake"
    return judged("coldkey", not found, "absent", str(found[0]) if found else "absent", advice, Status.FAIL)


def _unit(name: str, unit: str, otherwise: Status, advice: str) -> Check:
    state = probes.ask_word("systemctl", "is-active", unit)
    if state is None:
        return unseen(name, f"{unit} active", "unknown: systemctl does not tell")
    return judged(name, state == "active", f"{unit} active", state, advice, otherwise)


def _process() -> Check:
    tree = host.miner_tree()
    if not tree:
        return unseen("miner", "running", "no such process can be seen", _START_ADVICE)
    up = time.clock_gettime(time.CLOCK_BOOTTIME) - tree[0].started_seconds
    live = f"process {tree[0].pid}, up {duration(up)}, {len(tree)} processes"
    return Check("miner", Status.OK, "running", live)


def _summary(monitor: Monitor) -> Check:
    file, wanted = monitor.directory / "summary.json", f"under {duration(STALE_SUMMARY_SECONDS)} old"
    advice = "systemctl start omron-miner-monitor.service; journalctl -u omron-miner-monitor"
    try:
        age = time.time() - float(json.loads(file.read_text(encoding="utf-8"))["time"])
    except FileNotFoundError:
        return Check("summary", Status.WARN, wanted, f"{file} is missing", advice)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Check("summary", Status.WARN, wanted, f"unreadable: {error}", advice)
    return judged("summary", age <= STALE_SUMMARY_SECONDS, wanted, f"{duration(max(0.0, age))} old", advice)
