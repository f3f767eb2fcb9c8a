"""The events and the log lines: an interface that operators' scripts and the monitor read."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omron_miner.constants import Log
from omron_miner.events import (
    MAX_TEXT,
    EventLog,
    FailureKind,
    LifecycleEvent,
    RequestEvent,
    Timings,
    from_json,
    log_problems,
    to_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CIRCUIT = "age v0.1.0 using EZKL"
TIMINGS = Timings(total_s=25.123, queue_s=0.2, input_s=0.4, witness_s=1.456, prove_s=21.0, verify_s=0.9)


def request(**changes: object) -> RequestEvent:
    fields: dict[str, object] = {
        "time": 1_767_614_400.25,
        "request_id": "a1",
        "synapse": "QueryZkProof",
        "validator_hotkey": "5" + "F" * 47,
        "circuit_id": "ab" * 32,
        "circuit": CIRCUIT,
        "verified": True,
        "failure": None,
        "detail": "",
        "timings": TIMINGS,
        "tries": 1,
        "proof_bytes": 31_000,
    }
    return RequestEvent(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(directory=tmp_path)


@pytest.fixture
def event_log(log: Log) -> Iterator[EventLog]:
    opened = EventLog(log)
    yield opened
    opened.close()


def lines_of(log: Log) -> list[str]:
    """The miner's lines without their time."""
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z \| "
    found = log.miner_log.read_text(encoding="utf-8").splitlines()
    assert all(re.match(stamp, line) for line in found), found
    return [re.sub(stamp, "", line, count=1) for line in found]


def test_a_verified_request_leaves_the_two_lines_that_operators_grep_for(event_log: EventLog, log: Log) -> None:
    event_log.request(request())
    assert lines_of(log) == [
        "INFO | ✅ Optimized proof completed for age v0.1.0 using EZKL",
        "INFO | Optimized response - Total: 25.123s, Proof: 22.456s, Overhead: 2.667s",
    ]


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        (FailureKind.VERIFICATION_FAILED, f"ERROR | Proof verification failed: {CIRCUIT}: why"),
        (FailureKind.TIMEOUT, f"ERROR | Response time is greater than circuit timeout: {CIRCUIT}: why"),
        (FailureKind.QUEUE_FULL, f"ERROR | Request failed (queue_full): {CIRCUIT}: why"),
    ],
)
def test_a_failed_request_says_how(event_log: EventLog, log: Log, failure: FailureKind, line: str) -> None:
    event_log.request(request(verified=False, failure=failure, detail="why"))
    assert lines_of(log) == [line]


def test_a_constant_output_is_pointed_out(event_log: EventLog, log: Log) -> None:
    event_log.request(request(constant_output=True))
    assert lines_of(log)[-1] == f"WARNING | Detected constant output from circuit: {CIRCUIT}"


def test_a_caller_cannot_forge_a_line(event_log: EventLog, log: Log) -> None:
    forged = "x\n2026-01-01 00:00:00.000Z | INFO | \x1b[32m✅ Optimized proof completed for y\u2028"
    event_log.request(request(circuit="", circuit_id=forged, verified=False, failure=FailureKind.UNKNOWN_CIRCUIT))
    assert len(lines_of(log)) == 1
    assert "\x1b" not in lines_of(log)[0]


def test_a_callers_half_character_and_megabyte_do_not_cost_the_event(event_log: EventLog, log: Log) -> None:
    event_log.request(request(circuit="", circuit_id="\ud800" + "x" * 1_000_000, verified=False))
    event = from_json(log.events.read_text(encoding="utf-8"))
    assert isinstance(event, RequestEvent)
    assert len(event.circuit_id) == MAX_TEXT
    assert log.miner_log.stat().st_size < 5000


def test_a_life_event_is_a_line_and_an_event(event_log: EventLog, log: Log) -> None:
    event_log.life("started", "on port 8091", port=8091)
    assert lines_of(log) == ["INFO | started: on port 8091"]
    event = from_json(log.events.read_text())
    assert isinstance(event, LifecycleEvent)
    assert (event.what, event.detail, event.fields) == ("started", "on port 8091", {"port": 8091})


def test_writing_continues_in_a_new_file_after_rotation(event_log: EventLog, log: Log) -> None:
    event_log.request(request(request_id="before"))
    log.events.rename(log.directory / "events.jsonl.1")
    event_log.request(request(request_id="after"))
    assert '"before"' in (log.directory / "events.jsonl.1").read_text()
    assert '"after"' in log.events.read_text()


def test_a_line_left_half_written_by_a_killed_miner_does_not_swallow_the_next(log: Log) -> None:
    log.events.write_text(to_json(request())[:50])
    after = EventLog(log)
    after.request(request(request_id="next"))
    after.close()
    half, whole = log.events.read_text().splitlines()
    assert from_json(half) is None
    assert from_json(whole) == request(request_id="next")


def remove(log: Log) -> None:
    shutil.rmtree(log.directory)


def put_back(log: Log) -> None:
    log.directory.mkdir()


def block(log: Log) -> None:
    """As a name that cannot be opened: rotated, and no file may be made in its place."""
    for path in (log.events, log.miner_log):
        path.unlink()
        path.mkdir()


def unblock(log: Log) -> None:
    log.events.rmdir()
    log.miner_log.rmdir()


@pytest.mark.parametrize(("spoil", "mend"), [(remove, put_back), (block, unblock)])
def test_a_log_that_cannot_be_written_is_said_once_and_taken_up_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Log], None], mend: Callable[[Log], None]
) -> None:
    log = Log(directory=tmp_path / "log")
    log.directory.mkdir()
    event_log = EventLog(log)
    spoil(log)
    for _ in range(3):
        event_log.life("worker_lost", "nobody may die of this")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert all("cannot be written" in line for line in said)
    mend(log)
    event_log.life("started")
    assert len(capsys.readouterr().err.splitlines()) == 2
    event_log.close()
    gap, started = map(from_json, log.events.read_text().splitlines())
    assert isinstance(gap, LifecycleEvent)
    assert (gap.what, gap.fields) == ("events_lost", {"lost": 3})
    assert isinstance(started, LifecycleEvent)
    assert "3 lines were lost" in lines_of(log)[0]


def test_what_is_logged_while_a_rotated_log_cannot_be_made_again_goes_to_the_old_one(tmp_path: Path) -> None:
    log = Log(directory=tmp_path)
    event_log = EventLog(log)
    log.events.rename(tmp_path / "events.jsonl.1")
    log.events.mkdir()
    event_log.life("started")
    event_log.close()
    assert from_json((tmp_path / "events.jsonl.1").read_text()) is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system takes root")
def test_a_full_disk_costs_the_events_that_do_not_fit_and_no_other(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=True)
    try:
        log = Log(directory=tmp_path)
        event_log = EventLog(log)
        filler = tmp_path / "filler"
        event_log.request(request(detail="x" * 900))
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        for _ in range(8):  # the last page takes some, one of them in part
            event_log.request(request(detail="x" * 900))
        assert log_problems(log) == [f"{tmp_path} has no space left"]
        filler.unlink()
        event_log.request(request(request_id="after"))
        event_log.close()
        *kept, gap, after = [event for event in map(from_json, log.events.read_text().splitlines()) if event]
        assert isinstance(gap, LifecycleEvent)
        assert gap.fields["lost"] == 9 - len(kept)
        assert after == request(request_id="after")
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_a_patient_log_is_opened_when_it_can_be(tmp_path: Path) -> None:
    log = Log(directory=tmp_path / "later")
    event_log = EventLog(log, patient=True)
    event_log.life("worker_lost")
    log.directory.mkdir()
    event_log.life("started")
    event_log.close()
    assert "started" in lines_of(log)[-1]


def test_the_files_tell_whether_the_miner_can_write_them(tmp_path: Path) -> None:
    log = Log(directory=tmp_path / "log")
    assert log_problems(log) == [f"{tmp_path / 'log'} cannot be used: No such file or directory"]
    log.directory.mkdir()
    assert log_problems(log) == []
    log.events.touch(mode=0o400)
    assert log_problems(log) == ["events.jsonl cannot be written by the directory's owner"]
    log.directory.chmod(0o500)
    assert len(log_problems(log)) == 2


def test_a_missing_log_directory_is_an_immediate_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        EventLog(Log(directory=tmp_path / "missing"))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "null",
        "[]",
        "7",
        "{}",
        "[" * 100_000,
        '{"v":2,"event":"life","time":1,"what":"started","detail":"","fields":{}}',
        '{"v":1,"event":"other","time":1}',
        '{"v":1,"event":"life","time":NaN,"what":"started","detail":"","fields":{}}',
        '{"v":1,"event":"life","time":1e999,"what":"started","detail":"","fields":{}}',
        '{"v":1,"event":"life","time":"soon","what":"started","detail":"","fields":{}}',
        '{"v":1,"event":"life","time":' + "9" * 400 + ',"what":"started","detail":"","fields":{}}',
        to_json(request()).replace('"failure":null', '"failure":"new kind"'),
        to_json(request()).replace('"total_s":25.123', '"total_s":null'),
        to_json(request()).replace('"total_s":25.123', '"total_s":Infinity'),
        to_json(request()).replace('"timings":', '"times":'),
    ],
)
def test_a_line_that_is_no_event_is_none_and_no_exception(line: str) -> None:
    assert from_json(line) is None


seconds = st.floats(0, 1e6).map(lambda value: round(value, 6))
text = st.text(max_size=40)
requests = st.builds(
    RequestEvent,
    time=st.floats(0, 4e9),
    request_id=text,
    synapse=text,
    validator_hotkey=text,
    circuit_id=text,
    circuit=text,
    verified=st.booleans(),
    failure=st.none() | st.sampled_from(FailureKind),
    detail=text,
    timings=st.builds(
        Timings,
        total_s=seconds,
        queue_s=seconds,
        input_s=seconds,
        witness_s=seconds,
        prove_s=seconds,
        verify_s=seconds,
    ),
    tries=st.integers(0, 9),
    proof_bytes=st.integers(0, 10**9),
    constant_output=st.booleans(),
)
lives = st.builds(
    LifecycleEvent, time=st.floats(0, 4e9), what=text, detail=text, fields=st.dictionaries(text, text | st.integers())
)


@given(requests | lives)
def test_an_event_is_one_line_and_comes_back_as_it_was(event: RequestEvent | LifecycleEvent) -> None:
    line = to_json(event)
    assert "\n" not in line
    assert from_json(line) == event


@given(requests, st.data())
def test_a_part_of_an_event_is_no_event(event: RequestEvent, data: st.DataObject) -> None:
    line = to_json(event)
    assert from_json(line[: data.draw(st.integers(0, len(line) - 1))]) is None


def test_the_event_has_proof_and_overhead_next_to_the_phases() -> None:
    timings = json.loads(to_json(request()))["timings"]
    assert timings["proof_s"] == 22.456
    assert timings["overhead_s"] == 2.667
