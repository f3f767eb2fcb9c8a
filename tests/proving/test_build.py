"""A circuit counts only when a proof of it verifies; a build that fails or is cut short leaves nothing."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from building import MODELS, RunArgsFile, constants_below
from omron_miner.circuit import Metadata, load_circuit
from omron_miner.circuit_build import build_circuit, check_circuit
from omron_miner.circuit_store import CircuitStore
from omron_miner.errors import CircuitError, ConfigError, SrsError
from omron_miner.srs import checksum_file, srs_path

if TYPE_CHECKING:
    from omron_miner.circuit import Circuit
    from omron_miner.constants import Constants

pytestmark = pytest.mark.slow


@pytest.fixture
def empty(tmp_path: Path, proving_constants: Constants, tiny_circuit: Circuit) -> Constants:
    """A host without circuits, but with the SRS that the session made."""
    assert tiny_circuit
    constants = constants_below(tmp_path / "host")
    circuits = constants.circuits.model_copy(update={"srs_directory": proving_constants.circuits.srs_directory})
    return constants.model_copy(update={"circuits": circuits})


def folders(constants: Constants) -> list[str]:
    return sorted(path.name for path in constants.circuits.directory.iterdir() if path.is_dir())


def write_model(path: Path, nodes: list[Any], weights: dict[str, Any], size: int = 4) -> Path:
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, (1, size))],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, (1, size))],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_built_circuit_is_complete_named_after_its_key_and_shaped_like_upstreams(
    tiny_circuit: Circuit, proving_constants: Constants
) -> None:
    import hashlib

    assert tiny_circuit.id == hashlib.sha256(tiny_circuit.vk.read_bytes()).hexdigest()
    metadata = json.loads((tiny_circuit.directory / "metadata.json").read_text())
    assert set(metadata) <= set(Metadata.model_fields)
    assert CircuitStore(proving_constants.circuits).find("tiny").id == tiny_circuit.id
    build = json.loads((tiny_circuit.directory / "build.json").read_text())
    assert build["proof"]["prove_s"] > 0
    assert build["pk_bytes"] == tiny_circuit.pk.stat().st_size


def test_the_same_recipe_is_not_built_twice_and_another_is(run_args_file: RunArgsFile, empty: Constants) -> None:
    first = build_circuit("tiny", MODELS / "tiny.onnx", run_args_file("tiny"), empty)
    heard: list[str] = []
    again = build_circuit("tiny", MODELS / "tiny.onnx", run_args_file("tiny"), empty, say=heard.append)
    assert (again.changed, again.circuit_id) == (False, first.circuit_id)
    assert len(heard) == 1
    settings = run_args_file("tiny", decomp_base=512)
    other = build_circuit("tiny-512", MODELS / "tiny.onnx", settings, empty, say=heard.append)
    assert other.changed
    assert folders(empty) == sorted(f"model_{one.circuit_id}" for one in (first, other))


def test_a_broken_folder_is_built_again(run_args_file: RunArgsFile, empty: Constants) -> None:
    arguments = ("tiny", MODELS / "tiny.onnx", run_args_file("tiny"), empty)
    first = build_circuit(*arguments)
    key = Path(first.directory) / "pk.key"
    key.write_bytes(key.read_bytes()[:-1])
    second = build_circuit(*arguments)
    assert second.changed
    assert second.circuit_id == first.circuit_id, "the same recipe gives the same keys"
    assert load_circuit(Path(second.directory)).name == "tiny"
    assert len(folders(empty)) == 1


def test_the_test_only_srs_is_announced(run_args_file: RunArgsFile, empty: Constants) -> None:
    heard: list[str] = []
    build_circuit("tiny", MODELS / "tiny.onnx", run_args_file("tiny"), empty, say=heard.append)
    assert any("TEST-ONLY" in line for line in heard)
    assert any(line.endswith(" s") for line in heard)


def test_a_logrows_too_small_is_refused_in_words_and_nothing_is_left(
    run_args_file: RunArgsFile, empty: Constants
) -> None:
    settings = run_args_file("demo", logrows=12, lookup_range=[-1000, 1000], decomp_base=1024)
    with pytest.raises(CircuitError, match="does not fit in logrows 12: its 12309 public inputs") as caught:
        build_circuit("demo", MODELS / "demo.onnx", settings, empty)
    assert caught.value.hint == "set logrows to 14 or more"
    assert folders(empty) == []
    assert not srs_path(empty.circuits.srs_directory, 12).exists()


def test_outputs_that_ignore_the_input_are_refused(
    run_args_file: RunArgsFile, empty: Constants, tmp_path: Path
) -> None:
    nodes = [helper.make_node("Mul", ["input", "zero"], ["none"]), helper.make_node("Add", ["none", "one"], ["output"])]
    model = write_model(tmp_path / "constant.onnx", nodes, {"zero": np.zeros((1, 4)), "one": np.ones((1, 4))})
    with pytest.raises(CircuitError, match="two different inputs give the same outputs"):
        build_circuit("constant", model, run_args_file("tiny"), empty)
    assert folders(empty) == []


def test_values_outside_the_lookup_range_are_refused_with_what_to_change(
    run_args_file: RunArgsFile, empty: Constants, tmp_path: Path
) -> None:
    nodes = [helper.make_node("Mul", ["input", "many"], ["much"]), helper.make_node("Tanh", ["much"], ["output"])]
    model = write_model(tmp_path / "wide.onnx", nodes, {"many": np.full((1, 4), 100.0)})
    with pytest.raises(CircuitError, match=r"values -\d+\.\.\d+ outside lookup_range -10\.\.10"):
        build_circuit("wide", model, run_args_file("tiny", lookup_range=[-10, 10]), empty)
    assert folders(empty) == []


def test_a_model_ezkl_cannot_read_is_refused(run_args_file: RunArgsFile, empty: Constants, tmp_path: Path) -> None:
    model = tmp_path / "junk.onnx"
    model.write_bytes(b"junk")
    with pytest.raises(CircuitError, match="circuit junk: "):
        build_circuit("junk", model, run_args_file("tiny"), empty)
    with pytest.raises(ConfigError, match=r"absent\.onnx"):
        build_circuit("absent", tmp_path / "absent.onnx", run_args_file("tiny"), empty)
    with pytest.raises(ConfigError, match="not a circuit name"):
        build_circuit("../tiny", model, run_args_file("tiny"), empty)
    assert folders(empty) == []


def test_private_inputs_can_be_built_and_verify_as_they_are(run_args_file: RunArgsFile, empty: Constants) -> None:
    settings = run_args_file("tiny", input_visibility="Private", ignore_range_check_inputs_outputs=False)
    built = build_circuit("private", MODELS / "tiny.onnx", settings, empty)
    circuit = load_circuit(Path(built.directory))
    assert circuit.settings.input_sizes is None
    checked = check_circuit(circuit, empty)
    assert checked.changed is False


def test_a_real_network_refuses_the_test_srs(run_args_file: RunArgsFile, empty: Constants) -> None:
    real = empty.model_copy(update={"network": empty.network.model_copy(update={"name": "finney"})})
    with pytest.raises(SrsError, match="not a trusted SRS"):
        build_circuit("tiny", MODELS / "tiny.onnx", run_args_file("tiny"), real)
    assert not checksum_file(srs_path(real.circuits.srs_directory, 11)).exists()


# --- checking prebuilt circuits --------------------------------------------------------------------------------------


def test_a_prebuilt_circuit_is_proved_and_its_checksums_recorded(tiny_circuit: Circuit, empty: Constants) -> None:
    import shutil

    directory = empty.circuits.directory / tiny_circuit.directory.name
    shutil.copytree(tiny_circuit.directory, directory)
    for name in ("checksums.json", "build.json", "input.json"):
        (directory / name).unlink()
    circuit = load_circuit(directory)
    checked = check_circuit(circuit, empty)
    assert checked.changed
    assert checked.proof["prove_s"] > 0
    assert check_circuit(circuit, empty).changed is False
    content = bytearray(circuit.pk.read_bytes())
    content[-100] ^= 1  # the same size: only the hash of all files can tell
    circuit.pk.write_bytes(content)
    load_circuit(directory)
    with pytest.raises(CircuitError, match=r"pk\.key is not the file"):
        check_circuit(circuit, empty)


# --- cut short -------------------------------------------------------------------------------------------------------


def command(constants: Constants, tmp_path: Path, settings: Path, model: str) -> list[str]:
    config = tmp_path / "constants.toml"
    circuits, sessions = constants.circuits, constants.sessions
    config.write_text(
        f'[circuits]\ndirectory = "{circuits.directory}"\nsrs_directory = "{circuits.srs_directory}"\n'
        f'ezkl_directory = "{circuits.ezkl_directory}"\n[sessions]\ndirectory = "{sessions.directory}"\n'
        f'fallback_directory = "{sessions.fallback_directory}"\nminimum_free_bytes = 0\n'
    )
    return [
        *(sys.executable, "-m", "omron_miner", "--config", str(config), "circuit", "build", "--name", model, "--json"),
        *("--onnx", str(MODELS / f"{model}.onnx"), "--settings", str(settings)),
    ]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_nothing_for_the_next(
    run_args_file: RunArgsFile, empty: Constants, tmp_path: Path, how: signal.Signals
) -> None:
    arguments = command(empty, tmp_path, run_args_file("tiny"), "tiny")
    # A shell that starts the tests in the background has them, and so their children, ignore SIGINT.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    building = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    assert building.stderr
    for line in building.stderr:
        if "setup ..." in line:
            break
    building.send_signal(how)
    assert building.wait(20) != 0
    building.stderr.close()
    if how is not signal.SIGKILL:
        assert folders(empty) == []
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    answer = json.loads(done.stdout)
    assert answer["changed"] is True
    assert folders(empty) == [f"model_{answer['circuit_id']}"]


def test_a_full_disk_is_a_message_and_leaves_nothing(
    run_args_file: RunArgsFile, empty: Constants, tmp_path: Path
) -> None:
    def limit() -> None:  # a write beyond this fails, as on a full disk: the key has 6 MB
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    arguments = command(empty, tmp_path, run_args_file("tiny"), "tiny")
    done = subprocess.run(arguments, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "error: circuit tiny" in done.stderr
    assert "Traceback" not in done.stderr
    assert folders(empty) == []


def test_two_builds_at_once_wait_for_each_other(run_args_file: RunArgsFile, empty: Constants, tmp_path: Path) -> None:
    arguments = command(empty, tmp_path, run_args_file("tiny"), "tiny")
    both = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [json.loads(one.communicate(timeout=60)[0]) for one in both]
    assert sorted(answer["changed"] for answer in answers) == [False, True]
    assert len({answer["circuit_id"] for answer in answers}) == 1
