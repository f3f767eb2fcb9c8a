"""Which run args are worth measuring: the cost model's rule, tables that hold what they must, the same for a seed."""

from __future__ import annotations

from typing import Any

import pytest

from omron_miner.circuits.run_args import RunArgs
from omron_miner.tune.cost import Cost, cost
from omron_miner.tune.ranges import Magnitudes, Range
from omron_miner.tune.search import (
    Candidate,
    SearchRequest,
    changed,
    cheapest_visibilities,
    choose,
    collapses,
    grid,
    needed,
    smallest_base,
)
from tune_models import graph, node, weights

SHAPE: dict[str, Any] = {
    "num_rows": 5000,
    "required_lookups": [{"Tanh": {"scale": 128.0}}],
    "required_range_checks": [[-1, 1], [0, 1023]],
    "model_instance_shapes": [[1, 100], [1, 4]],
}

REQUEST = SearchRequest(b"", RunArgs(), [], [], Magnitudes(graph([node("Tanh", ["x"], ["y"])], {}, (1, 4)), {}, -1, 1))


def at(logrows: int, **values: Any) -> Cost:
    found = cost(changed(RunArgs(num_inner_cols=1), logrows=logrows, **values), SHAPE)
    assert found
    return found


# The compact age model on 23.0.5, as its settings.json has it; keys as they were measured.
@pytest.mark.parametrize(
    ("logrows", "inner", "measured_mb"),
    [(18, 3, 3525), (17, 2, 4332), (17, 1, 8513)],
)
def test_blocks_of_checks_make_a_key_large_as_measured(logrows: int, inner: int, measured_mb: float) -> None:
    shape = {
        "num_rows": 776_000 // inner,
        "required_lookups": [{"Pow": {}}, {"HardSwish": {}}, {"Tanh": {}}],
        "required_range_checks": [[-1, 1], [0, 1]],
        "model_instance_shapes": [[1, 3, 64, 64], [1, 21]],
        "einsum_params": {"total_einsum_col_size": 767_405},
    }
    found = cost(RunArgs(logrows=logrows, num_inner_cols=inner, lookup_range=(-65_000, 65_000)), shape)
    assert found
    assert found.key_bytes == pytest.approx(measured_mb * 1e6, rel=0.02)


def test_a_lower_logrows_is_not_cheaper_once_a_table_needs_more_columns() -> None:
    wide, narrow = (-32768, 32768), (-4096, 4096)
    assert at(16, lookup_range=wide).table_columns == 2
    assert at(13, lookup_range=wide).key_bytes > at(14, lookup_range=wide).key_bytes
    assert at(14, lookup_range=narrow).table_columns == 1
    assert at(14, lookup_range=narrow).key_bytes < at(14, lookup_range=wide).key_bytes


def test_what_does_not_fit_has_no_cost() -> None:
    assert cost(RunArgs(logrows=6), SHAPE) is None, "104 instances in 56 rows"
    few = {**SHAPE, "model_instance_shapes": [[1, 4]]}
    assert cost(RunArgs(logrows=6), few) is None, "more table columns than was ever tried"


@pytest.mark.parametrize(("number", "legs", "base"), [(0, 1, 2), (16383, 1, 16384), (16384, 1, 32768), (16383, 2, 128)])
def test_digits_hold_the_number_and_no_smaller_base_does(number: int, legs: int, base: int) -> None:
    assert smallest_base(number, legs) == base
    assert base**legs > number
    assert base == 2 or (base // 2) ** legs <= number


def test_a_table_is_wide_enough_for_every_bound_and_twice_the_samples_without_one() -> None:
    bounded = Range("a", "Tanh", "lookup", 100, bound=1000, seen=10)
    sampled = Range("b", "Tanh", "lookup", 100, bound=None, seen=700)
    digits = Range("c", "Relu", "digits", 100, bound=50_000, seen=10)
    assert 1000 < needed([bounded, digits], "lookup") <= 1000 * 1.02 + 2
    assert 1400 < needed([bounded, sampled, digits], "lookup") <= 1400 * 1.02 + 3
    assert needed([digits], "lookup") == 0


def test_a_table_by_samples_holds_twice_these_but_never_more_than_any_input_reaches() -> None:
    loose = Range("a", "Tanh", "lookup", 100, bound=1_000_000, seen=500)
    tight = Range("b", "Tanh", "lookup", 100, bound=600, seen=500)
    assert 1000 <= needed([loose, tight], "lookup", by_samples=True) <= 1000 * 1.02 + 3
    assert 600 <= needed([tight], "lookup", by_samples=True) <= 600 * 1.02 + 3
    assert 750 <= needed([loose], "lookup", 1.5, by_samples=True) <= 750 * 1.02 + 3, "unless asked for less"


def test_the_grid_is_the_same_for_a_seed_and_keeps_what_is_not_searched() -> None:
    base = RunArgs(input_visibility="Public", param_visibility="Fixed", variables=(("batch_size", 3),))
    assert grid(base, 1) == grid(base, 1)
    assert grid(base, 1) != grid(base, 2)
    for one in grid(base, 1):
        assert (one.input_visibility, one.param_visibility, one.variables) == ("Public", "Fixed", (("batch_size", 3),))
    assert len({one.model_dump_json() for one in grid(base, 1)}) == len(grid(base, 1))


def test_the_cheapest_are_chosen_and_of_the_same_cost_only_the_most_accurate() -> None:
    def candidate(scale: int, key_bytes: int, accuracy: float) -> Candidate:
        return Candidate(REQUEST, RunArgs(input_scale=scale), accuracy, Cost(1, 1, key_bytes))

    dear, rough, fine = candidate(1, 9, 1.0), candidate(2, 3, 0.992), candidate(3, 3, 0.999)
    assert choose([dear, rough, fine], 4) == [fine, dear]
    assert choose([dear, rough, fine], 1) == [fine]


def test_a_key_estimated_a_little_smaller_does_not_outweigh_accuracy() -> None:
    small = Candidate(REQUEST, RunArgs(), 0.9966, Cost(1, 1, 3500))
    fine = Candidate(REQUEST, RunArgs(num_inner_cols=3), 0.9992, Cost(1, 1, 3528))
    large = Candidate(REQUEST, RunArgs(num_inner_cols=1), 1.0, Cost(1, 1, 4700))
    assert choose([small, fine, large], 3) == [fine, small, large]


def test_for_a_score_some_accuracy_is_worth_some_time() -> None:
    fast = Candidate(REQUEST, RunArgs(), 0.96, Cost(1, 1, 10))
    fine = Candidate(REQUEST, RunArgs(decomp_legs=1), 0.999, Cost(1, 1, 12))
    slow = Candidate(REQUEST, RunArgs(decomp_legs=3), 1.0, Cost(1, 1, 100))
    assert choose([fast, fine, slow], 3) == [fast, fine, slow]
    assert choose([fast, fine, slow], 3, "score") == [fine, fast, slow]


def test_free_visibilities_are_those_with_the_fewest_cells() -> None:
    product = graph([node("MatMul", ["x", "w"], ["y"])], {"w": weights(8, 4)}, (1, 8))
    model = product.to_model().SerializeToString()
    found = cheapest_visibilities(model, RunArgs(input_visibility="Private", param_visibility="Private", logrows=12))
    assert (found.input_visibility, found.output_visibility) == ("Public", "Public")
    assert found.param_visibility == "Fixed"
    assert found.ignore_range_check_inputs_outputs, "the verifier rebuilds public inputs"
    assert found.logrows == 12


def test_a_circuit_too_coarse_to_tell_samples_apart_collapses() -> None:
    expected = [[0.50], [0.52], [0.52], [0.9]]
    assert not collapses([[0.5], [0.515], [0.515], [0.9]], expected)
    assert collapses([[0.5], [0.5], [0.5], [0.9]], expected)
    assert collapses([[0.5], [0.5], [0.5], [0.5]], expected)
