"""A rewritten circuit is as sound as any: with other outputs, inputs or weights nothing verifies, on either EZKL.

On 23.0.5 the rewritten convolution is a product that EZKL checks by Freivalds' algorithm; that its check is of the very
cells that are the outputs is what is tried here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from building import constants_below, render_run_args
from omron_miner.tune.passes.im2col import convolutions_as_matmul
from role_venv import build_venv
from tune_models import graph, node, weights
from wire_miner import to_toml

if TYPE_CHECKING:
    from omron_miner.constants import Constants

pytestmark = pytest.mark.slow
SHAPE = (1, 1, 5, 5)
OUTPUTS = 2 * 25


@dataclass(frozen=True)
class Host:
    """Two circuits on one EZKL: a rewritten convolution, and the same with one weight changed."""

    command: Path
    constants: Constants
    honest: Path
    altered: Path

    def run(self, *arguments: str | Path, constants: Constants | None = None) -> subprocess.CompletedProcess[str]:
        return run(self.command, constants or self.constants, *arguments)

    def verify(self, proof: Path, *more: str | Path) -> dict[str, Any]:
        """What a validator's check says."""
        done = self.run("verify", "--json", "--circuit", "honest", "--proof", proof, *more)
        told: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if told["verified"] else 1), done.stderr
        return told


def run(command: Path, constants: Constants, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    config = constants.log.directory / "command.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(to_toml(constants))
    whole = [command, "--config", config, *arguments]
    return subprocess.run(whole, capture_output=True, text=True, timeout=250, check=False)


def write_models(place: Path) -> None:
    """honest.onnx and altered.onnx, rewritten."""
    weight, bias = weights(2, 1, 3, 3), weights(2)
    other = weight.copy()
    other[0, 0, 1, 1] += 0.5  # the middle one: every window's first channel depends on it
    for name, values in (("honest", weight), ("altered", other)):
        convolution = node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])
        rewritten = graph([convolution], {"w": values, "b": bias}, SHAPE)
        assert convolutions_as_matmul(rewritten) == 1
        (place / f"{name}.onnx").write_bytes(rewritten.to_model().SerializeToString())


@pytest.fixture(scope="module", params=["22.0.1", "23.0.5"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Host:
    place = tmp_path_factory.mktemp(f"tune-{request.param}")
    own = Path(sys.executable).parent
    command = (own if request.param == "22.0.1" else build_venv(place, request.param)) / "omron-miner"
    constants = constants_below(place)
    write_models(place)
    settings = place / "settings.json"
    settings.write_text(render_run_args("tiny", logrows=12))
    folders = {}
    for name in ("honest", "altered"):
        given = ["--name", name, "--onnx", str(place / f"{name}.onnx"), "--settings", str(settings)]
        done = run(command, constants, "circuit", "build", "--json", *given)
        assert done.returncode == 0, done.stdout + done.stderr
        folders[name] = Path(json.loads(done.stdout)["directory"])
    read = json.loads((folders["honest"] / "settings.json").read_text())
    assert read["version"] == request.param
    einsum = (read.get("einsum_params") or {}).get("total_einsum_col_size", 0)
    assert (einsum > 0) == (request.param == "23.0.5"), "whether Freivalds' check is used is what is documented"
    return Host(command, constants, folders["honest"], folders["altered"])


def proof_of(host: Host, name: str) -> Path:
    """A proof of the honest circuit's example by the circuit `name`, verified with that circuit's own keys."""
    path = host.constants.log.directory / f"{name}.proof.json"
    if not path.exists():
        asked = ["--circuit", name, "--input", str(host.honest / "input.json"), "--out", str(path)]
        done = host.run("prove", "--json", *asked)
        assert done.returncode == 0, done.stdout + done.stderr
    return path


def test_its_proof_verifies_and_says_what_the_model_computes(host: Host) -> None:
    told = host.verify(proof_of(host, "honest"))
    assert told["verified"]
    assert len(told["outputs"]) == OUTPUTS
    assert np.ptp(told["outputs"]) > 0.1


@pytest.mark.parametrize("place", [-1, -26, -OUTPUTS])
def test_no_output_can_be_changed(host: Host, tmp_path: Path, place: int) -> None:
    content = json.loads(proof_of(host, "honest").read_text())
    felt = bytearray.fromhex(content["instances"][0][place])
    felt[0] ^= 1  # little-endian: the output's last bit
    content["instances"][0][place] = felt.hex()
    forged = tmp_path / "forged.json"
    forged.write_text(json.dumps(content))
    assert not host.verify(forged)["verified"], "UNSOUND: a changed output verifies"


@pytest.mark.parametrize("place", [0, 12, 24])
def test_no_input_can_be_changed(host: Host, tmp_path: Path, place: int) -> None:
    (row,) = json.loads((host.honest / "input.json").read_text())["input_data"]
    row[place] += 0.25
    asked = tmp_path / "input.json"
    asked.write_text(json.dumps({"input_data": [row]}))
    assert not host.verify(proof_of(host, "honest"), "--input", asked)["verified"], "UNSOUND: another input verifies"


def test_another_weights_proof_does_not_verify(host: Host) -> None:
    told = host.verify(proof_of(host, "altered"), "--input", host.honest / "input.json")
    assert not told["verified"], "UNSOUND: a proof of another model verifies"


def test_another_weights_answers_cannot_be_proved_with_the_honest_key(host: Host, tmp_path: Path) -> None:
    """The prover computes with another weight and claims its outputs, but has only the honest proving key."""
    mixed = tmp_path / "circuits" / host.honest.name
    shutil.copytree(host.honest, mixed)
    shutil.copyfile(host.altered / "model.compiled", mixed / "model.compiled")
    (mixed / "checksums.json").unlink()
    circuits = host.constants.circuits.model_copy(update={"directory": mixed.parent})
    below = constants_below(tmp_path).model_copy(update={"circuits": circuits})
    done = host.run("prove", "--json", "--circuit", "honest", constants=below)
    assert done.returncode == 1, "UNSOUND: outputs of another weight verify"
    report = json.loads(done.stdout)
    assert (report["verified"], report["proof"]) == (False, "")
    assert "verif" in report["detail"].lower(), "it was proved and refused, not prevented by a file"
