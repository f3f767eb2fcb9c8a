"""Why is it slow, why does it fail, what does memory do: causes where there is evidence, none where there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from monitor_samples import GIB, NOW, constants, host, memory_history, request, take_events
from omron_miner.circuits.needs import needs
from omron_miner.events import FailureKind
from omron_miner.monitor.answers import answer
from omron_miner.monitor.model import LogState, Memory, Pressure, SwapDevice, Versions
from omron_miner.monitor.summarize import summarize
from summary_samples import sample_summary

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.events import RequestEvent
    from omron_miner.monitor.history import History
    from omron_miner.monitor.model import Answer, Host

VERIFICATION, TIMEOUT = FailureKind.VERIFICATION_FAILED, FailureKind.TIMEOUT
SLOW = [request(time=NOW - 60 * number, proof=44.0, overhead=3.0) for number in range(30)]
OTHER: dict[str, Any] = {"circuit_id": "cd" * 32, "circuit": "tiny v1 using EZKL"}


def answers(
    directory: Path,
    events: list[RequestEvent],
    on: Host | None = None,
    look: dict[str, float | None] | None = None,
    history: History | None = None,
    versions: Versions | None = None,
) -> dict[str, Answer]:
    """The answers by question; `look` is the reading of the host in every minute of the last hour."""
    history = history or memory_history()
    take_events(history, events)
    for minute in range(60):
        history.add_sample(
            NOW - 60 * minute, {"cpu_percent": 80.0, "miner_cpu_percent": 78.0, "iowait_percent": 0.0, **(look or {})}
        )
    settings = constants(directory)
    settings = settings.model_copy(
        update={"circuits": settings.circuits.model_copy(update={"directory": directory / "circuits"})}
    )
    log = LogState("", "read")
    summary = summarize(history, log, on or host(), versions or sample_summary().versions, settings, NOW)
    return {one.question: one for one in answer(history, summary, settings)}


def names(answer: Answer) -> list[str]:
    return [cause.name for cause in answer.causes]


TROUBLE: dict[str, tuple[dict[str, Any], dict[str, float | None]]] = {
    "cpu_busy": ({}, {"cpu_percent": 99.0, "miner_cpu_percent": 40.0}),
    "cpu_stolen": ({}, {"steal_percent": 20.0}),
    "governor": ({"cpu": replace(host().cpu, governors={"0": "powersave"})}, {}),
    "memory_pressure": ({"pressure": Pressure(0.0, 30.0, 0.0)}, {}),
    "temporary_files": ({"ram_disk": replace(host().ram_disk, oldest_session_file_seconds=9000.0)}, {}),  # type: ignore[type-var]
    "no_ram_disk": ({"ram_disk": replace(host().ram_disk, filesystem="ext4")}, {}),  # type: ignore[type-var]
    "disk_io": ({"pressure": Pressure(0.0, 0.0, 40.0)}, {}),
    "cold_keys": ({}, {"miner_read_bytes_per_second": 2e8}),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_slow_answers_are_explained_by_what_was_measured(tmp_path: Path, name: str) -> None:
    changes, look = TROUBLE[name]
    slow = answers(tmp_path, SLOW, host(**changes), look)["slow"]
    assert slow.asked
    assert [cause for cause in names(slow) if cause != "large_circuit"] == [name]
    assert slow.causes[0].evidence
    assert any(character.isdigit() for character in " ".join(slow.causes[0].evidence))
    assert slow.causes[0].command


@pytest.mark.parametrize("name", TROUBLE)
def test_fast_answers_need_no_explanation_whatever_the_host_does(tmp_path: Path, name: str) -> None:
    changes, look = TROUBLE[name]
    slow = answers(tmp_path, [request()], host(**changes), look)["slow"]
    assert not slow.asked
    assert slow.causes == []


def test_several_causes_are_all_named(tmp_path: Path) -> None:
    swapping = host(swap=[SwapDevice("/dev/sda2", GIB, GIB)], pressure=Pressure(0.0, 0.0, 40.0))
    assert set(names(answers(tmp_path, SLOW, swapping)["slow"])) >= {"memory_pressure", "disk_io"}


def test_requests_that_wait_for_each_other_are_queueing(tmp_path: Path) -> None:
    timings = replace(request().timings, queue_s=12.0, total_s=50.0)
    waiting = [request(time=NOW - number, timings=timings) for number in range(20)]
    refused = request(failure=FailureKind.QUEUE_FULL)
    slow = answers(tmp_path, [*waiting, refused])["slow"]
    assert names(slow) == ["queueing"]
    assert slow.causes[0].evidence[0].startswith("5 % of the requests waited 12.0 s")
    assert slow.causes[0].evidence[1] == "1 of 21 were refused because none became free"


def test_a_circuit_is_too_large_only_if_the_miner_had_the_processors_to_itself(tmp_path: Path) -> None:
    assert names(answers(tmp_path, SLOW)["slow"]) == ["large_circuit"]
    busy: dict[str, float | None] = {"cpu_percent": 99.0, "miner_cpu_percent": 40.0}
    assert "large_circuit" not in names(answers(tmp_path, SLOW, look=busy)["slow"])


def test_a_host_that_was_busy_only_while_nothing_was_proved_is_no_cause(tmp_path: Path) -> None:
    history = memory_history()
    for minute in range(30, 60):
        history.add_sample(NOW - 60 * minute, {"cpu_percent": 100.0, "miner_cpu_percent": 0.0})
    proved = [request(time=NOW - 60 * number, proof=44.0, overhead=3.0) for number in range(20)]
    assert "cpu_busy" not in names(answers(tmp_path, proved, history=history)["slow"])


def test_a_symptom_without_evidence_gets_no_cause_but_a_command(tmp_path: Path) -> None:
    slow = answers(tmp_path, [request(overhead=8.0)] * 3)["slow"]
    assert slow.asked
    assert slow.symptom == "overhead p95 is 8.0 s, target < 5 s"
    assert slow.causes == []
    assert slow.command


# --- failed ---------------------------------------------------------------------------------------------------------


def failed(tmp_path: Path, *events: RequestEvent, **more: Any) -> Answer:
    return answers(tmp_path, list(events), **more)["failed"]


def test_without_a_failed_proof_nothing_is_asked(tmp_path: Path) -> None:
    found = failed(tmp_path, request(), request(failure=FailureKind.QUEUE_FULL))
    assert (found.asked, found.causes) == (False, [])


def test_a_failing_circuit_whose_files_changed_is_named_with_the_change(tmp_path: Path) -> None:
    history = memory_history()
    change = [f"circuit {'ab' * 32}", "5 files, 900 bytes", "5 files, 901 bytes"]
    history.add_entries("change", 50, [(NOW - 600, change), (NOW - 600, ["circuit " + "cd" * 32, "a", "b"])])
    found = failed(tmp_path, request(failure=VERIFICATION), request(**OTHER), history=history)
    assert names(found) == ["circuit_changed", "logged_error"]
    assert found.causes[0].evidence == [
        "2026-01-05T11:50:00Z: 5 files, 900 bytes became 5 files, 901 bytes",
        "1 of its 1 requests failed",
    ]
    assert found.causes[0].command == f"omron-miner circuit check --circuit {'ab' * 32}"


def test_a_circuit_of_which_nothing_verifies_while_others_do_is_wrong(tmp_path: Path) -> None:
    found = failed(tmp_path, *[request(failure=VERIFICATION)] * 3, request(**OTHER))
    assert names(found)[0] == "circuit_wrong"
    some = failed(tmp_path, *[request(failure=VERIFICATION)] * 3, request(), request(**OTHER))
    assert "circuit_wrong" not in names(some)


def test_a_circuit_of_another_ezkl_is_named_with_both_versions(tmp_path: Path) -> None:
    folder = tmp_path / "circuits" / f"model_{'ab' * 32}"
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({"version": "23.0.5"}))
    found = failed(tmp_path, request(failure=VERIFICATION))
    assert names(found)[0] == "ezkl_version"
    assert found.causes[0].evidence == [
        "age v0.1.0 using EZKL was compiled by EZKL 23.0.5, but 22.0.1 is installed"
    ]  # fmt: skip
    (folder / "settings.json").write_text(json.dumps({"version": "22.0.1"}))
    assert "ezkl_version" not in names(failed(tmp_path, request(failure=VERIFICATION)))


def test_an_ezkl_that_was_changed_or_is_missing_is_a_cause(tmp_path: Path) -> None:
    history = memory_history()
    history.add_entries("change", 50, [(NOW - 600, ["EZKL", "22.0.1", "22.0.3"])])
    assert "ezkl_version" in names(failed(tmp_path, request(failure=VERIFICATION), history=history))
    without = replace(sample_summary().versions, ezkl=None)
    assert "ezkl_version" in names(failed(tmp_path, request(failure=VERIFICATION), versions=without))


def test_dying_workers_on_a_full_host_are_a_lack_of_resources(tmp_path: Path) -> None:
    full = host(memory=replace(host().memory, available_bytes=GIB))
    found = failed(tmp_path, request(failure=FailureKind.WORKER_CRASHED, detail=""), on=full)
    assert names(found) == ["resources"]
    assert found.causes[0].text == "the host ran out of memory or disk"
    found = failed(tmp_path, request(failure=FailureKind.WORKER_CRASHED, detail=""))
    assert found.causes[0].text == "worker processes died"


def test_the_commonest_logged_error_is_quoted(tmp_path: Path) -> None:
    events = [request(failure=VERIFICATION, detail=detail) for detail in ("rare", "common", "common")]
    (cause,) = failed(tmp_path, *events).causes
    assert (cause.name, cause.evidence) == ("logged_error", ["2 of the last 3 such errors: common"])


@pytest.mark.parametrize("circuit_id", ["../../etc", "", "/etc/passwd"])
def test_a_callers_text_is_no_path(tmp_path: Path, circuit_id: str) -> None:
    event = request(failure=VERIFICATION, circuit_id=circuit_id, circuit="x")
    assert names(failed(tmp_path, event)) == ["logged_error"]


# --- memory ---------------------------------------------------------------------------------------------------------


def test_enough_memory_needs_no_explanation(tmp_path: Path) -> None:
    memory = answers(tmp_path, [request()])["memory"]
    assert (memory.asked, memory.causes) == (False, [])


def test_a_main_process_that_grows_is_named_with_its_sizes(tmp_path: Path) -> None:
    history = memory_history()
    for hour in range(1, 27):
        history.add_sample(NOW - hour * 3600, {"main_resident_bytes": GIB * (2 - hour / 26)})
    miner = sample_summary().host.miner
    assert miner is not None
    on = host(miner=replace(miner, uptime_seconds=200_000.0))
    memory = answers(tmp_path, [], on, {"main_resident_bytes": 2.0 * GIB}, history)["memory"]
    assert names(memory) == ["main_process"]
    assert "in 24 h" in memory.symptom
    assert "main 812: 350.0 MiB" in memory.causes[0].evidence


def test_files_left_on_the_ram_disk_are_memory(tmp_path: Path) -> None:
    disk = host().ram_disk
    assert disk is not None
    left = host(ram_disk=replace(disk, oldest_session_file_seconds=9000.0))
    assert names(answers(tmp_path, [], left)["memory"]) == ["ram_disk_files"]


def test_a_key_that_does_not_fit_is_too_little_memory(tmp_path: Path) -> None:
    large = host(circuit_keys_bytes={"ab" * 32: 25 * GIB})
    memory = answers(tmp_path, [request()], large)["memory"]
    assert names(memory) == ["too_little_memory"]
    assert memory.causes[0].evidence[1] == "memory is 32.0 GiB"


def test_the_memory_a_proof_needs_is_what_the_preflight_and_the_doctor_say(tmp_path: Path) -> None:
    least = needs(20 * GIB, 20, 0).memory_low
    for total, found in ((least - 1, ["too_little_memory"]), (least, [])):
        there = host(circuit_keys_bytes={"ab" * 32: 20 * GIB}, memory=Memory(total, total))
        assert names(answers(tmp_path, [request()], there)["memory"]) == found


def test_a_circom_key_is_not_checked_against_the_needs_of_ezkl(tmp_path: Path) -> None:
    large = host(circuit_keys_bytes={"ab" * 32: 25 * GIB})
    asked = [replace(request(), circuit="weights v1 using CIRCOM")]
    assert names(answers(tmp_path, asked, large)["memory"]) == []
