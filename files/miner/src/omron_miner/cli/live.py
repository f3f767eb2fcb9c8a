"""Tools for upstream's sn2-miner: probe it, fill its circuit cache, read its log, install its releases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from omron_miner.cli.common import FiniteFloat, as_json, exit_at_sigterm, given, path_argument
from omron_miner.cli.progress import show_progress
from omron_miner.formatting import GIB

if TYPE_CHECKING:
    from pathlib import Path


@click.group("live")
def live_group() -> None:
    """Tools for upstream's sn2-miner, which serves the live network."""


@live_group.command("probe")
@click.argument("target", metavar="HOST:PORT")
@click.option("--hotkey", help="SS58 address that the miner must have.  [default: any]")
@click.option("--wallet-path", type=path_argument, help="Wallet directory of the signing hotkey.")
@click.option("--wallet-name", help="Wallet name.")
@click.option("--wallet-hotkey", help="Hotkey name.  [default: a new throwaway key]")
@click.option("--timeout", type=FiniteFloat(1, 120), default=10.0, show_default=True, help="Time limit, in seconds.")
@as_json
@click.pass_context
def probe_command(
    context: click.Context,
    target: str,
    hotkey: str | None,
    wallet_path: Path | None,
    wallet_name: str | None,
    wallet_hotkey: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Probe a sn2-miner over QUIC as a validator does; exit 0 if it is alive, 1 if not, with the step that failed.

    No permit is needed. Never use a running validator's hotkey: the miner then closes that validator's connection.
    """
    from omron_miner.chain.wallet import check_hotkey, open_hotkey
    from omron_miner.constants import Wallet
    from omron_miner.live import probe

    host, port = probe.parse_target(target)
    if hotkey:
        check_hotkey(hotkey)
    wallet = given(path=wallet_path, name=wallet_name, hotkey=wallet_hotkey)
    keypair = open_hotkey(Wallet().model_copy(update=wallet)).hotkey if wallet else probe.throwaway_keypair()
    report = probe.probe(host, port, keypair, hotkey, timeout)
    click.echo(probe.to_json(report) if as_json else probe.to_text(report))
    context.exit(0 if report.alive else 1)


@live_group.group("circuits")
def circuits_group() -> None:
    """Fill and check the circuit cache of sn2-miner."""


_cache_option = click.option(
    "--cache",
    type=path_argument,
    help="Folder of model_<id> folders.  [default: ~/.bittensor/subnet-2/circuit_cache, which sn2-miner uses]",
)


@circuits_group.command("sync")
@click.option("--url", help="The repository's address.  [default: the subnet's]")
@_cache_option
@click.option("--parallel", type=click.IntRange(1, 32), default=4, show_default=True, help="Parallel downloads.")
@click.option(
    "--keep-free-gib", type=FiniteFloat(0, 1e9), default=10.0, show_default=True, help="Disk space to keep free, GiB."
)
@click.option("--allow-host", "hosts", multiple=True, help="Host that the repository may redirect to; repeatable.")
@click.option("--circuit", "additional", multiple=True, help="ID of a circuit that is not listed; repeatable.")
@click.option("--ignore", "ignored", multiple=True, help="ID of a circuit to skip; repeatable.")
@as_json
@click.pass_context
def circuits_sync_command(
    context: click.Context,
    url: str | None,
    cache: Path | None,
    parallel: int,
    keep_free_gib: float,
    hosts: tuple[str, ...],
    additional: tuple[str, ...],
    ignored: tuple[str, ...],
    as_json: bool,
) -> None:
    """Download missing files of the listed circuits; exit 1 when the cache is still incomplete.

    The next run resumes interrupted downloads. The miner may run meanwhile.
    """
    from omron_miner.live import circuits

    exit_at_sigterm()
    show_progress()
    settings = circuits.Settings(
        parallel=parallel,
        keep_free_bytes=int(keep_free_gib * GIB),
        hosts=hosts,
        additional=additional,
        ignored=ignored,
        **given(url=url, cache=cache),
    )
    report = circuits.sync(settings)
    click.echo(circuits.to_json(report) if as_json else circuits.to_text(report))
    context.exit(0 if report.ok else 1)


@circuits_group.command("check")
@_cache_option
@click.option("--hashes", is_flag=True, help="Also verify the SHA-256 of every file for which it is known.")
@as_json
@click.pass_context
def circuits_check_command(context: click.Context, cache: Path | None, hashes: bool, as_json: bool) -> None:
    """List slices that cannot be proved, by component; exit 1 when a problem must be fixed here or no circuit is there.

    Components that the repository published incomplete are listed, but do not cause exit 1.
    """
    from omron_miner.live import cache_check
    from omron_miner.live.cache import DEFAULT

    report = cache_check.check(cache or DEFAULT, hashes)
    click.echo(cache_check.to_json(report) if as_json else cache_check.to_text(report))
    context.exit(0 if report.ok else 1)


@live_group.command("log")
@click.argument("files", type=path_argument, nargs=-1, required=True)
@as_json
def log_command(files: tuple[Path, ...], as_json: bool) -> None:
    """Summarize sn2-miner logs: requests, proofs, failures by message, handshakes. Oldest file first."""
    from omron_miner.live import miner_log

    log = miner_log.read_files(files)
    click.echo(miner_log.to_json(log) if as_json else miner_log.to_text(log))


@live_group.group("release")
def release_group() -> None:
    """Install and verify releases of sn2-miner."""


def _trust_options(command: Any) -> Any:
    for option in (
        click.option("--trusted-root", type=path_argument, help="Sigstore's trusted root.  [default: the public one]"),
        click.option("--issuer", help="OIDC issuer of the signing certificate.  [default: GitHub's]"),
        click.option("--identity", help="Workflow that must have signed it, {tag} for the tag.  [default: upstream's]"),
    ):  # fmt: skip
        command = option(command)
    return command


@release_group.command("install")
@click.argument("tag")
@click.option("--into", type=path_argument, required=True, help="Folder of releases.")
@click.option("--url", help="Address of the releases: files are at URL/TAG/NAME.  [default: upstream's on GitHub]")
@click.option("--from", "folder", type=path_argument, help="Folder with the files, instead of an address.")
@click.option("--allow-host", "hosts", multiple=True, help="Host that the address may redirect to; repeatable.")
@_trust_options
@as_json
def release_install_command(
    tag: str,
    into: Path,
    url: str | None,
    folder: Path | None,
    hosts: tuple[str, ...],
    identity: str | None,
    issuer: str | None,
    trusted_root: Path | None,
    as_json: bool,
) -> None:
    """Download release TAG of sn2-miner and install it once it is verified.

    Checks the Sigstore signature of SHA256SUMS, the program's checksum, its CPU and the C library it needs. An
    installed release is verified again and not downloaded. Exit 1, with nothing executable, when a check fails.
    """
    from omron_miner.live import release

    exit_at_sigterm()
    show_progress()
    trust = given(identity=identity, issuer=issuer, trusted_root=trusted_root)
    source = release.source_at(url, hosts, folder=folder, **trust)
    found = release.install(tag, into, source)
    done = "installed" if found.fetched else "is installed; verified again"
    click.echo(release.to_json(found) if as_json else f"{found.program}: release {tag} {done}, SHA-256 {found.sha256}")


@release_group.command("verify")
@click.argument("tag")
@click.argument("folder", type=path_argument)
@_trust_options
def release_verify_command(
    tag: str, folder: Path, identity: str | None, issuer: str | None, trusted_root: Path | None
) -> None:
    """Verify the release TAG in FOLDER: sn2-miner, SHA256SUMS, SHA256SUMS.sigstore.json. Exit 1 if it is refused."""
    from omron_miner.live import release

    source = release.source_at(None, **given(identity=identity, issuer=issuer, trusted_root=trusted_root))
    sha256 = release.verify(folder, tag, source)
    click.echo(f"{folder / release.PROGRAM}: release {tag}, verified, SHA-256 {sha256}")
