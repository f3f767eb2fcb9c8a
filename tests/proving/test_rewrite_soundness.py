"""A rewritten circuit is as sound as any: with other outputs, inputs or weights nothing verifies, on either EZKL.

So is one in the compact arithmetic. On 23.0.5 the rewritten convolution is a product that EZKL checks by Freivalds'
algorithm; that its check is of the very cells that are the outputs is what is tried here.
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
from omron_miner.tune.compact import Precision, compact
from omron_miner.tune.compact_search import run_args_for
from omron_miner.tune.job import PUBLIC
from omron_miner.tune.passes.im2col import convolutions_as_matmul
from omron_miner.tune.running import run_model
from omron_miner.tune.search import changed
from role_venv import build_venv
from tune_models import graph, node, weights
from wire_miner import to_toml

if TYPE_CHECKING:
    from omron_miner.constants import Constants
    from omron_miner.tune.graph import Array, Graph

pytestmark = pytest.mark.slow
SHAPE = (1, 1, 5, 5)
OUTPUTS = 2 * 25
PRECISION = Precision(activation=6, product=13)


@dataclass(frozen=True)
class Host:
    """Two circuits on one EZKL: a rewritten network, and the same with one weight changed."""

    command: Path
    constants: Constants
    honest: Path
    altered: Path
    expected: Array
    """What the network answers to the honest circuit's example."""

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


def networks() -> dict[str, Graph]:
    """Products, a maximum and a lookup, each output depending on the altered weight."""
    weight, bias, second = weights(2, 1, 3, 3), weights(2), weights(2, 2, 1, 1)
    other = weight.copy()
    other[0, 0, 1, 1] += 0.5  # the middle one: every window's first channel depends on it
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("Add", ["r", "c"], ["s"]),  # nowhere constant, as a Relu alone is
        node("Conv", ["s", "second", "b"], ["t"]),
        node("Tanh", ["t"], ["y"]),
    ]
    return {
        name: graph(nodes, {"w": values, "b": bias, "second": second}, SHAPE)
        for name, values in (("honest", weight), ("altered", other))
    }


def write_models(place: Path, given: dict[str, Graph], arithmetic: str) -> None:
    """honest.onnx, altered.onnx and the settings.json to build them with."""
    for name, network in given.items():
        rewritten = network.copy()
        assert convolutions_as_matmul(rewritten) == 2
        made = compact(rewritten, PRECISION).graph if arithmetic == "compact" else rewritten
        (place / f"{name}.onnx").write_bytes(made.to_model().SerializeToString())
    settings = render_run_args("tiny", logrows=13, lookup_range=[-2000, 2000])
    if arithmetic == "compact":
        run_args = changed(run_args_for(PUBLIC, PRECISION), logrows=15, lookup_range=(-16000, 16000))
        settings = json.dumps({"run_args": run_args.model_dump(mode="json", exclude_none=True)})
    (place / "settings.json").write_text(settings)


@pytest.fixture(scope="module")
def command_23(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_venv(tmp_path_factory.mktemp("ezkl-23"), "23.0.5") / "omron-miner"


HOSTS = [
    "22.0.1",
    "23.0.5 compact",
    pytest.param("22.0.1 compact", marks=pytest.mark.long),
    pytest.param("23.0.5", marks=pytest.mark.long),
]
"""By default each EZKL and each arithmetic once."""


@pytest.fixture(scope="module", params=HOSTS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, command_23: Path) -> Host:
    version, _, arithmetic = request.param.partition(" ")
    place = tmp_path_factory.mktemp("tune")
    command = Path(sys.executable).with_name("omron-miner") if version == "22.0.1" else command_23
    constants, given = constants_below(place), networks()
    write_models(place, given, arithmetic)
    settings = place / "settings.json"
    folders = {}
    for name in ("honest", "altered"):
        arguments = ["--name", name, "--onnx", str(place / f"{name}.onnx"), "--settings", str(settings)]
        # In floats, the model in compact arithmetic is another function; `expected` is what it is held against here.
        arguments += ["--floor", "0"] if arithmetic == "compact" else []
        done = run(command, constants, "circuit", "build", "--json", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        folders[name] = Path(json.loads(done.stdout)["directory"])
    read = json.loads((folders["honest"] / "settings.json").read_text())
    assert read["version"] == version
    einsum = (read.get("einsum_params") or {}).get("total_einsum_col_size", 0)
    assert (einsum > 0) == (version == "23.0.5"), "whether Freivalds' check is used is what is documented"
    (row,) = json.loads((folders["honest"] / "input.json").read_text())["input_data"]
    ((expected,),) = run_model(given["honest"], [{"x": np.array(row, np.float32).reshape(SHAPE)}])
    return Host(command, constants, folders["honest"], folders["altered"], expected.ravel())


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
    assert np.abs(np.array(told["outputs"]) - host.expected).max() < 0.05
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
