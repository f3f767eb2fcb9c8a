"""What a caller may cost: its share of requests, the depth of JSON, and remembered nonces."""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from omron_miner.proving.prover import ProverPool
from omron_miner.serving.allowance import Allowances
from omron_miner.serving.axon_server import LastNonces, too_deep
from omron_miner.serving.http_transport import SeenNonces
from omron_miner.serving.protocol import ProofOfWeightsSynapse, QueryForCapacities
from omron_miner.serving.signing import signed_headers
from waiting import wait_until
from wire_miner import OTHER_VALIDATOR, STRANGER, VALIDATOR, Miner, constants_in, row_of, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.constants import Constants
    from omron_miner.proving.verified_model_session import ProofResult

SECOND = 1_000_000_000


# --- the parts --------------------------------------------------------------------------------------------------------


def test_a_hotkeys_requests_come_back_over_a_minute_and_are_its_own() -> None:
    now = 100.0
    allowances = Allowances(0, 60, lambda: now)
    assert [allowances.take("a") for _ in range(60)] == [None] * 60
    assert allowances.take("a") == "More than 60 requests a minute"
    assert allowances.take("b") is None
    now += 2.0
    assert [allowances.take("a") is None for _ in range(3)] == [True, True, False]
    now += 3600.0
    assert sum(allowances.take("a") is None for _ in range(100)) == 60, "an hour's rest saves up no more than a minute"


def test_requests_in_progress_are_given_back() -> None:
    allowances = Allowances(2, 0)
    assert [allowances.take("a") is None for _ in range(3)] == [True, True, False]
    allowances.give_back("a")
    assert allowances.take("a") is None
    assert allowances.take("a") == "More than 2 requests in progress"


def test_idle_hotkeys_are_forgotten_but_never_one_that_is_served() -> None:
    allowances = Allowances(1, 1)
    assert allowances.take("served") is None
    for number in range(10_000):
        assert allowances.take(f"{number}") is None
        allowances.give_back(f"{number}")
    assert len(allowances) == 4096
    assert allowances.take("served") == "More than 1 requests in progress"


def test_nonces_of_signed_http_are_forgotten_only_when_no_longer_fresh() -> None:
    nonces, now = SeenNonces(back_s=4.0, ahead_s=2.0, most=3), 10**18
    ahead = now + 2 * SECOND
    assert nonces.use("a", ahead, now)
    later = ahead + 4 * SECOND
    assert nonces.fresh(ahead, later)
    assert nonces.use("b", later, later)
    assert nonces.seen("a", ahead)
    assert nonces.use("a", later, later)
    assert not nonces.use("a", later + 1, later), "no room: then not served, rather than served twice"
    much_later = later + 60 * SECOND
    assert nonces.use("a", much_later, much_later)
    assert len(nonces) == 1


def test_the_sdks_nonces_ascend_and_unsigned_headers_do_not_stretch_the_first_ones_age() -> None:
    nonces, now = LastNonces(), 10**18
    for timeout in (math.inf, math.nan, 1e9, -1.0):
        assert nonces.refusal("a", "1", now - 65 * SECOND, timeout, now)
    assert nonces.refusal("a", "1", now - 5 * SECOND, 0.0, now)
    assert nonces.refusal("a", "1", now - 63 * SECOND, 60.0, now) is None
    nonces.use("a", "1", now)
    assert nonces.refusal("a", "1", now, 60.0, now)
    assert nonces.refusal("a", "1", now + 1, 60.0, now) is None
    assert nonces.refusal("a", "2", now, 60.0, now) is None, "another dendrite of the same validator"


def test_invented_dendrites_or_hotkeys_evict_only_their_own_nonces() -> None:
    nonces, now = LastNonces(hotkeys=100, uuids=10), 10**18
    nonces.use("honest", "1", now)
    for number in range(1000):
        nonces.use("hostile", f"{number}", now)
    assert nonces.refusal("honest", "1", now, 60.0, now)
    assert len(nonces) == 11
    for number in range(1000):
        nonces.use(f"{number}", "1", now)
    assert len(nonces) == 100


def nested(depth: int) -> bytes:
    return b'{"x": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_depth_is_that_of_containers_in_each_other_however_many_there_are() -> None:
    for body, deep in ((nested(8), False), (nested(9), True), (json.dumps({"x": [[[1]]] * 5000}).encode(), False)):
        assert too_deep(body, json.loads(body), 8) is deep
    brackets_in_text = json.dumps({"x": "[" * 1000}).encode()
    assert not too_deep(brackets_in_text, json.loads(brackets_in_text), 8)


# --- over the wire ----------------------------------------------------------------------------------------------------

slow = pytest.mark.slow
PER_MINUTE = 5


@pytest.fixture
def miner(tmp_path: Path, proving_constants: Constants, tiny_circuit: Circuit) -> Iterator[Miner]:
    """One whose limits are soon reached."""
    constants = constants_in(tmp_path, proving_constants.circuits)
    access = constants.access.model_copy(update={"requests_per_minute": PER_MINUTE, "requests_in_progress": 1})
    with running(constants.model_copy(update={"access": access}), tiny_circuit) as made:
        yield made
        made.settle()


def capacities(miner: Miner, by: Any = VALIDATOR) -> int:
    return miner.post("capacities", b"{}", signed_headers(by, miner.hotkey, b"{}"))[0]


@slow
def test_a_busy_hotkey_is_held_back_on_both_transports_and_no_other(miner: Miner) -> None:
    forged = signed_headers(STRANGER, miner.hotkey, b"{}") | {"validator-hotkey": VALIDATOR.ss58_address}
    assert [miner.post("capacities", b"{}", forged)[0] for _ in range(20)] == [401] * 20
    # What others send in its name costs it nothing.
    assert [capacities(miner) for _ in range(PER_MINUTE + 1)] == [200] * PER_MINUTE + [429]
    [sdk] = miner.ask(QueryForCapacities())
    assert (sdk.dendrite.status_code, sdk.dendrite.status_message) == (429, "More than 5 requests a minute")
    assert capacities(miner, OTHER_VALIDATOR) == 200
    assert miner.ask(QueryForCapacities(), by=OTHER_VALIDATOR)[0].dendrite.status_code == 200
    miner.settle()
    log = miner.constants.log.miner_log.read_text()
    assert "with 429 (More than 5 requests a minute)" in log
    assert log.count("with 401") == 1, "a line for each refusal fills the log"


@slow
def test_a_request_in_progress_counts_until_it_is_done_on_either_transport(miner: Miner) -> None:
    row = row_of(miner.circuit, 1)
    jobs: list[Future[ProofResult]] = []
    held: Future[ProofResult] = Future()

    def hold(*job: Any) -> Future[ProofResult]:
        jobs.append(ProverPool.submit(miner.pool, *job))
        return held

    with miner.pool.diverted(hold), ThreadPoolExecutor() as threads:
        asking = threads.submit(miner.ask_for_proof, row)
        wait_until(lambda: jobs)
        answered = capacities(miner), capacities(miner, OTHER_VALIDATOR)
        held.set_result(jobs[0].result())
        [answer] = asking.result()
    assert answered == (429, 200)
    assert miner.verified(row, answer.query_output)
    miner.settle()
    assert capacities(miner) == 200


@slow
def test_unsigned_headers_do_not_revive_an_old_request(miner: Miner) -> None:
    from omron_miner.serving.query import Dendrite

    dendrite = Dendrite(VALIDATOR)
    signed = dendrite.preprocess_synapse_for_request(miner.target, QueryForCapacities(), 20.0)
    signed.dendrite.nonce = time.time_ns() - 120 * SECOND
    message = f"{signed.dendrite.nonce}.{VALIDATOR.ss58_address}.{miner.hotkey}.{dendrite.uuid}.{signed.body_hash}"
    signed.dendrite.signature = f"0x{VALIDATOR.sign(message).hex()}"
    headers = {**signed.to_headers(), "content-type": "application/json"}
    for unsigned in ({}, {"timeout": "1e9"}, {"bt_header_dendrite_version": "7000000"}):
        status, text = miner.post("QueryForCapacities", b"{}", headers | unsigned)
        assert (status, "Nonce is too old" in text) == (401, True)


@slow
def test_half_a_character_in_an_id_is_an_unknown_circuit_like_others(miner: Miner) -> None:
    weights = ProofOfWeightsSynapse(verification_key_hash="", inputs={}, proof="", public_signals="")
    body = json.dumps({"verification_key_hash": "\ud800", "inputs": {"x": [1]}, "proof": "", "public_signals": ""})
    status, text = miner.post("ProofOfWeightsSynapse", body.encode(), miner.signed_headers(weights))
    assert (status, json.loads(text)["proof"]) == (200, "")


@slow
@pytest.mark.parametrize("depth", [33, 900, 40_000])
def test_deep_json_is_refused(miner: Miner, depth: int) -> None:
    body = nested(depth)
    status, text = miner.post("QueryForCapacities", body, miner.signed_headers(QueryForCapacities()))
    assert (status in (400, 422), len(text) < 200) == (True, True)
    assert miner.post("query-zk-proof", body, signed_headers(VALIDATOR, miner.hotkey, body))[0] == 422


@slow
def test_a_body_of_many_lists_is_refused_before_it_is_parsed(miner: Miner) -> None:
    body = json.dumps({"x": [[]] * 30_000}, separators=(",", ":")).encode()
    status, text = miner.post("QueryForCapacities", body, miner.signed_headers(QueryForCapacities()))
    assert (status, "too many lists" in text) == (422, True)
    status, text = miner.post("query-zk-proof", body, signed_headers(VALIDATOR, miner.hotkey, body))
    assert (status, "too many lists" in text) == (422, True)
