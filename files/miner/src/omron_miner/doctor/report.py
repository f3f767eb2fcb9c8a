"""The doctor's table for people and its JSON for scripts."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from omron_miner.doctor.check import Check, Status, worst
from omron_miner.formatting import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

_COLOURS = {Status.OK: "32", Status.WARN: "33", Status.FAIL: "31", Status.UNKNOWN: "36"}
_STATUS_WIDTH = max(len(status.value) for status in Status)
_LIVE_WIDTH = 44
"""A longer value shifts its neighbour; the other columns stay aligned."""


def to_json(checks: Sequence[Check]) -> str:
    """One JSON object: the worst status and every check."""
    return (
        json.dumps({"schema_version": 1, "status": worst(checks), "checks": [asdict(check) for check in checks]}) + "\n"
    )


def to_text(checks: Sequence[Check]) -> str:
    """A table, advice below each line that needs it, and the outcome last. Contains colours; `click.echo` drops them
    when it does not write to a terminal.
    """
    name_width = max(len(check.name) for check in checks)
    live_width = min(_LIVE_WIDTH, max(len(check.live) for check in checks))
    lines = [f"{'status':{_STATUS_WIDTH}}  {'check':{name_width}}  {'live':{live_width}}  wanted"]
    for check in checks:
        word = f"\x1b[{_COLOURS[check.status]}m{check.status.value:{_STATUS_WIDTH}}\x1b[0m"
        # Names of circuits and files may come from others.
        live, wanted, advice = (printable(" ".join(one.split())) for one in (check.live, check.wanted, check.advice))
        lines.append(f"{word}  {check.name:{name_width}}  {live:{live_width}}  {wanted}".rstrip())
        if advice:
            lines.append(f"{'':{_STATUS_WIDTH}}  {'':{name_width}}  try: {advice}")
    counts = ", ".join(
        f"{count} {status.value}" for status in Status if (count := sum(check.status is status for check in checks))
    )
    return "\n".join([*lines, "", f"{worst(checks).value}: {counts}", ""])
