"""The entry point: the options of all commands, and errors as a message and an exit code."""

from __future__ import annotations

import io
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

import click

from omron_miner import __version__
from omron_miner.cli.circuit import circuit_group
from omron_miner.cli.common import path_argument
from omron_miner.cli.competition import competition_group
from omron_miner.cli.host import check_constants, doctor_command, monitor_command
from omron_miner.cli.hotkey import hotkey_group
from omron_miner.cli.live import live_group
from omron_miner.cli.prove import prove_command, verify_command
from omron_miner.cli.provers import provers_group
from omron_miner.cli.serve import query_command, serve_command
from omron_miner.cli.tune import circuit_rewrite_command, circuit_tune_command
from omron_miner.constants import DEFAULT_PATH
from omron_miner.errors import OmronError

if TYPE_CHECKING:
    from pathlib import Path


class _Group(click.Group):
    def main(self, *arguments: Any, **named: Any) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold any bytes
        try:
            return super().main(*arguments, **named)
        except OSError as error:
            if not _was_raised_by_echo(error):
                raise
            _discard_output()
            click.echo(f"error: cannot write the output: {error.strerror or error}", err=True)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except OmronError as error:
            click.echo(f"error: {error.message}", err=True)
            if error.hint:
                click.echo(f"  try: {error.hint}", err=True)
            ctx.exit(error.exit_code)


def _was_raised_by_echo(error: OSError) -> bool:
    """Whether stdout refused what a command printed, because its disk is full for example; else it is a bug."""
    *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
    return frame.f_code is click.echo.__code__


def _discard_output() -> None:
    """Sends what is left in stdout's buffer nowhere: the interpreter would fail to write it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="omron-miner")
@click.option(
    "--config", type=path_argument, default=DEFAULT_PATH, show_default=True, help="The constants.toml to use."
)
@click.pass_context
def main(context: click.Context, config: Path) -> None:
    """Omron (Bittensor subnet 2) miner: verified proofs, fast."""
    context.obj = config


for command in (
    check_constants, circuit_group, competition_group, doctor_command, hotkey_group, live_group, monitor_command,
    prove_command, provers_group, query_command, serve_command, verify_command,
):  # fmt: skip
    main.add_command(command)
circuit_group.add_command(circuit_rewrite_command)
circuit_group.add_command(circuit_tune_command)
