"""What `omron-miner circuit tune` gains: its winner against EZKL's own run args, one logrows less, calibrate_settings.

    .venv/bin/python bench/tune.py [demo|tiny|mlp|conv-net|MODEL.onnx] [--data SAMPLES] [--compact] [--json FILE|-]

The tuner's own measuring, whose proofs take turns in one run: medians of witness and proof together, and how many times
the winner's each other one takes. Baselines are of the model as given, candidates of the rewritten one. The role's own
run args for demo and tiny are measured with them ("as given"); mlp and conv-net are small models that nothing ships,
dense layers with Tanh and Relu, and two streams of a convolution with BatchNormalization. Everything is built in a
temporary folder unless --out names one to keep; SRSs, made here and worthless elsewhere, are kept in .cache/bench.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import click

from bench_circuits import CACHE, ROOT  # first: it leads to the tests' helpers
from building import MODELS, render_run_args
from omron_miner.circuits.run_args import parse_run_args
from omron_miner.constants import Circuits, Constants, Log, Sessions
from omron_miner.tune.job import PUBLIC, Baselines, Goal, Job, Sampling, Search, Tuned
from omron_miner.tune.tune import tune
from reporting import Command, aim, host_facts, json_option, say_aims, say_host, say_table, write_json

sys.path.append(str(ROOT / "tests/unit"))
from tune_models import conv_net, mlp

AIMED_RATIO = 2.0
GIVEN = "as given"
OURS = ("demo", "tiny")
FAMILIES = {"mlp": mlp, "conv-net": conv_net}
"""Made for the run."""


@click.command(cls=Command)
@click.argument("model", default="demo")
@click.option("--data", type=click.Path(path_type=Path), help="Inputs, as `circuit tune` takes them.")
@click.option("--proofs", type=click.IntRange(2), default=3, show_default=True, help="Of each.")
@click.option("--best", type=click.IntRange(1), default=4, show_default=True, help="Candidates to measure.")
@click.option("--floor", type=click.FloatRange(0, 1), default=0.99, show_default=True, help="Least mean accuracy.")
@click.option("--compact", is_flag=True, help="Try the compact arithmetic too.")
@click.option("--margin", type=click.FloatRange(1), default=2.0, show_default=True, help="Of tables sized by samples.")
@click.option(
    "--baselines",
    type=click.Choice(("all", "given")),
    default="all",
    show_default=True,
    help="given: only the run args it starts with.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Keep results here; continue from those already there.")
@json_option
def main(
    model: str,
    data: Path | None,
    proofs: int,
    best: int,
    floor: float,
    compact: bool,
    margin: float,
    baselines: Literal["all", "given"],
    out: Path | None,
    json_file: str | None,
) -> None:
    """Tune a model and tell how its winner compares."""
    host = host_facts()
    say_host(host)
    base = parse_run_args(render_run_args(model), model) if model in OURS else PUBLIC
    with tempfile.TemporaryDirectory(prefix="bench-tune-") as name:
        place = out or Path(name)
        place.mkdir(parents=True, exist_ok=True)
        path = MODELS / f"{model}.onnx" if model in OURS else Path(model)
        if model in FAMILIES:
            path = place / f"{model}.onnx"
            FAMILIES[model](path)
        job = Job(path, place / "out", base, Sampling(data), Search(best, compact, margin=margin), Baselines(baselines),
                  Goal(floor=floor), proofs)  # fmt: skip
        tuned = tune(job, _constants(place))
    found = as_json(tuned)
    settings = {"model": model, "data": str(data) if data else None, "proofs": proofs, "best": best,
                "floor": floor, "compact": compact, "margin": margin, "baselines": baselines}  # fmt: skip
    write_json({"bench": "tune", "host": host, "settings": settings, **found}, json_file)


def _constants(place: Path) -> Constants:
    return Constants(
        circuits=Circuits(directory=place, srs_directory=CACHE / "srs", ezkl_directory=CACHE / "ezkl"),
        sessions=Sessions(
            directory=place / "sessions", fallback_directory=place / "sessions-on-disk", minimum_free_bytes=0
        ),
        log=Log(directory=place),
    )


def as_json(tuned: Tuned) -> dict[str, Any]:
    """Says the table and the aims; the same for JSON."""
    winner, rows, trials = tuned.winner, list[list[str]](), list[dict[str, Any]]()
    for one in tuned.trials:
        seconds = one.response_s
        ratio = seconds / winner.response_s if seconds and winner and winner.response_s else None
        setup = one.setup or {}
        setup_s, key_mb = setup.get("setup_s"), setup["pk_bytes"] / 2**20 if setup else None
        trials.append({"name": one.name, "baseline": one.baseline, "logrows": one.run_args.logrows, "key_mb": key_mb,
                       "setup_s": setup_s, "setup_peak_bytes": setup.get("peak_bytes"),
                       "response_s": seconds, "ratio_to_winner": ratio, "accuracy": one.accuracy,
                       "ranges": one.ranges, "failure": one.failure})  # fmt: skip
        figures = [(key_mb, ".1f"), (setup_s, ".1f"), (seconds, ".3f"), (ratio, ".2f"), (one.accuracy, ".4f")]
        shown = ["" if number is None else format(number, form) for number, form in figures]
        rows.append([one.name, str(one.run_args.logrows), *shown, one.ranges, one.failure[:60]])
    say_table(["run args", "logrows", "key MiB", "setup s", "response s", "/ winner", "accuracy", "ranges", ""], rows)
    ratios = {one["name"]: one["ratio_to_winner"] for one in trials if one["baseline"] and one["ratio_to_winner"]}
    given = ratios.pop(GIVEN, None)
    # Where none of EZKL's own proved, the winner has nothing to be faster than.
    best = min(ratios.values(), default=None if winner else 0.0)
    aims = []
    if best is not None:
        what = "the best of EZKL's own takes, times the winner"
        aims.append(aim(what, f"≥ {AIMED_RATIO}", best, best >= AIMED_RATIO))
    if given:
        aims.append(aim("the run args as given take, times the winner", "≥ 1", given, given >= 1))
    say_aims(aims)
    run_args = winner.run_args.model_dump(mode="json", exclude_none=True) if winner else None
    return {"winner": winner.name if winner else None, "run_args": run_args, "trials": trials, "aims": aims}


if __name__ == "__main__":
    main()
