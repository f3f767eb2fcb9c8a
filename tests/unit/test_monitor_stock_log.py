"""Before and after: a stock miner's log and ours in one table, each number only where its log tells it."""

from __future__ import annotations

import gzip
import json
import logging
import os
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from monitor_samples import NOW, request, write_events
from omron_miner.cli import main
from omron_miner.constants import Log
from omron_miner.events import EventLog, FailureKind

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

AGE = "age v0.1.0 using EZKL"


def stamped(text: str, second: int = 0, level: str = "INFO") -> str:
    """A line as bittensor writes it, colours included."""
    return f"\x1b[34m2025-12-01 10:00:{second:02d}.123\x1b[0m | \x1b[1m{level:^14}\x1b[0m | {text}"


def answered(total: float = 30.0, proof: float = 26.0, weights: bool = False) -> list[str]:
    kind = "Proof of weights" if weights else "Proof"
    return [
        stamped("Request by: 5" + "F" * 47 + " | UID: 3 | Stake: 120000.0 🥩"),
        stamped(f"Running proof generation for {AGE}", 1),
        stamped(f"Proof generation took {proof} seconds", 2),
        stamped(f"✅ {kind} completed for {AGE}\n", 2),
        stamped(f"Total response time {total}s. Proof time: {proof}s. Overhead time: {total - proof}s.", 3),
    ]


FAILED = [
    stamped(f"Running proof generation for {AGE}"),
    stamped("An error occurred while generating proven output", level="ERROR"),
    "proof completed for nothing: the text of the exception",
    stamped("Total response time 3.5s. Proof time: 0.0s. Overhead time: 3.5s."),
]
UNKNOWN = [
    stamped("An error occurred while generating proof of weights", level="ERROR"),
    "Circuit " + "ab" * 32 + " not found",
]
LATE = stamped("Response time is greater than circuit timeout. This indicates slow hardware.", 4, "ERROR")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "constants.toml").write_text(
        f'log = {{directory = "{tmp_path}"}}\nmonitor = {{directory = "{tmp_path}"}}\n'
    )
    return tmp_path / "stock.log"


def write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def run(*logs: Path, options: tuple[str, ...] = ("--json",)) -> Result:
    named = [part for one in logs for part in ("--log-file", str(one))]
    config = str(logs[0].parent / "constants.toml")
    return CliRunner().invoke(main, ["--config", config, "monitor", *options, *named])


def read(*logs: Path) -> list[dict[str, Any]]:
    done = run(*logs)
    assert done.exit_code == 0, done.output
    columns: list[dict[str, Any]] = json.loads(done.output)["columns"]
    return columns


def test_a_stock_log_is_counted_request_by_request(log: Path) -> None:
    write(log, [*answered(), *answered(total=61.0, proof=58.0), LATE, *FAILED, *UNKNOWN, *answered(20.0, 18.5, True)])
    stock = read(log)[0]
    requests = stock["requests"]
    assert (requests["count"], requests["succeeded"], requests["timeouts"]) == (5, 2, 1)
    assert requests["failures"] == {"timeout": 1, "proving_failed": 1, "unknown_circuit": 1}
    assert requests["timed"] == 3  # an answer that came too late has its times, one that failed has none
    assert requests["total_seconds"]["max"] == 61.0
    assert requests["proof_seconds"]["p50"] == pytest.approx(26.0, rel=0.005)
    assert requests["overhead_seconds"]["max"] == 4.0
    assert (stock["kinds"], stock["without_end"]) == (["stock"], 0)
    assert (stock["first"], stock["last"], stock["zone"]) == ("2025-12-01 10:00:00", "2025-12-01 10:00:04", None)


def test_what_a_stock_log_cannot_tell_is_not_0(log: Path) -> None:
    write(log, answered())
    stock = read(log)[0]
    assert {"verification_failed", "constant_outputs", "queue"} <= set(stock["not_in_this_log"])
    assert stock["requests"]["constant_outputs"] is None
    assert stock["requests"]["queue_seconds"] is None
    text = run(log, options=()).output
    row = next(line for line in text.splitlines() if line.startswith("failed: verification_failed"))
    assert "not in this log" in row
    assert "A stock miner verifies nothing" in text


def test_a_request_without_an_end_is_neither_a_success_nor_a_failure(log: Path) -> None:
    started = stamped(f"Running proof generation for {AGE}")
    write(log, [started, stamped("Started axon server: Axon([::], 8091)"), *answered(), started])
    stock = read(log)[0]
    assert (stock["requests"]["count"], stock["without_end"]) == (1, 2)


@pytest.mark.parametrize(
    "refused", ["Received empty query input", "Competition only mode enabled. Skipping proof generation."]
)
def test_a_request_that_was_refused_before_it_began_is_a_failure(log: Path, refused: str) -> None:
    write(log, [*answered(), stamped(refused), *answered()])
    requests = read(log)[0]["requests"]
    assert (requests["count"], requests["succeeded"]) == (3, 2)


def test_lines_without_stamp_or_sense_and_compressed_ones_are_read_all_the_same(log: Path) -> None:
    plain = [line.rpartition(" | ")[2] for line in answered()]
    junk = bytes(range(256)) * 40 + b"\n" + b"\x00" * 3_000_000 + b"\n\xff\xfe | Total response time NaNs.\n"
    content = junk + "".join(f"{line}\n" for line in plain).encode() + junk
    log.write_bytes(gzip.compress(content))
    stock = read(log)[0]
    assert (stock["requests"]["succeeded"], stock["first"], stock["last"]) == (1, None, None)
    assert stock["requests"]["total_seconds"]["max"] == 30.0


def test_both_of_our_own_logs_give_the_numbers_that_the_miner_wrote(log: Path) -> None:
    directory = log.parent
    written = EventLog(Log(directory=directory))
    try:
        for number in range(20):
            written.request(request(time=NOW + number, proof=20.0 + number, constant_output=number == 3))
        for kind in FailureKind:
            written.request(request(failure=kind))
    finally:
        written.close()
        logging.getLogger("omron_miner").propagate = True
    lines, events, _ = read(directory / "miner.log", directory / "events.jsonl")
    assert (lines["kinds"], events["kinds"]) == (["miner.log"], ["events.jsonl"])
    assert lines["requests"]["failures"] == events["requests"]["failures"] == {kind.value: 1 for kind in FailureKind}
    for key in ("count", "succeeded", "constant_outputs", "proof_seconds", "total_seconds"):
        assert lines["requests"][key] == events["requests"][key]
    assert events["first"] == "2026-01-05 11:59:00"
    assert lines["requests"]["count"] == 30


def test_this_miner_has_a_column_next_to_the_log_and_nothing_is_written(log: Path) -> None:
    write_events(log.parent / "events.jsonl", [request(time=time.time() - 60 - number) for number in range(7)])
    config = str(log.parent / "constants.toml")
    assert CliRunner().invoke(main, ["--config", config, "monitor"]).exit_code == 0
    write(log, answered())
    write_events(log.parent / "events.jsonl", [request(time=time.time()) for _ in range(9)])  # not read by now
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in log.parent.iterdir() if path.is_file()}
    stock, ours = read(log)
    text = run(log, options=()).output
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    assert {path for path in log.parent.iterdir() if path.is_file()} == set(before)
    assert (stock["requests"]["count"], ours["requests"]["count"], ours["label"]) == (1, 7, "this miner")
    assert ours["requests"]["queue_seconds"]["max"] == 0.0
    assert text.splitlines()[0].split() == ["stock.log", "this", "miner"]


def test_without_a_history_this_miner_has_no_data(log: Path) -> None:
    write(log, answered())
    assert read(log)[1]["requests"]["count"] == 0
    assert "no history yet" in run(log, options=()).output
    assert not (log.parent / "monitor.sqlite").exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        (b"", "it is empty"),
        (b"GET /index.html 200\n" * 50, "no line in it is a miner's"),
        (b"\x1f\x8b\x08 not gzip at all", "cannot read"),
    ],
)
def test_an_empty_log_is_an_error_with_its_reason(log: Path, content: bytes | None, why: str) -> None:
    if content is not None:
        log.write_bytes(content)
    done = run(log)
    assert (done.exit_code, done.stdout) == (1, "")
    assert why in done.stderr
    assert "  try: " in done.stderr


def test_something_that_is_no_file_does_not_block(log: Path) -> None:
    os.mkfifo(log)
    assert "not a regular file" in run(log).stderr


def test_a_truncated_compressed_log_counts_as_far_as_readable_with_a_problem(log: Path) -> None:
    packed = gzip.compress("".join(f"{line}\n" for _ in range(2000) for line in answered()).encode())
    log.write_bytes(packed[: len(packed) // 2])
    stock = read(log)[0]
    assert 0 < stock["requests"]["count"] < 2000
    assert stock["problem"]


def test_memory_does_not_grow_with_the_log(log: Path) -> None:
    with log.open("w", encoding="utf-8") as file:
        for _ in range(8):
            file.writelines(f"{line}\n" for line in answered())
            file.truncate(file.seek(0, 2) + 50_000_000)
            file.seek(0, 2)
            file.write("\n")
    tracemalloc.start()
    stock = read(log)[0]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert stock["requests"]["count"] == 8
    assert peak < 20_000_000
