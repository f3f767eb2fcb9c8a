"""The subnet on a real chain, through bittensor's Subtensor, which only this module uses.

The SDK waits minutes for a node that accepts and never answers, so every call has a time limit: it runs in a thread
that is abandoned when the limit is exceeded, and the connection is discarded.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from omron_miner.addresses import host_and_port
from omron_miner.chain import subnet_list
from omron_miner.chain.chain import ChainAwayError, ChainError, check_commitment
from omron_miner.chain.subnet_list import RejectedMetagraph, SubnetList, Validator
from omron_miner.errors import OmronError
from omron_miner.events import LOGGER_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    from omron_miner.constants import Network

_T = TypeVar("_T")
_EXTRINSIC_FACTOR = 4.0
"""An extrinsic waits for blocks, one every 12 s: its limit is this many times that of a query."""


class BittensorChain:
    """The subnet on a real chain.

    Any thread may call; one thread at a time uses the connection; `validator` and `read_at` need none.
    After an error the connection is discarded and the next call opens a new one. `connect` makes a Subtensor; tests
    pass their own.
    """

    def __init__(self, network: Network, hotkey: Any, connect: Callable[[], Any] | None = None) -> None:
        self._network = network
        self._hotkey = hotkey
        self._connect = connect or self._subtensor
        self._connection: Any = None
        self._one_at_a_time = threading.RLock()
        self._list = SubnetList()

    def refresh(self) -> None:
        """See `Chain`. One metagraph call, some seconds on a public node. Keeps a copy for the next start."""
        netuid, own = self._network.netuid, self._hotkey.ss58_address

        def read(chain: Any) -> SubnetList:
            return subnet_list.from_metagraph(chain.metagraph(netuid, lite=True), netuid, own)

        self._list = found = self._ask("read the list of validators", read)
        if own not in found.validators:
            return  # an unregistered hotkey cannot start from a copy
        try:
            subnet_list.save(found, self._network, own)
        except OSError as error:
            logging.getLogger(LOGGER_NAME).warning(
                "Cannot save the validator list to %s for a start without the chain: %s",
                self._network.copy_file,
                error,
            )

    def use_copy(self) -> None:
        """See `Chain`. Reads `network.copy_file`."""
        try:
            self._list = subnet_list.load(self._network, self._hotkey.ss58_address)
        except RejectedMetagraph as error:
            raise ChainError(f"no saved validator list: {error}", "start again when the chain is reachable") from None

    def read_at(self) -> float:
        """See `Chain`."""
        return self._list.time

    def is_registered(self) -> bool:
        """See `Chain`. One storage query."""
        netuid, own = self._network.netuid, self._hotkey.ss58_address
        return bool(self._ask("look up our registration", lambda chain: chain.is_hotkey_registered(own, netuid=netuid)))

    def announce(self, ip: str, port: int) -> bool:
        """See `Chain`. Compares with the last `refresh`; an announcement is an extrinsic and takes a block or two."""
        if self._list.own_address == (ip, port):
            return False
        endpoint, netuid = _Endpoint(ip, port, self._wallet()), self._network.netuid
        self._send(f"announce our address {host_and_port(ip, port)}", lambda chain: chain.serve_axon(netuid, endpoint))
        return True

    def commitment(self) -> str | None:
        """See `Chain`. One storage query."""
        netuid, own = self._network.netuid, self._hotkey.ss58_address
        found = self._ask("read our commitment", lambda chain: chain.get_commitment_metadata(netuid, own))
        return _text_of(found)

    def commit(self, text: str) -> None:
        """See `Chain`. Returns when the extrinsic is in a block; that block may still be reverted."""
        check_commitment(text)
        netuid, wallet = self._network.netuid, self._wallet()
        self._send(
            f"commit {text!r}", lambda chain: chain.set_commitment(wallet, netuid, text, wait_for_finalization=False)
        )

    def validator(self, hotkey: str) -> Validator | None:
        """See `Chain`."""
        return self._list.validators.get(hotkey)

    def close(self) -> None:
        """See `Chain`. A connection in use is closed as well, and the call that uses it fails."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # Closing sends a close frame and waits for the reply, which a hung node never sends.
            threading.Thread(target=_close, args=(connection,), name="chain-close", daemon=True).start()

    def _send(self, what: str, extrinsic: Callable[[Any], Any]) -> None:
        made = self._ask(what, extrinsic, _EXTRINSIC_FACTOR)
        if not made.success:
            raise ChainError(f"the chain refused to {what}: {made.message}")

    def _ask(self, what: str, question: Callable[[Any], _T], factor: float = 1.0) -> _T:
        limit = self._network.call_seconds * factor
        with self._one_at_a_time:
            try:
                until = time.monotonic() + limit
                if self._connection is None:
                    self._connection = _within(limit, self._connect)
                connection = self._connection
                return _within(until - time.monotonic(), lambda: question(connection))
            except Exception as error:  # the SDK raises socket, JSON and its own errors
                self.close()
                name = self._network.chain_endpoint or self._network.name
                why = f"no answer in {limit:g} s" if isinstance(error, _NoAnswer) else _words(error)
                raise ChainAwayError(f"could not {what} on {name}: {why}") from error

    def _wallet(self) -> _HotkeyOnly:
        return _HotkeyOnly(self._hotkey, _Address(self._list.own_coldkey))

    def _subtensor(self) -> Any:
        from async_substrate_interface.sync_substrate import SubstrateInterface

        from omron_miner.chain.sdk import bittensor

        SubstrateInterface.__del__ = _close_aside  # type: ignore[method-assign]
        return bittensor.Subtensor(network=self._network.chain_endpoint or self._network.name)


def look(network: Network, hotkey: str, connect: Callable[[], Any] | None = None) -> SubnetList:
    """The current list of the subnet, with `hotkey` (SS58) as ours. Saves nothing. Raises ChainError."""
    chain, netuid = BittensorChain(network, _Address(hotkey), connect), network.netuid
    try:
        return chain._ask(
            "read the list of validators",
            lambda asked: subnet_list.from_metagraph(asked.metagraph(netuid, lite=True), netuid, hotkey),
        )
    finally:
        chain.close()


class _NoAnswer(Exception):
    """The time limit was exceeded."""


def _within(seconds: float, work: Callable[[], _T]) -> _T:
    """What `work`, run in another thread, returns or raises. Raises _NoAnswer when it takes longer."""
    done: Future[_T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # of any kind: the waiting thread raises it
            done.set_exception(error)

    threading.Thread(target=run, name="chain-call", daemon=True).start()
    try:
        return done.result(max(0.0, seconds))
    except FutureTimeoutError:
        if done.done():  # raised by `work`; in some Pythons it is the same class
            raise
        raise _NoAnswer from None


def _words(error: Exception) -> str:
    """One line of an error of any kind; some of the SDK's contain whole responses."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, (RejectedMetagraph, OmronError)) else f"{type(error).__name__}: {text}"


def _close(connection: Any) -> None:
    with suppress(Exception):  # a broken connection is often the reason to close it
        connection.close()


def _close_aside(substrate: Any) -> None:
    """Replaces the SDK's `__del__`, which waits for the node, and at exit for a thread that no longer exists."""
    socket = getattr(substrate, "ws", None)
    if socket is not None and not sys.is_finalizing():
        threading.Thread(target=_close, args=(socket,), name="chain-close", daemon=True).start()


def _text_of(metadata: Any) -> str | None:
    """The text in what `get_commitment_metadata` found; None without a commitment, or when it is not text.

    The shape is the one that `decode_metadata` of the SDK's chain_data parses: the first field, as {type: hex}.
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
    """The part of a wallet that the SDK reads to serve an axon; the coldkey's address comes from the chain."""

    hotkey: Any
    coldkeypub: _Address

    def unlock_hotkey(self) -> Any:
        return self.hotkey


@dataclass(frozen=True)
class _Endpoint:
    """The part of an axon that the SDK reads to serve it."""

    external_ip: str
    external_port: int
    wallet: _HotkeyOnly
