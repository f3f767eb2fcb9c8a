"""What was measured of one set of run args, and the file in which finished steps outlive an interrupted run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.run_args import RunArgs


@dataclass
class Trial:
    """One set of run args on its way from a name to measurements. Times are seconds, sizes bytes."""

    name: str
    baseline: bool
    model: Path
    run_args: RunArgs
    estimated_mb: float | None = None
    """Of the key, by `cost`; None for baselines."""
    ranges: str = ""
    """The worst verdict of all places: `safe`, `by samples` or `exceeded`."""
    accuracy: float | None = None
    """Mean over all samples; None when EZKL answers none of them."""
    setup: dict[str, Any] = field(default_factory=dict)
    proofs: list[dict[str, Any]] = field(default_factory=list)
    failure: str = ""
    """Why it is out; empty when it is not."""
    unsound: list[str] = field(default_factory=list)
    """Forgeries that verified."""
    reused: bool = False
    """Whether a figure is of an earlier run."""

    @property
    def response_s(self) -> float | None:
        """Median over the proofs of witness and proof together; None without a proof."""
        return median(one["witness_s"] + one["prove_s"] for one in self.proofs) if self.proofs else None


class Store:
    """Finished steps, a line of JSON each, by a digest of everything they depend on."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when the file cannot be read."""
        self._path, self._known = path, dict[str, Any]()
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self._begin = "\n" if text and not text.endswith("\n") else ""  # behind a line that was broken off
        for line in text.splitlines():
            try:
                record = json.loads(line)
                self._known[record["key"]] = record["result"]
            except (ValueError, KeyError, TypeError):
                continue  # broken off while it was written

    def get(self, key: str) -> Any:
        """What is known; None when nothing is."""
        return self._known.get(key)

    def put(self, key: str, about: dict[str, Any], result: Any) -> None:
        """Appends a step; `about` is for people. Raises OSError."""
        self._known[key] = result
        with self._path.open("a", encoding="utf-8") as file:
            file.write(self._begin + json.dumps({"key": key, **about, "result": result}) + "\n")
        self._begin = ""


def digest(*parts: object) -> str:
    """A key for the store."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def choose_winner(trials: list[Trial], floor: float) -> Trial | None:
    """The fastest that passes; a baseline when no candidate is faster than it, so never slower than the best of them.

    Puts a reason into `failure` of those that measured well but do not pass.
    """
    for one in trials:
        if not one.failure and one.unsound:
            one.failure = f"UNSOUND, refused: a proof verifies with {', '.join(one.unsound)}"
        elif not one.failure and (one.accuracy is None or one.accuracy < floor):
            one.failure = f"accuracy {one.accuracy or 0:.4f} is below {floor:g}"
        elif not one.failure and one.ranges == "exceeded":
            one.failure = "a sample leaves what it can hold"
    passed = [one for one in trials if not one.failure and one.response_s is not None]
    return min(passed, key=lambda one: (one.response_s or 0.0, not one.baseline), default=None)
