from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from omron_miner.chain import BittensorChain, ChainError, ChainWatch, LocalChain, open_chain
from omron_miner.constants import Axon, Constants, Network

if TYPE_CHECKING:
    from collections.abc import Callable

OWN, VALIDATOR, MINER = (f"5{letter * 47}" for letter in "ABC")


@dataclass
class FakeSubtensor:
    """What we use of bittensor 10.5's Subtensor, with a subnet of three."""

    address: tuple[str, int] = ("192.0.2.7", 0)
    registered: bool = True
    success: bool = True
    fails: Exception | None = None
    served: list[Any] = field(default_factory=list)
    committed: Any = ""
    closed: bool = False

    def metagraph(self, netuid: int, lite: bool) -> Any:
        assert (netuid, lite) == (2, True)
        self._perhaps_fail()
        axons = [
            SimpleNamespace(hotkey=OWN, coldkey="5Cold", ip=self.address[0], port=self.address[1]),
            SimpleNamespace(hotkey=VALIDATOR, coldkey="5Other", ip="192.0.2.9", port=9),
            SimpleNamespace(hotkey=MINER, coldkey="5Other", ip="192.0.2.8", port=8),
        ]
        return SimpleNamespace(axons=axons, S=[1.0, 2048.5, 3.0], validator_permit=[False, True, False])

    def is_hotkey_registered(self, hotkey: str, netuid: int) -> bool:
        assert (hotkey, netuid) == (OWN, 2)
        self._perhaps_fail()
        return self.registered

    def serve_axon(self, netuid: int, axon: Any) -> Any:
        self._perhaps_fail()
        self.served.append((netuid, axon))
        return SimpleNamespace(success=self.success, message="no")

    def get_commitment_metadata(self, netuid: int, hotkey_ss58: str) -> Any:
        assert (netuid, hotkey_ss58) == (2, OWN)
        self._perhaps_fail()
        return self.committed

    def set_commitment(self, wallet: Any, netuid: int, data: str, *, wait_for_finalization: bool) -> Any:
        assert (wallet.hotkey.ss58_address, netuid, wait_for_finalization) == (OWN, 2, False)
        self._perhaps_fail()
        if self.success:
            self.committed = {"info": {"fields": [{f"Raw{len(data)}": f"0x{data.encode().hex()}"}]}}
        return SimpleNamespace(success=self.success, message="too often")

    def close(self) -> None:
        self.closed = True

    def _perhaps_fail(self) -> None:
        if self.fails:
            raise self.fails


NETWORK = Network(name="finney", netuid=2, metagraph_sync_seconds=0.05, registration_check_seconds=0.05)


def chain_of(subtensor: FakeSubtensor) -> BittensorChain:
    return BittensorChain(NETWORK, SimpleNamespace(ss58_address=OWN), lambda: subtensor)


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


def test_a_failing_chain_keeps_the_last_reading_and_is_connected_anew() -> None:
    subtensor = FakeSubtensor()
    chain = chain_of(subtensor)
    chain.refresh()
    subtensor.fails = ConnectionResetError("gone")
    with pytest.raises(ChainError, match="ConnectionResetError: gone"):
        chain.refresh()
    assert subtensor.closed
    assert chain.validator(VALIDATOR) is not None
    subtensor.fails = None
    chain.refresh()


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
    with pytest.raises(ChainError, match="refused our address"):
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


def test_a_commitment_the_chain_refuses_is_an_error() -> None:
    with pytest.raises(ChainError, match="refused the commitment 'abc': too often"):
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


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def lines() -> Lines:
    return Lines()


def watch(subtensor: FakeSubtensor, lines: Lines, until: Callable[[], bool]) -> BittensorChain:
    """Runs a watch until something is so."""
    log = logging.Logger("test")
    log.addHandler(lines)
    chain = chain_of(subtensor)
    watcher = ChainWatch(chain, NETWORK, ("192.0.2.1", 8091), log)
    watcher.start()
    end = time.monotonic() + 5
    while not until():
        assert time.monotonic() < end, lines.lines
        time.sleep(0.005)
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


def test_the_watch_survives_a_chain_that_is_away(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omron_miner.chain._FIRST_PAUSE_SECONDS", 0.02)
    subtensor = FakeSubtensor(fails=TimeoutError("away"))
    watch(subtensor, lines, lambda: len(lines.lines) >= 3)
    pauses = [float(line.split()[-2]) for line in lines.lines if "next try" in line]
    assert len(pauses) >= 3
    subtensor.fails = None
    watch(subtensor, lines, lambda: bool(subtensor.served))


def test_a_lost_registration_is_said(lines: Lines) -> None:
    subtensor = FakeSubtensor(address=("192.0.2.1", 8091), registered=False)
    watch(subtensor, lines, lambda: any("no longer registered" in line for line in lines.lines))


def test_a_slow_chain_does_not_hold_up_who_may_ask(lines: Lines) -> None:
    subtensor = FakeSubtensor()
    chain = chain_of(subtensor)
    chain.refresh()
    release = threading.Event()
    subtensor.is_hotkey_registered = lambda *_, **__: release.wait(5)  # type: ignore[method-assign]
    asking = threading.Thread(target=chain.is_registered)
    asking.start()
    began = time.monotonic()
    assert chain.validator(VALIDATOR) is not None
    assert time.monotonic() - began < 0.05
    release.set()
    asking.join()
