"""Whatever comes from outside, an option of the command line or a file, ends in one message, never in a traceback."""

from __future__ import annotations

import contextlib
import json
import math
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from building import MODELS, constants_below
from circuit_folders import write_circuit
from omron_miner.building.compare import read_reference
from omron_miner.circuits.circuit_store import CircuitStore
from omron_miner.circuits.examples import read_input_file
from omron_miner.circuits.load import load_circuit
from omron_miner.circuits.run_args import read_run_args
from omron_miner.cli import main
from omron_miner.competition.inputs import read_inputs
from omron_miner.competition.report import read_reference as read_standing
from omron_miner.constants import read_constants
from omron_miner.doctor.host_settings import read_wanted
from omron_miner.errors import OmronError
from omron_miner.monitor.alerts import read_receivers
from omron_miner.proving.proof_handlers.ezkl_call import native_run_args
from omron_miner.tune.graph import read_graph
from omron_miner.tune.results import Store
from omron_miner.untrusted import parse_json, read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DEEP = b'{"a":' * 5_000 + b"[" * 5_000
ODD = [
    b"", b"\xff\xfe\x00", b"null", b"[]", b"{}", b"3", b'"text"', b"NaN", b"\x00" * 100, DEEP, DEEP + b"}" * 5_000,
    b"a = " + b"[" * 5_000, b"a = " + b"{b = " * 5_000, b".".join([b"a"] * 5_000) + b" = 1", b"9" * 5_000,
    b"PK\x03\x04" + b"\x00" * 60, b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (9" +
    b"9" * 20 + b",)}", b"\x93NUMPY\x09\x00", b"\x08\x08\x12\x00:\xff\xff\xff\xff\x0f",
]  # fmt: skip
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just(1e400) | st.just(10**40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def only_messages(read: Callable[[], object]) -> None:
    """A reader answers or raises what becomes a message; anything else is the test's failure."""
    with contextlib.suppress(OmronError):
        read()


# --- the command line


def commands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(group, click.Group):
        for name, one in group.commands.items():
            yield from commands(one, (*path, name))
    elif path != ("serve",):
        yield path, group


NUMBERS = [
    (path, parameter.opts[0])
    for path, command in commands(main)
    for parameter in command.params
    if (isinstance(parameter, click.Option) and isinstance(parameter.type, click.types.FloatParamType))
    or parameter.type is click.FLOAT
]  # fmt: skip


def run(arguments: list[str], place: Path) -> Any:
    config = place / "constants.toml"
    if not config.exists():
        config.write_text(f'[circuits]\ndirectory = "{place}/circuits"\n[wallet]\npath = "{place}/wallets"\n')
    return CliRunner().invoke(main, ["--config", str(config), *arguments])


def required(command: click.Command, place: Path) -> list[str]:
    """Arguments that are asked for, each of a file that is not there."""
    made = []
    for one in command.params:
        if isinstance(one, click.Argument):
            made.append(str(place / "absent"))
        elif one.required:
            made += [one.opts[0], str(place / "absent") if isinstance(one.type, click.Path) else "a"]
    return made


def test_there_are_numbers_to_try() -> None:
    assert {option for _, option in NUMBERS} >= {"--low", "--floor", "--margin", "--limit-gib", "--setup-seconds"}


@pytest.mark.parametrize(("path", "option"), NUMBERS, ids=lambda one: one if isinstance(one, str) else "-".join(one))
def test_a_number_that_is_none_or_beyond_all_bounds_is_a_wrong_option(
    path: tuple[str, ...], option: str, tmp_path: Path
) -> None:
    command = dict(commands(main))[path]
    for value in ("nan", "inf", "-inf", "1e39", "1e300", "1e400", "x", ""):
        done = run([*path, *required(command, tmp_path), f"{option}={value}"], tmp_path)
        assert isinstance(done.exception, SystemExit), (value, done.exception)
        assert done.exit_code == 2, (value, done.output)
        assert f"Invalid value for '{option}'" in done.output, (value, done.output)


@FEW
@given(value=st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12), data=st.data())
def test_no_text_in_an_option_causes_a_traceback(value: str, data: st.DataObject, tmp_path: Path) -> None:
    quick = [(path, one) for path, one in commands(main) if path[0] == "circuit" and path[1] not in ("sync",)]
    path, command = data.draw(st.sampled_from(quick))
    options = [one for one in command.params if isinstance(one, click.Option) and not one.is_flag]
    chosen = data.draw(st.sampled_from(options)).opts[0] if options else "--json"
    if chosen == "--out":
        return  # where to write, which it then does
    done = run([*path, *required(command, tmp_path), f"{chosen}={value}"], tmp_path)
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)


# --- files


def readers(place: Path) -> dict[str, Callable[[Path], object]]:
    constants = constants_below(place)
    return {
        "constants.toml": read_constants,
        "host.toml": read_wanted,
        "alerts.toml": read_receivers,
        "run.settings.json": lambda path: native_run_args(read_run_args(path)),
        "input.json": read_input_file,
        "report.json": read_standing,
        "tiny.reference.json": lambda path: read_reference(path, MODELS / "tiny.onnx"),
        "photo.npy": lambda path: read_inputs(path, (1, 4)),
        "photo.json": lambda path: read_inputs(path, (1, 4)),
        "none.json": lambda path: read_inputs(path, (0, 4)),
        "measurements.jsonl": lambda path: (
            Store(path) if path.is_file() else None
        ),  # its OSError is a message of tune's
        "model.onnx": read_graph,
        "circuits": lambda _: CircuitStore(constants).refused(),
    }


@pytest.mark.parametrize("name", [name for name in readers(MODELS) if name != "circuits"])
def test_a_file_of_anything_is_a_message(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    for content in ODD:
        path.write_bytes(content)
        only_messages(lambda: readers(tmp_path)[name](path))
    path.unlink()
    path.mkdir()
    only_messages(lambda: readers(tmp_path)[name](path))


@FEW
@given(value=json_values, key=st.sampled_from(["run_args", "input_data", "standing", "accepted", "samples", "inputs"]))
def test_json_of_another_form_is_a_message(value: object, key: str, tmp_path: Path) -> None:
    for name, read in readers(tmp_path).items():
        if name.endswith("e.json") or name in ("input.json", "report.json"):
            path = tmp_path / name
            path.write_text(json.dumps({"schema_version": 1, "model_sha256": "", "accepted": True, key: value}))
            only_messages(lambda read=read, path=path: read(path))  # type: ignore[misc]


@FEW
@given(value=json_values, key=st.sampled_from(["input_scale", "lookup_range", "logrows", "variables", "epsilon"]))
def test_run_args_of_any_value_are_a_message(value: object, key: str, tmp_path: Path) -> None:
    path = tmp_path / "run.settings.json"
    path.write_text(json.dumps({"run_args": {key: value}}))
    only_messages(lambda: native_run_args(read_run_args(path)))


@pytest.mark.parametrize(
    "run_args",
    [{"lookup_range": [-(10**40), 10**40]}, {"variables": [["batch_size", 10**40]]}, {"variables": [["", 1]]}],
)
def test_run_args_larger_than_ezkl_holds_are_a_message(run_args: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "run.settings.json"
    path.write_text(json.dumps({"run_args": run_args}))
    only_messages(lambda: native_run_args(read_run_args(path)))


@pytest.mark.parametrize("name", ["settings.json", "metadata.json", "checksums.json", "build.json", "input.json"])
def test_a_circuit_with_a_file_of_anything_is_refused_or_loaded(name: str, tmp_path: Path) -> None:
    directory = write_circuit(tmp_path)
    for content in ODD:
        (directory / name).write_bytes(content)
        only_messages(lambda: load_circuit(directory))


@FEW
@given(value=json_values, key=st.sampled_from(["run_args", "num_rows", "model_input_scales", "model_instance_shapes"]))
def test_a_circuit_with_arbitrary_settings_is_refused_or_loaded(value: object, key: str, tmp_path: Path) -> None:
    folder = tmp_path / "circuits"
    directory = next(folder.iterdir()) if folder.exists() else write_circuit(folder)
    whole = json.loads((directory / "settings.json").read_text())
    kept = json.dumps(whole)
    (directory / "settings.json").write_text(json.dumps({**whole, key: value}))
    only_messages(lambda: load_circuit(directory))
    (directory / "settings.json").write_text(kept)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_samples_that_are_no_numbers_are_refused(value: float, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([0, 1, value, 0], np.float32))
    with pytest.raises(OmronError, match="NaN or infinity"):
        read_inputs(tmp_path / "x.npy", (1, 4))


def test_json_beyond_its_size_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    path.write_text("[" + "0," * 100 + "0]")
    assert len(read_json(path)) == 101
    with pytest.raises(ValueError, match="more than 100 bytes"):
        read_json(path, largest_bytes=100)
    with pytest.raises(ValueError, match="too deep"):
        parse_json(DEEP)
