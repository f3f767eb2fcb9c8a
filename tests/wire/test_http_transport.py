"""What validators get over signed HTTP, the transport without the SDK, on the port they also use with it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from starlette.responses import JSONResponse

from omron_miner.events import FailureKind
from omron_miner.proving.verifier import verify_elsewhere
from omron_miner.serving.protocol import QueryForCapacities
from omron_miner.serving.signing import signed_headers
from wire_miner import MAX_BODY_BYTES, STRANGER, VALIDATOR, Miner, constants_in, row_of, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.constants import Constants

pytestmark = pytest.mark.slow
UNKNOWN = "0" * 64
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def shared_miner(
    tmp_path_factory: pytest.TempPathFactory, proving_constants: Constants, tiny_circuit: Circuit
) -> Iterator[Miner]:
    constants = constants_in(tmp_path_factory.mktemp("http"), proving_constants.circuits)
    with running(constants, tiny_circuit) as made:
        yield made


@pytest.fixture
def miner(shared_miner: Miner) -> Iterator[Miner]:
    """The shared miner, left with every event of the test written."""
    yield shared_miner
    shared_miner.settle()


def encoded(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def ask(miner: Miner, route: str, body: Any, by: Any = VALIDATOR, **headers: str) -> tuple[int, Any]:
    signed = signed_headers(by, miner.hotkey, encoded(body))
    status, text = miner.post(route, encoded(body), {**signed, **headers})
    return status, json.loads(text)


def query(circuit_id: str, row: Any) -> dict[str, Any]:
    return {"model_id": circuit_id, "query_input": {"x": row}, "query_output": None}


def test_a_validator_gets_a_proof_that_verifies_for_its_inputs_and_no_others(miner: Miner) -> None:
    row, before = row_of(miner.circuit, 1), len(miner.requests())
    body = encoded(query(miner.circuit.id, row))
    status, text = miner.post("query-zk-proof", body, signed_headers(VALIDATOR, miner.hotkey, body))
    assert status == 200
    assert text.encode() == JSONResponse(json.loads(text)).body, "not the bytes upstream's server would send"
    assert list(json.loads(text)) == ["proof", "public_signals"]
    assert miner.verified(row, text)
    assert not miner.verified(row_of(miner.circuit, 2), text)
    event = miner.event_after(before)
    assert event.verified
    assert (event.synapse, event.validator_hotkey) == ("query-zk-proof", VALIDATOR.ss58_address)
    assert 0 < event.timings.proof_s < event.timings.total_s


def test_a_proof_of_weights_is_answered_in_its_own_fields(miner: Miner) -> None:
    inputs, before = {"x": row_of(miner.circuit, 3)}, len(miner.requests())
    asked = {"verification_key_hash": miner.circuit.id, "proof_system": "EZKL", "inputs": inputs}
    status, answer = ask(miner, "proof-of-weights", {"subnet_uid": 2, "proof": "", "public_signals": "", **asked})
    assert (status, list(answer)) == (200, ["inputs", "proof", "public_signals"])
    assert json.loads(answer["public_signals"])
    assert verify_elsewhere(miner.circuit, inputs, answer["proof"], miner.constants.circuits).verified
    assert miner.event_after(before).synapse == "proof-of-weights"


def test_both_transports_are_served_on_one_port(miner: Miner) -> None:
    [sdk] = miner.ask(QueryForCapacities())
    assert ask(miner, "capacities", {}) == (200, sdk.capacities)
    assert sdk.capacities == {miner.circuit.id: 1}


def test_unsupported_requests_get_a_message(miner: Miner) -> None:
    asked = {"id": 1, "hash": "ab", "file_name": "commitment"}
    error = "Circuit manager not initialized"
    assert ask(miner, "competition", asked) == (503, {"error": error, **asked})
    assert ask(miner, "dsperse-proof-generation", {"circuit": "x"}) == (501, {"error": "This miner proves no slices"})


@pytest.mark.parametrize(
    ("body", "status", "said", "failure"),
    [
        ({"query_input": {}}, 422, "Empty query input", FailureKind.UNKNOWN_CIRCUIT),
        ({}, 422, "Empty query input", FailureKind.UNKNOWN_CIRCUIT),
        (query(UNKNOWN, [1]), 422, f"Invalid circuit ID: {UNKNOWN}", FailureKind.UNKNOWN_CIRCUIT),
        (query("../../etc/passwd", [1]), 422, "Invalid circuit ID: ../../etc/passwd", FailureKind.UNKNOWN_CIRCUIT),
    ],
)
def test_a_query_that_cannot_be_proved_gets_upstreams_words_and_status(
    miner: Miner, body: dict[str, Any], status: int, said: str, failure: FailureKind
) -> None:
    before = len(miner.requests())
    assert ask(miner, "query-zk-proof", body) == (status, said)
    assert miner.event_after(before).failure is failure


def test_bad_input_costs_no_proof_and_a_failure_is_no_200(miner: Miner) -> None:
    before = len(miner.requests())
    status, said = ask(miner, "query-zk-proof", query(miner.circuit.id, ["0.1", 0.2, 0.3, 0.4]))
    assert (status, "not a usable number" in said) == (422, True)
    assert miner.event_after(before).tries == 0

    def fail(*_: object) -> Any:
        raise RuntimeError("a secret of ours")

    row = row_of(miner.circuit, 4)
    with miner.pool.diverted(fail):
        assert ask(miner, "query-zk-proof", query(miner.circuit.id, row)) == (500, "An error occurred")


@pytest.mark.parametrize("header", ["nonce", "signature", "validator-hotkey", "miner-hotkey"])
@pytest.mark.parametrize("value", [None, "", "0x", "12\xb2", "-1", "9" * 400])
def test_an_unauthenticated_request_is_refused(miner: Miner, header: str, value: str | None) -> None:
    headers = signed_headers(VALIDATOR, miner.hotkey, b"{}")
    headers.pop(header)
    status, text = miner.post("capacities", b"{}", headers | ({} if value is None else {header: value}))
    assert status == (403 if header == "validator-hotkey" else 401)
    assert json.loads(text)["detail"]


@pytest.mark.parametrize("body", [b"{} ", b"[]", b""])
def test_a_body_that_was_changed_on_its_way_is_refused(miner: Miner, body: bytes) -> None:
    assert miner.post("capacities", body, signed_headers(VALIDATOR, miner.hotkey, b"{}"))[0] == 401


def test_a_signature_by_another_key_and_a_request_for_another_miner_are_refused(miner: Miner) -> None:
    forged = signed_headers(STRANGER, miner.hotkey, b"{}") | {"validator-hotkey": VALIDATOR.ss58_address}
    assert miner.post("capacities", b"{}", forged)[0] == 401
    assert miner.post("capacities", b"{}", signed_headers(VALIDATOR, STRANGER.ss58_address, b"{}"))[0] == 401


def test_a_stranger_is_refused_and_no_event_counts_it(miner: Miner) -> None:
    before = len(miner.requests())
    assert ask(miner, "query-zk-proof", query(UNKNOWN, [1]), by=STRANGER) == (
        403,
        {"detail": "Hotkey is not registered"},
    )
    miner.settle()
    assert len(miner.requests()) == before
    assert "Refused 1 request(s) with 403 (Hotkey is not registered)" in miner.constants.log.miner_log.read_text()


def test_a_request_serves_once(miner: Miner) -> None:
    headers = signed_headers(VALIDATOR, miner.hotkey, b"{}")
    assert [miner.post("capacities", b"{}", headers)[0] for _ in range(3)] == [200, 401, 401]


def test_requests_may_overtake_each_other(miner: Miner) -> None:
    now = time.time_ns()
    nonces = (now, now - SECOND, now - 1)
    headers = [signed_headers(VALIDATOR, miner.hotkey, b"{}", nonce) for nonce in nonces]
    assert [miner.post("capacities", b"{}", one)[0] for one in headers] == [200, 200, 200]


@pytest.mark.parametrize(("seconds", "status"), [(-5.0, 401), (-1.0, 200), (1.0, 200), (6.0, 401), (1e6, 401)])
def test_a_request_is_served_only_about_when_it_was_signed(miner: Miner, seconds: float, status: int) -> None:
    nonce = time.time_ns() + int(seconds * SECOND)
    assert miner.post("capacities", b"{}", signed_headers(VALIDATOR, miner.hotkey, b"{}", nonce))[0] == status


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"",
        b"[1, 2]",
        b"null",
        b'{"query_input": 7}',
        b'{"model_id": {}}',
        b"[" * 50_000,
        b'{"query_input": {"x": ' + b"[" * 100 + b"]" * 100 + b"}}",
        b"\xff",
        b'{"query_input": {',
    ],
)
def test_what_is_no_request_is_refused_and_the_miner_lives(miner: Miner, body: bytes) -> None:
    status, answer = ask(miner, "query-zk-proof", body)
    assert status == 422
    assert len(answer["detail"]) < 200
    assert ask(miner, "capacities", {})[0] == 200


def test_a_body_that_is_too_large_is_refused_whole_or_in_chunks(miner: Miner) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(12):
            yield b" " * 10_000

    body = b" " * (MAX_BODY_BYTES + 1)
    assert ask(miner, "query-zk-proof", body) == (413, {"detail": "The request body is too large"})
    headers = {**signed_headers(VALIDATOR, miner.hotkey, b" " * 120_000), "Transfer-Encoding": "chunked"}
    assert miner.post("query-zk-proof", chunks(), headers)[0] == 413
