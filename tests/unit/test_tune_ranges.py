"""Bounds hold for every input, and values outside a table are reported; the counts and integers are EZKL's own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto

from building import MODELS, RunArgsFile
from omron_miner.circuits.run_args import RunArgs, read_run_args
from omron_miner.cli import main
from omron_miner.tune.ask_ezkl import Reached, circuit_size
from omron_miner.tune.graph import Graph, read_graph
from omron_miner.tune.intervals import bound_tensors
from omron_miner.tune.passes import Pass
from omron_miner.tune.passes.constants import fold_constants
from omron_miner.tune.passes.im2col import convolutions_as_matmul
from omron_miner.tune.ranges import Magnitudes, Range, find_ranges
from omron_miner.tune.rewrite import rewrite
from omron_miner.tune.running import run_model
from omron_miner.tune.samples import make_feeds
from tune_models import conv_net, graph, node, weights

if TYPE_CHECKING:
    from pathlib import Path

PUBLIC = RunArgs(input_visibility="Public", param_visibility="Fixed", ignore_range_check_inputs_outputs=True)


def held(of: Graph, low: float, high: float) -> int:
    """How many tensors have bounds; every number that samples lead to is within them."""
    bounds = bound_tensors(of, low, high)
    of.to_model()
    names = [name for one in of.nodes for name in one.output if name in bounds and name not in of.constants]
    for feed in make_feeds(of, None, low, high, seed=5).values():
        for name, found in zip(names, run_model(of, [feed], names)[0], strict=True):
            lowest, highest = bounds[name]
            assert (lowest <= found).all(), name
            assert (found <= highest).all(), name
    return len(names)


def test_no_sample_leaves_the_bounds_of_any_tensor(tmp_path: Path) -> None:
    net = conv_net(tmp_path / "net.onnx")
    fold_constants(net)
    assert held(net, -1, 1) == len({name for one in net.nodes for name in one.output})
    convolutions_as_matmul(net)
    assert held(net, -0.5, 2) == len({name for one in net.nodes for name in one.output})
    assert held(read_graph(MODELS / "demo.onnx"), -1, 1) > 50


def test_every_kind_of_arithmetic_is_bounded() -> None:
    nodes = [
        node("Gemm", ["x", "w", "b"], ["g"], alpha=-0.5, beta=2.0),
        node("Mul", ["g", "x"], ["m"]),
        node("Sub", ["m", "g"], ["s"]),
        node("Abs", ["s"], ["a"]),
        node("Add", ["a", "one"], ["p"]),
        node("Div", ["s", "p"], ["q"]),
        node("Neg", ["q"], ["n"]),
        node("Reshape", ["n", "column"], ["c"]),
        node("MatMul", ["c", "g"], ["mm"]),
        node("LeakyRelu", ["mm"], ["r"]),
        node("Softmax", ["r"], ["y"]),
    ]
    constants = {"w": weights(4, 4), "b": weights(4), "one": np.float32(1), "column": np.array([4, 1])}
    assert held(graph(nodes, constants, (1, 4)), -2, 3) == len(nodes)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("PRelu", ["x", "slopes"], ["y"])],
        [node("LayerNormalization", ["x", "w", "w"], ["y"], axis=-1)],
        [node("Gelu", ["x"], ["y"])],
        [node("HardSwish", ["x"], ["y"])],
        [node("LogSoftmax", ["x"], ["y"], axis=1)],
        [node("Clip", ["x", "half_less", "half"], ["y"])],
        [node("Pow", ["x", "two"], ["s"]), node("Add", ["s", "half"], ["a"]), node("Pow", ["a", "half_less"], ["y"])],
        [node("Pow", ["x", "two"], ["s"]), node("ReduceMean", ["s"], ["m"], keepdims=1), node("Sqrt", ["m"], ["y"])],
        [node("ReduceL2", ["x", "axes"], ["n"]), node("Add", ["n", "half"], ["a"]), node("Reciprocal", ["a"], ["y"])],
        [node("Greater", ["x", "half"], ["c"]), node("Where", ["c", "x", "w"], ["y"])],
        [node("TopK", ["x", "one_whole"], ["y", "at"], axis=1)],
        [node("Elu", ["x"], ["y"], alpha=1.0)],
        [node("Greater", ["x", "half"], ["c"]), node("Cast", ["c"], ["y"], to=TensorProto.FLOAT)],
    ],
    ids=lambda nodes: "-".join(one.op_type for one in nodes),
)
def test_no_input_leaves_the_bounds_of_an_operation(nodes: list[Any]) -> None:
    constants = {
        "w": weights(4), "slopes": np.array([0.5, -2, 0.1, 3], np.float32), "half": np.float32(0.5),
        "half_less": np.float32(-0.5), "two": np.float32(2), "axes": np.array([1]), "one_whole": np.array([1]),
    }  # fmt: skip
    bounded = bound_tensors(graph(nodes, constants, (1, 4), opset=20), -2, 3)
    assert "y" in bounded
    held(graph(nodes, constants, (1, 4), opset=20), -2, 3)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Cast", ["x"], ["b"], to=TensorProto.BOOL), node("Cast", ["b"], ["y"], to=TensorProto.FLOAT)],
        [node("Cast", ["x"], ["at"], to=TensorProto.INT64), node("Gather", ["w", "at"], ["y"])],
        [node("Sqrt", ["x"], ["s"]), node("Relu", ["s"], ["y"])],
        [node("Mul", ["x", "nan"], ["y"])],
    ],
    ids=lambda nodes: "-".join(one.op_type for one in nodes),
)
def test_what_does_not_rise_with_its_input_or_is_no_number_has_no_bound(nodes: list[Any]) -> None:
    constants = {"w": weights(4), "nan": np.float32(np.nan)}
    assert "y" not in bound_tensors(graph(nodes, constants, (1, 4), opset=20), -1, 1)


def ranges_of(nodes: list[Any], shape: tuple[int, ...] = (1, 4)) -> list[Range]:
    constants = {"w": weights(4), "three": np.float32(3), "w4": weights(1, 16, 4), "r4": weights(1, 16, 4)}
    of = graph(nodes, constants, shape, opset=20)
    return Magnitudes(of, make_feeds(of, None, -1, 1, seed=0), -1, 1).at(PUBLIC)


@pytest.mark.parametrize(
    ("nodes", "shape"),
    [
        ([node("LSTM", ["x", "w4", "r4"], ["y"], hidden_size=4)], (1, 1, 4)),
        ([node("Div", ["w", "x"], ["y"])], (1, 4)),
        ([node("LayerNormalization", ["x", "w"], ["y"])], (1, 4)),
        ([node("Softmax", ["x"], ["y"])], (1, 4)),
        ([node("Floor", ["x"], ["y"])], (1, 4)),
    ],
    ids=lambda given: given[0].op_type if isinstance(given, list) else "",
)
def test_an_operation_of_several_steps_or_unknown_is_never_safe(nodes: list[Any], shape: tuple[int, ...]) -> None:
    assert [one.verdict for one in ranges_of(nodes, shape)].count("unknown") == 1


def test_numbers_that_are_compared_are_held_by_their_difference() -> None:
    pooled = [node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2])]
    (place,) = ranges_of(pooled, (1, 1, 2, 2))
    assert (place.kind, place.bound, place.seen) == ("digits", 256, 256), "from -1 to 1 at 7 binary places"


def test_what_is_added_and_moved_needs_no_table_and_a_slope_or_a_divisor_is_known() -> None:
    plain = [node("Add", ["x", "w"], ["a"]), node("Sub", ["a", "x"], ["s"]), node("Transpose", ["s"], ["y"])]
    assert ranges_of(plain) == []
    assert {one.verdict for one in ranges_of([node("PRelu", ["x", "w"], ["y"])])} == {"safe"}
    assert {one.verdict for one in ranges_of([node("Div", ["x", "three"], ["y"])])} == {"safe"}


def test_a_bound_of_one_layer_is_what_some_input_reaches() -> None:
    weight = np.array([[1, -2], [0.5, 3], [-1, 0.25]], np.float32)
    low, high = bound_tensors(graph([node("MatMul", ["x", "w"], ["y"])], {"w": weight}, (1, 3)), -1, 1)["y"]
    np.testing.assert_allclose(high, [[2.5, 5.25]], rtol=1e-4)
    np.testing.assert_allclose(low, [[-2.5, -5.25]], rtol=1e-4)


def test_what_is_unknown_has_no_bound_and_a_divisor_that_may_be_zero_has_none() -> None:
    nodes = [node("Div", ["one", "x"], ["d"]), node("Cos", ["x"], ["c"]), node("Mul", ["d", "c"], ["y"])]
    assert set(bound_tensors(graph(nodes, {"one": np.float32(1)}, (1, 2)), -1, 1)) == {"one", "x"}


def tanh_of(factor: float) -> Graph:
    return graph([node("Mul", ["x", "f"], ["m"]), node("Tanh", ["m"], ["y"])], {"f": np.float32(factor)}, (1, 4))


@pytest.mark.slow
def test_a_lookup_is_safe_or_exceeded_and_ezkl_meets_the_same_integers() -> None:
    feeds = make_feeds(tanh_of(1), None, -1, 1, seed=0)
    run_args = PUBLIC.model_copy(update={"lookup_range": (-1000, 1000)})
    for factor, verdict in ((7.0, "safe"), (9.0, "exceeded")):
        ranges = find_ranges(tanh_of(factor), run_args, feeds, -1, 1)
        (place,) = [one for one in ranges.places if one.kind == "lookup"]
        assert (place.verdict, place.limit, place.seen) == (verdict, 1000, 128 * factor)
        assert place.bound
        assert place.bound == pytest.approx(128 * factor, abs=1)
        assert ranges.wide_enough == (-place.bound, place.bound)
        met = [one for one in ranges.reached.values() if isinstance(one, Reached)]
        assert max(max(-one.lowest, one.highest) for one in met) == 128 * factor


@pytest.mark.slow
def test_a_lookup_without_a_bound_is_known_by_samples_only() -> None:
    of = graph([node("Cos", ["x"], ["c"]), node("Tanh", ["c"], ["y"])], {}, (1, 4))
    ranges = find_ranges(of, PUBLIC, make_feeds(of, None, -1, 1, seed=0), -1, 1)
    (place,) = [one for one in ranges.places if one.op == "Tanh"]
    assert (place.bound, place.margin, place.verdict) == (None, None, "by samples")
    assert ranges.wide_enough is None


def spoil(of: Graph) -> int:
    name = next(name for name, array in of.constants.items() if array.dtype == np.float32 and array.size > 1)
    of.constants[name] = of.constants[name] + np.float32(0.1)
    return 1


def grow(of: Graph) -> int:
    last, eight = of.nodes[-1], of.constant("eight", np.float32(8) * np.ones((1, 2), np.float32))
    name, last.output[0] = last.output[0], "grown"
    positive = of.node("Relu", [of.node("Add", ["grown", eight], "more")], "more")
    of.node("Sub", [positive, eight], "more", name)
    return 1


@pytest.mark.slow
def test_a_rewrite_that_changes_answers_or_adds_cells_is_dropped_with_its_reason() -> None:
    before = read_graph(MODELS / "tiny.onnx")
    feeds = make_feeds(before, None, -1, 1, seed=0)
    wrong, more = Pass("wrong", spoil, 1e-5), Pass("more", grow, 1e-5)
    done = rewrite(before, feeds, PUBLIC, [wrong, more])
    assert [bool(step.dropped) for step in done.steps] == [True, True]
    assert "outputs differ by 0." in done.steps[0].dropped
    assert done.steps[0].worst_sample in feeds
    assert "cells after this step" in done.steps[1].dropped
    assert done.graph.to_model() == before.to_model()


@pytest.mark.slow
def test_a_network_as_exported_is_taken_once_its_attributes_are_written_and_has_fewer_cells(
    tmp_path: Path, progress: list[str]
) -> None:
    net = conv_net(tmp_path / "net.onnx")
    done = rewrite(net, make_feeds(net, None, -1, 1, seed=0), PUBLIC)
    assert done.before is None
    assert "stride" in done.refused
    by_name = {step.name: step for step in done.steps}
    sizes = [step.size.cells for step in done.steps if step.size]
    assert done.after
    assert sizes == sorted(sizes, reverse=True)
    assert by_name["pool-before-activation"].places == 2
    assert not any(step.dropped for step in done.steps)
    assert done.after.cells < sizes[0]
    assert len(progress) == len(done.steps)


@pytest.mark.slow
def test_the_command_writes_a_smaller_model_and_says_what_was_done(tmp_path: Path, run_args_file: RunArgsFile) -> None:
    out, settings = tmp_path / "new.onnx", run_args_file("demo")
    given = ["circuit", "rewrite", str(MODELS / "demo.onnx"), "--out", str(out), "--settings", str(settings)]
    done = CliRunner().invoke(main, [*given, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["after"]["cells"] < told["before"]["cells"]
    assert {one["verdict"] for one in told["ranges"]} == {"safe"}
    assert circuit_size(read_graph(out), read_run_args(settings)).cells == told["after"]["cells"]
    text = CliRunner().invoke(main, [*given, "--low", "-100", "--high", "100"])
    assert text.exit_code == 1
    assert "exceeded" in text.stdout
    assert "conv-as-matmul" in text.stdout


def round_once(of: Graph) -> int:
    """Another constant by one step of a 32-bit float."""
    name = next(name for name, array in of.constants.items() if array.dtype == np.float32 and array.size > 1)
    of.constants[name] = np.nextafter(of.constants[name], np.float32(9))
    return 1


@pytest.mark.slow
def test_a_pass_that_rounds_otherwise_is_kept_even_if_it_promises_no_difference() -> None:
    before = read_graph(MODELS / "tiny.onnx")
    feeds = make_feeds(before, None, -1, 1, seed=0)
    (step,) = rewrite(before, feeds, PUBLIC, [Pass("rounds", round_once, 0.0, counted=False)]).steps
    assert 0 < step.difference < 4.8e-7
    assert step.dropped == ""
