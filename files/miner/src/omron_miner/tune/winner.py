"""Last step of tuning: the best trial that passes, tried with other weights, and its circuit."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from omron_miner.building.build import build_circuit
from omron_miner.building.compare import SUFFIX, Reference, Sample, reference_text
from omron_miner.errors import CircuitError
from omron_miner.files import write_output
from omron_miner.progress import say
from omron_miner.tune import trial
from omron_miner.tune.graph import read_graph
from omron_miner.tune.other_weights import with_other_weights
from omron_miner.tune.results import choose_winner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omron_miner.building.build import BuildResult
    from omron_miner.constants import Constants
    from omron_miner.tune.job import Job
    from omron_miner.tune.prepare import Prepared
    from omron_miner.tune.results import FinishedSteps, Trial

_ALTERED = 3
"""Weight tensors that are changed, one after another, until an output changes."""


def build_winner(
    job: Job, constants: Constants, prepared: Prepared, trials: list[Trial], finished: FinishedSteps
) -> tuple[Trial | None, BuildResult | None]:
    """The best that passes and that the builder accepts, with its circuit. Raises CircuitError when it accepts none.

    The builder proves its own examples and refuses a circuit whose outputs do not depend on them.
    """
    refused: CircuitError | None = None
    while winner := choose_winner(trials, job.goal.floor, job.goal.name, job.goal.reference):
        _warn(trials)
        try:
            one = winner
            forged = finished.once(one, "weights", lambda: {"verified": _forge(job, constants, prepared, one)})  # noqa: B023
            winner.weights_tried = forged["verified"] is not None
            if forged["verified"]:
                winner.unsound.append("other weights")
                continue
            return winner, _build(job, constants, prepared, winner)
        except CircuitError as error:
            refused, winner.failure = error, error.message
            say(f"{winner.name}: rejected, {winner.failure}")
    _warn(trials)
    if refused:
        raise refused
    return None, None


def _forge(job: Job, constants: Constants, prepared: Prepared, one: Trial) -> bool | None:
    """Whether a proof with other weights than the circuit's verifies; None when changing weights changes no output."""
    say(f"{one.name}: a proof with other weights, which must not verify ...")
    folder, place = Path(one.setup["folder"]), job.work / "altered"
    if not folder.is_dir():  # an earlier run removed it
        made = trial.set_up(one.model, one.run_args, job.work / "again" / "new", constants, job.limits, job.srs)
        folder = Path(made["folder"])
    altered = place / "model.onnx"
    for graph in islice(with_other_weights(read_graph(one.model)), _ALTERED):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        altered.write_bytes(graph.to_model().SerializeToString())
        verified = trial.forge(folder, altered, prepared.rows[0], constants, job.limits, place / "circuit")
        if verified is not None:
            return verified
    say(f"{one.name}: none of {_ALTERED} changed weights changes an output, so this could not be tested")
    return None


def _warn(trials: Sequence[Trial]) -> None:
    for one in trials:
        if one.unsound:
            say(f"WARNING: {one.name}: {one.failure}")


def _build(job: Job, constants: Constants, prepared: Prepared, winner: Trial) -> BuildResult:
    """Writes the winner's model and run args and builds its circuit with the same builder as the role."""
    model, settings = job.out / "model.onnx", job.out / "run_args.json"
    write_output(model, winner.model.read_bytes())
    content = {"run_args": winner.run_args.model_dump(mode="json", exclude_none=True)}
    write_output(settings, json.dumps(content, indent=1) + "\n")
    name = "".join(letter if letter.isalnum() else "_" for letter in job.onnx.stem)[:64] or "tuned"
    # It is built from a rewritten model, whose answers must match the original's.
    samples = [Sample(*one) for one in zip(prepared.rows, prepared.expected, strict=True)]
    reference = Reference(samples, str(job.onnx), [])
    write_output(model.with_suffix(SUFFIX), reference_text(model, reference))
    return build_circuit(name, model, settings, constants, job.srs, floor=job.goal.floor)
