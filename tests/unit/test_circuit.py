"""A circuit's folder is taken or refused with a reason; a request's inputs likewise. No EZKL anywhere."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from circuit_folders import SETTINGS, write_circuit
from omron_miner.circuits.checksums import check_files, fingerprint, write_checksums
from omron_miner.circuits.circuit import REQUIRED_FILES, Circuit, CircuitType
from omron_miner.circuits.examples import example_inputs, read_input_file
from omron_miner.circuits.inputs import validate_inputs
from omron_miner.circuits.load import check_compiled_version, load_circuit, load_without_key, version_mark
from omron_miner.errors import CircuitError, InputError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def circuit(tmp_path: Path) -> Circuit:
    return load_circuit(write_circuit(tmp_path))


def test_a_validators_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    unknown_key = {"timeout": 30, "netuid": "2", "something_new": 1}
    circuit = load_circuit(write_circuit(tmp_path, metadata=unknown_key))
    assert circuit.id == "a" * 64
    assert circuit.label == "sample v0.0.1 using EZKL"
    assert circuit.circuit_type is CircuitType.PROOF_OF_WEIGHTS
    assert circuit.timeout_seconds == 30
    assert circuit.settings.input_sizes == (4,)
    assert circuit.settings.output_sizes == (2,)
    assert circuit.settings.whole["num_rows"] == 476


def test_a_circuit_travels_to_a_worker(circuit: Circuit) -> None:
    assert pickle.loads(pickle.dumps(circuit)) == circuit  # noqa: S301  our own bytes


def test_loading_circuits_does_not_load_ezkl(tmp_path: Path) -> None:
    script = "import sys, pathlib; from omron_miner.circuits.load import load_circuit; " \
        "load_circuit(pathlib.Path(sys.argv[1])); sys.exit('ezkl' in sys.modules)"  # fmt: skip
    subprocess.run([sys.executable, "-c", script, str(write_circuit(tmp_path))], check=True)


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    directory = write_circuit(tmp_path)
    (directory / name).unlink()
    with pytest.raises(CircuitError, match=f"{name} is missing"):
        load_circuit(directory)


def test_a_circuit_of_another_ezkl_version_is_refused_unopened(tmp_path: Path) -> None:
    with pytest.raises(CircuitError, match=r"made by EZKL 19\.0\.7, but .* is installed"):
        load_circuit(write_circuit(tmp_path, version="19.0.7"))


def test_a_compiled_model_of_another_version_than_its_settings_is_refused_unopened(tmp_path: Path) -> None:
    directory = write_circuit(tmp_path)
    (directory / "model.compiled").write_bytes(b"graph" + (6).to_bytes(8, "little") + b"19.0.7\0")
    with pytest.raises(CircuitError, match=r"model\.compiled was not made by EZKL"):
        load_circuit(directory)
    (directory / "model.compiled").write_bytes(b"")
    with pytest.raises(CircuitError, match=r"model\.compiled is empty"):
        load_circuit(directory)


def test_everything_except_the_proving_key_can_be_checked_without_it(tmp_path: Path) -> None:
    directory = write_circuit(tmp_path)
    (directory / "pk.key").unlink()
    meta, settings = load_without_key(directory)
    assert (meta.name, settings.logrows) == ("sample", 11)
    (directory / "model.compiled").write_bytes(b"graph" + (6).to_bytes(8, "little") + b"19.0.7\0")
    with pytest.raises(CircuitError, match=r"model\.compiled was not made by EZKL"):
        load_without_key(directory)


def test_keys_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    directory = write_circuit(tmp_path)
    (directory / "vk.key").write_bytes(bytes([3, 11]) + b"another key")
    with pytest.raises(CircuitError, match=r"pk\.key and vk\.key do not belong together"):
        load_circuit(directory)


def test_a_key_for_other_logrows_than_the_settings_is_refused(tmp_path: Path) -> None:
    run_args = {**SETTINGS["run_args"], "logrows": 12}
    with pytest.raises(CircuitError, match=r"vk\.key is for logrows 11, settings\.json for 12"):
        load_circuit(write_circuit(tmp_path, run_args=run_args))


@pytest.mark.parametrize("junk", [b"", b"\x00\x00", b"{}"])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, junk: bytes) -> None:
    directory = write_circuit(tmp_path)
    (directory / "vk.key").write_bytes(junk)
    with pytest.raises(CircuitError, match=r"vk\.key is not a verification key"):
        load_circuit(directory)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"proof_system": "ABACUS"}, "proof_system"),
        ({"type": "proof_of_cake"}, "type"),
        ({"timeout": -1}, "timeout"),
        ({"name": None}, "name"),
    ],
)
def test_metadata_we_cannot_serve_is_refused_by_name(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(CircuitError, match=reason):
        load_circuit(write_circuit(tmp_path, metadata=change))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run_args": {}}', "\x00"])
def test_settings_that_are_not_ezkls_are_refused(tmp_path: Path, text: str) -> None:
    directory = write_circuit(tmp_path)
    (directory / "settings.json").write_text(text)
    with pytest.raises(CircuitError, match=r"settings\.json was not written by EZKL"):
        load_circuit(directory)


@pytest.mark.parametrize("name", ["model_abc", "model_" + "A" * 64, "a" * 64, "model_" + "a" * 64 + ".old"])
def test_a_folder_with_another_name_is_refused(tmp_path: Path, name: str) -> None:
    directory = write_circuit(tmp_path).rename(tmp_path / name)
    with pytest.raises(CircuitError, match="folder's name"):
        load_circuit(directory)


def test_a_truncated_key_is_noticed_when_checksums_are_recorded(tmp_path: Path) -> None:
    directory = write_circuit(tmp_path)
    write_checksums(directory)
    load_circuit(directory)
    (directory / "pk.key").write_bytes((directory / "pk.key").read_bytes()[:-1])
    with pytest.raises(CircuitError, match=r"pk\.key has 28 bytes, checksums\.json says 29"):
        load_circuit(directory)


def test_checksums_are_recorded_in_one_step_while_the_circuit_serves(tmp_path: Path) -> None:
    directory = write_circuit(tmp_path)
    write_checksums(directory)
    before = (directory / "checksums.json").stat().st_ino
    half_written = directory / ".checksums.json.abc.tmp"
    half_written.touch()
    seen = fingerprint(directory)
    half_written.unlink()
    assert fingerprint(directory) == seen
    write_checksums(directory)
    assert (directory / "checksums.json").stat().st_ino != before


def test_a_changed_file_of_the_same_size_is_noticed(tmp_path: Path) -> None:
    directory = write_circuit(tmp_path)
    assert check_files(directory) is False
    write_checksums(directory)
    assert check_files(directory) is True
    settings = directory / "settings.json"
    settings.write_text(settings.read_text().replace("476", "477"))
    with pytest.raises(CircuitError, match=r"settings\.json is not the file"):
        load_circuit(directory)


def test_inputs_keep_their_order_and_a_lone_number_is_a_list_of_one(tmp_path: Path) -> None:
    shapes: dict[str, Any] = {
        "model_instance_shapes": [[2], [1], [1]],
        "model_input_scales": [7, 0],
        "input_types": ["F32", "Bool"],
    }
    circuit = load_circuit(write_circuit(tmp_path, **shapes))
    assert validate_inputs(circuit, {"z": [1, 0.5], "a": True}) == [[1, 0.5], [True]]


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"x": [1, 2, 3]}, "3 value"),
        ({"x": [1, 2, 3, 4, 5]}, "5 value"),
        ({"x": 1}, "1 value"),
        ({}, "takes 1 input"),
        ({"x": [1, 2, 3, 4], "y": [1]}, "takes 1 input"),
        ([[1, 2, 3, 4]], "takes 1 input"),
        (None, "takes 1 input"),
        ({"x": [1, 2, 3, math.nan]}, r"'x'\[3\] is not a usable number"),
        ({"x": [math.inf, 2, 3, 4]}, r"'x'\[0\]"),
        ({"x": [1, 2, 3, -math.inf]}, r"'x'\[3\]"),
        ({"x": [1, 2, 3, "4"]}, r"'x'\[3\]"),
        ({"x": [1, 2, 3, None]}, r"'x'\[3\]"),
        ({"x": [1, 2, 3, [4]]}, r"'x'\[3\]"),
        ({"x": [1, 2, 3, 1e300]}, r"'x'\[3\]"),
        ({"x": [1, 2, 3, 2**70]}, r"'x'\[3\]"),
        ({"x": "1234"}, "1 value"),
    ],
)
def test_inputs_that_cannot_be_proved_are_refused(circuit: Circuit, inputs: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        validate_inputs(circuit, inputs)


class _Unprintable(str):
    """A name that must not be formatted."""

    def __repr__(self) -> str:
        raise AssertionError("formatted without need")


def test_values_are_counted_before_they_are_checked_and_labels_made_only_for_errors(tmp_path: Path) -> None:
    shapes: dict[str, Any] = {
        "model_instance_shapes": [[2], [1], [1]],
        "model_input_scales": [7, 7],
        "input_types": ["F32", "F32"],
    }
    circuit = load_circuit(write_circuit(tmp_path, **shapes))
    with pytest.raises(InputError, match=r"input 'y' has 3 value\(s\)"):
        validate_inputs(circuit, {"x": [math.nan, 0], "y": [math.nan] * 3})
    assert validate_inputs(circuit, {_Unprintable("x"): [1, 2], _Unprintable("y"): 3}) == [[1, 2], [3]]


def test_a_bool_input_takes_only_truth_values(tmp_path: Path) -> None:
    circuit = load_circuit(write_circuit(tmp_path, input_types=["Bool"], model_input_scales=[0]))
    assert validate_inputs(circuit, {"x": [True, False, 1, 0]}) == [[True, False, 1, 0]]
    with pytest.raises(InputError, match="not true, false, 0 or 1"):
        validate_inputs(circuit, {"x": [1, 0, 2, 0]})


def test_private_inputs_have_no_known_size_but_must_be_numbers(tmp_path: Path) -> None:
    run_args = {**SETTINGS["run_args"], "input_visibility": "Private"}
    directory = write_circuit(tmp_path, run_args=run_args, model_instance_shapes=[[1, 2]])
    circuit = load_circuit(directory)
    assert circuit.settings.input_sizes is None
    assert circuit.settings.output_sizes == (2,)
    assert validate_inputs(circuit, {"x": [1, 2, 3]}) == [[1, 2, 3]]
    with pytest.raises(InputError):
        validate_inputs(circuit, {"x": [math.nan]})
    with pytest.raises(InputError, match=r"no input\.json"):
        example_inputs(circuit)
    (directory / "input.json").write_text('{"input_data": [[1, 2, 3]]}')
    assert example_inputs(circuit) == {"input_0": [1, 2, 3]}
    assert len(example_inputs(circuit, seed=1)["input_0"]) == 3


def test_examples_are_reproducible_valid_and_differ_by_seed(circuit: Circuit) -> None:
    first = example_inputs(circuit)
    assert first == example_inputs(circuit) != example_inputs(circuit, seed=1)
    [row] = validate_inputs(circuit, first)
    assert len(row) == 4


def test_input_files_may_be_named_values_or_ezkls_input_data(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_text(json.dumps({"b": [1], "a": 2}))
    assert read_input_file(path) == {"b": [1], "a": 2}
    path.write_text(json.dumps({"input_data": [[1, 2], [3]]}))
    assert read_input_file(path) == {"input_0": [1, 2], "input_1": [3]}


@pytest.mark.parametrize("text", ["", "[1]", "{}", "NaN"])
def test_an_input_file_that_is_not_an_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "in.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"in\.json"):
        read_input_file(path)
    with pytest.raises(InputError, match="cannot read"):
        read_input_file(tmp_path / "absent.json")


# --- files that others change


def test_a_compiled_model_is_searched_across_the_pieces_it_is_read_in(tmp_path: Path) -> None:
    compiled, mark = tmp_path / "model.compiled", version_mark("22.0.1")
    for after in (0, 1, (1 << 20) - len(mark), (1 << 20) - 5, (1 << 20) - 1, 1 << 20, (2 << 20) + 3):
        compiled.write_bytes(b"x" * 100 + mark + b"x" * after)
        check_compiled_version(tmp_path, "22.0.1")
        with pytest.raises(CircuitError, match="not made by EZKL 23"):
            check_compiled_version(tmp_path, "23.0.5")


_READS_WHILE_OTHERS_WRITE = """
import pathlib, sys, time
from omron_miner.circuits.load import check_compiled_version
from omron_miner.errors import CircuitError
print("ready", flush=True)
until = time.monotonic() + 1.0
while time.monotonic() < until:
    try:
        check_compiled_version(pathlib.Path(sys.argv[1]), "22.0.1")
    except CircuitError:
        pass
print("alive")
"""


def test_a_file_truncated_while_it_is_read_does_not_end_the_process(tmp_path: Path) -> None:
    compiled = tmp_path / "model.compiled"
    compiled.touch()
    os.truncate(compiled, 32 << 20)
    command = [sys.executable, "-c", _READS_WHILE_OTHERS_WRITE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout
        assert reader.stdout.readline() == "ready\n"
        while reader.poll() is None:
            os.truncate(compiled, 1)
            os.truncate(compiled, 32 << 20)
            time.sleep(0.001)
        assert (reader.returncode, reader.stdout.read()) == (0, "alive\n")
