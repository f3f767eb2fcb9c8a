"""Bounds on every number a model computes, from bounds on its inputs: interval arithmetic, node by node.

The bounds hold for every input within `low` and `high`, not only for samples; they are wider than what any input
reaches, the more so the deeper the model. They are of real numbers: what rounding in a circuit adds is not in them.
A node that is none of those known here has no bounds, nor has what is computed from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from omron_miner.tune.graph import attributes, set_attributes
from omron_miner.tune.passes.max_pool import MONOTONE
from omron_miner.tune.running import NotRunError, run_node

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from omron_miner.tune.graph import Array, Graph

    Bounds = tuple[Array, Array]

_RISING = {
    *MONOTONE,
    *("Add", "Sum", "Max", "Min", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "Sqrt", "Log", "Round"),
    *("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "Identity", "Dropout", "Cast"),
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Gather", "Slice", "Split", "Pad", "Expand"),
}
"""Operations whose every result rises, or stays, when any number it is computed from rises."""
_AFFINE = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SLACK = 1e-5
"""Share by which sums of 32-bit floats may be off."""


def bound_tensors(graph: Graph, low: float, high: float) -> dict[str, Bounds]:
    """The lowest and highest value of each number of each tensor, for inputs within `low` and `high`.

    Tensors that cannot be bounded are missing.
    """
    graph = graph.copy()  # copying sorts the nodes
    bounds: dict[str, Bounds] = {name: (array, array) for name, array in graph.constants.items()}
    for one in graph.inputs:
        shape = graph.shape(one.name) or ()
        bounds[one.name] = (np.full(shape, low, np.float32), np.full(shape, high, np.float32))
    for node in graph.nodes:
        if any(name not in bounds for name in node.input if name):
            continue
        try:
            found = _bound(node, {name: bounds[name] for name in node.input if name}, graph)
        except NotRunError:
            continue
        bounds.update({name: one for name, one in zip(node.output, found, strict=False) if name})
    return bounds


def _bound(node: onnx.NodeProto, given: Mapping[str, Bounds], graph: Graph) -> list[Bounds]:
    """Bounds of a node's outputs; empty when it is not known here."""
    lows, highs = ({name: one[side] for name, one in given.items()} for side in (0, 1))
    if all(name in graph.constants for name in given):
        return [(one, one) for one in run_node(node, lows, graph.opset)]
    if node.op_type in _RISING or (node.op_type == "LeakyRelu" and attributes(node).get("alpha", 0.01) >= 0):
        results = zip(run_node(node, lows, graph.opset), run_node(node, highs, graph.opset), strict=True)
        return [_wider(low, high) for low, high in results]
    if node.op_type in _AFFINE:
        return [_affine(node, given, graph)]
    if node.op_type == "BatchNormalization":
        return [_batch_norm(node, given)]
    pairs = [given[name] for name in node.input if name]
    if node.op_type in _ARITHMETIC:
        return _ARITHMETIC[node.op_type](*pairs)
    if node.op_type == "Softmax":
        return [(np.zeros_like(pairs[0][0]), np.ones_like(pairs[0][0]))]
    return []


def _affine(node: onnx.NodeProto, given: Mapping[str, Bounds], graph: Graph) -> Bounds:
    """|a·b − c_a·c_b| ≤ |c_a|·r_b + r_a·|c_b| + r_a·r_b for a within c_a ± r_a, b within c_b ± r_b."""
    first, second = node.input[0], node.input[1]
    centre = {name: (low + high) / 2 for name, (low, high) in given.items()}
    radius = {name: (high - low) / 2 for name, (low, high) in given.items()}
    middle = run_node(node, centre, graph.opset)[0]
    bare = onnx.NodeProto()
    bare.CopyFrom(node)
    del bare.input[2:]
    if node.op_type == "Gemm":
        set_attributes(bare, alpha=abs(attributes(node).get("alpha", 1.0)))
    spread = np.zeros_like(middle)
    whole = {name: np.abs(centre[name]) + radius[name] for name in (first, second)}
    for one, two in ((whole[first], radius[second]), (radius[first], np.abs(centre[second]))):
        if one.any() and two.any():
            spread = spread + run_node(bare, {first: one, second: two}, graph.opset)[0]
    if len(node.input) > 2 and node.input[2]:
        bias = np.abs(radius[node.input[2]]) * abs(attributes(node).get("beta", 1.0))
        sides = [1] * (middle.ndim - 2) if node.op_type.startswith("Conv") else []
        spread = spread + bias.reshape(*bias.shape, *sides)
    return _wider(middle - spread, middle + spread)


def _batch_norm(node: onnx.NodeProto, given: Mapping[str, Bounds]) -> Bounds:
    low, high = given[node.input[0]]
    shape = (1, -1, *[1] * (low.ndim - 2))
    factor, offset, mean, variance = (given[name][0].reshape(shape) for name in node.input[1:5])
    factor = factor / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    one, two = (low - mean) * factor + offset, (high - mean) * factor + offset
    return _wider(np.minimum(one, two), np.maximum(one, two))


def _multiply(one: Bounds, two: Bounds) -> list[Bounds]:
    products = [first * second for first in one for second in two]
    return [_wider(np.minimum.reduce(products), np.maximum.reduce(products))]


def _divide(one: Bounds, two: Bounds) -> list[Bounds]:
    if ((two[0] <= 0) & (two[1] >= 0)).any():
        return []  # by something that may be zero
    return _multiply(one, (1 / two[1], 1 / two[0]))


def _absolute(one: Bounds) -> list[Bounds]:
    low, high = one
    return [(np.maximum(0, np.maximum(low, -high)), np.maximum(-low, high))]


_ARITHMETIC: dict[str, Callable[..., list[Bounds]]] = {
    "Mul": _multiply,
    "Div": _divide,
    "Sub": lambda one, two: [_wider(one[0] - two[1], one[1] - two[0])],
    "Neg": lambda one: [(-one[1], -one[0])],
    "Abs": _absolute,
}


def _wider(low: Array, high: Array) -> Bounds:
    """Bounds that rounding in 32-bit floats does not make too narrow."""
    if low.dtype != np.float32:
        return low, high
    return low - np.abs(low) * np.float32(_SLACK), high + np.abs(high) * np.float32(_SLACK)
