"""The fleet report: every host has a row, the worst first, and nothing a host writes reaches the page as HTML."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from omron_miner.monitor.model import SCHEMA_VERSION
from omron_miner.monitor.render import to_json
from plugin_loading import load_plugin
from summary_samples import NOW, bad_summary, empty_summary, prover_summary, sample_summary, sn2_summary

ROOT = Path(__file__).parents[2]
fleet = load_plugin("plugins/filter/fleet.py")


def read(text: str) -> dict[str, Any]:
    return {"rc": 0, "stdout": text, "stderr": ""}


def report(reads: dict[str, Any], now: float = NOW) -> dict[str, Any]:
    made: dict[str, Any] = fleet.fleet_report(reads, dict.fromkeys(reads, 300.0), now)
    return made


def only(one: dict[str, Any], now: float = NOW) -> dict[str, Any]:
    (row,) = report({"host": one}, now)["hosts"]
    return dict(row)


def test_the_report_knows_todays_schema() -> None:
    assert fleet.SCHEMA_VERSION == SCHEMA_VERSION


def test_the_worst_host_comes_first_and_none_is_lost() -> None:
    reads = {
        "met": read(to_json(sample_summary())),
        "no_data": read(to_json(empty_summary())),
        "gone": {"rc": 1, "stdout": "", "stderr": "head: cannot open: No such file or directory"},
        "dead": {"unreachable": True, "msg": "Connection refused"},
        "stale": read(to_json(replace(sample_summary(), time=NOW - 301))),
        "missed": read(to_json(bad_summary())),
    }
    made = report(reads)
    assert [row["state"] for row in made["hosts"]] == ["missed", "stale", "unreachable", "missing", "no_data", "met"]
    assert made["requests"] == 2880  # what is stale is not of now: not counted
    assert made["hosts"][2]["reason"] == "Connection refused"


def test_a_host_in_trouble_says_why_and_what_to_run_next() -> None:
    row = only(read(to_json(bad_summary())))
    assert (row["cause"], row["command"]) == ("other processes use the CPU", "top -o %CPU")
    assert row["targets"]["total p95"] == "58.2 < 45 s"
    assert row["failures"] == {"timeout": 40, "verification_failed": 15, "queue_full": 5}
    assert "swap on, governor powersave" in row["host"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"schema',
        "[]",
        "[" * 100_000,
        " " * 4_000_001,
        json.dumps({"schema_version": SCHEMA_VERSION}),
        to_json(sample_summary()).replace('"success_percent": 100.0', '"success_percent": "all"'),
        to_json(sample_summary()).replace('"success_percent": 100.0', '"success_percent": NaN'),
    ],
    ids=["empty", "half", "list", "deep", "huge", "bare", "text for a number", "not finite"],
)
def test_a_summary_that_is_none_is_named_with_the_reason(text: str) -> None:
    row = only(read(text))
    assert row["state"] == "unreadable"
    assert row["reason"].startswith("its summary is invalid: ")


def test_a_host_of_upstreams_miner_says_which_release_it_runs() -> None:
    row = only(read(to_json(sn2_summary())))
    assert (row["state"], row["version"]) == ("met", f"{sn2_summary().version}, sn2-miner 14.7.5")
    odd = json.loads(to_json(sn2_summary())) | {"sn2": [1]}
    assert only(read(json.dumps(odd)))["version"] == sn2_summary().version


def test_a_miners_prover_hosts_are_told_with_it() -> None:
    lines = only(read(to_json(prover_summary())))["provers"]
    assert lines == [
        "prover-1 (tls://10.0.0.2:8785): gets work, 500 proofs, 0 failures, 2 of 2 proving",
        "prover-2 (tls://10.0.0.3:8785): it left: it is no longer connected to the scheduler, 500 proofs,"
        " 3 failures, 0 of 0 proving",
    ]
    assert only(read(to_json(sample_summary())))["provers"] == []


def test_another_schema_and_a_date_ahead_are_told() -> None:
    assert only(read('{"schema_version": 99}'))["state"] == "other_version"
    ahead = only(read(to_json(sample_summary())), NOW - 3600)
    assert (ahead["state"], "3600 s ahead" in ahead["reason"]) == ("stale", True)


@pytest.mark.slow
def test_the_playbook_reports_on_hosts_in_every_condition(tmp_path: Path) -> None:
    """One host is fine, one hostile, one broken, one without a summary, one unreachable."""
    now = subprocess.run(["date", "+%s"], capture_output=True, text=True, check=True).stdout
    hostile = bad_summary()
    verdict = replace(hostile.verdict, text="<script>alert(1)</script>\x1b[31m{{ 6 * 7 }}")
    texts = {
        "good": to_json(replace(sample_summary(), time=float(now))),
        "hostile": to_json(replace(hostile, time=float(now), verdict=verdict)),
        "broken": "{",
        "gone": None,
        "linked": None,
    }
    hosts: dict[str, dict[str, Any]] = {"closed": {"ansible_host": "127.0.0.1", "ansible_port": 9}}
    for name, text in texts.items():
        hosts[name] = {"ansible_connection": "local", "omron_state": str(tmp_path / name)}
        (tmp_path / name).mkdir()
        if text is not None:
            (tmp_path / name / "summary.json").write_text(text)
    (tmp_path / "linked/summary.json").symlink_to(tmp_path / "good/summary.json")  # of a file of root's, say
    inventory = tmp_path / "inventory.yml"
    inventory.write_text(json.dumps({"miners": {"hosts": hosts}}))
    program = Path(sys.executable).with_name("ansible-playbook")
    command: list[str | Path] = [
        program,
        "playbooks/report.yml",
        "-i",
        inventory,
        "-e",
        f"report_directory={tmp_path / 'out'}",
    ]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Could not read closed, gone, broken, linked" in " ".join((done.stdout + done.stderr).split())
    states = {row["name"]: row["state"] for row in json.loads((tmp_path / "out/report.json").read_text())["hosts"]}
    assert states == {
        "hostile": "missed", "closed": "unreachable", "gone": "missing", "broken": "unreadable", "linked": "unreadable",
        "good": "met",
    }  # fmt: skip
    page = (tmp_path / "out/report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;?[31m{{ 6 * 7 }}" in page
    assert "\x1b" not in (tmp_path / "out/report.txt").read_text()
