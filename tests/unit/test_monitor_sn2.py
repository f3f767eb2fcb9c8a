"""Upstream's sn2-miner in the monitor: its log through the intake into history, summary, alerts, page and metrics."""

from __future__ import annotations

import gzip
import json
import time
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from click.testing import CliRunner

from monitor_samples import NOW, constants, fixed_host, host
from omron_miner import monitor
from omron_miner.cli import main
from omron_miner.engine import SN2, Engine, read_engine
from omron_miner.monitor import prometheus
from omron_miner.monitor.history import open_history
from omron_miner.monitor.schema import SCHEMA_FILE
from omron_miner.monitor.sn2 import reference

if TYPE_CHECKING:
    from omron_miner.monitor.model import Host, Summary

A, B = "ab" * 32, "cd" * 32
VALIDATOR = "5F3sa2TJAWMqDhXG6jhV4N8ko9SxwGy8TpaNS1repo5EYjQX"
OTHER = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
DEFECT = "activation length mismatch: expected 2050, got 2048"


def line(ago: float, text: str, level: str = "INFO", target: str = "sn2_miner") -> str:
    stamp = datetime.fromtimestamp(NOW - ago, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return f"{stamp} {level:>5} {target}: {text}\n"


def started(ago: float, version: str = "14.7.5") -> str:
    return line(ago, f'sn2-miner version="{version}"') + line(ago, "starting sn2-miner netuid=2 network=finney")


def asked(ago: float, name: str, circuit: str = A) -> str:
    return line(ago, f'handling DSlice circuit="{circuit}" slice="{name}" component_sha="{"ef" * 32}"')


def proved(ago: float) -> str:
    return line(ago, "witness and proof generated witness_size=32 proof_size=64 num_outputs=1 holographic=false")


def failed(ago: float, text: str = DEFECT) -> str:
    return line(ago, f"Handler error for dsperse-proof-generation: {text}", "ERROR", "btlightning::server::dispatch")


def shook_hands(ago: float, hotkey: str = VALIDATOR) -> str:
    return line(ago, f"Handshake successful, established connection: conn_{hotkey}_1767614400000")


def alone(ago: float, seconds: float, name: str = "slice_1", circuit: str = A) -> str:
    return asked(ago, name, circuit) + proved(ago - seconds)


ANNOUNCED = "axon registered on chain block=0x1 ip=203.0.113.7 port=8091"


def look(
    folder: Path,
    *lines: str,
    on: Host | None = None,
    append: bool = False,
    catch_up: bool = True,
    read_bytes: int | None = None,
) -> Summary:
    """A run of the monitor after the miner wrote `lines`."""
    path = folder / "sn2-miner.log"
    with path.open("a" if append else "w", encoding="utf-8") as file:
        file.write("".join(lines))
    found = on or replace(host(), port_listening=True)
    engine = Engine(SN2, log_file=path)
    return monitor.run(constants(folder), catch_up, fixed_host(found), engine, clock=lambda: NOW, read_bytes=read_bytes)


def firing(summary: Summary) -> dict[str, str]:
    return {one.name: one.text for one in summary.alerts if one.firing}


def test_the_log_of_a_day_becomes_a_summary(tmp_path: Path) -> None:
    summary = look(
        tmp_path,
        started(7200),
        line(7199, "circuits loaded count=3"),
        line(7190, ANNOUNCED),
        shook_hands(7100),
        *(alone(7000 - 20 * number, 10.0) for number in range(10)),
        asked(5000, "slice_1") + asked(4999, "slice_2") + proved(4990) + failed(4985),
        asked(4000, "slice_1") + asked(3999, "slice_1", B) + proved(3990) + failed(3985),
        asked(3900, "slice_7") + line(3720, "Handler timed out after 180s", "WARN", "btlightning::server::dispatch"),
        line(3000, "validator allowlist evaluated enforcing=true coverage_pct=97.5 kappa_pct=50.0"),
        line(2900, f"Handshake rejected: hotkey {OTHER} does not hold a validator permit", "WARN"),
        line(2800, 'metagraph sync failed, retaining previous state error="closed"', "WARN"),
    )
    found = summary.sn2
    assert found is not None
    assert (found.version, found.version_known, found.circuits_loaded) == ("14.7.5", True, 3)
    assert (found.requests, found.proofs, found.failed, found.timed_out) == (15, 12, 2, 1)
    assert (found.registered, found.announced, found.metagraph_failures) == (True, "203.0.113.7:8091", 1)
    assert (found.enforcing, found.coverage_percent, found.connected) == (True, 97.5, 1)
    assert [(one.hotkey, one.handshakes, one.connected) for one in found.validators] == [(VALIDATOR, 1, True)]
    assert [(one.kind, one.peer, one.count, one.known) for one in found.refused] == [("no_permit", OTHER, 1, False)]
    assert (summary.requests.count, summary.requests.succeeded, summary.requests.timed) == (15, 12, 10)
    assert summary.requests.failures == {"proving_failed": 2, "timeout": 1}
    assert summary.requests.proof_seconds is not None
    assert abs(summary.requests.proof_seconds.p50 - 10.0) < 0.1
    assert summary.requests.total_seconds is None
    # Of two open requests for one circuit the ends are that circuit's, of two circuits nobody's.
    assert {one.circuit_id: (one.requests.count, one.requests.succeeded) for one in summary.circuits} == {
        A: (13, 11), "": (2, 1),
    }  # fmt: skip
    defect = found.failures[0]
    assert (defect.text, defect.count, defect.is_upstreams) == (
        "activation length mismatch: expected #, got #",
        2,
        True,
    )
    by_name = {(one.circuit, one.slice): one for one in found.slices}
    assert by_name[A, "slice_1"].reference_seconds == 10.0
    assert (by_name[A, "slice_1"].proved, by_name[A, "slice_1"].failed, by_name[A, "slice_7"].failed) == (10, 0, 1)
    assert summary.miner.restarts == 0
    assert summary.verdict.text.count("verified") == 0


def test_the_summary_fits_its_schema_and_every_face_shows_it(tmp_path: Path) -> None:
    look(tmp_path, started(500), shook_hands(400), alone(300, 5.0), asked(200, "slice_<9>") + failed(199, "<b>odd</b>"))
    body = json.loads((tmp_path / "summary.json").read_text())
    jsonschema.validate(body, json.loads(SCHEMA_FILE.read_text()))
    assert body["engine"] == "sn2"
    text, page = (tmp_path / "summary.txt").read_text(), (tmp_path / "summary.html").read_text()
    for face in (text, page):
        assert VALIDATOR in face
        assert "ESTIMATE" in face
    assert "slice_<9>" in text
    assert "slice_&lt;9&gt;" in page
    assert "<b>odd" not in page
    metrics = (tmp_path / prometheus.FILE_NAME).read_text()
    assert 'omron_sn2_info{version="14.7.5",known="true"} 1' in metrics
    assert 'omron_requests_total{outcome="proving_failed"} 0' in metrics  # counters begin after the first look
    assert "omron_sn2_validators_connected 1" in metrics


def test_lines_are_counted_once_over_runs_rotation_and_compression(tmp_path: Path) -> None:
    path = tmp_path / "sn2-miner.log"
    first = look(tmp_path, started(900), *(alone(800 - number, 0.5) for number in range(50)), asked(600, "slice_2"))
    assert first.requests.count == 50
    path.rename(tmp_path / "sn2-miner.log.1")
    second = look(tmp_path, proved(590), *(alone(500 - number, 0.5) for number in range(50)))
    assert second.requests.count == 101
    (tmp_path / "sn2-miner.log.2.gz").write_bytes(gzip.compress((tmp_path / "sn2-miner.log.1").read_bytes()))
    (tmp_path / "sn2-miner.log.1").unlink()
    path.rename(tmp_path / "sn2-miner.log.1")
    third = look(tmp_path, alone(100, 0.5), failed(90)[:-10])
    assert third.requests.count == 102
    assert third.log.half_written_line
    assert third.sn2 is not None
    # The request that was open when the first run ended got its time and slice in the second.
    assert {one.slice: one.proved for one in third.sn2.slices} == {"slice_1": 101, "slice_2": 1}
    fourth = look(tmp_path, failed(90)[-10:], append=True)
    assert (fourth.requests.count, fourth.requests.failures) == (103, {"proving_failed": 1})
    assert fourth.totals is not None
    assert fourth.totals.requests["proving_failed"] == 1


def test_a_large_log_is_read_over_several_runs(tmp_path: Path) -> None:
    look_again = partial(look, tmp_path, append=True, catch_up=False, read_bytes=300_000)
    first = look_again(*(alone(3000 - number, 0.5) for number in range(3000)))
    assert first.log.unread_bytes > 0
    assert first.alerts == []
    counts = [first.requests.count]
    while look_again().log.unread_bytes:
        counts.append(look_again().requests.count)
    assert look(tmp_path, append=True).requests.count == 3000
    assert counts == sorted(set(counts))


def test_coloured_lines_are_read_as_plain_ones(tmp_path: Path) -> None:
    plain = started(900) + alone(800, 2.0)
    coloured = "".join(
        f"\x1b[2m{one[:27]}\x1b[0m \x1b[32m{one[28:33]}\x1b[0m \x1b[2m{one[34:]}\x1b[0m\n" for one in plain.splitlines()
    )
    found = look(tmp_path, coloured)
    assert (found.requests.succeeded, found.log.unreadable_lines) == (1, 0)
    assert found.sn2 is not None
    assert found.sn2.version == "14.7.5"


def test_an_unknown_version_and_lines_that_do_not_fit_are_counted_and_shown(tmp_path: Path) -> None:
    summary = look(
        tmp_path, started(900, "15.0.0"), line(800, "circuits loaded total=9"), "thread 'main' panicked\n",
        line(700, "something new altogether"),
    )  # fmt: skip
    assert summary.sn2 is not None
    assert (summary.sn2.misfit_lines, summary.sn2.unreadable_lines, summary.sn2.version_known) == (1, 1, False)
    assert summary.sn2.circuits_loaded is None
    warnings = " ".join(summary.verdict.warnings)
    assert "15.0.0" in warnings
    assert "circuits loaded total=9" in warnings


def test_a_restart_is_counted_and_a_crash_separately(tmp_path: Path) -> None:
    summary = look(
        tmp_path, started(5000), line(4000, "received SIGTERM, shutting down miner"), started(3990), started(1000)
    )
    assert (summary.miner.restarts, summary.miner.crashes) == (2, 1)


def test_another_users_miner_is_seen_by_its_port(tmp_path: Path) -> None:
    unseen = replace(host(), miner=None, port_listening=True)
    assert look(tmp_path, started(900), on=unseen).miner.running
    gone = replace(unseen, port_listening=False)
    reasons = look(tmp_path, append=True, on=gone).miner.reasons
    assert reasons == ["no process 'sn2-miner'", f"nothing takes packets on UDP port {gone.port}"]


# --- alerts ---------------------------------------------------------------------------------------------------------


def test_no_request_while_a_validator_is_connected(tmp_path: Path) -> None:
    calm = (started(90_000), line(89_990, ANNOUNCED), shook_hands(89_000))
    assert set(firing(look(tmp_path, *calm, alone(600, 5.0)))) == set()
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    look(quiet, *calm, alone(7200, 5.0))
    with open_history(quiet) as history:
        history.set_note("begun", NOW - 90_000)
        history.commit()
    found = firing(look(quiet, append=True))
    assert set(found) == {"no_request_while_connected"}
    assert "120 min" in found["no_request_while_connected"]
    nobody = tmp_path / "nobody"
    nobody.mkdir()
    look(nobody, started(90_000), line(89_990, ANNOUNCED))
    with open_history(nobody) as history:
        history.set_note("begun", NOW - 90_000)
        history.commit()
    assert set(firing(look(nobody, append=True))) == {"no_request"}


def test_validators_that_do_not_come_back_after_a_restart(tmp_path: Path) -> None:
    before = (started(9000), line(8990, ANNOUNCED), shook_hands(8900), shook_hands(8800, OTHER), alone(8000, 5.0))
    restart = (started(1000), line(990, ANNOUNCED), alone(100, 5.0))
    assert "0 of 2 validators" in firing(look(tmp_path, *before, *restart))["validators_gone"]
    back = tmp_path / "back"
    back.mkdir()
    assert "validators_gone" not in firing(look(back, *before, *restart, shook_hands(800)))
    just_now = (started(100), line(90, ANNOUNCED), alone(50, 5.0))
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    assert "validators_gone" not in firing(look(fresh, *before, *just_now))


@pytest.mark.parametrize(
    ("text", "is_upstreams"),
    [(DEFECT, True), ("circuit bundle has no stamped proof_config", True), ("out of memory", False)],
)
def test_failures_that_flood_from_one_slice(tmp_path: Path, text: str, is_upstreams: bool) -> None:
    calm = (started(3600), line(3590, ANNOUNCED), alone(3500, 5.0))
    flood = [asked(1500 - 10 * number, "slice_17") + failed(1499 - 10 * number, text) for number in range(12)]
    found = firing(look(tmp_path, *calm, *flood))["failures_flood"]
    assert f"slice_17 of circuit {A[:16]}" in found
    assert ("UPSTREAM" in found) is is_upstreams
    few = tmp_path / "few"
    few.mkdir()
    assert "failures_flood" not in firing(look(few, *calm, *flood[:9]))


@pytest.mark.parametrize(
    ("lines", "fires"),
    [
        (
            [line(7000, 'serve_axon failed (rate-limited or transient); miner will continue error="closed"', "WARN")],
            True,
        ),
        ([line(7000, "external IP autodetection failed; skipping serve_axon for this boot", "WARN")], True),
        ([line(7000, "miner running quic_port=8091")], True),
        ([line(7000, "axon already registered on chain, skipping ip=203.0.113.7 port=8091")], False),
        ([line(7000, "serve_axon failed error=x", "WARN"), line(6000, ANNOUNCED)], False),
        ([line(7000, "starting miner in loopback mode (no chain interaction) port=8091")], False),
    ],
)
def test_a_miner_that_is_not_announced(tmp_path: Path, lines: list[str], fires: bool) -> None:
    assert ("not_announced" in firing(look(tmp_path, started(7200), *lines, alone(100, 5.0)))) is fires
    early = tmp_path / "early"
    early.mkdir()
    assert "not_announced" not in firing(look(early, started(100), alone(50, 5.0)))  # it may still do it


def test_a_known_validator_that_is_refused(tmp_path: Path) -> None:
    calm = (started(7200), line(7190, ANNOUNCED), shook_hands(7000), alone(100, 5.0))
    stranger = line(60, f"Handshake rejected: hotkey {OTHER} does not hold a validator permit", "WARN")
    assert "validator_refused" not in firing(look(tmp_path, *calm, stranger))
    known = line(50, f"No connection found for validator {VALIDATOR}", "ERROR")
    assert VALIDATOR in firing(look(tmp_path, known, append=True))["validator_refused"]
    by_address = tmp_path / "address"
    by_address.mkdir()
    odd = [
        line(60 - n, f"Unknown or unauthenticated connection from 203.0.113.9:{4000 + n}", "ERROR") for n in range(3)
    ]
    assert "203.0.113.9 (3 times)" in firing(look(by_address, *calm, *odd))["validator_refused"]


@pytest.mark.parametrize(
    ("evaluated", "fires"),
    [("enforcing=true coverage_pct=62.5", True), ("enforcing=true coverage_pct=95.0", False),
     ("enforcing=false coverage_pct=10.0", False)],
)  # fmt: skip
def test_an_allowlist_that_drops_unknown_validators(tmp_path: Path, evaluated: str, fires: bool) -> None:
    lines = (started(7200), line(7190, ANNOUNCED), line(600, f"validator allowlist evaluated {evaluated}"))
    assert ("allowlist_low_coverage" in firing(look(tmp_path, *lines, alone(100, 5.0)))) is fires


@pytest.mark.parametrize(
    ("percents", "fires"), [((60, 70, 80), True), ((80, 80, 80), False), ((20, 30, 40), False), ((97, 97, 97), True)]
)
def test_memory_that_will_be_used_up(tmp_path: Path, percents: tuple[int, ...], fires: bool) -> None:
    found = host()
    memory = replace(found.memory, available_bytes=int(found.memory.total_bytes * (1 - percents[-1] / 100)))
    look(tmp_path, started(90_000), line(89_000, ANNOUNCED), alone(100, 5.0), on=replace(found, memory=memory))
    with open_history(tmp_path) as history:
        for hours, share in enumerate(reversed(percents[:-1]), start=1):
            history.add_sample(NOW - 3600 * hours, {"memory_used_percent": float(share)})
        history.commit()
    alerts = firing(look(tmp_path, append=True, on=replace(found, memory=memory)))
    assert ("memory_limit" in alerts) is fires


# --- delivered work -------------------------------------------------------------------------------------------------


def test_work_is_credited_at_the_reference_time_and_failures_count_twice(tmp_path: Path) -> None:
    old = NOW % 3600 + 1800 + 2 * 3600  # in the middle of an hour, 2.5 hours ago
    proofs = [alone(old - 20 * number, 4.0 + (number % 2) * 4) for number in range(20)]
    failures = [asked(old - 500 - number, "slice_1") + failed(old - 500.5 - number) for number in range(3)]
    unknown = [alone(old - 700, 5.0, "slice_2")]
    found = look(tmp_path, started(20_000), *proofs, *failures, *unknown).sn2
    assert found is not None
    work = found.work
    # The 10th percentile of the times is 4 s, whatever a proof took.
    assert (work.credit_seconds, work.debit_seconds) == (80.0, 24.0)
    assert work.ended == 24
    assert work.without_reference == 1
    assert work.work_seconds == pytest.approx((80 - 24) * 0.5 ** (old / 3600 / 2), rel=0.01)
    assert any("10th percentile" in one for one in work.assumptions)


def test_ends_of_no_known_slice_are_shared_out_over_the_hours_requests(tmp_path: Path) -> None:
    base = NOW % 3600 + 3000
    known = [alone(base - 10 * number, 2.0) for number in range(8)]
    both = [
        asked(base - 200 - 10 * n, "slice_1") + asked(base - 201 - 10 * n, "slice_2") + proved(base - 202 - 10 * n)
        + proved(base - 203 - 10 * n)
        for n in range(10)
    ]  # fmt: skip
    found = look(tmp_path, started(20_000), *known, *both).sn2
    assert found is not None
    assert found.work.credit_seconds == pytest.approx(2.0 * (8 + 10))
    assert found.work.without_reference == 10


def test_a_reference_needs_eight_times_and_takes_the_last_256() -> None:
    assert reference([1.0] * 7) is None
    assert reference([float(number) for number in range(1, 11)]) == 1.0
    assert reference([0.1] * 100 + [5.0] * 256) == 5.0


# --- which engine ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"port": 9000, "hotkey": "5F3", "tag": "v1"}', Engine(SN2, 9000, "5F3")),
        ('{"log_file": "/log"}', Engine(SN2, log_file=Path("/log"))),
        ('{"port": "no", "hotkey": 5}', Engine(SN2)),
        ("[8091]", Engine(SN2)),
        ("{", Engine(SN2)),
    ],
)
def test_the_release_in_force_says_which_miner_serves(tmp_path: Path, text: str, expected: Engine) -> None:
    """Also after going back: constants.toml is a link into the current release."""
    for release in ("ours", "upstreams"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "constants.toml").touch()
    (tmp_path / "upstreams/sn2.json").write_text(text)
    (tmp_path / "constants.toml").symlink_to("current/constants.toml")
    (tmp_path / "current").symlink_to("upstreams")
    assert read_engine(tmp_path / "constants.toml") == expected
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("ours")
    assert read_engine(tmp_path / "constants.toml") == Engine()


def test_the_command_reads_the_log_that_it_is_given(tmp_path: Path) -> None:
    config: Any = tmp_path / "constants.toml"
    config.write_text(f'[log]\ndirectory = "{tmp_path}"\n[monitor]\ndirectory = "{tmp_path}"\n')
    now = NOW - time.time()  # as `ago` says it
    (tmp_path / "other.log").write_text(started(now + 900) + alone(now + 800, 2.0))
    done = CliRunner().invoke(
        main, ["--config", str(config), "monitor", "--json", "--sn2-log", f"{tmp_path}/other.log"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["sn2"]["proofs"] == 1
