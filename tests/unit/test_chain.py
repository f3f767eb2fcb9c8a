from __future__ import annotations

import inspect
import itertools
import logging
import math
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from chain_samples import MINER, OWN, VALIDATOR, FakeSubtensor, Lines
from omron_miner.chain.bittensor_chain import BittensorChain
from omron_miner.chain.chain import ChainAwayError, ChainError, LocalChain
from omron_miner.chain.open import open_chain
from omron_miner.chain.watch import ChainWatch, Rhythm
from omron_miner.constants import Axon, Constants, Network
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

NETWORK = Network(
    name="finney",
    netuid=2,
    metagraph_sync_seconds=0.05,
    copy_file=Path("/dev/null/no"),
)


OFTEN = Rhythm(first_pause=0.02, registration_check=0.05)


def chain_of(subtensor: FakeSubtensor, **settings: Any) -> BittensorChain:
    network = NETWORK.model_copy(update=settings)
    return BittensorChain(network, SimpleNamespace(ss58_address=OWN), lambda: subtensor)


def test_the_local_chain_knows_the_hotkeys_of_the_constants() -> None:
    chain = LocalChain((VALIDATOR,))
    known = chain.validator(VALIDATOR)
    assert known is not None
    assert known.permit
    assert known.stake > 1e18
    assert chain.validator(MINER) is None
    assert chain.is_registered()
    assert not chain.announce("192.0.2.1", 8091)


def test_the_constants_choose_the_chain() -> None:
    wallet = SimpleNamespace(hotkey=SimpleNamespace(ss58_address=OWN))
    assert isinstance(open_chain(Constants(), wallet), LocalChain)
    real = Constants(network=NETWORK, axon=Axon(external_ip="192.0.2.1"))
    assert isinstance(open_chain(real, wallet), BittensorChain)


def test_validators_come_from_the_metagraph() -> None:
    chain = chain_of(FakeSubtensor())
    assert chain.validator(VALIDATOR) is None, "nothing was read yet"
    chain.refresh()
    validator = chain.validator(VALIDATOR)
    assert validator is not None
    assert (validator.uid, validator.stake, validator.permit) == (1, 2048.5, True)
    assert chain.validator("5Unknown") is None


def test_a_failing_chain_keeps_the_last_reading_and_is_connected_again() -> None:
    subtensor = FakeSubtensor()
    chain = chain_of(subtensor)
    chain.refresh()
    subtensor.fails = ConnectionResetError("gone")
    with pytest.raises(ChainError, match="ConnectionResetError: gone"):
        chain.refresh()
    wait_until(lambda: subtensor.closed)
    assert chain.validator(VALIDATOR) is not None
    subtensor.fails = None
    chain.refresh()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"netuid": 3}, "it is about netuid 3, not 2"),
        ({"axons": [], "S": [], "validator_permit": []}, "it is empty"),
        ({"S": [1.0, 2048.5]}, "it has 3 hotkeys, 2 stakes and 3 permits"),
        ({"S": [1.0, math.nan, 3.0]}, "the stake of uid 1 is nan"),
        ({"S": [1.0, 2.0, -1.0]}, "the stake of uid 2 is -1.0"),
        ({"axons": [SimpleNamespace(hotkey=OWN, coldkey="", ip="", port=0)] * 3}, "the hotkey of uid 1 is"),
        ({"axons": [SimpleNamespace(hotkey=None)] * 3}, "the hotkey of uid 0 is None"),
        ({"S": None}, "TypeError"),
        ({"S": ["stake", 1, 2]}, "ValueError"),
    ],
)
def test_nonsense_is_not_believed_and_the_last_reading_stays(wrong: dict[str, Any], said: str) -> None:
    subtensor = FakeSubtensor()
    chain = chain_of(subtensor)
    chain.refresh()
    before, subtensor.wrong = chain.read_at(), wrong
    with pytest.raises(ChainAwayError, match=said):
        chain.refresh()
    validator = chain.validator(VALIDATOR)
    assert validator is not None
    assert validator.permit
    assert chain.read_at() == before


def test_a_chain_that_hangs_is_given_up_and_the_next_call_is_served() -> None:
    release, subtensor = threading.Event(), FakeSubtensor()
    ended = threading.Event()

    def hang(*_: Any, **__: Any) -> None:
        release.wait(60)
        ended.set()

    subtensor.is_hotkey_registered = hang  # type: ignore[assignment]
    subtensor.close = hang  # type: ignore[method-assign]
    chain = chain_of(subtensor, call_seconds=0.1)
    for _ in range(2):
        with pytest.raises(ChainAwayError, match=r"could not look up our registration on finney: no answer in 0\.1 s"):
            chain.is_registered()
    chain.refresh()
    assert not ended.is_set(), "a call that hangs was waited for"
    release.set()


def test_a_connection_that_never_comes_up_is_given_up() -> None:
    release = threading.Event()
    network = NETWORK.model_copy(update={"call_seconds": 0.1})
    chain = BittensorChain(network, SimpleNamespace(ss58_address=OWN), lambda: release.wait(10))
    with pytest.raises(ChainAwayError, match="no answer"):
        chain.refresh()
    release.set()


def test_our_address_is_announced_only_when_it_differs() -> None:
    subtensor = FakeSubtensor(address=("192.0.2.1", 8091))
    chain = chain_of(subtensor)
    chain.refresh()
    assert not chain.announce("192.0.2.1", 8091)
    assert subtensor.served == []
    assert chain.announce("192.0.2.1", 9000)
    [(netuid, axon)] = subtensor.served
    assert (netuid, axon.external_ip, axon.external_port) == (2, "192.0.2.1", 9000)
    assert axon.wallet.hotkey.ss58_address == OWN
    assert axon.wallet.coldkeypub.ss58_address == "5Cold"


def test_an_announcement_the_chain_refuses_is_an_error() -> None:
    chain = chain_of(FakeSubtensor(success=False))
    with pytest.raises(ChainError, match=r"refused to announce our address .*: too often"):
        chain.announce("192.0.2.1", 8091)


@pytest.mark.parametrize("chain", [LocalChain(()), chain_of(FakeSubtensor())], ids=["local", "bittensor"])
def test_a_text_committed_is_the_text_read(chain: Any) -> None:
    assert chain.commitment() is None
    chain.commit("ab" * 32)
    chain.commit("cd" * 32)
    assert chain.commitment() == "cd" * 32
    for text in ("", "a" * 129, "é"):
        with pytest.raises(ChainError, match="1 to 128 ASCII characters"):
            chain.commit(text)
    assert chain.commitment() == "cd" * 32


@pytest.mark.parametrize("found", [{"info": {"fields": ["ResetBondsFlag"]}}, {"info": {"fields": []}}, "gone", None])
def test_a_commitment_that_is_no_text_is_none(found: Any) -> None:
    assert chain_of(FakeSubtensor(committed=found)).commitment() is None


@pytest.mark.slow
def test_what_we_commit_with_is_what_the_sdk_asks_for() -> None:
    """The SDK's own functions around a fake chain: what it sends is one raw field, what it would read is our text."""
    from bittensor.core.chain_data.utils import decode_metadata
    from bittensor.core.subtensor import Subtensor

    sent: list[dict[str, Any]] = []

    class Substrate(FakeSubtensor):
        def compose_call(self, call_module: str, call_function: str, call_params: dict[str, Any]) -> Any:
            sent.append({"function": f"{call_module}.{call_function}", **call_params})
            return "call"

        def sign_and_send_extrinsic(self, call: Any, wallet: Any, sign_with: str, **_: Any) -> Any:
            assert getattr(wallet, sign_with).ss58_address == OWN
            return SimpleNamespace(success=True, message="", data=None)

        set_commitment: Any = Subtensor.set_commitment

    chain_of(Substrate()).commit("abc")
    field = {"Raw3": b"abc"}
    assert sent == [{"function": "Commitments.set_commitment", "netuid": 2, "info": {"fields": [[field]]}}]
    stored: Any = {"info": {"fields": [{"Raw3": "0x616263"}]}}
    assert chain_of(FakeSubtensor(committed=stored)).commitment() == decode_metadata(stored) == "abc"


@pytest.mark.slow
def test_the_sdk_has_the_functions_that_are_called() -> None:
    """Names and parameters only; no chain is at hand."""
    from bittensor.core.subtensor import Subtensor

    def takes(method: Any, *arguments: Any, **named: Any) -> None:
        inspect.signature(method).bind(None, *arguments, **named)

    takes(Subtensor.metagraph, 2, lite=True)
    takes(Subtensor.is_hotkey_registered, OWN, netuid=2)
    takes(Subtensor.serve_axon, 2, None)
    takes(Subtensor.get_commitment_metadata, 2, OWN)
    takes(Subtensor.set_commitment, None, 2, "text", wait_for_finalization=False)


def test_a_commitment_the_chain_refuses_is_an_error() -> None:
    with pytest.raises(ChainError, match="the chain refused to commit 'abc': too often"):
        chain_of(FakeSubtensor(success=False)).commit("abc")


@pytest.mark.slow
def test_what_we_announce_with_is_what_the_sdk_asks_for() -> None:
    """The SDK's own function against our stand-ins for axon and wallet; only the chain is a fake."""
    from bittensor.core.extrinsics.serving import serve_axon_extrinsic

    sent: list[dict[str, Any]] = []

    class Substrate(FakeSubtensor):
        network = "finney"

        def get_neuron_for_pubkey_and_subnet(self, hotkey: str, netuid: int) -> Any:
            return SimpleNamespace(is_null=True)

        def compose_call(self, call_module: str, call_function: str, call_params: dict[str, Any]) -> Any:
            sent.append({"function": call_function, **call_params})
            return "call"

        def sign_and_send_extrinsic(self, call: Any, wallet: Any, sign_with: str, **_: Any) -> Any:
            assert getattr(wallet, sign_with).ss58_address == OWN
            return SimpleNamespace(success=True, message="", data=None)

        def serve_axon(self, netuid: int, axon: Any) -> Any:
            return serve_axon_extrinsic(self, netuid, axon, raise_error=True)

    chain = chain_of(Substrate())
    chain.refresh()
    assert chain.announce("192.0.2.1", 8091)
    [call] = sent
    assert (call["function"], call["netuid"], call["port"], call["protocol"]) == ("serve_axon", 2, 8091, 4)
    assert call["ip"] == (192 << 24) + (2 << 8) + 1


@pytest.fixture
def lines() -> Lines:
    return Lines()


def watch(
    subtensor: FakeSubtensor,
    lines: Lines,
    until: Callable[[], bool],
    begun: Callable[[ChainWatch], None] = lambda watcher: watcher.start(),
    rhythm: Rhythm = OFTEN,
    **settings: Any,
) -> BittensorChain:
    """Runs a watch until something is so."""
    log = logging.Logger("test")
    log.addHandler(lines)
    chain = chain_of(subtensor, **settings)
    watcher = ChainWatch(chain, NETWORK.model_copy(update=settings), ("192.0.2.1", 8091), log, rhythm)
    begun(watcher)
    try:
        wait_until(until)
    finally:
        watcher.stop()
    return chain


def test_the_watch_announces_and_refreshes(lines: Lines) -> None:
    subtensor = FakeSubtensor()
    calls = threading.Event()
    original = subtensor.metagraph

    def metagraph(netuid: int, lite: bool) -> Any:
        calls.set()
        return original(netuid, lite)

    subtensor.metagraph = metagraph  # type: ignore[method-assign]
    chain = watch(subtensor, lines, lambda: calls.is_set() and bool(subtensor.served))
    assert chain.validator(VALIDATOR) is not None
    assert any("192.0.2.1:8091" in line for line in lines.lines)


def test_a_watch_that_never_started_can_be_stopped(lines: Lines) -> None:
    log = logging.Logger("test")
    log.addHandler(lines)
    ChainWatch(chain_of(FakeSubtensor()), NETWORK, ("2001:db8::1", 8091), log).stop()


def test_an_ipv6_address_is_announced_and_logged_in_brackets(lines: Lines) -> None:
    subtensor, log = FakeSubtensor(), logging.Logger("test")
    log.addHandler(lines)
    watcher = ChainWatch(chain_of(subtensor), NETWORK, ("2001:db8::1", 8091), log)
    watcher.start()
    wait_until(lambda: any("validators: [2001:db8::1]:8091" in line for line in lines.lines))
    watcher.stop()
    assert subtensor.served


def test_the_watch_survives_an_unreachable_chain(lines: Lines) -> None:
    subtensor = FakeSubtensor(fails=TimeoutError("away"))
    watch(subtensor, lines, lambda: len(lines.lines) >= 3)
    assert all("Chain unreachable" in line for line in lines.lines)
    subtensor.fails = None
    watch(subtensor, lines, lambda: bool(subtensor.served))


def test_each_try_waits_longer_than_the_one_before() -> None:
    times: list[float] = []

    def metagraph(netuid: int, lite: bool) -> Any:
        times.append(time.monotonic())
        raise TimeoutError("away")

    subtensor = FakeSubtensor()
    subtensor.metagraph = metagraph  # type: ignore[method-assign]
    rhythm = Rhythm(first_pause=0.01)
    watch(subtensor, Lines(), lambda: len(times) >= 5, lambda watcher: watcher.start(stale=True), rhythm)
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(wait >= 0.01 * 2**power for power, wait in enumerate(waits))


def test_a_chain_that_is_reachable_again_is_logged_and_read(lines: Lines) -> None:
    subtensor = FakeSubtensor(fails=TimeoutError("away"))

    def come_back() -> bool:
        if lines.lines:
            subtensor.fails = None
        return "Chain reachable again" in lines.lines

    chain = watch(subtensor, lines, come_back, lambda watcher: watcher.start(stale=True), metagraph_sync_seconds=60.0)
    assert chain.validator(VALIDATOR) is not None


def test_a_refused_address_does_not_hold_up_the_rest(lines: Lines) -> None:
    subtensor, rhythm = FakeSubtensor(success=False, registered=False), Rhythm(registration_check=0.05)
    said = "no longer registered"
    watch(
        subtensor, lines, lambda: any(said in line for line in lines.lines), rhythm=rhythm, metagraph_sync_seconds=60.0
    )
    assert sum("refused to announce" in line for line in lines.lines) == 1, "it was tried again too soon"


@pytest.mark.parametrize("refused", [0, 1, 1000])
def test_refusals_have_the_list_read_early_but_not_often(refused: int) -> None:
    subtensor, reads, checks, early = FakeSubtensor(address=("192.0.2.1", 8091)), [0], [0], 0.1
    read, check = subtensor.metagraph, subtensor.is_hotkey_registered

    def metagraph(netuid: int, lite: bool) -> Any:
        reads[0] += 1
        return read(netuid, lite)

    def is_hotkey_registered(hotkey: str, netuid: int) -> bool:
        checks[0] += 1
        return check(hotkey, netuid)

    subtensor.metagraph = metagraph  # type: ignore[method-assign]
    subtensor.is_hotkey_registered = is_hotkey_registered  # type: ignore[method-assign]
    began: list[float] = []

    def begun(watcher: ChainWatch) -> None:
        began.append(time.monotonic())
        watcher.start()

        def enough() -> bool:
            for _ in range(refused):
                watcher.want_refresh()
            return reads[0] >= 3 if refused else checks[0] >= 10  # thrice as long as an early reading takes

        wait_until(enough)

    settings = {"metagraph_sync_seconds": 60.0, "early_sync_seconds": early}
    watch(subtensor, Lines(), lambda: True, begun, rhythm=Rhythm(registration_check=early / 3), **settings)
    assert reads[0] * early <= time.monotonic() - began[0], "more often than the setting says"
    assert (reads[0] > 0) is (refused > 0)


def test_a_watch_survives_an_unexpected_error(lines: Lines) -> None:
    subtensor = FakeSubtensor()
    faults = iter([ZeroDivisionError()])

    class Chain(BittensorChain):
        def refresh(self) -> None:
            for fault in faults:
                raise fault
            super().refresh()

    log = logging.Logger("test")
    log.addHandler(lines)
    chain = Chain(NETWORK, SimpleNamespace(ss58_address=OWN), lambda: subtensor)
    watcher = ChainWatch(chain, NETWORK, ("192.0.2.1", 8091), log, OFTEN)
    watcher.start(stale=True)
    wait_until(lambda: subtensor.served)
    watcher.stop()
    assert any("failed unexpectedly" in line for line in lines.lines)


def test_a_lost_registration_is_logged(lines: Lines) -> None:
    subtensor = FakeSubtensor(address=("192.0.2.1", 8091), registered=False)
    watch(subtensor, lines, lambda: any("no longer registered" in line for line in lines.lines))


def test_a_slow_chain_does_not_block_authorisation(lines: Lines) -> None:
    subtensor = FakeSubtensor()
    chain = chain_of(subtensor)
    chain.refresh()
    asked, release = threading.Event(), threading.Event()

    def is_hotkey_registered(hotkey: str, netuid: int) -> bool:
        asked.set()
        return release.wait(60)

    subtensor.is_hotkey_registered = is_hotkey_registered  # type: ignore[method-assign]
    asking = threading.Thread(target=chain.is_registered)
    asking.start()
    assert asked.wait(10)
    assert chain.validator(VALIDATOR) is not None
    assert asking.is_alive(), "who may ask was looked up only after the chain had answered"
    release.set()
    asking.join()
