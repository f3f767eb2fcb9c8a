"""Each rewrite does what it says and changes no output beyond its stated error; what it must not touch it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from omron_miner.errors import ConfigError
from omron_miner.tune.graph import Graph, attributes, read_graph
from omron_miner.tune.passes import EXACT, FOR_COMPACT
from omron_miner.tune.passes.attributes import write_attributes
from omron_miner.tune.passes.batch_norm import fold_batch_norm
from omron_miner.tune.passes.constants import fold_constants
from omron_miner.tune.passes.conv_layouts import convolutions_by_rows, convolutions_by_tiles
from omron_miner.tune.passes.im2col import convolutions_as_matmul
from omron_miner.tune.passes.max_pool import pool_before_activation
from omron_miner.tune.passes.merge import merge_products
from omron_miner.tune.passes.pads import fold_pads
from omron_miner.tune.running import difference, run_model
from omron_miner.tune.samples import make_feeds
from tune_models import conv_net, graph, model, node, weights

if TYPE_CHECKING:
    from collections.abc import Callable

AGE = Path(__file__).parents[3] / "shared/data/age/age.onnx"
IMAGE = (1, 2, 7, 6)


def ops(of: Graph) -> list[str]:
    of.to_model()  # sorts
    return [one.op_type for one in of.nodes]


def changed_to_the_same(before: Graph, rewrite: Callable[[Graph], int], error: float = 1e-5) -> Graph:
    """The rewritten model, which computes the same of every sample; `before` is left as it was."""
    after, was = before.copy(), ops(before)
    assert rewrite(after) > 0
    assert ops(before) == was
    feeds = list(make_feeds(before, None, -1, 1, seed=3).values())
    expected = run_model(before, feeds)
    assert difference([expected[0]], [expected[-1]]) > 0.01, "outputs depend on the input"
    assert difference(run_model(after, feeds), expected) <= error
    return after


def test_shapes_that_an_exporter_computes_become_constants(tmp_path: Path) -> None:
    after = changed_to_the_same(conv_net(tmp_path / "net.onnx"), fold_constants, error=0)
    assert not {"Shape", "Gather", "Unsqueeze", "Concat"} & set(ops(after))
    assert after.shape("flat") == (1, 18)


def test_defaults_are_written_out_and_automatic_pads_become_explicit() -> None:
    convolution = node("Conv", ["x", "w"], ["y"], auto_pad="SAME_LOWER", strides=[2, 2])
    after = changed_to_the_same(graph([convolution], {"w": weights(3, 2, 3, 2)}, IMAGE), write_attributes, error=0)
    (found,) = after.nodes
    assert attributes(found) == {
        "strides": [2, 2], "pads": [1, 0, 1, 0], "dilations": [1, 1], "group": 1, "kernel_shape": [3, 2],
    }  # fmt: skip
    assert write_attributes(after) == 0


def padded(value: float) -> Graph:
    nodes = [node("Pad", ["x", "pads", "value"], ["p"]), node("Conv", ["p", "w"], ["y"], pads=[1, 0, 0, 0])]
    constants = {"pads": np.array([0, 0, 1, 2, 0, 0, 0, 1]), "value": np.float32(value), "w": weights(3, 2, 3, 3)}
    return graph(nodes, constants, IMAGE)


def test_zeros_around_an_image_go_into_its_convolution_and_other_numbers_do_not() -> None:
    after = changed_to_the_same(padded(0), fold_pads, error=0)
    assert [attributes(one)["pads"] for one in after.nodes] == [[2, 2, 0, 1]]
    assert fold_pads(padded(0.5)) == 0


def normalised(layer: Any, weight: Any, shape: tuple[int, ...], outputs: tuple[str, ...] = ("y",)) -> Graph:
    names = ["factor", "offset", "mean", "variance"]
    norm = node("BatchNormalization", ["l", *names], ["y"], epsilon=1e-3)
    constants = {name: weights(3) for name in names[:3]} | {"variance": np.array([0.2, 1, 3], np.float32)}
    return graph([layer, norm], {**constants, "w": weight, "b": weights(3)}, shape, outputs)


@pytest.mark.parametrize(
    ("layer", "weight", "shape"),
    [
        (node("Conv", ["x", "w", "b"], ["l"]), weights(3, 2, 3, 3), IMAGE),
        (node("Conv", ["x", "w"], ["l"]), weights(3, 2, 1, 1), IMAGE),
        (node("Gemm", ["x", "w", "b"], ["l"]), weights(5, 3), (1, 5)),
        (node("Gemm", ["x", "w"], ["l"], transB=1), weights(3, 5), (1, 5)),
    ],
    ids=["conv", "conv without bias", "gemm", "gemm of a transposed weight"],
)
def test_batch_normalisation_goes_into_the_layer_before(layer: Any, weight: Any, shape: tuple[int, ...]) -> None:
    assert ops(changed_to_the_same(normalised(layer, weight, shape), fold_batch_norm)) == [layer.op_type]


def test_a_layer_whose_result_is_used_before_normalisation_keeps_it() -> None:
    layer = node("Conv", ["x", "w", "b"], ["l"])
    assert fold_batch_norm(normalised(layer, weights(3, 2, 3, 3), IMAGE, outputs=("y", "l"))) == 0


def pooled(activation: Any, outputs: tuple[str, ...] = ("y",), **pool: Any) -> Graph:
    return graph([activation, node("MaxPool", ["a"], ["y"], kernel_shape=[2, 2], **pool)], {}, IMAGE, outputs)


@pytest.mark.parametrize("op", ["Relu", "Tanh", "Sigmoid", "LeakyRelu"])
def test_pooling_comes_before_an_activation_that_never_falls(op: str) -> None:
    after = changed_to_the_same(pooled(node(op, ["x"], ["a"]), strides=[2, 2]), pool_before_activation, error=0)
    assert ops(after) == ["MaxPool", op]
    assert after.shape(after.nodes[1].input[0]) == (1, 2, 3, 3), "fewer activations"


@pytest.mark.parametrize(
    "kept",
    [
        pooled(node("LeakyRelu", ["x"], ["a"], alpha=-0.5)),
        pooled(node("Abs", ["x"], ["a"])),
        pooled(node("Tanh", ["x"], ["a"]), outputs=("y", "a")),
        pooled(node("Relu", ["x"], ["a"]), pads=[1, 1, 1, 1]),
    ],
    ids=["falls", "falls and rises", "used elsewhere", "pads"],
)
def test_pooling_stays_where_moving_it_would_change_or_save_nothing(kept: Graph) -> None:
    assert pool_before_activation(kept) == 0


@pytest.mark.parametrize(
    ("kernel", "bias", "attributes_"),
    [
        ((3, 3), True, {"pads": [1, 1, 1, 1]}),
        ((3, 2), True, {"pads": [0, 2, 1, 0], "strides": [2, 1]}),
        ((2, 3), False, {"dilations": [3, 2]}),
        ((1, 1), True, {"strides": [3, 2]}),
    ],
)
def test_a_convolution_becomes_one_product(
    kernel: tuple[int, int], bias: bool, attributes_: dict[str, list[int]]
) -> None:
    convolution = node("Conv", ["x", "w", "b"] if bias else ["x", "w"], ["y"], **attributes_)
    before = graph([convolution], {"w": weights(4, 2, *kernel), "b": weights(4)}, IMAGE)
    after = changed_to_the_same(before, convolutions_as_matmul)
    assert ops(after) == ["Reshape", "Concat", "Gather", "Reshape", "MatMul", "Reshape"]


def test_convolutions_over_time_become_products_and_grouped_ones_stay() -> None:
    line = graph([node("Conv", ["x", "w"], ["y"], strides=[2], pads=[2, 1])], {"w": weights(3, 2, 4)}, (1, 2, 9))
    assert "Conv" not in ops(changed_to_the_same(line, convolutions_as_matmul))
    assert (
        convolutions_as_matmul(graph([node("Conv", ["x", "w"], ["y"], group=2)], {"w": weights(2, 1, 2, 2)}, IMAGE))
        == 0
    )


def test_products_with_the_same_windows_become_one() -> None:
    nodes = [
        node("Conv", ["x", "one", "b"], ["y1"], pads=[1, 1, 1, 1]),
        node("Conv", ["x", "two", "c"], ["y2"], pads=[1, 1, 1, 1]),
        node("Conv", ["x", "three", "b"], ["y3"]),
    ]
    constants = {"one": weights(3, 2, 3, 3), "two": weights(4, 2, 3, 3), "three": weights(3, 2, 3, 3)}
    before = graph(nodes, {**constants, "b": weights(3), "c": weights(4)}, IMAGE, ("y1", "y2", "y3"))
    convolutions_as_matmul(before)
    after = changed_to_the_same(before, merge_products)
    assert (ops(before).count("MatMul"), ops(after).count("MatMul")) == (3, 2)
    assert ops(after).count("Concat") == 1
    assert ops(after).count("Gather") == 2 + 2, "two kinds of windows, and the shared product is cut in two"


def convolved(channels: int, out: int, *, pool: bool = False, parallel: bool = False, **conv: Any) -> Graph:
    """A 3×3 convolution of an 8×8 image, pooled or not, perhaps with a 1×1 convolution of the same image."""
    nodes = [node("Conv", ["x", "w", "b"], ["c"], **({"pads": [1, 1, 1, 1]} | conv))]
    nodes.append(node("MaxPool", ["c"], ["y"], kernel_shape=[2, 2], strides=[2, 2]) if pool else node("Tanh", "c", "y"))
    if parallel:
        nodes.append(node("Conv", ["x", "w1", "b"], ["y1"]))
    constants = {"w": weights(out, channels, 3, 3), "w1": weights(out, channels, 1, 1), "b": weights(out)}
    return graph(nodes, constants, (1, channels, 8, 8), ("y", "y1") if parallel else ("y",))


def test_a_convolution_of_few_channels_is_computed_in_tiles() -> None:
    after = changed_to_the_same(convolved(2, 4), convolutions_by_tiles)
    assert "Conv" not in ops(after)
    (product,) = [one for one in after.nodes if one.op_type == "MatMul"]
    assert after.shape(product.output[0]) == (4 * 4, 4 * 4), "four places of each of 16 tiles"


def test_tiles_that_are_pooled_need_no_maximum_but_relus() -> None:
    after = changed_to_the_same(convolved(2, 4, pool=True), convolutions_by_tiles)
    assert not {"Conv", "MaxPool"} & set(ops(after))
    assert ops(after).count("Relu") == 3


def test_a_convolution_of_many_channels_to_few_is_summed_by_rows() -> None:
    after = changed_to_the_same(convolved(8, 2), convolutions_by_rows)
    (product,) = [one for one in after.nodes if one.op_type == "MatMul"]
    assert after.shape(product.output[0]) == (3 * 2, 8 * 8), "each row of the kernel"
    assert ops(after).count("Add") == 2


@pytest.mark.parametrize(
    ("rewrite", "channels", "out"), [(convolutions_by_tiles, 2, 4), (convolutions_by_rows, 8, 2)], ids=["tiles", "rows"]
)
def test_a_1x1_convolution_of_the_same_image_shares_the_product(
    rewrite: Callable[[Graph], int], channels: int, out: int
) -> None:
    after = changed_to_the_same(convolved(channels, out, parallel=True), rewrite)
    convolutions_as_matmul(after)
    merge_products(after)
    assert ops(after).count("MatMul") == 1


@pytest.mark.parametrize("rewrite", [convolutions_by_tiles, convolutions_by_rows])
@pytest.mark.parametrize("conv", [{"strides": [2, 2]}, {"dilations": [2, 2]}, {"auto_pad": "SAME_UPPER", "pads": None}])
def test_convolutions_with_steps_are_left_to_the_im2col(rewrite: Callable[[Graph], int], conv: dict[str, Any]) -> None:
    for channels, out in ((2, 4), (8, 2)):
        assert rewrite(convolved(channels, out, **conv)) == 0


def run_all(of: Graph) -> int:
    return sum(one.run(of) for one in EXACT)


def run_all_for_compact(of: Graph) -> int:
    return sum(one.run(of) for one in FOR_COMPACT)


def test_all_of_them_together_keep_a_network(tmp_path: Path) -> None:
    after = changed_to_the_same(conv_net(tmp_path / "net.onnx"), run_all)
    assert not {"Conv", "BatchNormalization", "Shape"} & set(ops(after))
    assert ops(after).count("MatMul") == 1, "both streams' convolutions are one"


@pytest.mark.skipif(not AGE.exists(), reason="the competition's model is not here")
@pytest.mark.slow
@pytest.mark.parametrize("rewrite", [run_all, run_all_for_compact])
def test_the_competitions_model_keeps_its_answers(rewrite: Callable[[Graph], int]) -> None:
    before = read_graph(AGE)
    after = before.copy()
    assert rewrite(after) > 60
    feeds = list(make_feeds(before, None, -1, 1, seed=3).values())
    assert difference(run_model(after, feeds), run_model(before, feeds)) < 1e-5
    assert not {"Conv", "BatchNormalization"} & set(ops(after))


def test_a_file_that_is_not_a_model_of_floats_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "junk.onnx"
    with pytest.raises(ConfigError, match="cannot read the model"):
        read_graph(path)
    path.write_bytes(b"junk")
    with pytest.raises(ConfigError, match="cannot read the model"):
        read_graph(path)


def test_data_that_leaves_the_bounds_or_has_another_shape_is_refused(tmp_path: Path) -> None:
    of = graph([node("Tanh", ["x"], ["y"])], {}, (1, 4))
    np.save(tmp_path / "own.npy", np.array([[0.5, 2.0, 0, 0]], np.float32))
    with pytest.raises(ConfigError, match="from 0 to 2, the bounds are -1 to 1"):
        make_feeds(of, tmp_path / "own.npy", -1, 1, seed=0)
    assert "own 1" in make_feeds(of, tmp_path / "own.npy", -1, 2, seed=0)
    np.save(tmp_path / "own.npy", np.zeros(5, np.float32))
    with pytest.raises(ConfigError, match="has 5 numbers, the model takes 4"):
        make_feeds(of, tmp_path / "own.npy", -1, 1, seed=0)


def test_a_model_with_nan_among_its_weights_is_refused(tmp_path: Path) -> None:
    made = model([node("Mul", ["x", "w"], ["y"])], {"w": np.array([1, np.nan], np.float32)}, (1, 2))
    (tmp_path / "model.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(ConfigError, match="w contains NaN"):
        read_graph(tmp_path / "model.onnx")


@pytest.mark.parametrize("shape", [(), (3,), (1, 0), (2, 1, 3)])
def test_every_shape_has_its_samples(shape: tuple[int, ...]) -> None:
    for feed in make_feeds(graph([node("Relu", ["x"], ["y"])], {}, shape), None, -1, 1, seed=0).values():
        assert feed["x"].shape == shape
        assert feed["x"].dtype == np.float32


def test_symbolic_sizes_are_those_of_the_run_args_and_others_one(tmp_path: Path) -> None:
    made = model([node("Relu", ["x"], ["y"])], {}, ("batch", "sequence", 3))
    (tmp_path / "model.onnx").write_bytes(made.SerializeToString())
    assert read_graph(tmp_path / "model.onnx", {"sequence": 5}).shape("y") == (1, 5, 3)
    assert read_graph(tmp_path / "model.onnx").shape("y") == (1, 1, 3)
