"""Tuning small models for real: the winner proves, keeps the floor, is never slower, and is not measured twice."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from building import MODELS, constants_below
from omron_miner.building.build import Source
from omron_miner.circuits.load import load_circuit
from omron_miner.circuits.run_args import read_run_args
from omron_miner.errors import CircuitError, ConfigError
from omron_miner.proving.ezkl_srs import ensure_srs
from omron_miner.tune import trial
from omron_miner.tune.graph import read_graph
from omron_miner.tune.job import PUBLIC, Baselines, Job, Search, Tuned
from omron_miner.tune.other_weights import with_other_weights
from omron_miner.tune.search import changed
from omron_miner.tune.tune import tune
from omron_miner.tune.tune_report import write_report
from tune_models import graph, mlp, node

pytestmark = pytest.mark.slow
SMALL = changed(PUBLIC, logrows=12, lookup_range=(-1000, 1000), decomp_base=1024)
"""A stand-in for EZKL's own run args, whose logrows 17 would take minutes here."""
SMALL_ONLY = Baselines(stock=SMALL, calibrations=())


def checked(tuned: Tuned) -> dict[str, Any]:
    """What must be true of whatever was tuned; the report's JSON."""
    winner, built, out = tuned.winner, tuned.built, tuned.job.out
    assert winner, [one.failure for one in tuned.trials]
    assert built
    fastest = min(one.response_s for one in tuned.trials if one.baseline and one.response_s and not one.failure)
    assert winner.response_s
    assert winner.response_s <= fastest
    assert winner.accuracy
    assert winner.accuracy >= tuned.job.goal.floor
    assert read_run_args(out / "run_args.json") == winner.run_args
    assert load_circuit(Path(built.directory)).settings.logrows == winner.run_args.logrows
    assert not any(one.unsound for one in tuned.trials)
    assert winner.weights_tried
    write_report(tuned)
    told: dict[str, Any] = json.loads((out / "report.json").read_text())
    assert winner.name in (out / "report.txt").read_text()
    return told


def test_a_model_is_tuned_and_what_was_measured_is_not_measured_again(tmp_path: Path, progress: list[str]) -> None:
    constants = constants_below(tmp_path / "host")
    job = Job(MODELS / "tiny.onnx", tmp_path / "out", SMALL, search=Search(2), baselines=SMALL_ONLY, proofs=2)
    told = checked(tune(job, constants))
    names = [one["name"] for one in told["trials"]]
    assert {"stock", "stock at logrows 11"} <= set(names)
    measured = [one for one in told["trials"] if one["response_s"] is not None and not one["baseline"]]
    assert len(measured) == 2
    for one in measured:
        estimate, real = one["estimated_key_bytes"], one["setup"]["pk_bytes"]
        assert real / 2 < estimate < real * 2
    lines = (job.out / "measurements.jsonl").read_text()
    progress.clear()
    again = checked(tune(job, constants))
    assert (job.out / "measurements.jsonl").read_text() == lines
    assert not any("verified" in line or "setup at" in line for line in progress)
    assert [one["response_s"] for one in again["trials"]] == [one["response_s"] for one in told["trials"]]
    assert any("already built" in line for line in progress)


@pytest.mark.timeout(600)  # two tunings
def test_lookup_tables_cover_all_inputs_and_the_compact_arithmetic_is_measured_on_request(
    tmp_path: Path, progress: list[str]
) -> None:
    mlp(tmp_path / "mlp.onnx")
    job = Job(tmp_path / "mlp.onnx", tmp_path / "out", SMALL, search=Search(1), baselines=SMALL_ONLY, proofs=2)
    constants = constants_below(tmp_path / "host")
    told = checked(tune(job, constants))
    candidates = [one for one in told["trials"] if not one["baseline"]]
    assert candidates
    assert {one["ranges"] for one in candidates} == {"safe"}
    assert not any("compact" in one["name"] for one in told["trials"])

    # So that the winner is a compact one, or of EZKL's own run args, whose measurements are those from before.
    told = checked(tune(replace(job, search=replace(job.search, compact=True)), constants, searching=lambda _: []))
    (compact,) = [one for one in told["trials"] if one["name"].startswith("compact")]
    assert not compact["failure"], progress
    assert compact["response_s"]
    assert compact["ranges"] != "exceeded"


def test_run_args_that_need_a_larger_srs_than_given_are_rejected(tmp_path: Path) -> None:
    constants = constants_below(tmp_path / "host")
    srs = Source(ensure_srs(6, tmp_path / "own", "local"), None)
    job = Job(
        MODELS / "tiny.onnx", tmp_path / "out", SMALL, search=Search(0), baselines=Baselines("given"), proofs=2, srs=srs
    )
    tuned = tune(job, constants)
    (one,) = tuned.trials
    assert (one.name, tuned.winner) == ("as given", None)
    assert "is for logrows 6, but 12 is needed" in one.failure


def test_a_step_over_its_time_limit_is_killed_and_reported(tmp_path: Path) -> None:
    limits = trial.Limits(seconds=0.05)
    with pytest.raises(CircuitError, match=r"longer than 0\.05 s"):
        trial.calibrated(MODELS / "tiny.onnx", SMALL, [[0.1, 0.2, 0.3, 0.4]], "resources", limits, tmp_path)


def test_ezkls_own_calibration_is_read_as_run_args(tmp_path: Path) -> None:
    rows = [[0.1, -0.2, 0.3, 0.9]]
    found = trial.calibrated(MODELS / "tiny.onnx", SMALL, rows, "resources", trial.Limits(), tmp_path)
    assert found.input_visibility == "Public"
    assert (found.input_scale, found.logrows) != (SMALL.input_scale, SMALL.logrows)


def test_a_forgery_that_verifies_is_refused_loudly(tmp_path: Path, progress: list[str]) -> None:
    """No EZKL is known that lets one pass, so the measurements are changed: to two that do, each in its way."""
    constants = constants_below(tmp_path / "host")
    job = Job(MODELS / "tiny.onnx", tmp_path / "out", SMALL, search=Search(0), baselines=SMALL_ONLY, proofs=2)
    winner = tune(job, constants).winner
    assert winner
    steps = [json.loads(line) for line in (job.out / "measurements.jsonl").read_text().splitlines()]
    for one in steps:
        if one["step"] == "weights":
            assert one["name"] == winner.name
            one["result"] = {"verified": True}
        elif one["step"].startswith("proof") and one["name"] != winner.name:
            one["result"]["forged"] = ["the first output changed"]
    again = replace(job, out=tmp_path / "again")
    again.out.mkdir()
    (again.out / "measurements.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in steps))
    progress.clear()
    tuned = tune(again, constants)
    assert (tuned.winner, tuned.built) == (None, None)
    failures = {one.name == winner.name: one.failure for one in tuned.trials}
    assert "a proof verifies with other weights" in failures[True]
    assert "the first output changed" in failures[False]
    assert sum("WARNING" in line and "UNSOUND" in line for line in progress) >= 2
    assert not (again.out / "run_args.json").exists()


def test_a_proof_with_other_weights_is_detected_and_so_is_a_key_that_accepts_it(tmp_path: Path) -> None:
    """Such a key is made here of the very weights that the answer is forged with."""
    constants, limits = constants_below(tmp_path / "host"), trial.Limits()
    mlp(tmp_path / "mlp.onnx")
    honest = read_graph(tmp_path / "mlp.onnx")
    altered = tmp_path / "altered.onnx"
    altered.write_bytes(next(with_other_weights(honest)).to_model().SerializeToString())
    made = {
        model: Path(trial.set_up(model, SMALL, tmp_path / model.stem / "new", constants, limits, Source())["folder"])
        for model in (tmp_path / "mlp.onnx", altered)
    }
    (own, other), rows = made.values(), [[0.1 * number for number in range(6)]]
    assert trial.forge(own, altered, rows, constants, limits, tmp_path / "forged") is False
    assert trial.forge(own, tmp_path / "mlp.onnx", rows, constants, limits, tmp_path / "same") is None
    shutil.copyfile(own / "model.compiled", other / "model.compiled")
    assert trial.forge(other, altered, rows, constants, limits, tmp_path / "lax") is True


def test_a_model_that_answers_always_the_same_is_refused(tmp_path: Path) -> None:
    constant = graph([node("Mul", ["x", "zero"], ["y"])], {"zero": np.zeros((1, 2), np.float32)}, (1, 2))
    path = tmp_path / "constant.onnx"
    path.write_bytes(constant.to_model().SerializeToString())
    job = Job(path, tmp_path / "out", baselines=Baselines(calibrations=()))
    with pytest.raises(ConfigError, match="the same output for every sample"):
        tune(job, constants_below(tmp_path / "host"))
