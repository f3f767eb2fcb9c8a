"""Merges products that share an operand."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

    from omron_miner.tune.graph import Graph


def merge_products(graph: Graph) -> int:
    """Merges MatMuls that multiply constants with the same matrix into one, and splits its rows again.

    This applies to convolutions of one input with the same windows, after `conv-as-matmul`: the windows are gathered
    once. Exact: each row is computed from its own weights as before. Where EZKL checks a product by Freivalds'
    algorithm (23.0.5), it saves the shared matrix's part of the check for each product except the first.
    """
    _share_equal_nodes(graph)
    groups: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.nodes:
        if node.op_type != "MatMul" or node.input[0] not in graph.constants or node.input[1] in graph.constants:
            continue
        if graph.constants[node.input[0]].ndim == len(graph.shape(node.input[1]) or ()) == 2:
            groups.setdefault(node.input[1], []).append(node)
    several = [nodes for nodes in groups.values() if len(nodes) > 1]
    for nodes in several:
        _merge(graph, nodes)
    return sum(len(nodes) - 1 for nodes in several)


def _merge(graph: Graph, nodes: list[onnx.NodeProto]) -> None:
    weights = [graph.constants[node.input[0]] for node in nodes]
    stem = f"{nodes[0].output[0]}~merged"
    whole = graph.node("MatMul", [graph.constant(f"{stem}.w", np.concatenate(weights)), nodes[0].input[1]], stem)
    graph.remove(*nodes)
    ends = accumulate((len(weight) for weight in weights), initial=0)
    for node, (first, last) in zip(nodes, pairwise(ends), strict=True):
        rows = graph.constant(f"{stem}.rows", np.arange(first, last))  # EZKL slices number by number
        graph.node("Gather", [whole, rows], stem, node.output[0], axis=0)


def _share_equal_nodes(graph: Graph) -> None:
    """Merges nodes with the same operation and inputs; constants with equal numbers are the same."""
    seen: dict[Any, str] = {}
    values: dict[Any, str] = {}
    for node in list(graph.nodes):
        inputs = []
        for name in node.input:
            array = graph.constants.get(name)
            key = name if array is None else (array.dtype.str, array.shape, array.tobytes())
            inputs.append(values.setdefault(key, name))
        key = (node.op_type, tuple(inputs), tuple(sorted(one.SerializeToString() for one in node.attribute)))
        if len(node.output) != 1 or node.output[0] in graph.output_names or key not in seen:
            seen.setdefault(key, node.output[0])
            continue
        graph.remove(node)
        graph.rewire(node.output[0], seen[key])
