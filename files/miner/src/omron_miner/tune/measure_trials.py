"""Third step of tuning: each trial's accuracy, its keys, and proofs in turn."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from omron_miner.circuits.accuracy import accuracy
from omron_miner.errors import CircuitError, SrsError
from omron_miner.progress import say
from omron_miner.tune import trial
from omron_miner.tune.ask_ezkl import outputs_of_each, too_large
from omron_miner.tune.results import accuracy_failure, digest
from omron_miner.tune.search import collapses

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from omron_miner.constants import Constants
    from omron_miner.tune.job import Job
    from omron_miner.tune.prepare import Prepared
    from omron_miner.tune.propose import Proposed
    from omron_miner.tune.results import FinishedSteps, Trial

_TRIED_PER_BEST = 3
"""Maximum number of candidates that are set up per requested one, until enough can be proved."""


def measure_trials(
    job: Job, constants: Constants, prepared: Prepared, proposed: Proposed, finished: FinishedSteps
) -> list[Trial]:
    """Sets up and proves a first input of all baselines and of enough candidates, then the remaining inputs in turn.

    Returns the trials that were tried; `failure` is the reason for a rejected one. Raises OSError.
    """
    steps = _Steps(job, constants, prepared, proposed, finished)
    tried = first_turns(proposed.trials, job, steps.first_proof)
    for number in range(1, job.proofs):
        for one in tried:
            steps.take(one, partial(steps.proved, number=number))
    return tried


def first_turns(trials: Sequence[Trial], job: Job, take: Callable[[Trial], None]) -> list[Trial]:
    """Takes the first step of all baselines and of enough candidates; returns those that were tried.

    Candidates whose arithmetic was too coarse in another layout are skipped.
    """
    candidates = [one for one in trials if not one.baseline]
    coarse = set[tuple[object, ...]]()
    for one in trials:
        alive = sum(bool(other.proofs) and not other.failure for other in candidates)
        tried = sum(other.accurate for other in candidates)
        wanted = alive < job.search.best and tried < _TRIED_PER_BEST * job.search.best
        if one.baseline or (wanted and _arithmetic(one) not in coarse):
            take(one)
            if not one.baseline and one.accuracy is not None and one.accuracy < job.goal.floor:
                coarse.add(_arithmetic(one))
    return [one for one in trials if one.proofs or one.failure]


def _arithmetic(one: Trial) -> tuple[object, ...]:
    """The run args that determine a trial's outputs, independent of its layout."""
    return one.model, one.run_args.input_scale, one.run_args.param_scale, one.run_args.scale_rebase_multiplier


@dataclass(frozen=True)
class _Steps:
    """The steps of a trial, each of which fills in part of it."""

    job: Job
    constants: Constants
    prepared: Prepared
    proposed: Proposed
    finished: FinishedSteps

    def first_proof(self, one: Trial) -> None:
        """Everything up to a first proof."""
        self.take(one, self._ranged, self._sized, self._answered, self._set_up, partial(self.proved, number=0))

    def take(self, one: Trial, *steps: Callable[[Trial], None]) -> None:
        """The steps of a trial, until one fails."""
        try:
            for step in steps:
                if not one.failure:
                    step(one)
        except (CircuitError, SrsError) as error:
            one.failure = error.message
            say(f"{one.name}: rejected, {one.failure}")

    def _ranged(self, one: Trial) -> None:
        verdicts = {place.verdict for place in self.proposed.magnitudes[one.model].at(one.run_args)}
        one.ranges = next((what for what in ("exceeded", "unknown", "by samples") if what in verdicts), "safe")

    def _sized(self, one: Trial) -> None:
        """Rejects a circuit whose setup would be killed. Raises CircuitError."""
        if why := too_large(one.model, one.run_args, self.job.limits.space_bytes):
            raise CircuitError(f"{why}, more than the space limit")

    def _answered(self, one: Trial) -> None:
        """Its accuracy over all samples.

        Raises CircuitError if EZKL cannot prove one of them, or if a candidate that was above the floor for fewer
        samples is below it for all.
        """
        rows, expected = self.prepared.rows, self.prepared.expected
        say(f"{one.name}: {len(rows)} samples ...")
        (answers,) = self.finished.once(one, "answers", lambda: outputs_of_each(
            one.model.read_bytes(), [one.run_args], rows, lambda: None))  # fmt: skip
        if isinstance(answers, str):
            raise CircuitError(answers)
        low, high = one.run_args.lookup_range
        lost = [answer for answer in answers if isinstance(answer, str)]
        places = self.proposed.magnitudes[one.model].at(one.run_args)
        looked_up = any(place.kind == "lookup" for place in places)
        beyond = [answer for answer in answers if looked_up and not isinstance(answer, str)
                  and not (low <= answer["lowest"] and answer["highest"] <= high)]  # fmt: skip
        if lost or beyond:
            raise CircuitError(f"{len(lost) + len(beyond)} of {len(answers)} samples cannot be proved")
        outputs = [[number for row in answer["outputs"] for number in row] for answer in answers]
        one.accuracy = fmean(map(accuracy, outputs, expected))
        if not one.baseline and one.accuracy < self.job.goal.floor:  # a baseline is reported anyway
            raise CircuitError(accuracy_failure(one.accuracy, self.job.goal.floor))
        if collapses(outputs, expected):
            raise CircuitError("the circuit is too coarse: different samples have the same outputs")
        one.accurate = True

    def _set_up(self, one: Trial) -> None:
        def make() -> dict[str, Any]:
            say(f"{one.name}: setup at logrows {one.run_args.logrows} ...")
            place = self.job.work / digest(one.model.name, one.run_args.model_dump())[:16] / "new"
            shutil.rmtree(place.parent, ignore_errors=True)
            return trial.set_up(one.model, one.run_args, place, self.constants, self.job.limits, self.job.srs)

        known = self.finished.known(one, "setup")
        gone = known and not Path(known["folder"]).is_dir()
        if gone and self.finished.known(one, f"proof {self.job.proofs - 1}") is None:
            self.finished.forget(one, "setup")  # its keys are needed once more
        one.setup = self.finished.once(one, "setup", make)

    def proved(self, one: Trial, *, number: int) -> None:
        """One proof, of the sample with this number. Raises CircuitError."""

        def make() -> dict[str, Any]:
            rows = self.prepared.rows[number % len(self.prepared.rows)]
            made = trial.prove(Path(one.setup["folder"]), rows, self.constants, self.job.limits)
            seconds = made["witness_s"] + made["prove_s"]
            say(f"{one.name}: proof {number + 1} of {self.job.proofs}: {seconds:.2f} s, verified")
            return made

        made = self.finished.once(one, f"proof {number}", make)
        one.proofs.append(made)
        one.unsound += [what for what in made["forged"] if what not in one.unsound]
