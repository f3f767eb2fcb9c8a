"""Inputs to try a circuit with: its own example, random ones, and those in a file."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from omron_miner.circuits import circom
from omron_miner.circuits.circuit import EXAMPLE_INPUT
from omron_miner.errors import InputError
from omron_miner.untrusted import parse_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.circuits.inputs import Number


def example_inputs(circuit: Circuit, seed: int = 0) -> dict[str, list[Number]]:
    """Inputs to try the circuit with: those in its ``input.json`` for seed 0, otherwise random ones of its shapes.

    Random values are in [-1, 1] for floats and 0 or 1 for the rest, which every circuit's lookup tables should hold.
    A CIRCOM circuit, whose bounds are unknown, gets its example's lists in another order. Without an input.json
    there are examples for EZKL circuits with public inputs, whose shapes are in the settings, and for the subnet's
    proofs of weights. Raises InputError for the others.
    """
    path = circuit.directory / EXAMPLE_INPUT
    example = read_input_file(path) if path.is_file() else None
    if example and seed == 0:
        return example
    if circuit.circom:
        example = example or circom.weights_example(circuit.circom)
        if not example:
            raise InputError(f"{circuit.name} has no {EXAMPLE_INPUT}", f"put an example at {path}")
        return _shuffled(example, seed) if seed else example
    sizes: Sequence[int] | None = circuit.settings.input_sizes
    sizes = sizes or ([len(row) for row in example.values()] if example else None)
    if not sizes:
        raise InputError(f"{circuit.name} has private inputs and no {EXAMPLE_INPUT}", f"put an example at {path}")
    return random_inputs(sizes, circuit.settings.input_types, seed)


def _shuffled(example: dict[str, list[Number]], seed: int) -> dict[str, list[Number]]:
    source = random.Random(seed)  # noqa: S311  examples, not secrets
    return {name: source.sample(row, len(row)) if isinstance(row, list) else row for name, row in example.items()}


def random_inputs(sizes: Sequence[int], types: Sequence[str], seed: int) -> dict[str, list[Number]]:
    """Reproducible random inputs: floats in [-1, 1] of three places, 0 or 1 for Int, Bool and TDim."""
    source = random.Random(seed)  # noqa: S311  examples, not secrets
    rows: dict[str, list[Number]] = {}
    for index, size in enumerate(sizes):
        real = index >= len(types) or types[index].startswith("F")
        draw = (lambda: round(source.uniform(-1, 1), 3)) if real else (lambda: source.randint(0, 1))
        rows[f"input_{index}"] = [draw() for _ in range(size)]
    return rows


def read_input_file(path: Path) -> dict[str, list[Number]]:
    """Inputs from a JSON file: an object of name to values, or EZKL's ``{"input_data": [[...], ...]}``.

    What the values must be is for `validate_inputs`. Raises InputError when the file is missing or not such JSON.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read inputs from {path}: {error}", "name a JSON file") from error
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path} is not a JSON object of inputs", 'write {"input_data": [[...]]}')
    rows = content.get("input_data")
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        return content
    if set(content) - {"input_data", "output_data"}:  # EZKL writes the second as null
        return content
    return {f"input_{index}": row for index, row in enumerate(rows)}
