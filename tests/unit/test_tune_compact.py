"""The compact arithmetic answers as the model does, and EZKL meets in its tables what was foretold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from omron_miner.circuits.run_args import RunArgs
from omron_miner.errors import CircuitError
from omron_miner.tune.ask_ezkl import outputs_of_each, shapes_of_each
from omron_miner.tune.compact import Precision, compact
from omron_miner.tune.compact_search import compact_search, run_args_for
from omron_miner.tune.passes import EXACT, FOR_COMPACT
from omron_miner.tune.ranges import Lookups, Magnitudes
from omron_miner.tune.running import run_model
from omron_miner.tune.samples import make_feeds
from omron_miner.tune.search import SearchRequest, needed
from tune_models import conv_net, graph, mlp, node, weights

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.tune.graph import Graph
    from omron_miner.tune.passes import Pass

PUBLIC = RunArgs(input_visibility="Public", param_visibility="Fixed")


def answers(of: Graph, passes: tuple[Pass, ...], precision: Precision) -> tuple[float, int, int]:
    """The largest difference of any output, and the largest integer in a table: as EZKL met it, as it was foretold."""
    rewritten, feeds = of.copy(), make_feeds(of, None, -1, 1, seed=4)
    for one in passes:
        one.run(rewritten)
    made, run_args = compact(rewritten, precision), run_args_for(PUBLIC, precision)
    lookups = Lookups(Magnitudes(rewritten, feeds, -1, 1), made.places).at(run_args)
    rows = [[feed["x"].ravel().tolist()] for feed in feeds.values()]
    (found,) = outputs_of_each(made.content(), [run_args], rows, lambda: None)
    assert not isinstance(found, str), found
    outputs = np.array([[number for row in one["outputs"] for number in row] for one in found])
    expected = np.array([np.concatenate([one.ravel() for one in each]) for each in run_model(of, list(feeds.values()))])
    assert np.ptp(expected) > 0.1
    met = max(max(-one["lowest"], one["highest"]) for one in found)
    return float(np.abs(outputs - expected).max()), met, max(one.seen for one in lookups)


def averaged() -> Graph:
    """Branches whose numbers have different places, means of windows, a maximum of all, products of data."""
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        node("AveragePool", ["c1"], ["a1"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["x", "w2"], ["c2"], strides=[2, 2]),
        node("MaxPool", ["c2"], ["m2"], kernel_shape=[1, 1]),
        node("Add", ["a1", "m2"], ["sum"]),
        node("Sub", ["sum", "shift"], ["moved"]),
        node("Sigmoid", ["moved"], ["gate"]),
        node("Mul", ["gate", "sum"], ["gated"]),
        node("Mul", ["gated", "factor"], ["scaled"]),
        node("GlobalAveragePool", ["scaled"], ["mean"]),
        node("GlobalMaxPool", ["scaled"], ["most"]),
        node("Concat", ["mean", "most"], ["both"], axis=1),
        node("Reshape", ["both", "flat"], ["y"]),
    ]
    constants = {"w1": weights(3, 2, 3, 3), "b1": weights(3), "w2": weights(3, 2, 1, 1), "shift": weights(1, 3, 1, 1),
                 "factor": weights(1, 3, 1, 1), "flat": np.array([1, 6])}  # fmt: skip
    return graph(nodes, constants, (1, 2, 6, 6))


def made_by(kind: str, place: Path) -> Graph:
    made: dict[str, Any] = {"conv": conv_net, "mlp": mlp, "averaged": lambda _: averaged()}
    of: Graph = made[kind](place / "net.onnx")
    return of


@pytest.mark.parametrize("passes", [EXACT, FOR_COMPACT], ids=["exact", "for compact"])
@pytest.mark.parametrize(
    "kind", ["mlp", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("conv", "averaged"))]
)
def test_it_answers_as_the_model_and_more_places_answer_better(
    kind: str, passes: tuple[Pass, ...], tmp_path: Path
) -> None:
    of = made_by(kind, tmp_path)
    coarse, _, _ = answers(of, passes, Precision(4, 10))
    fine, met, foretold = answers(of, passes, Precision(8, 17))
    assert fine < 0.01
    assert fine < coarse < 0.5
    assert foretold * 0.5 < met <= foretold * 1.02 + 2, "lookups hold what samples of the model reach"


def test_no_number_is_decomposed_into_digits(tmp_path: Path) -> None:
    of = conv_net(tmp_path / "net.onnx")
    for one in EXACT:
        one.run(of)
    precision = Precision()
    (shape,) = shapes_of_each(compact(of, precision).content(), [run_args_for(PUBLIC, precision)])
    assert {name for one in shape["required_lookups"] for name in one} <= {"Exp", "HardSwish", "Tanh"}, (
        "a power of a constant is Exp"
    )
    # EZKL's own: the signs of digits, and the digits; each product, sum and maximum here is a few cells a number
    assert shape["num_rows"] < 2500


def test_layers_that_share_a_constant_are_kept_apart() -> None:
    """EZKL makes one of two equal constants, and of their two scales the smaller."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Tanh", ["h"], ["t"]),
        node("MatMul", ["t", "w"], ["s"]),
        node("Add", ["s", "ones"], ["a"]),
        node("Mul", ["a", "ones"], ["y"]),
    ]
    of = graph(nodes, {"w": weights(4, 4), "ones": np.ones((1, 4), np.float32)}, (1, 4))
    matrices = [array for array in compact(of, Precision()).graph.constants.values() if array.shape == (4, 4)]
    assert len({array.tobytes() for array in matrices}) == len(matrices) == 2
    worst, _, _ = answers(of, EXACT, Precision(8, 17))
    assert worst < 0.01


def test_an_unknown_operation_is_named_and_has_no_candidates(tmp_path: Path, progress: list[str]) -> None:
    of = graph([node("Softmax", ["x"], ["y"], axis=1)], {}, (1, 4))
    with pytest.raises(CircuitError, match="does not support Softmax"):
        compact(of, Precision())
    feeds = make_feeds(of, None, -1, 1, seed=0)
    magnitudes = Magnitudes(of, feeds, -1, 1)
    request = SearchRequest(b"", PUBLIC, [], [], magnitudes)
    assert compact_search(request, [(of, magnitudes)]) == []
    assert any("Softmax" in line for line in progress)


@pytest.mark.slow
def test_candidates_hold_twice_what_samples_reach_and_fill_their_table(tmp_path: Path) -> None:
    of = mlp(tmp_path / "mlp.onnx")
    feeds = make_feeds(of, None, -1, 1, seed=0)
    rows = [[feed["x"].ravel().tolist()] for feed in feeds.values()][:2]
    expected = [[float(number) for number in one[0].ravel()] for one in run_model(of, list(feeds.values())[:2])]
    magnitudes = Magnitudes(of, feeds, -1, 1)
    found = compact_search(SearchRequest(b"", PUBLIC, rows, expected, magnitudes, 0.999), [(of, magnitudes)])
    assert {one.run_args.num_inner_cols for one in found} == {1, 2, 3}
    for one in found:
        assert one.accuracy >= 0.999
        low, high = one.run_args.lookup_range
        wanted = needed(one.request.magnitudes.at(one.run_args), "lookup", by_samples=True)
        assert -low == high >= wanted - 4
        table, usable = high - low + 1, one.run_args.usable_rows
        assert -(-table // usable) == one.cost.table_columns
        assert table + 1 >= one.cost.table_columns * usable, "no row of its columns is left"
