"""Releases of upstream's sn2-miner: downloaded, verified as upstream's, and only then made executable.

Upstream's release workflow signs SHA256SUMS with Sigstore: a certificate that names the workflow and the tag, recorded
in a public log. A release is accepted when the bundle is valid for exactly that workflow and tag, SHA256SUMS is the
signed file, the program has the checksum in SHA256SUMS, and this host can run it. Until all of that holds, the file is
neither executable nor in the place from which it is started.

Layout below a folder of releases, which only root may write:

    <tag>/sn2-miner  SHA256SUMS  SHA256SUMS.sigstore.json
    .<tag>.partial/  an interrupted download; the next call continues it

Not for: starting the program, or choosing which release is current; Ansible's role `sn2_miner` does that.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from dataclasses import asdict, dataclass, replace
from importlib import resources
from typing import TYPE_CHECKING, Any, NoReturn

from omron_miner.building.downloads import DownloadError, Rules, discard, fetch, parts_of
from omron_miner.errors import OmronError
from omron_miner.files import copy_atomically, move_into_place, put_folder
from omron_miner.files import sha256 as file_sha256

if TYPE_CHECKING:
    from pathlib import Path

    from elftools.elf.elffile import ELFFile
    from sigstore.models import TrustedRoot

DEFAULT_URL = "https://github.com/inference-labs-inc/subnet-2/releases/download"
DEFAULT_HOSTS = ("github.com", "release-assets.githubusercontent.com", "objects.githubusercontent.com")
"""The last two are where GitHub redirects to."""
DEFAULT_IDENTITY = "https://github.com/inference-labs-inc/subnet-2/.github/workflows/release.yml@refs/tags/{tag}"
DEFAULT_ISSUER = "https://token.actions.githubusercontent.com"
"""Both from upstream's docs/verifying_releases.md."""
PROGRAM = "sn2-miner"
SUMS = "SHA256SUMS"
BUNDLE = "SHA256SUMS.sigstore.json"
_ASSETS = {"x86_64": "sn2-miner-linux-x86_64", "aarch64": "sn2-miner-linux-aarch64"}
_ELF_MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}
_MOST_BYTES = {SUMS: 1 << 20, BUNDLE: 4 << 20}
_PROGRAM_BYTES = 1 << 30
_RULES = Rules(
    hosts=(),
    plain_http=False,
    total_seconds=1800,
    stall_seconds=60,
    tries=4,
    max_bytes=_PROGRAM_BYTES,
    keep_free_bytes=1 << 30,
)
_TAG = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
_SUM_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](\S+)")
_GLIBC = re.compile(r"GLIBC_(\d+(?:\.\d+)+)")
_PUBLIC_GOOD = "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev"


class ReleaseError(OmronError):
    """A release cannot be downloaded, is not upstream's, or does not run on this host."""


@dataclass(frozen=True)
class Source:
    """Where a release comes from and who must have signed it."""

    url: str = DEFAULT_URL
    """Its files are at ``<url>/<tag>/<name>``."""
    folder: Path | None = None
    """A folder that holds the files; `url` is not used then."""
    hosts: tuple[str, ...] = DEFAULT_HOSTS
    """Names of hosts that may be contacted and redirected to."""
    identity: str = DEFAULT_IDENTITY
    """The workflow that signs, with ``{tag}`` in place of the tag."""
    issuer: str = DEFAULT_ISSUER
    trusted_root: Path | None = None
    """Sigstore's trusted root as JSON; None: the public one that the sigstore package holds."""
    plain_http: bool = False
    """Whether `url` may be http://."""


def source_at(url: str | None, hosts: tuple[str, ...] = (), **others: Any) -> Source:
    """A source at `url`, which may redirect to `hosts`; None: upstream's. `others` are further fields.

    Raises ReleaseError.
    """
    if url is None:
        return Source(hosts=(*DEFAULT_HOSTS, *hosts), **others)
    parts = parts_of(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ReleaseError(f"{url!r} is not a release URL", f"for example {DEFAULT_URL}")
    return Source(url=url, hosts=(parts.hostname, *hosts), plain_http=parts.scheme == "http", **others)


@dataclass(frozen=True)
class Release:
    """A verified release in its place."""

    tag: str
    program: str
    """Path of the program."""
    sha256: str
    fetched: bool
    """Whether this call put it there."""


def install(tag: str, releases: Path, source: Source) -> Release:
    """Installs release `tag`, verified, in the folder `releases`; an installed one is verified again, not downloaded.

    Raises ReleaseError, with `releases` unchanged except for a partial download that the next call continues.
    """
    _check_tag(tag)
    place = releases / tag
    machine = _machine()
    partial = releases / f".{tag}.partial"
    try:
        if place.is_dir():
            verified = verify(place, tag, source)
            _open_to_all(place)
            return Release(tag, str(place / PROGRAM), verified, fetched=False)
        partial.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name in (SUMS, BUNDLE, PROGRAM):
            _get(name, _ASSETS[machine] if name == PROGRAM else name, tag, partial, source)
        try:
            sha256 = verify(partial, tag, source)
        except ReleaseError:
            shutil.rmtree(partial)  # or the next call would reuse the same wrong files
            raise
        made = releases / f".{tag}.verified"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        for name in (SUMS, BUNDLE, PROGRAM):
            (partial / name).rename(made / name)
        _open_to_all(made)
        put_folder(made, place)
        shutil.rmtree(partial)
    except OSError as error:
        raise ReleaseError(f"cannot write {releases}: {error}", "check its owner and the free space") from error
    return Release(tag, str(place / PROGRAM), sha256, fetched=True)


def verify(folder: Path, tag: str, source: Source) -> str:
    """The SHA-256 of the program in `folder`, once verified as upstream's release `tag` and as runnable here.

    Raises ReleaseError.
    """
    _check_tag(tag)
    try:
        sums, bundle = (folder / SUMS).read_bytes(), (folder / BUNDLE).read_bytes()
        sha256 = file_sha256(folder / PROGRAM)
    except OSError as error:
        raise ReleaseError(f"release {tag} is incomplete: {error}", f"remove {folder} and run again") from error
    _check_signature(sums, bundle, tag, source)
    asset = _ASSETS[_machine()]
    if (wanted := _sum_of(asset, sums, tag)) != sha256:
        _refuse(tag, f"{asset} has the SHA-256 {sha256}, {SUMS} says {wanted}", "the file is damaged or not upstream's")
    _check_program(folder / PROGRAM, tag)
    return sha256


def to_json(release: Release) -> str:
    """For the role."""
    return json.dumps(asdict(release))


# --- steps ------------------------------------------------------------------------------------------------------------


def _open_to_all(folder: Path) -> None:
    """Lets the miner's user run the program, regardless of root's umask."""
    for path, mode in ((folder, 0o755), (folder / PROGRAM, 0o755), (folder / SUMS, 0o644), (folder / BUNDLE, 0o644)):
        if path.stat().st_mode & 0o777 != mode:
            path.chmod(mode)


def _refuse(tag: str, what: str, hint: str, cause: BaseException | None = None) -> NoReturn:
    raise ReleaseError(f"release {tag} of sn2-miner is refused: {what}", hint) from cause


def _check_tag(tag: str) -> None:
    if not _TAG.fullmatch(tag):
        raise ReleaseError(f"{tag!r} is not the tag of a release", "for example v14.7.5")


def _machine() -> str:
    if (machine := platform.machine()) not in _ASSETS:
        raise ReleaseError(f"upstream publishes no sn2-miner for {machine}", f"use a host with {' or '.join(_ASSETS)}")
    return machine


def _get(name: str, asset: str, tag: str, folder: Path, source: Source) -> None:
    target = folder / name
    if source.folder is not None:
        given = source.folder / asset
        try:
            copy_atomically(given, target)
        except FileNotFoundError as error:
            _refuse(tag, f"{source.folder} has no {asset}", _missing_hint(name), error)
        except OSError as error:
            if error.filename != str(given):
                raise
            raise ReleaseError(f"cannot read {given}: {error.strerror}", "name a folder that you may read") from error
        return
    if target.exists():
        return  # downloaded by an earlier call
    part = folder / f"{name}.part"
    rules = replace(
        _RULES, hosts=source.hosts, plain_http=source.plain_http, max_bytes=_MOST_BYTES.get(name, _PROGRAM_BYTES)
    )
    try:
        fetch(f"{source.url.rstrip('/')}/{tag}/{asset}", part, rules)
    except DownloadError as error:
        hint = _missing_hint(name) if " 404" in error.message else "check the address, or provide the files in a folder"
        raise ReleaseError(f"release {tag} of sn2-miner: {error.message}", hint) from error
    move_into_place(part, target)
    discard(part)


def _missing_hint(name: str) -> str:
    if name == BUNDLE:
        return "upstream signs releases, not testnet-latest; name a release that is signed"
    return "check the tag against upstream's list of releases"


def _trusted_root(source: Source) -> TrustedRoot:
    from sigstore.models import TrustedRoot

    try:
        if source.trusted_root is not None:
            return TrustedRoot.from_file(str(source.trusted_root))
        # The package would read this file from a cache in the home folder, which other programs can write.
        packaged = resources.files("sigstore._store") / _PUBLIC_GOOD / "trusted_root.json"
        with resources.as_file(packaged) as file:
            return TrustedRoot.from_file(str(file))
    except Exception as error:  # pydantic's, sigstore's or the system's: the file is unusable in any case
        named = source.trusted_root or "the sigstore package's"
        raise ReleaseError(f"Sigstore's trusted root ({named}) is unusable: {error}", "name another file") from error


def _check_signature(sums: bytes, bundle: bytes, tag: str, source: Source) -> None:
    try:
        from sigstore.models import Bundle
        from sigstore.verify import Verifier
        from sigstore.verify.policy import Identity
    except ImportError as error:
        raise ReleaseError(
            "the sigstore package is not installed", "install live.lock: the play does it with omron_engine: sn2"
        ) from error
    root = _trusted_root(source)
    identity = source.identity.replace("{tag}", tag)
    try:
        parsed = Bundle.from_json(bundle)
        policy = Identity(identity=identity, issuer=source.issuer)
        Verifier(trusted_root=root).verify_artifact(sums, parsed, policy)
    except Exception as error:  # a hostile bundle may raise anything; the meaning is the same
        said = " ".join(str(error).split())[:300] or type(error).__name__
        _refuse(
            tag,
            f"{BUNDLE} does not prove that {identity} signed {SUMS}: {said}",
            "do not run it; check the tag; if it is right, report it upstream",
            error,
        )


def _sum_of(asset: str, sums: bytes, tag: str) -> str:
    found = {
        match[1].lower()
        for line in sums.decode(errors="replace").splitlines()
        if (match := _SUM_LINE.fullmatch(line.strip())) and match[2].removeprefix("./") == asset
    }
    if len(found) != 1:
        _refuse(
            tag,
            f"{SUMS} has {len(found) or 'no'} checksum{'s' * (len(found) > 1)} of {asset}",
            "report it upstream",
        )
    return found.pop()


def _check_program(program: Path, tag: str) -> None:
    """Raises ReleaseError unless this host's CPU and C library can run the program."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    machine = _machine()
    try:
        with program.open("rb") as file:
            elf = ELFFile(file)
            if elf["e_machine"] != _ELF_MACHINES[machine]:
                _refuse(tag, f"it is a program for {elf['e_machine']}, this host is {machine}", "use the other asset")
            needed = _glibc_needed(elf)
    except (ELFError, KeyError, TypeError, ValueError) as error:
        _refuse(tag, f"it is not a Linux program: {error}", "report it upstream", error)
    here = _glibc_here()
    if needed and (here is None or here < needed):
        shown = "another C library" if here is None else f"glibc {_dotted(here)}"
        _refuse(
            tag,
            f"it needs glibc {_dotted(needed)}, this host has {shown}",
            "use Debian 12, Ubuntu 22.04 or later, or a newer system",
        )


def _glibc_needed(elf: ELFFile) -> tuple[int, ...] | None:
    section: Any = elf.get_section_by_name(".gnu.version_r")
    if section is None:
        return None  # statically linked
    names = [one.name for _, needs in section.iter_versions() for one in needs]
    versions = [tuple(map(int, match[1].split("."))) for name in names if (match := _GLIBC.fullmatch(name))]
    return max(versions, default=None)


def _glibc_here() -> tuple[int, ...] | None:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return tuple(map(int, version.split("."))) if name == "glibc" else None
    except (ValueError, OSError):
        return None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
