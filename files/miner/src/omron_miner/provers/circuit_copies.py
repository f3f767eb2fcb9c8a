"""The miner's circuits on its prover hosts: the same files, with the SRS that they need.

The scheduler, on the miner's host, offers them (`OfferedFiles`); a prover host copies missing ones (`copy_circuits`).
Does not use Dask: the caller transfers the files.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omron_miner.circuits.circuit import bare_name, circuit_folders, is_circuit_folder
from omron_miner.circuits.circuit_store import CircuitStore
from omron_miner.circuits.srs import ensure_srs, srs_path, usable_srs
from omron_miner.errors import OmronError, SrsError
from omron_miner.files import put_folder, sha256

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from omron_miner.constants import Constants

SRS = "srs"
"""Represents the SRS folder among those of the circuits."""
CHUNK_BYTES = 32 * 2**20
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SRS_FILE = re.compile(r"kzg([1-9][0-9]?)\.srs")
_COPIED = ".copied-"

Listing = dict[str, dict[str, tuple[int, str]]]
"""Folder to name to size (bytes) and SHA-256 of each file."""


class OfferedFiles:
    """The files of the miner's usable circuits. One thread at a time."""

    def __init__(self, constants: Constants) -> None:
        """Reads nothing yet."""
        self._constants = constants
        self._digests: dict[tuple[str, int, int, int], str] = {}
        self._paths: dict[tuple[str, str], Path] = {}

    def listing(self) -> Listing:
        """All files. Hashes those that changed since the last call. Raises OSError."""
        settings = self._constants.circuits
        paths: dict[tuple[str, str], Path] = {}
        for circuit in CircuitStore(self._constants).usable():
            for path in circuit.directory.iterdir():
                if path.is_file() and not path.is_symlink() and _FILE.fullmatch(path.name):
                    paths[circuit.directory.name, path.name] = path
            if circuit.logrows is not None:
                srs = srs_path(settings.srs_directory, circuit.logrows)
                paths[SRS, srs.name] = srs
        found: Listing = {}
        for (folder, name), path in paths.items():
            found.setdefault(folder, {})[name] = (path.stat().st_size, self._digest(path))
        self._paths = paths
        return found

    def read(self, folder: str, name: str, offset: int) -> bytes:
        """At most CHUNK_BYTES of a file of the last listing. Raises OSError, KeyError for any other file."""
        with self._paths[folder, name].open("rb") as file:
            file.seek(offset)
            return file.read(CHUNK_BYTES)

    def _digest(self, path: Path) -> str:
        seen = path.stat()
        key = (str(path), seen.st_ino, seen.st_size, seen.st_mtime_ns)
        if key not in self._digests:
            self._digests = {known: digest for known, digest in self._digests.items() if known[0] != str(path)}
            self._digests[key] = sha256(path)
        return self._digests[key]


@dataclass(frozen=True)
class Copied:
    """The result of `copy_circuits`."""

    circuits: list[str]
    """The ids of the circuits that are here now."""
    changed: bool


Read = Any
"""Reads a part of a file of the miner's: folder, name and offset in, bytes out."""


async def copy_circuits(
    constants: Constants, listing: Mapping[str, Mapping[str, Any]], read: Callable[[str, str, int], Awaitable[bytes]]
) -> Copied:
    """Makes this host's circuits match `listing`: each is put in place atomically, others are removed.

    Raises OmronError when a file does not arrive as listed or the miner offers none, OSError.
    """
    offered = _checked(listing)
    directory = constants.circuits.directory
    directory.mkdir(parents=True, exist_ok=True)
    for left in directory.glob(f"{_COPIED}*"):  # of an interrupted run
        shutil.rmtree(left)
    changed = False
    for name, size_and_digest in offered.pop(SRS, {}).items():
        changed |= await _copy_srs(constants, name, size_and_digest, read)
    for folder, files in offered.items():
        changed |= await _copy_folder(directory, folder, files, read)
    for here in circuit_folders(directory):
        if here.name not in offered:
            shutil.rmtree(here)
            changed = True
    return Copied(sorted(map(bare_name, offered)), changed)


def _checked(listing: Mapping[str, Mapping[str, Any]]) -> Listing:
    """`listing` as received, without names that would escape the folders. Raises OmronError."""
    found: Listing = {}
    for folder, files in listing.items():
        for name, (size, digest) in files.items():
            right = _SRS_FILE if folder == SRS else _FILE
            if not (folder == SRS or is_circuit_folder(folder)) or not right.fullmatch(name):
                raise OmronError(f"the miner offers a file with an invalid name: {folder!r}, {name!r}")
            found.setdefault(folder, {})[name] = (int(size), str(digest))
    if not found.keys() - {SRS}:
        raise OmronError("the miner has no usable circuit", "on its host: omron-miner circuit list")
    return found


async def _copy_folder(directory: Path, folder: str, files: Mapping[str, tuple[int, str]], read: Read) -> bool:
    here = directory / folder
    same = {name for name, (size, digest) in files.items() if _is(here / name, size, digest)}
    if same == files.keys() and {path.name for path in here.iterdir()} == same:
        return False
    made = directory / f"{_COPIED}{folder}"
    made.mkdir(mode=0o750)
    for name, (size, digest) in files.items():
        if name in same:
            (made / name).hardlink_to(here / name)
        else:
            await _fetch(made / name, folder, name, size, digest, read)
    put_folder(made, here)
    if made.exists():  # the previous copy
        shutil.rmtree(made)
    return True


async def _copy_srs(constants: Constants, name: str, size_and_digest: tuple[int, str], read: Read) -> bool:
    settings, network, (size, digest) = constants.circuits, constants.network.name, size_and_digest
    matched = _SRS_FILE.fullmatch(name)
    assert matched  # noqa: S101  checked by `_checked`
    logrows, place = int(matched.group(1)), settings.srs_directory / name
    settings.srs_directory.mkdir(parents=True, exist_ok=True)
    try:
        if _is(place, size, digest) and usable_srs(logrows, settings.srs_directory, network):
            return False
    except SrsError:
        pass  # it is replaced
    made = settings.srs_directory / f"{_COPIED}{name}"
    try:
        await _fetch(made, SRS, name, size, digest, read)
        ensure_srs(logrows, settings.srs_directory, network, made, digest)
    finally:
        made.unlink(missing_ok=True)
    return True


def _is(path: Path, size: int, digest: str) -> bool:
    return path.is_file() and path.stat().st_size == size and sha256(path) == digest


async def _fetch(path: Path, folder: str, name: str, size: int, digest: str, read: Read) -> None:
    with path.open("wb") as file:
        path.chmod(0o640)
        while file.tell() < size and (part := await read(folder, name, file.tell())):
            file.write(part)
    if not _is(path, size, digest):
        message = f"{folder}/{name} did not arrive as the miner listed it: it changed there, or the connection broke"
        raise OmronError(message, "run the play again")
