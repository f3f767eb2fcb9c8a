"""What one run of ``omron-miner monitor`` costs: CPU seconds and memory, against the limits of 0.5 s and 57 MiB.

    .venv/bin/python bench/monitor.py [requests a day]

Rows: a host without a request; the first run over a day's log, which reads its first piece; every further run until
all is read; the run a minute later, which is what the timer costs from then on; all of the log at once (--catch-up).
Python's byte code is cached, as on a host, where the role compiles it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from omron_miner.events import FailureKind, LifecycleEvent, RequestEvent, Timings, to_json
from omron_miner.formatting import size as size_of

PROBE = """
import json, re, resource, sys, time
from omron_miner.cli import main
main(sys.argv[1:], standalone_mode=False)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
print(json.dumps([time.process_time(), int(peak) / 1024]))
"""
CPU_LIMIT, MEMORY_LIMIT = 0.5, 57.0
REQUESTS = 100_000
CIRCUITS, VALIDATORS = 8, 16
REPEATS = 5


def event(number: int, when: float) -> RequestEvent:
    """Proofs of 18 to 27 s, one request in 200 a timeout."""
    proof = 18 + number % 977 / 100
    failed = number % 200 == 199
    circuit = number % CIRCUITS
    return RequestEvent(
        time=when,
        request_id=f"{number:032x}",
        synapse="QueryZkProof",
        validator_hotkey=f"5{number * 7 % VALIDATORS:047d}",
        circuit_id=f"{circuit:064x}",
        circuit=f"circuit {circuit} v0.1.0 using EZKL",
        verified=not failed,
        failure=FailureKind.TIMEOUT if failed else None,
        detail="the deadline passed" if failed else "",
        timings=Timings(proof + 1.4, number % 13 / 10, 0.01, 0.5, proof - 0.5, 0.4),
        tries=1,
        proof_bytes=31_000,
    )


def write_log(file: Path, requests: int) -> None:
    """A day of `requests` that ends two minutes ago."""
    now = time.time()
    with file.open("w", encoding="utf-8") as log:
        log.write(to_json(LifecycleEvent(now - 86_400, "started")) + "\n")
        for number in range(requests):
            log.write(to_json(event(number, now - 86_300 + number * 86_180 / requests)) + "\n")


def measure(directory: Path, *options: str) -> tuple[float, float]:
    """CPU seconds and peak resident MiB of one run."""
    config = directory / "constants.toml"
    config.write_text(f'log = {{directory = "{directory}"}}\nmonitor = {{directory = "{directory}"}}\n')
    command = [sys.executable, "-c", PROBE, "--config", str(config), "monitor", *options]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(directory.parent / "pycache")
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    cpu, peak = json.loads(done.stdout)
    return cpu, peak


def unread(directory: Path) -> int:
    """Bytes of the log that the last run left."""
    left: int = json.loads((directory / "summary.json").read_text())["log"]["unread_bytes"]
    return left


def row(name: str, runs: list[tuple[float, float]], limited: bool = True) -> bool:
    """Prints one row, the worst of the runs; whether it is within the limits."""
    cpus = sorted(cpu for cpu, _ in runs)
    peak = max(peak for _, peak in runs)
    within = cpus[-1] < CPU_LIMIT and peak < MEMORY_LIMIT
    verdict = ("within" if within else "OVER") if limited else "not limited"
    print(
        f"{name:34} {len(runs):4} {cpus[len(cpus) // 2]:9.3f} s {cpus[-1]:9.3f} s {peak:8.1f} MiB  {verdict}",
        flush=True,
    )
    return within or not limited


def main() -> None:
    """Prints the rows; exit 1 if one is over its limit."""
    requests = int(sys.argv[1]) if sys.argv[1:] else REQUESTS
    print(f"{'':34} {'runs':>4} {'median CPU':>11} {'worst CPU':>11} {'peak memory':>12}  limit")
    with tempfile.TemporaryDirectory() as name:
        empty, busy, at_once = (Path(name) / one for one in ("empty", "busy", "at_once"))
        for directory in (empty, busy, at_once):
            directory.mkdir()
        measure(empty)  # fills the cache of byte code
        fine = row("no request at all", [measure(empty) for _ in range(REPEATS)])
        write_log(busy / "events.jsonl", requests)
        os.link(busy / "events.jsonl", at_once / "events.jsonl")
        size = (busy / "events.jsonl").stat().st_size / 2**20
        fine &= row(f"first run, a log of {size:.0f} MiB", [measure(busy)])
        following = []
        while unread(busy):
            following.append(measure(busy))
        fine &= row("following runs until all is read", following) if following else True
        minutes, per_minute = [], requests // 1440
        for minute in range(REPEATS):
            with (busy / "events.jsonl").open("a", encoding="utf-8") as log:
                for number in range(per_minute):
                    log.write(to_json(event(requests + minute * per_minute + number, time.time())) + "\n")
            minutes.append(measure(busy))
        fine &= row(f"a minute later, {per_minute} new requests", minutes)
        row("all at once (--catch-up)", [measure(at_once, "--catch-up")], limited=False)
        kept, summary = (size_of((busy / name).stat().st_size) for name in ("monitor.sqlite", "summary.json"))
        print(f"history of that day: {kept}; summary.json {summary}")
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
