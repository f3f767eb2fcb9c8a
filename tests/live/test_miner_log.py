"""The log of `sn2-miner` is read for what it says, and for no more."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from omron_miner.cli import main
from omron_miner.errors import OmronError
from omron_miner.live.lightning import connect
from omron_miner.live.miner_log import MinerLog, Reader, meaning_of, read_files, to_text
from omron_miner.live.probe import throwaway_keypair
from stand_in_miner import running

if TYPE_CHECKING:
    from pathlib import Path

    from stand_in_miner import StandIn

CIRCUIT = "ab" * 32


def line(second: float, text: str, level: str = "INFO", target: str = "sn2_miner::handlers") -> str:
    return f"2026-06-20T12:00:{second:09.6f}Z {level:>5} {target}: {text}\n"


def request(second: float, number: int) -> str:
    return line(second, f'handling DSlice circuit="{CIRCUIT}" slice="slice_{number}" component_sha="{"cd" * 32}"')


def proved(second: float) -> str:
    return line(second, "witness and proof generated witness_size=32 proof_size=64 num_outputs=1 holographic=false")


def failed(second: float, text: str) -> str:
    full = f"Handler error for dsperse-proof-generation: {text}"
    return line(second, full, "ERROR", "btlightning::server::dispatch")


def read(*lines: str) -> MinerLog:
    reader = Reader()
    reader.feed(lines)
    return reader.log


def test_requests_proofs_and_failures_are_counted_by_slice_and_by_message() -> None:
    log = read(
        request(1, 1),
        proved(3.5),
        request(4, 2),
        failed(5, "activation length mismatch: expected 2050, got 2048"),
        request(6, 2),
        failed(7, "activation length mismatch: expected 99, got 98"),
        request(8, 3),
        line(9, "Handler timed out after 180s", "WARN", "btlightning::server::dispatch"),
    )
    assert log.requests == {f"{CIRCUIT} slice_1": 1, f"{CIRCUIT} slice_2": 2, f"{CIRCUIT} slice_3": 1}
    assert log.failures == {"activation length mismatch: expected #, got #": 2, "handler timed out": 1}
    assert log.failures_alone == {f"{CIRCUIT} slice_2": 2, f"{CIRCUIT} slice_3": 1}
    assert log.seconds_alone == [2.5]
    assert "538" in (meaning_of("activation length mismatch: expected #, got #") or "")
    assert (log.misfits, log.unreadable, log.errors) == (0, 0, 2)
    assert (log.last_request or 0) - (log.first or 0) == 7


def test_more_messages_than_are_kept_parsed_are_all_counted(tmp_path: Path) -> None:
    """And Windows line ends, lines longer than one read, and a last line without an end."""
    texts = [f'handling DSlice circuit="{CIRCUIT}" slice="{number % 7}" run={number}' for number in range(10_000)]
    wide = line(2, "x" * 200_000)
    path = tmp_path / "miner.log"
    path.write_text("".join(line(1, text) for text in texts).replace("\n", "\r\n", 5) + wide + proved(3).rstrip())
    log = read_files([path])
    assert (log.counts, log.lines) == ({"request": 10_000, "proved": 1}, 10_001 + -(-len(wide) // 65_536))
    assert log.requests == {f"{CIRCUIT} {number}": 10_000 // 7 + (number < 10_000 % 7) for number in range(7)}
    assert log.unreadable == log.lines - 10_002


def test_a_time_that_is_none_counts_as_the_line_before() -> None:
    log = read(request(1, 1), request(1, 1).replace("2026-06-20", "2026-13-45"), proved(4))
    assert (log.counts, log.unreadable) == ({"request": 2, "proved": 1}, 0)
    assert (log.last_request, (log.last or 0) - (log.first or 0)) == (log.first, 3)


def test_what_ran_with_others_gets_no_time_and_no_slice() -> None:
    log = read(request(1, 1), request(2, 2), failed(3, "x"), proved(4), request(5, 3), proved(6))
    assert (log.failures_alone, log.seconds_alone) == ({}, [1.0])


def test_a_restart_ends_what_was_open() -> None:
    log = read(request(1, 1), request(2, 2), line(3, "starting sn2-miner netuid=2"), request(4, 3), proved(6))
    assert log.seconds_alone == [2.0]


@pytest.mark.parametrize(
    ("version", "known"), [("14.7.5", True), ("v14.6.0", True), ("14.8.0", False), ("15.0.0", False)]
)
def test_a_release_whose_lines_are_not_known_is_named(version: str, known: bool) -> None:
    log = read(line(1, f'sn2-miner version="{version}"'))
    assert (log.version, log.version_known) == (version, known)
    assert ("not known" in to_text(log)) is not known


def test_the_miners_own_state_is_read() -> None:
    hotkey = throwaway_keypair().ss58_address
    log = read(
        line(1, "circuits loaded count=3"),
        line(2, 'serve_axon failed error="connection closed"', "WARN"),
        line(3, "axon registered on chain ip=203.0.113.7 port=8091"),
        line(4, f"Handshake successful, established connection: conn_{hotkey}_1750000000000"),
        line(5, f"Handshake rejected: hotkey {hotkey} does not hold a validator permit", "WARN"),
        line(6, "validator allowlist evaluated enforcing=true coverage_pct=97.5 kappa=0.5"),
        line(7, "Unknown or unauthenticated connection from 203.0.113.9:4433", "ERROR"),
    )
    assert (log.circuits_loaded, log.registered, log.enforcing, log.coverage_percent) == (3, True, True, 97.5)
    assert log.validators == {hotkey: 1}
    assert (log.counts["no_permit"], log.counts["unauthenticated"]) == (1, 1)


def test_spans_and_colours_before_a_text_are_passed_over() -> None:
    spans = "serve_forever{host=0.0.0.0 port=8091}:accept: btlightning::server: "
    coloured = (
        f"\x1b[2m2026-06-20T12:00:01.000000Z\x1b[0m \x1b[32m INFO\x1b[0m {spans}circuits loaded \x1b[3mcount\x1b[0m=4"
    )
    assert read(coloured).circuits_loaded == 4


@pytest.mark.parametrize(
    "text",
    [
        "handling DSlice circuit_id=x", "circuits loaded total=3", "circuits loaded count=many", "sn2-miner version=",
        "sn2-miner version=x.y", "validator allowlist evaluated enforcing=maybe coverage_pct=1",
        "Handshake successful, established connection: 7", "Handler error for x",
    ],
)  # fmt: skip
def test_a_known_line_that_no_longer_matches_is_counted_and_shown(text: str) -> None:
    log = read(line(1, text))
    assert log.misfits == 1
    assert text in log.misfit
    assert "do not match" in to_text(log)


def test_lines_of_another_form_are_counted() -> None:
    log = read(
        "thread 'main' panicked at src/main.rs:1:1:\n", "\n", "2026-99-99T99:99:99Z  INFO a: circuits loaded count=1"
    )
    assert (log.unreadable, log.lines, log.circuits_loaded) == (1, 3, 1)


def test_what_callers_write_does_not_grow_the_tables_without_end() -> None:
    log = read(*[request(1, number) for number in range(3000)])
    assert len(log.requests) == 1001
    assert sum(log.requests.values()) == 3000
    assert log.requests["others"] == 2000


def test_the_stand_ins_own_log_is_understood() -> None:
    async def work(miner: StandIn) -> None:
        async with connect((miner.host, miner.port)) as connection:
            await connection.ready
            await connection.handshake(throwaway_keypair())
            for circuit in (CIRCUIT, "0" * 64):
                await connection.ask("dsperse-proof-generation", {"circuit": circuit, "slice_num": "slice_1"})

    with running(enforce_permits=False) as miner:
        asyncio.run(work(miner))
    log = read(*miner.log)
    assert (log.counts["request"], log.counts["proved"], log.counts["failed"], log.counts["connected"]) == (2, 1, 1, 1)
    assert (log.misfits, log.unreadable) == (0, 0)
    assert "467" in to_text(log)


def test_the_monitor_reports_what_the_stand_in_logged(tmp_path: Path) -> None:
    key = throwaway_keypair()

    async def work(miner: StandIn) -> None:
        async with connect((miner.host, miner.port)) as connection:
            await connection.ready
            await connection.handshake(key)
            for circuit in (CIRCUIT, CIRCUIT, "0" * 64):
                await connection.ask("dsperse-proof-generation", {"circuit": circuit, "slice_num": "slice_1"})

    with running(enforce_permits=False) as miner:
        asyncio.run(work(miner))
        port = miner.port
        config, log = tmp_path / "constants.toml", tmp_path / "sn2-miner.log"
        log.write_text("".join(f"{one}\n" for one in miner.log))
        config.write_text(f'[log]\ndirectory = "{tmp_path}"\n[monitor]\ndirectory = "{tmp_path}"\n')
        (tmp_path / "sn2.json").write_text(json.dumps({"port": port}))
        done = CliRunner().invoke(main, ["--config", str(config), "monitor", "--json"])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["requests"]["count"], summary["requests"]["succeeded"], summary["sn2"]["proofs"]) == (3, 2, 2)
    assert [one["hotkey"] for one in summary["sn2"]["validators"]] == [key.ss58_address]
    assert summary["sn2"]["failures"][0]["is_upstreams"]
    assert (summary["miner"]["port_listening"], summary["miner"]["port"]) == (True, port)
    assert (summary["sn2"]["misfit_lines"], summary["log"]["unreadable_lines"]) == (0, 0)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # Two requests for one slice: both ends are its own, none has a time.
        ((request(1, 1), request(2, 1), proved(3), proved(4)), {f"{CIRCUIT} slice_1": 2}),
        ((request(1, 1), request(2, 2), proved(3), proved(4)), {CIRCUIT: 2}),
        ((request(1, 1), request(2, 2), proved(3), request(4, 1), proved(5), proved(6)), {CIRCUIT: 3}),
        ((proved(3),), {"": 1}),
        ((request(1, 1), line(2, "handling QueryZkProof model_id=x"), proved(3)), {"": 1}),
    ],
)
def test_an_end_belongs_to_what_all_open_requests_are_of(lines: tuple[str, ...], expected: dict[str, int]) -> None:
    reader = Reader(keep_minutes=True)
    reader.feed(lines)
    assert reader.minutes[0].proved == expected
    assert reader.minutes[0].seconds == {}


def test_a_reader_continues_where_another_stopped() -> None:
    lines = [request(1, 1), proved(2.5), request(10, 2), proved(17), request(20, 3), request(21, 3), failed(22, "x")]
    at_once = Reader(keep_minutes=True)
    at_once.feed(lines)
    [whole] = at_once.minutes
    for cut in range(len(lines)):
        first, second = Reader(keep_minutes=True), Reader(keep_minutes=True)
        first.feed(lines[:cut])
        second.load(json.loads(json.dumps(first.dump())))
        second.feed(lines[cut:])
        parts = [*first.minutes, *second.minutes]
        assert sum(sum(one.proved.values()) for one in parts) == sum(whole.proved.values())
        assert {key: times for one in parts for key, times in one.seconds.items()} == whole.seconds
        assert {key: count for one in parts for key, count in one.failed.items()} == whole.failed


def test_a_request_that_never_ended_is_forgotten() -> None:
    late = [line(second, text).replace("T12:", "T13:") for second, text in ((1, "x"),)]
    again = request(5, 2).replace("T12:", "T13:"), proved(7).replace("T12:", "T13:")
    reader = Reader(keep_minutes=True)
    reader.feed([request(1, 1), *late, *again])
    assert reader.minutes[-1].seconds == {f"{CIRCUIT} slice_2": [2.0]}


def test_the_command_reads_files(tmp_path: Path) -> None:
    (tmp_path / "one.log").write_text(request(1, 1))
    (tmp_path / "two.log").write_bytes(proved(3).encode() + b"\xff\xfe\n")
    done = CliRunner().invoke(main, ["live", "log", str(tmp_path / "one.log"), str(tmp_path / "two.log"), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["seconds_alone"] == [2.0]
    with pytest.raises(OmronError, match=r"none\.log"):
        read_files([tmp_path / "none.log"])


@pytest.mark.parametrize("content", [b"", b"another program's\n", bytes(range(256)) * 10])
def test_the_command_refuses_what_is_not_the_miners_log(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.log").write_bytes(content)
    done = CliRunner().invoke(main, ["live", "log", str(tmp_path / "other.log"), "--json"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"no line of {tmp_path / 'other.log'} is sn2-miner's" in done.stderr
