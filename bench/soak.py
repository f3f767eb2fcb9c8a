"""Many proofs in a row, with callers who leave and inputs that are wrong among them: does anything pile up?

    .venv/bin/python bench/soak.py [--circuit tiny] [--proofs 100] [--trouble-every 10] [--miner ours] [--json FILE|-]

One miner after the other answers the same number of proofs. Memory is the resident memory of the miner and all its
processes together, taken after every proof ("idle"; pages shared by forks count once for each) and every 0.05 s while
proofs run ("peak"). Growth is reported as the median of the last fifth of the proofs over that of the first fifth after
the warm-up; ours replaces a worker every prover.recycle_after_tasks proofs, which a soak should cover several times.

Every `--trouble-every` proofs a caller leaves after a fifth of a proof's time, and another sends an input that cannot
be quantised. Neither is counted as a proof. At the end, when all is quiet, leftover session files and folders are
counted, open files and threads of the miner compared with the start. Stock continues proving for the caller who left.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click
import psutil

from bench_circuits import RECIPES, BenchCircuit, bench_circuit
from omron_miner.circuits.examples import example_inputs
from reporting import (
    Command,
    aim,
    deadline_option,
    host_facts,
    json_option,
    progress,
    say,
    say_aims,
    say_host,
    say_table,
    set_option,
    summary,
    write_json,
)
from serving import OURS, STOCK, Miner, Validators, miners, workplace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

AIMED_GROWTH_MIB = 32.0
_WARM_UPS = 3
_SAMPLE_SECONDS = 0.05
_QUIET_SECONDS = 120.0
_MIB = 2**20


@dataclass
class _Peak:
    """The most resident memory of a miner's processes while it is watched, in bytes."""

    bytes: int = 0
    stop: threading.Event = field(default_factory=threading.Event)


@click.command(cls=Command)
@click.option("--circuit", type=click.Choice(list(RECIPES)), default="tiny", show_default=True)
@click.option("--proofs", type=click.IntRange(5), default=100, show_default=True, help="By each miner.")
@click.option("--trouble-every", type=click.IntRange(0), default=10, show_default=True, help="Proofs; 0: no trouble.")
@click.option("--miner", "names", type=click.Choice([OURS, STOCK]), multiple=True, help="Without it: both.")
@deadline_option(300.0)
@set_option
@json_option
def main(
    circuit: str,
    proofs: int,
    trouble_every: int,
    names: tuple[str, ...],
    deadline: float,
    overrides: tuple[str, ...],
    json_file: str | None,
) -> None:
    """Measure memory and what is left behind over many proofs."""
    host = host_facts()
    say_host(host)
    bench = bench_circuit(circuit)
    bench.warm_page_cache()
    measured = {
        name: asyncio.run(measure(name, bench, proofs, trouble_every, deadline, overrides))
        for name in names or (OURS, STOCK)
    }
    aims = _aims(measured[OURS]) if OURS in measured else []
    tell(measured, aims, proofs)
    settings = {"proofs": proofs, "trouble_every": trouble_every, "deadline_s": deadline, "overrides": list(overrides)}
    found: dict[str, Any] = {"circuit": {"name": circuit, **bench.facts()}, **measured, "aims": aims}
    if len(measured) == 2:
        pairs = {key: measured[OURS]["memory"][key] / measured[STOCK]["memory"][key] for key in ("idle", "peak")}
        found["ratio_ours_to_stock"] = {f"{key}_memory": round(ratio, 4) for key, ratio in pairs.items()}
    write_json({"bench": "soak", "host": host, "settings": settings, **found}, json_file)


async def measure(
    name: str, bench: BenchCircuit, proofs: int, trouble_every: int, deadline: float, overrides: Sequence[str]
) -> dict[str, Any]:
    """Everything about one miner. Raises OmronError when it does not start or its first proof does not verify."""
    show = progress(f"{bench.name}, {name}")
    with workplace() as place, miners((name,), bench, place, deadline, overrides) as made:
        miner = made[name]
        async with Validators(bench, 2, deadline + 30) as validators:
            for seed in range(1, _WARM_UPS + 1):
                answer, _ = await validators.prove_surely(miner, seed)
            await validators.check(_WARM_UPS, answer)
            before = _open_things(miner)
            idle, seconds, failures, troubles = [_resident(miner)], [], 0, 0
            with _watched(miner) as peak:
                for number in range(proofs):
                    show(f"proof {number + 1} of {proofs}")
                    answer = await validators.prove(miner.target, 100 + number)
                    failures += not answer.proof
                    seconds.append(answer.seconds)
                    idle.append(_resident(miner))
                    if trouble_every and number % trouble_every == trouble_every - 1:
                        troubles += await _make_trouble(miner, validators, bench, statistics.median(seconds) / 5)
            await _wait_until_quiet(miner, validators)
            after, left = _open_things(miner), miner.session_files()
    show("done\n")
    fifth = max(1, len(idle) // 5)
    growth = statistics.median(idle[-fifth:]) - statistics.median(idle[1 : fifth + 1])
    return {
        "proofs": proofs - failures,
        "failures": failures,
        "troubles": troubles,
        "response_s": {"samples": [round(one, 6) for one in seconds], **summary(seconds)},
        "memory": {
            "idle": statistics.median(idle),
            "idle_samples": idle,
            "peak": peak.bytes,
            "growth": growth,
            "growth_per_100_proofs": round(growth / (0.8 * proofs) * 100),
        },
        "left_behind": {
            "session_files": len(left),
            "bytes": sum(path.stat().st_size for path in left if path.is_file()),
            "open_files": after["open_files"] - before["open_files"],
            "threads": after["threads"] - before["threads"],
            "processes": after["processes"] - before["processes"],
        },
    }


async def _make_trouble(miner: Miner, validators: Validators, bench: BenchCircuit, leave_after: float) -> int:
    """A caller who leaves in the middle of a proof, and one whose input is wrong; how many troubles that is."""
    left = await validators.prove(miner.target, 1, who=1, timeout=leave_after)
    inputs = example_inputs(bench.circuit, 1)
    first, *_ = inputs
    wrong = {**inputs, first: ["x", *inputs[first][1:]]}
    refused = await validators.ask(miner.target, wrong)
    return (not left.proof) + (not refused.proof)


async def _wait_until_quiet(miner: Miner, validators: Validators) -> None:
    """Until the miner answers again and its processes have used no CPU worth mentioning for half a second."""
    until = time.monotonic() + _QUIET_SECONDS
    await validators.trivial(miner.target)
    while time.monotonic() < until:
        before = _cpu_seconds(miner)
        await asyncio.sleep(0.5)
        if _cpu_seconds(miner) - before < 0.05:
            return


def _cpu_seconds(miner: Miner) -> float:
    total = 0.0
    for process in miner.processes():
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _resident(miner: Miner) -> int:
    total = 0
    for process in miner.processes():
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def _open_things(miner: Miner) -> dict[str, int]:
    """Of the miner's own process, except for `processes`: how many it has started that are still there."""
    return {
        "open_files": miner.process.num_fds(),
        "threads": miner.process.num_threads(),
        "processes": len(miner.processes()) - 1,
    }


@contextmanager
def _watched(miner: Miner) -> Iterator[_Peak]:
    """Looks at the miner's memory all the time, in a thread."""
    peak = _Peak()

    def watch() -> None:
        while not peak.stop.wait(_SAMPLE_SECONDS):
            peak.bytes = max(peak.bytes, _resident(miner))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        peak.stop.set()
        thread.join()


def _aims(ours: dict[str, Any]) -> list[dict[str, Any]]:
    growth, left = ours["memory"]["growth_per_100_proofs"] / _MIB, ours["left_behind"]
    return [
        aim("proofs that failed", "0", ours["failures"], ours["failures"] == 0),
        aim("files and folders of requests left behind", "0", left["session_files"], left["session_files"] == 0),
        aim("idle memory's growth in 100 proofs, MiB", f"≤ {AIMED_GROWTH_MIB:g}", growth, growth <= AIMED_GROWTH_MIB),
    ]


def tell(measured: dict[str, dict[str, Any]], aims: Sequence[dict[str, Any]], proofs: int) -> None:
    """The table."""
    say("")
    rows = [
        [
            name,
            f"{one['proofs']} of {proofs}",
            str(one["troubles"]),
            f"{one['memory']['idle'] / _MIB:.0f} MiB",
            f"{one['memory']['peak'] / _MIB:.0f} MiB",
            f"{one['memory']['growth_per_100_proofs'] / _MIB:+.1f} MiB",
            str(one["left_behind"]["session_files"]),
            f"{one['left_behind']['open_files']:+d}",
            f"{one['left_behind']['threads']:+d}",
        ]
        for name, one in measured.items()
    ]
    say_table(("", "proved", "troubles", "idle", "peak", "growth/100", "left files", "open files", "threads"), rows)
    say_aims(aims)


if __name__ == "__main__":
    main()
