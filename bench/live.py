"""The live network's side: a probe, handshake and echoes, a filled circuit cache, and the miner's log, as ratios.

    .venv/bin/python bench/live.py [--json FILE]

The other side is our stand-in for sn2-miner in a separate process, on loopback, so these are costs of our client and
of Python's QUIC at both ends, not of the real miner. The repository is a stand-in as well; it waits before each answer,
as one across the Internet does.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench_circuits import ROOT
from reporting import Command, host_facts, json_option, milliseconds, say_host, say_table, summary, write_json

sys.path += [str(ROOT / "tests"), str(ROOT / "tests/live")]

import stand_in_miner
import stand_in_repository
from building import constants_below
from omron_miner.building.downloads import Rules
from omron_miner.chain.wallet import create_throwaway_hotkey
from omron_miner.errors import OmronError
from omron_miner.live.circuits import Settings, sync
from omron_miner.live.lightning import connect
from omron_miner.live.miner_log import read_files
from omron_miner.live.probe import probe, throwaway_keypair

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
ANSWER_SECONDS = 0.03
SLICES = 100_000
"""Of the log that is read: a busy miner's day."""


@dataclass(frozen=True)
class Plan:
    """How often each."""

    probes: int
    echoes: int
    components: int
    parallel: int


@contextmanager
def stand_in(place: Path) -> Iterator[int]:
    """Our stand-in in loopback mode; its port."""
    constants = constants_below(place)
    create_throwaway_hotkey(constants)
    wallet = constants.wallet
    command: list[Any] = [
        sys.executable, stand_in_miner.__file__, "--loopback", "--axon-host", "127.0.0.1", "--axon-port", "0",
        "--wallet-path", wallet.path, "--wallet-name", wallet.name, "--wallet-hotkey", wallet.hotkey,
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # noqa: S101  for the type checker
            port = next((line for line in process.stdout if "server listening" in line), "")
            yield int(port.rpartition("=")[2])
        finally:
            process.kill()


def probes(port: int, count: int) -> dict[str, list[float]]:
    """Seconds of whole probes and of their steps, each with its own connection. At most 30 handshakes a minute."""
    found: dict[str, list[float]] = {"probe": []}
    for _ in range(count):
        begun = time.perf_counter()
        report = probe("127.0.0.1", port, throwaway_keypair())
        found["probe"].append(time.perf_counter() - begun)
        if report.verdict != "alive":
            raise OmronError(f"the stand-in is {report.verdict}")
        for step in report.steps:
            found.setdefault(step.name, []).append((step.milliseconds or 0) / 1000)
    return found


async def echoes(port: int, count: int) -> dict[str, list[float]]:
    """Seconds of echoes of 1 KiB and 1 MiB over one connection."""
    found: dict[str, list[float]] = {}
    async with connect(("127.0.0.1", port), window_bytes=4 * MIB) as connection:
        await connection.ready
        await connection.handshake(throwaway_keypair())
        for label, size in (("echo 1 KiB", 1024), ("echo 1 MiB", MIB)):
            data = {"content": bytes(size)}
            for _ in range(count):
                begun = time.perf_counter()
                reply = await connection.ask("echo", data, limit=2 * MIB)
                found.setdefault(label, []).append(time.perf_counter() - begun)
                if reply.data != data:
                    raise OmronError("the echo is another")
    return found


def filled(place: Path, plan: Plan) -> dict[str, list[float]]:
    """Seconds of a sync of 1 MiB a component: one at a time, several, and with nothing to fetch."""
    rules = Rules((), plain_http=True, total_seconds=600, stall_seconds=30, tries=3, max_bytes=MIB * 2,
                  keep_free_bytes=0)  # fmt: skip
    found = {}

    def wait(handler: stand_in_repository.Handler, content: bytes) -> None:
        time.sleep(ANSWER_SECONDS)
        handler.honest(content)

    with stand_in_repository.serving() as repository:
        components = []
        for number in range(plan.components):
            content = number.to_bytes(8, "big") * (MIB // 8)
            components.append(repository.add_component(f"slice_{number}", {"circuit.bin": content}))
        repository.add_circuit("bench", components)
        for label, parallel, cache in (
            ("sync, one at a time", 1, place / "one"),
            (f"sync, {plan.parallel} at a time", plan.parallel, place / "several"),
            ("sync, nothing to fetch", plan.parallel, place / "several"),
        ):
            repository.acts = {path: [wait] for path in repository.files}
            begun = time.perf_counter()
            report = sync(Settings(repository.url, cache, parallel, 0, rules=rules))
            found[label] = [time.perf_counter() - begun]
            if not report.ok:
                raise OmronError(f"the sync failed: {report.problems}")
    return found


def write_log(path: Path, slices: int) -> None:
    """A miner's log of the last day, with so many slices, each a request and a proof or a failure."""
    circuit, sha256, begun = "ab" * 32, "cd" * 32, time.time() - 86_000
    with path.open("w", encoding="utf-8") as file:
        for number in range(slices):
            asked = begun + number * 85_000 / slices
            stamps = [
                datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                for moment in (asked, asked + 0.5)
            ]
            file.write(
                f'{stamps[0]}  INFO sn2_miner::handlers: handling DSlice circuit="{circuit}" '
                f'slice="slice_{number % 40}" component_sha="{sha256}"\n'
            )
            end = (
                "ERROR btlightning::server::dispatch: Handler error for dsperse-proof-generation: "
                "activation length mismatch: expected 2050, got 2048"
                if number % 20 == 0
                else " INFO sn2_miner::handlers: witness and proof generated witness_size=32 proof_size=64"
            )
            file.write(f"{stamps[1]} {end}\n")


def log_reading(path: Path, slices: int) -> dict[str, list[float]]:
    """CPU seconds of reading a miner's log."""
    found = []
    for _ in range(5):
        begun = time.process_time()
        read_files([path])
        found.append(time.process_time() - begun)
    return {f"log of {slices} slices, CPU": found}


def monitor_runs(place: Path, log: Path, slices: int) -> dict[str, list[float]]:
    """CPU seconds of the command `omron-miner monitor`: without a log, with one read before, and all of it at once."""
    constants = place / "constants.toml"
    constants.write_text(f'[log]\ndirectory = "{place}"\n[monitor]\ndirectory = "{place}"\n')
    command: list[Any] = [sys.executable, "-m", "omron_miner", "--config", constants, "monitor", "--sn2-log"]

    def run(path: Path, *options: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*command, path, *options], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def runs(path: Path) -> list[float]:
        run(path)  # the first run creates the history, and reads the processors' counters twice
        return [run(path) for _ in range(5)]

    alone = runs(place / "none.log")
    for file in place.glob("monitor.sqlite*"):
        file.unlink()
    whole = [run(log, "--catch-up")]
    return {
        "monitor without a log, CPU": alone,
        f"monitor, all of {slices} slices at once, CPU": whole,
        f"monitor, a run on a log of {slices} slices, CPU": runs(log),
    }


@click.command(cls=Command)
@click.option("--probes", "probe_count", type=click.IntRange(1, 25), default=20, show_default=True)
@click.option("--echoes", "echo_count", type=click.IntRange(1), default=50, show_default=True)
@click.option("--components", type=click.IntRange(1), default=500, show_default=True, help="Of 1 MiB each.")
@click.option("--parallel", type=click.IntRange(2), default=4, show_default=True, help="Components at a time.")
@json_option
def main(probe_count: int, echo_count: int, components: int, parallel: int, json_file: str | None) -> None:
    """Probe, handshake, echoes and cache; see the module's text."""
    plan = Plan(probe_count, echo_count, components, parallel)
    facts = host_facts()
    say_host(facts)
    with tempfile.TemporaryDirectory() as name:
        with stand_in(Path(name)) as port:
            found = probes(port, plan.probes) | asyncio.run(echoes(port, plan.echoes))
        found |= filled(Path(name), plan)
        log = Path(name) / "sn2-miner.log"
        write_log(log, SLICES)
        found |= log_reading(log, SLICES) | monitor_runs(Path(name), log, SLICES)
    results = {label: summary(values) for label, values in found.items()}
    say_table(
        ("", "p50", "p95"),
        [(label, milliseconds(one["p50"]), milliseconds(one["p95"])) for label, one in results.items()],
    )
    one, several = results["sync, one at a time"]["p50"], results[f"sync, {parallel} at a time"]["p50"]
    ratios = {
        "probe / handshake": results["probe"]["p50"] / results["handshake"]["p50"],
        "echo 1 MiB / 1 KiB": results["echo 1 MiB"]["p50"] / results["echo 1 KiB"]["p50"],
        f"sync, {parallel} at a time / one": several / one,
        "sync, nothing to fetch / all": results["sync, nothing to fetch"]["p50"] / several,
        "monitor with the log / without": results[f"monitor, a run on a log of {SLICES} slices, CPU"]["p50"]
        / results["monitor without a log, CPU"]["p50"],
    }
    say_table(("ratio", ""), [(label, f"{value:.3f}") for label, value in ratios.items()])
    write_json({"host": facts, "seconds": results, "ratios": ratios}, json_file)


if __name__ == "__main__":
    main()
