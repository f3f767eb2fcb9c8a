"""What validators conclude from a competition circuit's runs: accuracy, the reasons to refuse it, and its score.

Only arithmetic on existing numbers; running the circuit is `evaluate`'s job. Sources are given as
(evaluator) for upstream's ``competitions/services/circuit_evaluator.py``, (ranking) for ``sota_manager.py`` next to it,
and (config) for the ``competition_config.json`` of competition 1; all of them are in section 6 of the protocol.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omron_miner.circuits.accuracy import accuracy
from omron_miner.circuits.constant_output import is_constant

if TYPE_CHECKING:
    from collections.abc import Sequence

EVALUATIONS, PROOF_EVALUATIONS = 100, 10
"""Inputs a circuit is run on, and how many of them, drawn at random, are proved as well (config)."""
ACCURACY_WEIGHT, PROOF_SIZE_WEIGHT, RESPONSE_TIME_WEIGHT = 0.95, 0.0, 0.05
"""Weights of the three ratios in the score (config); the published documents still have older ones."""
NEW_BEST_FACTOR = 1.02
"""A circuit takes the best one's place when its score is more than this many times the best one's (ranking)."""


@dataclass(frozen=True)
class Run:
    """One input's run. Times are seconds; what was not reached is None. Plain data, as JSON too."""

    index: int
    proved: bool
    """Whether this input was drawn for a full proof."""
    outputs: list[float] | None = None
    """The circuit's, all in one list; None when there is no witness, or no verified proof where one was due."""
    provable: bool = True
    """False when there is no witness, or one with a value that no lookup table holds: a proof is impossible then."""
    verified: bool | None = None
    """None for a witness-only run."""
    witness_s: float | None = None
    prove_s: float | None = None
    verify_s: float | None = None
    proof_bytes: int | None = None
    """Length of the proof itself, not of the file around it."""
    detail: str = ""
    """Why it failed; empty when it did not."""


@dataclass(frozen=True)
class CircuitMetrics:
    """The three numbers circuits are compared by."""

    accuracy: float
    """Mean over all runs, 0 to 1."""
    proof_bytes: float
    """Mean over the proofs."""
    response_s: float
    """Mean of witness and proof together over the proofs, in seconds."""


@dataclass(frozen=True)
class Conclusion:
    """What a validator concludes from the runs, before comparing with other circuits."""

    accuracies: list[float]
    """Of each run, in their order; all 0 when the output is constant."""
    standing: CircuitMetrics | None
    """None when a proof is missing or does not verify: then everything counts as 0."""
    failed_proofs: int
    unprovable: int
    constant_output: bool
    refusal: str
    """Why the circuit is refused; empty when it is not."""


@dataclass(frozen=True)
class Score:
    """A circuit's score compared with that of a reference, the best circuit so far."""

    score: float
    """Relative to the reference, whose own score is the sum of the weights, 1. Ratios above 1 are not capped."""
    relative_score: float
    """When both are ranked as miners: the score against the best of each number, divided by the better one's."""
    new_best: bool
    """Whether it would take the reference's place."""


def conclude(runs: Sequence[Run], expected: Sequence[Sequence[float]]) -> Conclusion:
    """The validator's conclusion from `runs`, whose baseline outputs are `expected` at the run's index (evaluator)."""
    proofs = [run for run in runs if run.proved]
    outputs = [run.outputs for run in runs if run.outputs is not None]
    constant = is_constant(outputs)
    accuracies = [
        0.0 if constant or run.outputs is None else accuracy(run.outputs, expected[run.index]) for run in runs
    ]
    failed = [run for run in proofs if not run.verified]
    standing = None if failed or not proofs else _standing(accuracies, proofs)
    return Conclusion(
        accuracies=accuracies,
        standing=standing,
        failed_proofs=len(failed),
        unprovable=sum(not run.provable for run in runs),
        constant_output=constant,
        refusal=_refusal(proofs, failed, constant, standing, _sizes_differ(outputs, expected)),
    )


def chance_of_refusal(runs: int, unprovable: int, proofs: int) -> float:
    """Probability, 0 to 1, that drawing `proofs` of `runs` inputs hits one of the `unprovable`."""
    return 1.0 - math.comb(runs - unprovable, proofs) / math.comb(runs, proofs)


def score(mine: CircuitMetrics, reference: CircuitMetrics | None) -> Score:
    """Compares an accepted circuit with a reference, both of positive numbers (ranking).

    Without a reference it is the first of its competition: compared with itself, and the best so far.
    """
    if reference is None:
        return Score(_weighed(mine, mine), 1.0, True)
    relative = _weighed(mine, reference)
    best = best_of_each([mine, reference])
    ranked, other = _weighed(mine, best), _weighed(reference, best)
    new_best = relative > NEW_BEST_FACTOR * _weighed(reference, reference)
    return Score(relative, ranked / max(ranked, other), new_best)


def best_of_each(standings: Sequence[CircuitMetrics]) -> CircuitMetrics:
    """The best of each number that any of them has (ranking). There must be one."""
    return CircuitMetrics(
        accuracy=max(one.accuracy for one in standings),
        proof_bytes=min(one.proof_bytes for one in standings),
        response_s=min(one.response_s for one in standings),
    )


def _weighed(mine: CircuitMetrics, best: CircuitMetrics) -> float:
    return (
        ACCURACY_WEIGHT * mine.accuracy / best.accuracy
        + PROOF_SIZE_WEIGHT * best.proof_bytes / mine.proof_bytes
        + RESPONSE_TIME_WEIGHT * best.response_s / mine.response_s
    )


def _standing(accuracies: Sequence[float], proofs: Sequence[Run]) -> CircuitMetrics:
    return CircuitMetrics(
        accuracy=_mean(accuracies),
        proof_bytes=_mean([run.proof_bytes or 0 for run in proofs]),
        response_s=_mean([(run.witness_s or 0.0) + (run.prove_s or 0.0) for run in proofs]),
    )


def _refusal(
    proofs: Sequence[Run], failed: Sequence[Run], constant: bool, standing: CircuitMetrics | None, sizes: str
) -> str:
    if not proofs:
        return "nothing was proved"
    if failed:
        first = failed[0]
        return f"{len(failed)} of {len(proofs)} proofs failed; the first, of input {first.index + 1}: {first.detail}"
    if constant:
        return "the output is constant: it is the same for every input, which counts as accuracy 0"
    if standing is None or standing.accuracy <= 0:
        return f"the accuracy is 0{sizes}"
    return ""


def _sizes_differ(outputs: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> str:
    if outputs and len(outputs[0]) != len(expected[0]):
        return f": the circuit has {len(outputs[0])} outputs, the baseline {len(expected[0])}"
    return ""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
