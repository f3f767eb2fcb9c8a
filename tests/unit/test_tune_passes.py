"""Each rewrite does what it says and changes no output beyond its stated error; what it must not touch it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from omron_miner.errors import ConfigError
from omron_miner.tune.graph import Graph, attributes, read_graph
from omron_miner.tune.passes import EXACT
from omron_miner.tune.passes.attributes import write_attributes
from omron_miner.tune.passes.batch_norm import fold_batch_norm
from omron_miner.tune.passes.constants import fold_constants
from omron_miner.tune.passes.im2col import convolutions_as_matmul
from omron_miner.tune.passes.max_pool import pool_before_activation
from omron_miner.tune.passes.merge import merge_products
from omron_miner.tune.passes.pads import fold_pads
from omron_miner.tune.running import difference, run_model
from omron_miner.tune.samples import make_feeds
from tune_models import conv_net, graph, node, weights

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
    assert ops(after).count("Gather") == 2


def run_all(of: Graph) -> int:
    return sum(one.run(of) for one in EXACT)


def test_all_of_them_together_keep_a_network(tmp_path: Path) -> None:
    after = changed_to_the_same(conv_net(tmp_path / "net.onnx"), run_all)
    assert not {"Conv", "BatchNormalization", "Shape"} & set(ops(after))
    assert ops(after).count("MatMul") == 1, "both streams' convolutions are one"


@pytest.mark.skipif(not AGE.exists(), reason="the competition's model is not here")
@pytest.mark.slow
def test_the_competitions_model_keeps_its_answers() -> None:
    before = read_graph(AGE)
    after = before.copy()
    assert run_all(after) > 60
    feeds = list(make_feeds(before, None, -1, 1, seed=3).values())
    assert difference(run_model(after, feeds), run_model(before, feeds)) < 1e-5
    assert not {"Conv", "BatchNormalization"} & set(ops(after))


def test_a_file_that_is_no_model_of_floats_is_refused_in_words(tmp_path: Path) -> None:
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
    with pytest.raises(ConfigError, match="holds 5 numbers, the model takes 4"):
        make_feeds(of, tmp_path / "own.npy", -1, 1, seed=0)
