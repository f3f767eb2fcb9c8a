"""What the numbers mean: rates, times, failures, the miner's life and the verdicts."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor_samples import GIB, NOW, host, life, request, summary_of
from omron_miner.events import FailureKind, RequestEvent
from omron_miner.monitor.model import SwapDevice, Verdict
from omron_miner.monitor.sketch import RELATIVE_ERROR
from omron_miner.monitor.summarize import LAST_ERRORS

if TYPE_CHECKING:
    from omron_miner.monitor.model import Summary

DAY = 86_400.0


def verdicts(summary: Summary) -> dict[str, str]:
    return {target.name: target.verdict.value for target in summary.verdict.targets}


def test_times_and_rate_are_those_of_the_requests() -> None:
    proofs = [10.0, 20.0, 25.0, 28.0]
    summary = summary_of(
        *(request(proof=proof, overhead=2.0) for proof in proofs), request(failure=FailureKind.TIMEOUT)
    )
    requests = summary.requests
    assert (requests.count, requests.succeeded, requests.success_percent, requests.timed) == (5, 4, 80.0, 4)
    assert requests.proof_seconds is not None
    assert requests.total_seconds is not None
    assert requests.overhead_seconds is not None
    assert requests.proof_seconds.mean == statistics.fmean(proofs)
    assert requests.proof_seconds.p50 == pytest.approx(20.0, rel=RELATIVE_ERROR)
    assert requests.proof_seconds.p95 == pytest.approx(28.0, rel=RELATIVE_ERROR)
    assert requests.total_seconds.max == 30.0
    assert requests.overhead_seconds.max == pytest.approx(2.0)


outcomes = st.builds(
    lambda verified, failure, circuit: (
        request(verified=verified, failure=None, circuit=circuit, circuit_id=circuit)
        if verified and failure is None
        else replace(request(circuit=circuit, circuit_id=circuit), verified=verified, failure=failure)
    ),
    st.booleans(),
    st.none() | st.sampled_from(FailureKind),
    st.sampled_from(["", "a v1 using EZKL", "b v2 using EZKL"]),
)


@settings(deadline=None)
@given(st.lists(outcomes, max_size=40))
def test_every_request_is_a_success_or_a_failure_of_one_kind_for_one_circuit(events: list[RequestEvent]) -> None:
    summary = summary_of(*events)
    requests = summary.requests
    assert requests.count == len(events) == requests.succeeded + sum(requests.failures.values())
    assert sum(one.requests.count for one in summary.circuits) == len(events)
    assert sum(one.requests.succeeded for one in summary.circuits) == requests.succeeded
    assert requests.timeouts == sum(event.failure is FailureKind.TIMEOUT for event in events)
    assert (requests.success_percent == 100.0) == (len(events) > 0 and requests.succeeded == len(events))


def test_no_data_is_neither_0_nor_100_percent_nor_met() -> None:
    summary = summary_of(life("started"))
    assert summary.requests.success_percent is None
    assert summary.requests.proof_seconds is None
    assert set(verdicts(summary).values()) == {"no_data"}
    assert {target.value for target in summary.verdict.targets} == {None}
    assert summary.verdict.overall is Verdict.NO_DATA
    assert summary.verdict.text == "NO DATA YET: no request in the window"


def test_all_targets_met() -> None:
    summary = summary_of(life("started"), request())
    assert set(verdicts(summary).values()) == {"met"}
    assert summary.verdict.overall is Verdict.MET
    assert summary.verdict.text == "TARGETS MET: 1 of 1 requests answered with a verified proof"
    assert summary.verdict.warnings == []


@pytest.mark.parametrize(
    ("proof", "overhead", "missed"),
    [
        (30.0, 1.0, set()),
        (30.001, 1.0, {"proof p95"}),
        (20.0, 4.999, set()),
        (20.0, 5.0, {"overhead p95"}),
        (29.0, 15.999, {"overhead p95"}),
        (29.0, 16.0, {"overhead p95", "total p95"}),
    ],
)
def test_a_target_is_missed_from_its_limit_on(proof: float, overhead: float, missed: set[str]) -> None:
    summary = summary_of(request(proof=proof, overhead=overhead))
    assert {name for name, verdict in verdicts(summary).items() if verdict == "missed"} == missed
    assert summary.verdict.overall is (Verdict.MISSED if missed else Verdict.MET)


def test_one_failure_among_thousands_misses_the_success_target() -> None:
    summary = summary_of(*[request()] * 4999, request(failure=FailureKind.VERIFICATION_FAILED))
    assert verdicts(summary)["success"] == "missed"
    assert summary.verdict.text == ("TARGETS MISSED: success; 4999 of 5000 requests answered with a verified proof")


def test_a_timeout_misses_two_targets_and_is_counted_in_both() -> None:
    summary = summary_of(request(), request(failure=FailureKind.TIMEOUT))
    assert [target.over for target in summary.verdict.targets] == [1, 0, 0, 0, 1]
    assert {name for name, verdict in verdicts(summary).items() if verdict == "missed"} == {"success", "timeouts"}


def test_when_every_request_failed_times_have_no_data_and_success_is_missed() -> None:
    summary = summary_of(request(failure=FailureKind.PROVING_FAILED))
    assert verdicts(summary) == {
        "success": "missed",
        "proof p95": "no_data",
        "overhead p95": "no_data",
        "total p95": "no_data",
        "timeouts": "met",
    }


def test_a_proof_that_verified_too_late_is_timed_but_no_success() -> None:
    summary = summary_of(replace(request(proof=60.0), failure=FailureKind.TIMEOUT))
    assert (summary.requests.succeeded, summary.requests.timed, summary.requests.timeouts) == (0, 1, 1)
    assert verdicts(summary)["total p95"] == "missed"


def test_an_operators_own_targets_are_used() -> None:
    events = [*[request(proof=40.0)] * 9, request(failure=FailureKind.TIMEOUT)]
    summary = summary_of(
        *events, target_success_percent=90.0, target_proof_seconds=40.0, target_total_seconds=42.0, target_timeouts=1
    )
    assert summary.verdict.overall is Verdict.MET


def test_requests_before_the_window_are_excluded_and_its_edge_is_included() -> None:
    events = request(time=NOW - DAY - 0.001, failure=FailureKind.TIMEOUT), request(time=NOW - DAY)
    summary = summary_of(*events, now=NOW + 599.0)
    assert (summary.requests.count, summary.requests.timeouts, summary.last_errors) == (1, 0, [])
    assert summary.window_start_utc == "2026-01-04T12:00:00Z"


def test_requests_dated_in_the_future_are_counted_and_reported() -> None:
    summary = summary_of(request(time=NOW + 7200), request(time=NOW + 1))
    assert (summary.requests.count, summary.log.future_events) == (2, 1)
    assert any("in the future" in warning for warning in summary.verdict.warnings)


def test_a_date_beyond_the_calendar_counts_in_the_minute_of_the_run_that_read_it() -> None:
    summary = summary_of(request(time=1e18, failure=FailureKind.TIMEOUT))
    assert summary.requests.last_utc == summary.last_errors[0].utc == "2026-01-05T12:00:00Z"


def test_circuits_are_counted_separately_busiest_first() -> None:
    other: dict[str, Any] = {"circuit_id": "cd" * 32, "circuit": "tiny v1 using EZKL"}
    summary = summary_of(request(), request(**other), request(failure=FailureKind.TIMEOUT, **other), request(**other))
    assert [(one.circuit, one.requests.count, one.requests.succeeded) for one in summary.circuits] == [
        ("tiny v1 using EZKL", 3, 2),
        ("age v0.1.0 using EZKL", 1, 1),
    ]


def test_callers_cannot_fill_memory_with_circuits_that_do_not_exist() -> None:
    unknown = [
        request(circuit="", circuit_id=f"{number}", failure=FailureKind.UNKNOWN_CIRCUIT) for number in range(1000)
    ]
    assert [one.requests.count for one in summary_of(*unknown).circuits] == [1000]


def test_the_last_errors_are_the_last_ones_the_newest_first() -> None:
    errors = [request(time=NOW - 500 + number, failure=FailureKind.TIMEOUT) for number in range(20)]
    found = summary_of(*errors, request()).last_errors
    assert len(found) == LAST_ERRORS
    assert found[0].request_id == errors[-1].request_id
    assert (found[0].failure, found[0].detail) == ("timeout", "because timeout")


def test_constant_outputs_are_counted() -> None:
    assert summary_of(request(constant_output=True), request()).requests.constant_outputs == 1


@pytest.mark.parametrize(
    ("whats", "restarts", "crashes"),
    [
        ((), 0, 0),
        (("started",), 0, 0),
        (("started", "stopping", "stopped", "started"), 1, 0),
        (("started", "stopping", "started"), 1, 0),
        (("started", "started", "started"), 2, 2),
        (("stopped", "started"), 1, 0),
        (("started", "worker_lost", "started"), 1, 1),
    ],
)
def test_restarts_and_crashes_are_reported_separately(whats: tuple[str, ...], restarts: int, crashes: int) -> None:
    miner = summary_of(*(life(what) for what in whats)).miner
    assert (miner.restarts, miner.crashes) == (restarts, crashes)


def test_a_start_after_requests_is_a_restart_though_no_start_is_in_the_window() -> None:
    assert summary_of(request(time=NOW - 90), life("started", NOW - 80)).miner.restarts == 1


def test_a_start_before_the_window_is_no_restart_but_tells_that_a_later_one_was_a_crash() -> None:
    miner = summary_of(life("started", NOW - 2 * DAY), life("started", NOW - 60)).miner
    assert (miner.restarts, miner.crashes) == (1, 1)


def test_workers_lost_in_the_window_are_counted() -> None:
    events = (life("worker_lost", NOW - 2 * DAY), life("started"), life("worker_lost"))
    assert summary_of(*events).miner.workers_lost == 1


@pytest.mark.parametrize(
    ("changes", "events", "reason"),
    [
        ({"miner": None}, [life("started")], "no process 'omron-miner serve'"),
        ({"port_listening": False}, [life("started")], "nothing listens on port 8091"),
        ({}, [life("started"), life("stopped", detail="no SRS")], "its log ends with 'stopped'"),
        ({}, [life("stopping")], "its log ends with 'stopping'"),
    ],
)
def test_a_miner_that_does_not_run_is_the_verdict_whatever_it_did_before(
    changes: dict[str, object], events: list[RequestEvent], reason: str
) -> None:
    summary = summary_of(request(), *events, on=host(**changes))
    assert summary.verdict.overall is Verdict.NOT_RUNNING
    assert summary.verdict.text.startswith("MINER NOT RUNNING: ")
    assert reason in summary.verdict.text
    assert not summary.miner.running


def test_why_the_miner_stopped_is_reported() -> None:
    assert "no SRS" in summary_of(life("stopped", detail="no SRS")).verdict.text


def test_a_port_that_cannot_be_seen_is_no_reason_to_say_that_the_miner_is_down() -> None:
    assert summary_of(request(), on=host(port_listening=None)).verdict.overall is Verdict.MET


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"swap": [SwapDevice("/dev/sda2", GIB, 0)]}, "swap is on: /dev/sda2"),
        ({"cpu": replace(host().cpu, governors={"0": "performance", "1": "powersave"})}, "governor is powersave"),
        ({"memory": replace(host().memory, available_bytes=GIB)}, "memory nearly full"),
        ({"disks": [replace(host().disks[0], free_bytes=GIB)]}, "disk nearly full: /var/lib/omron-miner"),
        ({"ram_disk": None}, "is unknown"),
    ],
)
def test_a_threat_to_the_targets_is_a_warning(changes: dict[str, object], warning: str) -> None:
    summary = summary_of(request(), on=host(**changes))
    assert any(warning in found for found in summary.verdict.warnings)
    assert summary.verdict.overall is Verdict.MET


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"filesystem": "ext4"}, "not on a RAM disk"),
        ({"free_bytes": 1024}, "is full"),
        ({"oldest_session_file_seconds": 3600.0}, "left behind"),
    ],
)
def test_a_ram_disk_that_threatens_the_targets_is_a_warning(changes: dict[str, object], warning: str) -> None:
    disk = host().ram_disk
    assert disk is not None
    summary = summary_of(request(), on=host(ram_disk=replace(disk, **changes)))  # type: ignore[arg-type]
    assert [found for found in summary.verdict.warnings if warning in found]
