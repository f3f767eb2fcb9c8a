"""What a miner adds to a proof: the whole response over the wire less EZKL's own witness and prove, ours against stock.

    .venv/bin/python bench/overhead.py [--circuit tiny demo large] [--requests 20] [--json FILE|-]

One validator asks both miners in turn, for the same fresh inputs, over a connection it keeps; who is asked first
changes with every turn. In every turn it also asks a bare server that replies at once with a reply as long as ours:
that is what the call costs the client with either miner. It is taken off for "beyond the client".

EZKL's witness and prove are what each miner reports: ours in its events (with writing the input and reading the proof
file, some milliseconds for a large input, which therefore do not show as overhead), stock around EZKL's calls alone.
The ratio of whole response times hides nothing.

Everything is in the page cache and each miner has answered before the first figure is taken. The deadline and the limit
on waiting for a prover are raised to --deadline; the rest are a host's defaults. Stock does not verify; ours does.
"""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import asdict
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
    milliseconds,
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
from serving import OURS, STOCK, Miner, Validators, canned, miners, workplace

if TYPE_CHECKING:
    from collections.abc import Sequence

AIMED_OVERHEAD_S = 0.025
AIMED_RATIO = 1.0
AIMED_RATIO_LARGE = 0.95
LARGE_PK_BYTES = 500_000_000
_WARM_UPS = 2
_TRIVIAL_CALLS = 5
ROWS = {
    "round_trip_s": "whole response",
    "total_s": "in the miner",
    "witness_s": "EZKL witness",
    "prove_s": "EZKL prove",
    "verify_s": "verification",
    "overhead_s": "overhead: response - EZKL",
    "beyond_client_s": "… beyond the client",
    "beyond_both_s": "… and beyond verification",
}


@click.command(cls=Command)
@circuit_option
@more_circuits_argument
@click.option("--requests", type=click.IntRange(1), default=20, show_default=True, help="To each miner.")
@deadline_option(300.0)
@set_option
@json_option
def main(
    circuits: tuple[str, ...],
    more_circuits: tuple[str, ...],
    requests: int,
    deadline: float,
    overrides: tuple[str, ...],
    json_file: str | None,
) -> None:
    """Measure what a miner adds to a proof, ours against the stock miner's flow. Without --circuit: tiny and demo."""
    host = host_facts()
    say_host(host)
    measured = {}
    for name in (*circuits, *more_circuits) or ("tiny", "demo"):
        measured[name] = asyncio.run(measure(bench_circuit(name), requests, deadline, overrides))
        tell(name, measured[name])
    settings = {"requests": requests, "warm_ups": _WARM_UPS, "deadline_s": deadline, "overrides": list(overrides)}
    write_json({"bench": "overhead", "host": host, "settings": settings, "circuits": measured}, json_file)


async def measure(bench: BenchCircuit, requests: int, deadline: float, overrides: Sequence[str]) -> dict[str, Any]:
    """Everything about one circuit. Raises OmronError when a miner fails to answer: there is no figure for that."""
    bench.warm_page_cache()
    show = progress(bench.name)
    with workplace() as place, miners((OURS, STOCK), bench, place, deadline, overrides) as both:
        async with Validators(bench, 1, deadline + 30) as validators:
            reply = await _warm_up(both, validators)
            with canned(place, reply) as bare:
                await validators.prove(bare, 0)
                samples: dict[str, list[dict[str, float]]] = {OURS: [], STOCK: []}
                client = []
                for turn in range(requests):
                    seed = _WARM_UPS + 1 + turn
                    show(f"turn {turn + 1} of {requests}")
                    client.append((await validators.prove(bare, seed)).seconds)
                    for miner in sorted(both.values(), key=lambda one: one.name, reverse=bool(turn % 2)):
                        samples[miner.name].append(await _sample(miner, validators, seed))
                trivial = {
                    name: [await validators.trivial(miner.target) for _ in range(_TRIVIAL_CALLS)]
                    for name, miner in both.items()
                }
    show("done\n")
    return _evaluate(bench, samples, client, trivial)


async def _warm_up(both: dict[str, Miner], validators: Validators) -> str:
    """Has each miner answer some requests, the last of which must verify. Returns ours' last reply."""
    reply = ""
    for seed in range(1, _WARM_UPS + 1):
        for miner in both.values():
            answer, _ = await validators.prove_surely(miner, seed)
            if seed == _WARM_UPS:
                await validators.check(seed, answer)
            if miner.name == OURS:
                reply = answer.output
    return reply


async def _sample(miner: Miner, validators: Validators, seed: int) -> dict[str, float]:
    answer, event = await validators.prove_surely(miner, seed)
    return {"round_trip_s": answer.seconds, **asdict(event.timings)}


def _evaluate(
    bench: BenchCircuit,
    samples: dict[str, list[dict[str, float]]],
    client: list[float],
    trivial: dict[str, list[float]],
) -> dict[str, Any]:
    client_s = statistics.median(client)
    for one in (*samples[OURS], *samples[STOCK]):
        one["overhead_s"] = one["round_trip_s"] - one["witness_s"] - one["prove_s"]
        one["beyond_client_s"] = one["overhead_s"] - client_s
        one["beyond_both_s"] = one["beyond_client_s"] - one["verify_s"]
    results = {
        name: {"samples": found, **{key: summary([one[key] for one in found]) for key in ROWS}}
        for name, found in samples.items()
    }
    ratios = {
        key: {
            share: round(results[OURS][key][share] / results[STOCK][key][share], 4)  # type: ignore[index]
            for share in ("p50", "p95")
        }
        for key in ("round_trip_s", "overhead_s", "prove_s")
    }
    paired = statistics.median(
        ours["round_trip_s"] / stock["round_trip_s"] for ours, stock in zip(samples[OURS], samples[STOCK], strict=True)
    )
    beyond = results[OURS]["beyond_both_s"]["p50"]  # type: ignore[index]
    wanted = AIMED_RATIO_LARGE if bench.pk_bytes > LARGE_PK_BYTES else AIMED_RATIO
    return {
        "circuit": bench.facts(),
        "client_s": {"samples": client, **summary(client)},
        "trivial_call_s": {name: {"samples": found, **summary(found)} for name, found in trivial.items()},
        **results,
        "ratio_ours_to_stock": {**ratios, "round_trip_of_pairs": round(paired, 4)},
        "aims": [
            aim("overhead beyond client and verification, p50, s", "< 0.025", beyond, beyond < AIMED_OVERHEAD_S),
            aim("whole response, ours / stock, median of pairs", f"≤ {wanted:.2f}", paired, paired <= wanted),
        ],
    }


def tell(name: str, found: dict[str, Any]) -> None:
    """The table of one circuit."""
    circuit = found["circuit"]
    say(f"\n{name}: logrows {circuit['logrows']}, proving key {circuit['pk_bytes'] / 2**20:.0f} MiB, "
        f"{len(found[OURS]['samples'])} requests each, in turn")  # fmt: skip
    rows = []
    for key, text in ROWS.items():
        ours, stock = found[OURS][key], found[STOCK][key]
        ratio = "" if key in ("verify_s", "beyond_both_s") else f"{ours['p50'] / stock['p50']:.3f}"
        rows.append([text, *(milliseconds(one[share]) for one in (ours, stock) for share in ("p50", "p95")), ratio])
    say_table(("", "ours p50", "p95", "stock p50", "p95", "ratio p50"), rows)
    trivial = found["trivial_call_s"]
    say(f"  the client's own: {milliseconds(found['client_s']['p50'])}; a call without a proof: ours "
        f"{milliseconds(trivial[OURS]['p50'])}, stock {milliseconds(trivial[STOCK]['p50'])}")  # fmt: skip
    say_aims(found["aims"])


if __name__ == "__main__":
    main()
