"""Commands for one host: the summary, the doctor, and the check of constants.toml."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from omron_miner.cli.common import as_json, constants_of, path_argument
from omron_miner.constants import read_constants

if TYPE_CHECKING:
    from pathlib import Path


@click.command("check-constants")
@click.argument("file", type=path_argument)
def check_constants(file: Path) -> None:
    """Check a constants.toml; exit 2 and name every wrong key if it is invalid."""
    read_constants(file)
    click.echo(f"{file}: ok")


@click.command("monitor")
@as_json
@click.option("--print", "as_text", is_flag=True, help="Print the text as well.")
@click.option("--catch-up", is_flag=True, help="Read all new parts of the event log, however long it takes.")
@click.option(
    "--log-file",
    "log_files",
    type=path_argument,
    multiple=True,
    help="Only print a stock miner's log, or one of this miner, next to this miner's last week; repeatable.",
)
@click.option(
    "--sn2-log",
    type=path_argument,
    help="Log of upstream's sn2-miner, on this host.  [default: from the release's sn2.json]",
)
@click.pass_context
def monitor_command(
    context: click.Context,
    as_json: bool,
    as_text: bool,
    catch_up: bool,
    log_files: tuple[Path, ...],
    sn2_log: Path | None,
) -> None:
    """Write the summary from new events and from the state of this host, and send alerts.

    With --log-file nothing is written and no alert is sent: one table compares the logs with this miner.
    """
    from omron_miner.engine import SN2, read_engine
    from omron_miner.monitor import compare_logs, run, to_json, to_text

    if as_json and as_text:
        raise click.UsageError("--json and --print cannot be combined")
    if log_files:
        if catch_up:
            raise click.UsageError("--log-file and --catch-up cannot be combined")
        click.echo(compare_logs(log_files, constants_of(context), as_json), nl=False)
        return
    engine = read_engine(context.obj)
    if sn2_log is not None:
        engine = replace(engine, name=SN2, log_file=sn2_log)
    summary = run(constants_of(context), catch_up, engine=engine)
    if as_json:
        click.echo(to_json(summary), nl=False)
    elif as_text:
        click.echo(to_text(summary), nl=False)


@click.command("doctor")
@as_json
@click.pass_context
def doctor_command(context: click.Context, as_json: bool) -> None:
    """Check this host; exit 1 when a problem keeps the miner from working."""
    from omron_miner.doctor import Status, examine, to_json, to_text

    if os.geteuid() == 0:
        os.setgroups([])  # root needs none, and checks with the service user's rights must not have root's
    checks = examine(context.obj)
    click.echo(to_json(checks) if as_json else to_text(checks), nl=False)
    if any(check.status is Status.FAIL for check in checks):
        context.exit(1)
