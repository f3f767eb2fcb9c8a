"""Turns convolutions into matrix products."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from omron_miner.tune.graph import attributes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import onnx

    from omron_miner.tune.graph import Array, Graph


def convolutions_as_matmul(graph: Graph) -> int:
    """Turns a convolution into a Gather of its windows by constant indices and a MatMul with its weights.

    Exact except for rounding: the same products in another order. A 0 for the padding and a 1 for the bias are appended
    to the image, from which the Gather reads. A Gather by constants costs no cells. EZKL 23.0.5 checks a MatMul by
    Freivalds' algorithm: cells grow with its sides, not with their product. EZKL 22.0.1 has no such check; there it
    saves the bias, a cell per output. Only for a batch of one and a convolution without groups.
    """
    changed = 0
    for node in [one for one in graph.nodes if one.op_type == "Conv"]:
        source, target = graph.shape(node.input[0]), graph.shape(node.output[0])
        if source is None or target is None or source[0] != 1 or not graph.constant_inputs(node):
            continue
        have = attributes(node)
        if have.get("group", 1) != 1 or have.get("auto_pad", b"NOTSET") != b"NOTSET":
            continue
        _replace(graph, node, source, target)
        changed += 1
    return changed


def _replace(graph: Graph, node: onnx.NodeProto, source: tuple[int, ...], target: tuple[int, ...]) -> None:
    weight = graph.constants[node.input[1]]
    matrix = weight.reshape(len(weight), -1)
    size, stem = math.prod(source), node.output[0]
    indices = window_indices(attributes(node), source, weight.shape[2:], zero=size)
    if len(node.input) > 2 and node.input[2]:
        matrix = np.concatenate([matrix, graph.constants[node.input[2]][:, None]], axis=1)
        indices = np.concatenate([indices, np.full((1, indices.shape[1]), size + 1)])
    graph.remove(node)
    product = gathered_product(graph, node.input[0], size, matrix, indices, stem)
    graph.reshape(product, target, stem, node.output[0])


def gathered_product(graph: Graph, image: str, size: int, matrix: Array, indices: Array, stem: str) -> str:
    """`matrix` times the windows that `indices` gather from an image of `size` numbers followed by a 0 and a 1."""
    behind = graph.constant(f"{stem}.zero_one", np.array([0, 1], np.float32))
    flat = graph.node("Concat", [graph.reshape(image, (size,), stem), behind], stem, axis=0)
    picked = graph.node("Gather", [flat, graph.constant(f"{stem}.at", indices.ravel())], stem, axis=0)
    columns = graph.reshape(picked, indices.shape, stem)
    return graph.node("MatMul", [graph.constant(f"{stem}.w", matrix.astype(np.float32)), columns], stem)


def window_indices(have: Mapping[str, Any], source: tuple[int, ...], kernel: tuple[int, ...], zero: int) -> Array:
    """Indices of each window's numbers in the flattened image: a row per weight, a column per window.

    `have` are a Conv's or a pool's attributes, `zero` is the index of the zeros around the image.
    """
    sides = len(kernel)
    strides, dilations = have.get("strides") or [1] * sides, have.get("dilations") or [1] * sides
    pads = have.get("pads") or [0] * 2 * sides
    image = np.arange(math.prod(source), dtype=np.int64).reshape(source[1:])
    around = [(0, 0), *zip(pads[:sides], pads[sides:], strict=True)]
    padded = np.pad(image, around, constant_values=zero)
    spans = [(size - 1) * apart + 1 for size, apart in zip(kernel, dilations, strict=True)]
    axes = tuple(range(1, sides + 1))
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=axes)
    steps = (1, *strides, *dilations)
    windows = windows[tuple(slice(None, None, step) for step in steps)]
    ordered = np.moveaxis(windows, range(1, sides + 1), range(-sides, 0))
    return ordered.reshape(source[1] * math.prod(kernel), -1)
