"""Validators run bittensor 9.9.0: its own dendrite, in an environment of its own, asks our axon. And so does 10.x's.

PyPI's newest releases of what 9.9.0 wants do not work with it; the lock file next to this pins those that do. It is
made of three lines (bittensor==9.9.0, async-substrate-interface==1.5.1, scalecodec==1.2.11) with
``uv pip compile --universal --generate-hashes --no-header --no-emit-index-url --no-annotate``.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from building import ROOT
from omron_miner.competition.watch import NOT_TAKING_PART
from omron_miner.events import FailureKind
from omron_miner.proving.verifier import verify_elsewhere
from wire_miner import STRANGER, VALIDATOR, Miner, constants_in, row_of, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.constants import Constants

pytestmark = pytest.mark.slow

LOCK = Path(__file__).with_name("dendrite-9.9.0.lock")
SCRIPT = Path(__file__).with_name("dendrite_as_upstream.py")
ALICE, CHARLIE = "//Alice", "//Charlie"
"""The validator that may ask, and the stranger."""


class Asker(NamedTuple):
    version: str
    python: Path


def environment() -> Path:
    """The Python of an environment made from the lock file, kept as long as that does not change."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
    place = ROOT / ".cache" / f"dendrite-9.9.0-{digest}"
    python, complete = place / "bin/python", place / ".complete"
    if not complete.exists():
        shutil.rmtree(place, ignore_errors=True)
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, place], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", str(python), "--require-hashes", "--no-deps"]
        subprocess.run([*install, "-r", str(LOCK)], check=True, timeout=250)
        complete.touch()
    return python


@pytest.fixture(scope="module", params=["9.9.0", "10.5.0"])
def asker(request: pytest.FixtureRequest) -> Asker:
    return Asker(request.param, environment() if request.param == "9.9.0" else Path(sys.executable))


@pytest.fixture(scope="module")
def miner(
    tmp_path_factory: pytest.TempPathFactory, proving_constants: Constants, tiny_circuit: Circuit
) -> Iterator[Miner]:
    constants = constants_in(tmp_path_factory.mktemp("dendrite"), proving_constants.circuits)
    access = constants.access.model_copy(update={"max_body_bytes": 1_048_576})
    with running(constants.model_copy(update={"access": access}), tiny_circuit) as made:
        yield made


def ask(asker: Asker, miner: Miner, *calls: tuple[str, dict[str, Any], str], to: str = "", by: str = ALICE) -> Any:
    """Answers to calls of (synapse, fields, the field wanted back)."""
    out = miner.constants.log.directory / "answers.json"
    asks = [
        {"by": by, "to": to or miner.hotkey, "synapse": name, "fields": fields, "wanted": [wanted]}
        for name, fields, wanted in calls
    ]
    question = json.dumps({"port": miner.constants.axon.port, "out": str(out), "asks": asks})
    done = subprocess.run(
        [asker.python, SCRIPT], input=question, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(out.read_text())
    assert told["version"] == asker.version
    return told["answers"]


def query(miner: Miner, row: list[Any]) -> tuple[str, dict[str, Any], str]:
    asked = {"query_input": {"public_inputs": {"x": row}, "model_id": miner.circuit.id}, "query_output": ""}
    return "QueryZkProof", asked, "query_output"


def weights(miner: Miner, inputs: dict[str, Any], wanted: str) -> tuple[str, dict[str, Any], str]:
    asked = {"verification_key_hash": miner.circuit.id, "proof_system": "EZKL", "inputs": inputs}
    return "ProofOfWeightsSynapse", {**asked, "proof": "", "public_signals": ""}, wanted


def test_each_synapse_is_answered_as_its_validator_reads_it(asker: Asker, miner: Miner) -> None:
    row, other = row_of(miner.circuit, 1), row_of(miner.circuit, 2)
    computation, by_weights, capacities = ask(
        asker, miner, query(miner, row), weights(miner, {"x": other}, "proof"), ("QueryForCapacities", {}, "capacities")
    )
    assert [one["status"] for one in (computation, by_weights, capacities)] == [200] * 3
    assert miner.verified(row, computation["fields"]["query_output"])
    assert not miner.verified(other, computation["fields"]["query_output"])
    proof = by_weights["fields"]["proof"]
    assert verify_elsewhere(miner.circuit, {"x": other}, proof, miner.constants.circuits).verified
    assert capacities["fields"]["capacities"] == {miner.circuit.id: 1}
    assert 0 < computation["process_time"] < 60


def test_a_competition_call_is_answered_immediately_and_never_hangs(asker: Asker, miner: Miner) -> None:
    """Of a miner that takes part in none."""
    call = ("Competition", {"id": 1, "hash": "ab" * 32, "file_name": "commitment"}, "error")
    [answer] = ask(asker, miner, call)
    assert (answer["status"], answer["fields"]["error"]) == (200, NOT_TAKING_PART)
    assert answer["process_time"] < 5


def test_a_stranger_gets_403_and_a_signature_for_another_miner_401(asker: Asker, miner: Miner) -> None:
    capacities: tuple[str, dict[str, Any], str] = ("QueryForCapacities", {}, "capacities")
    [forbidden] = ask(asker, miner, capacities, by=CHARLIE)
    assert forbidden["status"] == 403
    assert "Hotkey is not registered" in forbidden["message"]
    [unverified] = ask(asker, miner, capacities, to=STRANGER.ss58_address)
    assert unverified["status"] == 401
    assert "Not Verified" in unverified["message"]


def proof_of_weights_inputs(count: int) -> dict[str, Any]:
    """What validators send for the circuit of `count` scores, of random values: 11 lists and 9 numbers."""
    dice = random.Random(1)  # noqa: S311  any will do
    names = (
        "maximum_score previous_score proof_size response_time competition maximum_response_time "
        "minimum_response_time validator_uid block_number miner_uid"
    )
    lists: dict[str, Any] = {name: [dice.randrange(10**17) for _ in range(count)] for name in names.split()}
    lists["verified"] = [dice.random() < 0.9 for _ in range(count)]
    rates = "RATE_OF_DECAY RATE_OF_RECOVERY FLATTENING_COEFFICIENT PROOF_SIZE_THRESHOLD PROOF_SIZE_WEIGHT"
    rest = "RESPONSE_TIME_WEIGHT COMPETITION_WEIGHT MAXIMUM_RESPONSE_TIME_DECIMAL scaling"
    return {**lists, **dict.fromkeys(f"{rates} {rest}".split(), 10**8)}


def test_a_body_of_two_hundred_kilobytes_is_read(asker: Asker, miner: Miner) -> None:
    """Its circuit does not take these inputs: it is read, understood and refused in the synapse's own terms."""
    before = len(miner.requests())
    [answer] = ask(asker, miner, weights(miner, proof_of_weights_inputs(1024), "proof"))
    assert answer["sent_bytes"] > 190_000
    assert (answer["status"], answer["fields"]["proof"]) == (200, "")
    event = miner.event_after(before)
    assert event.failure is FailureKind.BAD_INPUT
    assert event.validator_hotkey == VALIDATOR.ss58_address
