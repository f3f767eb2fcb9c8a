"""Writes demo.onnx and tiny.onnx next to itself: the circuits a host proves before it has any of a validator's.

Next to each is a file of what it answers (``*.reference.json``), to compare circuits without onnxruntime.

``demo`` has the interface of subnet 2's age competition (one 1×3×64×64 image in; nine outputs, 21 numbers in that
order out) and the shape of its SSR-Net: a Relu stream and a Tanh stream over three stages, each stage fusing both into
probabilities, a delta and index offsets. It is untrained: its job is an honest proof, not a good guess of anyone's
age. ``tiny`` is a two-layer perceptron whose proof takes under a second, for tests.

What keeps them cheap and exact in EZKL:
- every attribute is written out (EZKL 22 does not take ONNX's defaults, such as a Conv's strides);
- weights are multiples of 1/128, so that EZKL's param_scale 7 holds them exactly;
- both streams share a first convolution, 8×8 with stride 8: every pixel is multiplied once, and only 64 sums need the
  costly rescaling that follows a multiplication, so that all of it fits in one column of 2^16 rows;
- weights are scaled by fan-in, so that images within [-1, 1] keep every value far inside the lookup range.

Run it where ``omron-miner[tune]`` is installed: ``python make_models.py [DIRECTORY]``. The same version of the onnx
package writes the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from omron_miner.building.compare import SUFFIX, ask_model, reference_text

OPSET = 13
IR_VERSION = 8
SEED = 364  # all 21 outputs vary with the image, and no image can take a Tanh beyond 213 of the 255 tabulated
WEIGHT_STEP = 1 / 128
"""One unit at EZKL's param_scale 7."""
DEMO_INPUT = (1, 3, 64, 64)
DEMO_OUTPUTS = {
    "prob_stage_1": 3,
    "prob_stage_2": 3,
    "prob_stage_3": 3,
    "stage1_delta_k": 1,
    "stage2_delta_k": 1,
    "stage3_delta_k": 1,
    "index_offset_stage1": 3,
    "index_offset_stage2": 3,
    "index_offset_stage3": 3,
}
"""Names and sizes as in the competition's competition_config.json; every shape is (1, size)."""


class Graph:
    """Collects nodes and weights; each method adds one layer and returns the name of what it computes."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        """Any node."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def weight(self, name: str, shape: tuple[int, ...], spread: float) -> str:
        """Uniform weights in ±spread, rounded to what EZKL holds exactly."""
        values = self._random.uniform(-spread, spread, shape) / WEIGHT_STEP
        array = (np.round(values) * WEIGHT_STEP).astype(np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, source: str, name: str, channels: tuple[int, int], kernel: int, stride: int, pad: int) -> str:
        """A square convolution over all of its input's channels."""
        weight = self.weight(
            f"{name}.weight", (channels[1], channels[0], kernel, kernel), _spread(channels[0] * kernel**2, gain=1.25)
        )
        bias = self.weight(f"{name}.bias", (channels[1],), 0.25)
        return self.node(
            "Conv",
            [source, weight, bias],
            name,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[pad] * 4,
            dilations=[1, 1],
            group=1,
        )

    def dense(self, source: str, name: str, sizes: tuple[int, int]) -> str:
        """A fully connected layer from (1, sizes[0]) to (1, sizes[1])."""
        weight = self.weight(f"{name}.weight", (sizes[1], sizes[0]), _spread(sizes[0], gain=2))
        bias = self.weight(f"{name}.bias", (sizes[1],), 0.25)
        return self.node("Gemm", [source, weight, bias], name, alpha=1.0, beta=1.0, transA=0, transB=1)

    def model(self, name: str, inputs: dict[str, tuple[int, ...]], outputs: dict[str, int]) -> onnx.ModelProto:
        """The finished, checked model."""
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in inputs.items()],
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, (1, size)) for key, size in outputs.items()],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return model


def demo() -> onnx.ModelProto:
    """The competition's interface with an SSR-Net small enough to prove in seconds at logrows 16."""
    graph = Graph(SEED)
    relu_stream = tanh_stream = graph.conv("input", "stem", (3, 1), kernel=8, stride=8, pad=0)
    for stage, channels, size in ((3, None, 64), (2, (1, 4), 64), (1, (4, 4), 16)):
        if channels:
            relu_stream = graph.conv(relu_stream, f"stream1_stage{stage}.conv", channels, kernel=3, stride=2, pad=1)
            tanh_stream = graph.conv(tanh_stream, f"stream2_stage{stage}.conv", channels, kernel=3, stride=2, pad=1)
        relu_stream = graph.node("Relu", [relu_stream], f"stream1_stage{stage}")
        tanh_stream = graph.node("Tanh", [tanh_stream], f"stream2_stage{stage}")
        _fuse(graph, stage, relu_stream, tanh_stream, size)
    return graph.model("demo", {"input": DEMO_INPUT}, DEMO_OUTPUTS)


def _fuse(graph: Graph, stage: int, relu_stream: str, tanh_stream: str, size: int) -> None:
    """One stage's three outputs from both streams, as SSR-Net's fusion block makes them."""
    halves = []
    for stream, source in enumerate((relu_stream, tanh_stream), start=1):
        name = f"stage{stage}_fusion{stream}"
        flat = graph.node("Flatten", [source], f"{name}.flat", axis=1)
        halves.append(graph.node("Tanh", [graph.dense(flat, f"{name}.dense", (size, 3))], name))
    mixed = graph.node("Mul", halves, f"stage{stage}_mixed")
    hidden = graph.node("Relu", [graph.dense(mixed, f"stage{stage}_hidden.dense", (3, 6))], f"stage{stage}_hidden")
    graph.node("Relu", [graph.dense(hidden, f"stage{stage}_prob.dense", (6, 3))], f"prob_stage_{stage}")
    graph.node("Tanh", [graph.dense(mixed, f"stage{stage}_delta.dense", (3, 1))], f"stage{stage}_delta_k")
    graph.node("Tanh", [graph.dense(hidden, f"stage{stage}_index.dense", (6, 3))], f"index_offset_stage{stage}")


def tiny() -> onnx.ModelProto:
    """Four numbers in, two out: 4 → 4 → 2 with a Relu between."""
    graph = Graph(SEED)
    hidden = graph.node("Relu", [graph.dense("input", "hidden.dense", (4, 4))], "hidden")
    graph.node("Identity", [graph.dense(hidden, "output.dense", (4, 2))], "output")
    return graph.model("tiny", {"input": (1, 4)}, {"output": 2})


def _spread(fan_in: int, gain: float) -> float:
    """Uniform weights within ± this make random inputs of size 1 into sums of size `gain`."""
    return float(gain * (3 / fan_in) ** 0.5)


def main() -> None:
    """Writes both models and their answers."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for model in (demo(), tiny()):
        path = directory / f"{model.graph.name}.onnx"
        path.write_bytes(model.SerializeToString(deterministic=True))
        path.with_suffix(SUFFIX).write_text(reference_text(path, ask_model(path, {})), encoding="utf-8")


if __name__ == "__main__":
    main()
