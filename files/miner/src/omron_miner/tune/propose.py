"""Second step of tuning: the run args to measure, baselines first, then candidates, cheapest first."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from omron_miner.circuits.run_args import RunArgs
from omron_miner.errors import CircuitError
from omron_miner.files import write_output
from omron_miner.progress import say
from omron_miner.tune import trial
from omron_miner.tune.ask_ezkl import too_large
from omron_miner.tune.compact_search import compact_search
from omron_miner.tune.passes import FOR_COMPACT
from omron_miner.tune.prepare import USUAL
from omron_miner.tune.ranges import Lookups, Magnitudes
from omron_miner.tune.results import Trial
from omron_miner.tune.rewrite import rewrite
from omron_miner.tune.search import SearchRequest, changed, cheapest_visibilities, choose, search

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from omron_miner.tune.job import Job
    from omron_miner.tune.prepare import Prepared
    from omron_miner.tune.results import FinishedSteps
    from omron_miner.tune.search import Candidate

    Searching = Callable[[SearchRequest], list[Candidate]]

_SEARCHED_SAMPLES = 8
_CALIBRATED_SAMPLES = 2
"""Samples for calibrate_settings, with the extremes: otherwise an honest input can exceed its tables."""
_ASKED_PER_BEST = 16
"""Number of candidates per measured one: rejecting one for its accuracy costs no setup."""


@dataclass(frozen=True)
class Proposed:
    """The trials in the order in which they are tried, and the magnitudes of each trial's model."""

    trials: list[Trial]
    magnitudes: dict[Path, Magnitudes | Lookups]


def propose(job: Job, prepared: Prepared, finished: FinishedSteps, searching: Searching = search) -> Proposed:
    """Baselines and candidates, candidates cheapest first. Raises OSError when a model cannot be written."""
    magnitudes: dict[Path, Magnitudes | Lookups] = {
        one.path: one.magnitudes for one in (prepared.given, prepared.rewritten)
    }
    trials = _baselines(job, prepared, finished)
    numbers = {kind: count(1) for kind in ("candidate", "compact")}
    for one in choose(_candidates(job, prepared, searching), _ASKED_PER_BEST * job.search.best, job.goal.name):
        kind = "compact" if isinstance(one.request.magnitudes, Lookups) else "candidate"
        model = prepared.rewritten.path
        if kind == "compact":
            model = job.out / f"compact-{hashlib.sha256(one.request.model).hexdigest()[:12]}.onnx"
            write_output(model, one.request.model)
            magnitudes[model] = one.request.magnitudes
        trials.append(Trial(f"{kind} {next(numbers[kind])}", False, model, one.run_args, one.cost.key_bytes))
    return Proposed(trials, magnitudes)


def _baselines(job: Job, prepared: Prepared, finished: FinishedSteps) -> list[Trial]:
    base, model = job.base, prepared.given.path
    same = ("input_visibility", "param_visibility", "variables")
    if job.baselines.which == "given":
        return [Trial("as given", True, model, base)]
    stock = changed(job.baselines.stock, **{key: getattr(base, key) for key in same})
    made, less = [Trial("stock", True, model, stock)], stock.logrows - 1
    made.append(Trial(f"stock at logrows {less}", True, model, changed(stock, logrows=less)))
    if base != stock:
        made.append(Trial("as given", True, model, base))
    for target in job.baselines.calibrations:
        one = Trial(f"calibrate {target}", True, model, stock)
        try:
            found = finished.once(one, one.name, lambda: _calibrate(job, prepared, stock, target))  # noqa: B023
            one.run_args = RunArgs.model_validate_json(json.dumps(found))
        except CircuitError as error:
            one.failure = error.message
        made.append(one)
    return made


def _calibrate(job: Job, prepared: Prepared, stock: RunArgs, target: str) -> dict[str, Any]:
    say(f"calibrate_settings for {target} ...")
    place = job.work / f"calibrate-{target}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    extremes = sum(not name.startswith(USUAL) for name in prepared.feeds)  # they come last
    samples = [*prepared.rows[:_CALIBRATED_SAMPLES], *prepared.rows[-extremes:]]
    rows = [[number for sample in samples for number in sample[at]] for at in range(len(samples[0]))]
    found = trial.calibrated(prepared.given.path, stock, rows, target, job.limits, place)
    return found.model_dump(mode="json", exclude_none=True)


def _candidates(job: Job, prepared: Prepared, searching: Searching) -> list[Candidate]:
    few, model = slice(_SEARCHED_SAMPLES), prepared.rewritten
    base = _base(job, model.path)
    request = SearchRequest(
        model=model.path.read_bytes(),
        base=base,
        rows=prepared.rows[few],
        expected=prepared.expected[few],
        magnitudes=model.magnitudes,
        floor=job.goal.floor,
        seed=job.sampling.seed,
        margin=job.search.margin,
    )
    found: list[Candidate] = []
    if why := too_large(model.path, base, job.limits.space_bytes):
        say(f"EZKL's own arithmetic is not searched: {why}")
    else:
        found += searching(request)
    if job.search.compact:
        other = rewrite(prepared.given.graph, prepared.feeds, base, FOR_COMPACT).graph
        graphs = [
            (one, Magnitudes(one, prepared.feeds, job.sampling.low, job.sampling.high)) for one in (model.graph, other)
        ]
        found += compact_search(request, graphs)
    return found


def _base(job: Job, model: Path) -> RunArgs:
    """The run args of candidates that are not searched."""
    if not job.search.free_visibilities:
        return job.base
    found = cheapest_visibilities(model.read_bytes(), job.base)
    say(f"fewest cells with inputs {found.input_visibility} and parameters {found.param_visibility}")
    return found
