"""Accuracy of the proving key's estimated size: keys of many small circuits against `circuits.fit.pk_estimate_bytes`.

    .venv/bin/python bench/keys.py [--count 100] [--seed 7] [--json FILE|-]

The circuits differ in products, sums, tables, range checks, logrows, inner columns and lookup range, so that rows, and
with EZKL 23.0.5 the checks of products, take one to nine blocks of columns. Keys are made by the EZKL that is installed
and their size is read; nothing is proved.
"""

from __future__ import annotations

import itertools
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench_circuits import ROOT  # first: it leads to the tests' helpers
from omron_miner.circuits.fit import blocks_of, blocks_of_checks, pk_estimate_bytes
from omron_miner.circuits.run_args import RunArgs
from omron_miner.errors import OmronError
from omron_miner.proving.isolated import run as run_isolated
from omron_miner.tune.ask_ezkl import shapes_of_each
from reporting import Command, host_facts, json_option, percentile, say_host, say_table, write_json

sys.path.append(str(ROOT / "tests/unit"))
from tune_models import model, node

SHAPE = (6, 40)
TABULATED = ("Tanh", "Sigmoid", "Erf", "Sin")
MOST_BLOCKS = 9
"""More are never cheapest, and were not fitted."""
Case = tuple[int, int, int, int]
"""Products, sums, tables, and EZKL's scale: above 0 products are decomposed, which needs range checks."""
CASES: list[Case] = list(itertools.product((0, 1, 3, 6), (1, 6, 14, 24), (0, 1, 2, 4), (0, 4)))


def _model(products: int, sums: int, tables: int) -> bytes:
    drawn = np.random.default_rng(0)
    constants = {f"product{i}": drawn.integers(-1, 2, (SHAPE[1], SHAPE[1])).astype(np.float32) for i in range(products)}
    constants |= {f"sum{i}": drawn.integers(1, 5, SHAPE).astype(np.float32) for i in range(sums)}
    steps = [("MatMul", [f"product{i}"]) for i in range(products)]
    steps += [(name, []) for name in TABULATED[:tables]] + [("Add", [f"sum{i}"]) for i in range(sums)]
    names = ["x", *(f"y{i}" for i in range(len(steps) - 1)), "y"]
    nodes = [node(kind, [names[i], *more], [names[i + 1]]) for i, (kind, more) in enumerate(steps)]
    content: bytes = model(nodes, constants, SHAPE).SerializeToString()
    return content


def _run_args(scale: int, drawn: random.Random) -> RunArgs:
    reach = drawn.choice((200, 900))
    return RunArgs(
        input_scale=scale,
        param_scale=scale,
        scale_rebase_multiplier=1 if scale else 10,
        lookup_range=(-reach, reach),
        logrows=drawn.choice((9, 10, 11, 12)),
        num_inner_cols=drawn.choice((1, 2, 3, 4)),
        decomp_base=64,
        decomp_legs=2,
        ignore_range_check_inputs_outputs=True,
        input_visibility="Public",
    )


def _key_bytes(content: bytes, run_args: RunArgs) -> int:
    import ezkl

    from omron_miner.proving.proof_handlers.ezkl_call import call, native_run_args

    with tempfile.TemporaryDirectory() as folder:
        place = {name: f"{folder}/{name}" for name in ("model", "settings", "compiled", "srs", "vk", "pk")}
        Path(place["model"]).write_bytes(content)
        call(ezkl.gen_settings, place["model"], place["settings"], py_run_args=native_run_args(run_args))
        call(ezkl.compile_circuit, place["model"], place["compiled"], place["settings"])
        call(ezkl.gen_srs, place["srs"], run_args.logrows)
        call(ezkl.setup, place["compiled"], place["vk"], place["pk"], place["srs"])
        return Path(place["pk"]).stat().st_size


def _measured(content: bytes, run_args: RunArgs) -> dict[str, Any] | None:
    """None where EZKL makes no key, or the circuit has more blocks than are asked about."""
    (shape,) = shapes_of_each(content, [run_args])
    if isinstance(shape, str) or blocks_of(run_args, shape) > MOST_BLOCKS:
        return None
    try:
        key_bytes = run_isolated(_key_bytes, content, run_args)
    except OmronError:  # as where instances need more rows than there are
        return None
    return {
        "logrows": run_args.logrows,
        "inner_columns": run_args.num_inner_cols,
        "blocks": blocks_of(run_args, shape),
        "blocks_of_checks": blocks_of_checks(run_args, shape),
        "tables": len(shape["required_lookups"]) + len(shape["required_range_checks"]),
        "key_bytes": key_bytes,
        "estimate_bytes": pk_estimate_bytes(run_args, shape),
    }


@click.command(cls=Command)
@click.option("--count", type=click.IntRange(1), default=100, show_default=True, help="Keys to make.")
@click.option("--seed", type=int, default=7, show_default=True, help="Draws the circuits.")
@json_option
def main(count: int, seed: int, json_file: str | None) -> None:
    """Proving keys' sizes against their estimates."""
    host = host_facts()
    say_host(host)
    drawn, found = random.Random(seed), list[dict[str, Any]]()  # noqa: S311  # no secret
    while len(found) < count:
        *parts, scale = drawn.choice(CASES)
        measured = _measured(_model(*parts), _run_args(scale, drawn))
        if measured:
            found.append(measured)
    off = [abs(one["estimate_bytes"] / one["key_bytes"] - 1) for one in found]
    say_table(
        ["keys", "off in the mean", "one in twenty", "at worst"],
        [[str(len(off)), f"{statistics.mean(off):.1%}", f"{percentile(off, 0.95):.1%}", f"{max(off):.1%}"]],
    )
    write_json({"bench": "keys", "host": host, "seed": seed, "keys": found}, json_file)


if __name__ == "__main__":
    sys.exit(main())
