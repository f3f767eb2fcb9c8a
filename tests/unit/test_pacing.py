from __future__ import annotations

import pytest

from omron_miner.proving.pacing import Pace

ALONE, PAIR, FOUR = 1, 2, 4


def taught(most: int, **seconds: float) -> Pace:
    """A pace that has seen eight proofs of each: alone, pair, four."""
    pace = Pace(most)
    for name, took in seconds.items():
        for _ in range(8):
            pace.note("c", {"alone": ALONE, "pair": PAIR, "four": FOUR}[name], took)
    return pace


def test_nothing_is_tried_before_a_proof_alone_was_measured() -> None:
    pace = Pace(4)
    assert pace.best("c") == 1
    pace.note("c", 1, 6.0)
    assert pace.best("c") == 1
    assert pace.expected("another", 1) is None


def test_a_pair_is_tried_once_proofs_alone_are_known() -> None:
    assert taught(4, alone=6.0).best("c") == 2


@pytest.mark.parametrize(("pair", "best"), [(12.0, 1), (11.0, 1), (10.0, 2), (7.0, 2)])
def test_a_pair_is_kept_only_when_it_makes_a_tenth_more_proofs(pair: float, best: int) -> None:
    assert taught(2, alone=6.0, pair=pair).best("c") == best


def test_what_pays_is_tried_further_and_what_does_not_is_not() -> None:
    assert taught(4, alone=6.0, pair=8.0).best("c") == 4
    assert taught(4, alone=6.0, pair=12.0).best("c") == 1
    assert taught(4, alone=6.0, pair=8.0, four=30.0).best("c") == 2
    assert taught(4, alone=6.0, pair=8.0, four=12.0).best("c") == 4


def test_one_worker_proves_one_after_another() -> None:
    assert taught(1, alone=6.0).best("c") == 1


def test_circuits_are_evaluated_independently() -> None:
    pace = taught(2, alone=6.0, pair=7.0)
    assert (pace.best("c"), pace.best("another")) == (2, 1)


def test_what_was_never_seen_is_expected_to_take_longer_than_in_proportion() -> None:
    pace = taught(4, alone=6.0)
    assert pace.expected("c", 1) == 6.0
    assert 12.0 < (pace.expected("c", 2) or 0) < 15.0
    assert 24.0 < (pace.expected("c", 4) or 0) < 30.0


def test_the_slowest_of_the_last_proofs_is_expected() -> None:
    pace = taught(1, alone=6.0)
    pace.note("c", 1, 9.0)
    assert pace.expected("c", 1) == 9.0
    assert pace.fastest("c") == 6.0


def test_a_proof_with_changing_company_says_nothing_about_a_number() -> None:
    pace = Pace(2)
    pace.note("c", 1.5, 6.0)
    assert pace.expected("c", 1) is None
    assert pace.fastest("c") == 6.0


def test_the_most_memory_is_remembered() -> None:
    pace = Pace(1)
    pace.note("c", 1, 1.0, 5000)
    pace.note("c", 1, 1.0, 3000)
    assert pace.peak_bytes("c") == 5000
