"""Do the numbers that reach a circuit's tables stay in them? Bounds for every lookup and every taking apart.

A value outside a lookup table, or with more digits than `decomp_base` and `decomp_legs` hold, cannot be proved at all.
Three answers are put side by side: bounds that hold for every input (`intervals`), the largest that samples reach in
floats, and, from EZKL itself, the integers that reached its tables for the same samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from omron_miner.tune.intervals import bound_tensors
from omron_miner.tune.measure import Reached, reached_numbers
from omron_miner.tune.running import run_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from omron_miner.run_args import RunArgs
    from omron_miner.tune.graph import Graph
    from omron_miner.tune.running import Feed

TABULATED = {
    *("Tanh", "Sigmoid", "Erf", "Exp", "Log", "Sqrt", "Reciprocal", "HardSwish", "HardSigmoid", "Softplus", "Gelu"),
    *("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Elu", "Selu", "Mish"),
}
"""What EZKL answers from a lookup table, by ONNX's names."""
_TAKEN_APART = {"Relu", "LeakyRelu", "MaxPool", "Max", "Min", "Clip", "Abs", "Greater", "Less"}
_MOST_WITNESSES = 6
"""Samples run by EZKL, which is slow: those that reach furthest in most places."""
_MULTIPLIED = {"Mul", "MatMul", "Conv", "Gemm"}


@dataclass(frozen=True)
class Place:
    """A lookup in a circuit of the compact arithmetic."""

    node: str
    op: str
    tensor: str
    """Of the model as it was before; its numbers reach the table."""
    per_unit: float
    """Times this, as integers."""


@dataclass(frozen=True)
class Range:
    """One place where a circuit can hold only so large a number. Numbers are EZKL's integers, without sign."""

    node: str
    op: str
    kind: str
    """`lookup`: a table of `lookup_range`; `digits`: `decomp_legs` digits of base `decomp_base`."""
    limit: int
    bound: int | None
    """No input within the bounds given for it exceeds this; None when it could not be bounded."""
    seen: int
    """The largest that a sample reached."""

    @property
    def margin(self) -> float | None:
        """Limit over bound: from 1 on no input can leave the range; None without a bound."""
        return None if self.bound is None else self.limit / max(1, self.bound)

    @property
    def verdict(self) -> str:
        """`safe` for every input, `by samples` when only samples are known to stay within, `exceeded` by a sample."""
        if self.seen > self.limit:
            return "exceeded"
        return "safe" if self.bound is not None and self.bound <= self.limit else "by samples"


@dataclass(frozen=True)
class Ranges:
    """Every place, and what EZKL itself met on the samples."""

    places: list[Range]
    reached: Mapping[str, Reached | str]
    """Per sample: the integers that reached a lookup table, or why EZKL could not run it."""

    @property
    def wide_enough(self) -> tuple[int, int] | None:
        """The smallest symmetric lookup_range that no input can leave; None when a lookup has no bound."""
        bounds = [one.bound for one in self.places if one.kind == "lookup"]
        known = [bound for bound in bounds if bound is not None]
        return (-max(known), max(known)) if known and len(known) == len(bounds) else None


class Magnitudes:
    """How large each tensor of a model becomes: bounds for every input within `low` and `high`, and what feeds reach.

    Of real numbers, so the same at whatever run args.
    """

    def __init__(self, graph: Graph, feeds: Mapping[str, Feed], low: float, high: float) -> None:
        self._graph = graph.copy()  # copying sorts the nodes
        self._given = max(abs(low), abs(high))
        self._feeds = list(feeds)
        names = sorted({name for node in self._graph.nodes for name in node.output if name})
        runs = run_model(self._graph, list(feeds.values()), names) if names else []
        self._seen = {name: [_most(run[at]) for run in runs] for at, name in enumerate(names)}
        self._bounds = {name: _largest(one) for name, one in bound_tensors(self._graph, low, high).items()}

    def at(self, run_args: RunArgs) -> list[Range]:
        """Every place of the circuit at `run_args` that holds only so large a number."""
        return [
            self._range(node, op, kind, name, 2.0**scale, run_args)
            for node, op, kind, name, scale in _places(self._graph, run_args)
        ]

    def of(self, lookups: Sequence[Place], run_args: RunArgs) -> list[Range]:
        """The lookups of a compact circuit made of this model."""
        return [self._range(one.node, one.op, "lookup", one.tensor, one.per_unit, run_args) for one in lookups]

    def _range(self, node: str, op: str, kind: str, tensor: str, per_unit: float, run_args: RunArgs) -> Range:
        bound = self._bounds.get(tensor)
        seen = max(self._seen.get(tensor, [self._given]))
        most = None if bound is None else math.ceil(bound * per_unit)
        return Range(node, op, kind, _limit(kind, run_args), most, math.ceil(seen * per_unit))

    def furthest(self, run_args: RunArgs) -> list[str]:
        """The feeds that reach furthest in some place, those that do so in most places first."""
        names = {name for _node, _op, _kind, name, _scale in _places(self._graph, run_args)}
        each = [self._feeds[int(np.argmax(self._seen[name]))] for name in sorted(names) if name in self._seen]
        each = each or self._feeds
        return sorted(set(each), key=lambda what: -each.count(what))


@dataclass(frozen=True)
class Lookups:
    """How large the integers of a compact circuit become."""

    magnitudes: Magnitudes
    """Of the model that it was made of."""
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


def _places(graph: Graph, run_args: RunArgs) -> list[tuple[str, str, str, str, int]]:
    """The places that hold only so large a number, each as (node, operation, kind, tensor, binary places there).

    Products add the places of both factors and are scaled back once these exceed the larger of input_scale and
    param_scale by scale_rebase_multiplier.
    """
    most = max(run_args.input_scale, run_args.param_scale) * run_args.scale_rebase_multiplier
    scales = {one.name: run_args.input_scale for one in graph.inputs}
    places = []
    for node in graph.nodes:
        given = [scales.get(name, run_args.param_scale) for name in node.input if name]
        data = [scales[name] for name in node.input if name in scales]
        name, out = node.name or node.output[0], max(data, default=run_args.param_scale)
        if node.op_type in TABULATED:
            places.append((name, node.op_type, "lookup", node.input[0], out))
        elif node.op_type in _TAKEN_APART:
            places.append((name, node.op_type, "digits", node.input[0], out))
        elif node.op_type in _MULTIPLIED and (out := sum(given[:2])) > most:
            places.append((name, f"{node.op_type} scaled back", "digits", node.output[0], out))
            out = most
        scales.update(dict.fromkeys(node.output, out))
    return places


def _limit(kind: str, run_args: RunArgs) -> int:
    if kind == "lookup":
        return int(min(-run_args.lookup_range[0], run_args.lookup_range[1]))
    return int(run_args.decomp_base**run_args.decomp_legs - 1)


def _most(array: np.ndarray) -> float:
    return float(np.abs(array).max(initial=0)) if array.dtype != np.bool_ else 1.0


def _largest(bounds: tuple[np.ndarray, np.ndarray] | None) -> float | None:
    if bounds is None:
        return None
    largest = max(float(np.abs(one).max(initial=0)) for one in bounds)
    return largest if np.isfinite(largest) else None
