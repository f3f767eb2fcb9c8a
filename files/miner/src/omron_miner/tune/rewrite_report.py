"""What a rewrite did, as text for people and JSON for programs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from omron_miner.formatting import table
from omron_miner.tune.ask_ezkl import Reached

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omron_miner.circuits.run_args import RunArgs
    from omron_miner.tune.ask_ezkl import Size
    from omron_miner.tune.ranges import Range, Ranges
    from omron_miner.tune.rewrite import Rewritten

_MOST_PLACES = 12
"""Maximum number of places in the text; the JSON lists all."""


@dataclass(frozen=True)
class Report:
    """A rewrite with the ranges of its model; `ranges` is None when EZKL rejects the model."""

    model: str
    out: str
    ezkl: str
    run_args: RunArgs
    samples: Sequence[str]
    rewritten: Rewritten
    ranges: Ranges | None
    failure: str = ""
    """Why there are no ranges."""


def to_json(report: Report) -> str:
    """Everything in the report as one line of JSON."""
    rewritten, ranges = report.rewritten, report.ranges
    content = {
        "model": report.model,
        "out": report.out,
        "ezkl": report.ezkl,
        "run_args": report.run_args.model_dump(exclude_none=True),
        "samples": list(report.samples),
        "before": asdict(rewritten.before) if rewritten.before else None,
        "after": asdict(rewritten.after) if rewritten.after else None,
        "refused": rewritten.refused,
        "passes": [asdict(step) for step in rewritten.steps],
        "ranges": [{**asdict(one), "margin": one.margin, "verdict": one.verdict} for one in ranges.places]
        if ranges
        else None,
        "lookup_range_for_every_input": ranges.wide_enough if ranges else None,
        "reached": {
            what: {"lowest": one.lowest, "highest": one.highest} if isinstance(one, Reached) else {"failure": one}
            for what, one in ranges.reached.items()
        }
        if ranges
        else None,
        "failure": report.failure,
    }
    return json.dumps(content) + "\n"


def to_text(report: Report) -> str:
    """Tables of passes and of ranges, each with a summary line."""
    rewritten = report.rewritten
    rows = [("pass", "places", "nodes", "rows", "cells", "difference", "")]
    rows.append(("as given", "", "", *_size(rewritten.before), "", rewritten.refused))
    for step in rewritten.steps:
        nodes = f"{step.nodes_before} → {step.nodes_after}" if step.places else ""
        difference = f"{step.difference:.1e}" if step.places else ""
        words = f"DROPPED: {step.dropped}" if step.dropped else "" if step.places else "nothing to do"
        rows.append((step.name, str(step.places or ""), nodes, *_size(step.size), difference, words))
    lines = [
        f"{report.model} with EZKL {report.ezkl}, logrows {report.run_args.logrows}, "
        f"{report.run_args.num_inner_cols} inner columns, checked on {len(report.samples)} samples",
        *table(rows[0], rows[1:], left=(0, -1)),
    ]
    if rewritten.before and rewritten.after:
        lines.append(f"cells: {rewritten.before.cells} → {rewritten.after.cells}")
    return "\n".join([*lines, "", *_ranges(report), f"written: {report.out}"]) + "\n"


def _ranges(report: Report) -> list[str]:
    ranges = report.ranges
    if ranges is None:
        return [f"ranges unknown: {report.failure}"]
    rows = [("table or digits", "kind", "limit", "any input", "samples", "margin", "")]
    for one in sorted(ranges.places, key=_urgency)[:_MOST_PLACES]:
        bound = "unknown" if one.bound is None else str(one.bound)
        margin = "" if one.margin is None else f"{one.margin:.2f}"
        numbers = ("", bound, "unknown") if one.verdict == "unknown" else (str(one.limit), bound, str(one.seen))
        rows.append((f"{one.op} {one.node}", one.kind, *numbers, margin, one.verdict))
    lines = (
        [*table(rows[0], rows[1:], left=(0, -1))] if ranges.places else ["no number can leave a table: there are none"]
    )
    if (more := len(ranges.places) - _MOST_PLACES) > 0:
        lines.append(f"... and {more} with more margin")
    if wide := ranges.wide_enough:
        lines.append(f"lookup_range that no input can leave: {wide[0]}..{wide[1]}")
    met = [one for one in ranges.reached.values() if isinstance(one, Reached)]
    if met:
        low, high = min(one.lowest for one in met), max(one.highest for one in met)
        lines.append(f"in EZKL's own arithmetic {len(met)} samples reached {low}..{high} in lookup tables")
    lines += [f"EZKL cannot run {what!r}: {one}" for what, one in ranges.reached.items() if isinstance(one, str)]
    return lines


def _urgency(one: Range) -> tuple[bool, float]:
    return one.verdict != "exceeded", -1.0 if one.margin is None else one.margin


def _size(size: Size | None) -> tuple[str, str]:
    return (str(size.rows), str(size.cells)) if size else ("?", "?")
