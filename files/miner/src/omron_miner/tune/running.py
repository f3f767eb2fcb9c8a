"""Runs models and single nodes with onnxruntime, to check rewrites."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from omron_miner.circuits.onnx_runtime import load_onnxruntime
from omron_miner.errors import ConfigError
from omron_miner.tune.graph import Graph  # noqa: TC001  it says what to install when onnx is missing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from omron_miner.tune.graph import Array

    Feed = Mapping[str, Array]

_IR_VERSION = 8


class NotRunError(Exception):
    """onnxruntime rejects a model or a node."""


def run_model(graph: Graph, feeds: Sequence[Feed], wanted: Sequence[str] | None = None) -> list[list[Array]]:
    """For each feed the tensors `wanted`, by default the model's outputs.

    Raises NotRunError, ConfigError when onnxruntime is not installed.
    """
    onnxruntime = _onnxruntime()
    model = graph.to_model()
    names = list(wanted or graph.output_names)
    known = set(graph.output_names)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    try:
        session = _session(onnxruntime, model)
        return [[np.asarray(one) for one in session.run(names, dict(feed))] for feed in feeds]
    except Exception as error:  # onnxruntime's errors have no common base class
        raise NotRunError(str(error)[:300]) from error


def run_node(node: onnx.NodeProto, values: Mapping[str, Array], opset: int) -> list[Array]:
    """The outputs of one node for `values`, its inputs by name.

    Raises NotRunError, ConfigError when onnxruntime is not installed.
    """
    onnxruntime = _onnxruntime()
    inputs = {name: values[name] for name in node.input if name}
    infos = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    graph = onnx.helper.make_graph(
        [node], "node", infos, [onnx.ValueInfoProto(name=name) for name in node.output if name]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=_IR_VERSION)
    try:
        return [np.asarray(one) for one in _session(onnxruntime, model).run(None, inputs)]
    except Exception as error:  # as above
        raise NotRunError(f"{node.op_type}: {str(error)[:300]}") from error


def difference(ours: Sequence[Sequence[Array]], theirs: Sequence[Sequence[Array]]) -> float:
    """The largest difference of two runs' outputs, relative to an output's largest number when that is above 1.

    Infinite when shapes differ or a number is NaN.
    """
    largest = 0.0
    for mine, other in zip(ours, theirs, strict=True):
        for one, two in zip(mine, other, strict=True):
            if one.shape != two.shape or not (np.isfinite(one).all() and np.isfinite(two).all()):
                return float("inf")
            if two.size:
                largest = max(largest, float(np.abs(one - two).max() / max(1.0, float(np.abs(two).max()))))
    return largest


def _onnxruntime() -> Any:
    try:
        return load_onnxruntime()
    except ImportError as error:
        raise ConfigError(
            "rewritten models are checked with onnxruntime, which is not installed", "pip install 'omron-miner[tune]'"
        ) from error


def _session(onnxruntime: Any, model: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # no warnings about how a model was exported
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # each node as written
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
