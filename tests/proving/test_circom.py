"""Real Groth16 proofs: ours hold against snarkjs and its against ours, only for the requested inputs.

The circuit is compiled and keyed in the test from our own source (`circom_building`), with snarkjs and circom's
compiler.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import circom_building
from building import constants_below
from omron_miner.building.build import check_circuit, prove_once
from omron_miner.circuits.circom import FIELD_MODULUS
from omron_miner.circuits.inputs import validate_inputs
from omron_miner.circuits.load import load_circuit
from omron_miner.events import FailureKind
from omron_miner.proving.proof_handlers import ProofError
from omron_miner.proving.proof_handlers.circom_handler import CircomHandler
from omron_miner.proving.proof_handlers.circom_witness import VALUE_BYTES, WitnessProgram
from omron_miner.proving.prover import ProverPool
from omron_miner.proving.session_storage import Session
from omron_miner.proving.verifier import Verdict, verify_elsewhere

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.constants import Constants
    from omron_miner.proving.verified_model_session import ProofResult

pytestmark = pytest.mark.slow
ITEMS = 4


@pytest.fixture(scope="module")
def constants(tmp_path_factory: pytest.TempPathFactory) -> Constants:
    made = constants_below(tmp_path_factory.mktemp("circom"))
    return made.model_copy(update={"prover": made.prover.model_copy(update={"workers": 1})})


@pytest.fixture(scope="module")
def circuit(constants: Constants, circom_folder: Path) -> Circuit:
    directory = constants.circuits.directory / circom_folder.name
    shutil.copytree(circom_folder, directory)
    return load_circuit(directory)


@pytest.fixture(scope="module")
def pool(constants: Constants, circuit: Circuit) -> Iterator[ProverPool]:
    made = ProverPool(constants)
    made.start()
    yield made
    made.close(0)


def inputs(seed: int = 0) -> dict[str, Any]:
    return circom_building.inputs(ITEMS, seed)


def prove(pool: ProverPool, circuit: Circuit, asked: dict[str, Any], seconds: float = 30.0) -> ProofResult:
    return pool.submit(circuit.id, validate_inputs(circuit, asked), time.monotonic() + seconds).result(60)


def verify(circuit: Circuit, asked: dict[str, Any], proof: str, signals: str, constants: Constants) -> Verdict:
    return verify_elsewhere(circuit, asked, proof, constants.circuits, signals)


def test_a_proof_has_the_circuits_outputs_and_snarkjs_verifies_it(
    pool: ProverPool, circuit: Circuit, tmp_path: Path
) -> None:
    asked = inputs(1)
    result = prove(pool, circuit, asked)
    assert result.verified, result.detail
    assert result.label == "pow v0.0.1 using CIRCOM"
    signals = json.loads(result.public_signals)
    assert signals[:ITEMS] == [str(score) for score in circom_building.new_scores(asked)]
    assert signals[2 * ITEMS] == str(FIELD_MODULUS - 1), "the uid of who is not there"
    assert result.outputs[2 * ITEMS] == -1.0
    assert list(json.loads(result.proof)) == ["pi_a", "pi_b", "pi_c", "protocol", "curve"]
    (tmp_path / "proof.json").write_text(result.proof)
    (tmp_path / "public.json").write_text(result.public_signals)
    said = circom_building.snarkjs("g16v", circuit.vk, "public.json", "proof.json", cwd=tmp_path)
    assert "OK!" in said


def test_a_proof_of_snarkjs_has_the_same_signals_and_verifies_here(
    pool: ProverPool, circuit: Circuit, constants: Constants, tmp_path: Path
) -> None:
    asked = inputs(2)
    (tmp_path / "input.json").write_text(json.dumps(asked))
    files = (circuit.model_compiled, circuit.pk, "proof.json", "public.json")
    circom_building.snarkjs("g16f", "input.json", *files, cwd=tmp_path)
    proof, signals = ((tmp_path / name).read_text() for name in ("proof.json", "public.json"))
    assert json.loads(signals) == json.loads(prove(pool, circuit, asked).public_signals)
    verdict = verify(circuit, asked, proof, signals, constants)
    assert verdict.verified, verdict.detail
    assert verdict.outputs[:ITEMS] == circom_building.new_scores(asked)


def test_two_proofs_of_one_witness_differ(pool: ProverPool, circuit: Circuit) -> None:
    assert prove(pool, circuit, inputs()).proof != prove(pool, circuit, inputs()).proof


def test_a_wrong_input_output_or_proof_does_not_verify(
    pool: ProverPool, circuit: Circuit, constants: Constants
) -> None:
    asked = inputs(3)
    result = prove(pool, circuit, asked)
    signals, proof = json.loads(result.public_signals), json.loads(result.proof)
    changed = {**asked, "verified": [not one for one in asked["verified"]]}
    more = [*signals[:1], str(int(signals[1]) + 1), *signals[2:]]
    beyond = [str(int(signals[0]) + FIELD_MODULUS), *signals[1:]]
    swapped = {**proof, "pi_a": proof["pi_c"]}
    off_the_curve = {**proof, "pi_a": ["1", "5", "1"]}
    wrong: list[tuple[dict[str, Any], Any, Any]] = [
        (changed, proof, signals),
        ({**asked, "scaling": asked["scaling"] + 1}, proof, signals),
        (asked, proof, more),
        (asked, proof, beyond),
        (asked, proof, signals[:-1]),
        (asked, proof, []),
        (asked, swapped, signals),
        (asked, off_the_curve, signals),
        (asked, {}, signals),
        (asked, "ff", signals),
    ]
    assert verify(circuit, asked, result.proof, result.public_signals, constants).verified
    for given, one, public in wrong:
        assert not verify(circuit, given, json.dumps(one), json.dumps(public), constants).verified


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"response_time": [60 * 10**8 + 1] * ITEMS}, "an assertion failed"),
        ({"verified": [2] * ITEMS}, "an assertion failed"),
        ({"surprise": 1}, "no input 'surprise'"),
        ({"scaling": None}, "input values, the request has"),
        ({"new_score": [1] * ITEMS}, "no input 'new_score'"),
    ],
)
def test_inputs_the_circuit_does_not_take_fail_with_a_reason(
    pool: ProverPool, circuit: Circuit, change: dict[str, Any], said: str
) -> None:
    asked = {name: value for name, value in {**inputs(), **change}.items() if value is not None}
    result = prove(pool, circuit, asked)
    assert (result.verified, result.failure) == (False, FailureKind.PROVING_FAILED)
    assert said in result.detail
    assert prove(pool, circuit, inputs()).verified, "the next one is served"


def test_a_request_reads_no_key(pool: ProverPool, circuit: Circuit, constants: Constants) -> None:
    assert prove(pool, circuit, inputs()).verified
    kept = circuit.pk.read_bytes()
    modified = circuit.pk.stat()
    try:  # the same name, size and time: what is opened again is found out
        circuit.pk.write_bytes(bytes(len(kept)))
        os.utime(circuit.pk, ns=(modified.st_atime_ns, modified.st_mtime_ns))
        assert prove(pool, circuit, inputs(5)).verified
    finally:
        circuit.pk.write_bytes(kept)
        os.utime(circuit.pk, ns=(modified.st_atime_ns, modified.st_mtime_ns))


def test_a_killed_worker_fails_its_request_and_the_next_is_proved(pool: ProverPool, circuit: Circuit) -> None:
    for child in psutil.Process().children():
        if "serve_calls" in " ".join(child.cmdline()):
            child.kill()
    until = time.monotonic() + 30
    while not (result := prove(pool, circuit, inputs())).verified and time.monotonic() < until:
        assert result.failure is FailureKind.WORKER_CRASHED, result.detail
    assert result.verified


def test_no_time_left_is_a_timeout(pool: ProverPool, circuit: Circuit) -> None:
    assert prove(pool, circuit, inputs(), seconds=0).failure is FailureKind.TIMEOUT


def test_a_circuit_is_checked_and_proved_without_an_srs(circuit: Circuit, constants: Constants) -> None:
    checked = check_circuit(circuit, constants)
    assert checked.circuit_id == circuit.id
    (circuit.directory / "checksums.json").unlink()
    assert prove_once(circuit, inputs(7), constants).verified
    assert not constants.circuits.srs_directory.exists()


def test_a_proof_of_weights_needs_no_example_to_be_checked(
    circuit: Circuit, constants: Constants, tmp_path: Path
) -> None:
    bare = shutil.copytree(circuit.directory, tmp_path / circuit.directory.name)
    (bare / "input.json").unlink()
    assert check_circuit(load_circuit(bare), constants).circuit_id == circuit.id


def test_a_key_with_corrupt_points_gives_no_proof_and_kills_no_process(
    circuit: Circuit, constants: Constants, tmp_path: Path
) -> None:
    broken = tmp_path / circuit.directory.name
    shutil.copytree(circuit.directory, broken)
    content = bytearray((broken / "circuit.zkey").read_bytes())
    content[-64 * 50 :] = os.urandom(64 * 50)
    (broken / "circuit.zkey").write_bytes(content)
    result = prove_once(replace(circuit, directory=broken), inputs(), constants)
    assert not result.verified
    assert result.failure in (FailureKind.PROVING_FAILED, FailureKind.VERIFICATION_FAILED)


# --- a program that talks


@pytest.mark.parametrize(
    "said",
    ["log(a);", 'log("text");', 'log("a is", a, "and b", b);', f'log(""); log(a * b); log("{"long " * 100}");'],
)
def test_a_circuit_that_logs_is_witnessed(tmp_path: Path, said: str) -> None:
    (tmp_path / "talks.circom").write_text(
        "pragma circom 2.1.0;\ntemplate Talks() { signal input a; signal input b; signal output c; "
        f"{said} c <== a * b; assert(c < 100); }}\ncomponent main = Talks();\n"
    )
    program = WitnessProgram(circom_building.compiled(tmp_path / "talks.circom"))
    wires = program.run({"a": [6], "b": [7]})
    assert int.from_bytes(wires[VALUE_BYTES : 2 * VALUE_BYTES], "little") == 42
    with pytest.raises(ProofError, match=r"an assertion failed: .*Talks") as failed:
        program.run({"a": [60], "b": [70]})
    assert "long" not in str(failed.value)
    assert "a is" not in str(failed.value)


def test_inputs_are_not_written_to_the_session(circuit: Circuit, constants: Constants, tmp_path: Path) -> None:
    handler, session = CircomHandler(), Session(tmp_path)
    rows = validate_inputs(circuit, inputs(1))
    handler.write_input(rows, session)  # type: ignore[arg-type]
    handler.witness(circuit, session)
    made = handler.prove(circuit, session)
    assert made.outputs[:ITEMS] == [float(score) for score in circom_building.new_scores(inputs(1))]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step", "witness.wtns"]
