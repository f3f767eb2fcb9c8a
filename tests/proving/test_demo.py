"""The demo circuit, built with the settings a new user gets: exact enough, never out of range, proved in time."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import proof_work
from building import MODELS, NEEDS, RunArgsFile, constants_below, render_run_args
from omron_miner.building.build import build_circuit, prove_once
from omron_miner.circuits import needs as circuit_needs
from omron_miner.circuits.load import load_circuit
from omron_miner.circuits.onnx_runtime import load_onnxruntime
from omron_miner.proving.isolated import run
from omron_miner.proving.verifier import verify_elsewhere

if TYPE_CHECKING:
    from omron_miner.circuits.circuit import Circuit
    from omron_miner.constants import Constants

pytestmark = pytest.mark.slow


def float_outputs(image: np.ndarray) -> list[float]:
    session = load_onnxruntime().InferenceSession(MODELS / "demo.onnx")
    outputs = session.run(None, {"input": image[None]})
    return [float(number) for output in outputs for number in output.ravel()]


def accuracy(found: list[float], expected: list[float]) -> float:
    """The competition's: exp of minus the sum of squared differences."""
    return float(np.exp(-np.sum((np.array(found) - np.array(expected)) ** 2)))


def test_the_circuits_arithmetic_is_as_good_as_floats_for_any_image(run_args_file: RunArgsFile, tmp_path: Path) -> None:
    from images import IMAGES

    images = [image.ravel().tolist() for image in IMAGES.values()]
    settings = str(run_args_file("demo"))
    answers = run(proof_work.demo_outputs, str(MODELS / "demo.onnx"), settings, images, str(tmp_path))
    assert len(answers) == len(IMAGES)
    for (name, image), outputs in zip(IMAGES.items(), answers, strict=True):
        assert len(outputs) == 21
        assert accuracy(outputs, float_outputs(image)) >= 0.99, name


@pytest.fixture(scope="module")
def demo_constants(tmp_path_factory: pytest.TempPathFactory) -> Constants:
    """A separate host: the session's has only the tiny circuit, which other tests rely on."""
    return constants_below(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def demo_circuit(demo_constants: Constants, tmp_path_factory: pytest.TempPathFactory) -> Circuit:
    settings = tmp_path_factory.mktemp("settings") / "demo.settings.json"
    settings.write_text(render_run_args("demo"))
    built = build_circuit("demo", MODELS / "demo.onnx", settings, demo_constants)
    return load_circuit(Path(built.directory))


def test_a_proof_takes_under_thirty_seconds_of_two_cores_and_verifies(
    demo_circuit: Circuit, demo_constants: Constants
) -> None:
    assert demo_circuit.settings.logrows == 16
    known = json.loads(NEEDS.read_text())["built_in_models"]["demo"]  # preflight's figures before it is built
    assert circuit_needs.needs_of(demo_circuit) == circuit_needs.needs(**known)
    image = np.random.default_rng(0).uniform(0, 1, (3, 64, 64)).astype(np.float32)
    inputs = {"input": image.ravel().tolist()}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = prove_once(demo_circuit, inputs, demo_constants)
    assert result.verified, result.detail
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # The processor's time, which other running tests cannot stretch, unlike the clock's.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2 * 30
    assert accuracy(result.outputs, float_outputs(image)) >= 0.99
    verdict = verify_elsewhere(demo_circuit, inputs, result.proof, demo_constants.circuits)
    assert verdict.verified, verdict.detail
    inputs["input"][4000] = 0.0
    assert not verify_elsewhere(demo_circuit, inputs, result.proof, demo_constants.circuits).verified
