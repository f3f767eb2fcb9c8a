"""Chain access: the validator list, our registration, the axon announcement, and commitments.

Two implementations of one interface: `LocalChain`, a fixed list from the constants, and
`bittensor_chain.BittensorChain`, the only one that uses the SDK's Subtensor; `open` chooses. Slow calls are made at
start, and then by `watch.ChainWatch` in its own thread or by other threads; what the axon calls for every request
(`validator`) only reads the last list, so that the miner keeps proving while the chain is unreachable.
"""

from __future__ import annotations

import math
from typing import Protocol

from omron_miner.chain.subnet_list import Validator
from omron_miner.errors import OmronError

LONGEST_COMMITMENT = 128
"""Bytes of text the chain accepts: its largest type is Raw128 (bittensor.core.extrinsics.serving)."""


class ChainError(OmronError):
    """The chain could not be reached, or rejected a call."""


class ChainAwayError(ChainError):
    """The chain could not be reached, did not answer in time, or sent an invalid answer."""


class Chain(Protocol):
    """What the miner needs of a chain."""

    def refresh(self) -> None:
        """Reads the list of validators. May be slow. Raises ChainError; the last reading then stays."""

    def use_copy(self) -> None:
        """Loads the last good list of an earlier run instead. Raises ChainError with the reason when there is none."""

    def read_at(self) -> float:
        """When the list of validators was read, seconds since 1970; 0 for never. Never blocks."""

    def is_registered(self) -> bool:
        """Whether our hotkey is registered on the subnet now. May be slow. Raises ChainError."""

    def announce(self, ip: str, port: int) -> bool:
        """Announces our address to validators; False if it is already announced. May be slow. Raises ChainError."""

    def commitment(self) -> str | None:
        """The text our hotkey has committed on the subnet; None when there is none. May be slow. Raises ChainError."""

    def commit(self, text: str) -> None:
        """Commits `text` (at most 128 ASCII characters) replacing the previous text; any thread, may take some blocks.

        Raises ChainError when the chain is unreachable or rejects it.
        """

    def validator(self, hotkey: str) -> Validator | None:
        """The entry of `hotkey` in the last list; None when it is not on the subnet. Never blocks."""

    def close(self) -> None:
        """Closes the connection. Never blocks."""


def check_commitment(text: str) -> None:
    """Raises ChainError when `text` is not a commitment that the chain accepts."""
    size = len(text.encode())
    if not text or size > LONGEST_COMMITMENT or not text.isascii():
        # The SDK counts characters where the chain counts bytes, so the length is only right for ASCII.
        raise ChainError(f"a commitment is 1 to {LONGEST_COMMITMENT} ASCII characters, not {size} bytes")


class LocalChain:
    """No chain: the hotkeys in the constants are authorised, whatever the minimum stake."""

    def __init__(self, hotkeys: tuple[str, ...]) -> None:
        self._validators = {key: Validator(key, uid, math.inf, permit=True) for uid, key in enumerate(hotkeys)}
        self._committed: str | None = None

    def refresh(self) -> None:
        """No-op: there is no chain."""

    def use_copy(self) -> None:
        """No-op: there is no chain."""

    def read_at(self) -> float:
        """Never: the list is configured, not read."""
        return 0.0

    def is_registered(self) -> bool:
        """Always registered: there is no chain."""
        return True

    def announce(self, ip: str, port: int) -> bool:
        """No-op: there is no chain."""
        return False

    def commitment(self) -> str | None:
        """What was committed since the start."""
        return self._committed

    def commit(self, text: str) -> None:
        """Kept in memory. Raises ChainError where a real chain would for the text alone."""
        check_commitment(text)
        self._committed = text

    def validator(self, hotkey: str) -> Validator | None:
        """See `Chain`."""
        return self._validators.get(hotkey)

    def close(self) -> None:
        """No-op: there is no chain."""
