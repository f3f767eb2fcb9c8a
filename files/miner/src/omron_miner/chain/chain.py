"""The one seam to the chain: who may ask, whether we are registered, telling validators where we are, committing.

Two chains stand behind the same small face: `LocalChain`, a fixed list from the constants, and
`bittensor_chain.BittensorChain`, the only one that knows the SDK's Subtensor; `open` chooses. What may be slow is
called at start, and then by `watch.ChainWatch` in a thread of its own or by another one; what the axon asks every time
(`validator`) only looks into the last reading, so that the miner goes on proving while the chain is away.
"""

from __future__ import annotations

import math
from typing import Protocol

from omron_miner.chain.subnet_list import Validator
from omron_miner.errors import OmronError

LONGEST_COMMITMENT = 128
"""Bytes of text the chain takes: its types end at Raw128 (bittensor.core.extrinsics.serving)."""


class ChainError(OmronError):
    """The chain could not be reached, or refused."""


class ChainAwayError(ChainError):
    """The chain could not be reached, did not answer in time, or answered nonsense."""


class Chain(Protocol):
    """What the miner needs of a chain."""

    def refresh(self) -> None:
        """Reads the list of validators. May be slow. Raises ChainError; the last reading then stays."""

    def use_copy(self) -> None:
        """Takes the last good reading of an earlier run instead. Raises ChainError saying why there is none."""

    def read_at(self) -> float:
        """When the list of validators was read, seconds since 1970; 0 for never. Never blocks."""

    def is_registered(self) -> bool:
        """Whether our hotkey is registered on the subnet now. May be slow. Raises ChainError."""

    def announce(self, ip: str, port: int) -> bool:
        """Tells validators our address; False if they know it already. May be slow. Raises ChainError."""

    def commitment(self) -> str | None:
        """The text our hotkey has committed on the subnet; None when there is none. May be slow. Raises ChainError."""

    def commit(self, text: str) -> None:
        """Commits `text` (at most 128 ASCII characters) in place of what there was; any thread, may take some blocks.

        Raises ChainError when the chain is away or refuses it.
        """

    def validator(self, hotkey: str) -> Validator | None:
        """What the last reading says of `hotkey`; None when it is not on the subnet. Never blocks."""

    def close(self) -> None:
        """Ends the connection. Never blocks."""


def check_commitment(text: str) -> None:
    """Raises ChainError when `text` is none that the chain takes."""
    size = len(text.encode())
    if not text or size > LONGEST_COMMITMENT or not text.isascii():
        # The SDK counts characters where the chain counts bytes, so only ASCII has the length it names.
        raise ChainError(f"a commitment is 1 to {LONGEST_COMMITMENT} ASCII characters, not {size} bytes")


class LocalChain:
    """No chain: the hotkeys of the constants may ask, whatever the minimum stake."""

    def __init__(self, hotkeys: tuple[str, ...]) -> None:
        self._validators = {key: Validator(key, uid, math.inf, permit=True) for uid, key in enumerate(hotkeys)}
        self._committed: str | None = None

    def refresh(self) -> None:
        """Nothing to read."""

    def use_copy(self) -> None:
        """Nothing to take."""

    def read_at(self) -> float:
        """The list is not read but given."""
        return 0.0

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
        check_commitment(text)
        self._committed = text

    def validator(self, hotkey: str) -> Validator | None:
        """See `Chain`."""
        return self._validators.get(hotkey)

    def close(self) -> None:
        """Nothing to end."""
