"""Real proofs of the tiny circuit: what goes over the wire verifies as validators verify it, and nothing else."""

from __future__ import annotations

import json
import pickle
import shutil
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import proof_work
from building import MODELS
from omron_miner.circuits.examples import example_inputs
from omron_miner.circuits.inputs import validate_inputs
from omron_miner.circuits.load import load_circuit
from omron_miner.circuits.onnx_runtime import load_onnxruntime
from omron_miner.errors import CircuitError
from omron_miner.events import FailureKind
from omron_miner.proving.isolated import run
from omron_miner.proving.verifier import verify_elsewhere

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.constants import Constants
    from omron_miner.proving.verified_model_session import ProofResult
    from omron_miner.proving.verifier import Verdict

pytestmark = pytest.mark.slow
Verify = "Callable[..., Verdict]"


@pytest.fixture(scope="session")
def inputs(tiny_circuit: Circuit) -> dict[str, Any]:
    return dict(example_inputs(tiny_circuit))


@pytest.fixture(scope="session")
def result(tiny_circuit: Circuit, inputs: dict[str, Any], proving_constants: Constants) -> ProofResult:
    """One verified proof of the example, shared by the tests that only read it."""
    return prove(tiny_circuit, inputs, proving_constants)


@pytest.fixture
def verify(tiny_circuit: Circuit, inputs: dict[str, Any], proving_constants: Constants) -> Callable[..., Verdict]:
    def call(proof: str, circuit: Circuit = tiny_circuit, asked: dict[str, Any] = inputs) -> Verdict:
        return verify_elsewhere(circuit, asked, proof, proving_constants.circuits)

    return call


def prove(circuit: Circuit, inputs: Any, constants: Constants, **more: Any) -> ProofResult:
    cache = constants.circuits.ezkl_directory
    return run(partial(proof_work.prove, **more), circuit, inputs, constants, ezkl_directory=cache)


def changed(text: str, /, **fields: Any) -> str:
    return json.dumps({**json.loads(text), **fields})


def with_bytes(proof: str, content: bytes) -> str:
    return changed(proof, proof=list(content), hex_proof="0x" + content.hex())


# --- a proof ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "null", "[]", '{"instances": [[]]}', '{"instances": [["x"]]}', "[" * 100_000])
def test_a_proof_file_of_anything_is_a_verdict(verify: Callable[..., Verdict], text: str) -> None:
    verdict = verify(text)
    assert (verdict.verified, "Traceback" in verdict.detail) == (False, False)
    assert verdict.detail


def test_a_proof_is_verified_timed_and_travels(result: ProofResult) -> None:
    assert (result.verified, result.failure, result.detail, result.tries) == (True, None, "", 1)
    timings = result.timings
    phases = (timings.input_s, timings.witness_s, timings.prove_s, timings.verify_s)
    assert all(seconds > 0 for seconds in phases)
    assert sum(phases) <= timings.total_s < sum(phases) + 0.5
    assert pickle.loads(pickle.dumps(result)) == result  # noqa: S301  our own bytes


def test_the_wire_strings_are_what_a_validator_parses(
    tiny_circuit: Circuit, inputs: dict[str, Any], result: ProofResult
) -> None:
    proof, signals = json.loads(result.proof), json.loads(result.public_signals)
    assert proof["transcript_type"] == "EVM"
    assert proof["hex_proof"] == "0x" + bytes(proof["proof"]).hex()
    assert proof["version"] == tiny_circuit.settings.version
    assert proof["pretty_public_inputs"] is None
    assert proof["instances"] == signals
    assert len(signals) == 1
    assert signals[0][:4] == run(proof_work.felts, tiny_circuit, inputs)
    assert len(signals[0]) == 6
    for text in (result.proof, result.public_signals):
        assert ": " not in text
        assert "\n" not in text


def test_the_outputs_are_the_models(inputs: dict[str, Any], result: ProofResult) -> None:
    session = load_onnxruntime().InferenceSession(MODELS / "tiny.onnx")
    (expected,) = session.run(None, {"input": np.array([inputs["input_0"]], np.float32)})
    assert result.outputs == pytest.approx(expected.ravel().tolist(), abs=0.05)


def test_no_file_is_left(result: ProofResult, proving_constants: Constants) -> None:
    assert result.verified
    sessions = proving_constants.sessions
    assert [*sessions.directory.glob("*"), *sessions.fallback_directory.glob("*")] == []


# --- soundness -------------------------------------------------------------------------------------------------------


def test_the_proof_verifies_elsewhere_for_the_same_inputs(result: ProofResult, verify: Callable[..., Verdict]) -> None:
    verdict = verify(result.proof)
    assert verdict.verified, verdict.detail
    assert verdict.outputs == result.outputs


def test_a_changed_output_does_not_verify(result: ProofResult, verify: Callable[..., Verdict]) -> None:
    (row,) = json.loads(result.public_signals)
    for index in (-1, -2):
        forged = [*row]
        forged[index] = "01" + "0" * 62
        assert forged != row
        assert not verify(changed(result.proof, instances=[forged])).verified
        compact = result.proof.replace(result.public_signals, json.dumps([forged], separators=(",", ":")), 1)
        assert not verify(compact).verified
        decoy = '{"protocol":{"instances":' + result.public_signals + "}," + compact[len('{"protocol":null,') :]
        assert not verify(decoy).verified


def test_other_inputs_than_requested_do_not_verify(
    tiny_circuit: Circuit, inputs: dict[str, Any], result: ProofResult, verify: Callable[..., Verdict]
) -> None:
    (values,) = inputs.values()
    for index in range(4):
        asked = [value + (index == place) / 128 for place, value in enumerate(values)]
        assert not verify(result.proof, asked={"input_0": asked}).verified
    assert not verify(result.proof, asked=dict(example_inputs(tiny_circuit, seed=1))).verified


def test_the_miners_own_claim_about_the_inputs_is_not_believed(
    inputs: dict[str, Any], result: ProofResult, verify: Callable[..., Verdict]
) -> None:
    (row,) = json.loads(result.public_signals)
    lie = [["00" * 32] * 4 + row[4:]]
    compact = result.proof.replace(result.public_signals, json.dumps(lie, separators=(",", ":")), 1)
    for text in (compact, changed(result.proof, instances=lie), changed(result.proof, transcript_type="Poseidon")):
        assert text != result.proof
        assert verify(text).verified, "the inputs asked for and the EVM transcript replace what the file claims"


@pytest.mark.parametrize(
    "forge",
    [
        lambda proof: with_bytes(proof, bytes(json.loads(proof)["proof"][:-1]) + b"\1"),
        lambda proof: with_bytes(proof, bytes(json.loads(proof)["proof"][:-32])),
        lambda proof: changed(proof, transcript_type="Poseidon", hex_proof=None, proof=[]),
        lambda proof: changed(proof, instances=[]),
        lambda proof: changed(proof, instances=[[]]),
        lambda proof: changed(proof, instances=[["zz"] * 6]),
        lambda _proof: "",
        lambda _proof: "{}",
        lambda _proof: "[]",
        lambda _proof: '{"instances":[["00"]]}',
        lambda _proof: '"instances":' + "[" * 100_000,
    ],
    ids=[
        "last byte",
        "cut",
        "no bytes",
        "no row",
        "empty row",
        "no felts",
        "empty",
        "object",
        "list",
        "no proof",
        "deep",
    ],
)
def test_what_is_not_the_proof_does_not_verify_and_breaks_nothing(
    result: ProofResult, verify: Callable[..., Verdict], forge: Callable[[str], str]
) -> None:
    verdict = verify(forge(result.proof))
    assert not verdict.verified
    assert verdict.detail


def test_another_circuits_keys_do_not_verify_it(
    tiny_circuit: Circuit, result: ProofResult, verify: Callable[..., Verdict], tmp_path: Path
) -> None:
    other = tmp_path / tiny_circuit.directory.name
    shutil.copytree(tiny_circuit.directory, other)
    key = bytearray(tiny_circuit.vk.read_bytes())
    key[8:] = b"\0" * len(key[8:])
    (other / "vk.key").write_bytes(key)
    with pytest.raises(CircuitError, match=r"vk\.key"):
        load_circuit(other)
    assert not verify(result.proof, circuit=replace(tiny_circuit, directory=other)).verified


def test_a_model_with_one_weight_changed_does_not_verify(
    tiny_circuit: Circuit,
    altered_circuit: Circuit,
    inputs: dict[str, Any],
    proving_constants: Constants,
    verify: Callable[..., Verdict],
) -> None:
    result = prove(altered_circuit, inputs, proving_constants)
    assert result.verified, "it proves what it computes, with its own keys"
    verdict = verify(result.proof)
    assert not verdict.verified
    assert "srs" not in verdict.detail.lower(), "refused for the proof's sake"


def test_another_models_witness_under_the_honest_key_does_not_verify(
    tiny_circuit: Circuit,
    altered_circuit: Circuit,
    inputs: dict[str, Any],
    proving_constants: Constants,
    tmp_path: Path,
) -> None:
    mixed = tmp_path / tiny_circuit.directory.name
    shutil.copytree(tiny_circuit.directory, mixed)
    shutil.copyfile(altered_circuit.model_compiled, mixed / "model.compiled")
    result = prove(replace(tiny_circuit, directory=mixed), inputs, proving_constants)
    assert (result.verified, result.proof) == (False, "")
    assert result.failure in (FailureKind.PROVING_FAILED, FailureKind.VERIFICATION_FAILED)


# --- requests that fail ----------------------------------------------------------------------------------------------


def test_a_request_whose_deadline_has_passed_is_not_started(
    tiny_circuit: Circuit, proving_constants: Constants
) -> None:
    inputs, past = example_inputs(tiny_circuit), time.monotonic() - 1
    result = proof_work.prove(tiny_circuit, inputs, proving_constants, deadline=past)
    assert (result.failure, result.tries, result.timings.witness_s) == (FailureKind.TIMEOUT, 0, 0.0)


def test_a_value_the_circuit_cannot_hold_is_a_clean_failure(
    tiny_circuit: Circuit, proving_constants: Constants
) -> None:
    huge = {"input_0": [30000.0] * 4}
    assert validate_inputs(tiny_circuit, huge)
    result = prove(tiny_circuit, huge, proving_constants)
    assert result.failure in (FailureKind.PROVING_FAILED, FailureKind.VERIFICATION_FAILED)
    assert result.proof == ""
    assert 0 < len(result.detail) <= 300
    assert "\n" not in result.detail


@pytest.mark.parametrize("name", ["pk.key", "model.compiled"])
def test_a_truncated_file_fails_its_request_only(
    tiny_circuit: Circuit, proving_constants: Constants, tmp_path: Path, name: str
) -> None:
    broken = tmp_path / tiny_circuit.directory.name
    shutil.copytree(tiny_circuit.directory, broken)
    content = (broken / name).read_bytes()
    (broken / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CircuitError, match=name.replace(".", r"\.")):
        load_circuit(broken)
    circuit = replace(tiny_circuit, directory=broken)
    result = prove(circuit, example_inputs(circuit), proving_constants)
    assert result.failure is FailureKind.PROVING_FAILED
    assert result.detail.startswith("EZKL ")


def test_a_missing_srs_fails_cleanly(tiny_circuit: Circuit, proving_constants: Constants, tmp_path: Path) -> None:
    circuits = proving_constants.circuits.model_copy(update={"srs_directory": tmp_path})
    result = prove(
        tiny_circuit, example_inputs(tiny_circuit), proving_constants.model_copy(update={"circuits": circuits})
    )
    assert result.failure is FailureKind.PROVING_FAILED


@pytest.mark.parametrize(("failures", "verified", "tries"), [(1, True, 2), (2, False, 2)])
def test_a_proof_that_does_not_verify_is_made_once_more(
    tiny_circuit: Circuit, proving_constants: Constants, failures: int, verified: bool, tries: int
) -> None:
    result: ProofResult = run(proof_work.prove_with_failing_verifications, tiny_circuit, proving_constants, failures)
    assert (result.verified, result.tries) == (verified, tries)
    assert result.failure is (None if verified else FailureKind.VERIFICATION_FAILED)
    assert bool(result.proof) is verified
