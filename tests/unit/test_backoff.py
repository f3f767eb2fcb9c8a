from __future__ import annotations

from omron_miner.backoff import pause_after


def test_pauses_double_up_to_the_longest() -> None:
    assert [pause_after(failures, 5.0, 300.0) for failures in range(8)] == [0, 5, 10, 20, 40, 80, 160, 300]
    assert pause_after(10**6, 1.0, 30.0) == 30.0
