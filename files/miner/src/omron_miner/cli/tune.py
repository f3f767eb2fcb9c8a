"""Rewriting models and finding run args: `omron-miner circuit rewrite` and `tune`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from omron_miner.circuits.accuracy import FLOOR
from omron_miner.cli.common import (
    LARGEST,
    MOST,
    Duration,
    FiniteFloat,
    Share,
    Space,
    as_json,
    constants_of,
    exit_at_sigterm,
    path_argument,
    srs_file_option,
    srs_sha256_option,
    srs_source,
)
from omron_miner.cli.progress import show_progress
from omron_miner.errors import OmronError

if TYPE_CHECKING:
    from pathlib import Path

data_option = click.option(
    "--data",
    type=path_argument,
    help="File or folder of inputs (.npy, .json), in addition to random ones.  [default: none]",
)
_number = FiniteFloat(-LARGEST, LARGEST)
low_option = click.option(
    "--low",
    type=FiniteFloat(-LARGEST, LARGEST),
    default=-1.0,
    show_default=True,
    help="Smallest number in any input.",
)
high_option = click.option(
    "--high",
    type=FiniteFloat(-LARGEST, LARGEST),
    default=1.0,
    show_default=True,
    help="Largest number in any input.",
)


def _check_bounds(low: float, high: float) -> None:
    if not low < high:
        raise click.UsageError(f"--low {low:g} must be below --high {high:g}")


@click.command("rewrite")
@click.argument("model", type=path_argument)
@click.option("--out", type=path_argument, required=True, help="Output file.")
@data_option
@click.option("--settings", type=path_argument, help='EZKL run args as {"run_args": {...}}.  [default: EZKL\'s own]')
@low_option
@high_option
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the random inputs.")
@as_json
def circuit_rewrite_command(
    model: Path,
    out: Path,
    data: Path | None,
    settings: Path | None,
    low: float,
    high: float,
    seed: int,
    as_json: bool,
) -> None:
    """Rewrite an ONNX model so that its circuit has fewer cells, and bound the values that reach its tables.

    Each rewrite is checked on inputs and dropped when the outputs change beyond rounding or the number of cells grows.
    Exit 1 when a value of a sample is outside a table.
    """
    from omron_miner.circuits.run_args import RunArgs, read_run_args
    from omron_miner.tune.rewrite_file import RewriteJob, rewrite_file
    from omron_miner.tune.rewrite_report import to_json, to_text

    _check_bounds(low, high)
    run_args = read_run_args(settings) if settings else RunArgs()
    exit_at_sigterm()
    show_progress()
    report = rewrite_file(RewriteJob(model, out, data, run_args, low, high, seed))
    click.echo(to_json(report) if as_json else to_text(report), nl=False)
    if not report.ranges or any(one.verdict == "exceeded" for one in report.ranges.places):
        raise click.exceptions.Exit(1)


@click.command("tune")
@click.argument("model", type=path_argument)
@click.option("--out", type=path_argument, required=True, help="Folder for the circuit, its run args and the report.")
@data_option
@click.option("--settings", type=path_argument, help="Run args whose visibilities and variables are kept.")
@low_option
@high_option
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of the random inputs and of the scales to try.",
)
@click.option("--floor", type=Share(), default=FLOOR, show_default=True, help="Minimum mean accuracy.")
@click.option(
    "--best", type=click.IntRange(1, 1000), default=4, show_default=True, help="Number of candidates to measure."
)
@click.option(
    "--proofs",
    type=click.IntRange(2, MOST),
    default=3,
    show_default=True,
    help="Number of inputs to prove per candidate.",
)
@click.option(
    "--limit-seconds",
    type=Duration(),
    default=300.0,
    show_default=True,
    help="Time limit of each setup and each proof.",
)
@click.option(
    "--limit-gib", type=Space(), default=16.0, show_default=True, help="Limit of address space for each, GiB."
)
@click.option("--compact", is_flag=True, help="Also try the compact arithmetic, whose tables are sized by samples.")
@click.option(
    "--margin",
    type=FiniteFloat(1, LARGEST),
    default=2.0,
    show_default=True,
    help="Factor between the largest sampled value and the size of tables sized by samples.",
)
@click.option("--free-visibilities", is_flag=True, help="Also search the visibilities of inputs and parameters.")
@click.option(
    "--goal",
    type=click.Choice(["time", "score"]),
    default="time",
    show_default=True,
    help="What to optimise: response time, or a competition's score.",
)
@click.option("--reference", type=path_argument, help="JSON report of `circuit evaluate` for the circuit to beat.")
@click.option(
    "--baselines",
    type=click.Choice(["all", "given"]),
    default="all",
    show_default=True,
    help="Run args to compare with; given = only those of --settings.",
)
@srs_file_option
@srs_sha256_option
@as_json
@click.pass_context
def circuit_tune_command(
    context: click.Context,
    model: Path,
    out: Path,
    data: Path | None,
    settings: Path | None,
    low: float,
    high: float,
    seed: int,
    floor: float,
    best: int,
    proofs: int,
    limit_seconds: float,
    limit_gib: float,
    compact: bool,
    margin: float,
    free_visibilities: bool,
    goal: str,
    reference: Path | None,
    baselines: str,
    srs_file: Path | None,
    srs_sha256: str | None,
    as_json: bool,
) -> None:
    """Find run args at which a model proves fastest, by measuring, and build its circuit; exit 1 when none passes.

    EZKL's defaults, those of calibrate_settings and those given are measured too, and win when they are faster.
    Finished measurements are kept in OUT and not repeated.
    """
    from omron_miner.circuits.run_args import read_run_args
    from omron_miner.competition.report import read_reference
    from omron_miner.tune.job import PUBLIC, Baselines, Goal, Job, Sampling, Search
    from omron_miner.tune.trial import Limits
    from omron_miner.tune.tune import tune
    from omron_miner.tune.tune_report import to_json, to_text, write_report

    _check_bounds(low, high)
    if reference and goal != "score":
        raise click.UsageError("--reference is for --goal score")
    source = srs_source(srs_file, srs_sha256)
    exit_at_sigterm()
    show_progress()
    base = read_run_args(settings) if settings else PUBLIC
    limits = Limits(limit_seconds, int(limit_gib * (1 << 30)))
    job = Job(
        model, out, base,
        sampling=Sampling(data, low, high, seed),
        search=Search(best, compact, free_visibilities, margin),
        baselines=Baselines(baselines),
        goal=Goal(goal, floor, read_reference(reference) if reference else None),
        proofs=proofs,
        limits=limits,
        srs=source,
    )  # fmt: skip
    tuned = tune(job, constants_of(context))
    click.echo(to_json(tuned) if as_json else to_text(tuned), nl=False)
    try:
        write_report(tuned)
    except OSError as error:
        raise OmronError(f"cannot write the report below {out}: {error}", "check the free space") from error
    context.exit(0 if tuned.winner else 1)
