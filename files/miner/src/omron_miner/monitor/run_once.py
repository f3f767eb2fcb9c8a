"""One run of the monitor: reads new log content and the host's state, writes the summary, sends alerts."""

from __future__ import annotations

import os
import pwd
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from omron_miner.circuits.folders import file_summaries
from omron_miner.engine import OWN_MINER
from omron_miner.errors import OmronError
from omron_miner.events import log_problems
from omron_miner.files import write_atomically
from omron_miner.formatting import size
from omron_miner.host import read_host_memory
from omron_miner.monitor import alerts, prometheus, provers, sn2
from omron_miner.monitor.answers import answer
from omron_miner.monitor.collect import LogReader
from omron_miner.monitor.history import CHANGES, DamagedHistory, History, Limits, note_damage, open_history
from omron_miner.monitor.host import Counters, collect_host, read_versions
from omron_miner.monitor.html import to_html
from omron_miner.monitor.intake import take_in
from omron_miner.monitor.render import to_json, to_text
from omron_miner.monitor.summarize import limits_of, sample_of, summarize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from omron_miner.constants import Constants
    from omron_miner.engine import Engine
    from omron_miner.monitor.model import Host, Summary, Versions

    CollectHost = Callable[[Constants, Counters | None], tuple[Host, Counters]]
    OpenHistory = Callable[[Path], AbstractContextManager[History]]

READ_BYTES_PER_RUN = 1 << 20
"""For the event log: some thousand requests, more than a minute's, in well under a second."""
SN2_READ_BYTES_PER_RUN = 8 << 20
"""For sn2-miner's log: some ten thousand slices."""


def run(
    constants: Constants,
    catch_up: bool = False,
    collect: CollectHost | None = None,
    engine: Engine = OWN_MINER,
    *,
    clock: Callable[[], float] = time.time,
    read_bytes: int | None = None,
    history_in: OpenHistory = open_history,
) -> Summary:
    """One run: reads new content of the log of `engine`, writes the summary, sends alerts.

    Reads at most `read_bytes` of the log, by default a limit per engine; with `catch_up` everything. Only one run works
    at a time: a second one waits for the first. Started by root, the process permanently becomes the service user (the
    owner of the logs), who owns these files. `collect` reads the host, by default `collect_host`; `history_in`
    opens the history in a directory.

    Raises OmronError when the history or the summary cannot be written; the previous files then stay intact.
    """
    _become_service_user(constants)
    collect = collect or partial(collect_host, engine=engine)
    observed = partial(observe, constants=constants, collect=collect, engine=engine, clock=clock, read_bytes=read_bytes)
    try:
        return _run(constants, catch_up, history_in, observed)
    except DamagedHistory as damage:  # it has been renamed
        return _run(constants, catch_up, history_in, observed, damage)


def _run(
    constants: Constants,
    catch_up: bool,
    history_in: OpenHistory,
    observed: Callable[[History], Summary],
    damage: DamagedHistory | None = None,
) -> Summary:
    while True:
        with history_in(constants.monitor.directory) as history:
            if damage:
                note_damage(history, damage)
                damage = None
            summary = observed(history)
            history.commit()
            if catch_up and summary.log.unread_bytes:
                continue
            write(summary, constants)
            delivered = alerts.deliver(history, summary, alerts.read_receivers(constants.monitor.alert_file))
            history.commit()
            if delivered != summary.alerts:
                summary = replace(summary, alerts=delivered)
                write(summary, constants)
            return summary


def observe(
    history: History,
    constants: Constants,
    collect: CollectHost = collect_host,
    engine: Engine = OWN_MINER,
    *,
    clock: Callable[[], float] = time.time,
    read_bytes: int | None = None,
) -> Summary:
    """The summary as of now, with all new content added to `history`. Commits nothing, writes no file."""
    now, monitor = clock(), constants.monitor
    limits = limits_of(monitor)
    history.hold_to(limits)
    refiled = history.refile_future(now)
    if refiled:
        history.add_entries("future", CHANGES, [(now, refiled)])
    kept_since = now - monitor.keep_hours_days * 86_400
    reader = _take_in(history, constants, engine, now, kept_since, limits, read_bytes)
    host, counters = collect(constants, Counters.load(history.note("counters")))
    history.set_note("counters", counters.dump())
    history.add_sample(now, sample_of(host))
    versions = read_versions()
    _note_changes(history, host, versions, file_summaries(constants.circuits.directory), now)
    history.prune(monitor.keep_minutes_days, monitor.keep_hours_days)
    summary = summarize(history, reader.state, host, versions, constants, now, log_problems(constants.log), engine)
    if not engine.is_sn2:
        summary = replace(summary, provers=provers.read(constants, now))
    # While older events are still being read, the current state is unknown.
    found = [] if summary.log.unread_bytes else alerts.conditions(history, summary, constants)
    watched = alerts.update(history, found, now, alerts.ALERT_CLEAR_SECONDS)
    return replace(summary, alerts=watched, answers=answer(history, summary, constants))


def _take_in(
    history: History,
    constants: Constants,
    engine: Engine,
    now: float,
    kept_since: float,
    limits: Limits,
    read_bytes: int | None,
) -> LogReader:
    """Adds new content of the engine's log to `history`; returns the reader."""
    known = history.positions()
    if engine.is_sn2:
        path = engine.log_in(constants.log.directory)
        reader = LogReader(path, kept_since, known, read_bytes or SN2_READ_BYTES_PER_RUN, is_first=sn2.is_stamped)
        sn2.take_in(reader, history, now, kept_since, limits)
    else:
        reader = LogReader(constants.log.events, kept_since, known, read_bytes or READ_BYTES_PER_RUN)
        take_in(reader, history, now, kept_since, limits)
    return reader


def write(summary: Summary, constants: Constants) -> None:
    """Writes the summary's files to `constants.monitor.directory`, each in one step.

    Raises OmronError when that fails; the previous files then stay intact.
    """
    directory = constants.monitor.directory
    files = {
        "summary.json": to_json(summary),
        "summary.txt": to_text(summary),
        prometheus.FILE_NAME: prometheus.to_prometheus(summary),
        "summary.html": to_html(summary),
    }
    for name, text in files.items():
        try:
            write_atomically(directory / name, text)
        except OSError as error:
            raise OmronError(
                f"cannot write {directory / name}: {error.strerror or error}",
                "check that the directory exists, belongs to the service user and has free space",
            ) from error


def compare_logs(paths: Sequence[Path], constants: Constants, as_json: bool = False) -> str:
    """A table, or JSON, of stock miners' logs (or ours) next to this miner's last week.

    Writes nothing. Raises OmronError when a log cannot be read or is not a miner's.
    """
    from omron_miner.monitor import stock_log  # not needed by a run of the monitor

    columns = stock_log.compare(paths, constants, time.time())
    return stock_log.to_json(columns) if as_json else stock_log.to_text(columns)


def _note_changes(history: History, host: Host, versions: Versions, circuits: dict[str, str], now: float) -> None:
    """Keeps what is different on this host from one run to the next: it often explains what else is."""
    disk = host.ram_disk
    facts = {
        "omron-miner": versions.omron_miner,
        "EZKL": versions.ezkl or "none",
        "kernel": versions.kernel,
        "CPU governor": ", ".join(sorted(set(host.cpu.governors.values()))) or "none",
        "swap": ", ".join(device.name for device in host.swap or []) or "off",
        "RAM": size(read_host_memory()[0]),
        "RAM disk": f"{size(disk.size_bytes)} on {disk.filesystem}" if disk else "none",
        **{f"circuit {circuit_id}": files for circuit_id, files in circuits.items()},
    }
    before = history.note("facts")
    if before is not None and before != facts:
        changed = [
            (now, [what, before.get(what, "none"), facts.get(what, "none")])
            for what in {**before, **facts}
            if before.get(what) != facts.get(what)
        ]
        history.add_entries("change", CHANGES, changed)
    if host.clock.step_seconds:
        step = f"{host.clock.step_seconds:+.1f} s"
        history.add_entries("change", CHANGES, [(now, ["clock", "no step", f"stepped by {step}"])])
    if before != facts:
        history.set_note("facts", facts)


def _become_service_user(constants: Constants) -> None:
    """As root, permanently becomes the owner of the logs, who could not replace files created by root.

    Real, effective and saved ids and the groups: the command that receives alerts cannot regain root's rights.
    """
    try:
        owner = constants.log.directory.stat()
    except OSError:
        return
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    os.setgroups([owner.st_gid])
    os.setresgid(owner.st_gid, owner.st_gid, owner.st_gid)
    os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)
    try:
        entry = pwd.getpwuid(owner.st_uid)
    except KeyError:
        return
    os.environ.update(HOME=entry.pw_dir, USER=entry.pw_name, LOGNAME=entry.pw_name)
