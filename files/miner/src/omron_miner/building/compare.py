"""Compares a circuit with its model: EZKL's witnesses of several inputs against the model's outputs.

The model's outputs come from a reference file (``<model>.reference.json``, made where onnxruntime is installed), else
from onnxruntime on this host. With neither, the circuit is not compared, which is always reported.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from omron_miner.circuits.accuracy import accuracy
from omron_miner.circuits.examples import random_inputs
from omron_miner.circuits.onnx_runtime import load_onnxruntime
from omron_miner.errors import CircuitError, ConfigError, kind_and_message
from omron_miner.untrusted import NOT_OF_ITS_FORM, read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from omron_miner.circuits.inputs import Number

    Rows = list[list[Number]]

SAMPLES = 8
SUFFIX = ".reference.json"
_SCHEMA_VERSION = 1
_LONGEST = 300
_KINDS = {
    "tensor(float)": ("F32", np.float32), "tensor(float16)": ("F16", np.float16), "tensor(double)": ("F64", np.float64),
    "tensor(int64)": ("Int", np.int64), "tensor(int32)": ("Int", np.int32), "tensor(int16)": ("Int", np.int16),
    "tensor(int8)": ("Int", np.int8), "tensor(uint8)": ("Int", np.uint8), "tensor(bool)": ("Bool", np.bool_),
}  # fmt: skip
"""EZKL's and numpy's names for onnxruntime's input types."""


class NotComparedError(Exception):
    """Why the model's outputs are not available."""


@dataclass(frozen=True)
class Sample:
    """A sample: a flat list per input of the model, and all outputs of the model in one list."""

    rows: Rows
    outputs: list[float]
    seed: int | None = None
    """Seed of the rows if they are random."""


@dataclass(frozen=True)
class Reference:
    """A model's outputs for several inputs, and their source."""

    samples: list[Sample]
    origin: str
    inputs: list[tuple[int, str]]
    """For each input of the model its size and EZKL's name of its type; empty if the file has none."""


@dataclass(frozen=True)
class Comparison:
    """How close a circuit's outputs are to its model's; `reason`: why there is no `accuracy`, or why it is low."""

    accuracy: float | None
    """Mean over the samples of exp(−Σ(difference²)), 0 to 1."""
    samples: int = 0
    largest_difference: float | None = None
    reason: str = ""

    @property
    def text(self) -> str:
        """The figure, or a warning that there is none."""
        if self.accuracy is None:
            return f"WARNING: not compared with its model: {self.reason}"
        return f"accuracy {self.accuracy:.4f} over {self.samples} samples, largest difference {_shown(self)}"


# --- the model's answers ----------------------------------------------------------------------------------------------


def find_reference(model: Path, variables: Mapping[str, int], given: Path | None = None) -> Reference:
    """The model's outputs: from the file `given`, from the one next to the model, or from onnxruntime.

    Raises ConfigError for a `given` file that is not of this model, CircuitError when no output of the model is finite,
    NotComparedError when none of these sources is available.
    """
    if given:
        return read_reference(given, model)
    shipped = model.with_suffix(SUFFIX)
    if shipped.is_file():
        return read_reference(shipped, model)
    return ask_model(model, variables)


def ask_model(model: Path, variables: Mapping[str, int], seeds: Iterable[int] = range(SAMPLES)) -> Reference:
    """The model's outputs for random inputs, by onnxruntime; symbolic sizes are as in `variables`, others 1.

    Raises NotComparedError when it is not installed or rejects the model, CircuitError when no output is finite.
    """
    try:
        onnxruntime = load_onnxruntime()
    except ImportError as error:
        raise NotComparedError(
            f"neither {model.with_suffix(SUFFIX).name} nor onnxruntime exists (pip install 'omron-miner[evaluate]')"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # no warnings about how a model was exported
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        inputs = [(one.name, *_KINDS[one.type], _shape(one.shape, variables)) for one in session.get_inputs()]
        sizes, types = [int(np.prod(shape)) for *_, shape in inputs], [kind for _, kind, *_ in inputs]
        samples = []
        for seed in seeds:
            rows = list(random_inputs(sizes, types, seed).values())
            feed: dict[str, Any] = {name: np.array(row, dtype).reshape(shape)
                    for (name, _, dtype, shape), row in zip(inputs, rows, strict=True)}  # fmt: skip
            answers = session.run(None, feed)
            samples.append(Sample(rows, [float(number) for one in answers for number in np.asarray(one).ravel()], seed))
    except KeyError as error:
        raise NotComparedError(f"the model takes {error}, for which no inputs can be generated") from error
    except Exception as error:  # onnxruntime's errors have no common base class
        raise NotComparedError(f"onnxruntime rejects the model: {_brief(error)}") from error
    return _finite(Reference(samples, "onnxruntime", list(zip(sizes, types, strict=True))), model)


def read_reference(path: Path, model: Path) -> Reference:
    """The outputs in a reference file. Raises ConfigError when it is invalid or not of `model`."""
    try:
        content = read_json(path)
        if content["schema_version"] != _SCHEMA_VERSION:
            raise ValueError(f"schema_version {content['schema_version']}, expected {_SCHEMA_VERSION}")
        digest, samples = content["model_sha256"], [_sample(content, one) for one in content["samples"]]
        if not samples:
            raise ValueError("it has no samples")
    except (OSError, *NOT_OF_ITS_FORM) as error:
        raise ConfigError(
            f"{path} is not a model reference: {kind_and_message(error)}", "omron-miner circuit reference writes one"
        ) from error
    if digest != hashlib.sha256(model.read_bytes()).hexdigest():
        hint = "regenerate it with omron-miner circuit reference, or remove it"
        raise ConfigError(f"{path} is the reference of another model, not of {model}", hint)
    return _finite(Reference(samples, path.name, []), model)


def _sample(content: Mapping[str, Any], one: Mapping[str, Any]) -> Sample:
    if "seed" in one:
        inputs = content["inputs"]
        sizes = [int(each["size"]) for each in inputs]
        rows = list(random_inputs(sizes, [str(each["type"]) for each in inputs], int(one["seed"])).values())
    else:
        rows = [[float(number) for number in row] for row in one["inputs"]]
    return Sample(rows, [float(number) for number in one["outputs"]])


def reference_text(model: Path, reference: Reference) -> str:
    """A reference file's content: of random inputs only the seed. 32-bit floats have seven digits."""
    samples = [
        {"inputs": one.rows, "outputs": one.outputs}
        if one.seed is None
        else {
            "seed": one.seed,
            "outputs": [float(f"{number:.7g}") for number in one.outputs],
        }
        for one in reference.samples
    ]
    content = {
        "schema_version": _SCHEMA_VERSION,
        "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "inputs": [{"size": size, "type": kind} for size, kind in reference.inputs],
        "samples": samples,
    }
    return json.dumps(content) + "\n"


def _finite(reference: Reference, model: Path) -> Reference:
    finite = [one for one in reference.samples if np.isfinite(one.outputs).all()]
    if not finite:
        raise CircuitError(
            f"the model {model.name} gives NaN or infinity for all {len(reference.samples)} inputs",
            "look for NaN or infinity among its weights, and for a division by zero",
        )
    return replace(reference, samples=finite)


def _shape(shape: Sequence[object], variables: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else variables.get(str(size), 1) for size in shape)


# --- the circuit's ----------------------------------------------------------------------------------------------------


def compare(
    reference: Reference, answers: Callable[[Rows], list[float]], failed: tuple[type[Exception], ...]
) -> Comparison:
    """Compares a circuit's `answers` with the model's; one that raises `failed` counts as accuracy 0."""
    accuracies, largest, lost = list[float](), 0.0, ""
    for sample in reference.samples:
        try:
            outputs = answers(sample.rows)
        except failed as error:
            lost = lost or getattr(error, "message", str(error))
            accuracies.append(0.0)
            continue
        accuracies.append(accuracy(outputs, sample.outputs))
        if len(outputs) != len(sample.outputs):
            lost = lost or f"it has {len(outputs)} output numbers, the model {len(sample.outputs)}"
        else:
            apart = (abs(one - two) for one, two in zip(outputs, sample.outputs, strict=True))
            largest = max(largest, *apart, 0.0)
    return Comparison(fmean(accuracies), len(accuracies), largest, lost)


def check_accuracy(name: str, found: Comparison, floor: float) -> None:
    """Raises CircuitError when a circuit's accuracy against its model is below `floor`."""
    if found.accuracy is None or found.accuracy >= floor:
        return
    said = f"; {found.reason[:_LONGEST]}" if found.reason else ""
    raise CircuitError(
        f"circuit {name} does not match its model: {found.text}, the floor is {floor:g}{said}",
        "raise input_scale and param_scale, widen lookup_range; if that does not help, EZKL computes one of its "
        "operations differently; a lower floor lets it pass",
    )


def _shown(found: Comparison) -> str:
    return "unknown" if found.largest_difference is None else f"{found.largest_difference:.4g}"


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:_LONGEST]
