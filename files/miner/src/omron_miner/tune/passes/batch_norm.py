"""Merges batch normalisation into the layer before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from omron_miner.tune.graph import attributes

if TYPE_CHECKING:
    import onnx

    from omron_miner.tune.graph import Array, Graph


def fold_batch_norm(graph: Graph) -> int:
    """Multiplies a trained BatchNormalization's factor and offset into the Conv or Gemm before it.

    Exact except for rounding: both are affine per channel, so a layer with weights w·s and bias (b − m)·s + o is the
    same. Saves the multiplication and the rescaling after it: 38-47 cells per element. A normalisation without such a
    layer before it is not changed.
    """
    changed = 0
    for norm in [node for node in graph.nodes if node.op_type == "BatchNormalization"]:
        layer = graph.producer(norm.input[0])
        if not layer or not graph.used_only_by(norm.input[0], norm) or not _foldable(graph, layer, norm):
            continue
        factor, offset, mean, variance = (graph.constants[name].astype(np.float64) for name in norm.input[1:5])
        factor = factor / np.sqrt(variance + attributes(norm).get("epsilon", 1e-5))
        weight = graph.constants[layer.input[1]].astype(np.float64)
        bias = graph.constants[layer.input[2]].astype(np.float64) if len(layer.input) > 2 and layer.input[2] else 0.0
        columns = layer.op_type == "Gemm" and not attributes(layer).get("transB", 0)
        shape = (1, -1) if columns else (-1, *[1] * (weight.ndim - 1))
        _put(graph, layer, weight * factor.reshape(shape), (bias - mean) * factor + offset)
        graph.remove(norm)
        layer.output[0] = norm.output[0]
        changed += 1
    return changed


def _foldable(graph: Graph, layer: onnx.NodeProto, norm: onnx.NodeProto) -> bool:
    if attributes(norm).get("training_mode") or not (graph.constant_inputs(layer) and graph.constant_inputs(norm)):
        return False
    have = attributes(layer)
    if layer.op_type == "Gemm":
        plain = have.get("alpha", 1.0) == have.get("beta", 1.0) == 1.0
        return bool(plain and (len(layer.input) < 3 or graph.constants[layer.input[2]].ndim <= 1))
    return bool(layer.op_type == "Conv")


def _put(graph: Graph, layer: onnx.NodeProto, weight: Array, bias: Array) -> None:
    stem = layer.output[0]
    names = [graph.constant(f"{stem}.{what}", one.astype(np.float32)) for what, one in (("w", weight), ("b", bias))]
    layer.input[:] = [layer.input[0], *names]
