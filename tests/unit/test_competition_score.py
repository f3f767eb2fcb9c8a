"""A competition circuit's score is the validators' formula to the digit, and its inputs are drawn as they draw them."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from omron_miner.circuits.accuracy import accuracy
from omron_miner.competition.inputs import augment, draw, read_inputs, rotate
from omron_miner.competition.report import read_reference
from omron_miner.competition.score import (
    CircuitMetrics,
    Run,
    chance_of_refusal,
    conclude,
    score,
)
from omron_miner.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = (1, 3, 8, 8)
EXPECTED = [[0.0, 0.5], [1.0, 0.5], [0.5, 0.5], [0.2, 0.1]]
BEST = CircuitMetrics(accuracy=0.99, proof_bytes=2000, response_s=20)


def runs(**changes: Any) -> list[Run]:
    """Four runs that are exact, the last two with proofs; `changes` are those of the last."""
    proof: dict[str, Any] = {"verified": True, "witness_s": 1.0, "prove_s": 3.0, "proof_bytes": 100}
    last = {"outputs": EXPECTED[3], **proof, "prove_s": 5.0, "proof_bytes": 200, **changes}
    return [
        Run(0, False, EXPECTED[0], witness_s=9.0),
        Run(1, False, EXPECTED[1], witness_s=9.0),
        Run(2, True, EXPECTED[2], **proof),
        Run(3, True, **last),
    ]


# --- accuracy and what refuses a circuit ------------------------------------------------------------------------------


def test_accuracy_is_of_the_sum_of_squares_not_of_their_mean() -> None:
    assert accuracy([0.1, 0.2, 0.3], [0.0, 0.0, 0.0]) == pytest.approx(math.exp(-0.14))
    assert accuracy(EXPECTED[1], EXPECTED[1]) == 1.0


@pytest.mark.parametrize("outputs", [[0.0], [0.0, 0.5, 0.0], [], [math.nan, 0.5], [1e300, 0.5]])
def test_outputs_of_another_number_or_of_no_sense_have_accuracy_0(outputs: list[float]) -> None:
    assert accuracy(outputs, EXPECTED[0]) == 0.0


def test_a_standing_averages_accuracy_over_all_runs_and_the_rest_over_the_proofs() -> None:
    concluded = conclude([Run(0, False, None, provable=False), *runs()[1:]], EXPECTED)
    assert concluded.standing == CircuitMetrics(accuracy=0.75, proof_bytes=150, response_s=5.0)
    assert concluded.refusal == ""
    assert (concluded.failed_proofs, concluded.unprovable, concluded.constant_output) == (0, 1, False)


@pytest.mark.parametrize("verified", [False, None])
def test_one_proof_that_fails_refuses_the_circuit_and_says_why(verified: bool | None) -> None:
    concluded = conclude(runs(verified=verified, outputs=None, detail="EZKL says no"), EXPECTED)
    assert concluded.standing is None
    assert concluded.refusal == "1 of 2 proofs failed; the first, of input 4: EZKL says no"


def test_a_circuit_without_a_proof_is_refused() -> None:
    assert conclude(runs()[:2], EXPECTED).refusal == "nothing was proved"


def test_output_that_never_changes_is_refused_however_accurate() -> None:
    same = [Run(index, True, [0.5, 0.5], verified=True, witness_s=1, prove_s=1, proof_bytes=1) for index in range(8)]
    concluded = conclude(same, [[0.5, 0.5]] * 8)
    assert concluded.constant_output
    assert concluded.accuracies == [0.0] * 8
    assert "constant" in concluded.refusal


def test_another_number_of_outputs_is_refused_with_both_numbers() -> None:
    concluded = conclude(runs(), [[*row, 0.0] for row in EXPECTED])
    assert concluded.refusal == "the accuracy is 0: the circuit has 2 outputs, the baseline 3"


def test_the_chance_of_drawing_an_unprovable_input() -> None:
    assert chance_of_refusal(100, 0, 10) == 0.0
    assert chance_of_refusal(100, 1, 10) == pytest.approx(0.1)
    assert chance_of_refusal(10, 10, 1) == 1.0


# --- the score --------------------------------------------------------------------------------------------------------


def test_the_best_itself_scores_1_and_is_no_new_best() -> None:
    same = score(BEST, BEST)
    assert same.score == pytest.approx(1.0)
    assert (same.relative_score, same.new_best) == (1.0, False)


def test_the_score_is_095_of_accuracy_and_005_of_time_and_nothing_of_size() -> None:
    mine = score(CircuitMetrics(accuracy=0.495, proof_bytes=4000, response_s=10), BEST)
    assert mine.score == pytest.approx(0.95 * 0.5 + 0.05 * 2)
    assert mine.relative_score == pytest.approx((0.95 * 0.5 + 0.05) / (0.95 + 0.05 * 0.5))


@pytest.mark.parametrize(("response_s", "new_best"), [(20 / 1.39, False), (20 / 1.41, True)])
def test_a_new_best_must_score_more_than_2_percent_above(response_s: float, new_best: bool) -> None:
    mine = score(CircuitMetrics(accuracy=0.99, proof_bytes=2000, response_s=response_s), BEST)
    assert mine.new_best is new_best
    assert mine.relative_score == 1.0


def test_the_first_circuit_of_a_competition_is_the_best() -> None:
    first = score(BEST, None)
    assert first.score == pytest.approx(1.0)
    assert (first.relative_score, first.new_best) == (1.0, True)


def test_a_reference_is_an_accepted_circuits_report(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    standing = {"accuracy": 0.99, "proof_bytes": 2000, "response_s": 20}
    path.write_text(json.dumps({"schema_version": 1, "accepted": True, "standing": standing, "new": "keys"}))
    assert read_reference(path) == BEST


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not the report"),
        ("[]", "is not the report"),
        ('{"schema_version": 2, "accepted": true}', "expected 1"),
        ('{"schema_version": 1, "accepted": false, "standing": null}', "was itself rejected"),
        ('{"schema_version": 1, "accepted": true, "standing": null}', "is not the report"),
        (
            '{"schema_version": 1, "accepted": true, "standing": {"accuracy": 1, "proof_bytes": 1, "response_s": 0}}',
            "is not the report",
        ),
    ],
)
def test_anything_else_is_no_reference(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_reference(path)


def test_an_error_about_a_binary_file_does_not_hold_the_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"secret" * 1000 + b"\xff")
    with pytest.raises(ConfigError, match="is not the report of an evaluation: UnicodeDecodeError") as caught:
        read_reference(path)
    assert "secret" not in str(caught.value)


# --- the inputs -------------------------------------------------------------------------------------------------------


def image() -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(1).uniform(-0.5, 0.5, SHAPE).astype(np.float32)


def test_the_same_seed_draws_the_same_inputs_and_another_seed_others() -> None:
    first, again, other = (draw([image()], SHAPE, 5, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len({one.tobytes() for one in first}) == 5


def test_noise_stands_in_for_missing_photos_and_fills_the_range() -> None:
    (one,) = draw(None, SHAPE, 1, 0)
    assert one.shape == SHAPE
    assert one.dtype == np.float32
    assert (one.min(), one.max()) == (-1.0, 1.0)


def test_an_augmented_picture_is_the_picture_changed_a_little_or_its_mirror() -> None:
    y, x = np.mgrid[0:32, 0:32] / 31
    picture = np.broadcast_to((x + y) / 4, (1, 3, 32, 32)).astype(np.float32)
    random = np.random.default_rng(3)
    inside = np.s_[..., 6:-6, 6:-6]  # turning brings zeros in at the border
    kept = 0
    for _ in range(40):
        changed = augment(picture, random)[inside]
        off = [np.abs(changed - one[inside]).mean() for one in (picture, picture[..., ::-1])]
        assert min(off) < 0.06
        kept += off[0] < off[1]
    assert 8 <= kept <= 32


def test_a_quarter_turn_is_exact_and_no_turn_changes_nothing() -> None:
    assert np.allclose(rotate(image(), 0.0), image(), atol=1e-6)
    assert np.allclose(rotate(image(), math.pi / 2), np.rot90(image(), axes=(-2, -1)), atol=1e-6)


def test_what_is_turned_in_from_beyond_the_border_is_0() -> None:
    turned = rotate(np.ones((1, 1, 9, 9), np.float32), math.pi / 4)
    assert turned[0, 0, 0, 0] == 0.0
    assert turned[0, 0, 4, 4] == pytest.approx(1.0)


def test_inputs_come_from_a_file_or_a_folder_in_the_order_of_names(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", np.stack([image(), image() * 2]))
    (tmp_path / "a.json").write_text(json.dumps({"input_data": [[0.25] * 192]}))
    (tmp_path / "notes.txt").write_text("not an input")
    found = read_inputs(tmp_path, SHAPE)
    assert [one.shape for one in found] == [SHAPE] * 3
    assert np.array_equal(found[0], np.full(SHAPE, 0.25))
    assert np.array_equal(found[2], image() * 2)
    assert len(read_inputs(tmp_path / "a.json", SHAPE)) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"input_data": [[1, 2]]}', "has 2 numbers, the model takes 192"),
        ("a.json", b'{"input_data": [[1], [2]]}', "has 2 inputs"),
        ("a.json", b'{"input_data": [["x"]]}', "cannot read"),
        ("a.json", b"{", "cannot read"),
        ("a.json", b'{"input_data": [[' + b"1, " * 191 + b"NaN]]}", "NaN"),
        ("a.npy", b"junk", "cannot read"),
        ("a.txt", b"", "contains no inputs"),
    ],
)
def test_inputs_of_another_kind_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_inputs(tmp_path, SHAPE)
    assert caught.value.exit_code == 2
