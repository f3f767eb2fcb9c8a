"""Commands that make or verify one proof without a running miner."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from omron_miner.cli.common import (
    as_json,
    check_file,
    circuit_and_inputs,
    circuit_option,
    constants_of,
    exit_at_sigterm,
    input_option,
    path_argument,
    write_file,
)
from omron_miner.errors import OmronError, first_line
from omron_miner.formatting import size

if TYPE_CHECKING:
    from pathlib import Path


@click.command("prove")
@circuit_option
@input_option
@click.option("--out", type=path_argument, help="Output file of the proof.  [default: part of --json]")
@click.option("--public", type=path_argument, help="Output file of the public signals.")
@as_json
@click.pass_context
def prove_command(
    context: click.Context,
    id_or_name: str,
    input_file: Path | None,
    out: Path | None,
    public: Path | None,
    as_json: bool,
) -> None:
    """Prove a circuit once and verify the proof, without the miner; exit 1 on failure.

    When a file cannot be written, the JSON report with the proof is printed.
    """
    import json
    from dataclasses import asdict

    from omron_miner.building.build import prove_once

    exit_at_sigterm()
    constants = constants_of(context)
    circuit, inputs = circuit_and_inputs(constants, id_or_name, input_file)
    for path in (out, public):
        check_file(path)
    click.echo(f"proving {circuit.label} ...", err=True)
    result = prove_once(circuit, inputs, constants)
    report = asdict(result)
    try:
        if out and result.verified:
            write_file(out, result.proof)
        if public and result.verified:
            write_file(public, result.public_signals)
    except OmronError:
        click.echo(json.dumps(report))  # the proof is not lost
        raise
    if out:
        report = {**report, "proof": "", "public_signals": "", "proof_file": str(out) if result.verified else None}
    timings = result.timings
    click.echo(
        json.dumps(report)
        if as_json
        else f"{circuit.label}: {'verified' if result.verified else f'failed: {result.detail}'}\n"
        f"witness {timings.witness_s:.3f} s, prove {timings.prove_s:.3f} s, verify {timings.verify_s:.3f} s, "
        f"total {timings.total_s:.3f} s, proof {size(len(result.proof))}"
    )
    context.exit(0 if result.verified else 1)


@click.command("verify")
@circuit_option
@click.option("--proof", "proof_file", type=path_argument, required=True, help="The proof's JSON file.")
@click.option("--public", type=path_argument, help="JSON file of its public signals; required for CIRCOM.")
@input_option
@as_json
@click.pass_context
def verify_command(
    context: click.Context,
    id_or_name: str,
    proof_file: Path,
    public: Path | None,
    input_file: Path | None,
    as_json: bool,
) -> None:
    """Verify a proof for these inputs as a validator does; exit 1 when it does not verify."""
    import json
    from dataclasses import asdict

    from omron_miner.proving.verifier import verify_elsewhere

    exit_at_sigterm()
    constants = constants_of(context)
    circuit, inputs = circuit_and_inputs(constants, id_or_name, input_file)
    proof = _read(proof_file, "proof", "--out")
    signals = _read(public, "public signals", "--public") if public else ""
    verdict = verify_elsewhere(circuit, inputs, proof, constants.circuits, signals)
    text = f"verified in {verdict.seconds:.3f} s" if verdict.verified else f"does not verify: {verdict.detail}"
    click.echo(json.dumps({"circuit_id": circuit.id, **asdict(verdict)}) if as_json else f"{circuit.label}: {text}")
    context.exit(0 if verdict.verified else 1)


def _read(path: Path, what: str, option: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = f"omron-miner prove {option} writes one"
        raise OmronError(f"cannot read the {what} {path}: {first_line(error)}", hint) from error
