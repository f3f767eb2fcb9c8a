"""Collect, keep, summarize, render: reads what is new in the event log and the host, writes the summary, tells alerts.

A short-lived process beside the miner: it never talks to it and imports neither bittensor nor EZKL.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from omron_miner.errors import OmronError
from omron_miner.files import write_atomically
from omron_miner.monitor import alerts, prometheus
from omron_miner.monitor.answers import answer
from omron_miner.monitor.collect import LogReader
from omron_miner.monitor.history import CHANGES, History, open_history
from omron_miner.monitor.host import Counters, circuit_files, collect_host, read_versions
from omron_miner.monitor.html import to_html
from omron_miner.monitor.intake import take_in
from omron_miner.monitor.model import Host, Summary, Versions
from omron_miner.monitor.render import to_json, to_text
from omron_miner.monitor.summarize import limits_of, sample_of, summarize

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omron_miner.constants import Constants


def run(constants: Constants, catch_up: bool = False) -> Summary:
    """One run: takes in what is new, writes the summary, tells whoever is to be told of an alert.

    Reads at most `constants.monitor.read_bytes_per_run` of the log; with `catch_up` all there is. Only one run works
    at a time: a second one waits for the first. Run by root, it works as the service user (the owner of the logs),
    whose files these are.

    Raises OmronError when the history or the summary cannot be written; what was there before is then still whole.
    """
    with _as_service_user(constants):
        while True:
            with open_history(constants.monitor.directory) as history:
                summary = observe(history, constants)
                history.commit()
                if catch_up and summary.log.unread_bytes:
                    continue
                write(summary, constants)
                told = alerts.deliver(history, summary, alerts.read_receivers(constants.monitor.alert_file))
                history.commit()
                if told != summary.alerts:
                    summary = replace(summary, alerts=told)
                    write(summary, constants)
                return summary


def observe(history: History, constants: Constants) -> Summary:
    """The summary as of now, everything new taken into `history`. Commits nothing, writes no file."""
    now, monitor = time.time(), constants.monitor
    limits = limits_of(monitor)
    history.hold_to(limits)
    refiled = history.refile_future(now)
    if refiled:
        history.add_entries("future", CHANGES, [(now, refiled)])
    kept_since = now - monitor.keep_hours_days * 86_400
    reader = LogReader(constants.log.events, kept_since, history.positions(), monitor.read_bytes_per_run)
    take_in(reader, history, now, kept_since, limits)
    host, counters = collect_host(constants, Counters.load(history.note("counters")))
    history.set_note("counters", counters.dump())
    history.add_sample(now, sample_of(host))
    versions = read_versions()
    _note_changes(history, host, versions, circuit_files(constants.circuits.directory), now)
    history.prune(monitor.keep_minutes_days, monitor.keep_hours_days)
    summary = summarize(history, reader.state, host, versions, constants, now)
    # While older events are still being read, nothing is known of now.
    found = [] if summary.log.unread_bytes else alerts.conditions(history, summary, constants)
    watched = alerts.update(history, found, now, monitor.alert_clear_seconds)
    return replace(summary, alerts=watched, answers=answer(history, summary, constants))


def write(summary: Summary, constants: Constants) -> None:
    """Writes the summary's files to `constants.monitor.directory`, each in one step.

    Raises OmronError when that cannot be done; what was there before is then still whole.
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


def _note_changes(history: History, host: Host, versions: Versions, circuits: dict[str, str], now: float) -> None:
    """Keeps what is different on this host from one run to the next: it often explains what else is."""
    disk = host.ram_disk
    facts = {
        "omron-miner": versions.omron_miner,
        "EZKL": versions.ezkl or "none",
        "kernel": versions.kernel,
        "CPU governor": ", ".join(sorted(set(host.cpu.governors.values()))) or "none",
        "swap": ", ".join(device.name for device in host.swap or []) or "off",
        "RAM": f"{host.memory.total_bytes / 2**30:.1f} GiB",
        "RAM disk": f"{disk.size_bytes / 2**30:.1f} GiB on {disk.filesystem}" if disk else "none",
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
        history.add_entries("change", CHANGES, [(now, ["clock", "in step with time passed", f"set by {step}"])])
    if before != facts:
        history.set_note("facts", facts)


@contextmanager
def _as_service_user(constants: Constants) -> Iterator[None]:
    """As root, works with the rights of the owner of the logs: what root made, that user could not replace."""
    try:
        owner = constants.log.directory.stat()
    except OSError:
        owner = None
    if os.geteuid() != 0 or owner is None or owner.st_uid == 0:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([owner.st_gid])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


__all__ = ["Summary", "observe", "run", "write"]
