"""Many validators at once: proofs a minute, and how many answers are in time, ours against the stock miner's flow.

    .venv/bin/python bench/throughput.py [--circuit tiny demo large] [--at-once 8] [--rounds 3] [--json FILE|-]

Every burst is `--at-once` requests sent at the same moment by as many validators (each its own hotkey and connection),
with fresh inputs. Bursts go to both miners in turn, never at the same time; who is first changes with every round. A
burst lasts until its last answer. Validators would wait 60 s; these wait as long as it takes, so that every proof made
is counted, and whether it came before --deadline is counted separately.

Ours knows the deadline: a request it cannot meet is refused rather than proved in vain, and in real life the time so
saved goes to the next request. Its limit on waiting for a prover, 5 s on a host, is raised to the deadline here, or
most of a burst would be refused immediately. Stock knows neither. Give ours more workers with --set prover.workers=2;
stock always has one proof at a time, with all the threads ours has together.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import TYPE_CHECKING, Any

import click

from bench_circuits import BenchCircuit, bench_circuit
from reporting import (
    Command,
    aim,
    circuit_option,
    deadline_option,
    host_facts,
    json_option,
    more_circuits_argument,
    progress,
    say,
    say_aims,
    say_host,
    say_table,
    set_option,
    summary,
    write_json,
)
from serving import OURS, STOCK, VALIDATORS, Miner, Validators, miners, workplace

if TYPE_CHECKING:
    from collections.abc import Sequence

DEADLINE_S = 45.0
AIMED_RATIO = 1.5


@click.command(cls=Command)
@circuit_option
@more_circuits_argument
@click.option("--at-once", type=click.IntRange(2, len(VALIDATORS)), default=8, show_default=True, help="In a burst.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Bursts to each miner.")
@deadline_option(DEADLINE_S)
@set_option
@json_option
def main(
    circuits: tuple[str, ...],
    more_circuits: tuple[str, ...],
    at_once: int,
    rounds: int,
    deadline: float,
    overrides: tuple[str, ...],
    json_file: str | None,
) -> None:
    """Measure bursts of requests, ours against the stock miner's flow. Without --circuit: tiny and demo."""
    host = host_facts()
    say_host(host)
    measured = {}
    for name in (*circuits, *more_circuits) or ("tiny", "demo"):
        measured[name] = asyncio.run(measure(bench_circuit(name), at_once, rounds, deadline, overrides))
        tell(name, measured[name], deadline)
    settings = {"at_once": at_once, "rounds": rounds, "deadline_s": deadline, "overrides": list(overrides)}
    write_json({"bench": "throughput", "host": host, "settings": settings, "circuits": measured}, json_file)


async def measure(
    bench: BenchCircuit, at_once: int, rounds: int, deadline: float, overrides: Sequence[str]
) -> dict[str, Any]:
    """Everything about one circuit. Raises OmronError when a miner does not start or its proofs do not verify."""
    bench.warm_page_cache()
    show = progress(bench.name)
    bursts: dict[str, list[dict[str, Any]]] = {OURS: [], STOCK: []}
    with workplace() as place, miners((OURS, STOCK), bench, place, deadline, overrides) as both:
        async with Validators(bench, at_once, timeout_seconds=10 * deadline * at_once) as validators:
            for miner in both.values():
                await _warm_up(miner, validators, at_once)
            for turn in range(rounds):
                for miner in sorted(both.values(), key=lambda one: one.name, reverse=bool(turn % 2)):
                    show(f"round {turn + 1} of {rounds}, {miner.name}")
                    first_seed = 100 + turn * at_once
                    bursts[miner.name].append(await _burst(miner, validators, first_seed, at_once, deadline))
    show("done\n")
    results: dict[str, Any] = {name: {"bursts": found, **_evaluate(found)} for name, found in bursts.items()}
    pairs = [
        _over(ours["proofs_per_minute"], stock["proofs_per_minute"])
        for ours, stock in zip(bursts[OURS], bursts[STOCK], strict=True)
    ]
    ratio = statistics.median(pairs)
    return {
        "circuit": bench.facts(),
        **results,
        "ratio_ours_to_stock": {
            "proofs_per_minute": round(ratio, 4),
            "met_deadline": round(_over(results[OURS]["met_deadline"], results[STOCK]["met_deadline"]), 4),
        },
        "aims": [
            aim(
                "proofs a minute, ours / stock, median of rounds",
                f"≥ {AIMED_RATIO} if the cores allow",
                ratio,
                ratio >= AIMED_RATIO,
            )
        ],
    }


async def _warm_up(miner: Miner, validators: Validators, at_once: int) -> None:
    """Every validator's connection is open and one proof was made and verifies."""
    for who in range(at_once):
        await validators.trivial(miner.target, who)
    answer, _ = await validators.prove_surely(miner, 1)
    await validators.check(1, answer)


async def _burst(
    miner: Miner, validators: Validators, first_seed: int, at_once: int, deadline: float
) -> dict[str, Any]:
    began = time.perf_counter()
    answers = await asyncio.gather(
        *(validators.prove(miner.target, first_seed + who, who) for who in range(at_once)),
    )
    seconds = time.perf_counter() - began
    events = await miner.events(at_once)
    proved = [answer for answer in answers if answer.proof]
    return {
        "seconds": round(seconds, 6),
        "asked": at_once,
        "proofs": len(proved),
        "met_deadline": sum(answer.seconds <= deadline for answer in proved),
        "proofs_per_minute": round(60 * len(proved) / seconds, 4),
        "response_s": sorted(round(answer.seconds, 6) for answer in proved),
        "failures": sorted(event.failure.value for event in events if event.failure),
    }


def _evaluate(bursts: list[dict[str, Any]]) -> dict[str, Any]:
    response = [seconds for one in bursts for seconds in one["response_s"]]
    return {
        "proofs_per_minute": statistics.median(one["proofs_per_minute"] for one in bursts),
        "met_deadline": sum(one["met_deadline"] for one in bursts),
        "proofs": sum(one["proofs"] for one in bursts),
        "asked": sum(one["asked"] for one in bursts),
        "response_s": summary(response) if response else None,
    }


def _over(ours: float, stock: float) -> float:
    """The ratio; when stock has nothing at all, ours counts as against one."""
    return ours / (stock or 1.0)


def tell(name: str, found: dict[str, Any], deadline: float) -> None:
    """The table of one circuit."""
    circuit = found["circuit"]
    say(f"\n{name}: proving key {circuit['pk_bytes'] / 2**20:.0f} MiB, bursts in turn, median of rounds")
    rows = []
    for miner in (OURS, STOCK):
        one = found[miner]
        response = one["response_s"] or {"p50": 0.0, "max": 0.0}
        rows.append(
            [
                miner,
                f"{one['proofs_per_minute']:.1f}",
                f"{one['proofs']} of {one['asked']}",
                f"{one['met_deadline']} of {one['asked']}",
                f"{response['p50']:.2f} s",
                f"{response['max']:.2f} s",
            ]
        )
    head = ("", "proofs/min", "proved", f"within {deadline:g} s", "response p50", "last")
    say_table(head, rows)
    say_aims(found["aims"])


if __name__ == "__main__":
    main()
