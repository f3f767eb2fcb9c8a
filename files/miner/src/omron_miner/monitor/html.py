"""The summary as one page, for a browser: summary.html.

The page is self-contained: no script, no external font or picture, and its policy forbids the browser to load any.
Radio buttons and ``summary.css`` switch between hour, day and week; printed, or in a browser too old for that, all
three are shown. The content comes from the `Summary` alone, in the wording of `render`, so that the three formats of a
summary agree.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from omron_miner.formatting import counted, duration, iso_utc, percent, size
from omron_miner.monitor import charts
from omron_miner.monitor.model import Verdict
from omron_miner.monitor.render import (
    governors_in_words,
    measured,
    p95,
    prover_pace,
    prover_state,
    provers_in_words,
    sessions_in_words,
    sn2_facts,
    swap_in_words,
    when,
)
from omron_miner.page import Markup, bullet, code, facts, fold, joined, section, table, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omron_miner.monitor.model import Alert, Answer, Cause, Requests, Summary, Target

STYLE_FILE = Path(__file__).with_name("summary.css")
"""Shipped with the package."""
_SIGNS = {Verdict.MET: "✓", Verdict.MISSED: "✕", Verdict.NO_DATA: "–", Verdict.NOT_RUNNING: "■"}
_WORDS = {Verdict.MET: "met", Verdict.MISSED: "missed", Verdict.NO_DATA: "no data"}
_ICON_COLOURS = {
    Verdict.MET: "#2a7d4f",
    Verdict.MISSED: "#c0392b",
    Verdict.NOT_RUNNING: "#c0392b",
    Verdict.NO_DATA: "#8a8f98",
}


def to_html(summary: Summary) -> str:
    """The page. Well-formed XML as well, except for its first line."""
    spans = charts.spans_of(summary)
    window = f"last {duration(summary.window_seconds)}"
    sections = (
        section("alerts", "Alerts", _alerts(summary)),
        section("targets", "Targets", _targets(summary), window),
        section("answers", "What is the cause?", _answers(summary)),
        _switch(spans),
        section("times", "Times", charts.times(summary, spans)),
        section("spread", "How times are spread", charts.spread(summary), f"{_timed(summary)} of the {window}"),
        section("requests", "Success and failures", _requests(summary, spans)),
        section("sn2", "sn2-miner", _sn2(summary), "last day") if summary.sn2 else Markup(""),
        section("provers", "Prover hosts", _provers(summary)) if summary.provers else Markup(""),
        section("host-over-time", "Host over time", charts.of_host(summary, spans)),
        section("host", "Host now", _host(summary)),
        section("versions", "Versions", _versions(summary)),
        section("changes", "Changes of this host", _changes(summary)),
        section("errors", "Last errors", _errors(summary), window),
    )
    return f"<!DOCTYPE html>\n{_page(summary, joined(sections))}\n"


def _page(summary: Summary, body: Markup) -> str:
    style = STYLE_FILE.read_text(encoding="utf-8")
    digest = b64encode(sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    overall = summary.verdict.overall
    headline, _, rest = summary.verdict.text.partition(": ")
    icon = quote(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
        f'<circle cx="8" cy="8" r="7" fill="{_ICON_COLOURS[overall]}"/></svg>'
    )
    details = (
        when(summary.utc),
        summary.host.name,
        f"omron-miner {summary.version}",
        f"network {summary.network}",
        f"last {duration(summary.window_seconds)}",
    )
    warnings = "".join(f"<li>{text(warning)}</li>" for warning in summary.verdict.warnings)
    return f"""<html lang="en">
<head>
<meta charset="utf-8"/>
<meta http-equiv="Content-Security-Policy" content="{policy}"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="color-scheme" content="light dark"/>
<meta name="referrer" content="no-referrer"/>
<title>{_SIGNS[overall]} {text(summary.host.name)} · {text(headline.lower())}</title>
<link rel="icon" href="data:image/svg+xml,{icon}"/>
<style>{style}</style>
</head>
<body>
<header class="{overall.value}">
<h1><span class="sign" aria-hidden="true">{_SIGNS[overall]}</span> {text(headline.capitalize())}</h1>
<p class="lead">{text(rest)}</p>
<p class="details">{" · ".join(text(one) for one in details)}</p>
{f'<ul class="warnings" aria-label="Warnings">{warnings}</ul>' if warnings else ""}
</header>
<main>
{body}</main>
<footer>{_foot(summary)}</footer>
</body>
</html>"""


def _switch(spans: list[charts.Span]) -> Markup:
    """The radio buttons that select the period of all plots over time. They stay visible.

    The page opens on the shortest period with a request in it, so that a new host does not show a day that is empty.
    """
    opens = next((span for span in spans if span.period.requests.count), spans[0])
    buttons = "".join(
        f'<label><input type="radio" name="period" id="show-{span.name}"{_CHECKED if span is opens else ""}/>'
        f"<span>{span.name}</span></label>"
        for span in spans
    )
    return Markup(f'<fieldset class="switch"><legend>Plots over the last</legend>{buttons}</fieldset>\n')


# --- verdict --------------------------------------------------------------------------------------------------------


def _alerts(summary: Summary) -> Markup:
    firing = [alert for alert in summary.alerts if alert.firing]
    quiet = [alert for alert in summary.alerts if not alert.firing]
    rows = "".join(
        f'<li><b><span class="sign" aria-hidden="true">▲</span> {text(alert.name)}</b> {text(alert.text)}'
        f"<small>since {text(when(alert.since_utc))}</small></li>"
        for alert in firing
    )
    waiting = "".join(
        f'<p class="note">The message about {text(alert.name)} could not be delivered: {text(alert.undelivered)}</p>'
        for alert in summary.alerts
        if alert.undelivered
    )
    watched = counted(len(quiet), "monitored condition does not fire", "monitored conditions do not fire")
    return joined(
        (
            Markup(f'<ul class="firing">{rows}</ul>') if rows else Markup('<p class="calm">None firing.</p>'),
            Markup(waiting),
            fold(watched, table("Alerts not firing", ("alert", "state", "since"), map(_quiet, quiet))),
        )
    )


def _quiet(alert: Alert) -> tuple[str, str, str]:
    return alert.name, alert.text, f"cleared {when(alert.since_utc)}" if alert.since_utc else "never fired"


def _targets(summary: Summary) -> Markup:
    tiles = joined(_tile(target) for target in summary.verdict.targets)
    return Markup(f'<ul class="tiles">{tiles}</ul>')


def _tile(target: Target) -> Markup:
    wanted = f"{target.comparison} {target.wanted:g} {target.unit}".rstrip()
    over = "" if target.value is None else f", {target.over} over" if target.unit == "s" else f", {target.over} failed"
    if target.name == "timeouts":
        over = ""
    bar = bullet(target.value, target.wanted) if target.unit == "s" and target.value is not None else ""
    verdict = target.verdict
    return Markup(
        f'<li class="{verdict.value}"><span class="name">{text(target.name)}</span>'
        f'<span class="measured">{text(measured(target))}</span>{bar}'
        f'<span class="wanted">wanted {text(wanted)}{over}</span>'
        f'<span class="verdict"><span class="sign" aria-hidden="true">{_SIGNS[verdict]}</span> {_WORDS[verdict]}</span>'
        "</li>"
    )


def _answers(summary: Summary) -> Markup:
    asked = joined(_answer(answer) for answer in summary.answers if answer.asked)
    calm = facts(
        "Questions without symptoms",
        [(answer.title, answer.symptom) for answer in summary.answers if not answer.asked],
    )
    return joined((asked, calm))


def _answer(answer: Answer) -> Markup:
    causes = "".join(f"<li>{_cause(cause)}</li>" for cause in answer.causes)
    found = (
        f"<ol>{causes}</ol>"
        if causes
        else f'<p>No measured cause found.</p><p class="next">Next: {code(answer.command)}</p>'
    )
    return Markup(
        f'<article><h3>{text(answer.title)}</h3><p class="symptom">{text(answer.symptom)}</p>{found}</article>'
    )


def _cause(cause: Cause) -> Markup:
    evidence = "".join(f"<li>{text(one)}</li>" for one in cause.evidence)
    return Markup(
        f'<b>Likely: {text(cause.text)}</b><ul class="evidence">{evidence}</ul>'
        f'<p class="next">Next: {code(cause.command)}</p>'
    )


# --- requests -------------------------------------------------------------------------------------------------------

_OUTCOME = ("#requests", "#success", "#failed", "failures by kind", "#proof p95", "#overhead p95", "#total p95")


def _requests(summary: Summary, spans: list[charts.Span]) -> Markup:
    requests, window = summary.requests, f"last {duration(summary.window_seconds)}"
    outcome = (
        f"{counted(requests.count, 'request', 'requests')} in the {window}, {requests.succeeded} answered with"
        f" {'a proof' if summary.sn2 else 'a verified proof'}; the last one ended at {when(requests.last_utc)};"
        f" constant outputs: {requests.constant_outputs}"
        if requests.count
        else f"No request in the {window}."
    )
    kinds = [
        (kind, str(count), percent(100.0 * count / requests.count) if requests.count else "no data")
        for kind, count in requests.failures.items()
    ]
    by_kind = table(f"By kind, {window}", ("failure", "#requests", "#of all"), kinds) or Markup(
        f'<p class="calm">{"No failure" if requests.count else "No data"} in the {window}.</p>'
    )
    circuits = [(one.circuit or "unknown circuit", *_outcome(one.requests)) for one in summary.circuits]
    validators = [
        (code(one.validator_hotkey) if one.validator_hotkey else "others", *_outcome(one.requests))
        for one in summary.validators
    ]
    return joined(
        (
            Markup(f'<p class="details">{text(outcome)}</p>'),
            Markup(f'<div class="columns"><div>{charts.requests(spans)}</div><div>{by_kind}</div></div>'),
            table(f"By circuit, {window}", ("circuit", *_OUTCOME), circuits, "wide"),
            table(f"By validator, {window}", ("validator", *_OUTCOME), validators, "wide"),
        )
    )


def _outcome(requests: Requests) -> tuple[str, ...]:
    return (
        str(requests.count),
        percent(requests.success_percent),
        str(requests.count - requests.succeeded),
        ", ".join(f"{kind} {count}" for kind, count in requests.failures.items()) or "none",
        p95(requests.proof_seconds),
        p95(requests.overhead_seconds),
        p95(requests.total_seconds),
    )


def _errors(summary: Summary) -> Markup:
    rows = [
        (
            when(error.utc),
            error.failure,
            error.detail,
            error.circuit or "unknown circuit",
            code(error.validator_hotkey) if error.validator_hotkey else "unknown",
            code(error.request_id),
        )
        for error in summary.last_errors
    ]
    header = ("when", "failure", "what was logged", "circuit", "validator", "request")
    return table("Newest first", header, rows, "wide") or Markup('<p class="calm">None.</p>')


# --- sn2-miner ------------------------------------------------------------------------------------------------------


def _sn2(summary: Summary) -> Markup:
    if (found := summary.sn2) is None:
        return Markup("")
    failures = [
        (one.text, str(one.count), one.meaning or "not known", "upstream's" if one.is_upstreams else "")
        for one in found.failures
    ]
    slices = [
        (
            code(one.circuit),
            one.slice,
            str(one.requests),
            str(one.proved),
            str(one.failed),
            one.failure or "none",
            "unknown" if one.reference_seconds is None else f"{one.reference_seconds:.1f} s",
        )
        for one in found.slices
    ]
    validators = [
        (
            code(one.hotkey),
            str(one.handshakes),
            when(one.last_utc) if one.connected else "not with the running process",
        )
        for one in found.validators
    ]
    refused = [
        (one.kind, code(one.peer) if one.peer else "unknown", str(one.count), "yes" if one.known else "no")
        for one in found.refused
    ]
    shown = f"Slices, {len(slices)} of {found.slices_seen}"
    assumed = "".join(f"<li>{text(one)}</li>" for one in found.work.assumptions)
    return joined(
        (
            facts("What its log says", sn2_facts(found)),
            fold("The work is an estimate. It assumes:", Markup(f"<ul>{assumed}</ul>")),
            table("Failures", ("what was logged", "#times", "meaning", "whose"), failures, "wide"),
            table(
                shown,
                ("circuit", "slice", "#requests", "#proved", "#failed", "failure", "#reference"),
                slices,
                "wide",
            ),
            table("Validators", ("hotkey", "#handshakes", "last, with the running process"), validators),
            table("Refused", ("kind", "peer", "#lines", "connected before"), refused),
        )
    )


# --- prover hosts ---------------------------------------------------------------------------------------------------


def _provers(summary: Summary) -> Markup:
    if (found := summary.provers) is None:
        return Markup("")
    rows = [
        (
            one.name,
            code(one.address) if one.address else "the miner's own",
            prover_state(one),
            when(iso_utc(one.since)),
            f"{one.running} of {one.workers}",
            str(one.proofs),
            str(one.failures),
            prover_pace(one),
            str(one.circuits),
            code(one.release) if one.release else "unknown",
        )
        for one in found.hosts
    ]
    header = (
        "host",
        "address",
        "state",
        "since",
        "#proving",
        "#proofs",
        "#failed",
        "#a proof takes",
        "#circuits",
        "release",
    )
    said = f"{provers_in_words(found)}. Proofs and failures since the miner started."
    return joined((Markup(f'<p class="details">{text(said)}</p>'), table("Hosts", header, rows, "wide")))


# --- host -----------------------------------------------------------------------------------------------------------


def _host(summary: Summary) -> Markup:
    miner = summary.host.miner
    processes = table(
        "The miner's processes",
        ("pid", "role", "#resident", "#up"),
        [
            (str(one.pid), one.role, size(one.resident_bytes), duration(one.uptime_seconds))
            for one in (miner.by_process if miner else [])
        ],
    )
    labels = {one.circuit_id: one.circuit for one in summary.circuits if one.circuit}
    keys = table(
        "Proving keys on this host",
        ("circuit", "#proving key"),
        [
            (labels.get(circuit_id) or code(circuit_id), size(key))
            for circuit_id, key in summary.host.circuit_keys_bytes.items()
        ],
    )
    both = f'<div class="columns"><div>{processes}</div><div>{keys}</div></div>' if processes or keys else ""
    return joined((facts("Host", _host_facts(summary)), Markup(both)))


def _percentages(named: dict[str, float | None], digits: int) -> str:
    """``miner 40 %, waiting for disks 2 %``: the known shares, rounded; empty without any."""
    return ", ".join(f"{name} {value:.{digits}f} %" for name, value in named.items() if value is not None)


def _host_facts(summary: Summary) -> Iterator[tuple[str, str]]:
    yield from _miner_facts(summary)
    host = summary.host
    cpu, memory, disk, pressure = host.cpu, host.memory, host.ram_disk, host.pressure
    shares = _percentages(
        {
            "miner": cpu.miner_percent,
            "waiting for disks": cpu.iowait_percent,
            "stolen by the hypervisor": cpu.steal_percent,
        },
        digits=0,
    )
    measured_over = f", over {duration(cpu.measured_seconds)}" if cpu.measured_seconds else ""
    yield (
        "processors",
        f"{cpu.percent:.0f} % of {cpu.count} cores busy ({shares or 'by which processes is unknown'}{measured_over})",
    )
    yield "load", f"{cpu.load_1min:.2f} (1 min), {cpu.load_5min:.2f} (5 min), {cpu.load_15min:.2f} (15 min)"
    yield "governor", governors_in_words(cpu.governors)
    yield "memory", f"{size(memory.available_bytes)} available of {size(memory.total_bytes)}"
    yield "swap", swap_in_words(summary)
    waits = _percentages(
        {"processors": pressure.cpu_percent, "memory": pressure.memory_percent, "disks": pressure.io_percent}, digits=1
    )
    yield "tasks waited for", f"{waits} of the last 5 min" if waits else "unknown"
    if disk is None:
        yield "RAM disk", "unknown"
    else:
        used = f"{size(disk.used_bytes)} used of {size(disk.size_bytes)}"
        yield "RAM disk", f"{disk.mount_point} ({disk.filesystem}, {','.join(disk.options)}): {used}"
        oldest = disk.oldest_session_file_seconds
        age = "" if oldest is None else f", the oldest {duration(oldest)} old"
        yield "sessions", sessions_in_words(disk.session_directory, disk.session_files, disk.session_bytes) + age
    for mount in host.disks:
        yield "disk", f"{mount.path}: {size(mount.free_bytes)} free of {size(mount.size_bytes)}"
    synchronized = {True: "synchronised", False: "NOT synchronised", None: "unknown whether it is synchronised"}
    step = f", stepped by {host.clock.step_seconds:+.1f} s since the last run" if host.clock.step_seconds else ""
    yield "clock", synchronized[host.clock.synchronized] + step
    yield "up", duration(host.uptime_seconds)


def _miner_facts(summary: Summary) -> Iterator[tuple[str, str]]:
    miner, process = summary.miner, summary.host.miner
    if miner.pid is None:
        yield "miner", "no process"
    else:
        yield (
            "miner",
            f"up {duration(miner.uptime_seconds)}, pid {miner.pid}, {counted(miner.processes, 'process', 'processes')},"
            f" {size(miner.resident_bytes)} resident, {miner.cpu_cores:.2f} cores busy",
        )
    if process and process.read_bytes_per_second is not None:
        yield "reads from disk", f"{size(process.read_bytes_per_second)} a second"
    listening = {True: "listening", False: "NOT listening", None: "unknown"}[miner.port_listening]
    yield "port", f"{miner.port} {listening}"
    last = f"; the last event in its log is '{miner.last_life}', {when(miner.last_life_utc)}" if miner.last_life else ""
    yield (
        "in the window",
        f"restarts {miner.restarts} (crashes {miner.crashes}), workers lost {miner.workers_lost}{last}",
    )


def _versions(summary: Summary) -> Markup:
    versions = summary.versions
    return facts(
        "Versions",
        (
            ("omron-miner", versions.omron_miner),
            ("EZKL", versions.ezkl or "not installed"),
            ("bittensor", versions.bittensor or "not installed"),
            ("Python", versions.python),
            ("kernel", versions.kernel),
            ("system", versions.system or "unknown"),
        ),
    )


def _changes(summary: Summary) -> Markup:
    rows = [(when(change.utc), change.what, change.before, change.after) for change in summary.changes]
    header = ("when", "what", "before", "after")
    return table("Newest first", header, rows) or Markup('<p class="calm">None known.</p>')


def _foot(summary: Summary) -> Markup:
    log = summary.log
    return Markup(
        f"<p>Read from {code(log.path)}: {counted(log.total_events, 'event', 'events')} since the history was started;"
        f" it reaches back {duration(summary.history_seconds)}. Times are those of {_timed(summary)}.</p>"
        "<p>Rewritten every minute. Is the time above older than that, see "
        f"{code('systemctl status omron-miner-monitor.timer')}. For programs: {code('summary.json')}.</p>"
    )


def _timed(summary: Summary) -> str:
    return "proofs that ran alone" if summary.sn2 else "verified proofs"


_CHECKED = ' checked="checked"'
