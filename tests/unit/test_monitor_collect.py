"""Reading the event log: only what is new, across rotation, truncation, broken lines; nothing lost or counted twice."""

from __future__ import annotations

import gzip
import os
import tempfile
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor_samples import NOW, life, request, write_events
from omron_miner.constants import Log
from omron_miner.events import EventLog, RequestEvent, to_json
from omron_miner.monitor.collect import MAX_LINE_BYTES, LogReader, list_log_files
from users import without_roots_rights

if TYPE_CHECKING:
    from collections.abc import Callable

    from omron_miner.monitor.collect import FileStatus
    from omron_miner.monitor.model import LogState


class Reading:
    """Run after run over one log, keeping the positions as the history does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reader = LogReader(path, 0.0, [])

    def run(self, since: float = 0.0, budget: float = float("inf")) -> list[str]:
        """The ids of the requests that are new."""
        self.reader = LogReader(self.path, since, list(self.reader.positions.values()), budget)
        return [event.request_id for event in self.reader if isinstance(event, RequestEvent)]

    @property
    def state(self) -> LogState:
        return self.reader.state


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def reading(log: Path) -> Reading:
    return Reading(log)


def lines(*ids: str) -> str:
    return "".join(f"{to_json(request(request_id=one))}\n" for one in ids)


def append(path: Path, *ids: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(lines(*ids))


def compress(path: Path, to: Path) -> None:
    """As logrotate does: into a new file, the old one removed, its time kept."""
    status = path.stat()
    to.write_bytes(gzip.compress(path.read_bytes()))
    os.utime(to, ns=(status.st_atime_ns, status.st_mtime_ns))
    path.unlink()


def test_what_the_miner_writes_is_read_across_a_rotation_and_a_compression(log: Path, reading: Reading) -> None:
    for batch in range(3):
        writer = EventLog(Log(directory=log.parent))
        for number in range(4):
            writer.request(request(request_id=f"{batch}-{number}"))
        writer.close()
        if batch == 0:
            compress(log, log.parent / "events.jsonl.2.gz")
        elif batch == 1:
            log.rename(log.parent / "events.jsonl.1")
    assert reading.run() == [f"{batch}-{number}" for batch in range(3) for number in range(4)]
    state = reading.state
    assert (state.state, state.files, state.lines, state.unreadable_lines) == ("read", 3, 12, 0)


def test_a_second_run_reads_only_what_was_appended_and_opens_nothing_else(log: Path, reading: Reading) -> None:
    append(log.parent / "events.jsonl.1", "old")
    append(log, "a", "b")
    assert reading.run() == ["old", "a", "b"]
    assert reading.run() == []
    assert reading.state.files == 0
    append(log, "c")
    assert reading.run() == ["c"]
    assert (reading.state.files, reading.state.lines) == (1, 1)


def test_what_was_appended_before_a_rotation_is_read_after_it(log: Path, reading: Reading) -> None:
    append(log, "a")
    assert reading.run() == ["a"]
    append(log, "b")
    log.rename(log.parent / "events.jsonl.1")
    append(log, "c")
    assert reading.run() == ["b", "c"]
    append(log.parent / "events.jsonl.1", "late")  # the miner still had it open
    assert reading.run() == ["late"]
    compress(log.parent / "events.jsonl.1", log.parent / "events.jsonl.2.gz")
    assert reading.run() == []


def test_a_compressed_file_is_read_on_from_where_its_original_was_left(log: Path, reading: Reading) -> None:
    append(log, "a")
    assert reading.run() == ["a"]
    append(log, "b")
    compress(log, log.parent / "events.jsonl.1.gz")
    assert reading.run() == ["b"]
    assert reading.run() == []


def test_a_log_that_is_copied_and_truncated_is_read_once(log: Path, reading: Reading) -> None:
    append(log, "a", "b")
    assert reading.run() == ["a", "b"]
    append(log, "c")
    (log.parent / "events.jsonl.1").write_bytes(log.read_bytes())
    assert reading.run() == ["c"]  # in the moment between
    log.write_bytes(b"")
    assert reading.run() == []
    append(log, "d")
    assert reading.run() == ["d"]
    assert reading.reader.cut == []


@pytest.mark.parametrize("appended", [(), ("new", "newer", "newest")], ids=["shorter", "grown again"])
def test_a_log_truncated_in_place_counts_nothing_twice_and_is_reported(
    log: Path, reading: Reading, appended: tuple[str, ...]
) -> None:
    append(log, "a", "b", "c")
    assert reading.run() == ["a", "b", "c"]
    with log.open("r+b") as file:
        file.truncate(len(lines("a")))
    append(log, *appended)
    assert not {"a", "b", "c"} & set(reading.run())
    assert len(reading.reader.cut) == 1
    append(log, "after")
    assert reading.run() == ["after"]
    assert reading.reader.cut == []


ACTIONS = st.lists(
    st.sampled_from(["append", "append", "half", "finish", "rotate", "compress", "copytruncate", "run", "small run"]),
    max_size=25,
)


@given(ACTIONS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_to_the_files_every_event_is_read_exactly_once(tmp_path: Path, actions: list[str]) -> None:
    for file in tmp_path.iterdir():
        file.unlink()
    log = tmp_path / "events.jsonl"
    reading, half = Reading(log), ""
    written: list[str] = []
    read: list[str] = []
    for action in [*actions, "finish", "run"]:
        if half and action not in ("finish", "run", "small run"):
            continue  # a line is written in one go but for the moments in which the monitor may look
        if action == "append":
            written.append(f"{len(written)}")
            append(log, written[-1])
        elif action == "half":
            written.append(f"{len(written)}")
            half = lines(written[-1])
            with log.open("a") as stream:
                stream.write(half[:200])
            half = half[200:]
        elif action == "finish" and half:
            with log.open("a") as stream:
                stream.write(half)
            half = ""
        elif action == "rotate" and log.exists():
            for number in range(8, 0, -1):
                for end in ("", ".gz"):
                    old = tmp_path / f"events.jsonl.{number}{end}"
                    if old.exists():
                        old.rename(tmp_path / f"events.jsonl.{number + 1}{end}")
            log.rename(tmp_path / "events.jsonl.1")
        elif action == "compress" and (tmp_path / "events.jsonl.2").exists():
            compress(tmp_path / "events.jsonl.2", tmp_path / "events.jsonl.2.gz")
        elif action == "copytruncate" and log.exists() and not (tmp_path / "events.jsonl.1").exists():
            (tmp_path / "events.jsonl.1").write_bytes(log.read_bytes())
            log.write_bytes(b"")
        elif action == "run":
            read += reading.run()
        elif action == "small run":
            read += reading.run(budget=700)
    while reading.state.unread_bytes:
        read += reading.run()
    read += reading.run()
    assert sorted(read, key=int) == written
    assert reading.reader.cut == []


@given(count=st.integers(1, 5), data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_log_being_written_anywhere_loses_nothing_once_it_is_whole(
    log: Path, count: int, data: st.DataObject
) -> None:
    whole = lines(*(f"{number}" for number in range(count))).encode()
    cut = data.draw(st.integers(0, len(whole)), "bytes written so far")
    log.write_bytes(whole[:cut])
    reading = Reading(log)
    first = reading.run()
    assert len(first) == whole[:cut].count(b"\n")
    assert reading.state.unreadable_lines == 0
    log.write_bytes(whole)
    assert first + reading.run() == [f"{number}" for number in range(count)]


def test_a_half_written_line_counts_once_it_is_whole(log: Path, reading: Reading) -> None:
    line = lines("slow")
    log.write_text(lines("first") + line[:100])
    assert reading.run() == ["first"]
    assert reading.state.half_written_line
    log.write_text(lines("first") + line)
    assert reading.run() == ["slow"]
    assert not reading.state.half_written_line


def test_a_line_without_its_end_in_a_rotated_file_is_as_whole_as_it_gets(log: Path, reading: Reading) -> None:
    (log.parent / "events.jsonl.1").write_text(lines("a", "b").rstrip("\n"))
    (log.parent / "events.jsonl.2").write_text(lines("c", "d")[:-50])
    assert reading.run() == ["c", "a", "b"]
    assert reading.state.unreadable_lines == 1


@pytest.mark.parametrize("garbage", [b"{}", b"\x00\x00\xff", b"null", b'{"v":1', b"[" * 5000, b"\xf0\x28"])
def test_a_garbage_line_is_counted_and_the_rest_is_read(log: Path, reading: Reading, garbage: bytes) -> None:
    log.write_bytes(garbage + b"\n" + lines("good").encode() + garbage + b"\n\n" + lines("better").encode())
    assert reading.run() == ["good", "better"]
    assert (reading.state.lines, reading.state.unreadable_lines) == (4, 2)


def test_a_line_without_an_end_takes_no_memory_and_hides_nothing_after_it(log: Path, reading: Reading) -> None:
    with log.open("wb") as file:
        for _ in range(20):
            file.write(b"x" * MAX_LINE_BYTES)
        file.write(b"\n" + lines("after").encode())
    tracemalloc.start()
    assert reading.run() == ["after"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reading.state.unreadable_lines > 0
    assert peak < 8 * MAX_LINE_BYTES


def test_one_run_reads_up_to_its_limit_and_the_next_continues(log: Path, reading: Reading) -> None:
    ids = [f"{number}" for number in range(100)]
    append(log.parent / "events.jsonl.1", *ids[:50])
    append(log, *ids[50:])
    per_line = len(lines("10"))
    found = reading.run(budget=30 * per_line)
    assert 30 <= len(found) <= 31
    assert reading.state.unread_bytes > 60 * per_line
    while reading.state.unread_bytes:
        found += reading.run(budget=30 * per_line)
    assert found == ids


def test_a_sparse_log_of_five_gigabytes_is_read_in_pieces(log: Path, reading: Reading) -> None:
    with log.open("wb") as file:
        file.truncate(5 * 1024**3)
    tracemalloc.start()
    for _ in range(3):
        assert reading.run(budget=8 * MAX_LINE_BYTES) == []
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reading.state.unread_bytes == 5 * 1024**3 - 24 * MAX_LINE_BYTES
    assert reading.state.unreadable_lines == 8
    assert peak < 8 * MAX_LINE_BYTES


def test_files_from_before_what_is_kept_are_not_opened(log: Path, reading: Reading) -> None:
    old = log.parent / "events.jsonl.1"
    append(old, "old")
    os.utime(old, (NOW - 200_000, NOW - 200_000))
    append(log, "new")
    assert reading.run(since=NOW - 86_400) == ["new"]
    assert (reading.state.files, reading.state.older_files) == (1, 1)


def test_files_of_other_names_are_not_read(log: Path, reading: Reading) -> None:
    for name in ("events.jsonl.swp", "events.jsonl.1.bak", "events.jsonl2", "miner.log", "xevents.jsonl"):
        append(log.parent / name, "other")
    assert reading.run() == []
    assert reading.state.state == "missing"


def test_a_file_and_its_half_made_compression_are_read_once(log: Path, reading: Reading) -> None:
    append(log.parent / "events.jsonl.1", "once")
    (log.parent / "events.jsonl.1.gz").write_bytes(gzip.compress(b"half")[:12])
    assert reading.run() == ["once"]
    assert reading.state.problems == []


def test_a_rotation_while_the_files_are_being_opened_neither_loses_nor_doubles(
    log: Path,
) -> None:
    append(log.parent / "events.jsonl.1", "first")
    append(log, "second")
    calls: list[Path] = []

    def rotated_after_the_first_look(path: Path) -> list[tuple[Path, FileStatus]]:
        found = list_log_files(path)
        if not calls:
            (log.parent / "events.jsonl.1").rename(log.parent / "events.jsonl.2")
            log.rename(log.parent / "events.jsonl.1")
            append(log, "third")
        calls.append(path)
        return found

    reader = LogReader(log, 0.0, [], list_files=rotated_after_the_first_look)
    assert [event.request_id for event in reader if isinstance(event, RequestEvent)] == ["first", "second", "third"]
    assert reader.state.problems == []


def test_an_empty_log_is_read_and_holds_nothing(log: Path, reading: Reading) -> None:
    log.touch()
    assert reading.run() == []
    assert (reading.state.state, reading.state.lines, reading.state.half_written_line) == ("read", 0, False)


@pytest.mark.parametrize("directory", ["", "missing"])
def test_a_missing_log_is_reported_as_missing(log: Path, directory: str) -> None:
    reading = Reading(log.parent / directory / "events.jsonl")
    assert reading.run() == []
    assert (reading.state.state, reading.state.problems) == ("missing", [])


def test_a_damaged_compressed_file_is_named_and_what_can_be_read_counts_once(log: Path, reading: Reading) -> None:
    packed = gzip.compress(lines(*(f"{number}" for number in range(500))).encode())
    (log.parent / "events.jsonl.1.gz").write_bytes(packed[: len(packed) // 2])
    write_events(log, [request(request_id="new"), life("started")])
    found = reading.run()
    assert found[-1] == "new"
    assert reading.state.state == "read"
    assert len(reading.state.problems) == 1
    assert reading.state.problems[0].startswith("events.jsonl.1.gz: ")
    assert not set(reading.run()) & set(found)


def test_something_that_is_no_file_is_unreadable_and_does_not_block(log: Path, reading: Reading) -> None:
    os.mkfifo(log)
    assert reading.run() == []
    assert (reading.state.state, reading.state.problems) == ("unreadable", ["events.jsonl: not a regular file"])


@pytest.mark.parametrize("closed", ["logs", "logs/events.jsonl"])
def test_a_log_that_may_not_be_read_is_unreadable_and_read_once_it_may(closed: str) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are root's alone
        root, log = Path(name), Path(name, "logs/events.jsonl")
        root.chmod(0o755)
        log.parent.mkdir()
        append(log, "a")
        reading = Reading(log)
        (root / closed).chmod(0)
        with without_roots_rights():
            assert reading.run() == []
        (root / closed).chmod(0o700)
        assert (reading.state.state, reading.state.problems) == ("unreadable", ["events.jsonl: Permission denied"])
        assert reading.run() == ["a"]


def make_binary(log: Path) -> None:
    log.write_bytes(bytes(range(256)) * 4000 + b"\n")


def make_blank(log: Path) -> None:
    log.write_bytes(b"\n" * 10_000)


@pytest.mark.parametrize("make", [make_binary, make_blank])
def test_a_log_of_something_else_holds_no_event_and_is_not_read_again(
    log: Path, reading: Reading, make: Callable[[Path], None]
) -> None:
    make(log)
    assert reading.run() == []
    assert reading.state.problems == []
    assert reading.run() == []
    append(log, "after")
    assert reading.run() == ["after"]
