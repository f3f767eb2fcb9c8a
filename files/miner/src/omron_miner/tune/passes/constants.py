"""Computes constants once, instead of in the circuit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from omron_miner.tune.graph import attributes
from omron_miner.tune.running import run_node

if TYPE_CHECKING:
    import onnx

    from omron_miner.tune.graph import Graph

_NOTHING = ("Identity", "Dropout")


def fold_constants(graph: Graph) -> int:
    """Computes values that depend on no input, such as shapes, and removes no-ops (Identity, Dropout, casts).

    Exact: onnxruntime computes the same nodes once. Saves no cells on its own, since EZKL folds constants too; it lets
    later passes see weights and shapes that an exporter wrote as nodes.
    """
    changed = 0
    while found := _next(graph):
        changed += found
    return changed


def _next(graph: Graph) -> int:
    """Changes made in one walk over the nodes."""
    changed = 0
    for node in list(graph.nodes):
        if _does_nothing(graph, node):
            graph.remove(node)
            graph.rewire(node.output[0], node.input[0])
        elif not set(node.output) & set(graph.output_names) and (values := _values(graph, node)) is not None:
            graph.remove(node)
            graph.constants.update(zip(node.output, values, strict=True))
        else:
            continue
        changed += 1
    return changed


def _values(graph: Graph, node: onnx.NodeProto) -> list[np.ndarray] | None:
    if node.op_type == "Shape" and len(node.attribute) == 0:
        shape = graph.shape(node.input[0])
        return None if shape is None else [np.array(shape, np.int64)]
    if any(name not in graph.constants for name in node.input if name) or not all(node.output):
        return None
    if node.op_type.startswith("Random"):
        return None
    return run_node(node, graph.constants, graph.opset)


def _does_nothing(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.output[0] in graph.output_names or node.input[0:1] == [""] or not node.input:
        return False
    if node.op_type in _NOTHING:
        return len([name for name in node.output if name]) == 1 and not attributes(node).get("training_mode")
    same = graph.shape(node.input[0]) is not None and graph.shape(node.input[0]) == graph.shape(node.output[0])
    if node.op_type in ("Reshape", "Flatten"):
        return same
    return node.op_type == "Pad" and same and graph.constant_inputs(node) and not graph.constants[node.input[1]].any()
