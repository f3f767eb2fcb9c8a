"""The metrics: Prometheus' text format, names with units, no value that is not there."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omron_miner.events import FailureKind
from omron_miner.monitor.model import ErrorLine
from omron_miner.monitor.prometheus import to_prometheus
from summary_samples import bad_summary, empty_summary, sample_summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from omron_miner.monitor.model import Summary

NAME = r"omron_[a-z0-9_]+"
SAMPLE = re.compile(rf'({NAME})(?:\{{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)+)\}})? (-?[0-9.e+-]+)')


def values(text: str) -> dict[str, float]:
    """Every sample by its name and labels; fails on a line that is not of the format."""
    found: dict[str, float] = {}
    described: set[str] = set()
    for line in text.removesuffix("\n").split("\n"):
        if match := re.fullmatch(rf"# HELP ({NAME}) \S.*", line):
            described.add(match[1])
        elif match := re.fullmatch(rf"# TYPE ({NAME}) gauge", line):
            assert match[1] in described
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match[1] in described
            name = line.rpartition(" ")[0]
            assert name not in found
            found[name] = float(match[3])
    return found


@pytest.mark.parametrize("make", [sample_summary, bad_summary, empty_summary])
def test_every_line_is_of_the_format_and_every_metric_is_described_once(make: Callable[[], Summary]) -> None:
    text = to_prometheus(make())
    assert values(text)
    names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(names) == len(set(names))


def test_the_numbers_are_the_summarys_in_base_units() -> None:
    found = values(to_prometheus(bad_summary()))
    assert found['omron_window_total_seconds{stat="p95"}'] == 58.25
    assert found['omron_window_requests_failed{kind="timeout"}'] == 40
    assert found['omron_window_requests_failed{kind="cancelled"}'] == 0
    assert found["omron_window_success_ratio"] == pytest.approx(1380 / 1440, abs=1e-6)
    assert found['omron_verdict{verdict="missed"}'] == 1
    assert found['omron_verdict{verdict="met"}'] == 0
    assert found['omron_alert_firing{alert="swap_on"}'] == 1
    assert found['omron_cause{question="slow",cause="cpu_busy"}'] == 1
    assert found["omron_host_swap_bytes"] == 2 * 1024**3


def test_every_kind_of_failure_is_there_before_it_happens() -> None:
    found = values(to_prometheus(sample_summary()))
    assert {f'omron_window_requests_failed{{kind="{kind.value}"}}' for kind in FailureKind} <= set(found)


def test_what_has_no_value_is_left_out_and_not_0() -> None:
    text = to_prometheus(empty_summary())
    assert "omron_window_success_ratio" not in text
    assert "omron_window_proof_seconds" not in text
    assert values(text)["omron_window_requests"] == 0


@given(st.text(max_size=60))
def test_a_callers_text_stays_inside_its_label(text: str) -> None:
    summary = sample_summary()
    circuits = [replace(summary.circuits[0], circuit=text or "x")]
    error = ErrorLine("", text, text, text, text, text)
    hostile = to_prometheus(replace(summary, circuits=circuits, last_errors=[error]))
    hostile.encode("utf-8")
    assert len(values(hostile)) == len(values(to_prometheus(replace(summary, circuits=summary.circuits[:1]))))
