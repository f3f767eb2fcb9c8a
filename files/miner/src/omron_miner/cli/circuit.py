"""Circuits: build, list, check, fetch and evaluate them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from omron_miner.circuits.accuracy import FLOOR
from omron_miner.cli.common import (
    MOST,
    Duration,
    Share,
    Space,
    as_json,
    check_file,
    circuit_option,
    constants_of,
    exit_at_sigterm,
    path_argument,
    srs_file_option,
    srs_sha256_option,
    srs_source,
    write_file,
)
from omron_miner.cli.progress import show_progress
from omron_miner.formatting import size

if TYPE_CHECKING:
    from pathlib import Path


@click.group("circuit")
def circuit_group() -> None:
    """Build, fetch, list and check circuits."""


@circuit_group.command("build")
@click.option("--name", required=True, help="Name of the circuit.")
@click.option(
    "--in-use",
    multiple=True,
    help="A name in use; repeatable. The same circuit under any other name is renamed.  [default: all]",
)
@click.option("--onnx", type=path_argument, required=True, help="The model.")
@click.option("--settings", type=path_argument, required=True, help='EZKL run args as {"run_args": {...}}.')
@click.option(
    "--floor",
    type=Share(),
    default=FLOOR,
    show_default=True,
    help="Minimum mean accuracy, compared with the model; 0 = no minimum.",
)
@click.option(
    "--reference",
    type=path_argument,
    help="The model's outputs, from `circuit reference`.  [default: MODEL.reference.json, else from onnxruntime]",
)
@srs_file_option
@srs_sha256_option
@as_json
@click.pass_context
def circuit_build_command(
    context: click.Context,
    name: str,
    in_use: tuple[str, ...],
    onnx: Path,
    settings: Path,
    floor: float,
    reference: Path | None,
    srs_file: Path | None,
    srs_sha256: str | None,
    as_json: bool,
) -> None:
    """Build a circuit from an ONNX model; fails unless its outputs match the model's and a proof of it verifies.

    A second run with the same model and run args changes nothing.
    """
    import json
    from dataclasses import asdict

    from omron_miner.building.build import build_circuit

    source = srs_source(srs_file, srs_sha256)
    exit_at_sigterm()
    show_progress()
    built = build_circuit(name, onnx, settings, constants_of(context), source, floor, reference, in_use or None)
    click.echo(json.dumps(asdict(built)) if as_json else built.circuit_id)


@circuit_group.command("reference")
@click.argument("model", type=path_argument)
@click.option("--out", type=path_argument, help="Output file.  [default: MODEL.reference.json]")
@click.option("--settings", type=path_argument, help="File of run args; its variables set the model's symbolic sizes.")
def circuit_reference_command(model: Path, out: Path | None, settings: Path | None) -> None:
    """Write an ONNX model's outputs for random inputs, for `circuit build` where onnxruntime is not installed."""
    from omron_miner.building.compare import SUFFIX, NotComparedError, ask_model, reference_text
    from omron_miner.circuits.run_args import RunArgs, read_run_args
    from omron_miner.errors import ConfigError

    run_args = read_run_args(settings) if settings else RunArgs()
    out = out or model.with_suffix(SUFFIX)
    check_file(out)
    try:
        reference = ask_model(model, dict(run_args.variables))
    except NotComparedError as error:
        raise ConfigError(f"{model} cannot be run: {error}", "name an .onnx file that onnxruntime supports") from error
    write_file(out, reference_text(model, reference))
    click.echo(f"written: {out}")


@circuit_group.command("list")
@as_json
@click.pass_context
def circuit_list_command(context: click.Context, as_json: bool) -> None:
    """List the circuits on this host, and the refused ones with the reason."""
    import json

    from omron_miner.circuits.circuit import check_circuits_directory
    from omron_miner.circuits.circuit_store import CircuitStore

    constants = constants_of(context)
    check_circuits_directory(constants.circuits.directory)
    store = CircuitStore(constants)
    circuits, refused = store.usable(), store.refused()
    if as_json:
        rows = [
            {
                "circuit_id": one.id,
                "name": one.name,
                "version": one.version,
                "type": one.circuit_type.value,
                "proof_system": one.proof_system.value,
                "logrows": one.logrows,
                "rows": one.rows,
                "pk_bytes": one.pk.stat().st_size,
            }
            for one in circuits
        ]
        click.echo(json.dumps({"circuits": rows, "refused": refused}))
        return
    for one in circuits:
        key = f"{size(one.pk.stat().st_size)} key"
        needs = f"  logrows {one.logrows}" if one.logrows else ""
        click.echo(f"{one.id}  {one.label}{needs}  {one.rows} rows  {key}")
    for folder, reason in refused.items():
        click.echo(f"{folder}  REFUSED  {reason}")
    if not circuits and not refused:
        click.echo("no circuits")


@circuit_group.command("check")
@circuit_option
@srs_file_option
@srs_sha256_option
@as_json
@click.pass_context
def circuit_check_command(
    context: click.Context, id_or_name: str, srs_file: Path | None, srs_sha256: str | None, as_json: bool
) -> None:
    """Check a circuit's files against their checksums, prove an example of it and verify that."""
    import json
    from dataclasses import asdict

    from omron_miner.building.build import check_circuit
    from omron_miner.circuits.circuit_store import CircuitStore

    source = srs_source(srs_file, srs_sha256)
    exit_at_sigterm()
    show_progress()
    constants = constants_of(context)
    circuit = CircuitStore(constants).find(id_or_name, srs_to_come=True)
    checked = check_circuit(circuit, constants, source)
    click.echo(json.dumps(asdict(checked)) if as_json else f"{circuit.label}: ok, proved and verified")


@circuit_group.command("sync")
@click.option("--circuit", "wanted", multiple=True, help="ID or name; repeatable.  [default: all]")
@click.option("--prove", is_flag=True, help="Check keys again that were checked before: hash, prove, verify.")
@srs_file_option
@srs_sha256_option
@as_json
@click.pass_context
def circuit_sync_command(
    context: click.Context,
    wanted: tuple[str, ...],
    prove: bool,
    srs_file: Path | None,
    srs_sha256: str | None,
    as_json: bool,
) -> None:
    """Download missing proving keys from the addresses in metadata.json; exit 1 when a circuit cannot serve.

    A key is installed only after a proof made with it verified. The next run resumes interrupted downloads.
    """
    import json
    from dataclasses import asdict

    from omron_miner.building.sync import sync, to_text

    source = srs_source(srs_file, srs_sha256)
    exit_at_sigterm()
    show_progress()
    report = sync(constants_of(context), wanted, source, prove)
    click.echo(json.dumps(asdict(report)) if as_json else to_text(report))
    context.exit(0 if report.ok else 1)


@circuit_group.command("evaluate")
@click.argument("directory", type=path_argument)
@click.option("--model", type=path_argument, required=True, help="The competition's baseline, an ONNX model.")
@click.option("--inputs", type=path_argument, help="File or folder of inputs (.npy, .json).  [default: noise]")
@click.option("--count", type=click.IntRange(1, MOST), default=100, show_default=True, help="Number of inputs.")
@click.option(
    "--proofs", type=click.IntRange(1, MOST), default=10, show_default=True, help="Number of inputs to prove."
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of the random inputs and of the choice of proofs.",
)
@click.option("--reference", type=path_argument, help="JSON report of the circuit to beat.  [default: none]")
@click.option(
    "--setup-seconds", type=Duration(), default=300.0, show_default=True, help="Time limit of key generation."
)
@click.option(
    "--setup-gib", type=Space(), default=16.0, show_default=True, help="Limit of address space for key generation, GiB."
)
@click.option(
    "--step-seconds",
    type=Duration(),
    default=300.0,
    show_default=True,
    help="Time limit of each witness, proof and verification.",
)
@as_json
@click.pass_context
def circuit_evaluate_command(
    context: click.Context,
    directory: Path,
    model: Path,
    inputs: Path | None,
    count: int,
    proofs: int,
    seed: int,
    reference: Path | None,
    setup_seconds: float,
    setup_gib: float,
    step_seconds: float,
    as_json: bool,
) -> None:
    """Evaluate a competition circuit as validators do; exit 1 when they would reject it.

    DIRECTORY holds model.compiled and settings.json; new keys are generated elsewhere.
    """
    from omron_miner.competition.evaluate import evaluate
    from omron_miner.competition.report import Limits, Plan, to_json, to_text

    if proofs > count:
        raise click.UsageError(f"--proofs {proofs} is more than --count {count}")
    exit_at_sigterm()
    show_progress()
    limits = Limits(setup_seconds, int(setup_gib * (1 << 30)), step_seconds)
    plan = Plan(directory, model, inputs, count, proofs, seed, reference, limits)
    report = evaluate(plan, constants_of(context))
    click.echo(to_json(report) if as_json else to_text(report), nl=as_json)
    context.exit(1 if report.refusal else 0)
