"""Renders a `Summary`: as JSON for machines, as text of at most 100 columns for people."""

from __future__ import annotations

import json
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

from omron_miner.formatting import clip, counted, duration, percent, printable, size, table, wrap
from omron_miner.monitor.model import Verdict
from omron_miner.provers.status import working

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omron_miner.monitor.model import HostState, Provers, Requests, Sn2, Stats, Summary, Target

WIDTH = 100
_ERRORS_SHOWN = 3
_VALIDATORS_SHOWN = 8
_FAILURES_SHOWN, _SLICES_SHOWN = 5, 10
_NAME_WIDTH = 11
_VERDICT_WORDS = {Verdict.MET: "met", Verdict.MISSED: "MISSED", Verdict.NO_DATA: "no data"}


def to_json(summary: Summary) -> str:
    """The summary as JSON, one line for each of its keys; keys that hold a quantity end in its unit."""
    # It cannot contain NaN (events are finite); allow_nan guards against writing invalid JSON.
    # With an indent json does not use its fast encoder, which is ten times as fast on a full summary.
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
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return value


def to_text(summary: Summary) -> str:
    """The summary for people: the verdict first, no line over `WIDTH` columns, no control characters."""
    sections = (
        _head,
        _alerts,
        _targets,
        _times,
        _failures,
        _circuits,
        _validators,
        _sn2,
        _provers,
        _answers,
        _miner,
        _host,
        _errors,
    )
    lines: list[str] = []
    for section in sections:
        block = list(section(summary))
        if block:
            lines += [*([""] if lines else []), *block]
    return "".join(f"{clip(printable(line), WIDTH)}\n" for line in lines)


def _head(summary: Summary) -> Iterator[str]:
    yield from _wrapped(summary.verdict.text)
    yield (
        f"{when(summary.utc)} · {summary.host.name} · omron-miner {summary.version} · network {summary.network}"
        f" · last {duration(summary.window_seconds)}"
    )
    for warning in summary.verdict.warnings:
        yield from _wrapped(f"warning: {warning}")


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
            yield from _wrapped(f"ALERT {alert.name} since {when(alert.since_utc)}: {alert.text}")
    for alert in summary.alerts:
        if alert.undelivered:
            yield from _wrapped(f"alert {alert.name} could not be delivered: {alert.undelivered}")


def _times(summary: Summary) -> Iterator[str]:
    requests = summary.requests
    if not requests.timed:
        yield f"times: no data, no proof {'was alone' if summary.sn2 else 'verified'} in the window"
        return
    rows = (
        ("proof", requests.proof_seconds),
        ("overhead", requests.overhead_seconds),
        ("total", requests.total_seconds),
    )
    yield from table(
        (f"{requests.timed} {'alone' if summary.sn2 else 'verified'}", "mean", "p50", "p95", "max"),
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
    yield from _wrapped(f"failures: {kinds or 'none'}")
    yield f"constant outputs: {requests.constant_outputs}"


def _circuits(summary: Summary) -> Iterator[str]:
    yield from table(
        ("circuit", "requests", "success", "failed", "proof p95", "total p95"),
        [
            (
                clip(one.circuit or "unknown circuit", 45),
                str(one.requests.count),
                percent(one.requests.success_percent),
                str(one.requests.count - one.requests.succeeded),
                p95(one.requests.proof_seconds),
                p95(one.requests.total_seconds),
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
                clip(one.validator_hotkey or "others", 48),
                str(one.requests.count),
                percent(one.requests.success_percent),
                str(one.requests.count - one.requests.succeeded),
                p95(one.requests.total_seconds),
            )
            for one in shown
        ],
    )
    if len(summary.validators) > len(shown):
        yield f"and {len(summary.validators) - len(shown)} more in summary.json"


def _sn2(summary: Summary) -> Iterator[str]:
    if (found := summary.sn2) is None:
        return
    for name, text in sn2_facts(found):
        for line in wrap(text, WIDTH - _NAME_WIDTH, 3):
            yield f"{name:{_NAME_WIDTH}}{line}"
            name = ""
    for failure in found.failures[:_FAILURES_SHOWN]:
        meaning = f" = {failure.meaning}" if failure.meaning else ""
        yield from _wrapped(f"  {failure.count} x {failure.text}{meaning}")
    yield from table(
        ("slice", "requests", "proved", "failed", "reference"),
        [
            (f"{clip(one.circuit, 12)} {one.slice}", str(one.requests), str(one.proved), str(one.failed),
             "unknown" if one.reference_seconds is None else f"{one.reference_seconds:.1f} s")
            for one in found.slices[:_SLICES_SHOWN] if one.failed
        ],
    )  # fmt: skip
    yield from table(
        ("validator", "handshakes", "last, with the running process"),
        [
            (clip(one.hotkey, 48), str(one.handshakes), when(one.last_utc) if one.connected else "none")
            for one in found.validators[:_VALIDATORS_SHOWN]
        ],
    )
    yield from table(
        ("refused", "by", "lines", "connected before"),
        [
            (one.kind, clip(one.peer or "unknown", 48), str(one.count), "yes" if one.known else "no")
            for one in found.refused[:_VALIDATORS_SHOWN]
        ],
    )


def sn2_facts(found: Sn2) -> Iterator[tuple[str, str]]:
    """Facts about sn2-miner from its log, as names and texts."""
    lines = f", {found.unreadable_lines} unreadable lines, {found.misfit_lines} in an unknown format"
    yield "sn2-miner", f"{found.version or 'version unknown'}, started {when(found.started_utc)}{lines}"
    yield (
        "last day",
        f"requests {found.requests}, proofs {found.proofs}, failures {found.failed}, timeouts {found.timed_out};"
        f" last request {when(found.last_request_utc)}, last proof {when(found.last_proof_utc)}",
    )
    work = found.work
    yield (
        "work",
        f"ESTIMATE {work.work_seconds:.0f} s (credit {work.credit_seconds:.0f} s, debit {work.debit_seconds:.0f} s,"
        f" halved every 2 h) of {work.ended} requests, {work.without_reference} without a reference time",
    )
    yield (
        "validators",
        f"{found.connected} connected since the start; {found.returned} of the {found.connected_before} before it",
    )
    announced = {True: f"yes, {found.announced or 'address not logged'}", False: "FAILED", None: "not in the log"}
    error = f" ({found.serve_error})" if found.serve_error else ""
    yield (
        "chain",
        f"announced: {announced[found.registered]}{error}; failed metagraph reads {found.metagraph_failures}",
    )
    coverage = "" if found.coverage_percent is None else f", {found.coverage_percent:.1f} % of the stake is known"
    enforcing = {True: "drops all others", False: "learns", None: "not evaluated yet"}[found.enforcing]
    yield "allowlist", f"{enforcing}{coverage}"
    yield "circuits", "unknown" if found.circuits_loaded is None else f"{found.circuits_loaded} loaded at the start"


def _provers(summary: Summary) -> Iterator[str]:
    if (found := summary.provers) is None:
        return
    for line in wrap(provers_in_words(found), WIDTH - _NAME_WIDTH, 3):
        yield f"{'provers':{_NAME_WIDTH}}{line}"
    yield from table(
        ("prover host", "state", "proving", "proofs", "failed", "a proof takes"),
        [
            (
                clip(one.name, 30),
                clip(prover_state(one), 30),
                f"{one.running} of {one.workers}",
                str(one.proofs),
                str(one.failures),
                prover_pace(one),
            )
            for one in found.hosts
        ],
        left=(0, 1),
    )


def provers_in_words(found: Provers) -> str:
    """How many hosts get work, and how many requests wait for one."""
    queued = "unknown" if found.queued is None else str(found.queued)
    text = f"{working(found.hosts)} get work; requests waiting for a host: {queued}"
    return f"STALE, {found.problem}; last known: {text}" if found.problem else text


def prover_state(host: HostState) -> str:
    """That it gets work, or why not."""
    return host.state or "gets work"


def prover_pace(host: HostState) -> str:
    """The range of its proof times, over its circuits."""
    seconds = sorted(one.expected_seconds for one in host.pace.values())
    if not seconds:
        return "unknown"
    return f"{seconds[0]:.1f} s" if len(seconds) == 1 else f"{seconds[0]:.1f} to {seconds[-1]:.1f} s"


def _answers(summary: Summary) -> Iterator[str]:
    for answer in summary.answers:
        if not answer.asked:
            continue
        yield from _wrapped(f"{answer.title} {answer.symptom}")
        for cause in answer.causes:
            yield from _wrapped(f"  likely: {cause.text}")
            for one in cause.evidence:
                yield from _wrapped(f"    {one}")
            yield from _wrapped(f"    try: {cause.command}")
        if not answer.causes:
            yield from _wrapped(f"  no measured cause found; try: {answer.command}")


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
        yield from _wrapped(
            f"{when(error.utc)} {error.failure}: {error.circuit or 'unknown circuit'}: {error.detail}", 3
        )


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
        *(p95(one) for one in times),
    )


def p95(values: Stats | None) -> str:
    """In seconds; ``no data`` for None."""
    return "no data" if values is None else f"{values.p95:.3f} s"


def governors_in_words(governors: dict[str, str]) -> str:
    """``performance on 8 of 8 CPUs``."""
    if not governors:
        return "no cpufreq on this host"
    kinds = list(governors.values())
    return ", ".join(f"{kind} on {kinds.count(kind)} of {len(kinds)} CPUs" for kind in sorted(set(kinds)))


def sessions_in_words(directory: str, files: int | None, used_bytes: int | None) -> str:
    """The session directory and the size of its content."""
    return (
        f"{directory}: not there or not readable"
        if files is None
        else f"{directory}: {counted(files, 'file', 'files')}, {size(used_bytes)}"
    )


def swap_in_words(summary: Summary) -> str:
    """Whether swap is on, and how much of it is used."""
    devices = summary.host.swap
    if devices is None:
        return "unknown: not reported by the kernel"
    if not devices:
        return "off"
    used, total = sum(device.used_bytes for device in devices), sum(device.size_bytes for device in devices)
    return f"ON: {size(used)} used of {size(total)} ({', '.join(device.name for device in devices)})"


def when(utc: str | None) -> str:
    """``2026-01-05 12:00:00 UTC`` of a time in the summary; ``never`` for None."""
    return utc.replace("T", " ").replace("Z", " UTC") if utc else "never"


def _wrapped(text: str, most_lines: int = 4) -> Iterator[str]:
    return wrap(text, WIDTH, most_lines)
