"""Plots as inline SVG: lines and bars over time, histograms. Drawn from lists of numbers; knows nothing of summaries.

Colours, line styles and fonts are in ``summary.css``; elements only have classes. A plot is drawn for a width of about
`WIDTH` CSS pixels, the width of a phone, so that its text matches the page's small text there. A line has a gap where
there is no value; without any value the plot shows "no data". Times are Unix seconds, UTC.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import TYPE_CHECKING

from omron_miner.formatting import SIZE_UNITS
from omron_miner.page.markup import Markup, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WIDTH, HEIGHT = 360, 156
LEFT, RIGHT, TOP, BOTTOM = 34, 318, 16, 134
"""Edges of the drawing area within the plot; tick labels are to its left and below it, line labels to its right."""
_MOST_TICKS = 4
_MOST_TIMES = 7
_TIME_STEPS = (60, 300, 600, 1800, 3600, 4 * 3600, 6 * 3600, 12 * 3600, 86_400, 7 * 86_400)
_LABEL_HEIGHT = 10.5


@dataclass(frozen=True)
class Line:
    """Values over time (None: no value), and the label at the line's end."""

    label: str
    values: Sequence[float | None]
    style: str = "strong"
    """strong, thin or dotted."""


@dataclass(frozen=True)
class Target:
    """An upper limit, drawn across the plot."""

    value: float
    label: str


class TimeAxis:
    """The horizontal axis of all plots of one period."""

    def __init__(self, starts: Sequence[int], step_seconds: int) -> None:
        """`starts` are those of the steps, each `step_seconds` long; a value is drawn in the middle of its step."""
        self.begin, self.end = starts[0], starts[-1] + step_seconds
        self._per_second = (RIGHT - LEFT) / (self.end - self.begin)
        self.step = step_seconds * self._per_second
        self.edges = [f"{self.x(start):.1f}" for start in (*starts, self.end)]
        self.middles = [f"{self.x(start) + self.step / 2:.1f}" for start in starts]
        self.drawn = "".join(
            f'<path class="grid" d="M{x} {TOP}V{BOTTOM}"/><text class="time" x="{x}" y="{BOTTOM + 14}">{label}</text>'
            for x, label in self._ticks()
        )

    def x(self, seconds: float) -> float:
        """The horizontal position of a time."""
        return LEFT + (seconds - self.begin) * self._per_second

    def _ticks(self) -> Iterator[tuple[str, str]]:
        """Ticks at round times of day, and the date at the start of a day."""
        length = self.end - self.begin
        step = next((one for one in _TIME_STEPS if length / one <= _MOST_TIMES), _TIME_STEPS[-1])
        for moment in range(ceil(self.begin / step) * step, self.end + 1, step):
            when = time.gmtime(moment)
            label = (
                f"{when.tm_mday} {time.strftime('%b', when)}"
                if moment % 86_400 == 0
                else f"{when.tm_hour:02}:{when.tm_min:02}"
            )
            yield f"{self.x(moment):.1f}", label


class _Scale:
    """The vertical axis, from 0 to a round number at or above `most`, in a readable unit."""

    def __init__(self, most: float, unit: str) -> None:
        self.unit, self._one = unit, 1.0
        if unit == "B":
            self.unit, self._one = next(
                ((name, size) for name, size in reversed(SIZE_UNITS) if most >= size), SIZE_UNITS[0]
            )
        self.ticks = [0.0, 50.0, 100.0] if unit == "%" else round_ticks(most / self._one, whole=not unit)
        self._per_one = (BOTTOM - TOP) / (self.ticks[-1] * self._one)

    def y(self, value: float) -> float:
        """The vertical position of a value."""
        return BOTTOM - value * self._per_one

    def drawn(self) -> str:
        """Grid lines and their labels; the top label has the unit."""
        parts = []
        for tick in self.ticks:
            y = self.y(tick * self._one)
            unit = f" {self.unit}" if self.unit and tick == self.ticks[-1] else ""
            parts.append(
                f'<path class="{"grid" if tick else "base"}" d="M{LEFT} {y:.1f}H{RIGHT}"/>'
                f'<text class="value" x="{LEFT - 4}" y="{y + 3.5:.1f}">{tick:g}{unit}</text>'
            )
        return "".join(parts)

    def in_words(self, value: float) -> str:
        """A value in words: ``23.4 s``."""
        return f"{value / self._one:.3g} {self.unit}".rstrip()


def line_plot(
    name: str,
    axis: TimeAxis,
    lines: Sequence[Line],
    unit: str,
    target: Target | None = None,
    shaded: Sequence[float] = (),
    marked: Sequence[int] = (),
) -> Markup:
    """Lines over time, shaded where `shaded` is above 0, with a mark at the bottom where `marked` is above 0.

    `unit` is ``s``, ``%``, ``B`` (bytes, shown in a binary unit) or empty for a count.
    """
    there = [[value for value in line.values if value is not None] for line in lines]
    most = max((max(values) for values in there if values), default=0.0)
    scale = _Scale(max(most, target.value if target else 0.0), unit)
    drawn = [_shade(axis, shaded), axis.drawn, scale.drawn()]
    if target:
        drawn.append(_across(target, scale.y(target.value)))
    drawn += [
        f'<path class="line {line.style}" d="{_trace(axis, line.values, scale)}"/>'
        for line, values in zip(lines, there, strict=True)
        if values
    ]
    drawn += [_line_labels(lines, scale), _marks(axis, marked)]
    if not any(there):
        drawn.append(_NO_DATA)
    ranges = [
        f"{line.label} from {scale.in_words(min(values))} to {scale.in_words(max(values))}"
        for line, values in zip(lines, there, strict=True)
        if values
    ]
    return _svg(f"{name}: {', '.join(ranges) or 'no data'}{f', {target.label}' if target else ''}", drawn)


def count_plot(name: str, axis: TimeAxis, counts: Sequence[int], marked: Sequence[int]) -> Markup:
    """One bar per step for `counts`; `marked` of them are highlighted at the bar's bottom, with a mark below."""
    scale = _Scale(float(max(counts, default=0)), "")
    bars, others = [], []
    for left, right, count, some in zip(axis.edges, axis.edges[1:], counts, marked, strict=False):
        if count:
            bars.append(f"M{left} {BOTTOM}V{scale.y(count):.1f}H{right}V{BOTTOM}z")
        if some:
            others.append(f"M{left} {BOTTOM}V{scale.y(some):.1f}H{right}V{BOTTOM}z")
    drawn = [
        axis.drawn,
        scale.drawn(),
        f'<path class="bar" d="{"".join(bars)}"/><path class="bar over" d="{"".join(others)}"/>',
        _marks(axis, marked) if any(counts) else _NO_DATA,
    ]
    return _svg(f"{name}: {sum(counts)}, of them failed: {sum(marked)}", drawn)


def histogram_plot(name: str, edges: Sequence[float], counts: Sequence[int], target: Target) -> Markup:
    """A histogram; bars beyond the target are highlighted. An arrow points to a target outside the plot."""
    if not counts:
        return _svg(f"{name}: no data", [f'<path class="base" d="M{LEFT} {BOTTOM}H{RIGHT}"/>', _NO_DATA])
    scale = _Scale(float(max(counts)), "")
    first, last = edges[0], edges[-1]

    def x(seconds: float) -> float:
        return LEFT + (seconds - first) / (last - first) * (RIGHT - LEFT)

    bars: dict[bool, list[str]] = {False: [], True: []}
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            bars[left >= target.value].append(
                f"M{x(left) + 0.5:.1f} {BOTTOM}V{scale.y(count):.1f}H{x(right) - 0.5:.1f}V{BOTTOM}z"
            )
    ticks = [tick for tick in round_ticks(last, most=12) if first <= tick <= last]
    ticks = ticks[:: ceil(len(ticks) / 6)] if ticks else [first, last]
    foot = "".join(
        f'<text class="time" x="{x(tick):.1f}" y="{BOTTOM + 14}">{tick:g}{" s" if tick == ticks[-1] else ""}</text>'
        for tick in ticks
    )
    drawn = [
        scale.drawn(),
        f'<path class="bar" d="{"".join(bars[False])}"/><path class="bar over" d="{"".join(bars[True])}"/>',
        foot,
    ]
    if first <= target.value <= last:
        place = x(target.value)
        side = "start" if place < (LEFT + RIGHT) / 2 else "end"
        drawn.append(
            f'<path class="target" d="M{place:.1f} {TOP}V{BOTTOM}"/>'
            f'<text class="target" text-anchor="{side}" x="{place:.1f}" y="{TOP - 5}">{text(target.label)}</text>'
        )
    else:
        label = f"{target.label} →" if target.value > last else f"← {target.label}"
        side, place = ("end", RIGHT) if target.value > last else ("start", LEFT)
        drawn.append(f'<text class="target" text-anchor="{side}" x="{place}" y="{TOP - 5}">{text(label)}</text>')
    most = max(range(len(counts)), key=counts.__getitem__)
    return _svg(
        f"{name} of {sum(counts)} requests, from {first:g} to {last:g} s, the most between {edges[most]:g} and"
        f" {edges[most + 1]:g} s, {target.label}",
        drawn,
    )


def bullet(value: float, target: float) -> Markup:
    """A short bar that compares a value with its target; without text, as it is shown next to the number."""
    most = max(value, target) * 1.15
    return Markup(
        '<svg class="bullet" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true" focusable="false">'
        f'<path class="track" d="M0 3H100"/><path class="value" d="M0 3H{value / most * 100:.1f}"/>'
        f'<path class="target" d="M{target / most * 100:.1f} 0V6"/></svg>'
    )


def swatch(kind: str) -> Markup:
    """A sample of a plot's symbol for its legend: shade, mark or target."""
    shape = {
        "shade": '<path class="shade" d="M0 0H18V10H0z"/>',
        "mark": '<path class="mark" d="M5 9l4-8 4 8z"/>',
        "target": '<path class="target" d="M0 5H18"/>',
    }[kind]
    return Markup(f'<svg class="swatch" viewBox="0 0 18 10" aria-hidden="true" focusable="false">{shape}</svg>')


def round_ticks(top: float, most: int = _MOST_TICKS, whole: bool = False) -> list[float]:
    """Ticks from 0 to at least `top`, in at most `most` steps of 1, 2 or 5 times a power of ten.

    `whole`: in steps of at least 1. If `top` is 0, from 0 to 1.
    """
    top = top if top > 0 else 1.0
    step = 10.0 ** floor(log10(top / most))
    step = max(step, 1.0) if whole else step
    while True:
        for wide in (step, 2 * step, 5 * step):
            count = ceil(top / wide - 1e-9)
            if count <= most:
                return [float(f"{number * wide:.12g}") for number in range(max(count, 1) + 1)]
        step *= 10


def _svg(title: str, drawn: Sequence[str]) -> Markup:
    return Markup(
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" focusable="false">'
        f"<title>{text(title)}</title>{''.join(drawn)}</svg>"
    )


def _trace(axis: TimeAxis, values: Sequence[float | None], scale: _Scale) -> str:
    """The line's path. Each run begins with ``h0``: with round line ends, a single value is visible as a dot."""
    parts, runs_on = [], False
    for x, value in zip(axis.middles, values, strict=True):
        if value is None:
            runs_on = False
            continue
        y = scale.y(value)
        parts.append(f"L{x} {y:.1f}" if runs_on else f"M{x} {y:.1f}h0")
        runs_on = True
    return "".join(parts)


def _shade(axis: TimeAxis, values: Sequence[float]) -> str:
    parts, runs_on = [], False
    for left, right, value in zip(axis.edges, axis.edges[1:], values, strict=False):
        if value > 0 and not runs_on:
            parts.append(f"M{left} {TOP}V{BOTTOM}")
        elif value <= 0 and runs_on:
            parts.append(f"H{left}V{TOP}z")
        runs_on = value > 0
        last = right
    if runs_on:
        parts.append(f"H{last}V{TOP}z")
    return f'<path class="shade" d="{"".join(parts)}"/>' if parts else ""


def _marks(axis: TimeAxis, values: Sequence[int]) -> str:
    places = "".join(f"M{x} {BOTTOM - 6}l-3 6h6z" for x, value in zip(axis.middles, values, strict=False) if value)
    return f'<path class="mark" d="{places}"/>' if places else ""


def _across(target: Target, y: float) -> str:
    return (
        f'<path class="target" d="M{LEFT} {y:.1f}H{RIGHT}"/>'
        f'<text class="target" x="{LEFT + 3}" y="{y - 4:.1f}">{text(target.label)}</text>'
    )


def _line_labels(lines: Sequence[Line], scale: _Scale) -> str:
    """Each line's label at the height of its last value, moved apart where they would overlap."""
    ends = [next((value for value in reversed(line.values) if value is not None), None) for line in lines]
    found = [(scale.y(end), line) for end, line in zip(ends, lines, strict=True) if end is not None]
    found.sort(key=lambda one: one[0])
    heights = [y for y, _ in found]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + _LABEL_HEIGHT)
    lowest = float(BOTTOM)
    for index in reversed(range(len(heights))):
        heights[index] = min(heights[index], lowest)
        lowest = heights[index] - _LABEL_HEIGHT
    return "".join(
        f'<text class="name {line.style}" x="{RIGHT + 4}" y="{y + 3.5:.1f}">{text(line.label)}</text>'
        for y, (_, line) in zip(heights, found, strict=True)
    )


_NO_DATA = f'<text class="none" x="{(LEFT + RIGHT) / 2:g}" y="{(TOP + BOTTOM) / 2 + 4:g}">no data</text>'
