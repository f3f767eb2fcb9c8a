"""Evaluates and sorts the summaries of all hosts for playbooks/report.yml.

Summaries are not trusted: a host may be compromised. A value of an unexpected type makes a host "unreadable", with the
reason; texts are truncated and unprintable characters replaced. Pure functions; nothing is read here.
"""

from __future__ import annotations

import json
import math
from typing import Any

SCHEMA_VERSION = 2
LONGEST_SUMMARY = 4_000_000
"""Characters; a full week's summary has well under a tenth of it."""
ORDER = ("not_running", "missed", "stale", "unreachable", "missing", "unreadable", "other_version", "no_data", "met")
"""States of a host, the worst first."""
_LONGEST_TEXT = 200
_MOST_ALERTS = 20
_MOST_PROVERS = 200
_MOST_FUTURE_SECONDS = 60  # clocks differ a little; beyond it a summary's age means nothing
_TIMES = ("proof p95", "overhead p95", "total p95")


class _Unreadable(ValueError):
    """Why a summary cannot be used."""


def fleet_report(reads: dict[str, Any], stale_seconds: dict[str, float], now: float) -> dict[str, Any]:
    """Every host as a row, the worst first, and the fleet's totals.

    `reads` is the registered result of reading the file, by inventory name; `stale_seconds` how old a summary may be,
    by the same names; `now` is the control node's clock in Unix seconds.
    """
    rows = [_row(name, read, float(stale_seconds[name]), now) for name, read in reads.items()]
    rows.sort(key=_worst_first)
    counted = [row for row in rows if row["state"] in ("not_running", "missed", "no_data", "met")]
    return {
        "time": now,
        "hosts": rows,
        "states": {state: sum(row["state"] == state for row in rows) for state in ORDER},
        "requests": sum(row["requests"] for row in counted),
        "succeeded": sum(row["succeeded"] for row in counted),
        "alerts": sum(len(row["alerts"]) for row in counted),
    }


def fleet_stale(interval_seconds: float) -> float:
    """Maximum age of a summary in seconds, if one is written every `interval_seconds`."""
    return 5 * interval_seconds


def _worst_first(row: dict[str, Any]) -> tuple[Any, ...]:
    success = row["success_percent"]
    return (ORDER.index(row["state"]), -len(row["alerts"]), 101.0 if success is None else success, row["name"])


def _row(name: str, read: Any, stale_seconds: float, now: float) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": _clean(name), "state": "unreadable", "reason": "", "requests": 0, "succeeded": 0,
        "success_percent": None, "targets": {}, "failures": {}, "alerts": [], "cause": "", "command": "",
        "version": "", "age_seconds": None, "host": "", "provers": [],
    }  # fmt: skip
    read = read if isinstance(read, dict) else {}
    said = _clean(read.get("stderr") or read.get("msg") or read.get("stdout") or "no output")
    if read.get("unreachable"):
        return {**row, "state": "unreachable", "reason": said}
    if read.get("failed") or read.get("rc") != 0:
        missing = "No such file" in said
        return {**row, "state": "missing" if missing else "unreadable", "reason": said}
    try:
        summary = _parse(str(read.get("stdout", "")))
        version = summary.get("schema_version")
        if version != SCHEMA_VERSION:
            reason = f"its summary has schema version {_clean(version)}, this report knows {SCHEMA_VERSION}"
            return {**row, "state": "other_version", "reason": reason, "version": _clean(summary.get("version", ""))}
        row |= _view(summary)
    except (_Unreadable, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"no key {error}" if isinstance(error, KeyError) else str(error)
        return {**row, "reason": f"its summary is invalid: {_clean(reason)}"}
    row["age_seconds"] = age = now - row.pop("time")
    if age > stale_seconds:
        return {**row, "state": "stale", "reason": f"its summary is {age:.0f} s old: the monitor does not run"}
    if age < -_MOST_FUTURE_SECONDS:
        return {**row, "state": "stale", "reason": f"its summary is dated {-age:.0f} s ahead: a clock is wrong"}
    return row


def _parse(text: str) -> dict[str, Any]:
    if len(text) > LONGEST_SUMMARY:
        raise _Unreadable(f"longer than {LONGEST_SUMMARY} characters")
    try:
        summary = json.loads(text)
    except RecursionError:
        raise _Unreadable("nested too deeply") from None
    if not isinstance(summary, dict):
        raise _Unreadable("not an object")
    return summary


def _view(summary: dict[str, Any]) -> dict[str, Any]:
    """The report's view of a summary. Raises an error that `_row` catches if a value has an unexpected type."""
    verdict, requests, host = summary["verdict"], summary["requests"], summary["host"]
    state = verdict["overall"]
    if state not in ("met", "missed", "no_data", "not_running"):
        raise _Unreadable(f"verdict {_clean(state)}")
    alerts = [f"{_clean(one['name'])}: {_clean(one['text'])}" for one in summary["alerts"] if one["firing"] is True]
    causes = [cause for answer in summary["answers"] if answer["asked"] is True for cause in answer["causes"]]
    success = requests["success_percent"]
    return {
        "state": state,
        "reason": _clean(verdict["text"]),
        "time": _number(summary["time"]),
        "requests": int(_number(requests["count"])),
        "succeeded": int(_number(requests["succeeded"])),
        "success_percent": None if success is None else _number(success),
        "targets": {one["name"]: _target(one) for one in verdict["targets"] if one["name"] in _TIMES},
        "failures": {_clean(kind): int(_number(count)) for kind, count in requests["failures"].items()},
        "alerts": alerts[:_MOST_ALERTS],
        "cause": _clean(causes[0]["text"]) if causes else "",
        "command": _clean(causes[0]["command"]) if causes else "",
        "version": _version(summary),
        "host": _host(host),
        "provers": _provers(summary.get("provers")),
    }


def _version(summary: dict[str, Any]) -> str:
    """Ours, and that of upstream's miner where it serves."""
    upstream = summary.get("sn2")
    other = f", sn2-miner {upstream.get('version') or 'unknown'}" if isinstance(upstream, dict) else ""
    return _clean(f"{summary['version']}{other}")


def _provers(provers: Any) -> list[str]:
    """A line per host that proves for this one; none for a miner alone."""
    if provers is None:
        return []
    lines = [
        _clean(
            f"{one['name']} ({one['address']}): {one['state'] or 'gets work'}, {_number(one['proofs']):.0f} proofs,"
            f" {_number(one['failures']):.0f} failures,"
            f" {_number(one['running']):.0f} of {_number(one['workers']):.0f} proving"
        )
        for one in provers["hosts"][:_MOST_PROVERS]
        if one["address"]
    ]
    return [*([f"STALE: {_clean(provers['problem'])}"] if provers["problem"] else []), *lines]


def _target(one: dict[str, Any]) -> str:
    value = "-" if one["value"] is None else f"{_number(one['value']):.1f}"
    return f"{value} {_clean(one['comparison'])[:1]} {_number(one['wanted']):g} s"


def _host(host: dict[str, Any]) -> str:
    memory, swap = host["memory"], host["swap"]
    total = _number(memory["total_bytes"])
    used = 100 * (1 - _number(memory["available_bytes"]) / total) if total else 0.0
    governors = ", ".join(sorted({_clean(one) for one in host["cpu"]["governors"].values()}))
    return _clean(
        f"CPU {_number(host['cpu']['percent']):.0f} %, RAM {used:.0f} % of {total / 2**30:.0f} GiB, "
        f"swap {'unknown' if swap is None else 'on' if swap else 'off'}, governor {governors or 'none'}"
    )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _Unreadable(f"{_clean(value)} is not a number")
    return float(value)


def _clean(value: Any) -> str:
    """One line of at most 200 characters, all of them printable."""
    text = " ".join(str(value)[: 4 * _LONGEST_TEXT].split())
    text = "".join(one if one.isprintable() else "?" for one in text)
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """The filters by name."""
        return {"fleet_report": fleet_report, "fleet_stale": fleet_stale}
