"""Writes a `Summary` down: as JSON for machines, as text of at most 100 columns for people."""

from __future__ import annotations

import json
from dataclasses import is_dataclass
from math import floor
from typing import TYPE_CHECKING, Any

from omron_miner.monitor.model import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from omron_miner.monitor.model import Requests, Stats, Summary, Target

WIDTH = 100
_ERRORS_SHOWN = 3
_VALIDATORS_SHOWN = 8
_VERDICT_WORDS = {Verdict.MET: "met", Verdict.MISSED: "MISSED", Verdict.NO_DATA: "no data"}


def to_json(summary: Summary) -> str:
    """The summary as JSON, one line for each of its keys; keys that hold a quantity end in its unit."""
    # No NaN can be in it (events are finite); should one ever be, this refuses to write what is not JSON.
    # With an indent json leaves its fast encoder, which on a full summary takes a tenth of the time.
    lines = (
        f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for name, value in plain(summary).items()
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def plain(value: Any) -> Any:
    """`dataclasses.asdict`, but lists of numbers are not copied, which is most of its time."""
    if is_dataclass(value):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, list) and value and is_dataclass(value[0]):
        return [plain(one) for one in value]
    return value


def to_text(summary: Summary) -> str:
    """The summary for people: the verdict first, no line over `WIDTH` columns, no control characters."""
    sections = (_head, _alerts, _targets, _times, _failures, _circuits, _validators, _answers, _miner, _host, _errors)
    lines: list[str] = []
    for section in sections:
        block = list(section(summary))
        if block:
            lines += [*([""] if lines else []), *block]
    return "".join(f"{_printable(line)}\n" for line in lines)


def _head(summary: Summary) -> Iterator[str]:
    yield from _wrap(summary.verdict.text)
    yield (
        f"{when(summary.utc)} · {summary.host.name} · omron-miner {summary.version} · network {summary.network}"
        f" · last {duration(summary.window_seconds)}"
    )
    for warning in summary.verdict.warnings:
        yield from _wrap(f"warning: {warning}")


def _targets(summary: Summary) -> Iterator[str]:
    yield from table(
        ("target", "wanted", "measured", "over", "verdict"),
        [
            (
                target.name,
                f"{target.comparison} {target.wanted:g} {target.unit}".rstrip(),
                measured(target),
                str(target.over) if target.value is not None else "-",
                _VERDICT_WORDS[target.verdict],
            )
            for target in summary.verdict.targets
        ],
    )


def _alerts(summary: Summary) -> Iterator[str]:
    for alert in summary.alerts:
        if alert.firing:
            yield from _wrap(f"ALERT {alert.name} since {when(alert.since_utc)}: {alert.text}")
    for alert in summary.alerts:
        if alert.undelivered:
            yield from _wrap(f"alert {alert.name} could not be delivered: {alert.undelivered}")


def _times(summary: Summary) -> Iterator[str]:
    requests = summary.requests
    if not requests.timed:
        yield "times: no data, no proof verified in the window"
        return
    rows = (
        ("proof", requests.proof_seconds),
        ("overhead", requests.overhead_seconds),
        ("total", requests.total_seconds),
    )
    yield from table(
        (f"{requests.timed} verified", "mean", "p50", "p95", "max"),
        [(name, *_seconds(values)) for name, values in rows],
    )
    yield ""
    periods = (
        ("last hour", summary.periods.hour),
        ("last day", summary.periods.day),
        ("last week", summary.periods.week),
    )
    yield from table(
        ("", "requests", "success", "timeouts", "proof p95", "overhead p95", "total p95"),
        [(name, *_period_cells(period.requests)) for name, period in periods],
    )


def _failures(summary: Summary) -> Iterator[str]:
    requests = summary.requests
    if not requests.count:
        return
    yield f"requests: {requests.count}, last at {when(requests.last_utc)}"
    kinds = ", ".join(f"{kind} {count}" for kind, count in requests.failures.items())
    yield from _wrap(f"failures: {kinds or 'none'}")
    yield f"constant outputs: {requests.constant_outputs}"


def _circuits(summary: Summary) -> Iterator[str]:
    yield from table(
        ("circuit", "requests", "success", "failed", "proof p95", "total p95"),
        [
            (
                _clip(one.circuit or "unknown circuit", 45),
                str(one.requests.count),
                percent(one.requests.success_percent),
                str(one.requests.count - one.requests.succeeded),
                _p95(one.requests.proof_seconds),
                _p95(one.requests.total_seconds),
            )
            for one in summary.circuits
        ],
    )


def _validators(summary: Summary) -> Iterator[str]:
    shown = summary.validators[:_VALIDATORS_SHOWN]
    yield from table(
        ("validator", "requests", "success", "failed", "total p95"),
        [
            (
                _clip(one.validator_hotkey or "others", 48),
                str(one.requests.count),
                percent(one.requests.success_percent),
                str(one.requests.count - one.requests.succeeded),
                _p95(one.requests.total_seconds),
            )
            for one in shown
        ],
    )
    if len(summary.validators) > len(shown):
        yield f"and {len(summary.validators) - len(shown)} more in summary.json"


def _answers(summary: Summary) -> Iterator[str]:
    for answer in summary.answers:
        if not answer.asked:
            continue
        yield from _wrap(f"{answer.title} {answer.symptom}")
        for cause in answer.causes:
            yield from _wrap(f"  likely: {cause.text}")
            for one in cause.evidence:
                yield from _wrap(f"    {one}")
            yield from _wrap(f"    try: {cause.command}")
        if not answer.causes:
            yield from _wrap(f"  nothing that is measured explains it; try: {answer.command}")


def _miner(summary: Summary) -> Iterator[str]:
    miner = summary.miner
    if miner.pid is None:
        yield "miner      no process"
    else:
        yield (
            f"miner      up {duration(miner.uptime_seconds)}, pid {miner.pid},"
            f" {counted(miner.processes, 'process', 'processes')}, {size(miner.resident_bytes)} resident,"
            f" {miner.cpu_cores:.2f} cores busy"
        )
    listening = {True: "listening", False: "not listening", None: "unknown"}[miner.port_listening]
    yield (
        f"           port {miner.port} {listening}; in the window: restarts {miner.restarts}, of them crashes"
        f" {miner.crashes}, workers lost {miner.workers_lost}"
    )


def _host(summary: Summary) -> Iterator[str]:
    host = summary.host
    cpu, memory, disk = host.cpu, host.memory, host.ram_disk
    yield (
        f"CPU        {cpu.percent:.0f} % of {cpu.count} cores, load {cpu.load_1min:.2f} (1 min)"
        f" {cpu.load_5min:.2f} (5 min) {cpu.load_15min:.2f} (15 min)"
    )
    yield f"governor   {governors_in_words(cpu.governors)}"
    yield f"memory     {size(memory.available_bytes)} available of {size(memory.total_bytes)}"
    if disk is None:
        yield "RAM disk   unknown"
    else:
        used = f"{size(disk.used_bytes)} used of {size(disk.size_bytes)}"
        yield f"RAM disk   {disk.mount_point} ({disk.filesystem}): {used}"
        yield f"sessions   {sessions_in_words(disk.session_directory, disk.session_files, disk.session_bytes)}"
    yield f"swap       {swap_in_words(summary)}"
    for mount in host.disks:
        yield f"disk       {mount.path}: {size(mount.free_bytes)} free of {size(mount.size_bytes)}"
    yield f"uptime     {duration(host.uptime_seconds)}"


def _errors(summary: Summary) -> Iterator[str]:
    if summary.last_errors:
        yield f"last errors ({min(_ERRORS_SHOWN, len(summary.last_errors))}, more in summary.json):"
    for error in summary.last_errors[:_ERRORS_SHOWN]:
        yield from _wrap(f"{when(error.utc)} {error.failure}: {error.circuit or 'unknown circuit'}: {error.detail}", 3)


def duration(seconds: float | None) -> str:
    """The two largest units, hours up to two days: ``3 d 4 h``, ``24 h``, ``5 min 2 s``; ``unknown`` for None."""
    if seconds is None:
        return "unknown"
    left, parts = round(seconds), []
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    for unit, length in units if left >= 2 * 86_400 else units[1:]:
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def size(size_bytes: float | None) -> str:
    """Bytes with a binary unit: ``512 B``, ``1.5 GiB``; ``unknown`` for None."""
    if size_bytes is None:
        return "unknown"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def percent(value: float | None) -> str:
    """A share in percent, rounded down, so that 100 % is said of nothing less; ``no data`` for None."""
    return "no data" if value is None else f"{floor(value * 100) / 100:g} %"


def measured(target: Target) -> str:
    """The target's value with its unit; ``no data`` for None."""
    if target.value is None:
        return "no data"
    return {"%": percent(target.value), "s": f"{target.value:.3f} s"}.get(target.unit, f"{target.value:g}")


def _seconds(values: Stats | None) -> tuple[str, ...]:
    if values is None:
        return ("no data",) * 4
    return tuple(f"{value:.3f} s" for value in (values.mean, values.p50, values.p95, values.max))


def _period_cells(requests: Requests) -> tuple[str, ...]:
    times = (requests.proof_seconds, requests.overhead_seconds, requests.total_seconds)
    return (
        str(requests.count),
        percent(requests.success_percent),
        str(requests.timeouts) if requests.count else "no data",
        *(_p95(one) for one in times),
    )


def _p95(values: Stats | None) -> str:
    return "no data" if values is None else f"{values.p95:.3f} s"


def governors_in_words(governors: dict[str, str]) -> str:
    """``performance on 8 of 8 CPUs``."""
    if not governors:
        return "no cpufreq on this host"
    kinds = list(governors.values())
    return ", ".join(f"{kind} on {kinds.count(kind)} of {len(kinds)} CPUs" for kind in sorted(set(kinds)))


def sessions_in_words(directory: str, files: int | None, used_bytes: int | None) -> str:
    """The session directory and how much lies in it."""
    return (
        f"{directory}: not there or not readable"
        if files is None
        else f"{directory}: {counted(files, 'file', 'files')}, {size(used_bytes)}"
    )


def counted(number: int | None, one: str, many: str) -> str:
    """``1 file``, ``3 files``."""
    return f"{number} {one if number == 1 else many}"


def swap_in_words(summary: Summary) -> str:
    """Whether swap is on, and how much of it is used."""
    devices = summary.host.swap
    if devices is None:
        return "unknown: the kernel does not tell"
    if not devices:
        return "off"
    used, total = sum(device.used_bytes for device in devices), sum(device.size_bytes for device in devices)
    return f"ON: {size(used)} used of {size(total)} ({', '.join(device.name for device in devices)})"


def when(utc: str | None) -> str:
    """``2026-01-05 12:00:00 UTC``; ``never`` for None."""
    return utc.replace("T", " ").replace("Z", " UTC") if utc else "never"


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Lines of aligned columns, the first to the left, the others to the right; none without rows."""
    rows = list(rows)
    if not rows:
        return
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def _wrap(text: str, most: int = 4) -> Iterator[str]:
    """`text` in at most `most` lines of WIDTH columns, broken between words where there are any."""
    indent = text[: len(text) - len(text.lstrip(" "))]
    text = indent + " ".join(text.split())
    for index in range(most):
        if len(text) <= WIDTH or index == most - 1:
            yield _clip(text, WIDTH)
            return
        at = text.rfind(" ", 1, WIDTH + 1)
        at = at if at > len(indent) + 4 else WIDTH
        yield text[:at]
        text = f"{indent}    {text[at:].lstrip()}"


def _clip(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _printable(line: str) -> str:
    """What a caller put into a label or a message cannot move the cursor or colour an operator's terminal."""
    return _clip("".join(character if character.isprintable() else "?" for character in line), WIDTH)
