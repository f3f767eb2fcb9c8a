"""Prover hosts in the monitor: what the miner says of them in summary, report, metrics and alerts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from monitor_samples import NOW, fixed_host, host
from omron_miner.constants import Constants, Log, Monitor, Prover
from omron_miner.constants import Provers as Settings
from omron_miner.monitor import run_once
from omron_miner.monitor.history import open_history
from omron_miner.monitor.html import to_html
from omron_miner.monitor.prometheus import to_prometheus
from omron_miner.monitor.provers import watched
from omron_miner.monitor.render import to_text
from omron_miner.provers.status import CircuitSeconds, HostState, ProversStatus, write_status
from summary_samples import prover_summary

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.monitor.model import Provers, Summary

A = "ab" * 32
LOCAL = HostState("miner-1", "", True, "", NOW - 9000, 1, 1, 0, 10, 0, pace={A: CircuitSeconds(12.0, 11.0)})
REMOTE = replace(LOCAL, name="prover-1", address="tls://10.0.0.2:8785", workers=2, running=2)
GONE = replace(REMOTE, gets_work=False, left=True, state="it left: switched off", workers=0, running=0)


def settings(place: Path, engine: str = "dask", miner: str = "") -> Constants:
    return Constants.model_validate(
        {
            "prover": Prover(engine=engine),  # type: ignore[arg-type]
            "provers": Settings(miner=miner),
            "log": Log(directory=place),
            "monitor": Monitor(directory=place),
        }
    )


def observe(constants: Constants) -> Summary:
    with open_history(constants.monitor.directory) as history:
        found = run_once.observe(history, constants, fixed_host(host()), clock=lambda: NOW)
        history.commit()
    return found


def say(place: Path, *hosts: HostState, ago: float = 2.0) -> Constants:
    """What the miner wrote."""
    constants = settings(place)
    write_status(constants.log.prover_hosts, ProversStatus(NOW - ago, 3, hosts))
    return constants


def bad(found: Provers | None) -> dict[str, bool | None]:
    assert found is not None
    return {name: is_bad for name, is_bad, _, _ in watched(found, NOW)}


def test_the_summary_has_each_host_that_the_miner_tells_of(tmp_path: Path) -> None:
    found = observe(say(tmp_path, LOCAL, REMOTE, GONE)).provers
    assert found is not None
    assert (found.problem, found.queued) == ("", 3)
    assert [(one.name, one.address, one.gets_work, one.left) for one in found.hosts] == [
        ("miner-1", "", True, False),
        ("prover-1", REMOTE.address, True, False),
        ("prover-1", REMOTE.address, False, True),
    ]
    assert {name: one.expected_seconds for name, one in found.hosts[1].pace.items()} == {A: 12.0}


@pytest.mark.parametrize(("engine", "miner"), [("local", ""), ("dask", "miner-1")])
def test_a_miner_without_prover_hosts_and_a_prover_host_have_none(tmp_path: Path, engine: str, miner: str) -> None:
    say(tmp_path, LOCAL)
    assert observe(settings(tmp_path, engine, miner)).provers is None


def test_what_is_old_or_cannot_be_read_is_no_news_and_changes_no_alert(tmp_path: Path) -> None:
    old = observe(say(tmp_path, LOCAL, GONE, ago=3600)).provers
    assert old is not None
    assert old.problem == "the miner last wrote it 1 h ago"
    constants = settings(tmp_path)
    for text, why in (("{}", "is not the miner's"), (None, "No such file or directory")):
        constants.log.prover_hosts.unlink()
        if text is not None:
            constants.log.prover_hosts.write_text(text)
        unread = observe(constants).provers
        assert unread is not None
        assert why in unread.problem
        assert bad(unread) == {"prover_host_lost": None, "prover_host_behind": None}
        constants.log.prover_hosts.touch()


@pytest.mark.parametrize(
    ("one", "ago", "fires"),
    [
        (GONE, 301, True),
        (GONE, 60, False),  # it may be restarting
        (replace(REMOTE, gets_work=False, state="it runs release 1, the miner 2"), 301, True),
        (replace(REMOTE, state="its workers are busy"), 9000, False),
        (REMOTE, 9000, False),
        (replace(LOCAL, gets_work=False, state="it did not answer"), 301, False),  # the miner itself: other alerts
    ],
)
def test_a_host_that_gets_no_work_for_minutes_is_an_alert(
    tmp_path: Path, one: HostState, ago: float, fires: bool
) -> None:
    summary = observe(say(tmp_path, LOCAL, replace(one, since=NOW - ago)))
    firing = [alert for alert in summary.alerts if alert.firing and alert.name == "prover_host_lost"]
    assert bool(firing) is fires
    assert all(one.name in alert.text and one.state in alert.text for alert in firing)


@pytest.mark.parametrize(("expected", "fires"), [(21.0, False), (23.0, True)])
def test_a_host_that_takes_over_twice_its_own_fastest_proof_is_behind(
    tmp_path: Path, expected: float, fires: bool
) -> None:
    slow = replace(REMOTE, pace={A: CircuitSeconds(expected, 11.0)})
    assert bad(observe(say(tmp_path, LOCAL, slow)).provers)["prover_host_behind"] is fires
    idle = replace(slow, gets_work=False)
    assert bad(observe(say(tmp_path, LOCAL, idle)).provers)["prover_host_behind"] is False


def test_report_page_and_metrics_show_each_host() -> None:
    summary = prover_summary()
    text, page, metrics = to_text(summary), to_html(summary), to_prometheus(summary)
    assert "provers    1 of 2 get work; requests waiting for a host: 4" in text
    rows = [" ".join(line.split()) for line in text.splitlines() if line.startswith("prover-")]
    assert rows == [
        "prover-1 gets work 2 of 2 500 0 12.2 s", "prover-2 it left: it is no longer conn… 0 of 0 500 3 12.2 s"
    ]  # fmt: skip
    for one in ("prover-2", "it left: it is no longer connected to the scheduler", "tls://10.0.0.3:8785"):
        assert one in page
    at = 'host="prover-1",address="tls://10.0.0.2:8785"'
    gone = 'host="prover-2",address="tls://10.0.0.3:8785"'
    assert {
        f"omron_prover_host_up{{{at}}} 1",
        f"omron_prover_host_up{{{gone}}} 0",
        f"omron_prover_host_proofs_total{{{at}}} 500",
        f'omron_prover_host_pace_seconds{{{at},circuit="{A}"}} 12.25',
        "omron_prover_queued_requests 4",
    } <= set(metrics.splitlines())
    assert f"omron_prover_host_proofs_total{{{gone}}}" not in metrics  # it would stand still, and begin again at 0
    assert summary.provers is not None
    stale = replace(summary, provers=replace(summary.provers, problem="the miner last wrote it 1 h ago"))
    assert "omron_prover" not in to_prometheus(stale)
    assert "STALE, the miner last wrote it 1 h ago" in to_text(stale)
