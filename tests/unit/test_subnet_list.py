"""The list of validators that is kept for a start without the chain."""

from __future__ import annotations

import json
import os
import stat
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from chain_samples import MINER, OWN, VALIDATOR, FakeSubtensor, Lines
from omron_miner.chain.bittensor_chain import BittensorChain
from omron_miner.chain.chain import ChainError
from omron_miner.chain.subnet_list import RejectedMetagraph, load
from omron_miner.constants import Constants, Network
from omron_miner.errors import OmronError
from omron_miner.serving.start import read_chain

if TYPE_CHECKING:
    from pathlib import Path

import logging


@pytest.fixture
def network(tmp_path: Path) -> Network:
    return Network(name="finney", copy_file=tmp_path / "validators.json")


def chain_on(network: Network, subtensor: FakeSubtensor, own: str = OWN) -> BittensorChain:
    return BittensorChain(network, SimpleNamespace(ss58_address=own), lambda: subtensor)


def away() -> FakeSubtensor:
    return FakeSubtensor(fails=ConnectionRefusedError("nobody there"))


def start(network: Network, subtensor: FakeSubtensor, lines: Lines | None = None) -> tuple[bool, BittensorChain]:
    log = logging.Logger("test")
    log.addHandler(lines or Lines())
    chain = chain_on(network, subtensor)
    constants = Constants.model_construct(network=network)
    return read_chain(chain, constants, OWN, log), chain


def test_a_start_without_the_chain_uses_the_last_list_and_reports_it(network: Network) -> None:
    fresh, first = start(network, FakeSubtensor())
    assert fresh
    lines = Lines()
    fresh, second = start(network, away(), lines)
    assert not fresh
    assert second.validator(VALIDATOR) == first.validator(VALIDATOR)
    assert second.validator(MINER) == first.validator(MINER)
    [line] = lines.lines
    read = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(first.read_at()))
    assert line.startswith(f"The chain is away; using the list of validators of {read}: could not look up our")


def test_the_address_is_not_announced_again_after_such_a_start(network: Network) -> None:
    start(network, FakeSubtensor(address=("192.0.2.1", 8091)))
    _, chain = start(network, away())
    assert not chain.announce("192.0.2.1", 8091)
    with pytest.raises(ChainError, match="nobody there"):
        chain.announce("192.0.2.1", 9000)


def test_only_owner_and_group_may_read_it(network: Network) -> None:
    old = os.umask(0)
    try:
        start(network, FakeSubtensor())
    finally:
        os.umask(old)
    assert stat.S_IMODE(network.copy_file.stat().st_mode) == 0o640


def test_without_a_list_the_miner_does_not_start_and_says_both_reasons(network: Network) -> None:
    with pytest.raises(ChainError, match=r"nobody there, and no list of validators .* there is no .*validators.json"):
        start(network, away())


def test_who_is_not_registered_does_not_start_with_an_old_list(network: Network) -> None:
    start(network, FakeSubtensor())
    with pytest.raises(OmronError, match="is not registered on netuid 2 of finney") as caught:
        start(network, FakeSubtensor(registered=False))
    assert caught.value.exit_code != 0


def test_a_list_that_cannot_be_kept_does_not_stop_the_miner(
    network: Network, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = network.model_copy(update={"copy_file": tmp_path / "missing" / "validators.json"})
    with caplog.at_level(logging.WARNING):
        assert start(nowhere, FakeSubtensor())[0]
    assert "Cannot keep the list of validators" in caplog.text


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


DAY = 86_400


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"netuid": 118}, "is of netuid 118 of finney"),
        ({"network": "test"}, "is of netuid 2 of test"),
        ({"version": 2}, "is of netuid 2 of finney"),
        ({"hotkey": VALIDATOR}, "of another hotkey"),
        ({"validators": [[VALIDATOR, 1, 2048.5, True]]}, "of another hotkey"),
        ({"time": time.time() - 8 * DAY}, r"8\.0 days old, more than 7"),
        ({"time": time.time() + 2 * DAY}, "of the future"),
        ({"time": float("nan")}, "is broken"),
        ({"validators": [[OWN, 0, float("nan"), True]]}, "is broken"),
        ({"validators": [[OWN, 0, 1.0]]}, "is broken"),
        ({"validators": None}, "is broken"),
        ({"more": 1}, "is broken"),
    ],
)
def test_a_list_of_something_else_is_not_used(network: Network, changed: dict[str, Any], said: str) -> None:
    start(network, FakeSubtensor())
    change(network.copy_file, **changed)
    with pytest.raises(RejectedMetagraph, match=said):
        load(network, OWN)


def test_half_a_list_and_no_text_are_not_used(network: Network) -> None:
    start(network, FakeSubtensor())
    whole = network.copy_file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"\xff\xfe", b"[" * 100_000):
        network.copy_file.write_bytes(content)
        with pytest.raises(RejectedMetagraph):
            load(network, OWN)


def test_a_list_almost_too_old_is_used(network: Network) -> None:
    start(network, FakeSubtensor())
    change(network.copy_file, time=time.time() - 6.9 * DAY)
    assert VALIDATOR in load(network, OWN).validators
