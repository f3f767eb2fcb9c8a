"""The shipped models are what their script writes, have the interface they claim, and stay inside EZKL's tables."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from images import IMAGES
from omron_miner.building.compare import SUFFIX, ask_model, read_reference
from omron_miner.circuits.onnx_runtime import load_onnxruntime

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from numpy.typing import NDArray

MODELS = Path(__file__).parents[2] / "files/miner/models"
COMPETITION_OUTPUTS = [
    ("prob_stage_1", (1, 3)),
    ("prob_stage_2", (1, 3)),
    ("prob_stage_3", (1, 3)),
    ("stage1_delta_k", (1, 1)),
    ("stage2_delta_k", (1, 1)),
    ("stage3_delta_k", (1, 1)),
    ("index_offset_stage1", (1, 3)),
    ("index_offset_stage2", (1, 3)),
    ("index_offset_stage3", (1, 3)),
]
LARGEST_LOOKUP = 32760 / 128
"""The default lookup_range in the model's numbers: scale 7."""


@pytest.fixture(scope="module")
def make_models() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_models", MODELS / "make_models.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_models"] = module
    spec.loader.exec_module(module)
    return module


def shapes(values: Any) -> list[tuple[str, tuple[int, ...]]]:
    return [(value.name, tuple(one.dim_value for one in value.type.tensor_type.shape.dim)) for value in values]


def run(session: Any, image: NDArray[np.float32]) -> NDArray[np.float32]:
    outputs = session.run(None, {"input": image[None]})
    return np.concatenate([output.ravel() for output in outputs])


@pytest.mark.parametrize("name", ["demo", "tiny"])
def test_the_shipped_model_is_what_the_script_writes(make_models: ModuleType, name: str) -> None:
    assert onnx.load(MODELS / f"{name}.onnx") == getattr(make_models, name)()


@pytest.mark.parametrize("name", ["demo", "tiny"])
def test_the_answers_shipped_beside_a_model_are_what_it_answers(name: str) -> None:
    model = MODELS / f"{name}.onnx"
    shipped, asked = read_reference(model.with_suffix(SUFFIX), model), ask_model(model, {})
    assert [one.rows for one in shipped.samples] == [one.rows for one in asked.samples]
    for mine, other in zip(shipped.samples, asked.samples, strict=True):
        assert mine.outputs == pytest.approx(other.outputs, rel=1e-4, abs=1e-5)


def test_demo_has_the_competitions_interface() -> None:
    graph = onnx.load(MODELS / "demo.onnx").graph
    assert shapes(graph.input) == [("input", (1, 3, 64, 64))]
    assert shapes(graph.output) == COMPETITION_OUTPUTS


@pytest.mark.parametrize("name", ["demo", "tiny"])
def test_weights_are_what_param_scale_7_holds_exactly(name: str) -> None:
    for tensor in onnx.load(MODELS / f"{name}.onnx").graph.initializer:
        units = onnx.numpy_helper.to_array(tensor) * 128
        assert (units == np.round(units)).all(), tensor.name


def test_every_output_of_demo_depends_on_the_image() -> None:
    session = load_onnxruntime().InferenceSession(MODELS / "demo.onnx")
    outputs = np.stack([run(session, image) for image in IMAGES.values()])
    assert (outputs.std(axis=0) > 0.1).all()


def test_no_image_within_one_can_leave_the_lookup_table() -> None:
    """Interval arithmetic: a bound for every image, not only those we thought of."""
    largest = 0.0
    bounds = {"input": (np.full((3, 64, 64), -1.0), np.full((3, 64, 64), 1.0))}
    graph = onnx.load(MODELS / "demo.onnx").graph
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor).astype(float) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Tanh":
            low, high = bounds[node.input[0]]
            largest = max(largest, -low.min(), high.max())
        bounds[node.output[0]] = bound(node, [bounds.get(name) for name in node.input], weights)
    assert 0 < largest < LARGEST_LOOKUP


Bound = tuple[Any, Any]


def bound(node: onnx.NodeProto, inputs: list[Bound | None], weights: dict[str, Any]) -> Bound:
    first = inputs[0]
    assert first
    low, high = first
    if node.op_type in ("Conv", "Gemm"):
        weight, bias = (weights[name] for name in node.input[1:])
        up, down = np.maximum(weight, 0), np.minimum(weight, 0)
        return linear(node, low, up, 0) + linear(node, high, down, bias), linear(node, high, up, 0) + linear(
            node, low, down, bias
        )
    if node.op_type == "Mul":
        second = inputs[1]
        assert second
        corners = [one * other for one in first for other in second]
        return np.min(corners, axis=0), np.max(corners, axis=0)
    functions: dict[str, Callable[[Any], Any]] = {
        "Relu": lambda x: np.maximum(x, 0),
        "Tanh": np.tanh,
        "Flatten": np.ravel,
    }
    return functions[node.op_type](low), functions[node.op_type](high)


def linear(node: onnx.NodeProto, values: Any, weight: Any, bias: Any) -> Any:
    if node.op_type == "Gemm":
        return weight @ values + bias
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    pad, stride, kernel = attributes["pads"][0], attributes["strides"][0], attributes["kernel_shape"][0]
    padded = np.pad(values, ((0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (1, 2))[:, ::stride, ::stride]
    return np.einsum("chwij,ocij->ohw", windows, weight) + np.reshape(bias, (-1, 1, 1))


def test_running_a_model_tells_nobody_of_it(tmp_path: Path) -> None:
    """onnxruntime's telemetry keeps a device's id and what it is to send in the home folder."""
    program = (
        "import sys; from pathlib import Path; from omron_miner.tune.graph import read_graph; "
        "from omron_miner.tune.running import run_model; import numpy as np; "
        "print(run_model(read_graph(Path(sys.argv[1])), [{'input': np.zeros((1, 4), np.float32)}]))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", program, MODELS / "tiny.onnx"],
        env=environment | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []
