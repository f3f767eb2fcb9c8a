"""What validators get for what they send, over TCP."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from omron_miner.chain.chain import LocalChain
from omron_miner.events import FailureKind
from omron_miner.proving.verifier import verify_elsewhere
from omron_miner.serving.protocol import ProofOfWeightsSynapse, QueryForCapacities, QueryZkProof
from waiting import wait_until
from wire_miner import (
    MAX_BODY_BYTES,
    OTHER_VALIDATOR,
    STRANGER,
    VALIDATOR,
    Caller,
    Miner,
    constants_in,
    row_of,
    running,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from omron_miner.chain.subnet_list import Validator
    from omron_miner.circuits.circuit import Circuit
    from omron_miner.constants import Constants

pytestmark = pytest.mark.slow


class BreakableChain(LocalChain):
    """The local chain, whose list a test may break."""

    broken = False

    def validator(self, hotkey: str) -> Validator | None:
        if self.broken:
            raise RuntimeError("a secret of ours")
        return super().validator(hotkey)


@pytest.fixture(scope="module")
def constants(tmp_path_factory: pytest.TempPathFactory, proving_constants: Constants) -> Constants:
    return constants_in(tmp_path_factory.mktemp("wire"), proving_constants.circuits)


@pytest.fixture(scope="module")
def chain(constants: Constants) -> BreakableChain:
    return BreakableChain(constants.network.local_validator_hotkeys)


@pytest.fixture(scope="module")
def shared_miner(constants: Constants, tiny_circuit: Circuit, chain: BreakableChain) -> Iterator[Miner]:
    """One miner for all tests that do not need other constants."""
    with running(constants, tiny_circuit, chain) as made:
        yield made


@pytest.fixture
def miner(shared_miner: Miner) -> Iterator[Miner]:
    """The shared miner, left with every event of the test written."""
    yield shared_miner
    shared_miner.settle()


def test_a_validator_gets_a_proof_that_verifies_for_its_inputs_and_no_others(miner: Miner) -> None:
    row, before = row_of(miner.circuit, 1), len(miner.requests())
    [answer] = miner.ask_for_proof(row)
    assert answer.dendrite.status_code == 200
    assert miner.verified(row, answer.query_output)
    assert not miner.verified(row_of(miner.circuit, 2), answer.query_output)
    event = miner.event_after(before)
    assert event.verified
    assert event.validator_hotkey == VALIDATOR.ss58_address
    assert event.circuit == miner.circuit.label
    # Not total_s: it ends once the answer was sent, when the caller may have read it already.
    assert 0 < event.timings.proof_s < min(event.timings.total_s, answer.dendrite.process_time)
    assert event.proof_bytes > 1000
    assert "Optimized proof completed" in miner.constants.log.miner_log.read_text(), "bittensor silenced our log"


def test_a_proof_of_weights_is_answered_in_its_own_fields(miner: Miner) -> None:
    row = row_of(miner.circuit, 3)
    inputs, circuit_id = {"x": row}, miner.circuit.id
    asked = ProofOfWeightsSynapse(
        verification_key_hash=circuit_id, proof_system="ezkl", inputs=inputs, proof="", public_signals=""
    )
    [answer] = miner.ask(asked)
    assert answer.dendrite.status_code == 200
    assert json.loads(answer.public_signals)
    assert verify_elsewhere(miner.circuit, inputs, answer.proof, miner.constants.circuits).verified


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([0.1, 0.2, math.nan, 0.4], "not a usable number"),
        ([0.1, 0.2, math.inf, 0.4], "not a usable number"),
        (["0.1", 0.2, 0.3, 0.4], "not a usable number"),
        ([0.1], "takes 4"),
        ([[0.1, 0.2, 0.3, 0.4]], "takes 4"),
        ("abcd", "takes 4"),
    ],
)
def test_bad_input_is_reported_to_the_caller_and_costs_no_proof(miner: Miner, row: Any, said: str) -> None:
    before = len(miner.requests())
    [answer] = miner.ask_for_proof(row)
    assert answer.dendrite.status_code == 200
    assert said in answer.query_output
    event = miner.event_after(before)
    assert event.failure is FailureKind.BAD_INPUT
    assert event.tries == 0


@pytest.mark.parametrize("model_id", ["0" * 64, "../../etc/passwd", "tiny"])
def test_an_unknown_circuit_is_reported(miner: Miner, model_id: str) -> None:
    before = len(miner.requests())
    [answer] = miner.ask_for_proof([0.0] * 4, model_id=model_id)
    assert (answer.dendrite.status_code, answer.query_output) == (200, "Circuit not found")
    assert miner.event_after(before).failure is FailureKind.UNKNOWN_CIRCUIT


def test_empty_and_missing_queries_are_answered_as_upstream_does(miner: Miner) -> None:
    empty = [QueryZkProof(query_input=query) for query in (None, {}, {"model_id": miner.circuit.id})]
    answers = [miner.ask(synapse)[0] for synapse in empty]
    assert [answer.query_output for answer in answers] == ["Empty query input"] * 3
    weights = ProofOfWeightsSynapse(verification_key_hash="", inputs={}, proof="", public_signals="")
    [answer] = miner.ask(weights)
    assert (answer.dendrite.status_code, answer.proof, answer.public_signals) == (200, "", "")


def test_a_query_without_a_model_id_has_no_circuit_where_upstreams_default_is_not_served(miner: Miner) -> None:
    [answer] = miner.ask(QueryZkProof(query_input={"public_inputs": {"x": [0.0] * 4}}))
    assert answer.query_output == "Circuit not found"


def test_a_stranger_is_refused_and_no_event_counts_it(miner: Miner) -> None:
    before = len(miner.requests())
    [answer] = miner.ask_for_proof([0.0] * 4, by=STRANGER)
    assert answer.dendrite.status_code == 403
    assert "Hotkey is not registered" in answer.dendrite.status_message
    miner.settle()
    assert len(miner.requests()) == before


def test_a_failing_blacklist_refuses_every_caller(miner: Miner, chain: BreakableChain) -> None:
    chain.broken = True
    try:
        [answer] = miner.ask_for_proof([0.0] * 4)
    finally:
        chain.broken = False
    assert answer.dendrite.status_code == 403
    assert "secret" not in answer.dendrite.status_message


def test_a_signature_by_another_key_is_refused(miner: Miner) -> None:
    class Forger:
        ss58_address = VALIDATOR.ss58_address

        def sign(self, message: str) -> bytes:
            return bytes(STRANGER.sign(message))

    [answer] = miner.ask_for_proof([0.0] * 4, by=Forger())
    assert answer.dendrite.status_code == 401


def test_a_request_for_another_miner_is_refused(miner: Miner) -> None:
    elsewhere = Caller(miner.constants, STRANGER.ss58_address, miner.circuit)
    [answer] = elsewhere.ask_for_proof([0.0] * 4)
    assert answer.dendrite.status_code == 401


def test_a_missing_signature_is_refused(miner: Miner) -> None:
    headers = miner.signed_headers(QueryZkProof())
    del headers["bt_header_dendrite_signature"]
    assert miner.post("QueryZkProof", b"{}", headers)[0] == 401
    assert miner.post("QueryZkProof", b"{}", {"content-type": "application/json"})[0] in (401, 403)


def test_a_replayed_request_is_refused(miner: Miner) -> None:
    headers = miner.signed_headers(QueryZkProof())
    assert miner.post("QueryZkProof", b"{}", headers)[0] == 200
    assert miner.post("QueryZkProof", b"{}", headers)[0] == 401


def test_only_the_given_address_is_bound(miner: Miner) -> None:
    bound = [
        connection.laddr.ip
        for connection in psutil.Process().net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == miner.constants.axon.port
    ]
    assert bound == ["127.0.0.1"]


def test_answers_are_sent_without_waiting_for_an_acknowledgement(miner: Miner) -> None:
    port, options = miner.constants.axon.port, []
    with socket.create_connection(("127.0.0.1", port)) as caller:
        caller.sendall(b"GET /nothing HTTP/1.1\r\nHost: miner\r\n\r\n")
        assert caller.recv(1)  # it is accepted by now
        for connection in psutil.Process().net_connections("tcp"):
            if connection.laddr and connection.raddr and connection.raddr[1] == caller.getsockname()[1]:
                served = socket.socket(fileno=os.dup(connection.fd))
                options.append(served.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                served.close()
    assert options == [1]


def test_an_unknown_route_is_not_found(miner: Miner) -> None:
    assert miner.post("Nothing", b"{}", {})[0] == 404


@pytest.mark.parametrize("factor", [1.01, 20])
def test_a_body_that_is_too_large_is_refused(miner: Miner, factor: float) -> None:
    body = json.dumps({"query_input": "x" * int(factor * MAX_BODY_BYTES)}).encode()
    status, text = miner.post("QueryZkProof", body, miner.signed_headers(QueryZkProof()))
    assert (status, json.loads(text)) == (413, {"message": "The request body is too large"})


@pytest.mark.parametrize("beginning", [b"", b"{}", b"no json"])
def test_a_large_body_in_chunks_is_refused_as_well(miner: Miner, beginning: bytes) -> None:
    def chunks() -> Iterator[bytes]:
        yield beginning + b" "
        time.sleep(0.05)  # so that what is below the limit arrives by itself
        for _ in range(12):
            yield b" " * 10_000

    headers = {**miner.signed_headers(QueryZkProof()), "Transfer-Encoding": "chunked"}
    assert miner.post("QueryZkProof", chunks(), headers)[0] == 413


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"",
        b"[1, 2]",
        b'"text"',
        b"null",
        b'{"query_input": 7}',
        b"[" * 50_000,
        b'{"query_input": {}',
        b"\xff",
    ],
)
def test_what_is_no_request_is_refused_and_the_miner_lives(miner: Miner, body: bytes) -> None:
    status, text = miner.post("QueryZkProof", body, miner.signed_headers(QueryZkProof()))
    assert status in (400, 422)
    assert "message" in json.loads(text)
    assert "Traceback" not in text
    assert miner.ask(QueryForCapacities())[0].capacities == {miner.circuit.id: 1}


def test_a_body_of_another_type_is_refused(miner: Miner) -> None:
    headers = {**miner.signed_headers(QueryZkProof()), "content-type": "text/plain"}
    assert miner.post("QueryZkProof", b"{}", headers)[0] == 422


def test_what_an_unsigned_body_claims_is_not_believed(miner: Miner) -> None:
    """The signature covers the headers only: a body must not choose our status, our headers or who asked."""
    before = len(miner.requests())
    claims = {"axon": {"status_code": 500, "status_message": "a\nb"}, "dendrite": {"hotkey": STRANGER.ss58_address}}
    body = json.dumps({"query_input": {"public_inputs": {"x": [1]}, "model_id": "0" * 64}, **claims}).encode()
    status, text = miner.post("QueryZkProof", body, miner.signed_headers(QueryZkProof()))
    assert (status, json.loads(text)["query_output"]) == (200, "Circuit not found")
    assert miner.event_after(before).validator_hotkey == VALIDATOR.ss58_address


def test_two_concurrent_validators_are_both_served(miner: Miner) -> None:
    rows = [row_of(miner.circuit, seed) for seed in (4, 5)]
    answers = miner.ask_for_proof(*rows, by=[VALIDATOR, OTHER_VALIDATOR])
    assert all(miner.verified(row, answer.query_output) for row, answer in zip(rows, answers, strict=True))


def test_a_caller_that_disconnects_frees_the_prover(miner: Miner) -> None:
    before = len(miner.requests())
    query = {"public_inputs": {"x": row_of(miner.circuit, 9)}, "model_id": miner.circuit.id}
    body = json.dumps({"query_input": query}).encode()
    headers = {**miner.signed_headers(QueryZkProof()), "Content-Length": str(len(body)), "Host": "miner"}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", miner.constants.axon.port)) as caller:
        caller.sendall(b"POST /QueryZkProof HTTP/1.1\r\n" + head.encode() + b"\r\n" + body)
        wait_until(lambda: miner.pool.capacity()["proving"] == 1)
    assert miner.event_after(before).failure is FailureKind.CANCELLED
    wait_until(lambda: miner.pool.capacity()["proving"] == 0)


def test_a_proof_that_overruns_is_stopped_and_the_next_one_works(
    tmp_path: Path, proving_constants: Constants, tiny_circuit: Circuit
) -> None:
    constants = constants_in(
        tmp_path, proving_constants.circuits, circuit_timeout_seconds=0.1, external_queue_seconds=0.05
    )
    with running(constants, tiny_circuit) as miner:
        before = len(miner.requests())
        [answer] = miner.ask_for_proof(row_of(tiny_circuit, 1))
        assert answer.query_output == "Proof not made in time"
        event = miner.event_after(before)
        assert event.failure is FailureKind.TIMEOUT
        assert "Response time is greater than circuit timeout" in constants.log.miner_log.read_text()
        wait_until(lambda: miner.pool.capacity()["ready"] == 1)
