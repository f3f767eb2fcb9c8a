"""The one seam to the chain: who may ask, whether we are registered, telling validators where we are.

Only this module knows bittensor's Subtensor. Two chains stand behind the same small face: `LocalChain`, a fixed list
from the constants, and `BittensorChain`. What may be slow is called at start, and then by `ChainWatch` in a thread of
its own or by whoever else has one; what the axon asks on every request (`validator`) only looks into the last reading,
so that the miner goes on proving while the chain is away.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from omron_miner.errors import OmronError

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping

    from omron_miner.constants import Constants, Network

_FIRST_PAUSE_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 300.0
_LONGEST_COMMITMENT = 128
"""Bytes of text the chain takes: its types end at Raw128 (bittensor.core.extrinsics.serving)."""


class ChainError(OmronError):
    """The chain could not be reached, or refused."""


@dataclass(frozen=True)
class Validator:
    """A hotkey on our subnet, as of the last reading. `stake` is the subnet's total stake of it, in its token."""

    hotkey: str
    uid: int
    stake: float
    permit: bool


class Chain(Protocol):
    """What the miner needs of a chain."""

    def refresh(self) -> None:
        """Reads the list of validators. May be slow. Raises ChainError; the last reading then stays."""

    def is_registered(self) -> bool:
        """Whether our hotkey is registered on the subnet now. May be slow. Raises ChainError."""

    def announce(self, ip: str, port: int) -> bool:
        """Tells validators our address; False if they know it already. May be slow. Raises ChainError."""

    def commitment(self) -> str | None:
        """The text our hotkey has committed on the subnet; None when there is none. May be slow. Raises ChainError."""

    def commit(self, text: str) -> None:
        """Commits `text` (at most 128 bytes of UTF-8) in place of what there was; any thread, may take a block or two.

        Raises ChainError when the chain is away or refuses it.
        """

    def validator(self, hotkey: str) -> Validator | None:
        """What the last reading says of `hotkey`; None when it is not on the subnet. Never blocks."""

    def close(self) -> None:
        """Ends the connection."""


def open_chain(constants: Constants, wallet: Any) -> Chain:
    """The chain `constants.network` names. Connects to nothing yet. `wallet` is a bittensor wallet with its hotkey."""
    if constants.network.name == "local":
        return LocalChain(constants.network.local_validator_hotkeys)
    return BittensorChain(constants.network, wallet.hotkey)


class LocalChain:
    """No chain: the hotkeys of the constants may ask, whatever the minimum stake."""

    def __init__(self, hotkeys: tuple[str, ...]) -> None:
        self._validators = {key: Validator(key, uid, math.inf, permit=True) for uid, key in enumerate(hotkeys)}
        self._committed: str | None = None

    def refresh(self) -> None:
        """Nothing to read."""

    def is_registered(self) -> bool:
        """Nowhere to be registered: as good as."""
        return True

    def announce(self, ip: str, port: int) -> bool:
        """Nobody to tell."""
        return False

    def commitment(self) -> str | None:
        """What was committed since the start."""
        return self._committed

    def commit(self, text: str) -> None:
        """Kept in memory. Raises ChainError where a real chain would for the text alone."""
        _check_commitment(text)
        self._committed = text

    def validator(self, hotkey: str) -> Validator | None:
        """See `Chain`."""
        return self._validators.get(hotkey)

    def close(self) -> None:
        """Nothing to end."""


@dataclass(frozen=True)
class _Reading:
    """One look at the metagraph: everybody on the subnet, and of ourselves the coldkey and the announced address."""

    validators: Mapping[str, Validator]
    own_coldkey: str = ""
    own_address: tuple[str, int] | None = None


class BittensorChain:
    """The subnet on a real chain.

    Any thread may call; the connection is used by one at a time, but for `validator`, which needs none. After an error
    the connection is thrown away and the next call makes a new one. `connect` makes a Subtensor; tests give their own.
    """

    def __init__(self, network: Network, hotkey: Any, connect: Callable[[], Any] | None = None) -> None:
        self._network = network
        self._hotkey = hotkey
        self._connect = connect or self._subtensor
        self._connection: Any = None
        self._one_at_a_time = threading.RLock()
        self._reading = _Reading({})

    def refresh(self) -> None:
        """See `Chain`. One metagraph call, some seconds on a public node."""
        metagraph = self._ask("read the metagraph", lambda chain: chain.metagraph(self._network.netuid, lite=True))
        own = self._hotkey.ss58_address
        validators, coldkey, address = {}, "", None
        for uid, axon in enumerate(metagraph.axons):
            stake, permit = float(metagraph.S[uid]), bool(metagraph.validator_permit[uid])
            validators[axon.hotkey] = Validator(axon.hotkey, uid, stake, permit)
            if axon.hotkey == own:
                coldkey, address = axon.coldkey, (str(axon.ip), int(axon.port))
        self._reading = _Reading(validators, coldkey, address)

    def is_registered(self) -> bool:
        """See `Chain`."""
        netuid, own = self._network.netuid, self._hotkey.ss58_address
        return bool(self._ask("look up our registration", lambda chain: chain.is_hotkey_registered(own, netuid=netuid)))

    def announce(self, ip: str, port: int) -> bool:
        """See `Chain`. Compares with the last `refresh`; an announcement is an extrinsic and takes a block or two."""
        if self._reading.own_address == (ip, port):
            return False
        endpoint = _Endpoint(ip, port, self._wallet())
        served = self._ask("announce our address", lambda chain: chain.serve_axon(self._network.netuid, endpoint))
        if not served.success:
            raise ChainError(f"the chain refused our address {ip}:{port}: {served.message}", "it is tried again later")
        return True

    def commitment(self) -> str | None:
        """See `Chain`. One storage query."""
        netuid, own = self._network.netuid, self._hotkey.ss58_address
        found = self._ask("read our commitment", lambda chain: chain.get_commitment_metadata(netuid, own))
        return _text_of(found)

    def commit(self, text: str) -> None:
        """See `Chain`. Returns when the extrinsic is in a block; that block may still be dropped."""
        _check_commitment(text)
        netuid, wallet = self._network.netuid, self._wallet()
        made = self._ask(
            "commit a text", lambda chain: chain.set_commitment(wallet, netuid, text, wait_for_finalization=False)
        )
        if not made.success:
            raise ChainError(f"the chain refused the commitment {text!r}: {made.message}", "it is tried again later")

    def validator(self, hotkey: str) -> Validator | None:
        """See `Chain`."""
        return self._reading.validators.get(hotkey)

    def close(self) -> None:
        """See `Chain`."""
        with self._one_at_a_time:
            connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):  # it may be broken, which is often why it is closed
                connection.close()

    def _ask(self, what: str, question: Callable[[Any], Any]) -> Any:
        with self._one_at_a_time:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                return question(self._connection)
            except Exception as error:  # the SDK lets sockets', JSON's and its own errors through
                self.close()
                name = self._network.chain_endpoint or self._network.name
                raise ChainError(f"could not {what} on {name}: {type(error).__name__}: {error}") from error

    def _wallet(self) -> _HotkeyOnly:
        return _HotkeyOnly(self._hotkey, _Address(self._reading.own_coldkey))

    def _subtensor(self) -> Any:
        import bittensor

        return bittensor.Subtensor(network=self._network.chain_endpoint or self._network.name)


def _check_commitment(text: str) -> None:
    size = len(text.encode())
    if not text or size > _LONGEST_COMMITMENT or not text.isascii():
        # The SDK counts characters where the chain counts bytes, so only ASCII has the length it names.
        raise ChainError(f"a commitment is 1 to {_LONGEST_COMMITMENT} ASCII characters, not {size} bytes")


def _text_of(metadata: Any) -> str | None:
    """The text in what `get_commitment_metadata` found; None for no commitment and for one that is no text.

    The shape is what `decode_metadata` of the SDK's chain_data takes apart: the first field, as {type: hex}.
    """
    try:
        [value] = metadata["info"]["fields"][0].values()
        return bytes.fromhex(value.removeprefix("0x")).decode() or None
    except (LookupError, ValueError, TypeError, AttributeError):
        return None


@dataclass(frozen=True)
class _Address:
    ss58_address: str


@dataclass(frozen=True)
class _HotkeyOnly:
    """What the SDK asks of a wallet when it serves an axon; the coldkey's address comes from the chain itself."""

    hotkey: Any
    coldkeypub: _Address

    def unlock_hotkey(self) -> Any:
        return self.hotkey


@dataclass(frozen=True)
class _Endpoint:
    """What the SDK asks of an axon when it serves it."""

    external_ip: str
    external_port: int
    wallet: _HotkeyOnly


class ChainWatch:
    """Keeps a chain's reading fresh in a thread of its own, and says in the log when something is amiss.

    Failures are tried again after 5 s, then twice as long each time, up to 5 min. A lost registration is logged at
    every check; the miner goes on, because it may come back and stopping would gain nothing.
    """

    def __init__(self, chain: Chain, network: Network, address: tuple[str, int], log: logging.Logger) -> None:
        self._chain = chain
        self._network = network
        self._address = address
        self._log = log
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chain-watch", daemon=True)

    def start(self) -> None:
        """Call after a `refresh` and `is_registered` of your own: the next ones are due an interval from now.

        The address is announced at once, in the watch's thread.
        """
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch. A call to the chain that hangs is left to die with the process."""
        self._stop.set()
        self._thread.join(0.2)

    def _run(self) -> None:
        now, pause, announced = time.monotonic(), _FIRST_PAUSE_SECONDS, False
        next_sync = now + self._network.metagraph_sync_seconds
        next_check = now + self._network.registration_check_seconds
        while True:
            try:
                now = time.monotonic()
                if now >= next_sync:
                    self._chain.refresh()
                    next_sync, announced = now + self._network.metagraph_sync_seconds, False
                if not announced:
                    self._announce()
                    announced = True
                if now >= next_check:
                    self._check_registration()
                    next_check = now + self._network.registration_check_seconds
                pause = _FIRST_PAUSE_SECONDS
                wait = min(next_sync, next_check) - time.monotonic()
            except ChainError as error:
                self._log.warning("%s; next try in %.0f s", error, pause)
                wait, pause = pause, min(2 * pause, _LONGEST_PAUSE_SECONDS)
            if self._stop.wait(max(0.0, wait)):
                return

    def _announce(self) -> None:
        if self._chain.announce(*self._address):
            self._log.info("Validators are told to call %s:%d", *self._address)

    def _check_registration(self) -> None:
        if not self._chain.is_registered():
            self._log.error("The hotkey is no longer registered on netuid %d: register it again", self._network.netuid)
