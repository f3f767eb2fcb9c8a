"""EZKL's figures for a model: the number of cells of its circuit, and the numbers that reach its tables.

Each query runs in a separate process, since EZKL aborts on invalid input. No keys are generated.
"""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omron_miner.circuits.circuit import COMPILED, SETTINGS
from omron_miner.circuits.fit import einsum_cells
from omron_miner.errors import CircuitError
from omron_miner.formatting import size
from omron_miner.proving.isolated import ProcessLostError
from omron_miner.proving.isolated import run as run_isolated
from omron_miner.proving.proof_handlers import ProofError
from omron_miner.proving.proof_handlers.ezkl_call import (
    bare_witness,
    call,
    native_run_args,
    output_floats,
    read_written,
)
from omron_miner.tune.cost import cost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from omron_miner.circuits.run_args import RunArgs
    from omron_miner.tune.graph import Graph
    from omron_miner.tune.running import Feed

_REFUSED = 300


@dataclass(frozen=True)
class Size:
    """A circuit's size as in EZKL's settings.json, at given run args."""

    rows: int
    """Of the advice columns, all blocks together."""
    cells: int
    """Rows × inner columns, plus the separate columns of Freivalds' check of products."""
    lookups: int
    """Different lookup tables."""
    lookup_scales: Mapping[str, int] = field(default_factory=dict)
    """The largest scale (binary places) at which each tabulated function is looked up, by EZKL's name of it."""


@dataclass(frozen=True)
class Reached:
    """The numbers, as EZKL's integers, that reached tables while one input was run."""

    lowest: int
    highest: int
    outputs: list[list[float]]


def circuit_size(graph: Graph, run_args: RunArgs) -> Size:
    """Size of the circuit that EZKL makes of a model. Raises CircuitError when EZKL rejects the model."""
    with tempfile.TemporaryDirectory(prefix="omron-miner-tune-") as place:
        (Path(place) / "model.onnx").write_bytes(graph.to_model().SerializeToString())
        settings = _isolated(place, _settings, place, run_args)
    return Size(
        rows=settings["num_rows"],
        cells=settings["num_rows"] * run_args.num_inner_cols + einsum_cells(settings),
        lookups=len(settings["required_lookups"]),
        lookup_scales=_scales(settings["required_lookups"]),
    )


def reached_numbers(graph: Graph, run_args: RunArgs, feeds: Sequence[Feed]) -> list[Reached | str]:
    """The numbers that reach the tables for each feed in EZKL's own arithmetic, or the reason why it cannot be run.

    Raises CircuitError when EZKL rejects the model.
    """
    rows = [[feed[one.name].ravel().tolist() for one in graph.inputs] for feed in feeds]
    with tempfile.TemporaryDirectory(prefix="omron-miner-tune-") as place:
        (Path(place) / "model.onnx").write_bytes(graph.to_model().SerializeToString())
        answers: list[Reached | str] = _isolated(place, _witnesses, place, run_args, rows)
    return answers


def shapes_of_each(model: bytes, each: Sequence[RunArgs], tell: Callable[[], None] = lambda: None) -> list[Any]:
    """For each set of run args the parts of EZKL's settings.json that `circuits.fit` and `cost` need, or the error.

    `model` is an ONNX file's content. `tell` is called after each answer.
    """
    return _each(_shape, model, each, (), tell)


def outputs_of_each(
    model: bytes, each: Sequence[RunArgs], rows: Sequence[Sequence[Sequence[float]]], tell: Callable[[], None]
) -> list[Any]:
    """For each set of run args a list of EZKL's answers to `rows`, without a proof, or the error.

    An answer is {"lowest", "highest", "outputs"} as in `Reached`, or why that input has none. `rows` has a list per
    input of the model. `tell` is called after each run args.
    """
    return _each(_answers, model, each, (list(rows),), tell)


def too_large(model: Path, run_args: RunArgs, space_bytes: int) -> str:
    """Why a model's key exceeds `space_bytes` at every logrows; empty when one may fit."""
    (shape,) = shapes_of_each(model.read_bytes(), [run_args])
    if isinstance(shape, str):
        return ""  # EZKL says why when it is tried
    each = [run_args.model_copy(update={"logrows": logrows}) for logrows in range(6, run_args.logrows + 6)]
    least = min((one.key_bytes for one in (cost(changed, shape) for changed in each) if one), default=0)
    return f"its key would take about {size(least)}" if least > space_bytes else ""


def _each(
    ask: Callable[..., Any], model: bytes, each: Sequence[RunArgs], more: tuple[object, ...], tell: Callable[[], None]
) -> list[Any]:
    """Answers of `ask` for all run args; where EZKL dies, the reason, and a new process continues with the next."""
    answers: list[Any] = []

    def take(text: str) -> None:
        answers.append(json.loads(text))
        tell()

    with tempfile.TemporaryDirectory(prefix="omron-miner-tune-") as place:
        (Path(place) / "model.onnx").write_bytes(model)
        while len(answers) < len(each):
            left = list(each[len(answers) :])
            try:
                run_isolated(_ask_each, ask, place, left, more, receive=take, ezkl_directory=Path(place))
            except ProcessLostError as error:
                if not error.started:
                    raise
                if len(answers) < len(each):
                    take(json.dumps(error.message[:_REFUSED]))
    return answers


def _isolated(place: str, function: Callable[..., Any], *arguments: object) -> Any:
    try:
        return run_isolated(function, *arguments, ezkl_directory=Path(place))
    except ProcessLostError as error:
        if not error.started:
            raise
        raise CircuitError(f"EZKL rejects the model: {error.message}"[:_REFUSED], error.hint) from error


def _scales(lookups: list[Any]) -> dict[str, int]:
    """Binary places per table: EZKL writes {"Tanh": {"scale": 128.0}}, or {"Div": {"denom": …}} without a scale."""
    scales: dict[str, int] = {}
    for lookup in lookups:
        if isinstance(lookup, dict):
            ((name, values),) = lookup.items()
            factor = values.get("scale") if isinstance(values, dict) else None
            if isinstance(factor, int | float) and factor > 0:
                scales[name] = max(scales.get(name, -64), round(math.log2(factor)))
    return scales


# --- in the separate process ----------------------------------------------------------------------------------------


def _ask_each(
    ask: Callable[..., Any], place: str, each: list[RunArgs], more: tuple[object, ...], send: Callable[[str], None]
) -> None:
    for run_args in each:
        try:
            answer = ask(place, run_args, *more)
        except (CircuitError, ProofError) as error:
            answer = error.message[:_REFUSED]
        send(json.dumps(answer))


def _shape(place: str, run_args: RunArgs) -> dict[str, Any]:
    settings = _settings(place, run_args)
    wanted = ("num_rows", "required_lookups", "required_range_checks", "model_instance_shapes")
    einsum = {"total_einsum_col_size": einsum_cells(settings)}  # the rest lists every product
    return {**{key: settings[key] for key in wanted}, "einsum_params": einsum}


def _answers(place: str, run_args: RunArgs, rows: list[list[list[float]]]) -> list[Any]:
    return [one if isinstance(one, str) else asdict(one) for one in _witnesses(place, run_args, rows)]


def _settings(place: str, run_args: RunArgs) -> dict[str, Any]:
    import ezkl

    path = Path(place) / SETTINGS
    model = str(Path(place) / "model.onnx")
    try:
        call(ezkl.gen_settings, model=model, output=str(path), py_run_args=native_run_args(run_args))
    except ProofError as error:
        raise CircuitError(f"EZKL rejects the model: {error.message}"[:_REFUSED]) from error
    return read_written(path)


def _witnesses(place: str, run_args: RunArgs, rows: list[list[list[float]]]) -> list[Reached | str]:
    import ezkl

    folder = Path(place)
    scales = _settings(place, run_args)["model_output_scales"]
    model, compiled, settings = (str(folder / name) for name in ("model.onnx", COMPILED, SETTINGS))
    call(ezkl.compile_circuit, model=model, compiled_circuit=compiled, settings_path=settings)
    answers: list[Reached | str] = []
    for row in rows:
        try:
            made = bare_witness(folder / COMPILED, row, folder)
        except ProofError as error:
            answers.append(error.message[:_REFUSED])
            continue
        outputs = output_floats(made, scales)
        answers.append(Reached(int(made["min_lookup_inputs"]), int(made["max_lookup_inputs"]), outputs))
    return answers
