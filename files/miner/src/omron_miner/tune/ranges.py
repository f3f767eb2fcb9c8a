"""Checks that the numbers reaching a circuit's tables fit: bounds for every lookup and every decomposition.

A value outside a lookup table, or with more digits than `decomp_base` and `decomp_legs` hold, cannot be proved at all.
Three results are compared: bounds that hold for every input (`intervals`), the largest values of samples in floats,
and the integers that reached EZKL's own tables for the same samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from omron_miner.tune.ask_ezkl import Reached, reached_numbers
from omron_miner.tune.graph import FLOAT, attributes
from omron_miner.tune.intervals import bound_tensors
from omron_miner.tune.running import run_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx import NodeProto

    from omron_miner.circuits.run_args import RunArgs
    from omron_miner.tune.graph import Graph
    from omron_miner.tune.running import Feed

    _Ends = tuple[float, float]

TABULATED = {
    *("Tanh", "Sigmoid", "Erf", "Exp", "Log", "Sqrt", "Reciprocal", "HardSwish", "HardSigmoid", "Softplus", "Gelu"),
    *("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Elu", "Selu", "Mish"),
}
"""Operations that EZKL evaluates with a lookup table, by ONNX's names."""
_DECOMPOSED = {"Relu", "LeakyRelu", "PRelu", "Abs", "Sign", "ThresholdedRelu"}
_COMPARED = {
    *("MaxPool", "GlobalMaxPool", "Max", "Min", "Clip", "ReduceMax", "ReduceMin", "ArgMax", "ArgMin", "TopK"),
    *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"),
}
"""Operations that decompose differences of numbers."""
_MOST_WITNESSES = 6
"""Number of samples that EZKL runs, which is slow: those with the largest values in most places."""
_MULTIPLIED = {"Mul", "MatMul", "Conv", "ConvTranspose", "Gemm", "BatchNormalization", "LeakyRelu", "PRelu"}
_MEANS = {"ReduceMean", "AveragePool", "GlobalAveragePool"}
_PLAIN = {
    *("Add", "Sub", "Neg", "Sum", "ReduceSum", "CumSum", "Where", "Identity", "Dropout", "Tile", "Not", "And", "Or"),
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Slice", "Split", "Pad", "Expand"),
    *("Constant", "ConstantOfShape", "Shape", "DepthToSpace", "SpaceToDepth"),
}
"""Operations that EZKL computes without a table and without decomposition (22.0.1, one binary digit was enough)."""
_ONLY_LOOKED_UP = {
    *("Tanh", "Sigmoid", "Erf", "Exp", "Log", "HardSwish"),
    *("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh"),
}
"""A single table lookup. The others in TABULATED consist of several steps, which are not tracked here."""
_INSIDE = "inside"
_BEYOND = 1 << 127
"""Represents infinity and NaN: EZKL computes in 128-bit integers."""


@dataclass(frozen=True)
class Place:
    """A lookup in a circuit of the compact arithmetic."""

    node: str
    op: str
    tensor: str
    """The tensor of the given model whose numbers reach the table."""
    per_unit: float
    """Times this, as integers."""


@dataclass(frozen=True)
class Range:
    """A place in a circuit with a maximum for its numbers, which are magnitudes of EZKL's integers."""

    node: str
    op: str
    kind: str
    """`lookup`: a table of `lookup_range`; `digits`: `decomp_legs` digits of base `decomp_base`; `inside`: inside an
    operation of several steps, or an unknown one, whose numbers are neither bounded nor observed."""
    limit: int
    bound: int | None
    """No input within its bounds exceeds this; None if there is no bound."""
    seen: int
    """The largest that a sample reached."""

    @property
    def margin(self) -> float | None:
        """Limit / bound: at 1 or above no input can leave the range; None without a bound."""
        return None if self.bound is None else self.limit / max(1, self.bound)

    @property
    def verdict(self) -> str:
        """`safe`: holds for every input; `by samples`: known only for samples; `exceeded`: not for a sample;
        `unknown`: the numbers are not tracked."""
        if self.kind == _INSIDE:
            return "unknown"
        if self.seen > self.limit:
            return "exceeded"
        return "safe" if self.bound is not None and self.bound <= self.limit else "by samples"


@dataclass(frozen=True)
class Ranges:
    """Every place, and the integers that EZKL observed for the samples."""

    places: list[Range]
    reached: Mapping[str, Reached | str]
    """Per sample: the integers that reached a lookup table, or why EZKL could not run it."""

    @property
    def wide_enough(self) -> tuple[int, int] | None:
        """The smallest symmetric lookup_range that no input can leave; None when a lookup may have no bound."""
        if any(one.kind == _INSIDE for one in self.places):
            return None
        bounds = [one.bound for one in self.places if one.kind == "lookup"]
        known = [bound for bound in bounds if bound is not None]
        return (-max(known), max(known)) if known and len(known) == len(bounds) else None


class Magnitudes:
    """Magnitudes of a model's tensors: bounds for every input within `low` and `high`, and the largest of the feeds.

    Of real numbers, so independent of run args.
    """

    def __init__(self, graph: Graph, feeds: Mapping[str, Feed], low: float, high: float) -> None:
        self._graph = graph.copy()  # copying sorts the nodes
        self._feeds = list(feeds)
        names = sorted({name for node in self._graph.nodes for name in node.output if name})
        runs = run_model(self._graph, list(feeds.values()), names) if names else []
        self._seen = {name: [_ends(run[at]) for run in runs] for at, name in enumerate(names)}
        self._seen |= {one.name: [_ends(feed[one.name]) for feed in feeds.values()] for one in self._graph.inputs}
        self._seen |= {name: [_ends(array)] * len(feeds) for name, array in self._graph.constants.items()}
        self._bounds = {
            name: (_ends(lowest)[0], _ends(highest)[1])
            for name, (lowest, highest) in bound_tensors(self._graph, low, high).items()
        }

    def at(self, run_args: RunArgs) -> list[Range]:
        """Every place of the circuit with a maximum at `run_args`."""
        return [self._range(one, run_args) for one in _places(self._graph, run_args)]

    def of(self, lookups: Sequence[Place], run_args: RunArgs) -> list[Range]:
        """The lookups of a compact circuit made of this model."""
        places = [_Spot(one.node, one.op, "lookup", (one.tensor,), one.per_unit) for one in lookups]
        return [self._range(one, run_args) for one in places]

    def _range(self, spot: _Spot, run_args: RunArgs) -> Range:
        if spot.kind == _INSIDE:
            return Range(spot.node, spot.op, spot.kind, _limit("lookup", run_args), None, 0)
        of = _spread if spot.compared else _largest
        bounds = [self._bounds.get(name) for name in spot.tensors]
        known = [one for one in bounds if one is not None]
        bound = of(known) if len(known) == len(bounds) else None
        seen = max((of(each) for each in self._runs(spot)), default=0.0)
        most = None if bound is None else math.ceil(bound * spot.per_unit)
        return Range(spot.node, spot.op, spot.kind, _limit(spot.kind, run_args), most, _whole(seen * spot.per_unit))

    def _runs(self, spot: _Spot) -> list[tuple[_Ends, ...]]:
        """Per feed, the largest value of each of a place's tensors."""
        return list(zip(*(self._seen[name] for name in spot.tensors), strict=True))

    def furthest(self, run_args: RunArgs) -> list[str]:
        """The feeds with the largest value in some place, those with the most such places first."""
        names = {name for one in _places(self._graph, run_args) for name in one.tensors}
        each = [
            self._feeds[int(np.argmax([_largest([one]) for one in self._seen[name]]))]
            for name in sorted(names)
            if name not in self._graph.constants
        ]
        each = each or self._feeds
        return sorted(set(each), key=lambda what: -each.count(what))


@dataclass(frozen=True)
class Lookups:
    """Magnitudes of the integers of a compact circuit."""

    magnitudes: Magnitudes
    """Magnitudes of the model it was made from."""
    places: Sequence[Place]

    def at(self, run_args: RunArgs) -> list[Range]:
        """Every lookup, with the table at `run_args`."""
        return self.magnitudes.of(self.places, run_args)


def find_ranges(graph: Graph, run_args: RunArgs, feeds: Mapping[str, Feed], low: float, high: float) -> Ranges:
    """Bounds for inputs within `low` and `high`, and what `feeds` reach. Raises CircuitError when EZKL fails on it."""
    magnitudes = Magnitudes(graph, feeds, low, high)
    places = magnitudes.at(run_args)
    if not places:
        return Ranges([], {})
    chosen = magnitudes.furthest(run_args)[:_MOST_WITNESSES]
    answers = reached_numbers(graph, run_args, [feeds[what] for what in chosen])
    return Ranges(places, dict(zip(chosen, answers, strict=True)))


@dataclass(frozen=True)
class _Spot:
    """A place in a circuit and where its numbers come from."""

    node: str
    op: str
    kind: str
    tensors: tuple[str, ...] = ()
    per_unit: float = 1.0
    """Times this, as integers."""
    compared: bool = False
    """Whether the place holds differences of the tensors' numbers."""


def _places(graph: Graph, run_args: RunArgs) -> list[_Spot]:
    """The places with a maximum.

    Products add the binary places of both factors and are scaled back once these exceed the larger of input_scale and
    param_scale by scale_rebase_multiplier.
    """
    most = max(run_args.input_scale, run_args.param_scale) * run_args.scale_rebase_multiplier
    scales = {one.name: run_args.input_scale for one in graph.inputs}
    fixed = set(graph.constants)
    places = list[_Spot]()
    for node in graph.nodes:
        if all(name in fixed for name in node.input if name) and node.input:
            fixed.update(node.output)  # computed when the circuit is compiled
            continue
        given = [scales.get(name, run_args.param_scale) for name in node.input if name]
        data = [scales[name] for name in node.input if name in scales]
        out = max(data, default=run_args.param_scale)
        found, places_out = _spots(node, given, out, run_args, graph, most)
        places += found
        scales.update(dict.fromkeys(node.output, places_out))
    return places


def _spots(
    node: NodeProto, given: list[int], scale: int, run_args: RunArgs, graph: Graph, most: int
) -> tuple[list[_Spot], int]:
    """A node's places, and the fractional bits of its output; those of its inputs are `given`, of its data `scale`."""
    name, op, first = node.name or node.output[0], node.op_type, (node.input[0],) if node.input else ()
    inside, found = _Spot(name, op, _INSIDE), list[_Spot]()
    if node.domain not in ("", "ai.onnx"):
        return [inside], scale
    if op in TABULATED:
        found.append(_Spot(name, op, "lookup", first, 2.0**scale))
        return (found if op in _ONLY_LOOKED_UP else [*found, inside]), scale
    if op in ("Softmax", "LogSoftmax"):  # from each number its row's largest is taken first
        return [_Spot(name, op, "lookup", first, 2.0**scale, compared=True), inside], scale
    if op in _COMPARED:
        inputs = first if op == "TopK" else tuple(one for one in node.input if one and _is_float(graph, one))
        return [_Spot(name, op, "digits", inputs or first, 2.0**scale, compared=True)], scale
    if op in _DECOMPOSED:
        found.append(_Spot(name, op, "digits", first, 2.0**scale))
    elif op in _MEANS:  # a sum, divided
        share = max(_averaged(node, graph), 2.0**run_args.param_scale)
        return [_Spot(name, op, "digits", (node.output[0],), 2.0**scale * share)], scale
    elif op == "Div" and node.input[1] in graph.constants:
        products = _Spot(name, op, "digits", (node.output[0],), 2.0 ** (scale + run_args.param_scale))
        return [_Spot(name, op, "digits", first, 2.0**scale), products], scale
    if op in _MULTIPLIED or _is_square(node, graph):
        total = 2 * given[0] if op == "Pow" else scale + run_args.param_scale if len(given) < 2 else sum(given[:2])
        if total > most:
            found.append(_Spot(name, f"{op} scaled back", "digits", (node.output[0],), 2.0**total))
            total = scale if op in _DECOMPOSED else most
        return found, total
    plain = op in _PLAIN or op in _DECOMPOSED
    plain |= op == "Gather" and node.input[1] in graph.constants
    plain |= op == "Cast" and attributes(node)["to"] == FLOAT
    return (found if plain else [*found, inside]), scale


def _is_square(node: NodeProto, graph: Graph) -> bool:
    return node.op_type == "Pow" and bool((graph.constants.get(node.input[1], np.zeros(1)) == 2).all())


def _is_float(graph: Graph, name: str) -> bool:
    """Whether a tensor's numbers can be compared; axes and counts of a node are whole numbers that are constants."""
    return name not in graph.constants or graph.constants[name].dtype.kind == "f"


def _averaged(node: NodeProto, graph: Graph) -> float:
    """Maximum count of numbers in a mean."""
    if node.op_type == "AveragePool":
        return float(math.prod(attributes(node)["kernel_shape"]))
    return float(math.prod(graph.shape(node.input[0]) or (1,)))


def _limit(kind: str, run_args: RunArgs) -> int:
    if kind == "lookup":
        return int(min(-run_args.lookup_range[0], run_args.lookup_range[1]))
    return int(run_args.decomp_base**run_args.decomp_legs - 1)


def _ends(array: np.ndarray) -> _Ends:
    """The lowest and the highest number, 0 and 0 of none."""
    return (float(array.min()), float(array.max())) if array.size and array.dtype.kind in "fiub" else (0.0, 0.0)


def _largest(ends: Sequence[_Ends]) -> float:
    """The largest number of several tensors, without sign."""
    return max(max(-low, high) for low, high in ends)


def _spread(ends: Sequence[_Ends]) -> float:
    """The largest difference of two numbers of several tensors."""
    return max(high for _, high in ends) - min(low for low, _ in ends)


def _whole(number: float) -> int:
    return math.ceil(number) if math.isfinite(number) else _BEYOND
