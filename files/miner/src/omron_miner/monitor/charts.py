"""The plots of a summary: times, requests and the host over hour, day and week, and the distribution of times.

`page.plots` draws a plot, `html` makes the page around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from omron_miner.formatting import counted, duration, percent, size
from omron_miner.page import (
    Line,
    Markup,
    Target,
    TimeAxis,
    count_plot,
    histogram_plot,
    joined,
    line_plot,
    swatch,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from omron_miner.monitor.model import Histogram, Period, Points, Stats, Summary

TIMES = ("proof", "overhead", "total")


@dataclass(frozen=True)
class Span:
    """A period with its name and the axis that its plots share."""

    name: str
    """hour, day or week: also its class in the style sheet, which shows one and hides the others."""
    period: Period

    @cached_property
    def axis(self) -> TimeAxis:
        """The horizontal axis."""
        return TimeAxis(self.period.points.start, self.period.step_seconds)


def spans_of(summary: Summary) -> list[Span]:
    """Hour, day and week."""
    periods = summary.periods
    return [Span("hour", periods.hour), Span("day", periods.day), Span("week", periods.week)]


def times(summary: Summary, spans: Sequence[Span]) -> Markup:
    """Proof, overhead and total time over each period, with their targets."""
    wanted = _targets(summary)
    legend = Markup(
        '<p class="legend">p50, p95 and slowest of each step; gaps are steps without a verified proof. '
        f"{swatch('target')} target of the p95 {swatch('mark')} a request failed</p>"
    )
    return joined((*(_block(span, _summed(span.period), _times(span, wanted)) for span in spans), legend))


def requests(spans: Sequence[Span]) -> Markup:
    """How many requests ended in each step, and failed."""
    return joined(_block(span, "", [_requests(span)]) for span in spans)


def spread(summary: Summary) -> Markup:
    """The histograms of the window."""
    wanted, histograms = _targets(summary), summary.histograms
    found: list[tuple[str, Histogram, Stats | None]] = [
        ("proof", histograms.proof, summary.requests.proof_seconds),
        ("overhead", histograms.overhead, summary.requests.overhead_seconds),
        ("total", histograms.total, summary.requests.total_seconds),
    ]
    figures = [
        _figure(
            f"{name.capitalize()} time",
            _stats(stats),
            histogram_plot(f"{name.capitalize()} time", one.edges_seconds, one.counts, wanted[name]),
        )
        for name, one, stats in found
    ]
    return Markup(f'<div class="plots">{joined(figures)}</div>')


def of_host(summary: Summary, spans: Sequence[Span]) -> Markup:
    """Processors, memory, RAM disk and queue over each period, with proofs marked."""
    legend = Markup(f'<p class="legend">{swatch("shade")} proofs were being made. Gaps: the monitor did not run.</p>')
    return joined((*(_block(span, "", list(_host_figures(summary, span))) for span in spans), legend))


def _targets(summary: Summary) -> dict[str, Target]:
    by_name = {target.name: target for target in summary.verdict.targets}
    found = {name: by_name[f"{name} p95"] for name in TIMES}
    return {name: Target(one.wanted, f"target {one.comparison} {one.wanted:g} s") for name, one in found.items()}


def _block(span: Span, note: str, figures: Sequence[Markup]) -> Markup:
    """A period's plots below its name."""
    step = duration(span.period.step_seconds)
    aside = f"steps of {step}, UTC{f' · {note}' if note else ''}"
    return Markup(
        f'<div class="period {span.name}"><h3>Last {span.name} <small>{text(aside)}</small></h3>'
        f'<div class="plots">{joined(figures)}</div></div>'
    )


def _figure(name: str, note: str, plot: Markup) -> Markup:
    return Markup(f"<figure><figcaption><b>{text(name)}</b> {text(note)}</figcaption>{plot}</figure>")


def _summed(period: Period) -> str:
    requests = period.requests
    if not requests.count:
        return "no request"
    return (
        f"{counted(requests.count, 'request', 'requests')}, {percent(requests.success_percent)} answered with a"
        f" verified proof, {counted(requests.timeouts, 'timeout', 'timeouts')}"
    )


def _stats(stats: Stats | None) -> str:
    """The part of a plot's caption after its name."""
    if stats is None:
        return "no data"
    return " · ".join(
        f"{name} {_short(value)}" for name, value in (("p50", stats.p50), ("p95", stats.p95), ("max", stats.max))
    )


def _short(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2f} s"


def _times(span: Span, wanted: dict[str, Target]) -> list[Markup]:
    points, requests = span.period.points, span.period.requests
    found = (
        (
            "proof",
            (points.proof_p50_seconds, points.proof_p95_seconds, points.proof_max_seconds),
            requests.proof_seconds,
        ),
        (
            "overhead",
            (points.overhead_p50_seconds, points.overhead_p95_seconds, points.overhead_max_seconds),
            requests.overhead_seconds,
        ),
        (
            "total",
            (points.total_p50_seconds, points.total_p95_seconds, points.total_max_seconds),
            requests.total_seconds,
        ),
    )
    return [
        _figure(
            f"{name.capitalize()} time",
            _stats(stats),
            line_plot(
                f"{name.capitalize()} time over the last {span.name}",
                span.axis,
                [Line("max", most, "dotted"), Line("p50", half, "thin"), Line("p95", nearly_all)],
                "s",
                target=wanted[name],
                marked=points.failed,
            ),
        )
        for name, (half, nearly_all, most), stats in found
    ]


def _requests(span: Span) -> Markup:
    points, requests = span.period.points, span.period.requests
    note = f"{requests.count} · failed {requests.count - requests.succeeded}" if requests.count else "none"
    name = f"Requests over the last {span.name}"
    return _figure("Requests", note, count_plot(name, span.axis, points.requests, points.failed))


def _host_figures(summary: Summary, span: Span) -> Iterator[Markup]:
    points, host = span.period.points, summary.host
    disk = host.ram_disk
    yield _host_figure(
        span,
        "Processors",
        f"of {host.cpu.count} cores",
        "%",
        _lines(all=points.cpu_percent, miner=points.miner_cpu_percent),
    )
    yield _host_figure(
        span, "Memory", f"used of {size(host.memory.total_bytes)}", "%", _lines(used=points.memory_used_percent)
    )
    lines = _lines(miner=points.miner_resident_bytes, main=points.main_resident_bytes)
    if any(points.swap_used_bytes):
        lines.append(Line("swap", points.swap_used_bytes, "dotted"))
    yield _host_figure(span, "The miner's memory", "all of it, and its main process", "B", lines)
    yield _host_figure(
        span,
        disk.mount_point if disk else "RAM disk",
        f"used of {size(disk.size_bytes)}, and by requests" if disk else "used",
        "B",
        _lines(used=points.ram_disk_used_bytes, requests=points.session_bytes),
    )
    yield _host_figure(span, "Queue", _longest(points), "", _queue(span))
    yield _host_figure(span, "Waited for a prover", "p95 of each step", "s", [Line("p95", points.queue_p95_seconds)])


def _host_figure(span: Span, name: str, note: str, unit: str, lines: Sequence[Line]) -> Markup:
    title = f"{name}, {note}, over the last {span.name}"
    return _figure(name, note, line_plot(title, span.axis, lines, unit, shaded=span.period.points.proving))


def _lines(**lines: Sequence[float | None]) -> list[Line]:
    """The first line is strong, the others are thin."""
    return [
        Line(label, values, style) for (label, values), style in zip(lines.items(), ("strong", "thin"), strict=False)
    ]


def _queue(span: Span) -> list[Line]:
    """No line if no request is known: a line at 0 would suggest a measurement."""
    points = span.period.points
    if not span.period.requests.count:
        return []
    return _lines(waiting=points.waiting, proving=points.proving)


def _longest(points: Points) -> str:
    return f"requests · at most {max(points.waiting):.2g} waiting" if any(points.waiting) else "requests · none waited"
