"""The bonds reset of upstream's miners: when it is due, and the thread-less part that does it.

Each miner commits a flag once in eight epochs, in the last blocks of the epoch of its group; the groups are dealt anew
each eight epochs from a block hash everybody knows. Validators no longer punish who does not (PENALTY off), so it is
off by default. The formulas are upstream's and must stay so: a reset at another time counts for nothing.

Blocks and epochs are numbers of the chain; a block takes some 12 s.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from omron_miner.chain import ChainAwayError, ChainError

if TYPE_CHECKING:
    import logging

TEMPO = 360
"""The subnet's; an epoch is a block longer."""
PERIOD = TEMPO + 1
GROUPS = 8
"""And epochs in a cycle."""
WINDOW = 10
"""The reset is made when at most so many blocks are left of the epoch."""
BLOCK_SECONDS = 12.0
_LONGEST_SLEEP_SECONDS = 600.0


class ResetChain(Protocol):
    """What a reset needs of a chain. All but `place` may be slow and raise ChainError."""

    def place(self) -> tuple[int, int] | None:
        """Our uid and the number of uids, as of the last reading; None when we are not on the subnet. Never blocks."""

    def block(self) -> int:
        """The newest block's number."""

    def block_hash(self, number: int) -> str | None:
        """That block's hash, 0x and hex; None when the node does not know it."""

    def last_reset(self) -> int:
        """The block of our last reset; 0 when there was none."""

    def reset_bonds(self) -> None:
        """Makes the commitment that resets our bonds. It takes the place of a text that was committed."""


@dataclass(frozen=True)
class Position:
    """Where a block lies."""

    epoch: int
    blocks_left: int
    """Of the epoch, after this block."""


def position(block: int, netuid: int) -> Position:
    """Epochs of subnets begin at different blocks: those of `netuid` at `epoch_start`."""
    epoch, passed = divmod(block + netuid + 1, PERIOD)
    return Position(epoch, TEMPO - passed)


def epoch_start(epoch: int, netuid: int) -> int:
    """The epoch's first block."""
    return PERIOD * epoch - (netuid + 1)


def cycle_start(epoch: int) -> int:
    """The first epoch of the cycle that `epoch` belongs to; the hash of its first block deals the groups."""
    return epoch - epoch % GROUPS


def seed_of(block_hash: str | None, epoch: int) -> int:
    """The shuffle's seed; `epoch`, the cycle's first, when the hash is not known."""
    return int(hashlib.sha256(block_hash.encode("ascii")).hexdigest(), 16) if block_hash else epoch


def group_of(uid: int, uids: int, seed: int) -> int:
    """The group of `uid` among `uids`: Python's own shuffle of all of them, dealt out in turn."""
    order = list(range(uids))
    random.Random(seed).shuffle(order)  # noqa: S311  everybody must come to the same
    return order.index(uid) % GROUPS


def next_epoch(epoch: int, group: int) -> int:
    """The first epoch from `epoch` on in which `group` resets."""
    return epoch + (group - epoch) % GROUPS


class BondReset:
    """Does what is due. One thread, which calls `step` and then waits as long as that says."""

    def __init__(self, chain: ResetChain, netuid: int, log: logging.Logger) -> None:
        self._chain, self._netuid, self._log = chain, netuid, log
        self._group: tuple[int, int] | None = None
        """The cycle's first epoch and our group in it."""
        self._done = -1
        """The last epoch in which we made a reset."""

    def step(self) -> float:
        """Looks where the chain is, and resets if it is time; seconds until it should be called again.

        Raises ChainAwayError. A refused reset is logged, and tried again while its window lasts.
        """
        block = self._chain.block()
        now = position(block, self._netuid)
        group = self._group_in(now.epoch)
        if group is None:
            return _LONGEST_SLEEP_SECONDS
        target = next_epoch(now.epoch, group)
        begins = epoch_start(target, self._netuid)
        due = begins + TEMPO - WINDOW
        if block < due:
            # As upstream's: operators look for this line.
            self._log.info(
                "Group %d | Current Block: %d | Next Reset Epoch: %d (starts at block ~%d) | Blocks Until Reset: ~%d",
                *(group, block, target, begins, due - block),
            )
            # Blocks may come a little early; the last look before the window is then at its edge.
            return min(_LONGEST_SLEEP_SECONDS, max(BLOCK_SECONDS, 0.95 * BLOCK_SECONDS * (due - block)))
        if self._done != now.epoch and self._chain.last_reset() < begins and not self._reset():
            return BLOCK_SECONDS
        self._done = now.epoch
        return BLOCK_SECONDS * (now.blocks_left + 1)

    def _group_in(self, epoch: int) -> int | None:
        cycle, place = cycle_start(epoch), self._chain.place()
        if place is None:
            return None
        if self._group is None or self._group[0] != cycle:
            start = epoch_start(cycle, self._netuid)
            found = self._chain.block_hash(start)
            self._log.info("Shuffle block: %d, shuffle hash: %s", start, found)
            self._group = (cycle, group_of(*place, seed_of(found, cycle)))
        return self._group[1]

    def _reset(self) -> bool:
        self._log.info("Performing coordinated reset")
        try:
            self._chain.reset_bonds()
        except ChainError as error:
            self._log.error("Failed to perform reset: %s", error)
            if isinstance(error, ChainAwayError):
                raise
            return False
        self._log.info("Successfully performed reset")
        return True
