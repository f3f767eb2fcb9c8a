"""A circuit counts only when a proof of it verifies; a build that fails or is cut short leaves nothing."""

from __future__ import annotations

import json
import os
import resource
import shutil
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
from omron_miner.building.build import build_circuit, check_circuit
from omron_miner.circuits.circuit import Metadata
from omron_miner.circuits.circuit_store import CircuitStore
from omron_miner.circuits.load import load_circuit
from omron_miner.circuits.srs import is_test_only, srs_path
from omron_miner.errors import CircuitError, ConfigError, SrsError

if TYPE_CHECKING:
    from omron_miner.circuits.circuit import Circuit
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


def _as_float(array: Any) -> Any:
    return array if np.asarray(array).dtype == np.int8 else np.asarray(array, np.float32)


def write_model(path: Path, nodes: list[Any], weights: dict[str, Any], size: int = 4) -> Path:
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, (1, size))],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, (1, size))],
        [numpy_helper.from_array(_as_float(array), name) for name, array in weights.items()],
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
    assert CircuitStore(proving_constants).find("tiny").id == tiny_circuit.id
    build = json.loads((tiny_circuit.directory / "build.json").read_text())
    assert build["proof"]["prove_s"] > 0
    assert build["pk_bytes"] == tiny_circuit.pk.stat().st_size


def test_the_same_recipe_is_not_built_twice_and_another_is(
    run_args_file: RunArgsFile, empty: Constants, progress: list[str]
) -> None:
    first = build_circuit("tiny", MODELS / "tiny.onnx", run_args_file("tiny"), empty)
    progress.clear()
    again = build_circuit("tiny", MODELS / "tiny.onnx", run_args_file("tiny"), empty)
    assert (again.changed, again.circuit_id) == (False, first.circuit_id)
    assert len(progress) == 1
    settings = run_args_file("tiny", decomp_base=512)
    other = build_circuit("tiny-512", MODELS / "tiny.onnx", settings, empty)
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


def test_the_test_only_srs_is_announced(run_args_file: RunArgsFile, empty: Constants, progress: list[str]) -> None:
    build_circuit("tiny", MODELS / "tiny.onnx", run_args_file("tiny"), empty)
    assert any("TEST-ONLY" in line for line in progress)
    assert any(line.endswith(" s") for line in progress)


def test_a_logrows_too_small_is_refused_with_the_reason_and_nothing_is_left(
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
    with pytest.raises(CircuitError, match="different inputs give the same outputs"):
        build_circuit("constant", model, run_args_file("tiny"), empty)
    assert folders(empty) == []


def test_a_threshold_that_most_inputs_do_not_reach_is_no_constant_output(
    run_args_file: RunArgsFile, empty: Constants, tmp_path: Path
) -> None:
    nodes = [helper.make_node("Sub", ["input", "most"], ["above"]), helper.make_node("Relu", ["above"], ["output"])]
    model = write_model(tmp_path / "threshold.onnx", nodes, {"most": np.full((1, 4), 0.95)})
    built = build_circuit("threshold", model, run_args_file("tiny"), empty)
    assert folders(empty) == [f"model_{built.circuit_id}"]


def test_a_second_name_for_a_circuit_is_refused_and_the_first_is_kept(
    run_args_file: RunArgsFile, empty: Constants, progress: list[str]
) -> None:
    first = build_circuit("one", MODELS / "tiny.onnx", run_args_file("tiny"), empty)
    progress.clear()
    with pytest.raises(CircuitError, match="circuit other is the same as one, which is in place"):
        build_circuit("other", MODELS / "tiny.onnx", run_args_file("tiny"), empty)
    assert progress == [], "it is known before anything is built"
    (Path(first.directory) / "build.json").unlink()  # of another host: known only by its keys
    with pytest.raises(CircuitError, match="circuit other is the same as one, which is in place"):
        build_circuit("other", MODELS / "tiny.onnx", run_args_file("tiny"), empty)
    assert folders(empty) == [f"model_{first.circuit_id}"]
    assert load_circuit(Path(first.directory)).name == "one"
    with pytest.raises(CircuitError, match="circuit other is the same as one"):
        build_circuit("other", MODELS / "tiny.onnx", run_args_file("tiny"), empty, in_use=("one", "other"))
    renamed = build_circuit("other", MODELS / "tiny.onnx", run_args_file("tiny"), empty, in_use=("other",))
    assert folders(empty) == [f"model_{first.circuit_id}"]
    assert (renamed.changed, load_circuit(Path(first.directory)).name) == (True, "other")


def per_channel(path: Path) -> Path:
    """8-bit weights with a scale for each column, of which EZKL's parser takes only one."""
    weights = np.random.default_rng(5).integers(-100, 100, (4, 4)).astype(np.int8)
    scales = np.array([0.01, 0.02, 0.005, 0.03], np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["weights", "scales", "zeros"], ["w"], axis=1),
        helper.make_node("MatMul", ["input", "w"], ["output"]),
    ]
    return write_model(path, nodes, {"weights": weights, "scales": scales, "zeros": np.zeros(4, np.int8)})


def test_a_circuit_that_does_not_answer_as_its_model_is_refused_before_any_key_is_made(
    run_args_file: RunArgsFile, empty: Constants, tmp_path: Path, progress: list[str]
) -> None:
    model = per_channel(tmp_path / "channels.onnx")
    with pytest.raises(CircuitError, match=r"does not match its model: accuracy 0\.\d+ over 8 samples"):
        build_circuit("channels", model, run_args_file("tiny"), empty)
    assert not any("setup" in line for line in progress)
    assert folders(empty) == []


def test_an_accurate_circuit_reports_it_and_one_never_compared_is_compared_later_without_a_build(
    run_args_file: RunArgsFile, empty: Constants, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, progress: list[str]
) -> None:
    model = tmp_path / "tiny.onnx"  # without the answers that are shipped with it
    model.write_bytes((MODELS / "tiny.onnx").read_bytes())
    (tmp_path / "onnxruntime.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(str(tmp_path))  # which the process that builds gets from us
    unknown = build_circuit("tiny", model, run_args_file("tiny"), empty)
    assert unknown.accuracy is None
    assert any(
        "WARNING: not compared with its model: neither tiny.reference.json nor onnxruntime" in one for one in progress
    )
    reference = MODELS / "tiny.reference.json"
    known = build_circuit("tiny", model, run_args_file("tiny"), empty, reference=reference)
    assert known.changed is False
    assert known.accuracy
    assert known.accuracy > 0.99
    assert json.loads((Path(known.directory) / "build.json").read_text())["accuracy"] == known.accuracy
    with pytest.raises(CircuitError, match="the floor is 1"):
        build_circuit("tiny", model, run_args_file("tiny"), empty, floor=1.0)


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
    assert is_test_only(srs_path(real.circuits.srs_directory, 11)), "the one of the local network stays"


# --- checking prebuilt circuits --------------------------------------------------------------------------------------


def test_a_prebuilt_circuit_is_proved_and_its_checksums_recorded(tiny_circuit: Circuit, empty: Constants) -> None:
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be put where it may not be")
@pytest.mark.parametrize("asked", [["circuit", "check"], ["prove"]])
def test_commands_prove_where_the_user_may_not_be(
    tiny_circuit: Circuit, empty: Constants, tmp_path: Path, asked: list[str]
) -> None:
    """As ``cd /root; sudo -u omron omron-miner …``."""
    shutil.copytree(tiny_circuit.directory, empty.circuits.directory / tiny_circuit.directory.name)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    os.chown(closed, 65534, 65534)
    omron_miner = command(empty, tmp_path, tmp_path / "unused", "tiny")[:5]
    arguments = [
        "setpriv",
        "--bounding-set=-dac_override,-dac_read_search",
        *omron_miner,
        *asked,
        "--circuit",
        tiny_circuit.id,
    ]
    done = subprocess.run(arguments, cwd=closed, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


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
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["changed"] is True
    assert folders(empty) == [f"model_{answer['circuit_id']}"]


@pytest.mark.parametrize("most_bytes", [10, 2_000_000])  # settings.json has 1 kB, the key 5.6 MB
def test_a_full_disk_is_a_message_and_leaves_nothing(
    run_args_file: RunArgsFile, empty: Constants, tmp_path: Path, most_bytes: int
) -> None:
    def limit() -> None:  # a write beyond this fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    arguments = command(empty, tmp_path, run_args_file("tiny"), "tiny")
    done = subprocess.run(arguments, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "error: circuit tiny" in done.stderr
    assert "  try: check the free space" in done.stderr
    assert "Traceback" not in done.stderr
    assert folders(empty) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_too_small_for_a_session_is_not_blamed_on_the_circuit(
    tiny_circuit: Circuit, empty: Constants, tmp_path: Path
) -> None:
    shutil.copytree(tiny_circuit.directory, empty.circuits.directory / tiny_circuit.directory.name)
    sessions = tmp_path / "host/sessions"
    sessions.mkdir(exist_ok=True)
    asked = [*command(empty, tmp_path, tmp_path / "unused", "tiny")[:5], "circuit", "check", "--circuit", "tiny"]
    mount = f'mount -t tmpfs -o size=16k tmpfs {sessions} && exec "$@"'
    (tmp_path / "host/memory").write_text("no folder")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", *asked], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "No space left" in done.stderr or "the disk is full" in done.stderr
    assert f"  try: check the free space and the owner of {tmp_path}/host/memory and {sessions}" in done.stderr


@pytest.mark.parametrize("out", ["missing/proof.json", "full"])
def test_a_proof_is_not_lost_where_its_file_cannot_be_written(
    tiny_circuit: Circuit, empty: Constants, tmp_path: Path, out: str
) -> None:
    shutil.copytree(tiny_circuit.directory, empty.circuits.directory / tiny_circuit.directory.name)
    (tmp_path / "full").symlink_to("/dev/full")
    prove = [*command(empty, tmp_path, tmp_path / "unused", "tiny")[:5], "prove", "--circuit", "tiny"]
    done = subprocess.run([*prove, "--out", str(tmp_path / out)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"error: cannot write {tmp_path / out}" in done.stderr
    if out == "full":
        assert json.loads(json.loads(done.stdout)["proof"])["instances"]
    else:
        assert "proving tiny" not in done.stderr


def test_concurrent_builds_wait_for_each_other(run_args_file: RunArgsFile, empty: Constants, tmp_path: Path) -> None:
    arguments = command(empty, tmp_path, run_args_file("tiny"), "tiny")
    both = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [json.loads(one.communicate(timeout=60)[0]) for one in both]
    assert sorted(answer["changed"] for answer in answers) == [False, True]
    assert len({answer["circuit_id"] for answer in answers}) == 1
