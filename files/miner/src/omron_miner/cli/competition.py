"""The circuit offered to a competition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from omron_miner.cli.common import as_json, constants_of, path_argument
from omron_miner.formatting import size

if TYPE_CHECKING:
    from pathlib import Path


@click.group("competition")
def competition_group() -> None:
    """The circuit offered to a competition: status and checks."""


@competition_group.command("status")
@as_json
@click.pass_context
def competition_status_command(context: click.Context, as_json: bool) -> None:
    """Show what the running miner offers; exit 1 when validators get an error or the status is out of date."""
    import json

    from omron_miner.competition import status as competition_status

    competition = constants_of(context).competition
    if not competition.enabled:
        click.echo(json.dumps({"enabled": False}) if as_json else "this miner takes part in no competition")
        return
    status = competition_status.read_status(competition)
    if as_json:
        click.echo(json.dumps({"enabled": True, **json.loads(competition_status.to_json(status))}))
    else:
        click.echo(competition_status.to_text(status), nl=False)
    context.exit(1 if status.error else 0)


@competition_group.command("check")
@click.option("--directory", type=path_argument, help="The circuit's folder.  [default: competition.directory]")
@as_json
@click.pass_context
def competition_check_command(context: click.Context, directory: Path | None, as_json: bool) -> None:
    """Check a circuit's two files and the storage settings offline; exit 1 when it cannot be offered."""
    import json

    from omron_miner.competition.files import read_circuit
    from omron_miner.competition.storage import host_problem, read_credentials

    competition = constants_of(context).competition
    circuit = read_circuit(directory or competition.directory)
    warnings = list(circuit.warnings)
    if competition.enabled:
        read_credentials(competition.credentials_file)
        warnings += [problem] if (problem := host_problem(competition)) else []
    circuit_bytes, version = circuit.size, circuit.ezkl_version
    if as_json:
        click.echo(
            json.dumps(
                {"sha256": circuit.digest, "bytes": circuit_bytes, "ezkl_version": version, "warnings": warnings}
            )
        )
        return
    click.echo(f"{circuit.digest}  {size(circuit_bytes)}, EZKL {version}")
    for warning in warnings:
        click.echo(f"warning: {warning}")
    click.echo(f"to score it as validators do: omron-miner circuit evaluate {circuit.directory} --model BASELINE.onnx")
