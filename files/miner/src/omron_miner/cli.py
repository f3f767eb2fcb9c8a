"""The command line, ``omron-miner``: thin commands over the rooms below.

Imports of other rooms stand inside the commands, so that the monitor starts without loading bittensor or EZKL.
Every command ends with 0 when it did what it was asked, 1 when that failed, 2 when it was asked wrongly.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click

from omron_miner import __version__
from omron_miner.constants import DEFAULT_PATH, Constants, read_constants
from omron_miner.errors import OmronError

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for a machine instead of text.")
path_argument = click.Path(path_type=Path)


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except OmronError as error:
            click.echo(f"error: {error.message}", err=True)
            if error.hint:
                click.echo(f"  try: {error.hint}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="omron-miner")
@click.option(
    "--config", type=path_argument, default=DEFAULT_PATH, show_default=True, help="The constants.toml to use."
)
@click.pass_context
def main(context: click.Context, config: Path) -> None:
    """Omron (Bittensor subnet 2) miner: verified proofs, fast."""
    context.obj = config


def constants_of(context: click.Context) -> Constants:
    """The validated constants of this invocation."""
    return read_constants(context.obj)


@main.command("check-constants")
@click.argument("file", type=path_argument)
def check_constants(file: Path) -> None:
    """Check a constants.toml; exit 2 and name every wrong key if it is not right."""
    read_constants(file)
    click.echo(f"{file}: ok")


# --- monitor and doctor ---------------------------------------------------------------------------------------------


@main.command("monitor")
@as_json
@click.option("--print", "as_text", is_flag=True, help="Print the text as well.")
@click.option("--catch-up", is_flag=True, help="Read all of the event log that is new, however long it takes.")
@click.option(
    "--log-file",
    "log_files",
    type=path_argument,
    multiple=True,
    help="Only print a stock miner's log, or one of ours, beside this miner's last week; may be given again.",
)
@click.pass_context
def monitor_command(
    context: click.Context, as_json: bool, as_text: bool, catch_up: bool, log_files: tuple[Path, ...]
) -> None:
    """Write the summary from what is new in the event log and from the state of this host, and tell of alerts.

    With --log-file nothing is written and nobody told: the logs are put beside this miner in one table.
    """
    from omron_miner import monitor
    from omron_miner.monitor.render import to_json, to_text

    if as_json and as_text:
        raise click.UsageError("--json and --print cannot be asked for at once")
    if log_files:
        import time

        from omron_miner.monitor import stock_log

        if catch_up:
            raise click.UsageError("--log-file and --catch-up cannot be asked for at once")
        columns = stock_log.compare(log_files, constants_of(context), time.time())
        click.echo(stock_log.to_json(columns) if as_json else stock_log.to_text(columns), nl=False)
        return
    summary = monitor.run(constants_of(context), catch_up)
    if as_json:
        click.echo(to_json(summary), nl=False)
    elif as_text:
        click.echo(to_text(summary), nl=False)


@main.command("doctor")
@as_json
@click.pass_context
def doctor_command(context: click.Context, as_json: bool) -> None:
    """Check this host; exit 1 when something must be mended before the miner can work."""
    from omron_miner import doctor

    checks = doctor.examine(context.obj)
    click.echo(doctor.to_json(checks) if as_json else doctor.to_text(checks), nl=False)
    if any(check.status is doctor.Status.FAIL for check in checks):
        context.exit(1)


# --- serve, query and the hotkey ------------------------------------------------------------------------------------


@main.command("serve")
@click.pass_context
def serve_command(context: click.Context) -> None:
    """Run the miner until SIGTERM or Ctrl-C; requests in progress are then finished or answered."""
    import os

    from omron_miner.miner_session import serve

    serve(constants_of(context))
    # All is answered, closed and written. Taking bittensor's interpreter apart needs 0.3 s more, on a busy host over
    # a second, and pm2 kills what is not gone after 3 s.
    sys.stdout.flush()
    os._exit(0)


@main.command("query")
@click.option("--host", help="Where the miner is.  [default: this host]")
@click.option("--port", type=int, help="Its axon's port.  [default: axon.port]")
@click.option("--miner-hotkey", help="Its hotkey's SS58 address.  [default: that of the hotkey that asks]")
@click.option(
    "--wallet-path", type=path_argument, help="Folder of wallets of the hotkey that asks.  [default: wallet.path]"
)
@click.option("--wallet-name", help="Its wallet.  [default: wallet.name]")
@click.option("--hotkey", help="Its name in the wallet.  [default: wallet.hotkey]")
@click.option("--circuit", help="Id or name.  [default: the one with the smallest key]")
@click.option("--circuit-directory", type=path_argument, help="Folder of model_<id> folders to verify with.")
@click.option("--input", "input_file", type=path_argument, help="JSON file of inputs.  [default: an example]")
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds to wait, as validators do.")
@click.option(
    "--transport",
    type=click.Choice(["axon", "http"]),
    default="axon",
    show_default=True,
    help="bittensor's axon, or the signed HTTP of the subnet's testnet; the miner serves both on its port.",
)
@as_json
@click.pass_context
def query_command(
    context: click.Context,
    host: str | None,
    port: int | None,
    miner_hotkey: str | None,
    wallet_path: Path | None,
    wallet_name: str | None,
    hotkey: str | None,
    circuit: str | None,
    circuit_directory: Path | None,
    input_file: Path | None,
    timeout: float,
    transport: Literal["axon", "http"],
    as_json: bool,
) -> None:
    """Ask a miner for a proof as a validator would, and verify it; exit 0 only if it verifies.

    Without options the miner of this host is asked, signed with its own hotkey.
    """
    import json
    from dataclasses import asdict

    from omron_miner import query
    from omron_miner.circuit import example_inputs, read_input_file
    from omron_miner.wallet import open_hotkey

    constants = constants_of(context)
    named = {"path": wallet_path, "name": wallet_name, "hotkey": hotkey}
    wallet = constants.wallet.model_copy(update={name: value for name, value in named.items() if value})
    circuits = constants.circuits.model_copy(update={"directory": circuit_directory} if circuit_directory else {})
    keypair = open_hotkey(wallet).hotkey
    chosen = query.choose_circuit(circuits, circuit)
    inputs = read_input_file(input_file) if input_file else example_inputs(chosen)
    bound = constants.axon.bind_ip
    click.echo(f"asking for a proof of {chosen.label} ...", err=True)
    report = query.query_miner(
        keypair,
        miner_hotkey or keypair.ss58_address,
        host or ("127.0.0.1" if bound in ("0.0.0.0", "::") else bound),  # noqa: S104  any address of this host
        port or constants.axon.port,
        chosen,
        inputs,
        circuits,
        timeout,
        transport,
    )
    click.echo(json.dumps(asdict(report)) if as_json else query.to_text(report))
    if hint := query.hint(report):
        click.echo(f"  try: {hint}", err=True)
    context.exit(0 if report.verified else 1)


@main.group("hotkey")
def hotkey_group() -> None:
    """The miner's hotkey: its address, or a throwaway one for the local network."""


@hotkey_group.command("create")
@as_json
@click.pass_context
def hotkey_create(context: click.Context, as_json: bool) -> None:
    """Make a throwaway hotkey unless there is one; for the local network only."""
    import json

    from omron_miner.wallet import create_throwaway_hotkey

    address, made = create_throwaway_hotkey(constants_of(context))
    click.echo(json.dumps({"ss58": address, "changed": made}) if as_json else address)


@hotkey_group.command("show")
@as_json
@click.pass_context
def hotkey_show(context: click.Context, as_json: bool) -> None:
    """Print the hotkey's SS58 address; the secret is never shown."""
    import json

    from omron_miner.wallet import read_address, refuse_coldkey

    wallet = constants_of(context).wallet
    refuse_coldkey(wallet.directory)
    address = read_address(wallet)
    click.echo(json.dumps({"ss58": address}) if as_json else address)


# --- proving, verifying and circuits --------------------------------------------------------------------------------

circuit_option = click.option("--circuit", "id_or_name", required=True, help="The circuit's id or name.")
input_option = click.option(
    "--input", "input_file", type=path_argument, help="JSON file of inputs; default: an example."
)


@main.command("prove")
@circuit_option
@input_option
@click.option("--out", type=path_argument, help="Where to write the proof; with --json it is printed if not given.")
@click.option("--public", type=path_argument, help="Where to write the public signals.")
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
    """Prove a circuit once and verify the proof, without the miner; exit 1 when that fails."""
    import json
    from dataclasses import asdict

    from omron_miner.circuit import example_inputs, read_input_file
    from omron_miner.circuit_build import prove_once
    from omron_miner.circuit_store import CircuitStore

    constants = constants_of(context)
    circuit = CircuitStore(constants.circuits).find(id_or_name)
    inputs = read_input_file(input_file) if input_file else example_inputs(circuit)
    click.echo(f"proving {circuit.label} ...", err=True)
    result = prove_once(circuit, inputs, constants)
    if out and result.verified:
        _write(out, result.proof)
    if public and result.verified:
        _write(public, result.public_signals)
    report = asdict(result)
    if out:
        report = {**report, "proof": "", "public_signals": "", "proof_file": str(out) if result.verified else None}
    timings = result.timings
    click.echo(
        json.dumps(report)
        if as_json
        else f"{circuit.label}: {'verified' if result.verified else f'failed: {result.detail}'}\n"
        f"witness {timings.witness_s:.3f} s, prove {timings.prove_s:.3f} s, verify {timings.verify_s:.3f} s, "
        f"total {timings.total_s:.3f} s, proof {len(result.proof) / 1e6:.3f} MB"
    )
    context.exit(0 if result.verified else 1)


@main.command("verify")
@circuit_option
@click.option("--proof", "proof_file", type=path_argument, required=True, help="The proof's JSON file.")
@click.option("--public", type=path_argument, help="The JSON file of its public signals; CIRCOM's proofs need it.")
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
    """Verify a proof as the validator that asked with these inputs would; exit 1 when it does not verify."""
    import json
    from dataclasses import asdict

    from omron_miner.circuit import example_inputs, read_input_file
    from omron_miner.circuit_store import CircuitStore
    from omron_miner.verifier import verify_elsewhere

    constants = constants_of(context)
    circuit = CircuitStore(constants.circuits).find(id_or_name)
    inputs = read_input_file(input_file) if input_file else example_inputs(circuit)
    try:
        proof = proof_file.read_text(encoding="utf-8")
        signals = public.read_text(encoding="utf-8") if public else ""
    except (OSError, UnicodeDecodeError) as error:
        raise OmronError(
            f"cannot read the proof {proof_file}: {error}", "omron-miner prove --out writes one"
        ) from error
    verdict = verify_elsewhere(circuit, inputs, proof, constants.circuits, signals)
    text = f"verified in {verdict.seconds:.3f} s" if verdict.verified else f"does not verify: {verdict.detail}"
    click.echo(json.dumps({"circuit_id": circuit.id, **asdict(verdict)}) if as_json else f"{circuit.label}: {text}")
    context.exit(0 if verdict.verified else 1)


@main.group("circuit")
def circuit_group() -> None:
    """Build, fetch, list and check circuits."""


srs_file_option = click.option("--srs-file", type=path_argument, help="SRS to use.  [default: generated or downloaded]")
srs_sha256_option = click.option("--srs-sha256", help="SHA-256 the SRS file must have.")


@circuit_group.command("build")
@click.option("--name", required=True, help="What the circuit will be called.")
@click.option("--onnx", type=path_argument, required=True, help="The model.")
@click.option("--settings", type=path_argument, required=True, help='EZKL run args as {"run_args": {...}}.')
@srs_file_option
@srs_sha256_option
@as_json
@click.pass_context
def circuit_build_command(
    context: click.Context,
    name: str,
    onnx: Path,
    settings: Path,
    srs_file: Path | None,
    srs_sha256: str | None,
    as_json: bool,
) -> None:
    """Build a circuit from an ONNX model; it counts only if a proof of it verifies. A second time changes nothing."""
    import json
    from dataclasses import asdict

    from omron_miner.circuit_build import Source, build_circuit

    _exit_at_sigterm()
    built = build_circuit(name, onnx, settings, constants_of(context), Source(srs_file, srs_sha256), _progress)
    click.echo(json.dumps(asdict(built)) if as_json else built.circuit_id)


@circuit_group.command("list")
@as_json
@click.pass_context
def circuit_list_command(context: click.Context, as_json: bool) -> None:
    """List the circuits here and those that are refused, with the reason."""
    import json

    from omron_miner.circuit_store import CircuitStore

    store = CircuitStore(constants_of(context).circuits)
    circuits, refused = [store.get(one) for one in store.ids()], store.refused()
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
        size = f"{one.pk.stat().st_size / 1e6:.0f} MB key"
        needs = f"  logrows {one.logrows}" if one.logrows else ""
        click.echo(f"{one.id}  {one.label}{needs}  {one.rows} rows  {size}")
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

    from omron_miner.circuit_build import Source, check_circuit
    from omron_miner.circuit_store import CircuitStore

    constants = constants_of(context)
    circuit = CircuitStore(constants.circuits).find(id_or_name)
    checked = check_circuit(circuit, constants, Source(srs_file, srs_sha256), _progress)
    click.echo(json.dumps(asdict(checked)) if as_json else f"{circuit.label}: ok, proved and verified")


@circuit_group.command("sync")
@click.option("--circuit", "wanted", multiple=True, help="Id or name; may be given again.  [default: all]")
@click.option("--prove", is_flag=True, help="Hash and prove with keys on record once more.")
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
    """Fetch missing proving keys from where metadata.json says; exit 1 when a circuit is refused.

    A key is put in place only after a proof made with it verified. What broke off is gone on with by the next run.
    """
    import json
    from dataclasses import asdict

    from omron_miner.circuit_build import Source
    from omron_miner.circuit_sync import sync, to_text

    _exit_at_sigterm()
    report = sync(constants_of(context), wanted, Source(srs_file, srs_sha256), _progress, prove)
    click.echo(json.dumps(asdict(report)) if as_json else to_text(report))
    context.exit(1 if report.refused else 0)


@circuit_group.command("evaluate")
@click.argument("directory", type=path_argument)
@click.option("--model", type=path_argument, required=True, help="The competition's baseline, an ONNX model.")
@click.option("--inputs", type=path_argument, help="File or folder of inputs (.npy, .json).  [default: noise]")
@click.option("--count", type=click.IntRange(1), default=100, show_default=True, help="Inputs to run it on.")
@click.option("--proofs", type=click.IntRange(1), default=10, show_default=True, help="How many of them to prove.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws the inputs and the proofs.")
@click.option("--reference", type=path_argument, help="JSON report of the circuit to beat.  [default: none]")
@click.option(
    "--setup-seconds", type=click.FloatRange(0, min_open=True), default=300.0, show_default=True, help="Time for keys."
)
@click.option(
    "--setup-gib", type=click.FloatRange(1), default=16.0, show_default=True, help="Address space for making keys."
)
@click.option(
    "--step-seconds",
    type=click.FloatRange(0, min_open=True),
    default=300.0,
    show_default=True,
    help="Time for each witness, proof and verification.",
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

    DIRECTORY holds model.compiled and settings.json; the keys are made anew elsewhere.
    """
    from omron_miner.circuit_evaluate import evaluate
    from omron_miner.competition_report import Limits, Plan, to_json, to_text

    if proofs > count:
        raise click.UsageError(f"--proofs {proofs} is more than --count {count}")
    _exit_at_sigterm()
    limits = Limits(setup_seconds, int(setup_gib * (1 << 30)), step_seconds)
    plan = Plan(directory, model, inputs, count, proofs, seed, reference, limits)
    report = evaluate(plan, constants_of(context), _progress)
    click.echo(to_json(report) if as_json else to_text(report), nl=as_json)
    context.exit(1 if report.refusal else 0)


data_option = click.option(
    "--data", type=path_argument, help="File or folder of inputs (.npy, .json).  [default: none of yours]"
)
low_option = click.option(
    "--low", type=float, default=-1.0, show_default=True, help="No honest input holds a smaller number."
)
high_option = click.option(
    "--high", type=float, default=1.0, show_default=True, help="No honest input holds a larger number."
)


def _check_bounds(low: float, high: float) -> None:
    if not low < high:
        raise click.UsageError(f"--low {low:g} must be below --high {high:g}")


@circuit_group.command("rewrite")
@click.argument("model", type=path_argument)
@click.option("--out", type=path_argument, required=True, help="Where to write the rewritten model.")
@data_option
@click.option("--settings", type=path_argument, help='EZKL run args as {"run_args": {...}}.  [default: EZKL\'s own]')
@low_option
@high_option
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws the random inputs.")
@as_json
def circuit_rewrite_command(
    model: Path,
    out: Path,
    data: Path | None,
    settings: Path | None,
    low: float,
    high: float,
    seed: int,
    as_json: bool,
) -> None:
    """Rewrite an ONNX model so that its circuit has fewer cells, and bound what reaches its tables.

    Each rewrite is checked on inputs and dropped when the outputs change beyond rounding or the cells become more.
    Exit 1 when a sample leaves a table.
    """
    from omron_miner.run_args import RunArgs, read_run_args
    from omron_miner.tune.job import Job, rewrite_file
    from omron_miner.tune.report import to_json, to_text

    _check_bounds(low, high)
    run_args = read_run_args(settings) if settings else RunArgs()
    report = rewrite_file(Job(model, out, data, run_args, low, high, seed), _progress)
    click.echo(to_json(report) if as_json else to_text(report), nl=False)
    if not report.ranges or any(one.verdict == "exceeded" for one in report.ranges.places):
        raise click.exceptions.Exit(1)


@circuit_group.command("tune")
@click.argument("model", type=path_argument)
@click.option("--out", type=path_argument, required=True, help="Folder for the circuit, its run args and the report.")
@data_option
@click.option("--settings", type=path_argument, help="Run args whose visibilities and variables are kept.")
@low_option
@high_option
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws inputs and scales to try.")
@click.option("--floor", type=click.FloatRange(0, 1), default=0.99, show_default=True, help="Least mean accuracy.")
@click.option("--best", type=click.IntRange(1), default=4, show_default=True, help="Candidates to measure.")
@click.option("--proofs", type=click.IntRange(2), default=3, show_default=True, help="Inputs to prove with each.")
@click.option(
    "--limit-seconds",
    type=click.FloatRange(0, min_open=True),
    default=300.0,
    show_default=True,
    help="Time for each setup and each proof.",
)
@click.option("--limit-gib", type=click.FloatRange(1), default=16.0, show_default=True, help="Address space for each.")
@click.option("--compact", is_flag=True, help="Try the compact arithmetic too, whose tables hold by samples only.")
@click.option(
    "--margin",
    type=click.FloatRange(1),
    default=2.0,
    show_default=True,
    help="Tables sized by samples hold so many times what these reach.",
)
@click.option("--free-visibilities", is_flag=True, help="Those of inputs and parameters may change.")
@click.option(
    "--goal",
    type=click.Choice(["time", "score"]),
    default="time",
    show_default=True,
    help="What the winner is best in; score: a competition's.",
)
@click.option("--reference", type=path_argument, help="JSON report of `circuit evaluate` of the circuit to beat.")
@click.option(
    "--baselines",
    type=click.Choice(["all", "given"]),
    default="all",
    show_default=True,
    help="What is measured beside the candidates; given: the run args of --settings alone.",
)
@srs_file_option
@srs_sha256_option
@as_json
@click.pass_context
def circuit_tune_command(
    context: click.Context,
    model: Path,
    out: Path,
    data: Path | None,
    settings: Path | None,
    low: float,
    high: float,
    seed: int,
    floor: float,
    best: int,
    proofs: int,
    limit_seconds: float,
    limit_gib: float,
    compact: bool,
    margin: float,
    free_visibilities: bool,
    goal: str,
    reference: Path | None,
    baselines: str,
    srs_file: Path | None,
    srs_sha256: str | None,
    as_json: bool,
) -> None:
    """Find run args at which a model proves fastest, by measuring, and build its circuit; exit 1 when none passes.

    EZKL's own, calibrate_settings' and those given are measured beside the candidates, and win when they are faster.
    What is finished is kept in OUT and not measured again.
    """
    from omron_miner.circuit_build import Source
    from omron_miner.competition_report import read_reference
    from omron_miner.run_args import read_run_args
    from omron_miner.tune.progress import Watched
    from omron_miner.tune.trial import Limits
    from omron_miner.tune.tune import PUBLIC, Job, tune
    from omron_miner.tune.tune_report import to_json, to_text, write_report

    _check_bounds(low, high)
    if reference and goal != "score":
        raise click.UsageError("--reference is for --goal score")
    _exit_at_sigterm()
    base = read_run_args(settings) if settings else PUBLIC
    limits = Limits(limit_seconds, int(limit_gib * (1 << 30)))
    job = Job(
        model, out, data, base, low, high, seed, floor, best, proofs, limits,
        compact=compact,
        margin=margin,
        free_visibilities=free_visibilities,
        goal=goal,
        reference=read_reference(reference) if reference else None,
        baselines=baselines,
        srs=Source(srs_file, srs_sha256),
    )  # fmt: skip
    tuned = tune(job, constants_of(context), Watched() if sys.stderr.isatty() else _progress)
    write_report(tuned)
    click.echo(to_json(tuned) if as_json else to_text(tuned), nl=False)
    context.exit(0 if tuned.winner else 1)


# --- the competition ------------------------------------------------------------------------------------------------


@main.group("competition")
def competition_group() -> None:
    """The circuit offered to a competition: where it stands, and whether it could be offered."""


@competition_group.command("status")
@as_json
@click.pass_context
def competition_status_command(context: click.Context, as_json: bool) -> None:
    """Show what the running miner offers; exit 1 when validators get an error instead, or no miner tells."""
    import json

    from omron_miner import competition_status

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
    """Check a circuit's two files and the storage's settings, asking nobody; exit 1 when it could not be offered."""
    import json

    from omron_miner.competition_circuit import read_circuit
    from omron_miner.competition_storage import host_problem, read_credentials

    competition = constants_of(context).competition
    circuit = read_circuit(directory or competition.directory)
    warnings = list(circuit.warnings)
    if competition.enabled:
        read_credentials(competition.credentials_file)
        warnings += [problem] if (problem := host_problem(competition)) else []
    size, version = circuit.size, circuit.ezkl_version
    if as_json:
        click.echo(json.dumps({"sha256": circuit.digest, "bytes": size, "ezkl_version": version, "warnings": warnings}))
        return
    click.echo(f"{circuit.digest}  {size / 1e6:.3f} MB, EZKL {version}")
    for warning in warnings:
        click.echo(f"warning: {warning}")
    click.echo(
        f"what validators would make of it: omron-miner circuit evaluate {circuit.directory} --model BASELINE.onnx"
    )


def _exit_at_sigterm() -> None:
    """By an exception, so that temporary folders go."""
    import signal

    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


def _progress(text: str) -> None:
    click.echo(text, err=True)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OmronError(f"cannot write {path}: {error}", "check the folder and the free space") from error


if __name__ == "__main__":
    sys.exit(main())
