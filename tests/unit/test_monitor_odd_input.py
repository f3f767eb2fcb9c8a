"""Odd logs, from the command line: every run ends well, says what is odd, and counts what there is once."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from monitor_samples import request, write_events
from omron_miner.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "constants.toml").write_text(
        f'log = {{directory = "{tmp_path}"}}\nmonitor = {{directory = "{tmp_path}"}}\n'
    )
    return tmp_path / "events.jsonl"


def run(log: Path) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["--config", str(log.parent / "constants.toml"), "monitor", "--json"])
    assert done.exit_code == 0, done.output
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


@pytest.mark.parametrize("content", [None, b"", bytes(range(256)) * 400], ids=["missing", "empty", "binary"])
def test_a_log_without_an_event_is_no_data_and_what_comes_after_counts(log: Path, content: bytes | None) -> None:
    if content is not None:
        log.write_bytes(content + b"\n" * bool(content))
    summary = run(log)
    assert (summary["requests"]["count"], summary["requests"]["success_percent"]) == (0, None)
    assert summary["log"]["state"] == ("missing" if content is None else "read")
    later = log.with_name("later")
    write_events(later, [request(time=time.time())])
    with log.open("ab") as file:
        file.write(later.read_bytes())
    assert run(log)["requests"]["count"] == 1
    assert run(log)["requests"]["count"] == 1


def test_a_log_from_the_future_counts_now_and_once_and_is_reported(log: Path) -> None:
    write_events(log, [request(time=time.time() + 400 * 86_400 + number) for number in range(5)])
    first, second = run(log), run(log)
    assert first["requests"]["count"] == second["requests"]["count"] == 5
    assert first["log"]["future_events"] == 5


def test_of_five_gigabytes_one_run_reads_its_share_and_the_events_before_the_hole_count(log: Path) -> None:
    now = time.time()
    write_events(log, [request(time=now - 60)])
    with log.open("r+b") as file:
        file.truncate(5 * 1024**3)
    summary = run(log)
    assert summary["requests"]["count"] == 1
    assert 0 < 5 * 1024**3 - summary["log"]["unread_bytes"] < 8 * 1024**2
    assert not any(alert["firing"] for alert in summary["alerts"])  # of now nothing is known yet
    assert run(log)["log"]["unread_bytes"] < summary["log"]["unread_bytes"]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system takes root")
def test_on_a_full_disk_the_run_fails_in_one_line_and_the_old_summary_stays_whole(log: Path) -> None:
    disk = log.parent / "disk"
    disk.mkdir()
    config = log.parent / "constants.toml"
    config.write_text(f'log = {{directory = "{log.parent}"}}\nmonitor = {{directory = "{disk}"}}\n')
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
    try:
        write_events(log, [request(time=time.time() - 60)])
        assert run(log)["requests"]["count"] == 1
        before = {name: (disk / name).read_bytes() for name in ("summary.json", "summary.txt", "summary.html")}
        later = log.with_name("later")
        write_events(later, [request(time=time.time()) for _ in range(200)])
        with log.open("ab") as file:
            file.write(later.read_bytes())
        filler = disk / "filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(2 << 20))
        done = CliRunner().invoke(main, ["--config", str(config), "monitor"])
        assert done.exit_code == 1
        assert done.output.startswith("error: ")
        assert "Traceback" not in done.output
        assert {name: (disk / name).read_bytes() for name in before} == before
        filler.unlink()
        assert run(log)["requests"]["count"] == 201
    finally:
        subprocess.run(["umount", disk], check=True)
