"""The compact arithmetic: the same model in low-bit integers, rescaled by one lookup instead of a decomposition.

EZKL stores a number x as the integer x·2^scale and decomposes it into digits (some 37 cells) whenever a product has
made its scale too large. Here no scale ever becomes too large for EZKL, and the model itself contains operations
that scale integers down, which EZKL looks up in a table, one cell each:

- a division by D is exp(x / D) − 1 at scale `PLACES`, so close to zero that it is linear, with an error of
  y²/2^(PLACES+1) for an integer quotient y;
- a Relu is HardSwish at scale 0, which rounds to max(0, x) for every integer x;
- the maximum of two numbers is b + relu(a − b): MaxPool is a cascade of these; AveragePool is a cascade of sums, whose
  factor is merged into the next scale.

Constants are integers times 2^PLACES, at EZKL's `param_scale` of −PLACES; EZKL implements a multiplication by 2^−k as a
scale larger by k, without computation. Both change how EZKL interprets an integer, never the integer itself.

The price: a number outside `lookup_range` cannot be proved at all. `Compact.places` names every lookup with the tensor
of the given model that reaches it, so that `ranges` can bound them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from omron_miner.errors import CircuitError
from omron_miner.tune.graph import Graph, attributes
from omron_miner.tune.passes import window_indices
from omron_miner.tune.ranges import TABULATED, Place

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from omron_miner.tune.graph import Array

PLACES = 24
"""EZKL's scale where integers are divided, and of the constants (below zero)."""
_OPSET = 14
"""The first with HardSwish."""
_MOVED = ("Reshape", "Gather", "Slice", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Concat")
"""Operations that move numbers and do not change them."""
_KEPT = (*_MOVED, "Add", "Sub", "Relu", "MaxPool", "GlobalMaxPool")
"""Operations whose results have as many places as their operands."""
_UNIQUE_STEP = 2.0**-22
"""Difference between floats near 1 that EZKL must not merge."""
_AVERAGE_BITS = 2
"""Bits of precision that a product gives up for an average after it: with more, its weights would be too coarse."""


@dataclass(frozen=True)
class Precision:
    """Numbers of fractional bits."""

    activation: int = 6
    """Of the factors of products, and of the results of tabulated functions."""
    product: int = 13
    """Of sums of products, before they are divided. Weights have `product` − `activation` places."""
    input_scale: int = 7

    @property
    def divisor(self) -> int:
        """The divisor of all divisions, which share one table."""
        return 1 << (self.product - self.activation)


@dataclass(frozen=True)
class Compact:
    """A model in the compact arithmetic, and its lookups."""

    graph: Graph
    places: list[Place]

    def content(self) -> bytes:
        """As an ONNX file."""
        content: bytes = self.graph.to_model().SerializeToString(deterministic=True)
        return content


@dataclass(frozen=True)
class _Fixed:
    """A tensor of integers: x·`per_unit` for the given model's number x. EZKL treats it as having the scale `scale`."""

    name: str
    per_unit: float
    scale: int
    offset: int = 0
    """Constant that is added to each integer."""


def compact(graph: Graph, precision: Precision) -> Compact:
    """The model in the compact arithmetic. Raises CircuitError when it has an unsupported operation."""
    return _Compacting(graph, precision).run()


_How = Callable[["_Compacting", _Fixed, str], _Fixed]


@dataclass
class _Compacting:
    given: Graph
    precision: Precision
    made: Graph = field(init=False)
    fixed: dict[str, _Fixed] = field(default_factory=dict)
    """Tensors already computed, by their names in the given model."""
    places: list[Place] = field(default_factory=list)
    known: dict[tuple[str, object], _Fixed] = field(default_factory=dict)
    """Tensors already divided, or read at another scale."""
    drawn: int = 0
    shapes: set[tuple[int, ...]] = field(default_factory=set)

    def run(self) -> Compact:
        self.given = self.given.copy()  # copying sorts the nodes
        self.made = self.given.copy()
        self.made.remove(*self.made.nodes)
        self.made.constants.clear()
        self.made.opset = max(self.made.opset, _OPSET)
        scale = self.precision.input_scale
        for one in self.given.inputs:
            self.fixed[one.name] = _Fixed(one.name, 2.0**scale, scale)
        for node in self.given.nodes:
            if node.op_type not in _MOVED:
                self.fixed[node.output[0]] = self._node(node)
        for name in self.given.output_names:
            self._output(name)
        return Compact(self.made, self.places)

    def _node(self, node: onnx.NodeProto) -> _Fixed:
        maker = _MAKERS.get(node.op_type) or (_tabulated if node.op_type in TABULATED else None)
        made = maker(self, node) if maker else None
        if made is None:
            raise CircuitError(
                f"the compact arithmetic does not support {node.op_type} as {node.name or node.output[0]}"
            )
        return made

    def _output(self, name: str) -> None:
        """Creates the model's output of this name."""
        made = self.tensor(name)
        places = round(math.log2(made.per_unit))
        if not math.isclose(made.per_unit, 2.0**places, rel_tol=1e-6):
            places = self.precision.activation
            made = self.plain(self.divided(made, name, made.per_unit / 2.0**places), name)
        self.made.node("Identity", [self.at(made, places).name], name, name)

    # --- integers -----------------------------------------------------------------------------------------------------

    def new(self, op: str, inputs: Sequence[str], stem: str, **attributes: Any) -> str:
        return self.made.node(op, list(inputs), f"{stem}.{op.lower()}", **attributes)

    def constant(self, stem: str, integers: Array | float, scale: int = -PLACES) -> str:
        """A unique constant: one of its numbers is changed so little that EZKL rounds it to the same integer.

        EZKL merges equal constants, also a tensor of one number with that number, and changes the scale of a shared
        one.
        """
        made = np.array(integers, np.float64)
        flat = made.reshape(-1)
        smallest = int(np.argmin(np.abs(flat)))
        self.drawn += 1
        flat[smallest] += (flat[smallest] or 1) * _UNIQUE_STEP * self.drawn
        return self.made.constant(stem, (made * 2.0**-scale).astype(np.float32))

    def units(self, source: str) -> list[Array]:
        """Constants that add up to 1 and equal no other: EZKL merges equal ones, and decomposes a merged one."""
        shape = self.given.shape(source) or ()
        if shape not in self.shapes:
            self.shapes.add(shape)
            return [np.ones(shape, np.float32)]
        self.drawn += 1
        part = self.drawn * _UNIQUE_STEP
        return [np.array(0.5 - part, np.float32), np.array(0.5 + part, np.float32)]

    def at(self, one: _Fixed, scale: int) -> _Fixed:
        """The same integers at another scale: a larger scale costs nothing, a smaller one costs a cell per number."""
        if one.scale == scale:
            return one
        if (found := self.known.get((one.name, scale))) is not None:
            return found
        lower = one  # an offset is scaled up with the rest; a tensor with an offset is never scaled down
        while lower.scale > scale:
            name = self.new("Mul", [lower.name, self.constant(one.name, 1)], one.name)
            lower = _Fixed(name, one.per_unit, lower.scale - PLACES)
        higher = lower
        if lower.scale < scale:
            factor = self.made.constant(one.name, np.array(2.0 ** (lower.scale - scale), np.float32))
            name = self.new("Mul", [lower.name, factor], one.name)
            higher = _Fixed(name, one.per_unit, scale, one.offset)
        self.known[one.name, scale] = higher
        return higher

    def divided(self, one: _Fixed, source: str, divisor: float) -> _Fixed:
        """The integers divided and rounded, by a lookup of `source`, a tensor of the given model; with an offset."""
        if (found := self.known.get((one.name, ("divided", divisor)))) is not None:
            return found
        base = self.made.constant(one.name, np.array(math.exp(1 / divisor), np.float32))
        power = self.new("Pow", [base, self.at(one, PLACES).name], one.name)
        made = _Fixed(power, one.per_unit / divisor, PLACES, offset=1 << PLACES)
        self.places.append(Place(one.name, "division", source, one.per_unit))
        self.known[one.name, ("divided", divisor)] = made
        return made

    def tensor(self, source: str, how: _How | None = None) -> _Fixed:
        """A tensor of the given model as integers, prepared by `how`.

        Operations that only move numbers are applied afterwards: before an im2col there are fewer numbers.
        """
        if (found := self.known.get((source, how))) is None:
            if source in self.fixed:
                found = how(self, self.fixed[source], source) if how else self.fixed[source]
            else:
                found = self._moved(self._producer(source), how)
            self.known[source, how] = found
        return found

    def _producer(self, name: str) -> onnx.NodeProto:
        node = self.given.producer(name)
        if node is None:
            raise CircuitError(f"the compact arithmetic cannot use {name}")
        return node

    def _moved(self, node: onnx.NodeProto, how: _How | None) -> _Fixed:
        """Applies a node that only moves numbers to prepared tensors."""
        constants = self.given.constants
        data = {name: self.tensor(name, how) for name in node.input if name not in constants}
        if node.op_type == "Concat":
            data = self.aligned(data, plain=len(data) < len(node.input))
        first = next(iter(data.values()))
        inputs = []
        for name in node.input:
            if name in data:
                inputs.append(data[name].name)
            elif node.op_type == "Concat":
                inputs.append(self.constant(name, np.round(constants[name] * first.per_unit), first.scale))
            else:
                inputs.append(self.made.constant(name, constants[name]))
        name = self.new(node.op_type, inputs, node.output[0], **attributes(node))
        return replace(first, name=name)

    def plain(self, one: _Fixed, source: str) -> _Fixed:
        """Without an offset."""
        if not one.offset:
            return one
        if (found := self.known.get((one.name, "plain"))) is None:
            name = one.name
            for unit in self.units(source):
                name = self.new("Sub", [name, self.made.constant(one.name, unit)], one.name)
            found = self.known[one.name, "plain"] = _Fixed(name, one.per_unit, one.scale)
        return found

    def factors(self, one: _Fixed, source: str) -> _Fixed:
        """The tensor with the fractional bits of factors, at the scale at which it is multiplied by constants."""
        wanted, divisor = 2.0**self.precision.activation, self.precision.divisor
        while one.per_unit > wanted * 1.5 and source not in {each.name for each in self.given.inputs}:
            one = self.plain(one, source)
            factor = round(divisor * wanted / one.per_unit)
            if factor > 1:
                name = self.new("Mul", [one.name, self.constant(one.name, factor)], one.name)
                one = _Fixed(name, one.per_unit * factor, one.scale - PLACES)
            one = self.divided(one, source, divisor)
        return self.at(one, PLACES)

    def plain_factors(self, one: _Fixed, source: str) -> _Fixed:
        """The tensor with the fractional bits of factors, without an offset."""
        return self.plain(self.factors(one, source), source)

    def relu(self, one: _Fixed, source: str, spread: int = 1) -> _Fixed:
        self.places.append(Place(one.name, "Relu", source, one.per_unit * spread))
        return _Fixed(self.new("HardSwish", [self.at(one, 0).name], one.name), one.per_unit, 0)

    def largest(self, one: _Fixed, two: _Fixed, source: str) -> _Fixed:
        apart = _Fixed(self.new("Sub", [one.name, two.name], one.name), one.per_unit, one.scale)
        more = self.relu(apart, source, spread=2)
        return _Fixed(self.new("Add", [two.name, more.name], one.name), one.per_unit, 0)

    def aligned(self, given: dict[str, _Fixed], *, plain: bool = False) -> dict[str, _Fixed]:
        """The tensors with equal fractional bits, scale and offset (0 if `plain`): more precise ones are divided."""
        least = min(one.per_unit for one in given.values())
        made = {
            name: self.divided(one, name, one.per_unit / least) if one.per_unit > least * (1 + 1e-9) else one
            for name, one in given.items()
        }
        if plain or len({one.offset for one in made.values()}) > 1:
            made = {name: self.plain(one, name) for name, one in made.items()}
        scale = max(one.scale for one in made.values())
        return {name: replace(self.at(one, scale), per_unit=least) for name, one in made.items()}

    def product_places(self, name: str) -> int:
        """Fractional bits of the product `name`, minus those that an average after it adds."""
        return self.precision.product - min(_AVERAGE_BITS, self._averaged(name))

    def _averaged(self, name: str) -> int:
        most = 0
        for node in self.given.consumers(name):
            if node.op_type in ("AveragePool", "GlobalAveragePool"):
                most = max(most, round(math.log2(self.windows(node).shape[0])))
            elif node.op_type in _KEPT:
                most = max(most, self._averaged(node.output[0]))
        return most

    def windows(self, node: onnx.NodeProto) -> Array:
        """Indices of a pool's windows in its flattened input: a row per number of a window, a column per window."""
        source = self.given.shape(node.input[0]) or ()
        channels, sides = source[1], source[2:]
        if node.op_type.startswith("Global"):
            whole: Array = np.arange(channels * math.prod(sides)).reshape(channels, -1).T
            return whole
        have = attributes(node)
        each = window_indices(have, (1, 1, *sides), tuple(have["kernel_shape"]), zero=-1)
        if (each < 0).any():
            raise CircuitError(f"the compact arithmetic does not support {node.op_type} with zeros around the image")
        return np.concatenate([each + channel * math.prod(sides) for channel in range(channels)], axis=1)

    def pooled(self, node: onnx.NodeProto, join: Callable[[_Fixed, _Fixed], _Fixed], one: _Fixed) -> _Fixed:
        """Reduces the numbers of each window to one, pairwise."""
        stem, indices = node.output[0], self.windows(node)
        flat = self.made.reshape(one.name, (math.prod(self.given.shape(node.input[0]) or ()),), stem)
        parts = [self._picked(flat, row, one, stem) for row in indices]
        while len(parts) > 1:
            half = len(parts) // 2
            joined = [join(first, second) for first, second in zip(parts[:half], parts[half : 2 * half], strict=True)]
            parts = joined + parts[2 * half :]
        shaped = self.made.reshape(parts[0].name, self.given.shape(stem) or (), stem)
        return _Fixed(shaped, parts[0].per_unit, parts[0].scale)

    def _picked(self, flat: str, row: Array, one: _Fixed, stem: str) -> _Fixed:
        at = self.made.constant(f"{stem}.at", row.astype(np.int64))
        return _Fixed(self.made.node("Gather", [flat, at], stem, axis=0), one.per_unit, one.scale)


# --- operations -------------------------------------------------------------------------------------------------------


def _matmul(self: _Compacting, node: onnx.NodeProto) -> _Fixed | None:
    first, second = node.input
    constants, name = self.given.constants, node.output[0]
    if second in constants:
        return _linear(self, first, constants[second], 2.0 ** self.product_places(name), name, left=True)
    if first not in constants:
        return None
    each = _rows_taken(self, name)
    if not each:
        return _linear(self, second, constants[first], 2.0 ** self.product_places(name), name, left=False)
    places = np.full((len(constants[first]), 1), self.precision.product)
    for output, rows in each.items():
        places[rows] = self.product_places(output)
    made = _linear(self, second, constants[first], 2.0**places, name, left=False)
    for output, rows in each.items():
        picked = self.made.node("Gather", [made.name, self.made.constant(f"{output}.at", rows)], output, axis=0)
        self.fixed[output] = _Fixed(picked, 2.0 ** int(places[rows[0], 0]), 0)
    return made


def _rows_taken(self: _Compacting, name: str) -> dict[str, Array]:
    """The rows of a product that each of its consumers uses; empty if one uses anything else."""
    users = self.given.consumers(name)
    if name in self.given.output_names or any(
        one.op_type != "Gather" or attributes(one).get("axis", 0) or not self.given.constant_inputs(one)
        for one in users
    ):
        return {}
    return {one.output[0]: self.given.constants[one.input[1]] for one in users}


def _linear(self: _Compacting, data: str, weights: Array, per_unit: Any, name: str, *, left: bool) -> _Fixed:
    """A product of `data` and constant `weights`; `left`: the data are the left factor."""
    one = None if left else _windows(self, data)
    if one is None:
        one = self.tensor(data, _Compacting.plain_factors)
    integers = np.round(weights.astype(np.float64) * per_unit / one.per_unit)
    if one.offset:
        integers = np.append(integers, -one.offset * integers.sum(axis=1, keepdims=True), axis=1)
    inputs = [one.name, self.constant(name, integers)]
    made = self.new("MatMul", inputs if left else inputs[::-1], name)
    return _Fixed(made, per_unit if isinstance(per_unit, float) else 0.0, 0)


def _windows(self: _Compacting, data: str) -> _Fixed | None:
    """Windows of an image as `conv-as-matmul` gathers them, with an offset and one more row, of ones.

    In that row, weights equal to minus their sum cancel the offset, which costs less than removing it from the image.
    """
    nodes, name = [], data
    for op in ("Reshape", "Gather", "Concat"):
        node = self.given.producer(name)
        if node is None or node.op_type != op or not self.given.constant_inputs(node) or name in self.fixed:
            return None
        nodes.append(node)
        name = node.input[0]
    image = self.tensor(name, _Compacting.factors)
    if not image.offset:
        return None
    if (found := self.known.get((data, "windows"))) is None:
        behind, indices = (self.given.constants[nodes[at].input[1]] for at in (2, 1))
        rows, columns = self.given.shape(data) or (0, 0)
        flat = self.given.shape(nodes[2].output[0]) or (0,)
        integers = np.append(np.round(behind * image.per_unit) + image.offset, 1)
        joined = self.new("Concat", [image.name, self.constant(data, integers, PLACES)], data, axis=0)
        every = np.append(indices, np.full(columns, flat[0]))
        picked = self.new("Gather", [joined, self.made.constant(data, every)], data, axis=0)
        shaped = self.made.reshape(picked, (rows + 1, columns), data)
        found = self.known[data, "windows"] = _Fixed(shaped, image.per_unit, PLACES, image.offset)
    return found


def _gemm(self: _Compacting, node: onnx.NodeProto) -> _Fixed | None:
    have = attributes(node)
    if have.get("transA") or not self.given.constant_inputs(node):
        return None
    weights = self.given.constants[node.input[1]] * have.get("alpha", 1.0)
    per_unit = 2.0 ** self.product_places(node.output[0])
    made = _linear(
        self, node.input[0], weights.T if have.get("transB") else weights, per_unit, node.output[0], left=True
    )
    if len(node.input) > 2:
        made = _plus(self, made, self.given.constants[node.input[2]] * have.get("beta", 1.0), "Add")
    return made


def _plus(self: _Compacting, one: _Fixed, constant: Array, op: str) -> _Fixed:
    inputs = [one.name, self.constant(one.name, np.round(constant * one.per_unit), one.scale)]
    return _Fixed(self.new(op, inputs, one.name), one.per_unit, one.scale)


def _added(self: _Compacting, node: onnx.NodeProto) -> _Fixed | None:
    first, second = node.input
    constants = self.given.constants
    if second in constants:
        return _plus(self, self.tensor(first), constants[second], node.op_type)
    if first in constants:
        return _plus(self, self.tensor(second), constants[first], "Add") if node.op_type == "Add" else None
    given = {name: self.tensor(name) for name in (first, second)}
    made = self.aligned(given, plain=True)
    one, two = made[first], made[second]
    return _Fixed(self.new(node.op_type, [one.name, two.name], node.output[0]), one.per_unit, one.scale)


def _multiplied(self: _Compacting, node: onnx.NodeProto) -> _Fixed:
    first, second = node.input
    if first not in self.given.constants and second not in self.given.constants:
        one, two = self.tensor(first, _Compacting.plain_factors), self.tensor(second, _Compacting.plain_factors)
        name = self.new("Mul", [one.name, two.name], node.output[0])
        return _Fixed(name, one.per_unit * two.per_unit, one.scale + two.scale)
    data, constant = (first, second) if second in self.given.constants else (second, first)
    one, per_unit = self.tensor(data, _Compacting.plain_factors), 2.0 ** self.product_places(node.output[0])
    factors = np.round(self.given.constants[constant].astype(np.float64) * per_unit / one.per_unit)
    inputs = [one.name, self.constant(constant, factors)]
    return _Fixed(self.new("Mul", inputs, node.output[0]), per_unit, 0)


def _relu(self: _Compacting, node: onnx.NodeProto) -> _Fixed:
    return self.relu(self.tensor(node.input[0]), node.input[0])


def _tabulated(self: _Compacting, node: onnx.NodeProto) -> _Fixed:
    """A tabulated function: EZKL must read the integers at their true scale."""
    one, source = self.tensor(node.input[0]), node.input[0]
    places = round(math.log2(one.per_unit))
    if places > self.precision.product or not math.isclose(one.per_unit, 2.0**places, rel_tol=1e-6):
        places = self.precision.product
        one = self.plain(self.divided(one, source, one.per_unit / 2.0**places), source)
    self.places.append(Place(node.output[0], node.op_type, source, one.per_unit))
    name = self.new(node.op_type, [self.at(one, places).name], node.output[0], **attributes(node))
    return _Fixed(name, one.per_unit, places)


def _max_pool(self: _Compacting, node: onnx.NodeProto) -> _Fixed:
    source = node.input[0]
    return self.pooled(node, lambda one, two: self.largest(one, two, source), self.at(self.tensor(source), 0))


def _average_pool(self: _Compacting, node: onnx.NodeProto) -> _Fixed:
    def total(one: _Fixed, two: _Fixed) -> _Fixed:
        return _Fixed(self.new("Add", [one.name, two.name], node.output[0]), one.per_unit, one.scale)

    made = self.pooled(node, total, self.tensor(node.input[0]))
    return _Fixed(made.name, made.per_unit * self.windows(node).shape[0], made.scale)


_MAKERS: dict[str, Callable[[_Compacting, Any], _Fixed | None]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Add": _added,
    "Sub": _added,
    "Mul": _multiplied,
    "Relu": _relu,
    "MaxPool": _max_pool,
    "GlobalMaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _average_pool,
}
