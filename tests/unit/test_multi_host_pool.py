from __future__ import annotations

import dataclasses
import inspect
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import prover_work
from omron_miner.constants import Circuits, Constants, Deadlines, Log, Prover, Provers, Sessions
from omron_miner.events import LOGGER_NAME, FailureKind, Timings
from omron_miner.provers.dask_server import ProverActor
from omron_miner.provers.hosts import PROTOCOL, HostReport, incompatibility, release
from omron_miner.provers.multi_host_pool import MultiHostPool
from omron_miner.provers.status import CircuitSeconds, HostState, ProversStatus, read_status, write_status
from omron_miner.proving.pacing import CircuitPace
from omron_miner.proving.verified_model_session import ProofResult
from omron_miner.proving.worker_process import Work
from simulated_hosts import Door, OneCircuit, SimulatedHost
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    Join = Callable[..., list[SimulatedHost]]

pytestmark = pytest.mark.slow  # this host's own pool starts processes
THIS_HOST = "a process of this host"


def new_pool(place: Path, door: Door) -> MultiHostPool:
    """Of a host that proves only when no other can; others come and go through `door`."""
    constants = Constants(
        prover=Prover(engine="dask", local_workers=0),
        provers=Provers(heartbeat_seconds=0.05, lost_seconds=0.5),
        deadlines=Deadlines(external_queue_seconds=20),
        sessions=Sessions(directory=place / "ram", fallback_directory=place / "disk"),
        log=Log(directory=place),
        circuits=Circuits(directory=place / "circuits"),
    )
    prove: Any = prover_work.prove  # takes what the tests submit
    verify: Any = prover_work.verify
    return MultiHostPool(
        constants,
        connect=door.run,
        work=Work(prover_work.warm_up, prove),
        verification=Work(prover_work.warm_up, verify),
        catalogue=OneCircuit(),
    )


@pytest.fixture(scope="module")
def door() -> Door:
    return Door()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, door: Door) -> Iterator[MultiHostPool]:
    pool = new_pool(tmp_path_factory.mktemp("pool"), door)
    pool.start()
    yield pool
    pool.close(0)


@pytest.fixture
def join(pool: MultiHostPool, door: Door) -> Iterator[Join]:
    joined: list[SimulatedHost] = []

    def join(*hosts: SimulatedHost, usable: bool = True) -> list[SimulatedHost]:
        for host in hosts:
            door.join(host)
            joined.append(host)
            wait_until(lambda host=host: usable is not bool(state_of(pool, host.name)))  # type: ignore[misc]
        return list(hosts)

    yield join
    for host in joined:
        door.leave(host.name, "the test ended")
    wait_until(lambda: [one.address for one in pool.hosts() if not one.left] == [""])


def state_of(pool: MultiHostPool, name: str) -> str:
    return next((one.state for one in pool.hosts() if one.name == name), "not known")


def submit(pool: MultiHostPool, within: float = 30.0, seconds: float = 0.0) -> Future[ProofResult]:
    rows: Any = {"seconds": seconds}  # the pool only passes them on
    return pool.submit("c", rows, time.monotonic() + within)


def by(answer: Future[ProofResult]) -> str:
    """Which host made the proof."""
    result = answer.result(25)
    assert result.verified, result
    return THIS_HOST if result.detail.isdigit() else result.detail


def test_hosts_share_the_work_by_their_pace_and_proofs_are_verified_here(pool: MultiHostPool, join: Join) -> None:
    fast, slow = join(SimulatedHost("fast", 0.2), SimulatedHost("slow", 1.0))
    answers = [submit(pool) for _ in range(8)]
    assert {by(one) for one in answers} == {"fast", "slow"}
    assert fast.proofs > slow.proofs >= 1
    assert answers[0].result().outputs == [2.0], "the outputs are what was verified here"
    assert answers[-1].result().timings.queue_s > 0.2


def test_without_another_host_this_one_proves(pool: MultiHostPool, join: Join) -> None:
    assert by(submit(pool)) == THIS_HOST
    join(SimulatedHost("other"))
    assert by(submit(pool)) == "other"


@pytest.mark.parametrize("state", ["gone", "paused"])
def test_a_host_that_is_lost_during_a_proof(
    pool: MultiHostPool, join: Join, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Another one makes the proof; it is named, gets no work, and is let in again when it answers."""
    [host] = join(SimulatedHost("lost", 0.2))
    answer = submit(pool)
    wait_until(lambda: bool(host.proving))
    host.state = state
    assert by(answer) == THIS_HOST
    assert state_of(pool, "lost") == ("connection refused" if state == "gone" else "it did not answer for 0.5 s")
    assert "Prover host lost is offline until it answers" in caplog.text
    host.state = "well"
    wait_until(lambda: not state_of(pool, "lost"))
    assert by(submit(pool)) == "lost"


def test_a_lost_proof_without_time_for_another_try_fails_within_its_deadline(pool: MultiHostPool, join: Join) -> None:
    [host] = join(SimulatedHost("lost", 0.1))
    host.seconds = 600.0
    answer = submit(pool, within=0.9, seconds=600.0)
    wait_until(lambda: bool(host.proving))
    host.state = "paused"
    result = answer.result(20)
    assert result.failure is FailureKind.WORKER_CRASHED
    assert "prover host lost" in result.detail


def test_a_hung_proof_ends_at_its_deadline(pool: MultiHostPool, join: Join) -> None:
    [host] = join(SimulatedHost("slow", 0.1))
    host.seconds = 60.0
    result = submit(pool, within=0.5).result(5)
    assert result.failure is FailureKind.TIMEOUT
    assert "slow" in result.detail
    wait_until(lambda: len(host.ended) == 1)


def test_what_no_other_host_can_make_in_time_this_one_makes(pool: MultiHostPool, join: Join) -> None:
    join(SimulatedHost("slow", 60.0))
    assert by(submit(pool, within=20.0)) == THIS_HOST  # once its worker, which a test before stopped, is there again


def test_a_disconnected_caller_cancels_the_proof_on_the_host(pool: MultiHostPool, join: Join) -> None:
    [host] = join(SimulatedHost("other", 5.0))
    made, waiting = submit(pool), submit(pool)
    wait_until(lambda: bool(host.proving))
    for one in (waiting, made):
        pool.cancel(one)
        assert one.result(5).failure is FailureKind.CANCELLED
    wait_until(lambda: len(host.ended) == 1)


@pytest.mark.parametrize("state", ["bad proof", "crashing proof"])
def test_a_host_whose_proof_does_not_verify_here_is_distrusted(
    pool: MultiHostPool, join: Join, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    join(SimulatedHost("liar", 0.05, state), SimulatedHost("honest", 0.5))
    assert by(submit(pool)) == "honest"
    assert state_of(pool, "liar") == "one of its proofs did not verify here"
    assert "a proof of prover host liar does not verify here" in caplog.text


@pytest.mark.parametrize("failure", ["worker_crashed", "internal_error", "verification_failed", "queue_full"])
def test_what_a_host_failed_another_one_tries(pool: MultiHostPool, join: Join, failure: str) -> None:
    join(SimulatedHost("failing", 0.05, failure), SimulatedHost("other", 0.5))
    assert by(submit(pool)) == "other"


def test_a_request_that_fails_on_two_hosts_is_answered_with_the_failure(pool: MultiHostPool, join: Join) -> None:
    hosts = join(*(SimulatedHost(f"failing {number}", 0.05, "worker_crashed") for number in range(3)))
    result = submit(pool).result(10)
    assert (result.failure, result.tries) == (FailureKind.WORKER_CRASHED, 2)
    assert result.detail in {f"{host.name} could not" for host in hosts}


def test_an_input_that_cannot_be_proved_is_tried_once(pool: MultiHostPool, join: Join) -> None:
    join(SimulatedHost("one", 0.05, "proving_failed"), SimulatedHost("other", 0.5))
    assert submit(pool).result(10).failure is FailureKind.PROVING_FAILED


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"release": "0.0.9-abc", "protocol": 0}, "it runs release 0.0.9-abc, the miner"),
        ({"ezkl": "21.0.0"}, "it has EZKL 21.0.0, the miner"),
        ({"circuits": {"c": "other files"}}, "it has no circuit in common"),
        ({"circuits": {}, "refused": {"c": "it does not verify"}}, "it has no circuit in common"),
        ({"draining": True}, "draining: it finishes its proofs and stops"),
    ],
)
def test_a_host_that_does_not_fit_gets_no_work_and_is_named(
    pool: MultiHostPool, join: Join, said: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER_NAME)
    host = SimulatedHost("other")
    host.say(**said)
    join(host, usable=False)
    wait_until(lambda: state_of(pool, "other").startswith(why))
    assert by(submit(pool)) == THIS_HOST
    assert f"Prover host other gets no work: {why}" in caplog.text
    if said.get("circuits"):
        assert "Prover host other does not prove circuit c: its files are not the miner's" in caplog.text


def test_during_an_upgrade_a_host_of_the_previous_release_continues_and_its_proofs_are_verified_here(
    pool: MultiHostPool, join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER_NAME)
    host = SimulatedHost("other")
    host.say(release="0.0.9-abc")
    join(host)
    answer = submit(pool)
    assert by(answer) == "other"
    assert answer.result().outputs == [2.0], "the outputs are what was verified here"
    assert "Prover host other proves 1 circuits with release 0.0.9-abc, the miner has" in caplog.text
    assert incompatibility(host.says, verified_again=True) == ""
    assert incompatibility(host.says, verified_again=False).startswith("it runs release 0.0.9-abc, the miner")


def test_messages_have_the_form_of_the_protocols_version() -> None:
    """Has one of these changed, so that hosts of the release before cannot work with this one? Then raise PROTOCOL."""
    methods = {name: getattr(ProverActor, name) for name in ("prove", "end", "report")}
    calls = {name: [*inspect.signature(method).parameters][1:] for name, method in methods.items()}
    classes = (HostReport, CircuitPace, ProofResult, Timings)
    fields = {one.__name__: [field.name for field in dataclasses.fields(one)] for one in classes}
    assert (PROTOCOL, calls, fields) == (
        1,
        {
            "prove": ["number", "circuit_id", "rows", "within"],
            "end": ["number"],
            "report": ["wanted", "last"],
        },
        {
            "HostReport": ["name", "release", "ezkl", "circuits", "ready", "free_bytes", "pace", "draining", "refused",
                           "protocol"],
            "CircuitPace": ["seconds", "at_a_time", "fastest", "peak_bytes"],
            "ProofResult": ["circuit_id", "label", "proof", "public_signals", "outputs", "verified", "failure",
                            "detail", "timings", "tries", "peak_memory_bytes"],
            "Timings": ["total_s", "queue_s", "input_s", "witness_s", "prove_s", "verify_s"],
        },
    )  # fmt: skip


def test_capacity_counts_the_hosts_that_may_get_work(pool: MultiHostPool, join: Join) -> None:
    alone = pool.capacity()
    join(SimulatedHost("one"), SimulatedHost("other", 5.0))
    assert pool.capacity()["workers"] == alone["workers"] + 2
    [this, *others] = [one for one in pool.hosts() if not one.left]
    assert this.address == ""
    pace = {"c": CircuitSeconds(0.05, 0.05)}
    expected = HostState("one", "one", True, "", others[0].since, 1, 1, 0, 0, 0, release=release(), pace=pace)
    assert others[0] == expected


def test_what_the_monitor_reads_names_each_host_and_those_that_left(tmp_path: Path) -> None:
    """Also those that left before the miner was restarted."""
    path = Log(directory=tmp_path).prover_hosts
    before = HostState("earlier", "e", True, "", time.time() - 9000, 1, 1, 1, 7, 1)
    write_status(path, ProversStatus(time.time() - 60, 0, (before, replace(before, name="back", address="back"))))
    door = Door()
    pool = new_pool(tmp_path, door)
    pool.start()
    try:
        host, back = SimulatedHost("p"), SimulatedHost("back")
        for one in (host, back):
            door.join(one)
        assert submit(pool).result(30).verified
        wait_until(lambda: {one.name: one.gets_work for one in read_status(path).hosts if not one.left}
                   == {"this host": True, "p": True, "back": True})  # fmt: skip
        (gone,) = (one for one in read_status(path).hosts if one.left)
        assert (gone.name, gone.state, gone.proofs) == ("earlier", "it has not joined", 0)
        wait_until(lambda: sum(one.proofs for one in read_status(path).hosts) == 1)
        host.state = "gone"
        wait_until(lambda: "connection refused" in [one.state for one in read_status(path).hosts if one.name == "p"])
        door.leave("p", "switched off")
        wait_until(lambda: "it left: switched off" in [one.state for one in read_status(path).hosts])
    finally:
        pool.close(0)
