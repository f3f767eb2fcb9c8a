"""The metrics: Prometheus' text format, names with units, no value that is not there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omron_miner.events import FailureKind
from omron_miner.monitor.model import ErrorLine
from omron_miner.monitor.prometheus import to_prometheus
from summary_samples import bad_summary, empty_summary, prover_summary, sample_summary, sn2_summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from omron_miner.monitor.model import Summary

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "docs/monitoring"
NAME = r"omron_[a-z0-9_]+"
SAMPLE = re.compile(rf'({NAME})(?:\{{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)+)\}})? (-?[0-9.e+-]+)')


def values(text: str) -> dict[str, float]:
    """Every sample by its name and labels; fails on a line that is not of the format."""
    found: dict[str, float] = {}
    described: set[str] = set()
    parts = {"gauge": ("",), "counter": ("",), "histogram": ("_bucket", "_sum", "_count")}
    for line in text.removesuffix("\n").split("\n"):
        if match := re.fullmatch(rf"# HELP ({NAME}) \S.*", line):
            described.add(match[1])
        elif match := re.fullmatch(rf"# TYPE ({NAME}) (gauge|counter|histogram)", line):
            assert match[1] in described
            assert match[1].endswith("_total") is (match[2] == "counter")
            described |= {match[1] + part for part in parts[match[2]]}
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match[1] in described
            name = line.rpartition(" ")[0]
            assert name not in found
            found[name] = float(match[3])
    return found


def metrics(text: str) -> list[str]:
    return re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)


@pytest.mark.parametrize("make", [sample_summary, bad_summary, empty_summary])
def test_every_line_is_of_the_format_and_every_metric_is_described_once(make: Callable[[], Summary]) -> None:
    text = to_prometheus(make())
    assert values(text)
    names = metrics(text)
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


def test_counters_and_histograms_are_cumulative_and_there_from_the_start() -> None:
    found = values(to_prometheus(bad_summary()))
    assert found['omron_requests_total{outcome="verified"}'] == 3000
    assert found['omron_requests_total{outcome="timeout"}'] == 3
    assert found['omron_requests_total{outcome="worker_crashed"}'] == 0
    assert found['omron_miner_events_total{event="started"}'] == 2
    for name, least in (("proof", 1800), ("answer", 1600)):
        assert found[f'omron_{name}_seconds_bucket{{le="24.0"}}'] >= least
    buckets = [value for name, value in found.items() if name.startswith("omron_proof_seconds_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == found["omron_proof_seconds_count"] == 3000
    assert found['omron_proof_seconds_bucket{le="30.0"}'] == 3000
    assert found["omron_proof_seconds_sum"] == pytest.approx(3000 * 22)
    assert found["omron_queue_seconds_count"] == 3003
    assert " counter\n" not in to_prometheus(replace(bad_summary(), totals=None))


def test_a_missing_value_is_omitted_and_not_0() -> None:
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


@pytest.mark.parametrize("file", ["alert-rules.yml", "alert-rules.test.yml", "grafana-dashboard.json", "README.md"])
def test_what_is_documented_uses_only_metrics_that_are_written(file: str) -> None:
    samples = [values(to_prometheus(make())) for make in (sample_summary, bad_summary, sn2_summary, prover_summary)]
    written = {name.partition("{")[0] for found in samples for name in found}
    written |= {name.removesuffix("_bucket") for name in written}
    used = set(re.findall(r"\bomron_[a-z_]+[a-z]\b(?!\.prom)", (MONITORING / file).read_text()))
    assert used
    assert used <= written


def test_every_panel_of_the_dashboard_has_a_place_of_its_own_and_takes_its_source_from_the_variable() -> None:
    panels = json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    targets = [target for panel in panels for target in panel["targets"]]
    assert {target["datasource"]["uid"] for target in targets} == {"${datasource}"}


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool") or shutil.which(str(ROOT / ".cache/promtool"))
    if not found:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("promtool is not here; bin/test fetches it")
    return str(found)


def check(promtool: str, *arguments: str, text: str = "") -> None:
    done = subprocess.run(
        [promtool, *arguments], input=text, cwd=MONITORING, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("make", [sample_summary, bad_summary, empty_summary, sn2_summary, prover_summary])
def test_promtool_accepts_the_metrics(promtool: str, make: Callable[[], Summary]) -> None:
    check(promtool, "check", "metrics", text=to_prometheus(make()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [("check", "rules", "alert-rules.yml"), ("test", "rules", "alert-rules.test.yml")]
)
def test_promtool_accepts_the_rules_and_they_fire_when_they_should(promtool: str, arguments: tuple[str, ...]) -> None:
    check(promtool, *arguments)
