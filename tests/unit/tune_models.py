"""Small models for the tests of rewriting: made here, run by onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from omron_miner.tune.graph import Graph, read_graph

if TYPE_CHECKING:
    from pathlib import Path

node = helper.make_node
SEED = 7
random = np.random.default_rng(SEED)


def weights(*shape: int) -> Any:
    """Different ones with each call; the same in each model made here, whatever was made before."""
    return (random.standard_normal(shape) * 0.3).astype(np.float32)


def model(
    nodes: list[Any],
    constants: dict[str, Any],
    shape: tuple[int | str, ...],
    outputs: tuple[str, ...] = ("y",),
    opset: int = 13,
) -> Any:
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    made = onnx.shape_inference.infer_shapes(made)
    onnx.checker.check_model(made, full_check=True)
    random.bit_generator.state = np.random.default_rng(SEED).bit_generator.state
    return made


def graph(*given: Any, **named: Any) -> Graph:
    return Graph(model(*given, **named))


def conv_net(path: Path) -> Graph:
    """As frameworks export them: two normalised streams over one image, pooled, flattened by computed shapes."""
    convs = {f"w{stream}": weights(2, 1, 3, 3) for stream in (1, 2)}
    norms = {
        f"{what}{stream}": values
        for stream in (1, 2)
        for what, values in (
            ("factor", np.array([1.5, -0.5], np.float32)),
            ("offset", weights(2)),
            ("mean", weights(2)),
            ("variance", np.array([0.5, 2.0], np.float32)),
        )
    }
    nodes: list[Any] = []
    for stream, activation in ((1, "Relu"), (2, "Tanh")):
        names = [f"{what}{stream}" for what in ("factor", "offset", "mean", "variance")]
        nodes += [
            node("Conv", ["x", f"w{stream}"], [f"c{stream}"], pads=[1, 1, 1, 1]),
            node("BatchNormalization", [f"c{stream}", *names], [f"n{stream}"]),
            node(activation, [f"n{stream}"], [f"a{stream}"]),
            node("MaxPool", [f"a{stream}"], [f"p{stream}"], kernel_shape=[2, 2], strides=[2, 2]),
        ]
    nodes += [
        node("Add", ["p1", "p2"], ["sum"]),
        node("Shape", ["sum"], ["sizes"]),
        node("Gather", ["sizes", "zero"], ["batch"], axis=0),
        node("Unsqueeze", ["batch", "axes"], ["first"]),
        node("Concat", ["first", "rest"], ["flat_shape"], axis=0),
        node("Reshape", ["sum", "flat_shape"], ["flat"]),
        node("Gemm", ["flat", "dense"], ["d"]),
        node("Tanh", ["d"], ["y"]),
    ]
    whole = {"zero": np.int64(0), "axes": np.array([0]), "rest": np.array([-1]), "dense": weights(18, 3)}
    path.write_bytes(model(nodes, {**convs, **norms, **whole}, (1, 1, 6, 6)).SerializeToString())
    return read_graph(path)


def mlp(path: Path) -> Graph:
    """Dense layers with Tanh, so a lookup table, and Relu, so digits; every attribute written out."""
    gemm = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    nodes = [
        node("Gemm", ["x", "w1", "b1"], ["h1"], **gemm),
        node("Tanh", ["h1"], ["t"]),
        node("Gemm", ["t", "w2", "b2"], ["h2"], **gemm),
        node("Relu", ["h2"], ["r"]),
        node("Gemm", ["r", "w3", "b3"], ["y"], **gemm),
    ]
    sizes = ((6, 8), (8, 8), (8, 2))
    layers = {f"w{number}": weights(*size) for number, size in enumerate(sizes, start=1)}
    layers |= {f"b{number}": weights(size[1]) for number, size in enumerate(sizes, start=1)}
    path.write_bytes(model(nodes, layers, (1, 6)).SerializeToString())
    return read_graph(path)
