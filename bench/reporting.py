"""Reporting shared by the benches: percentiles, host facts, a table for people, JSON for machines, the options."""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import psutil

from bench_circuits import RECIPES
from omron_miner.cli.progress import show_progress
from omron_miner.errors import OmronError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

VERSION = 1
"""Of the JSON's form."""

circuit_option = click.option(
    "--circuit", "circuits", type=click.Choice(list(RECIPES)), multiple=True, help="One or more: --circuit tiny demo."
)
more_circuits_argument = click.argument("more_circuits", type=click.Choice(list(RECIPES)), nargs=-1)
json_option = click.option(
    "--json", "json_file", metavar="FILE|-", help="Write everything measured there; - is stdout."
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="A constant of our miner, e.g. prover.workers=2.",
)


def deadline_option(seconds: float) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """``--deadline``, when an answer is due, with its default."""
    kind = click.FloatRange(min=1)
    return click.option("--deadline", type=kind, default=seconds, show_default=True, help="Seconds for an answer.")


class Command(click.Command):
    """Prints the package's errors in one line, as `omron-miner` does."""

    def invoke(self, ctx: click.Context) -> Any:
        """See click. A SIGTERM stops the bench cleanly, with its miners, and removes its temporary files.

        Progress of the package is shown as `omron-miner` shows it.
        """
        show_progress()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            return super().invoke(ctx)
        except OmronError as error:
            raise click.ClickException(str(error)) from error


def say(text: str) -> None:
    """Progress and tables, on stderr, so that ``--json -`` stays JSON."""
    click.echo(text, err=True)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of `values` lie, interpolated between neighbours. Needs one value."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def summary(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, least and most."""
    return {
        "p50": round(statistics.median(values), 6),
        "p95": round(percentile(values, 0.95), 6),
        "min": round(min(values), 6),
        "max": round(max(values), 6),
    }


def aim(text: str, wanted: str, measured: float, met: bool) -> dict[str, Any]:
    """One thing that should be true, and whether it was in this run."""
    return {"aim": text, "wanted": wanted, "measured": round(measured, 6), "met": met}


def say_aims(aims: Sequence[dict[str, Any]]) -> None:
    """A line per aim."""
    for one in aims:
        say(f"  {'met    ' if one['met'] else 'NOT MET'} {one['aim']}: {one['measured']:.3f}, wanted {one['wanted']}")


def say_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows under a head; the first column to the left, figures to the right."""
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    for row in (head, *rows):
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        say("  " + "  ".join([row[0].ljust(widths[0]), *cells]))


def host_facts() -> dict[str, Any]:
    """The machine and the versions; the load at the start, since other work makes every figure unreliable."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "load_1m_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("omron-miner", "bittensor", "ezkl", "uvicorn", "pydantic")},
    }


def say_host(facts: dict[str, Any]) -> None:
    """One line, and a warning on a busy machine."""
    say(
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_bytes'] / 2**30:.0f} GiB, EZKL {facts['ezkl']}, "
        f"bittensor {facts['bittensor']}, load before {facts['load_1m_before']}"
    )
    if facts["load_1m_before"] > 0.5:
        say("WARNING: other processes use the CPU; ratios are more reliable than seconds, and neither is accurate")


def write_json(content: dict[str, Any], file: str | None) -> None:
    """Writes `content`, with the form's version, to `file` (``-``: stdout); nowhere without one."""
    if file is None:
        return
    text = json.dumps({"version": VERSION, **content}, indent=1) + "\n"
    if file == "-":
        sys.stdout.write(text)
    else:
        Path(file).write_text(text, encoding="utf-8")


def milliseconds(seconds: float) -> str:
    """As a table shows it."""
    return f"{1000 * seconds:.1f} ms"


def progress(label: str) -> Callable[[str], None]:
    """Overwrites one line on a terminal; says nothing elsewhere."""

    def show(text: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[K{label}: {text}", err=True, nl=False)

    return show
