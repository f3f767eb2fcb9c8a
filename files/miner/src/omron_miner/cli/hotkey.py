"""The hotkey: its address, or a throwaway one for the local network."""

from __future__ import annotations

import click

from omron_miner.cli.common import as_json, constants_of


@click.group("hotkey")
def hotkey_group() -> None:
    """The miner's hotkey: its address, or a throwaway one for the local network."""


@hotkey_group.command("create")
@as_json
@click.pass_context
def hotkey_create(context: click.Context, as_json: bool) -> None:
    """Make a throwaway hotkey unless there is one; for the local network only."""
    import json

    from omron_miner.chain.wallet import create_throwaway_hotkey

    address, made = create_throwaway_hotkey(constants_of(context))
    click.echo(json.dumps({"ss58": address, "changed": made}) if as_json else address)


@hotkey_group.command("show")
@as_json
@click.pass_context
def hotkey_show(context: click.Context, as_json: bool) -> None:
    """Print the hotkey's SS58 address; the secret is never shown."""
    import json

    from omron_miner.chain.wallet import read_address, refuse_coldkey

    wallet = constants_of(context).wallet
    refuse_coldkey(wallet.path)
    address = read_address(wallet)
    click.echo(json.dumps({"ss58": address}) if as_json else address)
