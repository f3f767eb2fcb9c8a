"""What the monitor makes of the host: shares of the time between two runs, circuits, versions, and this machine."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pytest

from monitor_samples import constants
from omron_miner.monitor.host import (
    Counters,
    Use,
    clock_step,
    collect_host,
    is_comparable,
    read_versions,
    use_between,
)

if TYPE_CHECKING:
    from pathlib import Path


def counters(**changes: Any) -> Counters:
    at = Counters("boot", 1000.0, 1_700_000_000.0, [800.0, 400.0, 10.0, 0.0], "10 5.00", 50.0, 1000)
    return replace(at, **changes)


def test_processors_are_measured_since_the_last_run() -> None:
    # 60 s on 2 cores: 120 s, of them 30 idle, 6 waiting, 12 stolen; the miner used 60 of them
    now = counters(since_boot=1060.0, cpu=[920.0, 430.0, 16.0, 12.0], miner_cpu=110.0, miner_read_bytes=601_000)
    assert use_between(counters(), now) == Use(60.0, 70.0, 5.0, 10.0, 50.0, 1.0, 10_000.0)


def test_a_miner_that_started_since_the_last_run_began_at_0() -> None:
    now = counters(
        since_boot=1060.0, miner="99 1010.00", miner_cpu=30.0, miner_read_bytes=60, cpu=[920.0, 430.0, 10.0, 0.0]
    )
    use = use_between(counters(), now)
    assert (use.miner_cores, use.miner_read_bytes_per_second) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, True), ({"boot_id": "other"}, False), ({"since_boot": 1060.0}, False), ({"since_boot": -3000.0}, False)],
)
def test_only_a_run_of_this_boot_within_the_last_hour_is_compared_with(changes: dict[str, Any], expected: bool) -> None:
    assert is_comparable(counters(**changes), counters(since_boot=1060.0)) is expected
    assert not is_comparable(None, counters())


@pytest.mark.parametrize(("step", "reported"), [(0.0, 0.0), (0.5, 0.0), (-3600.0, -3600.0), (90.0, 90.0)])
def test_a_clock_that_was_set_is_reported_and_one_kept_right_is_not(step: float, reported: float) -> None:
    last = counters()
    now = counters(since_boot=1060.0, wall=last.wall + 60 + step)
    assert clock_step(last, now) == pytest.approx(reported)
    assert clock_step(None, now) == clock_step(counters(boot_id="other"), now) == 0.0


def test_a_second_run_is_compared_with_the_first(tmp_path: Path) -> None:
    """On this machine: no sample is taken, and the time between them is measured."""
    _, last = collect_host(constants(tmp_path))
    time.sleep(0.15)
    now, counted = collect_host(constants(tmp_path), last)
    assert now.cpu.measured_seconds == pytest.approx(counted.since_boot - last.since_boot, abs=0.06)
    assert (counted.boot_id, now.clock.step_seconds) == (last.boot_id, 0.0)


def test_counters_survive_being_kept() -> None:
    assert Counters.load(counters().dump()) == counters()
    assert Counters.load(None) is None


def test_versions_are_those_that_python_itself_finds() -> None:
    versions = read_versions()
    assert (versions.ezkl, versions.bittensor) == (metadata.version("ezkl"), metadata.version("bittensor"))


def test_this_machine_is_described(tmp_path: Path) -> None:
    now, _ = collect_host(constants(tmp_path))
    assert now.cpu.count == os.cpu_count()
    assert 0 <= now.cpu.percent <= 100
    assert 0 < now.memory.available_bytes < now.memory.total_bytes
    assert now.uptime_seconds is not None
    assert now.uptime_seconds > 0
    assert now.disks
