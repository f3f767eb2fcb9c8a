"""Adds new events from the log to the history: the minute each counts in, and what is stored of it.

A request counts in the minute in which it ended, according to the event. An impossible date (after the run that reads
it, or older than anything kept although it was written after newer ones) is replaced by the nearest possible one: no
request is lost because of a wrong clock.
"""

from __future__ import annotations

from collections import Counter, deque
from itertools import chain
from typing import TYPE_CHECKING, Any

from omron_miner.events import LifecycleEvent, RequestEvent
from omron_miner.monitor import totals
from omron_miner.monitor.history import (
    ALL,
    CIRCUIT,
    ERRORS,
    LIVES,
    MOST_KEYS,
    RECENT,
    SLACK_SECONDS,
    VALIDATOR,
    Bucket,
    Outcome,
)

if TYPE_CHECKING:
    from omron_miner.monitor.collect import LogReader
    from omron_miner.monitor.history import History, Limits

_UNKNOWN_FAILURE = "unknown"


class Intake:
    """Collects the events of one run in the order they were written; `keep` adds them to the history."""

    def __init__(self, now: float, kept_since: float, limits: Limits, seen: int, last_time: float) -> None:
        self.now, self.kept_since, self.limits = now, kept_since, limits
        self._outcomes: dict[tuple[str, int, str], list[Outcome]] = {}
        """By kind, start of the kind's shortest span, and key."""
        self.recent: deque[tuple[float, Any]] = deque(maxlen=RECENT)
        self.errors: deque[tuple[float, Any]] = deque(maxlen=ERRORS)
        self.lives: deque[tuple[float, Any]] = deque(maxlen=LIVES)
        self.seen, self.last_time = seen, last_time
        self.future = 0
        self.last_request = 0.0
        self._events: Counter[str] = Counter()
        self._keys: dict[str, set[str]] = {CIRCUIT: set(), VALIDATOR: set()}

    def add(self, event: RequestEvent | LifecycleEvent) -> None:
        """Counts one event."""
        time = self._time(event.time)
        self.seen += 1
        if isinstance(event, LifecycleEvent):
            first = self.seen == 1
            self._events[event.what] += 1
            self.lives.append((time, {"what": event.what, "detail": event.detail, "first": first}))
            return
        self.last_request = max(self.last_request, time)
        outcome = self._outcome(event, time)
        # Without a label the id is arbitrary text from the caller: one entry for all of them.
        circuit = f"{event.circuit_id} {event.circuit}" if event.circuit else ""
        minute, ten = int(time) // 60 * 60, int(time) // 600 * 600
        self._outcomes.setdefault((ALL, minute, ""), []).append(outcome)
        self._outcomes.setdefault((CIRCUIT, ten, self._known(CIRCUIT, circuit)), []).append(outcome)
        self._outcomes.setdefault((VALIDATOR, ten, self._known(VALIDATOR, event.validator_hotkey)), []).append(outcome)

    def _time(self, time: float) -> float:
        if time > self.now + SLACK_SECONDS:
            self.future += 1
            time = self.now
        elif time < self.kept_since <= self.last_time:
            time = min(self.last_time, self.now)
        self.last_time = time
        return time

    def _known(self, kind: str, key: str) -> str:
        keys = self._keys[kind]
        if key in keys:
            return key
        if len(keys) >= MOST_KEYS:
            return ""
        keys.add(key)
        return key

    def _outcome(self, event: RequestEvent, time: float) -> Outcome:
        """The counted facts of the event; it is also added to the last ones."""
        outcome = outcome_of(event, time)
        times = (outcome.total, outcome.proof, outcome.overhead, outcome.queue)
        failure = outcome.failure
        self.recent.append((time, (event.request_id, event.circuit, event.validator_hotkey, failure, *times)))
        if failure is not None:
            self.errors.append((time, [event.request_id, failure, event.circuit, event.validator_hotkey, event.detail]))
        return outcome

    def _buckets(self) -> dict[tuple[str, int, str], Bucket]:
        buckets = {}
        for where, outcomes in self._outcomes.items():
            buckets[where] = bucket = Bucket()
            bucket.add(outcomes, self.limits)
        return buckets

    def keep(self, history: History) -> None:
        """Adds everything to the history."""
        history.add(self._buckets())
        history.add_entries("recent", RECENT, self.recent)
        history.add_entries("error", ERRORS, self.errors)
        history.add_entries("life", LIVES, self.lives)
        kept = history.note(totals.NOTE)
        if kept is not None:
            requests = chain.from_iterable(some for (kind, _, _), some in self._outcomes.items() if kind == ALL)
            history.set_note(totals.NOTE, totals.add(kept, requests, self._events))
        history.set_note("seen", self.seen)
        history.set_note("last_time", self.last_time)
        if self.last_request:
            history.set_note("last_request", max(self.last_request, history.note("last_request", 0.0)))


def outcome_of(event: RequestEvent, time: float) -> Outcome:
    """The counted facts of the event as one that ended at `time`."""
    failure = event.failure.value if event.failure else None if event.verified else _UNKNOWN_FAILURE
    timings = event.timings
    proof, overhead, total, queue = (
        value if value > 0.0 else 0.0
        for value in (timings.proof_s, timings.overhead_s, timings.total_s, timings.queue_s)
    )
    return Outcome(time, event.verified, failure, event.constant_output, proof, overhead, total, queue)


def take_in(reader: LogReader, history: History, now: float, kept_since: float, limits: Limits) -> None:
    """Adds new log content and the position to the history, and completes `reader.state`. Commits nothing."""
    intake = Intake(now, kept_since, limits, history.note("seen", 0), history.note("last_time", 0.0))
    for event in reader:
        intake.add(event)
    if reader.state.older_files:  # the first event read may not be the first ever
        intake.lives = deque(((time, life | {"first": False}) for time, life in intake.lives), LIVES)
    intake.keep(history)
    history.set_positions(reader.positions.values(), now, now - 30 * 86_400.0)
    state = reader.state
    if history.note(totals.NOTE) is None and not state.unread_bytes:
        history.set_note(totals.NOTE, totals.begin(now))
    for kind, count in (("unreadable", state.unreadable_lines), ("future", intake.future)):
        if count:
            history.add_entries(kind, LIVES, [(now, count)])
    history.add_entries("change", 50, [(now, ["event log", "read in full", text]) for text in reader.cut])
    state.total_events = intake.seen
