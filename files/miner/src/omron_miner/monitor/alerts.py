"""Alerts: conditions that are watched, with hysteresis, sent to a command or a webhook of the operator's choice.

A condition that starts is reported once, and once more when it has been clear for `ALERT_CLEAR_SECONDS`; flapping in
between is one event. A message that cannot be delivered is retried at every run until it is, or until it no longer
applies. The receivers are in a separate file (`read_receivers`): a webhook's URL can be a secret, so it is never in a
log line, an error, an argument or the summary.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from omron_miner.formatting import iso_utc, percent, size
from omron_miner.monitor import provers, sn2_alerts
from omron_miner.monitor.history import Bucket
from omron_miner.monitor.model import Alert, Verdict
from omron_miner.monitor.summarize import LOW_DISK_BYTES
from omron_miner.untrusted import parse_toml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from omron_miner.constants import Constants, Monitor
    from omron_miner.monitor.history import History
    from omron_miner.monitor.model import Summary

DELIVERY_SECONDS = 5.0
"""For one message to one receiver; each run sends only a few messages."""
MESSAGES_PER_RUN = 4
LEAST_TIMED = 5
"""With fewer requests a p95 is not meaningful."""
_EASIER = 0.95
"""After a limit was exceeded, the value must return to 5 % within it before the condition counts as clear."""
_NOTE = "alerts"
_NEW = {"firing": False, "since": None, "bad": None, "good": None, "due": "", "why": "", "text": ""}
ALERT_CLEAR_SECONDS = 600.0
"""A condition is over once it has been clear for this long; flapping counts as one alert."""
DOWN_PATIENCE_SECONDS = 90.0
"""A miner that is being deployed or has just booted is not down."""


@dataclass(frozen=True)
class Condition:
    """One monitored condition. `bad` None: not known now, so its state does not change."""

    name: str
    bad: bool | None
    text: str
    patience: float = 0.0
    """Seconds it must last before it is an alert."""


@dataclass(frozen=True)
class Receivers:
    """Where alerts are sent. Neither: they are in the summary only."""

    webhook_url: str = ""
    command: tuple[str, ...] = ()
    limit_seconds: float = DELIVERY_SECONDS
    """For one message to one receiver."""
    problem: str = ""
    """Why the file could not be used; never its content."""


def conditions(history: History, summary: Summary, constants: Constants) -> list[Condition]:
    """The monitored conditions, as of this summary."""
    was = history.note(_NOTE, {})
    firing = {name for name, state in was.items() if state["firing"]}
    found = [*_of_requests(history, summary, constants.monitor, firing), *_of_host(history, summary, constants, firing)]
    if summary.provers:
        found += [Condition(*one) for one in provers.watched(summary.provers, summary.time)]
    if summary.sn2:
        limit = constants.monitor.alert_no_request_seconds
        watched = [Condition(*one) for one in sn2_alerts.watched(history, summary, summary.sn2, limit)]
        if any(one.name == "no_request_while_connected" and one.bad for one in watched):  # which has more detail
            found = [replace(one, bad=None) if one.name == "no_request" else one for one in found]
        found += watched
    return found


def _of_requests(history: History, summary: Summary, monitor: Monitor, firing: set[str]) -> Iterator[Condition]:
    window = monitor.alert_window_seconds
    since = (summary.time - window) // 60 * 60
    bucket = history.total(since).get("", Bucket())
    within = f"in {window / 60:.0f} min"
    failed = bucket.failures.get("verification_failed", 0)
    yield Condition("verification_failed", failed > 0, f"{failed} proofs did not verify {within}")
    share = 100 * bucket.succeeded / bucket.count if bucket.count else None
    yield Condition(
        "success_below_target",
        None if share is None else share < monitor.target_success_percent,
        f"success is {percent(share)} of {bucket.count} requests {within}, target {monitor.target_success_percent:g} %",
    )
    yield _p95(bucket, monitor, within, "p95_over_target" in firing)
    timeouts = bucket.failures.get("timeout", 0)
    yield Condition("timeout", timeouts > 0, f"{timeouts} timeouts {within}")
    yield _no_request(history, summary, monitor)


def _p95(bucket: Bucket, monitor: Monitor, within: str, firing: bool) -> Condition:
    limits = (monitor.target_proof_seconds, monitor.target_overhead_seconds, monitor.target_total_seconds)
    if bucket.total.count < LEAST_TIMED:
        return Condition("p95_over_target", None, f"{bucket.total.count} answers {within}: too few for a p95")
    bad, parts = False, []
    for name, limit in zip(("proof", "overhead", "total"), limits, strict=True):
        sketch = getattr(bucket, name)
        p95 = sketch.quantiles(0.95)[0]
        bad |= sketch.over > sketch.may_exceed(0.95) or (firing and p95 > limit * _EASIER)
        parts.append(f"{name} {p95:.1f} s (target {limit:g} s)")
    return Condition("p95_over_target", bad, f"p95 {within}: {', '.join(parts)}")


def _no_request(history: History, summary: Summary, monitor: Monitor) -> Condition:
    begun = history.note("begun")
    if begun is None:
        begun = summary.time
        history.set_note("begun", begun)
    limit = monitor.alert_no_request_seconds
    quiet = summary.time - max(begun, history.note("last_request", 0.0))
    text = f"no request for {quiet / 60:.0f} min, limit {limit / 60:.0f} min"
    return Condition("no_request", quiet > limit if limit else False, text if limit else "not watched")


def _of_host(history: History, summary: Summary, constants: Constants, firing: set[str]) -> Iterator[Condition]:
    host, monitor = summary.host, constants.monitor
    down = "; ".join(summary.miner.reasons)
    yield Condition("miner_down", bool(down), down or "the miner runs", DOWN_PATIENCE_SECONDS)
    yield _restarts(history, summary, monitor)
    growth = daily_growth(history, summary)
    limit = monitor.alert_memory_growth_percent * (_EASIER if "memory_growth" in firing else 1)
    yield Condition(
        "memory_growth",
        None if growth is None else growth[0] > limit,
        "not known yet: the miner has not run for a day" if growth is None else growth[1],
    )
    disk = host.ram_disk
    used = 100 * disk.used_bytes / disk.size_bytes if disk and disk.size_bytes else None
    full = monitor.alert_ram_disk_percent * (_EASIER if "ram_disk_full" in firing else 1)
    yield Condition(
        "ram_disk_full",
        None
        if used is None or disk is None
        else used >= full or disk.free_bytes < constants.sessions.minimum_free_bytes,
        f"{disk.mount_point} is {used:.0f} % full, {size(disk.free_bytes)} free"
        if used is not None and disk
        else "unknown",
    )
    swap = host.swap
    yield Condition(
        "swap_on", None if swap is None else bool(swap), f"swap: {', '.join(one.name for one in swap or []) or 'off'}"
    )
    governors = sorted(set(host.cpu.governors.values()))
    yield Condition(
        "governor_changed", bool(set(governors) - {"performance"}), f"CPU governor: {', '.join(governors) or 'none'}"
    )
    low = [disk.path for disk in host.disks if disk.free_bytes < LOW_DISK_BYTES]
    yield Condition(
        "disk_full", bool(low), f"less than {size(LOW_DISK_BYTES)} free: {', '.join(low)}" if low else "disks have room"
    )
    steps = [body for _, body in history.entries("change", summary.time - monitor.alert_window_seconds)]
    steps = [after for what, _, after in steps if what == "clock"]
    unsynchronised = host.clock.synchronized is False
    text = "not synchronised" if unsynchronised else steps[-1] if steps else "synchronised, no step"
    yield Condition("clock", unsynchronised or bool(steps), f"clock: {text}")


def _restarts(history: History, summary: Summary, monitor: Monitor) -> Condition:
    since = summary.time - monitor.alert_window_seconds
    lives = [
        (time, life) for time, life in history.entries("life") if life["what"] in ("started", "stopping", "stopped")
    ]
    starts = [number for number, (time, life) in enumerate(lives) if time >= since and life["what"] == "started"]
    starts = [number for number in starts if not lives[number][1]["first"]]
    crashes = sum(number > 0 and lives[number - 1][1]["what"] == "started" for number in starts)
    text = f"{len(starts)} restarts in {monitor.alert_window_seconds / 60:.0f} min, {crashes} of them crashes"
    return Condition("miner_restarting", len(starts) >= monitor.alert_restarts or crashes > 0, text)


def daily_growth(history: History, summary: Summary) -> tuple[float, str] | None:
    """Percent by which the miner's main process grew over a day, and a text; None before it has run for that long.

    Compares the averages of two hours a day apart, the first at least an hour after the process started: data loaded
    at the start is not growth.
    """
    miner = summary.host.miner
    if miner is None or miner.uptime_seconds < 26 * 3600:
        return None
    samples = history.samples(3600, int(summary.time - 27 * 3600))
    before = [look["main_resident_bytes"] for start, look in samples.items()
              if "main_resident_bytes" in look and start <= summary.time - 24 * 3600]  # fmt: skip
    after = [look["main_resident_bytes"] for look in samples.values() if "main_resident_bytes" in look]
    if not before or not after or before[-1] <= 0:
        return None
    grown = after[-1] - before[-1]
    share = 100 * grown / before[-1]
    return share, f"the main process went from {size(before[-1])} to {size(after[-1])} in 24 h ({share:+.0f} %)"


def update(history: History, found: list[Condition], now: float, clear_seconds: float) -> list[Alert]:
    """Compares the conditions with the stored state: which alerts start, stay and clear. Stores the new state.

    A message that is due is kept until `deliver` has sent it.
    """
    states: dict[str, Any] = history.note(_NOTE, {})
    if not found:
        return _alerts(states)
    kept = {}
    for condition in found:
        state = states.get(condition.name) or dict(_NEW)
        if condition.bad:
            state["good"] = None
            state["bad"] = state["bad"] if state["bad"] is not None and state["bad"] <= now else now
            if not state["firing"] and now - state["bad"] >= condition.patience:
                # The clearing was never delivered: whoever received the alert still believes it.
                due = "" if state["due"] == "cleared" else "firing"
                state |= {"firing": True, "since": now, "due": due, "why": ""}
        elif condition.bad is False:
            state["bad"] = None
        if state["firing"] and condition.bad is False:
            good = state["good"] if state["good"] is not None and state["good"] <= now else now
            state["good"] = good
            if now - good >= clear_seconds:
                due = "" if state["due"] == "firing" else "cleared"
                state |= {"firing": False, "since": now, "good": None, "due": due, "why": ""}
        state["text"] = condition.text if condition.bad is not None or not state["firing"] else state["text"]
        kept[condition.name] = state
    history.set_note(_NOTE, kept)
    return _alerts(kept)


def _text(state: dict[str, Any]) -> str:
    """The state's text, which says so while the condition is well again but has not been for long enough."""
    return f"clearing: {state['text']}" if state["firing"] and state["good"] is not None else str(state["text"])


def _alerts(states: dict[str, Any]) -> list[Alert]:
    alerts = [
        Alert(name, state["firing"], _text(state), iso_utc(state["since"]) if state["since"] else None, state["why"])
        for name, state in states.items()
    ]
    return sorted(alerts, key=lambda alert: not alert.firing)


def read_receivers(path: Path) -> Receivers:
    """Where to send alerts, from the TOML file at `path`; no file: nowhere.

    ``webhook_url`` (https, or http to this host) and ``command`` (a list: the program and its arguments).
    """
    try:
        body = parse_toml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Receivers()
    except (OSError, ValueError) as error:
        # TOML's message may quote a line of the file.
        why = error.strerror if isinstance(error, OSError) else "it is not valid TOML"
        return Receivers(problem=f"cannot read {path}: {why}")
    url, command = body.pop("webhook_url", ""), body.pop("command", [])
    if body:
        return Receivers(problem=f"{path}: unknown keys {', '.join(sorted(body))}")
    if not isinstance(url, str) or (url and not _is_allowed(url)):
        return Receivers(problem=f"{path}: webhook_url must begin with https:// (http:// only for this host)")
    if not isinstance(command, list) or not all(isinstance(part, str) and part for part in command):
        return Receivers(problem=f"{path}: command must be a list of texts: the program and its arguments")
    return Receivers(url, tuple(command))


def _is_allowed(url: str) -> bool:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1"))
    )


def deliver(
    history: History,
    summary: Summary,
    receivers: Receivers,
    send: Callable[[dict[str, Any], Receivers], str] | None = None,
) -> list[Alert]:
    """Sends due messages, at most `MESSAGES_PER_RUN`, and records those sent. A failure raises nothing.

    `send` is `send_message` by default.
    """
    send = send or send_message
    states: dict[str, Any] = history.note(_NOTE, {})
    has_receiver = bool(receivers.webhook_url or receivers.command)
    sent = 0
    for name, state in states.items():
        if not state["due"]:
            continue
        if not has_receiver:
            # No receiver; if the file is invalid, its receivers get the message once it is fixed.
            state |= {"why": receivers.problem} if receivers.problem else {"due": "", "why": ""}
        elif sent < MESSAGES_PER_RUN:
            sent += 1
            why = send(_message(name, state, summary), receivers)
            state |= {"why": why} if why else {"due": "", "why": ""}
        elif not state["why"]:
            state["why"] = "waits for the next run: others were sent first"
    history.set_note(_NOTE, states)
    return _alerts(states)


def _message(name: str, state: dict[str, Any], summary: Summary) -> dict[str, Any]:
    began = iso_utc(state["since"])
    word = "ALERT" if state["due"] == "firing" else "cleared"
    return {
        "version": 1,
        "id": f"{summary.host.name} {name} {state['due']} {began}",
        "host": summary.host.name,
        "network": summary.network,
        "alert": name,
        "state": state["due"],
        "since_utc": began,
        "detail": _text(state),
        "verdict": summary.verdict.overall.value if isinstance(summary.verdict.overall, Verdict) else "",
        "text": f"{word}: {summary.host.name}: {name}: {_text(state)}",
    }


def send_message(message: dict[str, Any], receivers: Receivers) -> str:
    """Sends to every receiver; returns why it failed, or an empty text. A repeated message has the same id."""
    problems = []
    if receivers.command:
        problems.append(_run_command(message, receivers.command, receivers.limit_seconds))
    if receivers.webhook_url:
        problems.append(_post(message, receivers.webhook_url, receivers.limit_seconds))
    return "; ".join(problem for problem in problems if problem)


def _run_command(message: dict[str, Any], command: tuple[str, ...], limit_seconds: float) -> str:
    environment = {**os.environ, **{f"OMRON_ALERT_{name.upper()}": str(value) for name, value in message.items()}}
    try:
        done = subprocess.run(
            command,
            input=json.dumps(message),
            text=True,
            timeout=limit_seconds,
            env=environment,
            cwd="/",  # as from the timer: the service user may not be allowed in sudo's working directory
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the command took longer than {limit_seconds:g} s"
    except (OSError, ValueError) as error:
        return f"the command cannot be run: {getattr(error, 'strerror', None) or type(error).__name__}"
    return f"the command exited with {done.returncode}" if done.returncode else ""


def _post(message: dict[str, Any], url: str, limit_seconds: float) -> str:
    # Loading it costs as much as a whole run; alerts are rare.
    import http.client
    import urllib.error
    import urllib.request

    class _NoRedirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:  # the secret in the URL is sent to its receiver
            return None

    body = json.dumps(message).encode()
    agent = {"Content-Type": "application/json", "User-Agent": "omron-miner-monitor"}
    request = urllib.request.Request(url, data=body, headers=agent, method="POST")  # noqa: S310  checked when read
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=limit_seconds):
            return ""
    except urllib.error.HTTPError as error:
        return f"the webhook answered {error.code}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        # Not the error's own text: it may contain the URL.
        reason = getattr(error, "reason", error)
        return f"the webhook cannot be reached: {getattr(reason, 'strerror', None) or type(reason).__name__}"
