"""Alerts: what begins and clears them, once each; and that a receiver gets the message and nobody the secret."""

from __future__ import annotations

import json
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from monitor_samples import (
    GIB,
    NOW,
    constants,
    fixed_host,
    host,
    life,
    memory_history,
    request,
    take_events,
    write_events,
)
from omron_miner import monitor
from omron_miner.events import FailureKind
from omron_miner.monitor import alerts
from omron_miner.monitor.alerts import Condition, Receivers, deliver, read_receivers, update
from omron_miner.monitor.model import Clock, LogState, SwapDevice
from omron_miner.monitor.summarize import summarize
from summary_samples import sample_summary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from omron_miner.constants import Constants
    from omron_miner.monitor.history import History
    from omron_miner.monitor.model import Alert, Host, Summary

CLEAR = 600.0


def bad(history: History, settings: Constants, on: Host | None = None, now: float = NOW) -> dict[str, bool | None]:
    """Every condition by name, as of `now`."""
    return {one.name: one.bad for one in alerts.conditions(history, summarized(history, settings, on, now), settings)}


def summarized(history: History, settings: Constants, on: Host | None, now: float) -> Summary:
    return summarize(history, LogState("", "read"), on or host(), sample_summary().versions, settings, now)


def test_a_host_that_is_well_has_no_alert(tmp_path: Path) -> None:
    history = memory_history()
    take_events(history, [life("started", NOW - 4000), *(request(time=NOW - 60 * n) for n in range(20))])
    found = bad(history, constants(tmp_path))
    assert set(found.values()) <= {False, None}
    assert [name for name, value in found.items() if value is None] == ["memory_growth"]


@pytest.mark.parametrize(
    ("event", "names"),
    [
        (request(failure=FailureKind.VERIFICATION_FAILED), {"verification_failed", "success_below_target"}),
        (request(failure=FailureKind.TIMEOUT), {"timeout", "success_below_target"}),
        (request(failure=FailureKind.QUEUE_FULL), {"success_below_target"}),
        (life("started", NOW - 60), {"miner_restarting"}),
    ],
)
def test_what_happened_in_the_log_is_an_alert_until_the_window_has_passed(
    tmp_path: Path, event: Any, names: set[str]
) -> None:
    history, settings = memory_history(), constants(tmp_path)
    take_events(history, [life("started", NOW - 90_000), request(time=NOW - 120), event])
    assert {name for name, value in bad(history, settings).items() if value} == names
    take_events(history, [request(time=NOW + 3700)], now=NOW + 3700)
    assert not any(bad(history, settings, now=NOW + 3720).values())


def test_slow_answers_are_an_alert_from_a_few_of_them_on(tmp_path: Path) -> None:
    history, settings = memory_history(), constants(tmp_path)
    take_events(history, [request(proof=44.0, overhead=2.0)] * 4)
    assert bad(history, settings)["p95_over_target"] is None
    take_events(history, [request(proof=44.0, overhead=2.0)])
    assert bad(history, settings)["p95_over_target"] is True


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"swap": [SwapDevice("/dev/sda2", GIB, 0)]}, "swap_on"),
        ({"cpu": replace(host().cpu, governors={"0": "performance", "1": "powersave"})}, "governor_changed"),
        ({"clock": Clock(False, 0.0)}, "clock"),
        ({"miner": None}, "miner_down"),
        ({"disks": [replace(host().disks[0], free_bytes=GIB)]}, "disk_full"),
        ({"ram_disk": replace(host().ram_disk, used_bytes=22 * GIB, free_bytes=2 * GIB)}, "ram_disk_full"),  # type: ignore[type-var]
    ],
)
def test_a_host_with_wrong_tuning_is_an_alert(tmp_path: Path, changes: dict[str, Any], name: str) -> None:
    found = bad(memory_history(), constants(tmp_path), host(**changes))
    assert {one for one, value in found.items() if value} == {name}


def test_a_clock_that_was_set_is_an_alert(tmp_path: Path) -> None:
    history = memory_history()
    history.add_entries("change", 50, [(NOW - 30, ["clock", "no step", "stepped by +90.0 s"])])
    assert bad(history, constants(tmp_path))["clock"] is True


def test_no_request_for_too_long_is_an_alert_unless_switched_off(tmp_path: Path) -> None:
    history = memory_history()
    assert bad(history, constants(tmp_path))["no_request"] is False  # the history has just begun
    take_events(history, [request(time=NOW)])
    assert bad(history, constants(tmp_path), now=NOW + 3540)["no_request"] is False
    assert bad(history, constants(tmp_path), now=NOW + 3660)["no_request"] is True
    assert bad(history, constants(tmp_path, alert_no_request_seconds=0.0), now=NOW + 9000)["no_request"] is False


@pytest.mark.parametrize(("grown", "is_bad"), [(1.1, False), (1.4, True)])
def test_a_main_process_that_grows_over_a_day_is_an_alert(tmp_path: Path, grown: float, is_bad: bool) -> None:
    history, miner = memory_history(), sample_summary().host.miner
    assert miner is not None
    for hour in range(27):
        share = 1 + (grown - 1) * hour / 26
        history.add_sample(NOW - (26 - hour) * 3600, {"main_resident_bytes": GIB * share})
    young, old = (replace(miner, uptime_seconds=hours * 3600.0) for hours in (20, 40))
    assert bad(history, constants(tmp_path), host(miner=young))["memory_growth"] is None
    assert bad(history, constants(tmp_path), host(miner=old))["memory_growth"] is is_bad


# --- hysteresis -----------------------------------------------------------------------------------------------------


class Watch:
    """Runs a minute apart over one condition, with a receiver that takes every message."""

    def __init__(self) -> None:
        self.history, self.now = memory_history(), NOW
        self.sent: list[str] = []
        self.fails = ""

    def send(self, message: dict[str, Any], _: Receivers) -> str:
        if not self.fails:
            self.sent.append(message["state"])
        return self.fails

    def run(self, *states: bool | None, patience: float = 0.0) -> Alert:
        for state in states:
            update(self.history, [Condition("x", state, "text", patience)], self.now, CLEAR)
            (alert,) = deliver(self.history, sample_summary(), Receivers(command=("x",)), self.send)
            self.now += 60
        return alert


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_an_event_is_reported_once_and_once_more_when_it_has_cleared(watch: Watch) -> None:
    watch.run(False, True, True, True)
    assert watch.sent == ["firing"]
    watch.run(*[False] * 30)
    assert watch.sent == ["firing", "cleared"]
    assert not watch.run(False).firing
    watch.run(True)
    assert watch.sent == ["firing", "cleared", "firing"]


def test_an_alert_whose_condition_is_well_again_says_that_it_is_clearing(watch: Watch) -> None:
    assert watch.run(True).text == "text"
    alert = watch.run(False)
    assert (alert.firing, alert.text) == (True, "clearing: text")
    alert = watch.run(*[False] * 30)
    assert (alert.firing, alert.text) == (False, "text")


def test_what_flickers_is_one_event(watch: Watch) -> None:
    watch.run(*[True, False, False] * 30)
    assert watch.sent == ["firing"]


def test_an_alert_that_cannot_be_sent_changes_nothing(watch: Watch) -> None:
    watch.run(None, True, *[None] * 60)
    assert watch.run(None).firing
    assert watch.sent == ["firing"]


def test_what_needs_patience_is_reported_only_when_it_lasts(watch: Watch) -> None:
    watch.run(True, True, False, True, patience=90)
    assert watch.sent == []
    watch.run(True, True, patience=90)
    assert watch.sent == ["firing"]


def test_a_message_that_cannot_be_delivered_is_tried_again_until_it_can(watch: Watch) -> None:
    watch.fails = "the webhook answered 500"
    assert watch.run(True, True).undelivered == "the webhook answered 500"
    watch.fails = ""
    assert watch.run(True, True).undelivered == ""
    assert watch.sent == ["firing"]


def test_what_began_and_cleared_undelivered_is_not_reported(watch: Watch) -> None:
    watch.fails = "x"
    watch.run(True, *[False] * 30)
    watch.fails = ""
    watch.run(False, False)
    assert watch.sent == []


def test_a_clock_set_back_neither_clears_an_alert_immediately_nor_keeps_it(watch: Watch) -> None:
    watch.run(True, False)
    watch.now -= 86_400
    watch.run(False, False)
    assert watch.sent == ["firing"]
    watch.run(*[False] * 12)
    assert watch.sent == ["firing", "cleared"]


def test_more_messages_than_a_run_may_send_are_sent_by_the_next(watch: Watch) -> None:
    names = [Condition(f"{number}", True, "text") for number in range(alerts.MESSAGES_PER_RUN + 2)]
    update(watch.history, names, NOW, CLEAR)
    found = deliver(watch.history, sample_summary(), Receivers(command=("x",)), watch.send)
    assert len(watch.sent) == alerts.MESSAGES_PER_RUN
    assert sum(bool(alert.undelivered) for alert in found) == 2
    deliver(watch.history, sample_summary(), Receivers(command=("x",)), watch.send)
    assert len(watch.sent) == len(names)


# --- receivers ------------------------------------------------------------------------------------------------------


@contextmanager
def receiver(status: int = 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook on this host: its address, and what was posted to it."""
    received: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append({"path": self.path, "type": self.headers["Content-Type"], **json.loads(body)})
            self.send_response(status)
            if status in (301, 302, 307):
                self.send_header("Location", f"http://127.0.0.1:{server.server_port}/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook/{SECRET}", received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


SECRET = "s3cr3t-t0k3n"


def send(receivers: Receivers) -> Alert:
    """One alert that fires, delivered."""
    history = memory_history()
    update(history, [Condition("swap_on", True, "swap: /dev/sda2")], NOW, CLEAR)
    (alert,) = deliver(history, sample_summary(), receivers)
    return alert


def test_a_webhook_gets_the_alert_as_json() -> None:
    with receiver() as (url, received):
        assert send(Receivers(webhook_url=url)).undelivered == ""
    (message,) = received
    assert message["path"] == f"/hook/{SECRET}"
    assert message["type"] == "application/json"
    assert (message["version"], message["alert"], message["state"], message["host"]) == (
        1, "swap_on", "firing", "prover-1",
    )  # fmt: skip
    assert message["since_utc"] == "2026-01-05T12:00:00Z"
    assert message["text"] == "ALERT: prover-1: swap_on: swap: /dev/sda2"


@pytest.mark.parametrize("status", [302, 307, 404, 500])
def test_a_webhook_that_refuses_is_reported_without_its_address(status: int) -> None:
    with receiver(status) as (url, received):
        alert = send(Receivers(webhook_url=url))
    assert alert.undelivered == f"the webhook answered {status}"
    assert len(received) == 1  # redirects are not followed: the address may be a secret


def test_a_webhook_that_is_not_there_is_reported_without_its_address() -> None:
    with receiver() as (url, _):
        pass
    alert = send(Receivers(webhook_url=url))
    assert alert.undelivered == "the webhook cannot be reached: Connection refused"


def test_a_command_gets_the_alert_in_its_environment_and_on_its_input(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        "import json, os, sys; message = json.load(sys.stdin)\n"
        "open(sys.argv[1], 'w').write(message['text'] + '|' + os.environ['OMRON_ALERT_STATE'])"
    )
    assert send(Receivers(command=(sys.executable, "-c", code, str(out)))).undelivered == ""
    assert out.read_text() == "ALERT: prover-1: swap_on: swap: /dev/sda2|firing"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ((sys.executable, "-c", "raise SystemExit(3)"), "the command exited with 3"),
        (("/no/such/program",), "the command cannot be run: No such file or directory"),
        ((sys.executable, "-c", "import time; time.sleep(60)"), "the command took longer than 0.5 s"),
    ],
)
def test_a_command_that_fails_is_reported(command: tuple[str, ...], why: str) -> None:
    limit = 0.5 if "longer" in why else 60.0
    assert send(Receivers(command=command, limit_seconds=limit)).undelivered == why


def test_the_file_names_the_receivers(tmp_path: Path) -> None:
    file = tmp_path / "alerts.toml"
    assert read_receivers(file) == Receivers()
    file.write_text('webhook_url = "https://example.org/x"\ncommand = ["/bin/page", "--now"]\n')
    assert read_receivers(file) == Receivers("https://example.org/x", ("/bin/page", "--now"))


@pytest.mark.parametrize(
    "content",
    [
        f'webhook_url = "http://example.org/{SECRET}"',
        f'webhook_url = "file:///{SECRET}"',
        f'webhook_url = "https:///{SECRET}"',
        f'webhook_url = {SECRET}',
        f'command = "{SECRET}"',
        f'command = ["{SECRET}", 3]',
        f'webhok = "{SECRET}"',
    ],
)  # fmt: skip
def test_a_wrong_file_is_reported_without_its_content_and_the_alert_waits(tmp_path: Path, content: str) -> None:
    file = tmp_path / "alerts.toml"
    file.write_text(content)
    receivers = read_receivers(file)
    assert receivers.problem
    assert str(file) in receivers.problem
    assert SECRET not in receivers.problem
    assert send(receivers).undelivered == receivers.problem


def test_a_run_calls_the_webhook_once_and_writes_the_address_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = host(miner=None, port_listening=False, swap=[SwapDevice("/dev/sda2", GIB, 0)])
    file = tmp_path / "receivers.toml"
    settings = constants(tmp_path, alert_file=file)
    write_events(settings.log.events, [life("started", NOW)])
    with receiver() as (url, received):
        file.write_text(f'webhook_url = "{url}"\n')
        monitor.run(settings, collect=fixed_host(down))
        monitor.run(settings, collect=fixed_host(down))
        assert [message["alert"] for message in received] == ["swap_on"]
    written = [one for one in tmp_path.iterdir() if one.is_file() and one != file]
    assert {"summary.json", "summary.txt", "summary.html", "omron_miner.prom", "monitor.sqlite"} <= {
        one.name for one in written
    }
    assert not [one.name for one in written if SECRET.encode() in one.read_bytes()]
