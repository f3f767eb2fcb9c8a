"""What is offered is uploaded and committed, in that order; on any failure a correct answer is given immediately."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import urllib.request
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from bittensor_wallet import Keypair

from competition_samples import FakeChain, write_circuit
from omron_miner.competition.status import read_status, to_text, write_status
from omron_miner.competition.watch import NO_URLS, NOT_COMMITTED, NOTHING_PREPARED, CompetitionWatch, Rhythm
from omron_miner.constants import Competition
from omron_miner.errors import OmronError
from s3_server import SECRET_KEY, S3Server, s3_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow
HOTKEY = Keypair.create_from_uri("//Dave")
QUICK = Rhythm(first_pause=0.05, longest_pause=0.2, commit_pauses=(0.01, 0.01))


class Scene:
    """A folder, storage and a chain, with a watch over them, and a clock, `ahead` of the system's."""

    def __init__(
        self, directory: Path, server: S3Server, chain: FakeChain, rhythm: Rhythm = QUICK, **settings: float
    ) -> None:
        self.ahead = 0.0
        self.folder, self.server, self.chain = directory / "circuit", server, chain
        self.folder.mkdir(exist_ok=True)
        credentials = directory / "keys"
        server.write_credentials(credentials)
        self.competition = Competition(
            enabled=True,
            directory=self.folder,
            endpoint=server.endpoint,
            bucket=server.bucket,
            credentials_file=credentials,
            status_file=directory / "competition.json",
            **{"settle_seconds": 0.2, "recheck_seconds": 0.2, **settings},  # type: ignore[arg-type]
        )
        log = logging.getLogger("competition-test")
        self.watch = CompetitionWatch(self.competition, chain, HOTKEY, log, rhythm, lambda: time.time() + self.ahead)  # type: ignore[arg-type]

    def wait_for(self, true: Callable[[], Any], seconds: float = 15.0) -> None:
        until = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < until, self.watch.status()
            time.sleep(0.01)

    def offers(self, content: bytes) -> bool:
        """Whether a validator gets URLs, and by them these bytes."""
        answer = self.watch.answer()
        if answer.commitment is None:
            return False
        offered = json.loads(answer.commitment)
        if offered["vk_hash"] != hashlib.sha256(content).hexdigest():
            return False
        with urllib.request.urlopen(offered["signed_urls"]["model.compiled"], timeout=10) as got:  # noqa: S310
            assert got.read() == content
        return True


@pytest.fixture
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """A mark `parametrize` may say what is otherwise about it, indirectly."""
    with s3_server() as server:
        chain = FakeChain()
        made = Scene(tmp_path, server, chain, **getattr(request, "param", {}))
        try:
            yield made
        finally:
            made.watch.stop()
            chain.released.set()


def otherwise(**what: Any) -> pytest.MarkDecorator:
    """The scene with another rhythm or other settings."""
    return pytest.mark.parametrize("scene", [pytest.param(what, id="")], indirect=True)


def test_a_circuit_is_uploaded_then_committed_then_offered_and_left_alone(scene: Scene) -> None:
    content, in_storage = write_circuit(scene.folder), []
    scene.chain.on_commit = lambda text: in_storage.extend(
        [key for key in sorted(scene.server.objects) if key.startswith(text)]
    )
    assert scene.watch.answer().error == NOTHING_PREPARED
    scene.watch.start()
    scene.wait_for(lambda: scene.offers(content))
    digest = hashlib.sha256(content).hexdigest()
    assert in_storage == [f"{digest}/model.compiled", f"{digest}/settings.json"], "committed before it was there"
    looks = scene.chain.asked
    scene.wait_for(lambda: scene.chain.asked >= looks + 5)
    assert scene.chain.commits == [digest]
    assert len(scene.server.puts) == 2


def test_the_answer_holds_what_validators_read(scene: Scene) -> None:
    content = write_circuit(scene.folder)
    scene.watch.start()
    scene.wait_for(lambda: scene.offers(content))
    offered = json.loads(scene.watch.answer().commitment or "")
    assert list(offered) == ["vk_hash", "file_urls", "expiry", "signature", "last_modified", "signed_urls"]
    assert sorted(offered["signed_urls"]) == ["model.compiled", "settings.json"]
    message = f"{offered['vk_hash']}:{offered['expiry']}"
    assert Keypair(ss58_address=HOTKEY.ss58_address).verify(message, bytes.fromhex(offered["signature"]))
    assert 3590 <= offered["expiry"] - time.time() <= 3600
    assert abs(offered["last_modified"] - time.time()) < 60


def test_after_a_restart_nothing_is_uploaded_or_committed_again(scene: Scene, tmp_path: Path) -> None:
    content = write_circuit(scene.folder)
    scene.watch.start()
    scene.wait_for(lambda: scene.offers(content))
    scene.watch.stop()
    again = Scene(tmp_path, scene.server, scene.chain)
    again.watch.start()
    again.wait_for(lambda: again.offers(content))
    again.watch.stop()
    assert (len(scene.server.puts), len(scene.chain.commits)) == (2, 1)


def test_the_circuit_before_is_offered_until_the_new_one_is_committed(scene: Scene) -> None:
    old = write_circuit(scene.folder)
    scene.watch.start()
    scene.wait_for(lambda: scene.offers(old))
    scene.chain.switch = "away"
    new = write_circuit(scene.folder, b"better")
    prepared = hashlib.sha256(new).hexdigest()
    scene.wait_for(lambda: scene.watch.status().prepared == prepared)
    assert scene.offers(old)
    assert "could not ask the chain" in (scene.watch.status().problem or "")
    scene.chain.switch = "ok"
    scene.wait_for(lambda: scene.offers(new))
    assert scene.chain.commits == [hashlib.sha256(one).hexdigest() for one in (old, new)]
    scene.wait_for(lambda: scene.watch.status().problem is None)


@otherwise(settle_seconds=0.6)
def test_a_file_still_being_written_is_not_taken(scene: Scene) -> None:
    write_circuit(scene.folder)
    scene.watch.start()
    for _ in range(24):  # twice as long as what counts as at rest
        with (scene.folder / "model.compiled").open("ab") as file:
            file.write(b"more")
        time.sleep(0.05)
    assert scene.watch.status().prepared is None
    assert scene.server.puts == []
    content = (scene.folder / "model.compiled").read_bytes()
    scene.wait_for(lambda: scene.offers(content))


def test_a_broken_circuit_is_reported_and_the_previous_one_stays(scene: Scene) -> None:
    content = write_circuit(scene.folder)
    scene.watch.start()
    scene.wait_for(lambda: scene.offers(content))
    (scene.folder / "model.compiled").write_bytes(content[:5])
    scene.wait_for(lambda: "is incomplete" in (scene.watch.status().problem or ""))
    assert scene.offers(content)
    (scene.folder / "model.compiled").unlink()
    scene.wait_for(lambda: "No such file" in (scene.watch.status().problem or ""))
    assert scene.offers(content)


@otherwise(recheck_seconds=3600, rhythm=replace(QUICK, look_again=0.1))
def test_soon_after_a_commitment_one_that_something_else_replaced_is_made_again(scene: Scene) -> None:
    content = write_circuit(scene.folder)
    scene.watch.start()
    scene.wait_for(lambda: scene.offers(content))
    scene.chain.committed = None  # as another program that commits for the hotkey leaves it
    scene.wait_for(lambda: len(scene.chain.commits) == 2)
    scene.wait_for(lambda: scene.offers(content))


def test_an_unreachable_chain_is_an_error_and_blocks_no_caller(scene: Scene) -> None:
    scene.chain.switch = "hang"
    write_circuit(scene.folder)
    scene.watch.start()
    scene.wait_for(lambda: scene.watch.status().prepared)
    assert scene.chain.hanging.wait(15)
    answers = {scene.watch.answer().error for _ in range(1000)}
    assert answers == {NOT_COMMITTED}
    assert scene.chain.hanging.is_set(), "an answer waited for the chain"


@pytest.mark.parametrize("switch", ["refuse", "wait"])
def test_storage_that_refuses_or_hangs_leaves_an_error(scene: Scene, switch: str) -> None:
    content = write_circuit(scene.folder)
    scene.server.switch = switch
    scene.watch.start()
    assert scene.server.not_served.wait(15)
    assert scene.watch.answer().error == NOTHING_PREPARED
    assert scene.chain.commits == []
    scene.server.switch = "ok"
    scene.server.released.set()
    scene.wait_for(lambda: scene.offers(content))


def test_what_is_offered_is_an_error_while_its_storage_refuses_and_is_uploaded_again_when_it_is_gone(
    scene: Scene,
) -> None:
    content = write_circuit(scene.folder)
    scene.watch.start()
    scene.wait_for(lambda: scene.offers(content))
    scene.server.switch = "refuse"
    scene.wait_for(lambda: scene.watch.answer().error == NO_URLS)
    scene.server.switch = "ok"
    scene.wait_for(lambda: scene.offers(content))
    scene.server.remove(f"{hashlib.sha256(content).hexdigest()}/model.compiled")
    scene.wait_for(lambda: len(scene.server.puts) == 4)
    scene.wait_for(lambda: scene.offers(content))


def test_credentials_may_come_late_and_be_replaced(scene: Scene) -> None:
    content, keys = write_circuit(scene.folder), scene.competition.credentials_file
    keys.unlink()
    scene.watch.start()
    scene.wait_for(lambda: "cannot read the storage's credentials" in (scene.watch.status().problem or ""))
    scene.server.write_credentials(keys, "an-old-secret")
    scene.wait_for(lambda: "SignatureDoesNotMatch" in (scene.watch.status().problem or ""))
    scene.server.write_credentials(keys)
    scene.wait_for(lambda: scene.offers(content))


@otherwise(rhythm=replace(QUICK, renewal=0.1))
def test_urls_are_renewed_before_they_expire_even_while_the_chain_hangs(scene: Scene) -> None:
    content = write_circuit(scene.folder)
    scene.watch.start()
    scene.wait_for(lambda: scene.offers(content))
    scene.chain.switch = "hang"
    assert scene.chain.hanging.wait(15)
    first = scene.watch.status().urls_until
    assert first
    scene.ahead = 3000
    scene.wait_for(lambda: (scene.watch.status().urls_until or 0) >= first + 3000)
    assert scene.chain.hanging.is_set()
    assert scene.offers(content)


@otherwise(rhythm=replace(QUICK, renewal=3600))
def test_an_expired_url_is_never_given(scene: Scene) -> None:
    content = write_circuit(scene.folder)
    scene.watch.start()
    scene.wait_for(lambda: scene.offers(content))
    scene.chain.switch = "hang"
    assert scene.chain.hanging.wait(15)  # so that nothing renews them
    scene.ahead = 3601
    assert scene.watch.answer().error == NO_URLS


def test_status_and_log_tell_all_but_secrets(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(OmronError, match="cannot read"):
        read_status(scene.competition)
    content = write_circuit(scene.folder, input_visibility="Public")
    scene.watch.start()
    scene.wait_for(lambda: scene.offers(content))
    scene.wait_for(lambda: scene.competition.status_file.exists() and not read_status(scene.competition).error)
    status, digest = read_status(scene.competition), hashlib.sha256(content).hexdigest()
    assert (status.prepared, status.committed, status.bytes) == (digest, digest, len(content))
    assert any("127.0.0.1" in one for one in status.warnings)
    assert any("input_visibility Public" in one for one in status.warnings)
    told = (
        to_text(status)
        + scene.competition.status_file.read_text()
        + "".join(record.getMessage() for record in caplog.records if record.name == "competition-test")
    )
    assert digest in told
    assert "X-Amz" not in told
    assert SECRET_KEY not in told + caplog.text
    left_behind = scene.competition.model_copy(update={"status_file": scene.folder.parent / "stale.json"})
    write_status(left_behind.status_file, replace(status, written=status.written - 3600))
    with pytest.raises(OmronError, match="no running miner updates it"):
        read_status(left_behind)
