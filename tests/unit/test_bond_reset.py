"""Upstream's schedule of resets, held against values worked out by hand for tempo 360."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field

import pytest

from chain_samples import Lines
from omron_miner.bond_reset import (
    BondReset,
    Position,
    cycle_start,
    epoch_start,
    group_of,
    next_epoch,
    position,
    seed_of,
)
from omron_miner.chain import ChainAwayError, ChainError

HASH = "0x" + "ab" * 32


@pytest.mark.parametrize(
    ("block", "where"),
    [
        (358, Position(1, 360)),  # 358 + 2 + 1 = 361: the first block of epoch 1 on netuid 2
        (357, Position(0, 0)),  # 360 of 361 have passed
        (0, Position(0, 357)),
        (3607, Position(10, 360)),  # 3610 = 10 x 361
        (3957, Position(10, 10)),  # 350 blocks later: the window opens
        (3967, Position(10, 0)),
        (3968, Position(11, 360)),
        (6_000_000, Position(16620, 177)),  # 6000003 = 16620 x 361 + 183
    ],
)
def test_a_blocks_place_in_its_epoch(block: int, where: Position) -> None:
    assert position(block, 2) == where


@pytest.mark.parametrize(("epoch", "netuid", "start"), [(0, 2, -3), (1, 2, 358), (10, 2, 3607), (10, 118, 3491)])
def test_an_epoch_begins_where_its_subnet_puts_it(epoch: int, netuid: int, start: int) -> None:
    assert epoch_start(epoch, netuid) == start
    assert position(start, netuid) == Position(epoch, 360)


def test_a_cycle_has_eight_epochs() -> None:
    assert [cycle_start(epoch) for epoch in (16, 17, 23, 24)] == [16, 16, 16, 24]
    assert epoch_start(24, 2) - epoch_start(16, 2) == 2888


def test_the_seed_is_the_hash_of_the_hash_as_text() -> None:
    assert seed_of(HASH, 16) == int.from_bytes(hashlib.sha256(HASH.encode()).digest(), "big")
    assert seed_of(None, 16) == 16


def test_groups_are_pythons_own_shuffle_dealt_in_turn() -> None:
    # What CPython's random.Random(16).shuffle makes of 0 to 9: were it another one day, we would reset alone.
    order = [6, 4, 0, 9, 1, 3, 2, 8, 7, 5]
    assert [group_of(uid, 10, 16) for uid in order] == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]
    sizes = [0] * 8
    for uid in range(256):
        sizes[group_of(uid, 256, seed_of(HASH, 0))] += 1
    assert sizes == [32] * 8


def test_a_groups_next_epoch() -> None:
    assert [next_epoch(epoch, 3) for epoch in (16, 19, 20, 27)] == [19, 19, 27, 27]


@dataclass
class FakeChain:
    """A chain at a block we choose, whose shuffle puts us into group 2: uid 0 of ten, with no hash for epoch 16."""

    at: int = 0
    reset: int = 0
    resets: list[int] = field(default_factory=list)
    fails: ChainError | None = None
    uid: tuple[int, int] | None = (0, 10)
    hashed: list[int] = field(default_factory=list)

    def place(self) -> tuple[int, int] | None:
        return self.uid

    def block(self) -> int:
        return self.at

    def block_hash(self, number: int) -> str | None:
        self.hashed.append(number)
        return None

    def last_reset(self) -> int:
        return self.reset

    def reset_bonds(self) -> None:
        if self.fails:
            raise self.fails
        self.resets.append(self.at)
        self.reset = self.at


START = 361 * 18 - 3
"""Of epoch 18, the one of group 2 in the cycle of epochs 16 to 23."""


def reset_on(chain: FakeChain) -> tuple[BondReset, list[str]]:
    log, lines = logging.Logger("test"), Lines()
    log.addHandler(lines)
    return BondReset(chain, 2, log), lines.lines


def walk(reset: BondReset, chain: FakeChain, until: int) -> None:
    """Calls it when it wants to be called, with blocks that come every 12 s."""
    while chain.at <= until:
        chain.at += max(1, int(reset.step() / 12))


def test_over_two_cycles_it_resets_once_in_each_and_within_the_window() -> None:
    chain = FakeChain(361 * 16)
    reset, lines = reset_on(chain)
    walk(reset, chain, 361 * 24 - 4)
    [made] = chain.resets
    assert START + 350 <= made <= START + 360
    assert chain.hashed == [361 * 16 - 3]
    walk(reset, chain, 361 * 32 - 4)
    assert len(chain.resets) == 2
    assert chain.resets[1] > 361 * 24 - 3
    assert lines.count("Performing coordinated reset") == lines.count("Successfully performed reset") == 2


def test_operators_find_upstreams_lines() -> None:
    reset, lines = reset_on(chain := FakeChain(START - 100))
    reset.step()
    assert lines == [
        "Shuffle block: 5773, shuffle hash: None",
        "Group 2 | Current Block: 6395 | Next Reset Epoch: 18 (starts at block ~6495) | Blocks Until Reset: ~450",
    ]
    assert chain.resets == []


def test_a_reset_made_before_a_restart_is_not_made_again() -> None:
    reset, _ = reset_on(chain := FakeChain(START + 355, reset=START + 351))
    assert reset.step() == 12 * 6
    assert chain.resets == []


def test_a_refused_reset_is_said_and_tried_again_in_its_window() -> None:
    reset, lines = reset_on(chain := FakeChain(START + 352, fails=ChainError("too often")))
    assert reset.step() == 12
    assert "Failed to perform reset: too often" in lines
    chain.fails = None
    reset.step()
    assert chain.resets == [START + 352]


def test_a_chain_that_is_away_is_the_watchs_matter() -> None:
    reset, lines = reset_on(FakeChain(START + 352, fails=ChainAwayError("gone")))
    with pytest.raises(ChainAwayError):
        reset.step()
    assert "Failed to perform reset: gone" in lines


def test_who_is_not_on_the_subnet_resets_nothing() -> None:
    reset, _ = reset_on(chain := FakeChain(START + 352, uid=None))
    assert reset.step() == 600
    assert chain.resets == []
