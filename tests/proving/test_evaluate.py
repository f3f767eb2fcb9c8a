"""A competition circuit is run, proved and scored as validators do it; there is always a verdict."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from building import MODELS, RunArgsFile
from omron_miner.competition.evaluate import evaluate
from omron_miner.competition.report import Limits, Plan, Report, read_reference, to_json, to_text
from omron_miner.errors import ConfigError
from omron_miner.proving.isolated import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.constants import Constants

TINY = MODELS / "tiny.onnx"


@pytest.fixture
def folder(tiny_circuit: Circuit, tmp_path: Path) -> Path:
    """The tiny circuit as a miner hands it in: no keys."""
    return hand_in(tiny_circuit, tmp_path / "handed in")


@pytest.fixture
def compiled(run_args_file: RunArgsFile, tmp_path: Path) -> Callable[..., Path]:
    """Compiles a model that `circuit build` would refuse."""

    def make(model: Path, **run_args: Any) -> Path:
        directory = tmp_path / "compiled"
        directory.mkdir()
        run(compile_only, str(model), str(run_args_file("tiny", **run_args)), str(directory))
        return directory

    return make


def hand_in(circuit: Circuit, directory: Path) -> Path:
    directory.mkdir()
    for path in (circuit.model_compiled, circuit.settings_file):
        shutil.copy(path, directory)
    return directory


def compile_only(model: str, settings_file: str, directory: str) -> None:
    """In another process: settings.json and model.compiled."""
    import ezkl

    from omron_miner.circuits.run_args import read_run_args
    from omron_miner.proving.proof_handlers.ezkl_call import call, native_run_args

    settings, out = f"{directory}/settings.json", f"{directory}/model.compiled"
    call(
        ezkl.gen_settings, model=model, output=settings, py_run_args=native_run_args(read_run_args(Path(settings_file)))
    )
    call(ezkl.compile_circuit, model=model, compiled_circuit=out, settings_path=settings)


def one_layer(path: Path, nodes: list[Any], weights: dict[str, Any]) -> Path:
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, (1, 4))],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, (1, 4))],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def evaluated(directory: Path, constants: Constants, model: Path = TINY, **plan: Any) -> Report:
    settings = {"count": 4, "proofs": 1, **plan}
    report = evaluate(Plan(directory, model, **settings), constants)
    assert not list(constants.sessions.fallback_directory.glob("evaluate-*")), "keys are thrown away"
    assert json.loads(to_json(report))["verdict"] == to_text(report).splitlines()[-1] == report.verdict
    return report


# --- circuits that can be evaluated -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_honest_circuit_is_accepted_and_its_folder_left_as_it_was(
    folder: Path, proving_constants: Constants
) -> None:
    left_by_a_killed_one = proving_constants.sessions.fallback_directory / "evaluate-999999999-1-x"
    left_by_a_killed_one.mkdir(parents=True)
    report = evaluated(folder, proving_constants, count=6, proofs=2)
    assert sorted(path.name for path in folder.iterdir()) == ["model.compiled", "settings.json"]
    assert report.conclusion
    assert report.conclusion.standing
    assert report.score
    assert report.verdict.startswith("ACCEPTED, score 1.0000")
    assert min(report.conclusion.accuracies) > 0.99
    proofs = [one for one in report.runs if one.proved]
    assert len(report.runs) == 6
    assert len(proofs) == 2
    assert all(one.verified and one.proof_bytes and one.prove_s for one in proofs)
    assert report.conclusion.standing.response_s > min(one.prove_s or 0 for one in proofs)
    assert (report.setup.pk_bytes or 0) > 1_000_000


@pytest.mark.slow
def test_a_less_exact_circuit_is_scored_below_its_reference_on_the_same_inputs(
    folder: Path, compiled: Callable[..., Path], proving_constants: Constants, tmp_path: Path
) -> None:
    exact = evaluated(folder, proving_constants, seed=7)
    path = tmp_path / "reference.json"
    path.write_text(to_json(exact))
    coarse = evaluated(compiled(TINY, input_scale=3, param_scale=3), proving_constants, seed=7, reference=path)
    assert exact.conclusion
    assert exact.conclusion.standing == read_reference(path)
    assert [run.proved for run in coarse.runs] == [run.proved for run in exact.runs], "the seed decides"
    assert coarse.conclusion
    assert coarse.conclusion.standing
    assert coarse.score
    assert coarse.conclusion.standing.accuracy < 0.98 * exact.conclusion.standing.accuracy
    assert coarse.score.score < 1.02
    assert "not a new best" in coarse.verdict


@pytest.mark.slow
def test_the_command_prints_json_progress_and_the_verdicts_exit_code(
    folder: Path, proving_constants: Constants, tmp_path: Path
) -> None:
    config = tmp_path / "constants.toml"
    circuits, sessions = proving_constants.circuits, proving_constants.sessions
    config.write_text(
        f'[circuits]\ndirectory = "{circuits.directory}"\nsrs_directory = "{circuits.srs_directory}"\n'
        f'ezkl_directory = "{circuits.ezkl_directory}"\n[sessions]\ndirectory = "{sessions.directory}"\n'
        f'fallback_directory = "{sessions.fallback_directory}"\nminimum_free_bytes = 0\n'
    )
    command = [
        *(sys.executable, "-m", "omron_miner", "--config", str(config), "circuit", "evaluate", str(folder), "--json"),
        *("--model", str(TINY), "--count", "2", "--proofs", "1"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accepted"] is True
    assert "run 2/2" in done.stderr
    done = subprocess.run([*command, "--setup-seconds", "0.001"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["score"] == 0.0
    done = subprocess.run([*command, "--proofs", "3"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")


# --- circuits that validators refuse ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_keys_that_take_too_long_or_too_much_are_a_rejection(folder: Path, proving_constants: Constants) -> None:
    slow = evaluated(folder, proving_constants, limits=Limits(setup_seconds=0.01))
    assert slow.verdict.startswith("REJECTED, score 0: setup fails: it took longer than 0.01 s")
    large = evaluated(folder, proving_constants, limits=Limits(setup_bytes=64 << 20))
    assert large.verdict.startswith("REJECTED, score 0: setup fails: ")
    assert "within 64.0 MiB" in large.verdict
    assert (large.runs, large.conclusion) == ([], None)


@pytest.mark.slow
def test_a_step_beyond_its_time_limit_is_killed_and_the_next_run_continues(
    folder: Path, proving_constants: Constants
) -> None:
    report = evaluated(folder, proving_constants, count=2, limits=Limits(step_seconds=1e-4))
    assert [run.detail for run in report.runs] == ["it took longer than 0.0001 s"] * 2
    assert "1 of 1 proofs failed" in report.refusal


@pytest.mark.slow
def test_a_proof_that_does_not_verify_makes_the_score_0(folder: Path, proving_constants: Constants) -> None:
    """The settings are of a circuit with more columns: keys and proof are made, verifying with the settings fails."""
    settings = json.loads((folder / "settings.json").read_text())
    settings["run_args"]["num_inner_cols"] += 1
    (folder / "settings.json").write_text(json.dumps(settings))
    report = evaluated(folder, proving_constants)
    (proof,) = [run for run in report.runs if run.proved]
    assert proof.verified is False
    assert report.score is None
    assert report.refusal.startswith(f"1 of 1 proofs failed; the first, of input {proof.index + 1}: EZKL verify")
    assert all(run.outputs for run in report.runs if not run.proved), "its witnesses are fine"


@pytest.mark.slow
def test_settings_of_another_size_than_the_model_are_a_rejection(folder: Path, proving_constants: Constants) -> None:
    settings = json.loads((folder / "settings.json").read_text())
    settings["run_args"]["logrows"] -= 1
    (folder / "settings.json").write_text(json.dumps(settings))
    assert "setup fails: " in evaluated(folder, proving_constants).verdict


@pytest.mark.slow
def test_a_model_of_another_ezkl_than_its_settings_is_a_rejection_before_ezkl_opens_it(
    folder: Path, proving_constants: Constants
) -> None:
    (folder / "model.compiled").write_bytes(b"graph" + (6).to_bytes(8, "little") + b"19.0.7\0")
    report = evaluated(folder, proving_constants)
    assert "model.compiled was not made by EZKL" in str(report.refusal)
    assert report.runs == []


@pytest.mark.slow
def test_an_input_beyond_the_lookup_table_is_witnessed_but_its_proof_fails(
    compiled: Callable[..., Path], proving_constants: Constants, tmp_path: Path
) -> None:
    nodes = [helper.make_node("Mul", ["input", "many"], ["much"]), helper.make_node("Tanh", ["much"], ["output"])]
    model = one_layer(tmp_path / "wide.onnx", nodes, {"many": np.full((1, 4), 100.0)})
    report = evaluated(compiled(model, lookup_range=[-10, 10]), proving_constants, model)
    assert report.conclusion
    assert report.conclusion.unprovable == 4
    assert "outside lookup_range -10..10" in report.refusal
    assert [run.outputs is None for run in report.runs] == [run.proved for run in report.runs]
    assert "4 of 4 inputs cannot be proved" in to_text(report)


@pytest.mark.slow
def test_an_output_that_ignores_the_input_is_refused_though_it_verifies(
    compiled: Callable[..., Path], proving_constants: Constants, tmp_path: Path
) -> None:
    nodes = [helper.make_node("Mul", ["input", "zero"], ["none"]), helper.make_node("Add", ["none", "one"], ["output"])]
    model = one_layer(tmp_path / "constant.onnx", nodes, {"zero": np.zeros((1, 4)), "one": np.ones((1, 4))})
    report = evaluated(compiled(model), proving_constants, model, count=8)
    assert report.conclusion
    assert report.conclusion.failed_proofs == 0
    assert "constant" in report.refusal


# --- invalid arguments ------------------------------------------------------------------------------------------------


def test_what_is_no_circuit_of_our_ezkl_is_refused_before_ezkl_opens_it(
    proving_constants: Constants, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"model\.compiled is missing"):
        evaluated(tmp_path, proving_constants)
    (tmp_path / "model.compiled").write_bytes(b"anything")
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(ConfigError, match="was not written by EZKL"):
        evaluated(tmp_path, proving_constants)
    (tmp_path / "settings.json").write_text('{"run_args": {"logrows": 11}, "version": "1.2.3"}')
    with pytest.raises(ConfigError, match=r"made by EZKL 1\.2\.3, but .* is installed"):
        evaluated(tmp_path, proving_constants)


def test_a_baseline_that_cannot_be_run_is_refused(proving_constants: Constants, tmp_path: Path) -> None:
    from omron_miner.circuits.circuit import ezkl_version

    (tmp_path / "model.compiled").write_bytes(b"anything")
    (tmp_path / "settings.json").write_text(json.dumps({"run_args": {"logrows": 11}, "version": ezkl_version()}))
    junk = tmp_path / "junk.onnx"
    for content in (None, b"junk"):
        if content:
            junk.write_bytes(content)
        with pytest.raises(ConfigError, match=r"cannot load the model .*junk\.onnx"):
            evaluated(tmp_path, proving_constants, junk)


@pytest.mark.slow
def test_a_missing_onnxruntime_is_named_with_what_to_install(
    folder: Path, proving_constants: Constants, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match="onnxruntime, which is not installed") as caught:
        evaluated(folder, proving_constants)
    assert "omron-miner[evaluate]" in (caught.value.hint or "")
