"""A circuit's inputs: what a request's must look like, examples, and reading them from a file.

Not for: a competition's drawn inputs (`competition.inputs`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omron_miner.circuits import circom
from omron_miner.circuits.circuit import EXAMPLE_INPUT
from omron_miner.errors import InputError
from omron_miner.outside import parse_json

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.circuits.circuit import Circuit

Number = float | int | bool
Inputs = list[list[Number]] | dict[str, list[int]]
"""A request's inputs once they passed `validate_inputs`: EZKL's by place, CIRCOM's by name."""

_LARGEST_FELT = 1 << 62
"""EZKL computes in 128-bit integers; an input that quantises beyond this can only overflow later, so it is refused."""


def validate_inputs(circuit: Circuit, inputs: Mapping[str, object]) -> Inputs:
    """A request's inputs as its proof system takes them. Raises InputError when it would not."""
    if circuit.circom:
        return circom.validate_inputs(circuit.name, circuit.circom, inputs)
    return _ezkl_inputs(circuit, inputs)


def _ezkl_inputs(circuit: Circuit, inputs: Mapping[str, object]) -> list[list[Number]]:
    """The mapping's values in their order, each a flat list of finite numbers.

    A lone number stands for a list of one. Raises InputError on NaN, infinity, strings, nested lists, numbers too
    large to quantise, anything but 0 and 1 for a Bool (EZKL would panic), or other counts than the circuit takes
    (known only when its inputs are public).
    """
    settings = circuit.settings
    scales, sizes = settings.model_input_scales, settings.input_sizes
    if not isinstance(inputs, Mapping) or len(inputs) != len(scales):
        given = len(inputs) if isinstance(inputs, Mapping) else type(inputs).__name__
        raise InputError(f"{circuit.name} takes {len(scales)} input(s), the request has {given}")
    kinds = settings.input_types or ("F64",) * len(scales)
    rows: list[list[Any]] = [list(one) if isinstance(one, (list, tuple)) else [one] for one in inputs.values()]
    for name, row, size in zip(inputs, rows, sizes or (), strict=False):
        if len(row) != size:
            raise InputError(f"input {_shown(name)} has {len(row)} value(s), {circuit.name} takes {size}")
    for name, row, kind, scale in zip(inputs, rows, kinds, scales, strict=True):
        _check_numbers(row, name, kind, math.ldexp(_LARGEST_FELT, -scale))
    return rows


def example_inputs(circuit: Circuit, seed: int = 0) -> dict[str, list[Number]]:
    """Inputs to try the circuit with: those in its ``input.json`` for seed 0, otherwise random ones of its shapes.

    Random values are in [-1, 1] for floats and 0 or 1 for the rest, which every circuit's lookup tables should hold.
    A CIRCOM circuit, whose bounds nobody tells, gets its example's lists in another order. Without an input.json
    there are examples for EZKL circuits with public inputs, whose shapes the settings tell, and for the subnet's proofs
    of weights. Raises InputError for the others.
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


def _check_numbers(row: list[Any], name: str, kind: str, limit: float) -> None:
    """Raises InputError for the first value that is no number EZKL takes."""
    for place, value in enumerate(row):
        if not isinstance(value, (int, float)) or not -limit < value < limit:  # NaN compares false
            raise InputError(f"input {_shown(name)}[{place}] is not a usable number: {_shown(value)}")
        if kind == "Bool" and value not in (0, 1):
            raise InputError(f"input {_shown(name)}[{place}] is not true, false, 0 or 1: {_shown(value)}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
