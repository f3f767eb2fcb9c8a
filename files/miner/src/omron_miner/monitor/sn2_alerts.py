"""Monitored conditions of upstream's `sn2-miner`, from its log and this host. Each: name, bad, text, patience."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from omron_miner.formatting import percent, size
from omron_miner.live.miner_log import UPSTREAM, meaning_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omron_miner.monitor.history import History
    from omron_miner.monitor.model import Sn2, Summary

Watched = tuple[str, "bool | None", str, float]
"""`bad` None: not known now."""
FLOOD = 10
"""Failures of one slice, with one text, in this and the previous hour: and half of all failures."""
FLOOD_SHARE = 0.5
CONFIRM_SECONDS = 900.0
"""A process that has run for this long has announced itself on the chain, or never will: it tries once."""
RETURN_SECONDS = 600.0
"""Validators notice a restart after 150 s, then try again for some minutes."""
UNKNOWN_PEER_LINES = 3
"""Minimum number of requests from connections without a handshake: fewer may be a port scan."""
LOW_COVERAGE_PERCENT = 90.0
"""Percent of the validators' stake: the allowlist drops validators it does not know."""
FULL_PERCENT, FILLING_PERCENT = 95.0, 60.0
FORECAST_HOURS = 6.0
"""Alert if memory would be exhausted within this time at the present rate, measured over the same time."""


def watched(history: History, summary: Summary, found: Sn2, no_request_seconds: float) -> Iterator[Watched]:
    """The conditions; `no_request_seconds`: how long a lack of requests is normal, 0 = always."""
    yield _idle(history, summary, found, no_request_seconds)
    yield _gone(summary, found)
    yield _flood(found)
    yield _announced(summary, found)
    yield _refused(found)
    yield _allowlist(found)
    yield memory_forecast(history, summary)


def _idle(history: History, summary: Summary, found: Sn2, limit: float) -> Watched:
    name = "no_request_while_connected"
    if not limit:
        return name, False, "not watched", 0.0
    since = max(history.note("begun", summary.time), history.note("last_request", 0.0))
    quiet = summary.time - since
    bad = quiet > limit and found.connected > 0
    return (
        name,
        bad,
        f"no request for {quiet / 60:.0f} min while {found.connected} validators are connected: the hotkey may hold a"
        " validator permit, or be skipped by validators after a wrong proof (a day) or an outage (72 min)"
        if bad
        else f"{found.connected} validators are connected, the last request was {quiet / 60:.0f} min ago",
        0.0,
    )


def _gone(summary: Summary, found: Sn2) -> Watched:
    name, up = "validators_gone", _up(summary)
    text = f"{found.returned} of {found.connected_before} validators have reconnected since the restart"
    if not found.connected_before:
        return name, False, f"{found.connected} validators are connected", 0.0
    if up is None or up < RETURN_SECONDS:
        return name, None, text, 0.0
    bad = 2 * found.returned < found.connected_before and 2 * found.connected < found.connected_before
    advice = ": from outside, omron-miner live probe ADDRESS:PORT"
    return name, bad, text + (advice if bad else ""), 0.0


def _flood(found: Sn2) -> Watched:
    recent, name = found.recent, "failures_flood"
    bad = recent.count >= FLOOD and recent.count >= FLOOD_SHARE * recent.failed
    if not bad:
        return name, False, f"{recent.failed} of {recent.ended} requests failed in this and the previous hour", 0.0
    where = f"{recent.slice or 'slices'} of circuit {recent.circuit[:16]}" if recent.circuit else "slices not known"
    meaning = meaning_of(recent.failure)
    whose = " KNOWN UPSTREAM BUG, cannot be fixed here:" if UPSTREAM in (meaning or "") else ""
    known = f" ({meaning})" if meaning else ""
    text = f"{recent.count} of {recent.failed} failures in this and the previous hour:{whose} {where}:"
    return name, True, f"{text} {recent.failure}{known}", 0.0


def _announced(summary: Summary, found: Sn2) -> Watched:
    name, up = "not_announced", _up(summary)
    if found.loopback:
        return name, False, "runs with --loopback", 0.0
    if found.registered:
        return name, False, f"announced on the chain {found.announced}".rstrip(), 0.0
    if found.registered is False:
        text = f"the miner could not announce itself on the chain and does not try again: {found.serve_error}"
        return name, True, f"{text}; restart it when the chain is reachable, if the doctor reports a wrong entry", 0.0
    text = "the miner's log does not say that it is announced on the chain"
    return name, None if up is None or up < CONFIRM_SECONDS else True, f"{text}; check with omron-miner doctor", 0.0


def _refused(found: Sn2) -> Watched:
    name = "validator_refused"
    known = [one for one in found.refused if one.recent and one.known]
    unknown = [one for one in found.refused if one.kind == "unauthenticated" and one.recent >= UNKNOWN_PEER_LINES]
    if known:
        parts = ", ".join(f"{one.peer} ({one.kind}, {one.recent} times)" for one in known[:3])
        return name, True, f"validators that had connected before are refused: {parts}", 0.0
    if unknown and found.connected:
        parts = ", ".join(f"{one.peer} ({one.recent} times)" for one in unknown[:3])
        why = "a validator whose NAT changed its port, or an unknown peer"
        return name, True, f"authentication failed for requests from {parts}: {why}", 0.0
    return name, False, "no known validator is refused", 0.0


def _allowlist(found: Sn2) -> Watched:
    name, coverage = "allowlist_low_coverage", found.coverage_percent
    if found.enforcing is None or coverage is None:
        return name, None, "the allowlist has not been evaluated yet", 0.0
    bad = found.enforcing and coverage < LOW_COVERAGE_PERCENT
    text = f"the allowlist knows {percent(coverage)} of the validators' stake"
    drops = " and drops all others; a restart makes it learn them again" if bad else ""
    return name, bad, f"{text}{drops}", 0.0


def memory_forecast(history: History, summary: Summary) -> Watched:
    """Used share of the memory available to the miner, by its control group where that is visible."""
    name, memory = "memory_limit", summary.host.memory
    samples = history.samples(600, int(summary.time - FORECAST_HOURS * 3600))
    used = [(at, look["memory_used_percent"]) for at, look in samples.items() if "memory_used_percent" in look]
    if not used or not memory.total_bytes:
        return name, None, "not known yet", 0.0
    now = used[-1][1]
    text = f"{percent(now)} of {size(memory.total_bytes)}{memory.limit_in_words()} are used"
    if now >= FULL_PERCENT:
        return name, True, text, 0.0
    hours = (used[-1][0] - used[0][0]) / 3600
    if hours < 1 or now < FILLING_PERCENT:
        return name, False, text, 0.0
    pace = (now - used[0][1]) / hours
    left = (100.0 - now) / pace if pace > 0 else FORECAST_HOURS + 1
    if left > FORECAST_HOURS:
        return name, False, text, 0.0
    return name, True, f"{text}, {pace:+.1f} points an hour: full in {left:.1f} h, then the kernel kills the miner", 0.0


def _up(summary: Summary) -> float | None:
    """Seconds since the running process started, by its log; None when the log does not say."""
    found = summary.sn2
    if found is None or found.started_utc is None:
        return None
    return summary.time - datetime.fromisoformat(found.started_utc.replace("Z", "+00:00")).timestamp()
