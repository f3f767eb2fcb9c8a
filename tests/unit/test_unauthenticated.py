"""Whose connection is closed when callers who have proven nothing take too much."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from omron_miner.serving.unauthenticated import UnauthenticatedConnections, UnauthenticatedLimits

LIMITS = UnauthenticatedLimits(connections_per_peer=3, connections=6, bytes_per_peer=100, bytes=300)


@dataclass(eq=False)
class Caller:
    peer: str
    hotkey: str = ""
    status: int = 0

    def cut(self, status: int, why: str) -> None:
        assert why
        self.status = status


@pytest.fixture
def held() -> UnauthenticatedConnections:
    return UnauthenticatedConnections(LIMITS)


def enter(held: UnauthenticatedConnections, *callers: Caller, size: int = 0) -> list[Caller]:
    for caller in callers:
        held.enter(caller)
        held.charge(caller, size)
    return list(callers)


def closed(callers: list[Caller]) -> list[bool]:
    return [caller.status == 503 for caller in callers]


def test_a_peer_with_too_many_connections_loses_its_own_oldest(held: UnauthenticatedConnections) -> None:
    other = enter(held, Caller("b"))
    callers = enter(held, *(Caller("a") for _ in range(5)))
    assert closed(callers) == [True, True, False, False, False]
    assert closed(other) == [False]
    assert len(held) == 4


def test_a_peer_that_restarts_has_not_waited_longest(held: UnauthenticatedConnections) -> None:
    callers = enter(held, *(Caller("a") for _ in range(3)))
    held.enter(callers[0])
    callers += enter(held, Caller("a"))
    assert closed(callers) == [False, True, False, False]


def test_a_peer_with_too_many_bytes_loses_its_own_oldest_body(held: UnauthenticatedConnections) -> None:
    idle, other = enter(held, Caller("a")), enter(held, Caller("b"), size=100)
    callers = enter(held, Caller("a"), Caller("a"), size=50)
    held.charge(callers[1], 10)
    assert closed([*idle, *other, *callers]) == [False, False, True, False]
    assert held.held_bytes == 160


def test_a_body_beyond_all_bounds_is_cut_off_itself(held: UnauthenticatedConnections) -> None:
    assert closed(enter(held, Caller("a"), Caller("a"), size=101)) == [True, True]
    assert held.held_bytes == 0


def test_what_is_proven_is_counted_no_more_and_never_closed(held: UnauthenticatedConnections) -> None:
    proven = enter(held, *(Caller("a") for _ in range(3)), size=20)
    for caller in proven:
        held.leave(caller)
        held.charge(caller, 1000)
    assert (len(held), held.held_bytes) == (0, 0)
    assert closed([*proven, *enter(held, *(Caller("a") for _ in range(3)), size=30)]) == [False] * 6


def test_over_the_total_limit_a_caller_with_few_connections_loses_none(held: UnauthenticatedConnections) -> None:
    honest = enter(held, Caller("honest"))
    many = enter(held, *(Caller("a") for _ in range(3)), *(Caller("b") for _ in range(3)))
    assert closed([*honest, *many]) == [False, True, *[False] * 5]


def test_bodies_in_the_name_of_one_validator_do_not_crowd_out_anothers(held: UnauthenticatedConnections) -> None:
    honest = enter(held, Caller("honest", "other"), size=60)
    attackers = enter(held, *(Caller(f"{number}", "named") for number in range(5)), size=60)
    assert closed(honest) == [False]
    assert closed(attackers) == [True, False, False, False, False]


def test_among_peers_that_name_the_same_validator_the_heaviest_sender_loses(
    held: UnauthenticatedConnections,
) -> None:
    honest = enter(held, Caller("honest", "named"), size=10)
    attackers = enter(held, *(Caller(f"{number}", "named") for number in range(4)), size=80)
    assert closed(honest) == [False]
    assert closed(attackers).count(True) == 1


def test_a_newcomer_is_served_however_many_peers_hold_as_much(held: UnauthenticatedConnections) -> None:
    attackers = enter(held, *(Caller(f"{number}", "named") for number in range(5)), size=59)
    assert closed([*enter(held, Caller("honest", "named"), size=60), *attackers]) == [False, True, *[False] * 4]


def test_a_discarded_body_takes_no_memory(held: UnauthenticatedConnections) -> None:
    callers = enter(held, Caller("a"), size=90)
    held.forget_bytes(callers[0])
    assert closed([*callers, *enter(held, Caller("a"), size=90)]) == [False, False]


def test_bounds_leave_room_for_the_largest_body() -> None:
    fitted = UnauthenticatedLimits().fitted(max_body_bytes=100_000_000)
    assert fitted.bytes > fitted.bytes_per_peer > 100_000_000
    assert UnauthenticatedLimits().fitted(1_048_576).bytes == UnauthenticatedLimits().bytes
