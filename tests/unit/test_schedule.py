"""What begins, waits and is refused, by numbers alone: no process, no clock."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omron_miner.events import FailureKind
from omron_miner.proving.circuit_breaker import LOSSES_IN_A_ROW, CircuitBreaker
from omron_miner.proving.pacing import Pace
from omron_miner.proving.schedule import IdleWorker, Job, Plan, is_worth_another_try, note_progress, plan

QUEUE_SECONDS = 5.0
GIB = 1 << 30
FRESH, USED = IdleWorker(0, 0, 0), IdleWorker(1, 3, GIB)


def job(deadline: float = 45.0, queued: float = 0.0, **more: object) -> Job:
    return Job(**{"circuit_id": "c", "deadline": deadline, "queued": queued, **more})  # type: ignore[arg-type]


def pace(alone: float = 0.0, pair: float = 0.0, memory: int = 0) -> Pace:
    """What two proofs alone, and eight in pairs, took."""
    made = Pace(4)
    for at_a_time, seconds, times in ((1, alone, 2), (2, pair, 8)):
        for _ in range(times if seconds else 0):
            made.note("c", at_a_time, seconds, memory)
    return made


def planned(
    waiting: list[Job],
    running: list[Job],
    idle: list[IdleWorker],
    known: Pace,
    now: float = 0.0,
    memory: int = 64 * GIB,
) -> Plan[Job]:
    return plan(now, waiting, running, idle, known, queue_seconds=QUEUE_SECONDS, available_bytes=memory)


def test_a_single_job_starts_on_the_worker_with_enough_memory() -> None:
    first, second = job(), job()
    made = planned([first, second], [], [FRESH, USED], pace())
    assert made.begin == [(first, USED.number)]
    assert made.refuse == []
    assert made.wake == QUEUE_SECONDS


def test_two_jobs_start_together_when_that_is_to_be_tried_or_known_to_pay() -> None:
    for known in (pace(alone=6.0), pace(alone=6.0, pair=8.0)):
        assert len(planned([job(), job()], [], [FRESH, USED], known).begin) == 2


def test_two_jobs_do_not_start_together_without_a_gain_until_the_second_would_be_refused() -> None:
    known, running = pace(alone=6.0, pair=12.0), job(deadline=90.0)
    assert planned([job(90.0)], [running], [FRESH], known, now=4.9).begin == []
    assert len(planned([job(90.0)], [running], [FRESH], known, now=5.0).begin) == 1


def test_no_job_starts_that_would_make_another_miss_its_deadline() -> None:
    known, running = pace(alone=6.0, pair=12.0), job(deadline=15.0)
    made = planned([job(90.0)], [running], [FRESH], known, now=5.0)
    assert made.begin == []
    assert [failure for _, failure, _ in made.refuse] == [FailureKind.QUEUE_FULL]
    running.done = 0.9  # nearly through: it will be in time
    assert len(planned([job(90.0)], [running], [FRESH], known, now=5.0).begin) == 1


def test_the_order_is_kept_but_for_one_that_would_be_refused_next() -> None:
    known, running = pace(alone=6.0, pair=12.0), job(deadline=90.0)
    early, urgent = job(90.0, queued=3.0), job(90.0, queued=0.0)
    assert planned([early, urgent], [running], [FRESH], known, now=5.0).begin == [(urgent, FRESH.number)]


def test_a_job_that_can_no_longer_finish_is_refused_and_one_that_can_is_not() -> None:
    made = planned([job(deadline=5.3), job(deadline=5.5)], [], [], pace(alone=6.0))
    assert [failure for _, failure, _ in made.refuse] == [FailureKind.TIMEOUT]
    assert made.wake == pytest.approx(5.5 - 0.9 * 6.0)


def test_memory_is_for_those_that_fit_and_idle_workers_give_theirs_up() -> None:
    known = pace(alone=6.0, pair=8.0, memory=10 * GIB)
    made = planned([job(), job()], [], [FRESH, USED], known, memory=12 * GIB)
    assert [number for _, number in made.begin] == [USED.number]
    made = planned([job()], [job()], [FRESH, USED], known, memory=2 * GIB)
    assert made.begin == []
    made = planned([job()], [job()], [IdleWorker(5, 9, 0), USED], known, memory=2 * GIB)
    assert (made.begin, made.release) == ([], [USED.number])


def test_a_single_job_starts_regardless_of_memory() -> None:
    assert len(planned([job()], [], [FRESH], pace(alone=6.0, memory=1 << 60)).begin) == 1


def test_a_retry_takes_another_worker_is_not_refused_for_waiting_and_reports_the_loss() -> None:
    lost = job(lost="the worker died", tried_by=USED.number)
    assert planned([lost], [], [FRESH, USED], pace(), now=30.0).begin == [(lost, FRESH.number)]
    assert planned([lost], [], [], pace(alone=6.0), now=39.0).refuse == []
    [(_, failure, detail)] = planned([lost], [], [], pace(alone=6.0), now=40.0).refuse
    assert failure is FailureKind.WORKER_CRASHED
    assert detail.startswith("the worker died")


@pytest.mark.parametrize(
    ("now", "idle_seconds", "start_seconds", "more", "worth"),
    [
        (30.0, 10.0, 0.0, {}, False),  # there is time yet: it may only wait for a disk
        (38.0, 10.0, 0.0, {}, True),
        (38.0, 1.0, 0.0, {}, False),  # it does something
        (40.0, 10.0, 0.0, {}, False),  # too late for another
        (34.0, 10.0, 4.0, {}, True),  # a worker must start first
        (38.0, 10.0, 0.0, {"lost": "once"}, False),
    ],
)
def test_a_hung_proof_is_given_up_at_the_last_moment_for_another(
    now: float, idle_seconds: float, start_seconds: float, more: dict[str, Any], worth: bool
) -> None:
    assert is_worth_another_try(job(**more), now, idle_seconds, pace(alone=6.0), start_seconds) == worth


def test_a_hung_proof_is_left_to_its_deadline_when_it_is_not_known_what_another_takes() -> None:
    assert not is_worth_another_try(job(), 44.0, 10.0, pace(), 0.0)


def test_company_and_progress_add_up() -> None:
    known, pair = pace(alone=6.0, pair=8.0), [job(), job()]
    note_progress(pair, known, 2.0)
    note_progress(pair[:1], known, 3.0)
    assert [one.concurrency_seconds for one in pair] == [7.0, 4.0]
    assert pair[0].done == pytest.approx(2 / 8 + 3 / 6)


times = st.floats(0, 100)
jobs = st.lists(st.builds(job, times, times, lost=st.sampled_from(["", "lost"])), max_size=6)


@given(jobs, jobs, st.integers(0, 4), st.floats(0.1, 50), times, st.integers(0, 64 * GIB))
def test_every_waiting_job_starts_or_is_refused_or_has_a_time_for_that(
    waiting: list[Job], running: list[Job], idle: int, alone: float, now: float, memory: int
) -> None:
    workers = [IdleWorker(number, number, GIB) for number in range(idle)]
    made = planned(waiting, running, workers, pace(alone, memory=GIB), now, memory)
    begun, refused = [one for one, _ in made.begin], [one for one, _, _ in made.refuse]
    used = [number for _, number in made.begin]
    assert len({*used, *made.release}) == len(used) + len(made.release), "a worker is used twice"
    assert not set(map(id, begun)) & set(map(id, refused))
    left = len(waiting) - len(begun) - len(refused)
    assert (left > 0) == (made.wake < float("inf"))
    assert made.wake > now, "it would not sleep"
    if workers and any(one.deadline - 0.9 * alone > now for one in waiting):
        assert begun or running, "idle workers and nobody begins"


def test_a_circuit_is_set_aside_after_losses_in_a_row_and_longer_each_time() -> None:
    aside = CircuitBreaker()
    for _ in range(LOSSES_IN_A_ROW - 1):
        assert not aside.record_failure("c", 0.0)
    assert aside.record_failure("c", 0.0)
    assert (aside.circuits, aside.remaining_seconds("c", 10.0), aside.remaining_seconds("other", 10.0)) == (
        ["c"],
        20.0,
        None,
    )
    assert aside.remaining_seconds("c", 30.0) is None  # one may try
    assert aside.remaining_seconds("c", 30.0) == 60.0  # the next waits for what becomes of it
    assert aside.record_failure("c", 31.0)
    assert aside.remaining_seconds("c", 31.0) == 60.0
    assert aside.reset("c")
    assert aside.remaining_seconds("c", 32.0) is None


def test_an_answer_between_forgets_the_losses() -> None:
    aside = CircuitBreaker()
    for _ in range(10):
        assert not aside.record_failure("c", 0.0)
        assert not aside.reset("c")
