"""Counters that only rise, for Prometheus' rate() and histogram_quantile(): kept in the history from run to run.

They start at 0 once a new history has caught up with the log, and count what is read after that. To Prometheus a
rebuilt history, which reads old logs again, looks like a counter reset: nothing counts twice.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from omron_miner.events import FailureKind
from omron_miner.monitor.model import TimeTotal, TimeTotals, Totals

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from omron_miner.monitor.history import Outcome

NOTE = "totals"
"""The history's note that holds them."""
VERIFIED = "verified"
"""The outcome of a request that did not fail; the others are the kinds of failure."""
LIFE_EVENTS = ("started", "stopping", "stopped", "worker_lost", "memory_disk_full")
_LONG = (1.0, 2.5, 5.0, 10.0, 15.0, 18.0, 20.0, 22.0, 24.0, 26.0, 28.0, 30.0, 35.0, 40.0, 45.0, 50.0, 60.0, 90.0, 120.0)
"""Seconds: fine between 20 and 30, where proofs should be, with an edge at each default target (30 and 45)."""
_SHORT = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0)
EDGES: dict[str, tuple[float, ...]] = {"proof": _LONG, "overhead": _SHORT, "total": _LONG, "queue": _SHORT}


def begin(now: float) -> dict[str, Any]:
    """All counters at 0, as the history keeps them."""
    kinds = (VERIFIED, *(kind.value for kind in FailureKind))
    return {
        "since": now,
        "requests": dict.fromkeys(kinds, 0),
        "events": dict.fromkeys(LIFE_EVENTS, 0),
        "times": {name: _no_times(edges) for name, edges in EDGES.items()},
    }


def _no_times(edges: tuple[float, ...]) -> dict[str, Any]:
    return {"edges": list(edges), "counts": [0] * (len(edges) + 1), "sum": 0.0}


def add(kept: dict[str, Any], outcomes: Iterable[Outcome], events: Mapping[str, int]) -> dict[str, Any]:
    """`kept` with these requests and life events (counts by name) added; events of other names are ignored."""
    requests, times = kept["requests"], kept["times"]
    for name, edges in EDGES.items():
        if times.get(name, {}).get("edges") != list(edges):  # another version's: a reset, as after a restart
            times[name] = _no_times(edges)
    for outcome in outcomes:
        what = outcome.failure or VERIFIED
        requests[what] = requests.get(what, 0) + 1
        for name in EDGES if outcome.verified else ("queue",):
            seconds, one = getattr(outcome, name), times[name]
            one["counts"][bisect_left(EDGES[name], seconds)] += 1
            one["sum"] = round(one["sum"] + seconds, 6)
    for what in LIFE_EVENTS:
        kept["events"][what] = kept["events"].get(what, 0) + events.get(what, 0)
    return kept


def add_counts(
    kept: dict[str, Any], requests: Mapping[str, int], proof_seconds: Iterable[float], events: Mapping[str, int]
) -> dict[str, Any]:
    """`kept` with requests by outcome, times of proofs alone, and life events added."""
    add(kept, (), events)
    for what, count in requests.items():
        kept["requests"][what] = kept["requests"].get(what, 0) + count
    one = kept["times"]["proof"]
    for seconds in proof_seconds:
        one["counts"][bisect_left(EDGES["proof"], seconds)] += 1
        one["sum"] = round(one["sum"] + seconds, 6)
    return kept


def totals_of(kept: dict[str, Any] | None) -> Totals | None:
    """Their form in the summary; None for None."""
    if kept is None:
        return None
    times = {
        name: TimeTotal(one["edges"], list(accumulate(one["counts"]))[:-1], sum(one["counts"]), one["sum"])
        for name, one in ((name, kept["times"].get(name) or _no_times(edges)) for name, edges in EDGES.items())
    }
    return Totals(kept["since"], kept["requests"], kept["events"], TimeTotals(**times))
