"""The history: sums that are exact, percentiles within their bound, one transaction, bounded, one run at a time."""

from __future__ import annotations

import math
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor_samples import NOW, constants, fixed_host, host, life, memory_history, request, take_events, write_events
from omron_miner import monitor
from omron_miner.constants import Constants, Monitor
from omron_miner.errors import OmronError
from omron_miner.events import FailureKind, LifecycleEvent, RequestEvent, to_json
from omron_miner.monitor.history import (
    ALL,
    CIRCUIT,
    FILE_NAME,
    MOST_DAMAGED_FILES,
    MOST_KEYS,
    VALIDATOR,
    Bucket,
    History,
    Limits,
    Outcome,
    connect,
    open_history,
)
from omron_miner.monitor.sketch import RELATIVE_ERROR, SMALLEST, Sketch

if TYPE_CHECKING:
    from omron_miner.monitor.model import Totals


seconds = st.floats(0, 80_000)


@given(st.lists(seconds, min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_a_quantile_is_within_its_bound_of_the_exact_one(values: list[float], share: float) -> None:
    sketch = Sketch()
    sketch.add(values)
    exact = sorted(values)[max(1, math.ceil(share * len(values) - 1e-9)) - 1]
    assert sketch.quantiles(share)[0] == pytest.approx(exact, rel=RELATIVE_ERROR * 1.0001, abs=SMALLEST)
    assert min(values) <= sketch.quantiles(share)[0] <= max(values)


@given(st.lists(seconds, max_size=50), st.lists(seconds, max_size=50))
def test_sketches_add_up_and_survive_being_kept(first: list[float], second: list[float]) -> None:
    parts, whole = [Sketch(), Sketch()], Sketch()
    for part, values in zip(parts, (first, second), strict=True):
        part.add(values, sum(value > 30 for value in values))
        whole.add(values, sum(value > 30 for value in values))
    total = Sketch.load(parts[0].dump())
    total.merge(Sketch.load(parts[1].dump()))
    assert (total.count, total.over, total.buckets) == (whole.count, whole.over, whole.buckets)
    assert total.sum == pytest.approx(whole.sum, abs=1e-5)
    assert (total.least, total.largest) == (whole.least, whole.largest)


@settings(deadline=None)
@given(st.lists(st.floats(0, 7200), max_size=60), st.floats(0, 7200))
def test_any_stretch_of_minutes_is_the_sum_of_its_requests(ages: list[float], reach: float) -> None:
    history = memory_history()
    take_events(history, [request(time=NOW - age) for age in ages])
    for kind, span in ((ALL, 60), (CIRCUIT, 600), (VALIDATOR, 600)):
        since = (NOW - reach) // span * span
        expected = sum(NOW - age >= since for age in ages)
        assert sum(bucket.count for bucket in history.total(since, kind).values()) == expected


def test_a_run_that_is_killed_has_counted_nothing_or_all(tmp_path: Path) -> None:
    settings = constants(tmp_path)
    write_events(settings.log.events, [request(request_id=str(number)) for number in range(3)])
    code = (
        "import os, sys; from omron_miner.constants import read_constants; from pathlib import Path\n"
        "from omron_miner import monitor; from omron_miner.monitor.history import History\n"
        "kept = History.set_positions\n"
        "def killed(*arguments): kept(*arguments); os.kill(os.getpid(), 9)\n"
        "History.set_positions = killed\n"
        "monitor.run(read_constants(Path(sys.argv[1])))\n"
    )
    config = tmp_path / "constants.toml"
    config.write_text(f'log = {{directory = "{tmp_path}"}}\nmonitor = {{directory = "{tmp_path}"}}\n')
    done = subprocess.run([sys.executable, "-c", code, str(config)], check=False, capture_output=True)
    assert done.returncode == -9, done.stderr
    assert total(settings) == 0
    monitor.run(settings)
    monitor.run(settings)
    assert total(settings) == 3


def total(settings: Constants) -> int:
    """Requests that the history holds."""
    with open_history(settings.monitor.directory) as history:
        return sum(bucket.count for bucket in history.total(0).values())


def test_concurrent_monitors_count_every_request_once(tmp_path: Path) -> None:
    config = tmp_path / "constants.toml"
    config.write_text(f'log = {{directory = "{tmp_path}"}}\nmonitor = {{directory = "{tmp_path}"}}\n')
    settings = constants(tmp_path)
    write_events(settings.log.events, [request(request_id=str(number)) for number in range(2000)])
    command = [sys.executable, "-m", "omron_miner", "--config", str(config), "monitor"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(3)]
    for one in runs:
        output, _ = one.communicate(timeout=120)
        assert one.returncode == 0, output
    assert total(settings) == 2000


def test_counters_only_rise_and_start_once_the_log_was_read(tmp_path: Path) -> None:
    settings, now = constants(tmp_path), time.time()
    log = settings.log.events

    def run(*events: RequestEvent | LifecycleEvent) -> Totals:
        with log.open("a") as file:
            file.writelines(f"{to_json(event)}\n" for event in events)
        totals = monitor.run(settings).totals
        assert totals is not None
        return totals

    assert run(request(time=now)).requests["verified"] == 0  # read before they began
    assert run(request(time=now), request(time=now, failure=FailureKind.TIMEOUT)).requests["verified"] == 1
    totals = run(request(time=now, proof=30.0), request(time=now, proof=30.1), life("worker_lost", now))
    assert (totals.requests["verified"], totals.requests["timeout"], totals.life_events["worker_lost"]) == (3, 1, 1)
    proof = totals.times.proof
    assert dict(zip(proof.edges_seconds, proof.at_most, strict=True))[30.0] == 2
    assert proof.count == 3
    assert proof.sum_seconds == pytest.approx(80.1)
    assert totals.times.queue.count == 4
    (tmp_path / FILE_NAME).write_bytes(b"damaged" * 100)
    again = run(request(time=now))
    assert (again.requests["verified"], again.since > totals.since) == (0, True)  # a reset, and nothing twice
    assert run(request(time=now)).requests["verified"] == 1


def test_a_run_that_waits_too_long_for_another_fails(tmp_path: Path) -> None:
    with (
        open_history(tmp_path),
        pytest.raises(OmronError, match=r"another monitor has used .* for 0\.05 s") as refused,
        open_history(tmp_path, wait_seconds=0.05),
    ):
        pass
    assert refused.value.hint is not None


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\x00" + b"\xff" * 4000])
def test_a_history_that_cannot_be_read_is_renamed_and_the_log_read_again(tmp_path: Path, content: bytes) -> None:
    settings = constants(tmp_path)
    write_events(settings.log.events, [request()])
    (tmp_path / FILE_NAME).write_bytes(content)
    monitor.run(settings)
    assert total(settings) == 1
    assert (tmp_path / f"{FILE_NAME}.broken").read_bytes() == content


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log and the history of two runs."""
    folder = tmp_path_factory.mktemp("written")
    settings, now = constants(folder), time.time()
    write_events(settings.log.events, [request(time=now - number, request_id=str(number)) for number in range(300)])
    monitor.run(settings)
    monitor.run(settings)
    with open_history(folder) as history:
        history.set_note("checked", 0.0)  # the next run checks the whole file
        history.commit()
    return folder


@pytest.mark.parametrize(
    ("within", "junk"),
    [
        pytest.param(8, b"\x00", id="pointers"),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in ((0, b"\xff"), (60, b"{8,"), (1500, b"\x00"), (3300, b"{8,"))
        ),
    ],
)
def test_damage_in_any_page_is_noticed_and_costs_no_request(
    tmp_path: Path, written: Path, junk: bytes, within: int
) -> None:
    """Each page in turn; what is overwritten may be unused, but then every request must still count."""
    settings = constants(tmp_path)
    shutil.copy(written / "events.jsonl", tmp_path)
    whole = (written / FILE_NAME).read_bytes()
    noticed = 0
    for page in range(0, len(whole), 4096):
        at = page + within
        for left in tmp_path.glob(f"{FILE_NAME}*"):
            left.unlink()
        (tmp_path / FILE_NAME).write_bytes((whole[:at] + junk * 400)[: at + 400] + whole[at + 400 :])
        summary = monitor.run(settings, collect=fixed_host(host()))
        assert summary.requests.count == 300, page
        aside = [one for one in tmp_path.glob(f"{FILE_NAME}.*") if "journal" not in one.name]
        warnings = [warning for warning in summary.verdict.warnings if warning.startswith("history: ")]
        assert len(warnings) == len(aside)
        noticed += len(aside)
    assert noticed


def test_damaged_files_are_kept_never_over_an_earlier_one_and_only_so_many(tmp_path: Path) -> None:
    settings = constants(tmp_path)
    for number in range(MOST_DAMAGED_FILES + 2):
        (tmp_path / FILE_NAME).write_bytes(b"damaged %d" % number * 100)
        (tmp_path / f"{FILE_NAME}-journal").write_bytes(b"its journal")
        monitor.run(settings, collect=fixed_host(host()))
    kept = sorted(one for one in tmp_path.glob(f"{FILE_NAME}.broken*") if "journal" not in one.name)
    assert [one.read_bytes()[:9] for one in kept] == [b"damaged %d" % number for number in range(MOST_DAMAGED_FILES)]
    assert not (tmp_path / f"{FILE_NAME}-journal").exists()


def test_a_history_of_a_newer_version_is_kept_and_a_new_one_created(tmp_path: Path) -> None:
    """After a roll-back: the summary goes on, and the newer version's file is there for when it comes back."""
    settings = constants(tmp_path)
    write_events(settings.log.events, [request()])
    monitor.run(settings)
    with sqlite3.connect(tmp_path / FILE_NAME) as newer:
        newer.execute("PRAGMA user_version = 99")
    assert "version 99" in " ".join(monitor.run(settings).verdict.warnings)
    assert total(settings) == 1
    assert sqlite3.connect(tmp_path / f"{FILE_NAME}.newer").execute("PRAGMA user_version").fetchone() == (99,)


def test_a_bug_in_a_run_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_history(tmp_path):
        raise ZeroDivisionError
    with pytest.raises(OmronError, match="cannot use"), open_history(tmp_path):
        sqlite3.connect(":memory:").execute("SELECT ?", ())
    assert not list(tmp_path.glob("*.broken*"))


def test_a_full_disk_leaves_the_old_summary_and_counts_later(tmp_path: Path) -> None:
    """SQLite's page limit simulates a full disk: the error is the same."""
    settings = constants(tmp_path)
    write_events(settings.log.events, [request(request_id=str(number)) for number in range(3)])
    monitor.run(settings)
    before = (tmp_path / "summary.json").read_text()
    names = [f"circuit {number} " + "x" * 500 for number in range(200)]
    with settings.log.events.open("a") as log:
        log.writelines(f"{to_json(request(circuit=name, circuit_id=name))}\n" for name in names)

    def on_a_full_disk(path: Path, wait_seconds: float) -> sqlite3.Connection:
        connection = connect(path, wait_seconds)
        connection.execute("PRAGMA max_page_count = 12")
        return connection

    with pytest.raises(OmronError, match="full"):
        monitor.run(settings, history_in=partial(open_history, connecting=on_a_full_disk))
    assert (tmp_path / "summary.json").read_text() == before
    monitor.run(settings)
    assert total(settings) == 203


def test_what_is_kept_is_bounded_by_its_settings() -> None:
    connection = connect(Path(":memory:"))
    history = History(connection)
    for day in range(12):
        at = NOW + day * 86_400
        take_events(history, [request(time=at + minute * 60) for minute in range(0, 1440, 20)], now=at + 86_400)
        for minute in range(0, 1440, 20):
            history.add_sample(at + minute * 60, {"cpu_percent": 50.0})
        history.prune(1.0, 8.0)
    asked = "SELECT (SELECT count(DISTINCT start) FROM bucket WHERE span = ?1), count(*) FROM sample WHERE span = ?1"
    hours, tens, minutes = (connection.execute(asked, (span,)).fetchone() for span in (3600, 600, 60))
    assert hours == (8 * 24, 8 * 24)
    assert tens == (144, 144)
    assert max(minutes) <= 1440
    oldest = history.oldest()
    assert oldest is not None
    assert oldest == pytest.approx(NOW + 4 * 86_400, abs=3600)


def test_a_clock_that_jumps_ahead_for_a_moment_takes_nothing_with_it() -> None:
    history = memory_history()
    take_events(history, [request(time=NOW - 60)])
    year = 365 * 86_400
    take_events(history, [request(time=NOW + year)], now=NOW + year)
    history.prune(1.0, 8.0)
    assert history.refile_future(NOW) == 1
    assert sum(bucket.count for bucket in history.total(NOW - 3600).values()) == 2
    assert history.total(NOW + 3600) == {}
    assert history.refile_future(NOW) == 0


@pytest.mark.parametrize("back", [30.0, 150.0, 700.0, 4000.0, 90_000.0])
def test_a_clock_that_was_set_back_loses_and_doubles_nothing(back: float) -> None:
    history = memory_history()
    take_events(history, [request(time=NOW - number * 40) for number in range(200)])
    now = NOW - back
    history.refile_future(now)
    take_events(history, [request(time=now)], now=now)
    for kind in (ALL, CIRCUIT):
        assert sum(bucket.count for bucket in history.total((now - 9000) // 600 * 600, kind).values()) == 201
    for span in (60, 600, 3600):
        points = history.points(span, 0)
        assert sum(point[0] for point in points.values()) == 201
        assert max(points) <= now + 60


def test_events_of_a_clock_that_was_wrong_count_when_they_were_written() -> None:
    history = memory_history()
    take_events(history, [request(time=NOW - 120), request(time=86_400.0), request(time=NOW - 60)])
    assert sum(bucket.count for bucket in history.total(NOW - 180).values()) == 3


def test_other_targets_are_held_against_what_is_kept() -> None:
    history = memory_history()
    random.seed(7)
    proofs = [random.uniform(5, 50) for _ in range(500)]  # noqa: S311
    take_events(history, [request(time=NOW - number, proof=proof) for number, proof in enumerate(proofs)])
    history.set_note("limits", Limits(30, 5, 45).dump())
    assert history.total(0)[""].proof.over == sum(proof > 30 for proof in proofs)
    history.hold_to(Limits(20, 5, 45))
    near = sum(abs(proof / 20 - 1) <= RELATIVE_ERROR for proof in proofs)
    assert history.total(0)[""].proof.over == pytest.approx(sum(proof > 20 for proof in proofs), abs=near)
    assert history.note("limits") == [20, 5, 45]


def test_callers_cannot_fill_the_disk_with_names() -> None:
    history = memory_history()
    events = [
        request(validator_hotkey=f"5{number}", circuit=f"c{number}", circuit_id=f"{number}") for number in range(1000)
    ]
    take_events(history, events)
    for kind in (CIRCUIT, VALIDATOR):
        buckets = history.total(0, kind)
        assert len(buckets) == MOST_KEYS + 1
        assert buckets[""].count == 1000 - MOST_KEYS


def test_the_newest_entries_are_kept_in_order() -> None:
    history = memory_history()
    for number in range(30):
        history.add_entries("error", 10, [(NOW + number, number)])
    history.add_entries("other", 10, [(NOW, "x")])
    assert [body for _, body in history.entries("error")] == list(range(20, 30))
    assert [body for _, body in history.entries("error", NOW + 28)] == [28, 29]


def test_a_bucket_survives_being_kept() -> None:
    bucket = Bucket()
    outcomes = [Outcome(NOW, True, None, True, 20.0, 1.0, 21.0, 0.5), Outcome(NOW, False, "timeout", False, 0, 0, 0, 9)]
    bucket.add(outcomes, Limits(30, 5, 45))
    assert (bucket.count, bucket.succeeded, bucket.failures, bucket.proof.count) == (2, 1, {"timeout": 1}, 1)
    assert Bucket.load(bucket.dump()).dump() == bucket.dump()


def test_a_window_longer_than_the_minutes_kept_is_refused() -> None:
    with pytest.raises(ValueError, match="keep_minutes_days"):
        Constants(monitor=Monitor(window_seconds=4 * 86_400.0))


def test_the_history_is_the_service_users_alone(tmp_path: Path) -> None:
    before = os.umask(0o077)  # the unit's
    try:
        with open_history(tmp_path) as history:
            history.commit()
    finally:
        os.umask(before)
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600
