"""Validation of a request's inputs for a circuit.

Not for: examples (`examples`), a competition's drawn inputs (`competition.inputs`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omron_miner.circuits import circom
from omron_miner.errors import InputError

if TYPE_CHECKING:
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

    A single number counts as a list of one. Raises InputError on NaN, infinity, strings, nested lists, numbers too
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


def _check_numbers(row: list[Any], name: str, kind: str, limit: float) -> None:
    """Raises InputError for the first value that is not a number EZKL accepts."""
    for place, value in enumerate(row):
        if not isinstance(value, (int, float)) or not -limit < value < limit:  # NaN compares false
            raise InputError(f"input {_shown(name)}[{place}] is not a usable number: {_shown(value)}")
        if kind == "Bool" and value not in (0, 1):
            raise InputError(f"input {_shown(name)}[{place}] is not true, false, 0 or 1: {_shown(value)}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
