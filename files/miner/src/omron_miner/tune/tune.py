"""Tunes a model: rewrites it, searches run args, measures the best ones and baselines, and builds the fastest.

    prepare ── Prepared ──> propose ── Proposed ──> measure_trials ── trials ──> build_winner ── winner, circuit
    samples, the model's    baselines and           accuracy, setup,             forgeries by other weights,
    answers, rewritten      candidates,             proofs taking turns          the role's own builder
    model                   cheapest first

All trials' proofs take turns in one run, so that a noisy machine affects all alike. Each finished step is stored in
``measurements.jsonl`` and not repeated by a second run into the same folder.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from omron_miner.errors import OmronError
from omron_miner.tune.job import Job, Tuned
from omron_miner.tune.measure_trials import measure_trials
from omron_miner.tune.prepare import prepare
from omron_miner.tune.propose import propose
from omron_miner.tune.results import FinishedSteps, Store, digest
from omron_miner.tune.search import search
from omron_miner.tune.winner import build_winner

if TYPE_CHECKING:
    from omron_miner.constants import Constants
    from omron_miner.tune.propose import Searching


def tune(job: Job, constants: Constants, searching: Searching = search) -> Tuned:
    """Tunes a model and builds the winner. `searching` finds the candidates in EZKL's own arithmetic.

    Raises ConfigError when the model or the data cannot be used, CircuitError or SrsError when the winner cannot be
    built, OmronError when `out` cannot be written.
    """
    circuits = constants.circuits.model_copy(update={"directory": job.out / "circuits"})
    constants = constants.model_copy(update={"circuits": circuits})
    try:
        job.work.mkdir(parents=True, exist_ok=True)
        prepared = prepare(job)
        finished = FinishedSteps(Store(job.out / "measurements.jsonl"), digest(prepared.rows))
        proposed = propose(job, prepared, finished, searching)
        trials = measure_trials(job, constants, prepared, proposed, finished)
        winner, built = build_winner(job, constants, prepared, trials, finished)
        shutil.rmtree(job.work, ignore_errors=True)
    except OSError as error:
        raise OmronError(f"cannot write below {job.out}: {error}", "check the folder and the free space") from error
    return Tuned(job, len(prepared.rows), trials, winner, built)
