from __future__ import annotations

import random
import sys
from typing import Any

import pytest

from omron_miner.events import FailureKind
from omron_miner.provers.placement import Host, Job, Plan, Running, plan
from omron_miner.proving.pacing import CircuitPace

NOW = 1000.0
GIB = 1 << 30


def job(within: float = 45.0, waited: float = 0.0, circuit: str = "c", **more: object) -> Job:
    return Job(circuit_id=circuit, deadline=NOW + within, queued=NOW - waited, **more)  # type: ignore[arg-type]


def pace(seconds: float, at_a_time: int = 1, fastest: float | None = None, peak: int = 0) -> CircuitPace:
    """Side by side costs nothing, up to `at_a_time`."""
    return CircuitPace((seconds,) * at_a_time, at_a_time, seconds if fastest is None else fastest, peak)


def host(name: str, seconds: float | None = 10.0, running: tuple[float, ...] = (), **more: object) -> Host:
    """Proves circuit "c" in `seconds`; `running`: for how long its proofs have run."""
    given = {
        "ready": 1,
        "free_bytes": 8 * GIB,
        "pace": {} if seconds is None else {"c": pace(seconds)},
        "circuits": frozenset("c"),
        "running": tuple(Running("c", NOW - one, NOW + 40) for one in running),
        **more,
    }
    return Host(name, **given)  # type: ignore[arg-type]


def begun(made: Plan[Job], *jobs: Job) -> list[str | None]:
    where = {id(one): name for one, name in made.begin}
    return [where.get(id(one)) for one in jobs]


def planned(jobs: list[Job], *hosts: Host, queue: float = 5.0) -> list[str | None]:
    return begun(plan(NOW, jobs, hosts, queue), *jobs)


def test_a_request_goes_to_the_host_that_finishes_first() -> None:
    assert planned([job()], host("slow", 20), host("fast", 10)) == ["fast"]


def test_it_waits_for_a_busy_fast_host_rather_than_take_a_slow_idle_one() -> None:
    one = job()
    made = plan(NOW, [one], [host("slow", 20), host("fast", 10, (8,))], 5.0)
    assert (made.begin, made.refuse) == ([], [])
    assert NOW < made.wake <= NOW + 5


def test_the_slow_host_gets_the_third_request_when_the_fast_one_has_two() -> None:
    assert planned([job(), job(), job()], host("slow", 25), host("fast", 10)) == ["fast", None, "slow"]


def test_a_host_of_two_at_a_time_gets_two() -> None:
    both: dict[str, Any] = {"ready": 2, "pace": {"c": pace(10, at_a_time=2)}}
    assert planned([job(), job(), job()], host("a", **both)) == ["a", "a", None]
    assert planned([job(), job()], host("a", **{**both, "ready": 1})) == ["a", None]


def test_memory_keeps_a_second_proof_away_but_never_the_first() -> None:
    known = {"c": pace(10, at_a_time=2, peak=10 * GIB)}
    assert planned([job(), job()], host("a", ready=2, pace=known, free_bytes=8 * GIB)) == ["a", None]


def test_only_a_host_with_the_circuit_gets_it() -> None:
    other = host("other", 1, circuits=frozenset("d"))
    assert planned([job()], other, host("this", 20)) == ["this"]
    assert planned([job()], other) == [None]


def test_a_standby_host_gets_only_what_no_other_can_prove_in_time() -> None:
    standby = host("standby", 1, circuits=None, standby=True, pace={"c": pace(1), "d": pace(1)})
    assert planned([job(within=100)], standby, host("far", 30, (1,))) == [None]
    assert planned([job(circuit="d")], standby, host("far")) == ["standby"]
    assert planned([job(within=10)], standby, host("far", 30)) == ["standby"]
    assert planned([job()], standby) == ["standby"]


def test_a_host_that_has_no_worker_ready_gets_nothing_and_the_request_waits() -> None:
    made = plan(NOW, [job()], [host("a", ready=0)], 5.0)
    assert (made.begin, made.refuse, made.wake) == ([], [], NOW + 5)
    assert plan(NOW, [job()], [host("a", ready=0), host("too slow", 90)], 5.0).refuse == [], "it starts again"


def test_one_proof_at_a_time_of_a_circuit_that_was_never_proved() -> None:
    assert planned([job(), job()], host("a", None, ready=4)) == ["a", None]
    assert planned([job()], host("a", None, (30,), ready=4)) == [None]


def test_a_request_that_no_host_can_finish_in_time_is_refused_immediately() -> None:
    made = plan(NOW, [job(within=8)], [host("a", 10), host("b", 12)], 5.0)
    [(_, failure, detail)] = made.refuse
    assert failure is FailureKind.TIMEOUT
    assert "8.0 s are left" in detail


def test_requests_before_it_count() -> None:
    jobs = [job(within=45) for _ in range(10)]
    made = plan(NOW, jobs, [host("a", 10), host("b", 10)], 45.0)
    assert len(made.begin) == 2
    assert [one for one, _, _ in made.refuse] == jobs[8:], "each host makes four in 45 s"


def test_a_host_that_was_faster_before_gets_its_chance() -> None:
    """As with one host: only what even the fastest proof so far would not save is refused."""
    assert planned([job(within=8)], host("a", pace={"c": pace(10, fastest=5)})) == ["a"]


def test_a_request_that_waited_too_long_is_refused_then_and_not_before() -> None:
    busy = host("a", 10, (1,))
    assert plan(NOW, [job(waited=4.9)], [busy], 5.0).refuse == []
    [(_, failure, _)] = plan(NOW, [job(waited=5)], [busy], 5.0).refuse
    assert failure is FailureKind.QUEUE_FULL


def test_a_request_that_would_be_refused_is_proved_next_to_another_if_both_are_in_time() -> None:
    known = {"c": CircuitPace((10.0, 21.0), 1, 10.0)}
    free = host("a", running=(1,), ready=2, pace=known)
    assert planned([job(waited=4)], free) == [None]
    assert planned([job(waited=5)], free) == ["a"]
    assert planned([job(waited=5, within=20)], free) == [None]


def test_a_lost_request_comes_first_and_goes_to_another_host() -> None:
    lost = job(lost="it died", tried=frozenset({"fast"}))
    assert planned([job(), lost], host("slow", 20), host("fast", 10)) == ["fast", "slow"]
    assert planned([lost], host("fast", 10)) == ["fast"], "where there is no other host it may be tried there again"


def test_a_lost_request_returns_to_its_host_when_the_other_would_be_late() -> None:
    lost = job(within=15, lost="it died", tried=frozenset({"fast"}))
    assert planned([lost], host("slow", 20), host("fast", 10)) == ["fast"]


def test_a_lost_request_without_time_is_answered_with_what_happened() -> None:
    [(_, failure, detail)] = plan(NOW, [job(within=8, lost="host b died")], [host("a", 10)], 5.0).refuse
    assert failure is FailureKind.WORKER_CRASHED
    assert detail == "host b died; no time was left for a retry"


def test_without_any_host_a_request_waits_its_time() -> None:
    assert plan(NOW, [job(waited=1)], [], 5.0).wake == NOW + 4
    [(_, failure, _)] = plan(NOW, [job(waited=5)], [], 5.0).refuse
    assert failure is FailureKind.QUEUE_FULL


def test_an_overdue_proof_is_expected_to_end_soon() -> None:
    assert planned([job()], host("late", 10, (30,)), host("slow", 12)) == [None]


@pytest.mark.parametrize("seed", range(20))
def test_no_host_exceeds_its_limit_and_every_request_is_started_refused_or_waits(seed: int) -> None:
    """Random hosts and queues."""
    source = random.Random(seed)  # noqa: S311  tests, not secrets
    hosts = [
        host(
            f"host {number}",
            circuits=source.choice([None, frozenset("c"), frozenset("cd")]),
            ready=source.randint(0, 4),
            running=tuple(source.uniform(0, 20) for _ in range(source.randint(0, 1))),
            pace={one: pace(source.uniform(1, 30), source.randint(1, 4)) for one in "cd" if source.random() < 0.8},
            standby=source.random() < 0.2,
        )
        for number in range(8)
    ]
    jobs = [
        job(source.uniform(0, 60), source.uniform(0, 8), source.choice("cd"), lost=source.choice(["", "", "it died"]))
        for _ in range(20)
    ]
    made = plan(NOW, jobs, hosts, 5.0)
    settled = [id(one) for one, _ in made.begin] + [id(one) for one, _, _ in made.refuse]
    assert len(settled) == len(set(settled))
    assert made.wake > NOW or len(settled) == len(jobs)
    for one in hosts:
        given = [got for got, name in made.begin if name == one.name]
        assert len(given) + len(one.running) <= max(one.ready, len(one.running))
        assert all(one.circuits is None or got.circuit_id in one.circuits for got in given)


def calls_of_a_plan(size: int) -> int:
    """How many functions a plan of `size` jobs for `size` hosts calls; `bench/provers.py` has its time."""
    hosts = [host(f"host {number}", 10 + number / 100, (1,) if number % 2 else ()) for number in range(size)]
    jobs, calls = [job() for _ in range(size)], [0]

    def count(_frame: object, event: str, _argument: object) -> None:
        calls[0] += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        plan(NOW, jobs, hosts, 45.0)
    finally:
        sys.setprofile(None)
    return calls[0]


def test_the_work_of_a_plan_grows_in_step_with_hosts_and_jobs() -> None:
    assert calls_of_a_plan(200) < 5 * calls_of_a_plan(50)
