"""The report of a competition circuit's evaluation: plan and results, as text and JSON.

Nothing is run here: `competition.evaluate` does that and fills a `Report`; the formula is `competition.score`'s.
"""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from omron_miner.circuits.circuit import ezkl_version
from omron_miner.competition import score as competition_score
from omron_miner.competition.score import CircuitMetrics
from omron_miner.errors import ConfigError, kind_and_message
from omron_miner.formatting import size
from omron_miner.untrusted import NOT_OF_ITS_FORM, parse_json

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.competition.score import Conclusion, Run, Score

SCHEMA_VERSION = 1
"""Version of the JSON report; raised when a key is renamed, removed or changes its meaning."""


@dataclass(frozen=True)
class Limits:
    """Limits beyond which a validator gives up (protocol, section 6)."""

    setup_seconds: float = 300.0
    setup_bytes: int = 16 << 30
    """Address space, RLIMIT_AS; validators may set another limit (SUBNET_2_EZKL_SETUP_MEMORY_GB)."""
    step_seconds: float = 300.0
    """Each witness, proof and verification."""


@dataclass(frozen=True)
class Plan:
    """What to evaluate, against what, and how much of it."""

    directory: Path
    model: Path
    """The baseline, an ONNX file of one float input."""
    inputs: Path | None = None
    """A file or folder of inputs; None: noise, as validators use without photos."""
    count: int = competition_score.EVALUATIONS
    proofs: int = competition_score.PROOF_EVALUATIONS
    seed: int = 0
    reference: Path | None = None
    """The JSON report of another circuit's evaluation."""
    limits: Limits = Limits()


@dataclass(frozen=True)
class Setup:
    """The key generation; `failure` says why there are no usable keys, empty when it succeeded."""

    seconds: float | None
    peak_memory_bytes: int | None
    """Resident. What is limited is address space, which is more."""
    pk_bytes: int | None
    failure: str = ""


@dataclass(frozen=True)
class Report:
    """An evaluation; `to_json` and `to_text` show it."""

    plan: Plan
    model_sha256: str
    """SHA-256 of model.compiled: what a miner commits to on chain."""
    logrows: int
    num_rows: int
    setup: Setup
    runs: list[Run]
    conclusion: Conclusion | None
    """None when there are no keys, so that nothing was run."""
    reference: CircuitMetrics | None
    score: Score | None
    """None when the circuit is refused: a validator counts 0."""
    notes: list[str]

    @property
    def refusal(self) -> str:
        """Why a validator would refuse it; empty when it would not."""
        if self.conclusion is None:
            return f"setup fails: {self.setup.failure}"
        return self.conclusion.refusal

    @property
    def verdict(self) -> str:
        """The verdict as one line."""
        if self.score is None:
            return f"REJECTED, score 0: {self.refusal}"
        if self.reference is None:
            return f"ACCEPTED, score {self.score.score:.4f} with no reference to compare with"
        said = "a new best" if self.score.new_best else "not a new best"
        need = f"more than {competition_score.NEW_BEST_FACTOR:g} is"
        return f"ACCEPTED, score {self.score.score:.4f} against the reference's 1: {said} ({need})"


def read_reference(path: Path) -> CircuitMetrics:
    """The metrics in an earlier evaluation's JSON. Raises ConfigError when it is invalid, or of a refused circuit."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version {content['schema_version']}, expected {SCHEMA_VERSION}")
        if not content["accepted"]:
            raise ConfigError(
                f"the circuit of the reference {path} was itself rejected", "name the report of an accepted circuit"
            )
        standing = CircuitMetrics(
            *(float(content["standing"][key]) for key in ("accuracy", "proof_bytes", "response_s"))
        )
        if not all(0 < value < float("inf") for value in asdict(standing).values()):
            raise ValueError(f"a standing of {standing}")
    except (OSError, *NOT_OF_ITS_FORM) as error:
        message = f"{path} is not the report of an evaluation: {kind_and_message(error)}"
        raise ConfigError(message, "circuit evaluate --json prints one") from error
    return standing


def to_json(report: Report) -> str:
    """The report as JSON; docs/circuit-evaluate.md explains each key."""
    plan, conclusion, score = report.plan, report.conclusion, report.score
    accuracies = conclusion.accuracies if conclusion else []
    content = {
        "schema_version": SCHEMA_VERSION,
        "accepted": score is not None,
        "verdict": report.verdict,
        "score": score.score if score else 0.0,
        "relative_score": score.relative_score if score else 0.0,
        "new_best": score is not None and score.new_best,
        "standing": asdict(conclusion.standing) if conclusion and conclusion.standing else None,
        "reference": asdict(report.reference) if report.reference else None,
        "circuit": {
            "directory": str(plan.directory),
            "model_sha256": report.model_sha256,
            "ezkl_version": ezkl_version(),
            "logrows": report.logrows,
            "num_rows": report.num_rows,
        },
        "baseline": str(plan.model),
        "inputs": str(plan.inputs) if plan.inputs else None,
        "count": plan.count,
        "proofs": plan.proofs,
        "seed": plan.seed,
        "cores": os.cpu_count(),
        "limits": asdict(plan.limits),
        "setup": asdict(report.setup),
        "failed_proofs": conclusion.failed_proofs if conclusion else None,
        "unprovable": conclusion.unprovable if conclusion else None,
        "constant_output": conclusion.constant_output if conclusion else None,
        "notes": report.notes,
        "runs": [
            {**asdict(run), "accuracy": value} for run, value in zip(report.runs, accuracies, strict=True)
        ],
    }  # fmt: skip
    return json.dumps(content, allow_nan=False)


def to_text(report: Report) -> str:
    """The report as text: what was run, a table, remarks and the verdict as the last line."""
    plan, setup = report.plan, report.setup
    about = [
        f"circuit  {plan.directory}",
        f"         sha256 {report.model_sha256}, EZKL {ezkl_version()}, logrows {report.logrows}",
        f"runs     {plan.count} inputs of {plan.inputs or 'noise'}, {plan.proofs} of them proved, seed {plan.seed}",
        f"setup    {setup.failure or _setup_text(setup, plan.limits)}",
    ]
    parts = [about, _runs_text(report), _table(report), [f"note: {note}" for note in report.notes], [report.verdict]]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def run_text(run: Run) -> str:
    """A short description of one run."""
    if run.detail:
        return f"FAILED: {run.detail}" if run.proved or run.outputs is None else f"cannot be proved: {run.detail}"
    if not run.proved:
        return f"witness {run.witness_s:.3f} s"
    return f"witness {run.witness_s:.3f} s, proof {run.prove_s:.3f} s, verified"


def _setup_text(setup: Setup, limits: Limits) -> str:
    return (
        f"{setup.seconds:.1f} s of {limits.setup_seconds:g} s, {size(setup.peak_memory_bytes or 0)} resident with "
        f"{size(limits.setup_bytes)} of address space, key {size(setup.pk_bytes or 0)}"
    )


def _runs_text(report: Report) -> list[str]:
    conclusion, runs = report.conclusion, report.runs
    if not conclusion:
        return []
    proofs = [run for run in runs if run.proved]
    return [
        f"witnesses      {sum(run.outputs is not None or run.witness_s is not None for run in runs)} of {len(runs)}"
        f"{_mean_text([run.witness_s for run in runs])}",
        f"proofs         {len(proofs) - conclusion.failed_proofs} of {len(proofs)} verified"
        f"{_mean_text([run.prove_s for run in proofs])}",
        f"accuracy       {statistics.fmean(conclusion.accuracies):.4f} mean, {min(conclusion.accuracies):.4f} lowest",
        f"outputs        {'the same for every input' if conclusion.constant_output else 'depend on the input'}",
        f"not provable   {conclusion.unprovable} of {len(runs)} inputs",
    ]


def _mean_text(seconds: list[float | None]) -> str:
    known = [one for one in seconds if one is not None]
    return f", {statistics.fmean(known):.3f} s each" if known else ""


def _table(report: Report) -> list[str]:
    """The score's parts; empty when it is 0 anyway."""
    mine = report.conclusion.standing if report.conclusion else None
    if not mine or not report.score:
        return []
    other = report.reference or mine
    rows = [
        ("accuracy", f"{mine.accuracy:.4f}", f"{other.accuracy:.4f}", mine.accuracy / other.accuracy,
         competition_score.ACCURACY_WEIGHT),
        ("proof size", f"{mine.proof_bytes:.0f} B", f"{other.proof_bytes:.0f} B", other.proof_bytes / mine.proof_bytes,
         competition_score.PROOF_SIZE_WEIGHT),
        ("response time", f"{mine.response_s:.3f} s", f"{other.response_s:.3f} s", other.response_s / mine.response_s,
         competition_score.RESPONSE_TIME_WEIGHT),
    ]  # fmt: skip
    lines = [f"{'':<14} {'here':>12} {'reference':>12} {'ratio':>8} {'weight':>7} {'score':>7}"]
    for name, here, there, ratio, weight in rows:
        there = there if report.reference else "none"
        lines.append(f"{name:<14} {here:>12} {there:>12} {ratio:>8.4f} {weight:>7.2f} {ratio * weight:>7.4f}")
    lines.append(f"{'together':<14} {'':>12} {'':>12} {'':>8} {'':>7} {report.score.score:>7.4f}")
    return lines
