"""Moves max pooling before the activation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omron_miner.tune.graph import attributes

if TYPE_CHECKING:
    import onnx

    from omron_miner.tune.graph import Graph

MONOTONE = ("Relu", "Tanh", "Sigmoid", "Erf", "Exp", "HardSigmoid", "Softplus", "Softsign", "Clip", "Floor", "Ceil")
"""Non-decreasing functions of one number; LeakyRelu and Elu depend on their slope."""


def pool_before_activation(graph: Graph) -> int:
    """Moves a MaxPool before the activation whose result it pools.

    Exact: the maximum of f(x) is f of the maximum of x if f is non-decreasing. Saves the activation of every number
    that is not its window's maximum: 3 of 4 for 2×2.
    """
    changed = 0
    for pool in [node for node in graph.nodes if node.op_type in ("MaxPool", "GlobalMaxPool")]:
        activation = graph.producer(pool.input[0])
        if not activation or len([name for name in pool.output if name]) != 1 or not _monotone(graph, activation):
            continue
        if not graph.used_only_by(pool.input[0], pool) or any(attributes(pool).get("pads", [])):
            continue
        inner = f"{pool.output[0]}~pooled"
        pool.input[0], activation.input[0] = activation.input[0], inner
        activation.output[0], pool.output[0] = pool.output[0], inner
        graph.touch()
        changed += 1
    return changed


def _monotone(graph: Graph, node: onnx.NodeProto) -> bool:
    have = attributes(node)
    if node.op_type == "LeakyRelu":
        return bool(have.get("alpha", 0.01) >= 0)
    if node.op_type == "Elu":
        return bool(have.get("alpha", 1.0) >= 0)
    return node.op_type in MONOTONE and graph.constant_inputs(node)
