"""Options and helpers shared by several command groups."""

from __future__ import annotations

import math
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omron_miner.constants import Constants, read_constants
from omron_miner.errors import OmronError
from omron_miner.files import check_output, write_output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omron_miner.building.build import Source
    from omron_miner.circuits.circuit import Circuit

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
path_argument = click.Path(path_type=Path)
LARGEST = 3e38
"""About the largest 32-bit float: models are computed in these."""
MOST = 100_000
"""The largest number of inputs that an option may ask for: all are made before the first is used."""
circuit_option = click.option("--circuit", "id_or_name", required=True, help="The circuit's ID or name.")
input_option = click.option(
    "--input", "input_file", type=path_argument, help="JSON file of inputs.  [default: an example]"
)
srs_file_option = click.option("--srs-file", type=path_argument, help="SRS to use.  [default: generated or downloaded]")
srs_sha256_option = click.option("--srs-sha256", help="Expected SHA-256 of --srs-file.")


def given(**options: Any) -> dict[str, Any]:
    """The options that were given; for the others the called function's defaults apply."""
    return {name: value for name, value in options.items() if value}


class FiniteFloat(click.FloatRange):
    """A number that is neither NaN, which every range lets through, nor infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As click does; fails for a value that is not finite."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


class Duration(FiniteFloat):
    """Seconds: above 0, at most a year, so that no timer overflows."""

    def __init__(self) -> None:
        super().__init__(0, 366 * 86_400, min_open=True)


class Space(FiniteFloat):
    """GiB: from 1 to what 64-bit addresses reach in practice, so that no kernel limit overflows."""

    def __init__(self) -> None:
        super().__init__(1, 1 << 20)


class Share(FiniteFloat):
    """A number from 0 to 1."""

    def __init__(self) -> None:
        super().__init__(0, 1)


def srs_source(file: Path | None, sha256: str | None) -> Source:
    """Where the SRS comes from. Raises UsageError for a checksum without its file: EZKL's download has its own."""
    from omron_miner.building.build import Source

    if sha256 and not file:
        raise click.UsageError("--srs-sha256 is for --srs-file: name the file, or leave it out")
    return Source(file, sha256)


def constants_of(context: click.Context) -> Constants:
    """The validated constants of this invocation."""
    return read_constants(context.obj)


def circuit_and_inputs(
    constants: Constants, id_or_name: str, input_file: Path | None
) -> tuple[Circuit, dict[str, Any]]:
    """The named circuit, and the inputs in the file, or example inputs. Raises CircuitError or InputError."""
    from omron_miner.circuits.circuit_store import CircuitStore

    circuit = CircuitStore(constants).find(id_or_name)
    return circuit, inputs_of(circuit, input_file)


def inputs_of(circuit: Circuit, input_file: Path | None) -> dict[str, Any]:
    """The inputs in the file, or example inputs. Raises InputError."""
    from omron_miner.circuits.examples import example_inputs, read_input_file

    return dict(read_input_file(input_file) if input_file else example_inputs(circuit))


def exit_at_sigterm() -> None:
    """Makes SIGTERM, SIGHUP and Ctrl-C stop the command with an exception, so that temporary folders are removed.

    For every command that starts a process or makes a folder. Ignored signals, as under nohup, stay ignored. A second
    signal does not stop the clean-up.
    """

    def leave(number: int, _frame: object) -> None:
        for one in ends:
            signal.signal(one, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    ends = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    for number in ends:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, leave)


def check_file(path: Path | None) -> None:
    """Raises OmronError when an operator's output file could not be written: before the work that it is for."""
    if path is not None:
        with _writing(path):
            check_output(path)


def write_file(path: Path, text: str) -> None:
    """Writes an operator's output file. Raises OmronError."""
    with _writing(path):
        write_output(path, text)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OmronError(f"cannot write {path}: {error}", "check the folder and the free space") from error
