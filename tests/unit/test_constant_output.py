"""When a circuit's output counts as constant: only after several spread inputs, within the validators' tolerance."""

from __future__ import annotations

import pytest

from omron_miner.circuits.constant_output import (
    JUDGED_OVER,
    ConstantOutputs,
    is_constant,
    same_output,
    spread_inputs,
)


def test_the_same_to_several_inputs_is_constant_and_to_two_or_three_is_not() -> None:
    assert is_constant([[1.0, 2.0]] * JUDGED_OVER)
    assert not is_constant([[1.0, 2.0]] * (JUDGED_OVER - 1))
    assert not is_constant([])


def test_the_tolerance_is_the_validators() -> None:
    assert is_constant([[1.0, 2000.0]] * JUDGED_OVER + [[1.0001, 2000.02]])
    assert not is_constant([[1.0, 2.0]] * JUDGED_OVER + [[1.0, 2.0002]])
    assert not same_output([1.0], [1.0, 1.0])
    assert not same_output([float("nan")], [float("nan")])


@pytest.mark.parametrize(
    "answer",
    [
        lambda row: float(max(range(len(row)), key=row.__getitem__)),  # ArgMax
        lambda row: float(sum(row) > 0),
        lambda row: float(sum(row) > len(row) / 2),
        lambda row: float(row[0] < -0.9),
        lambda row: float(max(row) > 300),
    ],
)
@pytest.mark.parametrize("size", [2, 64, 3000])
def test_spread_inputs_distinguish_circuits_with_few_answers(answer, size: int) -> None:  # type: ignore[no-untyped-def]
    outputs = [[answer(row)] for inputs in spread_inputs([size], ["F32"]) for row in inputs.values()]
    assert not is_constant(outputs)


def test_spread_inputs_keep_to_their_types_and_start_within_the_tables() -> None:
    every = list(spread_inputs([3, 2, 1], ["F32", "Bool", "Int"]))
    assert [len(row) for row in every[0].values()] == [3, 2, 1]
    assert all(abs(number) <= 1 for inputs in every[: 2 * JUDGED_OVER - 1] for row in inputs.values() for number in row)
    assert max(number for inputs in every for number in inputs["input_0"]) > 255
    assert {number for inputs in every for number in inputs["input_1"] + inputs["input_2"]} == {0, 1}
    assert every == list(spread_inputs([3, 2, 1], ["F32", "Bool", "Int"]))


# --- while serving


def answers(watched: ConstantOutputs, outputs: list[float], inputs: range, circuit: str = "c") -> list[bool]:
    return [watched.seen(circuit, number, outputs) for number in inputs]


def test_a_streak_of_the_same_output_for_different_inputs_is_detected() -> None:
    watched = ConstantOutputs()
    assert not any(answers(watched, [0.5], range(JUDGED_OVER - 1)))
    assert watched.seen("c", 100, [0.50005])
    assert watched.seen("c", 101, [0.5])
    assert not watched.seen("c", 102, [0.6]), "it depends on its input after all"
    assert not watched.seen("c", 103, [0.6])


def test_the_same_output_to_the_same_input_says_nothing() -> None:
    watched = ConstantOutputs()
    assert not any(watched.seen("c", 1, [0.5]) for _ in range(3 * JUDGED_OVER))
    assert not any(answers(watched, [0.5], range(3), circuit="other"))


def test_circuits_without_public_outputs_are_not_constant() -> None:
    assert not any(answers(ConstantOutputs(), [], range(3 * JUDGED_OVER)))


def test_only_the_last_used_circuits_are_remembered() -> None:
    watched = ConstantOutputs(circuits=2)
    for circuit in ("a", "b", "c"):
        answers(watched, [0.5], range(JUDGED_OVER), circuit)
    assert not watched.seen("a", 100, [0.5]), "a was forgotten"
    assert watched.seen("c", 100, [0.5])
