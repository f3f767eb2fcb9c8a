"""The miner, and a client that sends requests as a validator does."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

import click

from omron_miner.cli.common import Duration, as_json, constants_of, inputs_of, path_argument

if TYPE_CHECKING:
    from pathlib import Path


@click.command("serve")
@click.pass_context
def serve_command(context: click.Context) -> None:
    """Run the miner until SIGTERM or Ctrl-C; requests in progress are finished or answered first."""
    import os

    from omron_miner.serving.start import serve

    serve(constants_of(context))
    # All is answered, closed and written. Interpreter shutdown with bittensor loaded takes 0.3 s, on a busy host over
    # a second, and pm2 kills a process that has not exited after 3 s.
    sys.stdout.flush()
    os._exit(0)


@click.command("query")
@click.option("--host", help="The miner's host name or address.  [default: this host]")
@click.option("--port", type=click.IntRange(1, 65535), help="The axon's port.  [default: axon.port]")
@click.option("--miner-hotkey", help="The miner's hotkey, SS58.  [default: the hotkey that signs]")
@click.option(
    "--wallet-path", type=path_argument, help="Wallet directory of the hotkey that signs.  [default: wallet.path]"
)
@click.option("--wallet-name", help="Wallet name.  [default: wallet.name]")
@click.option("--hotkey", help="Hotkey name.  [default: wallet.hotkey]")
@click.option("--circuit", help="ID or name.  [default: the one with the smallest key]")
@click.option(
    "--circuit-directory",
    type=path_argument,
    help="Directory of the model_<id> folders to verify with.  [default: circuits.directory]",
)
@click.option("--input", "input_file", type=path_argument, help="JSON file of inputs.  [default: an example]")
@click.option("--timeout", type=Duration(), default=60.0, show_default=True, help="Seconds to wait, as validators do.")
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
    """Request a proof from a miner as a validator does, and verify it; exit 0 only if it verifies.

    Without options the request goes to the miner of this host, signed with its own hotkey.
    """
    import json
    from dataclasses import asdict

    from omron_miner.addresses import local_target
    from omron_miner.chain.wallet import check_hotkey, open_hotkey
    from omron_miner.serving import query

    if miner_hotkey:
        check_hotkey(miner_hotkey)
    if host:
        query.check_host(host)
    constants = constants_of(context)
    named = {"path": wallet_path, "name": wallet_name, "hotkey": hotkey}
    wallet = constants.wallet.model_copy(update={name: value for name, value in named.items() if value})
    circuits = constants.circuits.model_copy(update={"directory": circuit_directory} if circuit_directory else {})
    constants = constants.model_copy(update={"circuits": circuits})
    keypair = open_hotkey(wallet).hotkey
    chosen = query.choose_circuit(constants, circuit)
    click.echo(f"requesting a proof of {chosen.label} ...", err=True)
    report = query.query_miner(
        keypair,
        miner_hotkey or keypair.ss58_address,
        (host or local_target(constants.axon.bind_ip)).strip("[]"),
        port or constants.axon.port,
        chosen,
        inputs_of(chosen, input_file),
        circuits,
        timeout,
        transport,
    )
    click.echo(json.dumps(asdict(report)) if as_json else query.to_text(report))
    if hint := query.hint(report):
        click.echo(f"  try: {hint}", err=True)
    context.exit(0 if report.verified else 1)
