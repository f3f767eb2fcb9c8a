"""A CIRCOM circuit's folder is taken or refused with a reason; its inputs likewise. No native code anywhere."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from omron_miner.circuits.checksums import check_files, write_checksums
from omron_miner.circuits.circom import FIELD_MODULUS, CircomSettings, outputs, validators_signals, weights_example
from omron_miner.circuits.circom import validate_inputs as circom_inputs
from omron_miner.circuits.circuit import CIRCOM_FILES, Circuit
from omron_miner.circuits.examples import example_inputs
from omron_miner.circuits.inputs import validate_inputs
from omron_miner.circuits.load import load_circuit
from omron_miner.errors import CircuitError, InputError
from test_untrusted import ODD, only_messages

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BASE_MODULUS = 21888242871839275222246405745257275088696311157297823662689037894645226208583
ALPHA, DELTA = (1, 2), (3, 4, 5, 6)
WIRES, DOMAIN = 9, 16
PUBLIC = {"order": ["score", "lists", "scaling"], "sizes": {"score": 2, "lists": 2, "scaling": 1}}
SETTINGS = CircomSettings(("score", "lists", "scaling"), (2, 2, 1), WIRES, DOMAIN)
EXAMPLE = {"lists": [4, -1], "scaling": 100}


def coordinates(point: tuple[int, ...]) -> bytes:
    return b"".join((value * (1 << 256) % BASE_MODULUS).to_bytes(32, "little") for value in point)


def zkey(public: int = 5, prime: int = BASE_MODULUS, alpha: tuple[int, ...] = ALPHA, protocol: int = 1) -> bytes:
    """A proving key whose sections have the right sizes; its points are nonsense."""
    header = (32).to_bytes(4, "little") + prime.to_bytes(32, "little")
    header += (32).to_bytes(4, "little") + FIELD_MODULUS.to_bytes(32, "little")
    header += b"".join(number.to_bytes(4, "little") for number in (WIRES, public, DOMAIN))
    header += coordinates(alpha) + bytes(64 * 6) + coordinates(DELTA)
    sections = {
        1: protocol.to_bytes(4, "little"),
        2: header,
        3: bytes(64 * (public + 1)),
        4: (3).to_bytes(4, "little") + bytes(3 * 44),
        5: bytes(64 * WIRES),
        6: bytes(64 * WIRES),
        7: bytes(128 * WIRES),
        8: bytes(64 * (WIRES - public - 1)),
        9: bytes(64 * DOMAIN),
    }
    parts = [number.to_bytes(4, "little") + len(part).to_bytes(8, "little") + part for number, part in sections.items()]
    return b"zkey" + (1).to_bytes(4, "little") + len(parts).to_bytes(4, "little") + b"".join(parts)


def vk(**changes: Any) -> str:
    key = {
        "protocol": "groth16",
        "curve": "bn128",
        "nPublic": 5,
        "vk_alpha_1": ["1", "2", "1"],
        "vk_delta_2": [["3", "4"], ["5", "6"], ["1", "0"]],
        "IC": [["1", "2", "1"]] * 6,
    }
    return json.dumps({**key, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory = tmp_path / f"model_{'c' * 64}"
    directory.mkdir()
    metadata = {"name": "scores", "description": "", "author": "", "version": "1", "external_files": {}}
    metadata |= {"proof_system": "CIRCOM", "type": "proof_of_weights"}
    (directory / "metadata.json").write_text(json.dumps(metadata))
    (directory / "settings.json").write_text(json.dumps({"public_inputs": PUBLIC}))
    (directory / "circuit.wasm").write_bytes(b"\0asm\1\0\0\0rest")
    (directory / "verification_key.json").write_text(vk())
    (directory / "circuit.zkey").write_bytes(zkey())
    (directory / "input.json").write_text(json.dumps(EXAMPLE))
    return directory


@pytest.fixture
def circuit(folder: Path) -> Circuit:
    return load_circuit(folder)


def test_a_circuit_is_loaded_with_what_its_files_say(circuit: Circuit) -> None:
    assert circuit.label == "scores v1 using CIRCOM"
    assert circuit.logrows is None, "it needs no SRS"
    assert circuit.rows == DOMAIN
    assert circuit.circom == SETTINGS
    assert [path.name for path in (circuit.pk, circuit.vk, circuit.model_compiled)] == [
        "circuit.zkey",
        "verification_key.json",
        "circuit.wasm",
    ]
    with pytest.raises(CircuitError, match="has no EZKL settings"):
        assert circuit.settings


def test_loading_needs_no_native_code(folder: Path) -> None:
    script = (
        "import sys, pathlib; from omron_miner.circuits.load import load_circuit\n"
        "load_circuit(pathlib.Path(sys.argv[1]))\n"
        "sys.exit(bool({'ezkl', 'groth16py', 'wasmtime'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script, str(folder)], check=False).returncode == 0


@pytest.mark.parametrize("name", CIRCOM_FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CircuitError, match=rf"{name} is missing"):
        load_circuit(folder)


def cut(folder: Path) -> None:
    (folder / "circuit.zkey").write_bytes(zkey()[:-1])


def puff(folder: Path) -> None:
    """Section 5 claims to be longer than the file."""
    content = bytearray(zkey())
    at = content.index((5).to_bytes(4, "little") + (64 * WIRES).to_bytes(8, "little"))
    content[at + 4 : at + 12] = (1 << 60).to_bytes(8, "little")
    (folder / "circuit.zkey").write_bytes(content)


def shorten(folder: Path) -> None:
    """More coefficients are claimed than there are."""
    content = zkey()
    head = (4).to_bytes(4, "little") + (4 + 3 * 44).to_bytes(8, "little")
    (folder / "circuit.zkey").write_bytes(content.replace(head + b"\3", head + b"\4"))


def replace(name: str, content: str | bytes) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content

    def write(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return write


def public_inputs(order: Any, sizes: Any) -> str:
    return json.dumps({"public_inputs": {"order": order, "sizes": sizes}})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut, "ends within section 9"),
        (puff, "ends within section 5"),
        (shorten, "section 4 has 136 bytes, expected 180"),
        (replace("circuit.zkey", b"zkey"), "circuit.zkey is not a complete proving key"),
        (replace("circuit.zkey", b""), "does not start with zkey"),
        (replace("circuit.zkey", zkey(protocol=2)), "not a Groth16 key"),
        (replace("circuit.zkey", zkey(prime=BASE_MODULUS - 1)), "its curve is not BN254"),
        (replace("circuit.zkey", zkey(public=4)), "circuit.zkey has 4 public signals, settings.json names 5"),
        (replace("circuit.zkey", zkey(alpha=(2, 1))), "do not belong together"),
        (replace("circuit.wasm", b"MZ"), "not a WebAssembly module"),
        (replace("verification_key.json", vk(protocol="plonk")), "is for plonk on bn128"),
        (replace("verification_key.json", vk(nPublic=6)), "not complete"),
        (replace("verification_key.json", "[]"), "was not written by snarkjs"),
        (replace("verification_key.json", vk(vk_alpha_1=["7", "2", "1"])), "do not belong together"),
        (replace("settings.json", "{}"), "lacks public_inputs"),
        (replace("settings.json", public_inputs(["a"], {})), "lacks public_inputs"),
        (replace("settings.json", public_inputs(["a", "a"], {"a": 1})), "twice"),
        (replace("settings.json", public_inputs(["a"], {"a": 0})), "of size 0"),
        (replace("settings.json", public_inputs(["a"], {"a": 6})), "has 5 public signals, settings.json names 6"),
    ],
)
def test_a_broken_folder_is_refused_with_the_reason(folder: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(folder)
    with pytest.raises(CircuitError, match=said):
        load_circuit(folder)


def test_files_are_held_against_their_checksums(folder: Path) -> None:
    write_checksums(folder)
    assert check_files(folder)
    assert load_circuit(folder).name == "scores"
    content = bytearray((folder / "circuit.zkey").read_bytes())
    content[-1] ^= 1
    (folder / "circuit.zkey").write_bytes(content)
    with pytest.raises(CircuitError, match=r"circuit\.zkey is not the file"):
        load_circuit(folder)


def test_inputs_keep_their_names_and_order(circuit: Circuit) -> None:
    given = {"scaling": "100", "lists": [True, -1], "private": [[1, 2], [3.0, "-4"]]}
    rows = validate_inputs(circuit, given)
    assert isinstance(rows, dict)
    assert list(rows.items()) == [("scaling", [100]), ("lists", [1, -1]), ("private", [1, 2, 3, -4])]


@pytest.mark.parametrize(
    "value",
    [0.5, math.nan, math.inf, 1e300, "1.0", "0x1", "", "١", None, {}, FIELD_MODULUS, -FIELD_MODULUS, "9" * 80],
)
def test_a_value_that_is_not_an_integer_of_the_field_is_refused(circuit: Circuit, value: Any) -> None:
    with pytest.raises(InputError, match="not an integer of the field"):
        validate_inputs(circuit, {"scaling": value})


@pytest.mark.parametrize("given", [{"lists": [1]}, {"lists": [1, 2, 3]}, {"scaling": []}])
def test_another_number_of_values_is_refused(circuit: Circuit, given: Any) -> None:
    with pytest.raises(InputError, match=r"value\(s\), scores takes"):
        validate_inputs(circuit, given)


def test_values_are_counted_before_any_is_checked(circuit: Circuit) -> None:
    with pytest.raises(InputError, match=r"input 'lists' has 3 value\(s\)"):
        validate_inputs(circuit, {"scaling": [None], "lists": [[math.nan, 0], 0.5]})


def test_inputs_must_have_names_and_bounded_depth(circuit: Circuit) -> None:
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    for given, said in (({}, "by name"), ([1], "by name"), ({"scaling": deep}, "deeper than")):
        with pytest.raises(InputError, match=said):
            validate_inputs(circuit, given)  # type: ignore[arg-type]


def test_a_validator_puts_its_own_inputs_into_the_miners_signals() -> None:
    mine = [11, 12, 0, 0, 0]
    assert validators_signals(SETTINGS, {"scaling": [7], "lists": [4, -1]}, mine) == [11, 12, 4, FIELD_MODULUS - 1, 7]
    assert validators_signals(SETTINGS, {"lists": [4, 5, 6]}, mine) == [11, 12, 4, 5, 0], "lists are cut to size"
    assert validators_signals(SETTINGS, {"lists": [4], "scaling": [7]}, mine) == [11, 12, 4, 7, 0], "as upstream has it"


def test_outputs_are_the_signals_that_are_no_inputs() -> None:
    signals = [5, FIELD_MODULUS - 2, 4, 1, 7]
    assert outputs(SETTINGS, {"lists": [4, 1], "scaling": [7]}, signals) == [5.0, -2.0]


def test_examples_come_from_the_folder(circuit: Circuit) -> None:
    assert example_inputs(circuit) == EXAMPLE
    other = example_inputs(circuit, seed=3)
    assert sorted(other["lists"]) == sorted(EXAMPLE["lists"])  # type: ignore[call-overload]
    (circuit.directory / "input.json").unlink()
    with pytest.raises(InputError, match=r"has no input\.json"):
        example_inputs(circuit)


def test_a_proof_of_weights_is_tried_with_what_validators_make_up() -> None:
    lists = ["previous_score", "verified", "response_time", "miner_uid"]
    order = ["new_score", "block_number_out", "miner_uid_out", "validator_uid_out", *lists, "scaling"]
    settings = dataclasses.replace(SETTINGS, order=tuple(order), sizes=(3,) * 8 + (1,))
    example = weights_example(settings)
    assert example is not None
    assert list(example) == [*lists, "scaling"], "inputs only"
    assert circom_inputs("weights", settings, example)["verified"] == [0, 1, 1]
    assert weights_example(dataclasses.replace(settings, order=(*order[:-1], "unheard_of"))) is None


@pytest.mark.parametrize("name", [*CIRCOM_FILES, "input.json", "checksums.json"])
def test_a_folder_with_a_file_of_anything_is_refused_or_loaded(folder: Path, name: str) -> None:
    for content in ODD:
        (folder / name).write_bytes(content)
        only_messages(lambda: load_circuit(folder))
