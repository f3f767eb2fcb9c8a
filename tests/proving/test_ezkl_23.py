"""EZKL 23.0.5, an operator's choice: installed as the role installs it, the package works with it as with 22.0.1."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from building import MODELS, constants_below, render_run_args
from role_venv import build_venv
from wire_miner import constants_in, serving, to_toml

if TYPE_CHECKING:
    from omron_miner.circuits.circuit import Circuit
    from omron_miner.constants import Constants

pytestmark = pytest.mark.slow
VERSION = "23.0.5"
LOAD_AND_TELL = """
import json, sys
from pathlib import Path
from omron_miner.circuits.load import load_circuit
from omron_miner.errors import CircuitError

folder, opened = Path(sys.argv[1]), []
sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "open" else None)
try:
    load_circuit(folder)
    refusal = None
except CircuitError as error:
    refusal = error.message
inside = sorted({Path(path).name for path in opened if Path(path).parent == folder})
print(json.dumps({"refusal": refusal, "opened": inside, "ezkl": "ezkl" in sys.modules}))
"""
"""What an interpreter says to a circuit, which of its files were opened for that, and whether EZKL was loaded."""


@dataclass(frozen=True)
class Installed:
    """The package with EZKL 23.0.5, and a host's constants with the tiny circuit built by it."""

    bin: Path
    constants: Constants
    circuit_folder: Path

    def run(self, *arguments: str | Path, constants: Constants | None = None) -> subprocess.CompletedProcess[str]:
        return command(self.bin, constants or self.constants, *arguments)


def command(bin_: Path, constants: Constants, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    constants.log.directory.mkdir(parents=True, exist_ok=True)
    config = constants.log.directory / "command.toml"
    config.write_text(to_toml(constants))
    whole = [bin_ / "omron-miner", "--config", config, *arguments]
    return subprocess.run(whole, capture_output=True, text=True, timeout=250, check=False)


def load_and_tell(python: Path | str, folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [python, "-c", LOAD_AND_TELL, folder], capture_output=True, text=True, timeout=100, check=True
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    place = tmp_path_factory.mktemp("ezkl-23")
    bin_, constants = build_venv(place, VERSION), constants_below(place)
    settings = place / "tiny.settings.json"
    settings.write_text(render_run_args("tiny"))
    arguments: list[str | Path] = [
        "circuit",
        "build",
        "--json",
        "--name",
        "tiny",
        "--onnx",
        MODELS / "tiny.onnx",
        "--settings",
        settings,
    ]
    done = command(bin_, constants, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return Installed(bin_, constants, Path(json.loads(done.stdout)["directory"]))


@pytest.fixture(scope="module")
def proof(installed: Installed) -> Path:
    """A proof of the example input, verified when it was made."""
    path = installed.constants.log.directory / "proof.json"
    done = installed.run("prove", "--json", "--circuit", "tiny", "--out", path)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["verified"], report["tries"]) == (True, 1)
    return path


def test_circuits_and_proofs_match_the_installed_version(installed: Installed, proof: Path) -> None:
    settings = json.loads((installed.circuit_folder / "settings.json").read_text())
    assert settings["version"] == VERSION
    assert json.loads(proof.read_text())["version"] == VERSION
    assert load_and_tell(installed.bin / "python", installed.circuit_folder)["refusal"] is None


def test_its_proof_verifies_for_the_input_it_was_made_for_only(installed: Installed, proof: Path) -> None:
    done = installed.run("verify", "--json", "--circuit", "tiny", "--proof", proof)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads(done.stdout)["outputs"]) == 2
    other = installed.constants.log.directory / "other.json"
    other.write_text('{"input_data": [[0.5, -0.5, 0.25, 0.125]]}')
    done = installed.run("verify", "--json", "--circuit", "tiny", "--proof", proof, "--input", other)
    assert (done.returncode, json.loads(done.stdout)["verified"]) == (1, False)


@pytest.mark.parametrize("place", [-1, -2])
def test_a_changed_output_does_not_verify(installed: Installed, proof: Path, tmp_path: Path, place: int) -> None:
    content = json.loads(proof.read_text())
    felt = bytearray.fromhex(content["instances"][0][place])
    felt[0] ^= 1  # little-endian: the output's last bit
    content["instances"][0][place] = felt.hex()
    forged = tmp_path / "forged.json"
    forged.write_text(json.dumps(content))
    done = installed.run("verify", "--json", "--circuit", "tiny", "--proof", forged)
    verdict = json.loads(done.stdout)
    assert (done.returncode, verdict["verified"], verdict["outputs"]) == (1, False, [])


def test_a_circuit_of_the_other_version_is_refused_before_any_key_is_opened(
    installed: Installed, tiny_circuit: Circuit
) -> None:
    ours, theirs = tiny_circuit.directory, installed.circuit_folder
    for python, folder, made, here in (
        (installed.bin / "python", ours, "22.0.1", VERSION),
        (sys.executable, theirs, VERSION, "22.0.1"),
    ):
        told = load_and_tell(python, folder)
        assert f"was made by EZKL {made}, but {here} is installed" in told["refusal"]
        assert told["opened"] == ["metadata.json", "settings.json"], "a key or the compiled model was opened"
        assert told["ezkl"] is False


def test_the_command_reports_it_and_survives(installed: Installed, tiny_circuit: Circuit, tmp_path: Path) -> None:
    constants = constants_below(tmp_path)
    shutil.copytree(tiny_circuit.directory, constants.circuits.directory / tiny_circuit.directory.name)
    done = installed.run("prove", "--circuit", tiny_circuit.id, constants=constants)
    assert done.returncode == 1
    assert f"was made by EZKL 22.0.1, but {VERSION} is installed" in done.stderr
    assert "Traceback" not in done.stderr


def test_its_miner_answers_a_validator_with_a_verified_proof(installed: Installed, tmp_path: Path) -> None:
    constants = constants_in(tmp_path, installed.constants.circuits)
    with serving(constants, [str(installed.bin / "omron-miner")]) as process:
        done = installed.run("query", "--json", "--circuit", "tiny", constants=constants)
        assert done.returncode == 0, done.stdout + done.stderr
        report = json.loads(done.stdout)
        assert (report["status"], report["verified"]) == (200, True)
        process.terminate()
        assert process.wait(30) == 0
    assert "Optimized proof completed" in constants.log.miner_log.read_text()
