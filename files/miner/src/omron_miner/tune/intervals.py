"""Bounds on every number a model computes, from bounds on its inputs: interval arithmetic, node by node.

The bounds hold for every input within `low` and `high`, not only for samples; they are wider than the values that any
input reaches, and more so for deeper models. They are bounds of real numbers: a circuit's rounding is not included.
An unsupported node has no bounds, and neither has anything computed from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from omron_miner.tune.graph import attributes, set_attributes
from omron_miner.tune.passes import MONOTONE
from omron_miner.tune.running import NotRunError, run_node

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from omron_miner.tune.graph import Array, Graph

    Bounds = tuple[Array, Array]

_NON_DECREASING_IN_ALL = {"Add", "Sum", "Mean", "Max", "Min", "Concat", "Clip"}
"""Operations that are non-decreasing in all inputs."""
_NON_DECREASING = {
    *MONOTONE,
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "CumSum", "TopK", "Sqrt", "Log", "Round", "Sign"),
    *("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "Identity", "Dropout", "Cast", "Tile"),
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Gather", "Slice", "Split", "Pad", "Expand"),
    *("DepthToSpace", "SpaceToDepth"),
}
"""Operations that are non-decreasing in the first input; the others (axes, indices, sizes) must be fixed."""
_ONE_RESULT = {"MaxPool", "Dropout", "TopK"}
"""Of these, operations of which only the first output counts: the others are indices or a mask."""
_SUMS_OF_MAGNITUDES = {"ReduceL1", "ReduceL2", "ReduceSumSquare"}
"""Operations that are non-decreasing in the magnitude of each number."""
_MINIMUM = {"HardSwish": -0.375, "Gelu": -0.1701, "Mish": -0.3089}
"""Functions with one minimum, and that minimum, rounded down."""
_COMPARISONS = {"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Not", "And", "Or", "Xor"}
_POSITIONS = {"ArgMax", "ArgMin"}
_AFFINE = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SLACK = 1e-5
"""Maximum relative error of sums of 32-bit floats."""


def bound_tensors(graph: Graph, low: float, high: float) -> dict[str, Bounds]:
    """The lowest and highest value of each number of each tensor, for inputs within `low` and `high`.

    Tensors that cannot be bounded are missing.
    """
    graph = graph.copy()  # copying sorts the nodes
    bounds: dict[str, Bounds] = {name: (array, array) for name, array in graph.constants.items()
                                 if _is_finite((array, array))}  # fmt: skip
    for one in graph.inputs:
        shape = graph.shape(one.name) or ()
        bounds[one.name] = (np.full(shape, low, np.float32), np.full(shape, high, np.float32))
    for node in graph.nodes:
        if any(name not in bounds for name in node.input if name):
            continue
        try:
            with np.errstate(all="ignore"):  # a value that is not finite has no bounds
                found = _bound(node, {name: bounds[name] for name in node.input if name}, graph)
        except NotRunError:
            continue
        bounds.update({name: one for name, one in zip(node.output, found, strict=False) if name and _is_finite(one)})
    return bounds


def _bound(node: onnx.NodeProto, given: Mapping[str, Bounds], graph: Graph) -> list[Bounds]:
    """Bounds of a node's outputs; empty when it is not supported."""
    if node.domain not in ("", "ai.onnx"):
        return []
    lows, highs = ({name: one[side] for name, one in given.items()} for side in (0, 1))
    if all(name in graph.constants for name in given) and node.op_type not in _RANDOM:
        return [(one, one) for one in run_node(node, lows, graph.opset)]
    if _is_non_decreasing(node, given):
        results = zip(run_node(node, lows, graph.opset), run_node(node, highs, graph.opset), strict=True)
        found = [_wider(low, high) for low, high in results]
        return found[:1] if node.op_type in _ONE_RESULT else found
    if node.op_type in _AFFINE:
        return [_affine(node, given, graph)]
    pairs = [given[name] for name in node.input if name]
    if node.op_type in _ARITHMETIC and (node.op_type == "Where" or pairs[0][0].dtype.kind == "f"):
        return _ARITHMETIC[node.op_type](*pairs)
    if node.op_type in _OF_NODE:
        return _OF_NODE[node.op_type](node, given)
    if node.op_type in _MINIMUM:
        low, high = (run_node(node, side, graph.opset)[0] for side in (lows, highs))
        return _falls_and_rises(low, high, node, given)
    if node.op_type in _SUMS_OF_MAGNITUDES and _fixed(node, given, 1):
        sides = _absolute(given[node.input[0]])[0]
        low, high = (run_node(node, {**lows, node.input[0]: side}, graph.opset)[0] for side in sides)
        return [_wider(low, high)]
    if node.op_type in _COMPARISONS:
        shape = run_node(node, lows, graph.opset)[0].shape
        return [(np.zeros(shape, bool), np.ones(shape, bool))]
    if node.op_type in _POSITIONS:
        first = run_node(node, lows, graph.opset)[0]
        last = pairs[0][0].shape[attributes(node).get("axis", 0)] - 1
        return [(np.zeros_like(first), np.full_like(first, last))]
    return []


_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}


def _is_non_decreasing(node: onnx.NodeProto, given: Mapping[str, Bounds]) -> bool:
    """Whether the node is non-decreasing in its data inputs."""
    if node.op_type in _NON_DECREASING_IN_ALL:
        return True
    if node.op_type in ("LeakyRelu", "Elu", "ThresholdedRelu"):
        return bool(attributes(node).get("alpha", 0.01) >= 0)
    if node.op_type == "Cast" and attributes(node)["to"] not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
        return False  # a cast to bool decreases below 0; a cast to integers wraps around
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
        return not given[node.input[2]][1].any()  # in training it drops values at random
    return node.op_type in _NON_DECREASING and _fixed(node, given, 1)


def _fixed(node: onnx.NodeProto, given: Mapping[str, Bounds], first: int) -> bool:
    """Whether each input from number `first` on has only one possible value."""
    return all(np.array_equal(*given[name]) for name in node.input[first:] if name)


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


def _batch_norm(node: onnx.NodeProto, given: Mapping[str, Bounds]) -> list[Bounds]:
    if not _fixed(node, given, 1) or attributes(node).get("training_mode", 0):
        return []
    low, high = given[node.input[0]]
    shape = (1, -1, *[1] * (low.ndim - 2))
    factor, offset, mean, variance = (given[name][0].reshape(shape) for name in node.input[1:5])
    factor = factor / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    one, two = (low - mean) * factor + offset, (high - mean) * factor + offset
    return [_wider(np.minimum(one, two), np.maximum(one, two))]


def _normalised(node: onnx.NodeProto, given: Mapping[str, Bounds]) -> list[Bounds]:
    """Each of n numbers is within √(n−1) standard deviations of their mean; epsilon only reduces the distance."""
    low, _ = given[node.input[0]]
    if node.op_type == "LayerNormalization":
        axis, shape = attributes(node).get("axis", -1) % low.ndim, None
    else:  # InstanceNormalization: over all but batch and channel
        axis, shape = 2, (1, -1, *[1] * (low.ndim - 2))
    most = np.full_like(low, np.sqrt(max(0, int(np.prod(low.shape[axis:])) - 1)))
    scale, *offset = (tuple(side if shape is None else side.reshape(shape) for side in given[name])
                      for name in node.input[1:] if name)  # fmt: skip
    (found,) = _multiply((-most, most), (scale[0], scale[1]))
    return [_wider(found[0] + offset[0][0], found[1] + offset[0][1])] if offset else [found]


def _softmax(node: onnx.NodeProto, given: Mapping[str, Bounds]) -> list[Bounds]:
    low, high = given[node.input[0]]
    if node.op_type == "Softmax":
        return [(np.zeros_like(low), np.ones_like(low))]
    axis = attributes(node).get("axis", -1)  # LogSoftmax: x − log(Σ exp), and the sum is at most n times its largest
    most = high.max(axis=axis, keepdims=True) + np.float32(np.log(low.shape[axis]))
    return [_wider(low - most, np.zeros_like(low))]


def _falls_and_rises(low: Array, high: Array, node: onnx.NodeProto, given: Mapping[str, Bounds]) -> list[Bounds]:
    """Bounds of a function with one minimum: the largest value is at an end of the interval."""
    lowest, _ = given[node.input[0]]
    least = np.where(lowest < 0, np.float32(_MINIMUM[node.op_type]), np.minimum(low, high))
    return [_wider(least, np.maximum(low, high))]


def _power(one: Bounds, two: Bounds) -> list[Bounds]:
    (low, high), exponent = one, two[0]
    if not np.array_equal(*two):
        return []
    whole, even = exponent == np.round(exponent), exponent % 2 == 0
    if ((~whole & (low < 0)) | ((exponent < 0) & (low <= 0) & (high >= 0))).any():
        return []  # NaN or infinite
    ends = low**exponent, high**exponent
    least = np.where(even & (low < 0) & (high > 0), np.float32(0), np.minimum(*ends))
    return [_wider(np.asarray(least, np.float32), np.maximum(*ends))]


def _prelu(one: Bounds, slope: Bounds) -> list[Bounds]:
    """PRelu: negative numbers are multiplied by the slope."""
    low, high = one
    ((less, more),) = _multiply((np.minimum(low, 0), np.minimum(high, 0)), slope)
    return [_wider(np.maximum(low, 0) + less, np.maximum(high, 0) + more)]


def _where(condition: Bounds, one: Bounds, two: Bounds) -> list[Bounds]:
    """Where: both branches, or the one that is certain."""
    never, always = ~condition[1], condition[0]
    sides = []
    for side, extreme in ((0, np.minimum), (1, np.maximum)):
        sides.append(np.where(always, one[side], np.where(never, two[side], extreme(one[side], two[side]))))
    return [(sides[0], sides[1])]


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
    "Pow": _power,
    "PRelu": _prelu,
    "Reciprocal": lambda one: _divide((np.ones_like(one[0]), np.ones_like(one[0])), one),
    "Where": _where,
}
_OF_NODE: dict[str, Callable[[onnx.NodeProto, Mapping[str, Bounds]], list[Bounds]]] = {
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _normalised,
    "LayerNormalization": _normalised,
    "LogSoftmax": _softmax,
    "Softmax": _softmax,
}


def _is_finite(bounds: Bounds) -> bool:
    return all(side.dtype.kind in "fiub" and np.isfinite(side).all() for side in bounds)


def _wider(low: Array, high: Array) -> Bounds:
    """The bounds, widened by the rounding error of 32-bit floats."""
    if low.dtype != np.float32:
        return low, high
    return low - np.abs(low) * np.float32(_SLACK), high + np.abs(high) * np.float32(_SLACK)
