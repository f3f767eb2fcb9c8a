"""The summary as text and JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor_samples import GIB, NOW, host, life, request, summary_of
from omron_miner.events import FailureKind
from omron_miner.formatting import duration, size
from omron_miner.monitor.model import SwapDevice
from omron_miner.monitor.render import WIDTH, to_json, to_text


def row(text: str, name: str) -> list[str]:
    """The cells of the line that begins with `name`."""
    return next(line for line in text.splitlines() if line.startswith(name)).split()


def test_the_verdict_is_the_first_line_and_times_are_utc() -> None:
    first, second, *_ = to_text(summary_of(life("started"), request())).splitlines()
    assert first == "TARGETS MET: 1 of 1 requests answered with a verified proof"
    assert second.startswith("2026-01-05 12:00:00 UTC · prover-1 · ")
    assert second.endswith("network local · last 24 h")


def test_every_target_has_its_row() -> None:
    text = to_text(summary_of(request(proof=31.0), request(failure=FailureKind.TIMEOUT)))
    assert row(text, "success") == ["success", "≥", "100", "%", "50", "%", "1", "MISSED"]
    assert row(text, "proof p95") == ["proof", "p95", "≤", "30", "s", "31.000", "s", "1", "MISSED"]
    assert row(text, "overhead p95") == ["overhead", "p95", "<", "5", "s", "1.000", "s", "0", "met"]
    assert row(text, "timeouts") == ["timeouts", "≤", "0", "1", "1", "MISSED"]


def test_without_data_no_number_is_shown() -> None:
    text = to_text(summary_of())
    for name in ("success", "proof p95", "overhead p95", "total p95", "timeouts"):
        assert row(text, name)[-5:] == ["no", "data", "-", "no", "data"]
    assert "0 %" not in text.split("\n\n")[1].replace("100 %", "")


def test_100_percent_is_reported_of_nothing_less() -> None:
    text = to_text(summary_of(*[request()] * 29_999, request(failure=FailureKind.TIMEOUT)))
    assert row(text, "success")[4] == "99.99"


def test_failures_errors_and_circuits_are_listed() -> None:
    text = to_text(summary_of(request(), request(failure=FailureKind.QUEUE_FULL), request(constant_output=True)))
    assert "failures: queue_full 1" in text
    assert "constant outputs: 1" in text
    assert "age v0.1.0 using EZKL         3  66.66 %" in text
    assert "2026-01-05 11:59:00 UTC queue_full: age v0.1.0 using EZKL: because queue_full" in text


def test_the_host_is_described_with_units() -> None:
    text = to_text(summary_of(request()))
    for line in (
        "miner      up 25 h, pid 812, 2 processes, 3.0 GiB resident, 7.50 cores busy",
        "governor   performance on 8 of 8 CPUs",
        "memory     20.0 GiB available of 32.0 GiB",
        "RAM disk   /dev/shm (tmpfs): 1.0 GiB used of 24.0 GiB",
        "sessions   /dev/shm/omron-miner: 3 files, 68.4 KiB",
        "swap       off",
        "disk       /var/lib/omron-miner: 100.0 GiB free of 200.0 GiB",
        "uptime     25 h 1 min",
    ):
        assert line in text.splitlines()


def test_a_host_with_wrong_settings_is_reported() -> None:
    bare = host(
        cpu=replace(host().cpu, governors={}),
        swap=[SwapDevice("/dev/zram0", 2 * GIB, GIB)],
        ram_disk=None,
        miner=None,
        uptime_seconds=None,
    )
    text = to_text(summary_of(on=bare))
    assert "governor   no cpufreq on this host" in text
    assert "swap       ON: 1.0 GiB used of 2.0 GiB (/dev/zram0)" in text
    assert "RAM disk   unknown" in text
    assert "miner      no process" in text
    assert "warning: swap is on: /dev/zram0" in text


@given(text=st.text(max_size=600), circuit=st.text(max_size=300))
def test_no_line_is_too_long_and_nothing_moves_the_cursor(text: str, circuit: str) -> None:
    failed = request(failure=FailureKind.TIMEOUT, detail=text, circuit=circuit)
    rendered = to_text(summary_of(failed, life("stopped", NOW, text), on=host(name=text)))
    assert rendered.endswith("\n")
    for line in rendered[:-1].split("\n"):
        assert len(line) <= WIDTH
        assert line.isprintable()


def test_the_json_is_versioned_and_has_the_same_numbers() -> None:
    read = json.loads(to_json(summary_of(request(proof=12.5))))
    assert read["schema_version"] == 2
    assert read["utc"] == "2026-01-05T12:00:00Z"
    assert read["verdict"]["overall"] == "met"
    assert read["requests"]["proof_seconds"] == {"mean": 12.5, "p50": 12.5, "p95": 12.5, "max": 12.5}
    assert read["host"]["ram_disk"]["size_bytes"] == 24 * GIB
    assert read["log"]["unreadable_lines"] == 0


def test_no_data_is_null_in_the_json() -> None:
    requests = json.loads(to_json(summary_of()))["requests"]
    assert requests["success_percent"] is requests["proof_seconds"] is requests["last_utc"] is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (86_400, "24 h"),
        (90_061, "25 h 1 min"),
        (172_800, "2 d"),
        (266_461, "3 d 2 h"),
        (None, "unknown"),
    ],
)
def test_durations_are_written_in_two_units(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * GIB, "3.0 GiB"), (5000 * GIB, "4.9 TiB"), (None, "unknown")],
)
def test_sizes_have_binary_units(size_bytes: int | None, words: str) -> None:
    assert size(size_bytes) == words
