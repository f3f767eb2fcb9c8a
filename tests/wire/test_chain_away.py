"""The miner keeps proving whatever happens to the chain, and logs its state."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from chain_node import NODES, node
from omron_miner.chain import subnet_list
from omron_miner.chain.bittensor_chain import BittensorChain
from omron_miner.chain.subnet_list import SubnetList, Validator
from omron_miner.chain.wallet import read_address
from omron_miner.circuits.srs import ensure_srs
from omron_miner.constants import Access, Axon, Network
from omron_miner.files import sha256
from ports import free_port
from waiting import wait_until
from wire_miner import (
    OMRON_MINER,
    STRANGER,
    VALIDATOR,
    Caller,
    constants_in,
    row_of,
    running,
    serving,
    to_toml,
)

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.constants import Constants

pytestmark = pytest.mark.slow


def constants_on(place: Path, proving: Constants, **network: Any) -> Constants:
    """A miner of a real network whose every file is below `place`."""
    circuits = proving.circuits.model_copy(update={"srs_directory": as_trusted(proving.circuits.srs_directory, place)})
    return constants_in(place, circuits).model_copy(
        update={
            "network": Network(name="finney", copy_file=place / "validators.json", **network),
            "access": Access(),
            "axon": Axon(bind_ip="127.0.0.1", port=free_port(), external_ip="127.0.0.1"),
        }
    )


def as_trusted(directory: Path, place: Path) -> Path:
    """A folder below `place` with the test SRS of `directory`, told to be the ceremony's."""
    made = place / "trusted"
    made.mkdir()
    for path in directory.glob("kzg*.srs"):
        ensure_srs(int(path.stem.removeprefix("kzg")), made, "finney", path, sha256(path))
    return made


def keep_a_list(constants: Constants) -> None:
    """As an earlier run left it: we, and a validator."""
    own = read_address(constants.wallet)
    everybody = [Validator(own, 0, 0.0, False), Validator(VALIDATOR.ss58_address, 1, 5000.0, True)]
    address = (constants.axon.external_ip, constants.axon.port)
    found = SubnetList({one.hotkey: one for one in everybody}, time.time() - 3600, "5Cold", address)
    subnet_list.save(found, constants.network, own)


def log_of(constants: Constants) -> str:
    return constants.log.miner_log.read_text()


def proves(caller: Caller, seed: int) -> bool:
    row = row_of(caller.circuit, seed)
    [answer] = caller.ask_for_proof(row)
    return answer.dendrite.status_code == 200 and caller.verified(row, answer.query_output)


@pytest.mark.parametrize("kind", NODES)
def test_a_restart_without_a_chain_serves_by_the_last_list(
    tmp_path: Path, proving_constants: Constants, tiny_circuit: Circuit, kind: str
) -> None:
    with node(kind) as address:
        constants = constants_on(tmp_path, proving_constants, chain_endpoint=address, call_seconds=1.0)
        keep_a_list(constants)
        with running(constants, tiny_circuit) as miner:
            assert proves(miner, 1)
            [answer] = miner.ask_for_proof(row_of(tiny_circuit, 2), by=STRANGER)
            assert answer.dendrite.status_code == 403
            wait_until(lambda: "retrying in" in log_of(constants))
        said = log_of(constants)
    assert "WARNING | Chain unreachable; using the validator list of" in said
    assert f"could not look up our registration on {address}: " in said
    assert "Chain unreachable, using the validator list of" in said


@dataclass
class Subnet:
    """A working chain's Subtensor, as far as we use it, that can turn bad while it runs."""

    own: str
    permitted: set[str] = field(default_factory=lambda: {VALIDATOR.ss58_address})
    wrong: dict[str, Any] = field(default_factory=dict)
    slow_s: float = 0.0
    gone: bool = False

    def metagraph(self, netuid: int, lite: bool) -> Any:
        time.sleep(self.slow_s)
        if self.gone:
            raise ConnectionResetError("gone")
        keys = [self.own, VALIDATOR.ss58_address, STRANGER.ss58_address]
        answer = {
            "netuid": netuid,
            "axons": [SimpleNamespace(hotkey=key, coldkey="5Cold", ip="127.0.0.1", port=0) for key in keys],
            "S": [5000.0] * 3,
            "validator_permit": [key in self.permitted for key in keys],
        }
        return SimpleNamespace(**{**answer, **self.wrong})

    def is_hotkey_registered(self, hotkey: str, netuid: int) -> bool:
        return True

    def serve_axon(self, netuid: int, axon: Any) -> Any:
        return SimpleNamespace(success=True)

    def close(self) -> None:
        pass


def turn(subnet: Subnet, how: str) -> None:
    wrongs: dict[str, dict[str, Any]] = {
        "of another subnet": {"netuid": 3},
        "with stakes that are no numbers": {"S": [5000.0, float("nan"), 5000.0]},
        "with a list cut short": {"S": [5000.0]},
        "empty": {"axons": [], "S": [], "validator_permit": []},
        "without its lists": {"axons": None},
    }
    subnet.wrong = wrongs.get(how, {})
    subnet.gone = how == "gone"
    subnet.slow_s = 30.0 if how == "slow" else 0.0


TURNS = {
    "gone": "ConnectionResetError: gone",
    "slow": "no answer in 0.5 s",
    "of another subnet": "it is about netuid 3, not 2",
    "with stakes that are no numbers": "the stake of uid 1 is nan",
    "with a list cut short": "it has 3 hotkeys, 1 stakes and 3 permits",
    "empty": "it is empty",
    "without its lists": "TypeError",
}


@pytest.mark.parametrize("how", TURNS)
def test_a_chain_that_turns_bad_does_not_keep_the_miner_from_proving(
    tmp_path: Path, proving_constants: Constants, tiny_circuit: Circuit, how: str
) -> None:
    constants = constants_on(tmp_path, proving_constants, metagraph_sync_seconds=0.2, call_seconds=0.5)
    own = SimpleNamespace(ss58_address=read_address(constants.wallet))
    subnet = Subnet(own.ss58_address)
    with running(constants, tiny_circuit, BittensorChain(constants.network, own, lambda: subnet)) as miner:
        assert proves(miner, 1)
        turn(subnet, how)
        wait_until(lambda: "Chain unreachable, " in log_of(constants))
        assert proves(miner, 2)
    assert f"could not read the list of validators on finney: {TURNS[how]}" in log_of(constants)


def test_a_validator_permitted_just_now_need_not_wait_for_the_next_sync(
    tmp_path: Path, proving_constants: Constants, tiny_circuit: Circuit
) -> None:
    constants = constants_on(tmp_path, proving_constants, early_sync_seconds=0.5)
    own = SimpleNamespace(ss58_address=read_address(constants.wallet))
    subnet = Subnet(own.ss58_address)
    with running(constants, tiny_circuit, BittensorChain(constants.network, own, lambda: subnet)) as miner:
        subnet.permitted.add(STRANGER.ss58_address)

        def status() -> int:
            [answer] = miner.ask_for_proof(row_of(tiny_circuit, 3), by=STRANGER)
            return int(answer.dendrite.status_code)

        assert status() == 403
        wait_until(lambda: status() == 200)


def test_a_process_started_while_the_node_hangs_serves(
    tmp_path: Path, proving_constants: Constants, tiny_circuit: Circuit
) -> None:
    with node("mute") as address:
        constants = constants_on(tmp_path, proving_constants, chain_endpoint=address, call_seconds=2.0)
        keep_a_list(constants)
        with serving(constants) as process:
            assert proves(Caller(constants, read_address(constants.wallet), tiny_circuit), 1)
            process.terminate()
            assert process.wait(10) == 0
    assert "Chain unreachable; using the validator list of" in log_of(constants)


@pytest.mark.usefixtures("tiny_circuit")
@pytest.mark.parametrize("kind", ["gone", "mute", "nonsense"])
def test_a_first_start_without_a_chain_fails_in_one_clear_message(
    tmp_path: Path, proving_constants: Constants, kind: str
) -> None:
    with node(kind) as address:
        constants = constants_on(tmp_path, proving_constants, chain_endpoint=address, call_seconds=2.0)
        config = tmp_path / "constants.toml"
        config.write_text(to_toml(constants))
        whole = [*OMRON_MINER, "--config", str(config), "serve"]
        done = subprocess.run(whole, capture_output=True, text=True, timeout=60, check=False, env=os.environ)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert f"could not look up our registration on {address}: " in done.stderr
    assert "no saved validator list: there is no" in done.stderr
    assert json.dumps(done.stderr).count("\\n") <= 3, done.stderr
