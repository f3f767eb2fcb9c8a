"""Moves zero padding into the convolution that reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from omron_miner.tune.graph import attributes, set_attributes

if TYPE_CHECKING:
    import onnx

    from omron_miner.tune.graph import Graph


def fold_pads(graph: Graph) -> int:
    """Replaces a Pad that writes zeros around an image by pads of the convolutions that read it.

    Exact: a convolution's own pads are zeros too. Saves little on its own; `conv-as-matmul` then takes every zero from
    one constant.
    """
    changed = 0
    for pad in [node for node in graph.nodes if node.op_type == "Pad"]:
        users = graph.consumers(pad.output[0])
        margins = _margins(graph, pad)
        if margins is None or not users or pad.output[0] in graph.output_names:
            continue
        if any(user.op_type != "Conv" or user.input[0] != pad.output[0] or not _explicit(user) for user in users):
            continue
        for user in users:
            own = np.array(attributes(user).get("pads") or [0] * len(margins))
            set_attributes(user, pads=(own + margins).tolist())
        graph.remove(pad)
        graph.rewire(pad.output[0], pad.input[0])
        changed += 1
    return changed


def _margins(graph: Graph, pad: onnx.NodeProto) -> np.ndarray | None:
    """Pads before and after each axis of the image; None when they are not zeros around an image."""
    if attributes(pad).get("mode", b"constant") != b"constant" or not graph.constant_inputs(pad):
        return None
    if len(pad.input) > 3 and pad.input[3]:
        return None
    if len(pad.input) > 2 and pad.input[2] and graph.constants[pad.input[2]].any():
        return None
    before, after = np.split(graph.constants[pad.input[1]], 2)
    margins = np.concatenate([before[2:], after[2:]])
    return None if before[:2].any() or after[:2].any() or (margins < 0).any() else margins


def _explicit(conv: onnx.NodeProto) -> bool:
    return bool(attributes(conv).get("auto_pad", b"NOTSET") == b"NOTSET")
