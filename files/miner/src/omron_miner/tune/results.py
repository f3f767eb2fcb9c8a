"""The results of trials, the selection of the winner, and the file that keeps finished steps of an interrupted run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from omron_miner.circuits.circuit import ezkl_version
from omron_miner.competition import score as competition_score
from omron_miner.competition.score import CircuitMetrics
from omron_miner.files import sha256
from omron_miner.untrusted import NOT_OF_ITS_FORM, parse_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from omron_miner.circuits.run_args import RunArgs


@dataclass
class Trial:
    """A set of run args and its measurements so far. Times are seconds, sizes bytes."""

    name: str
    baseline: bool
    model: Path
    run_args: RunArgs
    estimated_bytes: int | None = None
    """Of the key, by `cost`; None for baselines."""
    ranges: str = ""
    """The worst verdict of all places: `safe`, `by samples`, `unknown` or `exceeded`."""
    accuracy: float | None = None
    """Mean over all samples; None when EZKL answers none of them."""
    accurate: bool = False
    """Whether it is accurate enough on all samples to be set up."""
    setup: dict[str, Any] = field(default_factory=dict)
    proofs: list[dict[str, Any]] = field(default_factory=list)
    failure: str = ""
    """Why it is rejected; empty when it is not."""
    unsound: list[str] = field(default_factory=list)
    """Forgeries that verified."""
    weights_tried: bool = False
    """Whether a proof with other weights was tried: only for a winner, since each takes another proof."""
    score: float | None = None
    """In a competition, against the reference."""
    reused: bool = False
    """Whether a figure is of an earlier run."""

    @property
    def response_s(self) -> float | None:
        """Median over the proofs of witness and proof together; None without a proof."""
        return median(one["witness_s"] + one["prove_s"] for one in self.proofs) if self.proofs else None

    @property
    def standing(self) -> CircuitMetrics | None:
        """The numbers that a competition compares; None without a proof, or at accuracy 0."""
        if self.response_s is None or not self.accuracy:
            return None
        return CircuitMetrics(self.accuracy, fmean(one["proof_bytes"] for one in self.proofs), self.response_s)


class Store:
    """Finished steps, a line of JSON each, by a digest of everything they depend on."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when the file cannot be read."""
        self._path, self._known = path, dict[str, Any]()
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        self._begin = "\n" if text and not text.endswith("\n") else ""  # after an incomplete line
        for line in text.splitlines():
            try:
                record = parse_json(line)
                self._known[record["key"]] = record["result"]
            except NOT_OF_ITS_FORM:
                continue  # interrupted while it was written

    def get(self, key: str) -> Any:
        """The stored result; None when there is none."""
        return self._known.get(key)

    def put(self, key: str, about: dict[str, Any], result: Any) -> None:
        """Appends a step; `about` is for people. Raises OSError."""
        self._known[key] = result
        with self._path.open("a", encoding="utf-8") as file:
            file.write(self._begin + json.dumps({"key": key, **about, "result": result}) + "\n")
        self._begin = ""


class FinishedSteps:
    """Steps of trials that this or an earlier run finished, by a digest of everything they depend on."""

    def __init__(self, store: Store, samples_digest: str) -> None:
        self._store, self._samples_digest = store, samples_digest
        self._digests: dict[Path, str] = {}
        """Of models, which do not change within a run."""

    def once(self, one: Trial, step: str, make: Callable[[], Any]) -> Any:
        """The stored result of the step, or the result of `make`, which is then stored. Failures are not stored."""
        if (known := self.known(one, step)) is not None:
            one.reused = True
            return known
        result = make()
        about = {"name": one.name, "step": step, "run_args": one.run_args.model_dump(mode="json")}
        self._store.put(self._key(one, step), about, result)
        return result

    def known(self, one: Trial, step: str) -> Any:
        """The stored result of the step; None when there is none."""
        return self._store.get(self._key(one, step))

    def forget(self, one: Trial, step: str) -> None:
        """Discards the step's stored result."""
        self._store.put(self._key(one, step), {}, None)

    def _key(self, one: Trial, step: str) -> str:
        if one.model not in self._digests:
            self._digests[one.model] = sha256(one.model)
        return digest(step, self._digests[one.model], one.run_args.model_dump(), ezkl_version(), self._samples_digest)


def digest(*parts: object) -> str:
    """A key for the store."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def accuracy_failure(accuracy: float, floor: float) -> str:
    """Why a trial of this accuracy is rejected."""
    return f"accuracy {accuracy:.4f} is below {floor:g}"


def choose_winner(
    trials: list[Trial], floor: float, goal: str = "time", reference: CircuitMetrics | None = None
) -> Trial | None:
    """The best passing trial by `goal` (time or score); a baseline if no candidate is better.

    Sets `failure` of trials that were measured but do not pass, and the competition's `score` of those that do,
    against `reference` or the best of each number that any of them has.
    """
    for one in trials:
        if not one.failure and one.unsound:
            one.failure = f"UNSOUND, refused: a proof verifies with {', '.join(one.unsound)}"
        elif not one.failure and (one.accuracy is None or one.accuracy < floor):
            one.failure = accuracy_failure(one.accuracy or 0.0, floor)
        elif not one.failure and one.ranges == "exceeded":
            one.failure = "a sample exceeds its value range"
    passed = [one for one in trials if not one.failure and one.response_s is not None]
    _score(passed, reference)

    def rank(one: Trial) -> tuple[float, bool]:
        return (-(one.score or 0.0) if goal == "score" else one.response_s or 0.0), not one.baseline

    return min(passed, key=rank, default=None)


def _score(trials: list[Trial], reference: CircuitMetrics | None) -> None:
    standings = [one.standing for one in trials if one.standing]
    if standings and not reference:
        reference = competition_score.best_of_each(standings)
    for one in trials:
        one.score = competition_score.score(one.standing, reference).score if one.standing else None
