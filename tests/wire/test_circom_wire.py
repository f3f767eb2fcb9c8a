"""A CIRCOM circuit over the wire: a validator gets what it verifies, by both transports and both synapses."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

import circom_building
from omron_miner.circuits.load import load_circuit
from omron_miner.constants import Circuits
from omron_miner.proving.verifier import verify_elsewhere
from omron_miner.serving.protocol import DEFAULT_CIRCUIT_ID, ProofOfWeightsSynapse, QueryZkProof, WireProofSystem
from omron_miner.serving.signing import signed_headers
from wire_miner import VALIDATOR, Miner, constants_in, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def miner(tmp_path_factory: pytest.TempPathFactory, circom_folder: Path) -> Iterator[Miner]:
    """It serves this circuit alone, under the id of upstream's default, and there is no SRS."""
    place = tmp_path_factory.mktemp("circom")
    circuits = Circuits(directory=place / "circuits", srs_directory=place / "srs", ezkl_directory=place / "ezkl")
    folder = shutil.copytree(circom_folder, circuits.directory / f"model_{DEFAULT_CIRCUIT_ID}")
    circuit = load_circuit(folder)
    with running(constants_in(place, circuits), circuit) as made:
        yield made


def holds(miner: Miner, asked: dict[str, Any], proof: str, signals: str) -> bool:
    assert set(json.loads(proof)) == {"pi_a", "pi_b", "pi_c", "protocol", "curve"}
    assert all(isinstance(one, str) for one in json.loads(signals))
    return verify_elsewhere(miner.circuit, asked, proof, miner.constants.circuits, signals).verified


def test_a_dendrite_gets_a_proof_of_weights_and_one_of_computation(miner: Miner) -> None:
    asked, other = circom_building.inputs(4, 1), circom_building.inputs(4, 2)
    weights = ProofOfWeightsSynapse(
        verification_key_hash=miner.circuit.id,
        proof_system=WireProofSystem.CIRCOM,
        inputs=asked,
        proof="",
        public_signals="",
    )
    query = QueryZkProof(query_input={"public_inputs": asked, "model_id": miner.circuit.id}, query_output="")
    first, second = miner.ask(weights, query)
    assert holds(miner, asked, first.proof, first.public_signals)
    assert not holds(miner, other, first.proof, first.public_signals)
    reply = json.loads(second.query_output)
    assert holds(miner, asked, reply["proof"], reply["public_signals"])


def test_a_query_without_a_model_id_is_for_upstreams_default_circuit(miner: Miner) -> None:
    asked = circom_building.inputs(4, 4)
    [answer] = miner.ask(QueryZkProof(query_input={"public_inputs": asked}, query_output=""))
    reply = json.loads(answer.query_output)
    assert holds(miner, asked, reply["proof"], reply["public_signals"])


def test_the_signed_http_transport_answers_both_routes(miner: Miner) -> None:
    asked, before = circom_building.inputs(4, 3), len(miner.requests())
    bodies = {
        "query-zk-proof": {"model_id": miner.circuit.id, "query_input": asked},
        "proof-of-weights": {"verification_key_hash": miner.circuit.id, "proof_system": "CIRCOM", "inputs": asked},
    }
    for route, body in bodies.items():
        content = json.dumps(body).encode()
        status, text = miner.post(route, content, signed_headers(VALIDATOR, miner.hotkey, content))
        assert status == 200, text
        reply = json.loads(text)
        assert holds(miner, asked, reply["proof"], reply["public_signals"])
    miner.settle()
    events = miner.requests()[before:]
    assert [event.verified for event in events] == [True, True]
    assert {event.circuit for event in events} == {"pow v0.0.1 using CIRCOM"}


@pytest.mark.parametrize("value", [0.5, "many", None, [1, 2]])
def test_inputs_that_are_not_integers_are_refused_before_proving(miner: Miner, value: Any) -> None:
    content = json.dumps({"model_id": miner.circuit.id, "query_input": {"scaling": value}}).encode()
    status, text = miner.post("query-zk-proof", content, signed_headers(VALIDATOR, miner.hotkey, content))
    assert status == 422
    assert "scaling" in text
