"""A validator asks for the competition circuit over a real axon, fetches it from real storage and compares its hash."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from bittensor_wallet import Keypair

from omron_miner.chain.chain import ChainError, LocalChain
from omron_miner.competition.watch import NOT_COMMITTED, NOT_TAKING_PART, NOTHING_PREPARED
from omron_miner.constants import Competition as Section
from omron_miner.serving.protocol import Competition
from omron_miner.serving.signing import signed_headers
from s3_server import SECRET_KEY, S3Server, s3_server
from waiting import wait_until
from wire_miner import (
    OMRON_MINER,
    OTHER_VALIDATOR,
    STRANGER,
    VALIDATOR,
    Caller,
    Miner,
    constants_in,
    row_of,
    running,
    serving,
    to_toml,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.constants import Constants

pytestmark = pytest.mark.slow
FILES = ("model.compiled", "settings.json")


class SwitchedChain(LocalChain):
    """The local chain, which a test can make unreachable."""

    away = False

    def commitment(self) -> str | None:
        self._perhaps_fail()
        return super().commitment()

    def commit(self, text: str) -> None:
        self._perhaps_fail()
        super().commit(text)

    def _perhaps_fail(self) -> None:
        if self.away:
            time.sleep(0.5)  # it is slow to say so
            raise ChainError("the chain is away")


@pytest.fixture
def server() -> Iterator[S3Server]:
    with s3_server() as made:
        yield made


@pytest.fixture
def constants(tmp_path: Path, proving_constants: Constants, tiny_circuit: Circuit, server: S3Server) -> Constants:
    """A miner that offers the tiny circuit, as EZKL compiled it."""
    folder = tmp_path / "competition"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes((tiny_circuit.directory / name).read_bytes())
    server.write_credentials(tmp_path / "keys")
    section = Section(
        enabled=True,
        directory=folder,
        endpoint=server.endpoint,
        bucket=server.bucket,
        credentials_file=tmp_path / "keys",
        status_file=tmp_path / "competition.json",
        settle_seconds=0.2,
        recheck_seconds=0.5,
    )
    return constants_in(tmp_path, proving_constants.circuits).model_copy(update={"competition": section})


def ask(caller: Caller, by: Any = VALIDATOR) -> Any:
    """As validators ask; the commitment that they read is not checked."""
    [answer] = caller.ask(Competition(id=1, hash="ab" * 32, file_name="commitment"), by=by)
    return answer


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310
        return bytes(answer.read())


def proves(miner: Miner) -> bool:
    row = row_of(miner.circuit, 5)
    [answer] = miner.ask_for_proof(row)
    return miner.verified(row, answer.query_output)


def test_a_validator_fetches_the_committed_circuit_over_either_transport(
    constants: Constants, tiny_circuit: Circuit
) -> None:
    chain = LocalChain(constants.network.local_validator_hotkeys)
    with running(constants, tiny_circuit, chain) as miner:
        wait_until(lambda: ask(miner).commitment)
        answer = ask(miner)
        assert (answer.id, answer.hash, answer.file_name, answer.error) == (1, "ab" * 32, "commitment", None)
        offered = json.loads(answer.commitment)
        for name in FILES:
            assert fetch(offered["signed_urls"][name]) == (tiny_circuit.directory / name).read_bytes()
        digest = hashlib.sha256(fetch(offered["signed_urls"]["model.compiled"])).hexdigest()
        assert digest == offered["vk_hash"] == chain.commitment()
        message = f"{digest}:{offered['expiry']}"
        assert Keypair(ss58_address=miner.hotkey).verify(message, bytes.fromhex(offered["signature"]))

        body = json.dumps({"id": 1, "hash": "ab", "file_name": "commitment"}).encode()
        status, text = miner.post("competition", body, signed_headers(OTHER_VALIDATOR, miner.hotkey, body))
        plain = json.loads(text)
        assert (status, plain["error"], plain["hash"]) == (200, None, "ab")
        assert json.loads(plain["commitment"])["vk_hash"] == digest

        assert ask(miner, by=STRANGER).dendrite.status_code == 403
        assert proves(miner)


@pytest.mark.parametrize("switch", ["refuse", "wait"])
def test_storage_that_refuses_or_hangs_costs_no_proof(
    constants: Constants, tiny_circuit: Circuit, server: S3Server, switch: str
) -> None:
    server.switch = switch
    with running(constants, tiny_circuit) as miner:
        assert server.not_served.wait(30)
        start = time.monotonic()
        assert ask(miner).error == NOTHING_PREPARED
        assert time.monotonic() - start < 20, "the answer waited for the storage, which is given 30 s three times"
        assert proves(miner)
        server.switch = "ok"
        server.released.set()
        wait_until(lambda: ask(miner).commitment)


def test_an_unreachable_chain_costs_no_proof(constants: Constants, tiny_circuit: Circuit) -> None:
    chain = SwitchedChain(constants.network.local_validator_hotkeys)
    chain.away = True
    with running(constants, tiny_circuit, chain) as miner:
        wait_until(lambda: ask(miner).error == NOT_COMMITTED)
        body = json.dumps({"id": 1, "hash": "ab", "file_name": "commitment"}).encode()
        status, text = miner.post("competition", body, signed_headers(VALIDATOR, miner.hotkey, body))
        assert (status, json.loads(text)["error"]) == (503, NOT_COMMITTED)
        assert proves(miner)
        chain.away = False
        wait_until(lambda: ask(miner).commitment, 30)


def test_the_served_miner_tells_its_status_and_leaks_no_secret(
    constants: Constants, tiny_circuit: Circuit, tmp_path: Path
) -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        config = str(tmp_path / "constants.toml")
        return subprocess.run(
            [*OMRON_MINER, "--config", config, "competition", *arguments], capture_output=True, text=True, timeout=60
        )

    (tmp_path / "constants.toml").write_text(to_toml(constants))
    early = command("status")
    assert (early.returncode, "start the miner" in early.stderr) == (1, True)
    checked = json.loads(command("check", "--json").stdout)
    digest = hashlib.sha256((tiny_circuit.directory / "model.compiled").read_bytes()).hexdigest()
    assert checked["sha256"] == digest
    with serving(constants):
        wait_until(lambda: command("status", "--json").returncode == 0, 60)
        told = command("status", "--json")
        status = json.loads(told.stdout)
        assert (status["enabled"], status["prepared"], status["committed"]) == (True, digest, digest)
        assert status["urls_until"] > time.time() + 3000
    written = "".join(path.read_text() for path in tmp_path.glob("*.log")) + told.stdout
    written += "".join(path.read_text() for path in tmp_path.glob("*.json*"))
    assert f"committed circuit {digest}" in written
    assert SECRET_KEY not in written
    assert "X-Amz" not in written


def test_a_miner_that_takes_no_part_says_what_upstreams_says(constants: Constants, tiny_circuit: Circuit) -> None:
    without = constants.model_copy(update={"competition": Section()})
    with running(without, tiny_circuit) as miner:
        assert ask(miner).error == NOT_TAKING_PART
        assert proves(miner)
