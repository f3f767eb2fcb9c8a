"""`omron-miner live probe` says that a miner is alive, or which step fails and why. Over real QUIC on loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import stand_in_miner
from building import constants_below
from omron_miner.chain.wallet import create_throwaway_hotkey
from omron_miner.cli import main
from omron_miner.errors import OmronError
from omron_miner.live.probe import Report, parse_target, probe, throwaway_keypair, to_text
from stand_in_miner import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from click.testing import Result

    from stand_in_miner import StandIn

OTHER = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"


def ask(miner: StandIn, seconds: float = 10.0, hotkey: str | None = None) -> Report:
    return probe(miner.host, miner.port, throwaway_keypair(), hotkey, seconds)


def outcome(report: Report) -> tuple[str, str | None]:
    """The verdict and the step that failed."""
    return report.verdict, next((step.name for step in report.steps if step.status == "failed"), None)


@contextmanager
def udp_port(answer: Callable[[bytes], bytes | None], port: int = 0) -> Iterator[int]:
    """A port of loopback that answers each datagram so; with None it swallows it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", port))
        listener.settimeout(0.05)
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                try:
                    data, peer = listener.recvfrom(65535)
                except TimeoutError:
                    continue
                if (reply := answer(data)) is not None:
                    listener.sendto(reply, peer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stop.set()
            thread.join()


@contextmanager
def tcp_port(port: int = 0) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", port)) as listener:
        yield listener.getsockname()[1]


@contextmanager
def tcp_open_and_udp_swallowed() -> Iterator[int]:
    """A port that is free for both: one that is free for TCP may be in use for UDP."""
    with ExitStack() as stack:
        for _ in range(20):
            port = stack.enter_context(tcp_port())
            with suppress(OSError):
                stack.enter_context(udp_port(lambda _: None, port))
                break
        yield port


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("fault", ["", "map"])
def test_a_miner_that_takes_the_hotkey_answers(host: str, fault: str) -> None:
    with running(host=host, enforce_permits=False, fault=fault) as miner:
        report = ask(miner, hotkey=miner.keypair.ss58_address)
    assert outcome(report) == ("alive", None)
    assert report.alive
    assert report.signed
    assert report.miner_hotkey == miner.keypair.ss58_address
    assert report.advice is None
    assert all(step.status == "ok" and step.milliseconds is not None for step in report.steps)
    assert any("Handshake successful" in line for line in miner.log)


def test_a_refusal_for_want_of_a_permit_is_a_sign_of_life() -> None:
    with running() as miner:
        report = ask(miner)
    assert outcome(report) == ("not_permitted", None)
    assert report.alive
    assert not report.signed
    assert "claimed" in report.meaning
    assert [step.status for step in report.steps] == ["ok"] * 4 + ["skipped"]
    assert any("does not hold a validator permit" in line for line in miner.log), "the signature was right"


@pytest.mark.parametrize("permits", [True, False])
def test_another_miner_is_distinguished_from_the_wanted_one(permits: bool) -> None:
    with running(enforce_permits=permits) as miner:
        report = ask(miner, hotkey=OTHER)
    assert outcome(report) == ("wrong_hotkey", "handshake")
    assert not report.alive
    assert report.miner_hotkey == miner.keypair.ss58_address


@pytest.mark.parametrize("permits", [True, False])
@pytest.mark.parametrize("offset", [-90, -600, 600])
def test_a_clock_that_validators_would_refuse_is_named(offset: int, permits: bool) -> None:
    """90 s behind is too much, 90 s ahead is not: a handshake may be 300 s old, and 60 s early."""
    with running(clock_offset=offset, enforce_permits=permits) as miner:
        report = ask(miner)
    assert outcome(report) == ("clock_off", "handshake")
    assert abs((report.clock_seconds or 0) - offset) <= 2


def test_a_clock_that_is_off_but_still_works_is_warned_of() -> None:
    with running(clock_offset=90) as miner:
        report = ask(miner)
    assert outcome(report) == ("not_permitted", None)
    assert "NTP" in (report.advice or "")


def test_a_closed_port_is_known_immediately_from_icmp() -> None:
    with udp_port(lambda _: None) as port:
        pass
    begun = time.monotonic()
    report = probe("127.0.0.1", port, throwaway_keypair(), seconds=60.0)
    assert outcome(report) == ("closed", "udp")
    assert time.monotonic() - begun < 30


def test_dropped_datagrams_are_silence_and_bounded_in_time() -> None:
    with udp_port(lambda _: None) as port:
        begun = time.monotonic()
        report = probe("127.0.0.1", port, throwaway_keypair(), seconds=1.0)
        assert time.monotonic() - begun < 10
    assert outcome(report) == ("silent", "udp")
    assert "allowlist" in (report.advice or ""), "an enforcing miner drops strangers"


def test_tcp_open_and_udp_dropped_is_a_forwarding_of_the_wrong_kind() -> None:
    with tcp_open_and_udp_swallowed() as port:
        report = probe("127.0.0.1", port, throwaway_keypair(), seconds=3.0)
    assert outcome(report) == ("tcp_only", "udp")


def test_tcp_open_and_udp_closed_is_the_same() -> None:
    with tcp_port() as port:
        assert outcome(probe("127.0.0.1", port, throwaway_keypair())) == ("tcp_only", "udp")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\xc0" * 1200])
def test_what_answers_but_is_not_quic_is_no_miner(answer: bytes) -> None:
    with udp_port(lambda _: answer) as port:
        report = probe("127.0.0.1", port, throwaway_keypair(), seconds=1.0)
    assert outcome(report) == ("not_quic", "quic")


def test_an_echo_of_our_own_datagrams_is_no_miner() -> None:
    with udp_port(lambda data: data) as port:
        report = probe("127.0.0.1", port, throwaway_keypair(), seconds=1.0)
    assert outcome(report) == ("not_quic", "quic")


def test_http3_is_no_miner() -> None:
    with running(alpn="h3") as miner:
        assert outcome(ask(miner)) == ("not_btlightning", "quic")


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        ("garbage", ("bad_answer", "handshake")),
        ("other-type", ("bad_answer", "handshake")),
        ("huge", ("bad_answer", "handshake")),
        ("odd-name", ("bad_answer", "handshake")),
        ("close", ("no_answer", "handshake")),
        ("forged", ("bad_signature", "handshake")),
        ("garbage-reply", ("bad_answer", "answer")),
        ("huge-reply", ("bad_answer", "answer")),
    ],
)
def test_an_answer_that_is_none_is_named_with_its_step(fault: str, wanted: tuple[str, str]) -> None:
    with running(fault=fault, enforce_permits=False) as miner:
        report = ask(miner, 60.0)
    assert outcome(report) == wanted
    assert to_text(report).replace("\n", "").isprintable(), "what a peer sends may not steer a terminal"


@pytest.mark.parametrize("fault", ["slow", "mute"])
def test_an_answer_that_does_not_come_to_an_end_is_given_up(fault: str) -> None:
    with running(fault=fault) as miner:
        begun = time.monotonic()
        report = ask(miner, 1.0)
        assert time.monotonic() - begun < 10
    assert outcome(report) == ("no_answer", "handshake")


def test_a_refusal_without_a_name_is_the_limit_of_handshakes() -> None:
    with running(handshakes=[time.monotonic()] * 30) as miner:
        assert outcome(ask(miner)) == ("rate_limited", "handshake")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], int]]]:
    """Starts the stand-in as a process with its own hotkey; returns it and its port."""
    started: list[subprocess.Popen[str]] = []

    def begin(*flags: str) -> tuple[subprocess.Popen[str], int]:
        constants = constants_below(tmp_path)
        create_throwaway_hotkey(constants)
        wallet = constants.wallet
        command: list[str | Path] = [
            sys.executable, stand_in_miner.__file__, "--wallet-path", wallet.path, "--wallet-name", wallet.name,
            "--wallet-hotkey", wallet.hotkey, "--axon-host", "127.0.0.1", "--axon-port", "0", "--no-auto-update",
            *flags,
        ]  # fmt: skip
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "HOME": str(tmp_path)}
        )
        started.append(process)
        assert process.stdout is not None
        listening = next(line for line in process.stdout if "QUIC Lightning server listening" in line)
        return process, int(listening.rpartition("=")[2])

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [("die-in-handshake", ("no_answer", "handshake")), ("die-in-request", ("no_answer", "answer"))],
)
def test_a_miner_killed_without_a_goodbye_is_seen_long_before_the_time_is_over(
    start: Callable[..., tuple[subprocess.Popen[str], int]], fault: str, wanted: tuple[str, str]
) -> None:
    process, port = start("--loopback", "--stand-in-fault", fault)
    begun = time.monotonic()
    report = probe("127.0.0.1", port, throwaway_keypair(), seconds=100.0)
    assert time.monotonic() - begun < 40
    assert outcome(report) == wanted
    assert process.wait(10) == -9
    assert outcome(probe("127.0.0.1", port, throwaway_keypair())) == ("closed", "udp")


def invoke(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["live", "probe", *map(str, arguments)])


def test_the_command_reports_the_outcome_by_its_exit_code_and_in_json() -> None:
    with running() as miner:
        target = f"127.0.0.1:{miner.port}"
        done = invoke(target, "--json")
        assert (done.exit_code, json.loads(done.output)["verdict"]) == (0, "not_permitted")
        done = invoke(target, "--hotkey", OTHER)
        assert done.exit_code == 1
        assert "FAILED (wrong_hotkey)" in done.output
        assert "  try: " in done.output


def test_the_command_asks_with_a_wallets_hotkey(tmp_path: Path) -> None:
    constants = constants_below(tmp_path)
    address, _ = create_throwaway_hotkey(constants)
    wallet = constants.wallet
    with running(permitted=frozenset({address})) as miner:
        named = ("--wallet-path", wallet.path, "--wallet-name", wallet.name, "--wallet-hotkey", wallet.hotkey)
        done = invoke(f"127.0.0.1:{miner.port}", *named)
    assert (done.exit_code, "ALIVE (alive)" in done.output) == (0, True), done.output


@pytest.mark.parametrize(
    "arguments",
    [("localhost",), ("host:0",), ("host:65536",), ("::1:8091",), ("[::1",), (":1",), ("host:1", "--hotkey", "5abc")],
)
def test_a_wrong_target_or_hotkey_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    done = invoke(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "  try: " in done.stderr


def test_targets() -> None:
    assert parse_target("203.0.113.7:8091") == ("203.0.113.7", 8091)
    assert parse_target("[2001:db8::7]:1") == ("2001:db8::7", 1)
    with pytest.raises(OmronError, match="ambiguous"):
        parse_target("2001:db8::7:8091")
    with pytest.raises(OmronError, match="write an IPv6 address in brackets"):
        parse_target("[::1")


def test_a_name_without_an_address_is_reported() -> None:
    report = probe("no-such-host.invalid", 8091, throwaway_keypair(), seconds=20.0)
    assert outcome(report) == ("no_address", "address")
    assert "FAILED (no_address)" in to_text(report)
