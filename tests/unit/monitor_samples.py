"""Events, hosts and logs for the monitor's tests. Events are written by the real writer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omron_miner.constants import Constants, Log, Monitor, Sessions
from omron_miner.events import FailureKind, LifecycleEvent, RequestEvent, Timings, to_json
from omron_miner.monitor.history import History, connect
from omron_miner.monitor.host import Counters
from omron_miner.monitor.intake import Intake
from omron_miner.monitor.model import Host, LogState, Summary
from omron_miner.monitor.summarize import limits_of, summarize
from summary_samples import sample_summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NOW = 1_767_614_400.0
"""2026-01-05T12:00:00Z"""
GIB = 1024**3


def request(
    time: float = NOW - 60,
    proof: float = 20.0,
    overhead: float = 1.0,
    failure: FailureKind | None = None,
    **changes: Any,
) -> RequestEvent:
    """A verified request; one with a `failure` is not verified."""
    event = RequestEvent(
        time=time,
        request_id=f"{time:.3f}",
        synapse="QueryZkProof",
        validator_hotkey="5" + "F" * 47,
        circuit_id="ab" * 32,
        circuit="age v0.1.0 using EZKL",
        verified=failure is None,
        failure=failure,
        detail=f"because {failure.value}" if failure else "",
        timings=Timings(total_s=proof + overhead, witness_s=1.0, prove_s=proof - 1.0),
        tries=1,
        proof_bytes=31_000,
    )
    return replace(event, **changes)


def life(what: str, time: float = NOW - 3600, detail: str = "") -> LifecycleEvent:
    return LifecycleEvent(time, what, detail)


def host(**changes: Any) -> Host:
    """A tuned host whose miner runs."""
    return replace(sample_summary().host, **{"uptime_seconds": 90_061.0, **changes})


def fixed_host(found: Host) -> Callable[[Constants, Counters | None], tuple[Host, Counters]]:
    """A replacement for `collect_host` that returns `found` immediately."""
    return lambda _constants, _last: (found, Counters("boot", 0.0, 0.0, [0.0] * 4))


def constants(directory: Path, **monitor: Any) -> Constants:
    """Constants whose log and summary are in `directory`."""
    return Constants(
        log=Log(directory=directory),
        monitor=Monitor(directory=directory, **monitor),
        sessions=Sessions(directory=directory / "sessions", fallback_directory=directory / "fallback"),
    )


def memory_history() -> History:
    """A history that is nowhere on disk."""
    return History(connect(Path(":memory:")))


def take_events(
    history: History, events: Iterable[RequestEvent | LifecycleEvent], now: float = NOW, monitor: Monitor | None = None
) -> None:
    """Takes `events` into the history as if a run at `now` had read them."""
    settings = monitor or Monitor()
    limits, kept_since = limits_of(settings), now - settings.keep_hours_days * 86_400
    intake = Intake(now, kept_since, limits, history.note("seen", 0), history.note("last_time", 0.0))
    for event in events:
        intake.add(event)
    intake.keep(history)
    history.add_entries("future", 50, [(now, intake.future)] if intake.future else [])


def summary_of(
    *events: RequestEvent | LifecycleEvent, on: Host | None = None, now: float = NOW, **monitor: Any
) -> Summary:
    """The summary of `events` that were read without trouble."""
    settings, history = constants(Path("/nowhere"), **monitor), memory_history()
    take_events(history, events, now, settings.monitor)
    log = LogState("/nowhere/events.jsonl", "read")
    return summarize(history, log, on or host(), sample_summary().versions, settings, now)


def write_events(path: Path, events: Iterable[RequestEvent | LifecycleEvent]) -> None:
    path.write_text("".join(f"{to_json(event)}\n" for event in events), encoding="utf-8")
