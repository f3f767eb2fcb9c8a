"""A circuit's outputs against its model's: where these come from, and when a circuit is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from building import MODELS
from omron_miner.building.build import model_hint
from omron_miner.building.compare import (
    SAMPLES,
    SUFFIX,
    Comparison,
    NotComparedError,
    Reference,
    Sample,
    ask_model,
    check_accuracy,
    compare,
    find_reference,
    read_reference,
    reference_text,
)
from omron_miner.errors import CircuitError, ConfigError
from tune_models import model, node, weights

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, nodes: list[Any], constants: dict[str, Any], shape: tuple[Any, ...] = (1, 4)) -> Path:
    path.write_bytes(model(nodes, constants, shape).SerializeToString())
    return path


def linear(path: Path, weight: Any) -> Path:
    return write(path, [node("MatMul", ["x", "w"], ["y"])], {"w": weight})


def test_a_models_answers_outlive_a_file_of_seeds_and_one_of_inputs(tmp_path: Path) -> None:
    path = linear(tmp_path / "model.onnx", weights(4, 3))
    asked = ask_model(path, {})
    assert len(asked.samples) == SAMPLES
    for kept in (asked, Reference([Sample(one.rows, one.outputs) for one in asked.samples], "", [])):
        path.with_suffix(SUFFIX).write_text(reference_text(path, kept))
        read = find_reference(path, {})
        assert read.origin == f"model{SUFFIX}"
        assert [one.rows for one in read.samples] == [one.rows for one in asked.samples]
        for mine, other in zip(read.samples, asked.samples, strict=True):
            assert mine.outputs == pytest.approx(other.outputs, rel=1e-6)


def test_sizes_are_those_of_the_run_args(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx", [node("Relu", ["x"], ["y"])], {}, ("batch_size", "sequence", 3))
    asked = ask_model(path, {"batch_size": 1, "sequence": 5})
    assert [len(row) for row in asked.samples[0].rows] == [15]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_answers_no_number_is_refused(tmp_path: Path, value: float) -> None:
    weight = weights(4, 3)
    weight[0, 0] = value
    with pytest.raises(CircuitError, match="gives NaN or infinity for all 8 inputs"):
        ask_model(linear(tmp_path / "model.onnx", weight), {})


def test_what_onnxruntime_does_not_take_is_not_compared_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"junk")
    with pytest.raises(NotComparedError, match="onnxruntime rejects the model"):
        find_reference(path, {})


def test_a_file_of_another_models_answers_or_of_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the reference of another model"):
        read_reference(MODELS / "demo.reference.json", MODELS / "tiny.onnx")
    path = tmp_path / "file.json"
    good = json.loads((MODELS / "tiny.reference.json").read_text())
    changes: list[dict[str, Any]] = [
        {"schema_version": 9},
        {"samples": []},
        {"samples": [{"seed": 1e400, "outputs": [0]}]},
        {"inputs": [{"size": "x", "type": 3}]},
    ]
    for text in ("", "[]", "{}", "[" * 100_000, *(json.dumps({**good, **change}) for change in changes)):
        path.write_text(text)
        with pytest.raises(ConfigError, match="is not a model reference"):
            read_reference(path, MODELS / "tiny.onnx")


REFERENCE = Reference([Sample([[0.0]], [1.0, 2.0]), Sample([[1.0]], [3.0, 4.0])], "test", [])


def test_a_circuit_as_exact_as_its_model_passes_and_one_that_is_not_is_refused() -> None:
    exact = compare(REFERENCE, lambda rows: [1.0, 2.0] if rows == [[0.0]] else [3.0, 4.0], ())
    assert (exact.accuracy, exact.samples, exact.largest_difference) == (1.0, 2, 0.0)
    check_accuracy("a", exact, 1.0)
    off = compare(REFERENCE, lambda rows: [1.5, 2.0] if rows == [[0.0]] else [3.0, 4.0], ())
    assert off.accuracy == pytest.approx((np.exp(-0.25) + 1) / 2)
    assert off.largest_difference == 0.5
    check_accuracy("a", off, 0.8)
    with pytest.raises(CircuitError, match=r"a does not match its model: accuracy 0\.8894 over 2 samples.*0\.99"):
        check_accuracy("a", off, 0.99)


def test_an_input_that_cannot_be_answered_or_other_outputs_count_as_wrong() -> None:
    def answers(rows: list[Any]) -> list[float]:
        if rows == [[0.0]]:
            raise ValueError("values -9..9 outside lookup_range -8..8")
        return [3.0]

    found = compare(REFERENCE, answers, (ValueError,))
    assert found.accuracy == 0.0
    with pytest.raises(CircuitError, match=r"outside lookup_range -8\.\.8"):
        check_accuracy("a", found, 0.99)


def test_what_was_not_compared_passes_with_a_warning() -> None:
    found = Comparison(None, reason="nobody knows")
    check_accuracy("a", found, 1.0)
    assert found.text == "WARNING: not compared with its model: nobody knows"


@pytest.mark.parametrize(
    ("said", "content", "hint"),
    [
        ("[tract] Undetermined symbol in expression: <Sym1>", b"", "variables in run_args do not set"),
        (
            "[tract] Translating proto model to model",
            b"..\x0a\x08location\x12\x01a",
            "onnx.save(onnx.load(MODEL), NEW)",
        ),
        ("[tract] Translating proto model to model", b"", "every attribute written out"),
        ('Translating node #1 "y" Unimplemented(Frobnicate) ToTypedTranslator', b"", "the operation Frobnicate"),
    ],
)
def test_what_to_do_about_a_model_is_named(said: str, content: bytes, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert hint in model_hint(said, path)


def test_a_size_by_a_name_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx", [node("Relu", ["x"], ["y"])], {}, ("batch_size", "sequence", 3))
    assert "(batch_size, sequence)" in model_hint("Undetermined symbol in expression: <Sym1>", path)
