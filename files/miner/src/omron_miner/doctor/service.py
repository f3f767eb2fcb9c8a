"""The miner's directories, wallet, port, units and summary."""

from __future__ import annotations

import stat
import time
from typing import TYPE_CHECKING

from omron_miner.addresses import host_and_port, local_target
from omron_miner.chain.wallet import find_coldkey, read_address
from omron_miner.doctor.check import Check, Status, check_that, not_read, unreadable_advice, unseen
from omron_miner.engine import SN2_LOG, SN2_PROGRAM
from omron_miner.errors import WalletError
from omron_miner.formatting import counted, duration
from omron_miner.host import is_listening, miner_tree
from omron_miner.untrusted import NOT_OF_ITS_FORM, parse_json

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

    from omron_miner.constants import Axon, Constants, Monitor, Wallet
    from omron_miner.engine import Engine
    from omron_miner.host import Machine

STALE_SUMMARY_SECONDS = 600.0
"""A summary older than this means that the monitor does not run: twice its timer's longest interval."""
_START_ADVICE = "see the end of miner.log; start with: systemctl restart omron-pm2"
_SN2_START_ADVICE = _START_ADVICE.replace("miner.log", SN2_LOG)


def files(constants: Constants, engine: Engine) -> Iterator[Check]:
    """Permissions of the directories."""
    if not engine.is_sn2:
        yield _session_directory(constants)
    yield _hotkey(constants)
    yield _coldkey(constants.wallet)


def prover_files(constants: Constants) -> Iterator[Check]:
    """Permissions on a prover host: it has no wallet."""
    yield _session_directory(constants)


def prover_units(machine: Machine) -> Iterator[Check]:
    """The systemd units of a prover host: it has no monitor."""
    yield _unit("pm2", "omron-pm2.service", Status.FAIL, "systemctl status omron-pm2; deploy again", machine)


def port(axon: Axon, machine: Machine) -> Iterator[Check]:
    """Whether the axon accepts connections: locally, and at the address that validators get."""
    name, wanted = "axon port", f"TCP {axon.port} takes connections"
    listening = is_listening(axon.port, machine.proc)
    if listening is False:
        yield Check(name, Status.FAIL, wanted, "nothing listens", _START_ADVICE)
        return
    address = local_target(axon.bind_ip)
    fault = machine.try_connection(address, axon.port)
    live = f"{host_and_port(address, axon.port)} {'answers' if fault is None else fault}"
    yield check_that(name, fault is None, wanted, live, _START_ADVICE, Status.FAIL if listening else Status.UNKNOWN)
    if axon.external_ip:
        yield _outside(axon.external_ip, axon.external_port or axon.port, machine)


def _outside(address: str, number: int, machine: Machine) -> Check:
    """From this host to its own public address: many routers cannot do this (hairpin), so a failure proves nothing."""
    fault = machine.try_connection(address, number)
    name, wanted = "from outside", f"{host_and_port(address, number)} takes connections"
    if fault is None:
        return Check(name, Status.OK, wanted, "answers, tested from this host itself")
    advice = f"this host may not reach its own public address; from another one: nc -vz {address} {number}"
    return unseen(name, wanted, f"asked from this host itself: {fault}", advice)


def units(monitor: Monitor, machine: Machine, engine: Engine) -> Iterator[Check]:
    """The systemd units, and the files they write."""
    advice = "systemctl status omron-pm2; deploy again if it is not there"
    yield _unit("pm2", "omron-pm2.service", Status.FAIL, advice, machine)
    yield _process(machine, SN2_PROGRAM if engine.is_sn2 else None)
    yield _unit(
        "monitor timer",
        "omron-miner-monitor.timer",
        Status.WARN,
        "systemctl enable --now omron-miner-monitor.timer; or deploy again",
        machine,
    )
    yield _summary(monitor)


_AT_BOOT = {
    "omron-pm2.service": Status.FAIL,
    "omron-miner-monitor.timer": Status.WARN,
    "omron-cpu-governor.service": Status.WARN,
    "omron-firewall.service": Status.WARN,
    "omron-fleet-firewall.service": Status.WARN,
    "logrotate.timer": Status.WARN,
}
"""The units that the play enables, and the status if one exists and does not start at boot."""
_STARTS = ("enabled", "static", "alias", "indirect", "generated")
"""States of systemctl(1), is-enabled, that start at boot. "enabled-runtime" lasts until the next boot."""


def at_boot(machine: Machine) -> Iterator[Check]:
    """Whether what runs now also runs after a boot. Another check reports a missing unit."""
    name, states = "at boot", {}
    for unit in _AT_BOOT:
        state = machine.run_for_word("systemctl", "is-enabled", unit)
        if state not in (None, "not-found"):
            states[unit] = state
    if not states:
        yield unseen(name, "units enabled", "unknown: systemctl does not answer")
        return
    off = {unit: state for unit, state in states.items() if state not in _STARTS}
    for unit, state in off.items():
        advice = f"systemctl {'unmask' if 'masked' in state else 'enable'} {unit}; or deploy again"
        yield Check(name, _AT_BOOT[unit], f"{unit} enabled", state, advice)
    if not off:
        yield Check(name, Status.OK, "units enabled", f"{len(states)} of the play's units are there, all enabled")


def _session_directory(constants: Constants) -> Check:
    directory, name, wanted = constants.sessions.directory, "session directory", "0700, the service user's"
    try:
        status = directory.stat()
    except FileNotFoundError:
        return Check(name, Status.OK, wanted, "does not exist yet: the first request creates it")
    except OSError as error:
        return unseen(name, wanted, str(error), unreadable_advice())
    return _owned(name, wanted, directory, status, {0o700}, constants)


def _hotkey(constants: Constants) -> Check:
    file, name, wanted = constants.wallet.hotkey_file, "hotkey", "0600, the service user's, able to sign"
    try:
        status = file.stat()
    except FileNotFoundError:
        advice = "set omron_hotkey_file and deploy again"
        return Check(name, Status.FAIL, wanted, f"{file} is missing", advice)
    except OSError as error:
        return unseen(name, wanted, str(error), unreadable_advice())
    owned = _owned(name, wanted, file, status, {0o600, 0o400}, constants)
    if owned.status is not Status.OK:
        return owned
    try:
        read_address(constants.wallet)
    except WalletError as error:
        return not_read(name, wanted, error)
    return owned


def _owned(name: str, wanted: str, path: Path, status: os.stat_result, modes: set[int], constants: Constants) -> Check:
    """Whether `path` has one of `modes` and belongs to the service user, the owner of the logs."""
    mode, faults = stat.S_IMODE(status.st_mode), []
    if mode not in modes:
        faults.append(f"chmod {max(modes):04o} {path}")
    try:
        owner = constants.log.directory.stat().st_uid
    except OSError:
        owner = status.st_uid  # no logs, no deploy: other checks report it
    if status.st_uid != owner:
        faults.append(f"chown {owner} {path}")
    live = f"{mode:04o}, owner {status.st_uid}, {path}"
    return check_that(name, not faults, wanted, live, "; ".join(faults), Status.FAIL)


def _coldkey(wallet: Wallet) -> Check:
    try:
        found = find_coldkey(wallet.path)
    except OSError as error:  # other users cannot read this directory
        return unseen("coldkey", "absent", str(error), unreadable_advice())
    advice = "move it off this host now: an intruder would get the stake"
    return check_that("coldkey", not found, "absent", str(found or "absent"), advice, Status.FAIL)


def _unit(name: str, unit: str, otherwise: Status, advice: str, machine: Machine) -> Check:
    state = machine.run_for_word("systemctl", "is-active", unit)
    if state is None:
        return unseen(name, f"{unit} active", "unknown: systemctl does not answer")
    return check_that(name, state == "active", f"{unit} active", state, advice, otherwise)


def _process(machine: Machine, program: str | None) -> Check:
    tree = miner_tree(machine.proc, program)
    if not tree:
        advice = _SN2_START_ADVICE if program else _START_ADVICE
        return unseen("miner", "running", "no such process is visible", advice)
    up = time.clock_gettime(time.CLOCK_BOOTTIME) - tree[0].started_seconds
    live = f"process {tree[0].pid}, up {duration(up)}, {counted(len(tree), 'process', 'processes')}"
    return Check("miner", Status.OK, "running", live)


def _summary(monitor: Monitor) -> Check:
    file, wanted = monitor.directory / "summary.json", f"under {duration(STALE_SUMMARY_SECONDS)} old"
    advice = "systemctl start omron-miner-monitor.service; journalctl -u omron-miner-monitor"
    try:
        age = time.time() - float(parse_json(file.read_text(encoding="utf-8"))["time"])
    except FileNotFoundError:
        return Check("summary", Status.WARN, wanted, f"{file} is missing", advice)
    except PermissionError as error:
        return unseen("summary", wanted, str(error), unreadable_advice())
    except (OSError, *NOT_OF_ITS_FORM) as error:
        return Check("summary", Status.WARN, wanted, f"unreadable: {error}", advice)
    return check_that("summary", age <= STALE_SUMMARY_SECONDS, wanted, f"{duration(max(0.0, age))} old", advice)
