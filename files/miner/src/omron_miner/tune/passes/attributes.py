"""Writes out the default of every attribute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx

from omron_miner.tune.graph import attributes, set_attributes

if TYPE_CHECKING:
    from omron_miner.tune.graph import Graph

WINDOWED = ("Conv", "MaxPool", "AveragePool")


def write_attributes(graph: Graph) -> int:
    """Writes out every attribute that a node leaves to ONNX's default; `auto_pad` becomes explicit pads.

    Exact: they mean the same. Saves nothing; EZKL does not know ONNX's defaults and leaves a Conv without `strides`
    unparsed ("missing required params: stride").
    """
    return sum(_write(graph, node) for node in graph.nodes)


def _write(graph: Graph, node: onnx.NodeProto) -> bool:
    have = attributes(node)
    missing = {name: value for name, value in _defaults(node, graph.opset).items() if name not in have}
    if node.op_type in WINDOWED and (window := _window(graph, node, have | missing)):
        missing |= {name: value for name, value in window.items() if have.get(name) != value}
        missing.pop("auto_pad", None)
        if "auto_pad" in have:
            missing["auto_pad"] = None
    set_attributes(node, **missing)
    return bool(missing)


def _defaults(node: onnx.NodeProto, opset: int) -> dict[str, Any]:
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return {}
    defaults = ((name, one.default_value) for name, one in schema.attributes.items())
    return {name: onnx.helper.get_attribute_value(value) for name, value in defaults if value.name}


def _window(graph: Graph, node: onnx.NodeProto, have: dict[str, Any]) -> dict[str, Any]:
    """Kernel, strides, dilations and pads of a node that slides a window; empty when shapes are unknown."""
    source, target = graph.shape(node.input[0]), graph.shape(node.output[0])
    kernel = have.get("kernel_shape") or (graph.shape(node.input[1]) or ())[2:]
    if source is None or target is None or not kernel:
        return {}
    ones = [1] * len(kernel)
    strides, dilations = list(have.get("strides") or ones), list(have.get("dilations") or ones)
    pads = list(have.get("pads") or [0] * 2 * len(kernel))
    if (auto := have.get("auto_pad", b"NOTSET")) in (b"SAME_UPPER", b"SAME_LOWER"):
        sizes = zip(source[2:], target[2:], kernel, strides, dilations, strict=True)
        total = [max(0, (out - 1) * step + (size - 1) * apart + 1 - given) for given, out, size, step, apart in sizes]
        less, more = [one // 2 for one in total], [one - one // 2 for one in total]
        pads = less + more if auto == b"SAME_UPPER" else more + less
    written = {"kernel_shape": list(kernel), "strides": strides, "pads": pads}
    return written if node.op_type == "AveragePool" and graph.opset < 19 else {**written, "dilations": dilations}
