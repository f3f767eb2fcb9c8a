"""Convolutions as products whose checks are small: in tiles of the image, or for each row of the kernel.

EZKL 23.0.5 checks a product of an m×k and a k×n matrix by Freivalds' algorithm in mk + kn + mn cells, so that an im2col
(`conv-as-matmul`: a column per position, which repeats nearly every number once per kernel element) is not the
cheapest. Both are exact except for rounding, and only for the compact arithmetic: elsewhere each of the additional
numbers of a product would be rescaled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from omron_miner.tune.graph import attributes, set_attributes
from omron_miner.tune.passes.im2col import gathered_product, window_indices

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from omron_miner.tune.graph import Array, Graph

_CHECKED = 1.5
"""Cost of a cell of Freivalds' check, in ordinary cells: it needs more selectors (EZKL 23.0.5)."""
_TILE = 2
"""Side length of a tile, in positions."""


def convolutions_by_tiles(graph: Graph) -> int:
    """Computes 2×2 positions together: windows of 4×4 for a kernel of 3×3 repeat a number 4 times, not 9.

    If a MaxPool of these tiles follows, the product computes differences of neighbours in place of every other number,
    so that max(a, b) = b + relu(a − b) needs only the relu. 1×1 convolutions of the same image are computed
    from the same windows: `merge-matmuls` makes one product of all.
    """
    return _each(graph, _Conv.tiles, _by_tiles)


def convolutions_by_rows(graph: Graph) -> int:
    """Splits a kernel into its rows: each is a product with windows one row high, and all are summed.

    Windows of one row are a third of the size of those of three, and the product has three times the rows: this suits
    many input and few output channels. 1×1 convolutions of the same image get kernels of the same width, so that
    `merge-matmuls` makes one product of all.
    """
    return _each(graph, _Conv.rows, _by_rows)


@dataclass(frozen=True)
class _Conv:
    """A convolution of one image with strides of 1."""

    node: onnx.NodeProto
    source: tuple[int, ...]
    target: tuple[int, ...]
    weight: Array
    bias: Array | None
    pads: list[int]

    @property
    def moves(self) -> list[int]:
        """Vertical offset of each kernel row from the computed position."""
        return [row - self.pads[0] for row in range(self.weight.shape[2])]

    def whole(self) -> float:
        """Cells of an im2col, without a bias."""
        out, channels, high, wide = self.weight.shape
        return _CHECKED * _product(out, channels * high * wide, math.prod(self.target[2:]))

    def tiles(self) -> float:
        """Cells by tiles; infinite if the image cannot be divided into tiles."""
        out, channels, high, wide = self.weight.shape
        places = math.prod(self.target[2:])
        if any(side % _TILE for side in self.target[2:]) or high == wide == 1:
            return math.inf
        window = channels * (high + _TILE - 1) * (wide + _TILE - 1)
        return _CHECKED * _product(out * _TILE**2, window, places // _TILE**2)

    def rows(self) -> float:
        """Cells by rows, including sums; infinite if no row, which the bias needs, is always within the image."""
        out, channels, high, wide = self.weight.shape
        if 0 not in self.moves or self.target[2] > self.source[2] or high == 1:
            return math.inf
        places = self.source[2] * self.target[3]
        summed = float((high - 1) * out * math.prod(self.target[2:]))
        return _CHECKED * _product(high * out, channels * wide, places) + summed


def _product(rows: int, inner: int, columns: int) -> float:
    return rows * inner + inner * columns + rows * columns


def _each(graph: Graph, cells: Callable[[_Conv], float], replace: Callable[[Graph, _Conv], None]) -> int:
    changed = 0
    for node in [one for one in graph.nodes if one.op_type == "Conv"]:
        gone = all(one is not node for one in graph.nodes)  # with a convolution with which it shares windows
        conv = None if gone else _read(graph, node)
        if conv and cells(conv) == min(conv.whole(), conv.tiles(), conv.rows()) != conv.whole():
            replace(graph, conv)
            changed += 1
    return changed


def _read(graph: Graph, node: onnx.NodeProto) -> _Conv | None:
    source, target, have = graph.shape(node.input[0]), graph.shape(node.output[0]), attributes(node)
    if source is None or target is None or len(source) != 4 or source[0] != 1 or not graph.constant_inputs(node):
        return None
    steps = {*(have.get("strides") or [1]), *(have.get("dilations") or [1])}
    if have.get("group", 1) != 1 or steps != {1} or have.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    bias = graph.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else None
    return _Conv(node, source, target, graph.constants[node.input[1]], bias, list(have.get("pads") or [0] * 4))


def _by_tiles(graph: Graph, conv: _Conv) -> None:
    for other in _pointwise(graph, conv):
        _widen(graph, other, conv.weight.shape[2:], conv.pads)
        widened = _read(graph, other)
        if widened is not None:
            _tile(graph, widened)
    _tile(graph, conv)


def _tile(graph: Graph, conv: _Conv) -> None:
    out, channels, high, wide = conv.weight.shape
    kernel = (high + _TILE - 1, wide + _TILE - 1)
    size, stem = math.prod(conv.source), conv.node.output[0]
    indices = window_indices({"pads": conv.pads, "strides": [_TILE] * 2}, conv.source, kernel, zero=size)
    # the kernel at each place of a tile: (place, out, channels, high, wide)
    placed = np.zeros((_TILE**2, out, channels, *kernel), np.float64)
    for place, (down, right) in enumerate(np.ndindex(_TILE, _TILE)):
        placed[place, :, :, down : down + high, right : right + wide] = conv.weight
    parts: Array = placed.reshape(_TILE**2, out, -1)
    if conv.bias is not None:
        parts = np.concatenate([parts, np.broadcast_to(conv.bias[:, None], (_TILE**2, out, 1))], axis=2)
        indices = np.concatenate([indices, np.full((1, indices.shape[1]), size + 1)])
    pool = _pool_of_tiles(graph, conv)
    if pool is not None:
        parts[0], parts[2] = parts[0] - parts[1], parts[2] - parts[3]
    graph.remove(conv.node)
    matrix = parts.reshape(_TILE**2 * out, -1)
    product = gathered_product(graph, conv.node.input[0], size, matrix, indices, stem)
    if pool is None:
        flat = graph.reshape(product, (matrix.shape[0] * indices.shape[1],), stem)
        tiles = np.arange(matrix.shape[0] * indices.shape[1]).reshape(_TILE, _TILE, out, *_tiled(conv.target))
        order = graph.constant(f"{stem}.at", tiles.transpose(2, 3, 0, 4, 1).ravel())
        picked = graph.node("Gather", [flat, order], stem, axis=0)
        graph.reshape(picked, conv.target, stem, stem)
        return
    graph.remove(pool)
    places = [
        graph.node("Gather", [product, graph.constant(f"{stem}.place", np.arange(out) + place * out)], stem, axis=0)
        for place in range(_TILE**2)
    ]
    above, below = (graph.node("Add", [one, graph.node("Relu", [more], stem)], stem)
                    for more, one in (places[:2], places[2:]))  # fmt: skip
    more = graph.node("Relu", [graph.node("Sub", [above, below], stem)], stem)
    largest = graph.node("Add", [below, more], stem)
    graph.reshape(largest, (1, out, *_tiled(conv.target)), stem, pool.output[0])


def _tiled(target: tuple[int, ...]) -> tuple[int, int]:
    return target[2] // _TILE, target[3] // _TILE


def _pool_of_tiles(graph: Graph, conv: _Conv) -> onnx.NodeProto | None:
    """The MaxPool that takes each tile's largest number, if one is all that uses the convolution."""
    name, have = conv.node.output[0], dict[str, Any]()
    for node in graph.consumers(name):
        have = attributes(node)
        plain = node.op_type == "MaxPool" and not any(have.get("pads", [])) and graph.used_only_by(name, node)
        if plain and have["kernel_shape"] == [_TILE] * 2 == have.get("strides") and len(node.output) == 1:
            return node
    return None


def _by_rows(graph: Graph, conv: _Conv) -> None:
    for other in _pointwise(graph, conv):
        _widen(graph, other, (1, conv.weight.shape[3]), [0, conv.pads[1], 0, conv.pads[3]])
    out, channels, high, wide = conv.weight.shape
    size, stem, pads = math.prod(conv.source), conv.node.output[0], conv.pads
    indices = window_indices({"pads": [0, pads[1], 0, pads[3]]}, conv.source, (1, wide), zero=size)
    matrix = conv.weight.transpose(2, 0, 1, 3).reshape(high * out, channels * wide)
    if conv.bias is not None:  # with the kernel row that is always within the image
        bias = np.zeros((high, out), np.float32)
        bias[conv.moves.index(0)] = conv.bias
        matrix = np.concatenate([matrix, bias.reshape(-1, 1)], axis=1)
        indices = np.concatenate([indices, np.full((1, indices.shape[1]), size + 1)])
    graph.remove(conv.node)
    product = gathered_product(graph, conv.node.input[0], size, matrix, indices, stem)
    # each row's products, moved to the places they are summed at; beyond the image they are zero
    rows, places = conv.source[2], conv.target[3]
    beyond = high * out * rows * places
    zero = graph.constant(f"{stem}.zero", np.zeros(1, np.float32))
    products = graph.node("Concat", [graph.reshape(product, (beyond,), stem), zero], stem, axis=0)
    at, total = np.arange(beyond).reshape(high, out, rows, places), ""
    for row, move in enumerate(conv.moves):
        inside = slice(max(0, -move), min(conv.target[2], rows - move))
        moved = np.full((out, conv.target[2], places), beyond)
        moved[:, inside] = at[row, :, inside.start + move : inside.stop + move]
        part = graph.node("Gather", [products, graph.constant(f"{stem}.row", moved.ravel())], stem, axis=0)
        total = graph.node("Add", [total, part], stem) if total else part
    graph.reshape(total, conv.target, stem, stem)


def _pointwise(graph: Graph, conv: _Conv) -> list[onnx.NodeProto]:
    """1×1 convolutions of the image of `conv`, which keeps the image's size."""
    if conv.target[2:] != conv.source[2:]:
        return []
    others = [_read(graph, node) for node in graph.consumers(conv.node.input[0]) if node.op_type == "Conv"]
    return [
        one.node
        for one in others
        if one and one.weight.shape[2:] == (1, 1) and not any(one.pads) and (one.bias is None) == (conv.bias is None)
    ]


def _widen(graph: Graph, node: onnx.NodeProto, kernel: tuple[int, ...], pads: list[int]) -> None:
    """Gives a 1×1 convolution a larger kernel, with zeros around its weights."""
    weight = graph.constants[node.input[1]]
    wider = np.zeros((*weight.shape[:2], *kernel), np.float32)
    wider[..., pads[0], pads[1]] = weight[..., 0, 0]
    node.input[1] = graph.constant(f"{node.output[0]}.wide", wider)
    set_attributes(node, kernel_shape=list(kernel), pads=pads)
