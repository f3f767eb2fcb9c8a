"""The parts of the miner that decide; what they come to over TCP is in tests/wire."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from bittensor import Synapse

from omron_miner.axon_server import ServedRequest
from omron_miner.chain import LocalChain
from omron_miner.constants import Access
from omron_miner.miner_session import ConstantOutputs, _Refusals, refusal
from omron_miner.protocol import ProofOfWeightsSynapse, QueryForCapacities, QueryZkProof, WireProofSystem
from omron_miner.subnet_list import Validator

OWN, OTHER = "5Own", "5Other"


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


def test_the_permit_can_be_left_out_and_the_blacklist_switched_off() -> None:
    without_permit = chain_with(5000.0, permit=False)
    assert refusal(without_permit, Access(require_validator_permit=False), OWN, OTHER) is None
    assert refusal(LocalChain(()), Access(blacklist=False), OWN, OTHER) is None


def test_equal_outputs_for_different_inputs_are_constant() -> None:
    outputs = ConstantOutputs()
    assert not outputs.seen("c", {"x": [1]}, [0.5, 1.0])
    assert outputs.seen("c", {"x": [2]}, [0.50005, 1.0])
    assert not outputs.seen("c", {"x": [3]}, [0.502, 1.0])


def test_equal_outputs_for_equal_inputs_say_nothing() -> None:
    outputs = ConstantOutputs()
    assert not outputs.seen("c", {"x": [1]}, [0.5])
    assert not outputs.seen("c", {"x": [1]}, [0.5])
    assert not outputs.seen("other", {"x": [2]}, [0.5])


def test_circuits_without_public_outputs_are_not_constant() -> None:
    outputs = ConstantOutputs()
    assert not outputs.seen("c", {"x": [1]}, [])
    assert not outputs.seen("c", {"x": [2]}, [])


def test_only_the_last_used_circuits_are_remembered() -> None:
    outputs = ConstantOutputs(circuits=2)
    for name in ("a", "b", "c"):
        outputs.seen(name, {"x": [1]}, [0.5])
    assert not outputs.seen("a", {"x": [2]}, [0.5]), "a was forgotten"
    assert outputs.seen("c", {"x": [2]}, [0.5])


def test_refusals_cannot_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("refusals")
    refusals = _Refusals(log)
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
    program = "import sys, omron_miner.miner_session, omron_miner.query; print('ezkl' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
