"""The processes of several prover hosts behind one miner."""

from __future__ import annotations

import json

import click

from omron_miner.cli.common import Duration, as_json, constants_of, exit_at_sigterm


@click.group("provers")
def provers_group() -> None:
    """Prover hosts behind one miner (`prover.engine = "dask"`)."""


@provers_group.command("scheduler")
@click.pass_context
def scheduler_command(context: click.Context) -> None:
    """Run the scheduler, on the miner's host, until SIGTERM or Ctrl-C."""
    from omron_miner.provers.dask_server import run_scheduler

    run_scheduler(constants_of(context))


@provers_group.command("worker")
@click.pass_context
def worker_command(context: click.Context) -> None:
    """Run a prover host until SIGTERM or Ctrl-C; proofs in progress are finished first.

    Proves and verifies every circuit once before it joins.
    """
    from omron_miner.provers.dask_server import run_worker

    run_worker(constants_of(context))


_timeout = click.option("--timeout", type=Duration(), default=60.0, show_default=True, help="Maximum wait, in seconds.")


@provers_group.command("circuits")
@_timeout
@as_json
@click.pass_context
def circuits_command(context: click.Context, timeout: float, as_json: bool) -> None:
    """On a prover host: copy the miner's circuits and their SRS to this host."""
    from omron_miner.provers.dask_client import fetch_circuits

    exit_at_sigterm()
    copied = fetch_circuits(constants_of(context), timeout)
    if as_json:
        click.echo(json.dumps({"circuits": copied.circuits, "changed": copied.changed}))
    else:
        click.echo(f"{len(copied.circuits)} circuits, {'copied' if copied.changed else 'up to date'}")


@provers_group.command("check")
@_timeout
@as_json
@click.pass_context
def check_command(context: click.Context, timeout: float, as_json: bool) -> None:
    """On a prover host: wait until it proves for its miner, and show its circuits."""
    from omron_miner.provers.dask_client import own_report

    report = own_report(constants_of(context), timeout)
    if as_json:
        found = {"name": report.name, "release": report.release, "circuits": sorted(report.circuits)}
        click.echo(json.dumps({**found, "refused": dict(report.refused), "workers": report.ready}))
        return
    click.echo(f"{report.name} proves {len(report.circuits)} circuits with {report.ready} workers")
    for circuit_id, why in report.refused.items():
        click.echo(f"circuit {circuit_id[:8]} not proved: {why}")
