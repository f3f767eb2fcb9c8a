"""The parts of the miner that decide; what they come to over TCP is in tests/wire."""

from __future__ import annotations

import asyncio
import logging
import math
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from bittensor import Synapse
from bittensor_wallet import Keypair

from circuit_folders import write_circuit, write_srs
from omron_miner.chain.chain import LocalChain
from omron_miner.chain.subnet_list import Validator
from omron_miner.circuits.circuit_store import CircuitStore
from omron_miner.constants import Access, Axon, Circuits, Constants, Deadlines, Log, Network
from omron_miner.errors import CircuitError
from omron_miner.events import EventLog, FailureKind, Timings
from omron_miner.proving.verified_model_session import ProofResult
from omron_miner.serving.admission import RefusalLines, refusal
from omron_miner.serving.http_server import ServedRequest, serving
from omron_miner.serving.miner_session import MinerSession
from omron_miner.serving.protocol import ProofOfWeightsSynapse, QueryForCapacities, QueryZkProof, WireProofSystem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

OWN, OTHER = "5Own", "5Other"
A = "a" * 64


def chain_with(stake: float, permit: bool) -> Any:
    return SimpleNamespace(validator=lambda key: Validator(key, 1, stake, permit) if key == OTHER else None)


@pytest.mark.parametrize(
    ("stake", "permit", "reason"),
    [
        (1024.0, True, None),
        (1023.9, True, "Stake below minimum"),
        (math.nan, True, "Stake below minimum"),
        (5000.0, False, "Requesting UID has no validator permit"),
    ],
)
def test_validators_are_let_in_by_stake_and_permit(stake: float, permit: bool, reason: str | None) -> None:
    assert refusal(chain_with(stake, permit), Access(), OWN, OTHER) == reason


@pytest.mark.parametrize("hotkey", ["5Unknown", "", None])
def test_who_is_not_on_the_subnet_may_not_ask(hotkey: str | None) -> None:
    assert refusal(chain_with(5000.0, True), Access(), OWN, hotkey) == "Hotkey is not registered"


def test_our_own_hotkey_may_always_ask() -> None:
    assert refusal(LocalChain(()), Access(), OWN, OWN) is None


def test_the_permit_can_be_ignored_and_the_blacklist_disabled() -> None:
    without_permit = chain_with(5000.0, permit=False)
    assert refusal(without_permit, Access(require_validator_permit=False), OWN, OTHER) is None
    assert refusal(LocalChain(()), Access(blacklist=False), OWN, OTHER) is None


def test_refusals_cannot_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("refusals")
    refusals = RefusalLines(log)
    with caplog.at_level(logging.WARNING, "refusals"):
        for status in [403] * 1000 + [401] * 1000:
            refusals.note(ServedRequest("/Q\n" * 100, hotkey="5\x1b[31m", status=status, refusal="no"))
    assert len(caplog.messages) == 2
    assert all(line.isprintable() and len(line) < 400 for line in caplog.messages)


@pytest.mark.parametrize("name", ["EZKL", "ezkl", "Ezkl"])
def test_a_proof_system_is_named_in_any_case(name: str) -> None:
    synapse = ProofOfWeightsSynapse(verification_key_hash="", proof_system=name, inputs={}, proof="", public_signals="")
    assert synapse.proof_system is WireProofSystem.EZKL


@pytest.mark.parametrize(
    "synapse",
    [
        QueryZkProof(query_input={"model_id": "x"}, query_output="out"),
        ProofOfWeightsSynapse(verification_key_hash="", inputs={"b": [1], "a": 2}, proof="p", public_signals="[]"),
        QueryForCapacities(capacities={"x": 1}),
    ],
)
def test_headers_are_those_the_sdk_makes(synapse: Any) -> None:
    assert sorted(synapse.get_required_fields()) == sorted(Synapse.get_required_fields(synapse))
    required = {name for name in synapse.to_headers() if name.startswith("bt_header_input_obj_")}
    assert required == {f"bt_header_input_obj_{name}" for name in Synapse.get_required_fields(synapse)}


@pytest.mark.slow
def test_the_axons_side_of_the_wall_never_loads_ezkl() -> None:
    program = "import sys, omron_miner.serving.start, omron_miner.serving.query; print('ezkl' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- the circuit's gate


class Pool:
    """Notes what it is asked to prove, and does."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def submit(self, circuit_id: str, _rows: object, _deadline: float) -> Future[ProofResult]:
        self.asked.append(circuit_id)
        answer: Future[ProofResult] = Future()
        answer.set_result(ProofResult(circuit_id, "", "proof", "[]", [], True, None, "", Timings(), 1))
        return answer

    def capacity(self) -> dict[str, int]:
        return {"workers": 2}


@contextmanager
def session_of(
    place: Path, store: Any = None, pool: Any = None, network: Any = "finney", **deadlines: float
) -> Iterator[MinerSession]:
    """A session that listens nowhere, over the circuits in `place` and their SRS in ``srs``."""
    constants = Constants(
        network=Network(name=network),
        axon=Axon(external_ip="203.0.113.7"),
        deadlines=Deadlines(**{"external_queue_seconds": 0.1, **deadlines}),
        circuits=Circuits(directory=place, srs_directory=place / "srs"),
        log=Log(directory=place),
    )
    events = EventLog(constants.log)
    wallet = SimpleNamespace(hotkey=Keypair.create_from_uri("//Alice"))
    pool = pool or Pool()
    yield MinerSession(constants, wallet, LocalChain(()), pool, store or CircuitStore(constants), events)
    events.close()


def served(handle: Callable[[], Awaitable[Any]]) -> tuple[Any, ServedRequest]:
    """What the handler answers, and its request."""

    async def run() -> Any:
        with serving(request):
            return await handle()

    request = ServedRequest("/")
    return asyncio.run(run()), request


def asked_for(circuit_id: str, row: list[float]) -> QueryZkProof:
    return QueryZkProof(query_input={"model_id": circuit_id, "public_inputs": {"x": row}})


def test_a_circuit_whose_srs_is_for_tests_is_neither_proved_nor_offered_until_the_real_one_is_there(
    tmp_path: Path,
) -> None:
    write_circuit(tmp_path)
    write_srs(tmp_path / "srs", trusted=False)
    pool = Pool()
    with session_of(tmp_path, pool=pool) as session:
        answer, request = served(lambda: session.query_zk_proof(asked_for(A, [1, 2, 3, 4])))
        assert answer.query_output == "Circuit not found"
        assert request.outcome.result.failure is FailureKind.UNKNOWN_CIRCUIT
        assert "not a trusted SRS" in request.outcome.result.detail
        assert served(lambda: session.query_for_capacities(QueryForCapacities()))[0].capacities == {}
        assert pool.asked == []
        write_srs(tmp_path / "srs")
        served(lambda: session.query_zk_proof(asked_for(A, [1, 2, 3, 4])))
        assert pool.asked == [A]
        assert served(lambda: session.query_for_capacities(QueryForCapacities()))[0].capacities == {A: 2}


class HangingStore:
    """As on a disk that does not answer."""

    def __init__(self) -> None:
        self.there = threading.Event()

    def get(self, _circuit_id: str) -> Any:
        self.there.wait(20)
        raise CircuitError("gone")

    def ids(self) -> list[str]:
        self.there.wait(20)
        return []


def test_a_disk_that_hangs_costs_no_more_than_the_deadline(tmp_path: Path) -> None:
    store = HangingStore()
    with session_of(tmp_path, store, circuit_timeout_seconds=0.3) as session:

        async def ask() -> Any:
            try:
                return await session.query_zk_proof(asked_for(A, [1])), await session.query_for_capacities(
                    QueryForCapacities()
                )
            finally:
                store.there.set()

        (answer, capacities), request = served(ask)
        assert answer.query_output == "Proof not made in time"
        assert "did not answer within 0.3 s" in request.outcome.result.detail
        assert capacities.capacities == {}
        assert time.monotonic() - request.arrived < 10


def test_a_large_input_is_validated_off_the_loop(tmp_path: Path) -> None:
    write_circuit(tmp_path, model_instance_shapes=[[200_000], [1, 2]])
    write_srs(tmp_path / "srs")
    with session_of(tmp_path) as session:
        threads = set[int]()

        class Row(list[float]):
            """Tells where it is looked at."""

            def __iter__(self) -> Any:
                threads.add(threading.get_ident())
                return super().__iter__()

        query = asked_for(A, [])
        assert query.query_input
        query.query_input["public_inputs"] = {"x": Row([0.5] * 200_000)}
        answer, _ = served(lambda: session.query_zk_proof(query))
        assert "proof" in answer.query_output
        assert threads
        assert threading.get_ident() not in threads


def test_a_client_loads_no_server_and_loading_the_server_changes_nothing_of_the_sdks() -> None:
    program = """
import sys
import bittensor.core.axon as sdk
before = dict(vars(sdk))
import omron_miner.serving.query
print([name for name in sys.modules if name in ("omron_miner.serving.axon_server", "omron_miner.serving.http_server")])
import omron_miner.serving.axon_server
print([name for name, value in vars(sdk).items() if before.get(name) is not value])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["[]", "[]", ""]
