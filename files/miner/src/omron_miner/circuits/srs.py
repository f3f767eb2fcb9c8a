"""The structured reference string (SRS) used for every EZKL key and proof: obtaining one, and trusting it.

A validator accepts a proof only if both used the SRS of the public ceremony. An SRS generated on this host is for
tests: who generated it can forge proofs, and validators' keys do not match it. So a record next to each SRS
(``kzg<k>.srs.json``) states where the file came from, and a real network accepts only one that was given with its
checksum or downloaded from the ceremony. An entry of the record is bound to its file by size, time and SHA-256: the
origin of a file that is removed or replaced is no longer valid. The entry is written before the file is put in place,
and entries of earlier files are kept for a while, so that a file never has another file's origin.

Earlier releases wrote a marker (``….TEST-ONLY``) or a checksum (``….sha256``); these count while there is no entry.
"""

from __future__ import annotations

import fcntl
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from omron_miner.errors import OmronError, SrsError
from omron_miner.events import LOGGER_NAME
from omron_miner.files import copy_atomically, move_into_place, write_atomically
from omron_miner.files import sha256 as sha256_of

if TYPE_CHECKING:
    from os import stat_result

Make = Callable[[Path, int, bool], None]
"""Writes an SRS of 2^logrows rows to a path: a generated one for tests, or the ceremony's. Raises OmronError."""

_log = logging.getLogger(LOGGER_NAME)
_BYTES_PER_ROW = 128
_BYTES_AROUND = 260
"""Four bytes of logrows before, two points of 128 bytes after the rows (raw-bytes format of EZKL 22.0.1 and 23.0.5)."""
_LARGEST_LOGROWS = 28
_KEPT_ENTRIES = 4
_LOCK, _LOCK_SECONDS = ".lock", 60.0


class _Origin(str, Enum):
    GENERATED = "generated"
    GIVEN = "given"
    """By the operator, with its checksum."""
    UNCHECKED = "unchecked"
    """By the operator, without a checksum; only ``local`` accepts it."""
    CEREMONY = "ceremony"


_TRUSTED = frozenset({_Origin.GIVEN, _Origin.CEREMONY})


@dataclass(frozen=True)
class _Entry:
    """Where a file came from, and which file that is."""

    origin: _Origin
    sha256: str
    bytes: int
    mtime_ns: int

    def is_of(self, seen: stat_result) -> bool:
        return (self.bytes, self.mtime_ns) == (seen.st_size, seen.st_mtime_ns)


_ENTRIES = TypeAdapter(list[_Entry])


def srs_path(directory: Path, logrows: int) -> Path:
    """The path of the SRS for `logrows`."""
    return directory / f"kzg{logrows}.srs"


def check_srs(logrows: int, directory: Path, network: str) -> Path:
    """The path of a usable SRS. Raises SrsError when it is missing, truncated, too small, or untrusted on `network`.

    Reads a few bytes and never hashes, so it may be called for each request.
    """
    path = srs_path(directory, logrows)
    try:
        _check_size(path, logrows)
        if network != "local":
            _check_origin(path, network)
    except FileNotFoundError as error:
        raise SrsError(f"there is no SRS for logrows {logrows} at {path}", "run the play again") from error
    except OSError as error:
        raise SrsError(f"cannot read {path}: {error.strerror}", "check its owner and mode") from error
    return path


def is_test_only(path: Path) -> bool:
    """Whether the SRS at `path` was generated on a host, for tests."""
    try:
        entry = _entry_of(path)
    except OSError:
        return False
    return entry.origin is _Origin.GENERATED if entry else _old_marker(path).exists()


def usable_srs(logrows: int, directory: Path, network: str) -> Path | None:
    """The path of the SRS that is here if it may be used on `network`; None when one has to be made or fetched.

    That is so when there is none, and on a real network when it is a test one. Needs no EZKL. A file whose time changed
    (a restored backup) is hashed, and taken up again if its checksum is on record. Raises SrsError for one that is
    truncated, too small or of unknown origin: it may be the operator's, so it is not replaced.
    """
    path = srs_path(directory, logrows)
    if not path.exists():
        return None
    if network != "local":
        _check_size(path, logrows)
        _take_up(path)
        if is_test_only(path):
            return None
    return check_srs(logrows, directory, network)


def ensure_srs(
    logrows: int,
    directory: Path,
    network: str,
    source_file: Path | None = None,
    sha256: str | None = None,
    make: Make | None = None,
) -> Path:
    """Makes sure that `directory` has an SRS of at least 2^`logrows` rows that may be used on `network`.

    With `source_file` that file is installed if its SHA-256 is `sha256` (which a real network insists on). Otherwise a
    file that is there and may be used is; else `make` generates one for tests on ``local``, and fetches the ceremony's
    on a real network, also in place of a test one. Raises SrsError, also when one must be made and there is no `make`.
    """
    path = srs_path(directory, logrows)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if source_file:
            _install(source_file, sha256, path, logrows, network)
        elif not usable_srs(logrows, directory, network):
            with _locked(directory):
                if not usable_srs(logrows, directory, network):
                    _make(path, logrows, network, make or _no_way)
    except OSError as error:
        raise SrsError(f"cannot write {path}: {error}", "check the free space and the owner") from error
    return check_srs(logrows, directory, network)


# --- getting one ------------------------------------------------------------------------------------------------------


def _install(source: Path, wanted: str | None, path: Path, logrows: int, network: str) -> None:
    if not wanted and network != "local":
        raise SrsError(f"{source} has no checksum to compare with", "set omron_srs_sha256")
    try:
        found = sha256_of(source)
        _check_size(source, logrows, "fetch the file again")
    except OSError as error:
        raise SrsError(f"cannot read the SRS {source}: {error}", "check the file") from error
    if wanted and found != wanted.lower():
        raise SrsError(f"{source} has SHA-256 {found}, expected {wanted}", "fetch the file again")
    with _locked(path.parent):
        here = _entry_of(path) if path.exists() else None
        if here and here.sha256 == found and (here.origin in _TRUSTED or not wanted):
            return
        copy = _partial_path(path)
        copy_atomically(source, copy)
        _put_in_place(copy, path, _Origin.GIVEN if wanted else _Origin.UNCHECKED, found)


def _make(path: Path, logrows: int, network: str, make: Make) -> None:
    made, for_tests = _partial_path(path), network == "local"
    made.unlink(missing_ok=True)  # a killed process left it
    try:
        if for_tests:
            _log.warning("generating %s: a TEST-ONLY SRS; validators reject its proofs", path.name)
        make(made, logrows, for_tests)
        _check_size(made, logrows)
        _put_in_place(made, path, _Origin.GENERATED if for_tests else _Origin.CEREMONY, sha256_of(made))
    except SrsError:
        raise
    except OmronError as error:
        here = f"{path} is not a trusted SRS (it is TEST-ONLY), and " if path.exists() else ""
        hint = "check the free space" if for_tests else "set omron_srs_file and omron_srs_sha256"
        raise SrsError(f"{here}no SRS for logrows {logrows} could be obtained: {error.message}", hint) from error
    finally:
        made.unlink(missing_ok=True)


def _no_way(_path: Path, _logrows: int, _for_tests: bool) -> None:
    raise OmronError("this command can only install an existing SRS file")


def _put_in_place(made: Path, path: Path, origin: _Origin, sha256: str) -> None:
    seen = made.stat()
    _record(path, _Entry(origin, sha256, seen.st_size, seen.st_mtime_ns))
    move_into_place(made, path)
    _forget_old_marks(path)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keeps other processes from writing an SRS here. Raises SrsError when one takes too long, OSError."""
    until = time.monotonic() + _LOCK_SECONDS
    with (directory / _LOCK).open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise SrsError(f"another process writes to {directory}", "wait for it, then try again") from error
                time.sleep(0.1)
        yield


def _partial_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.made")


# --- trusting it ------------------------------------------------------------------------------------------------------


def _check_origin(path: Path, network: str) -> None:
    """Raises SrsError unless the file came from the ceremony or was given with its checksum."""
    entry = _entry_of(path)
    if entry.origin in _TRUSTED if entry else _was_trusted(path):
        return
    untrusted = f"{path} is not a trusted SRS: proofs made with it fail on {network}"
    if is_test_only(path):
        raise SrsError(
            f"{untrusted}. It was generated on this host and is TEST-ONLY",
            "run the play again: it downloads the public one, or uses yours (omron_srs_file and omron_srs_sha256)",
        )
    if not entry and any(one.bytes == path.stat().st_size for one in _entries(path)):
        raise SrsError(
            f"{untrusted}. It was changed after it was checked", "run the play again: it compares the checksum"
        )
    raise SrsError(
        f"{untrusted}. It was never compared with a checksum",
        "remove it and run the play again, which downloads the public one, or uses yours (omron_srs_file and "
        "omron_srs_sha256)",
    )


def _take_up(path: Path) -> None:
    """Identifies a file that no entry is bound to by its hash, and records it. Raises OSError."""
    seen = path.stat()
    entries, old = _entries(path), _old_checksum(path)
    if any(one.is_of(seen) for one in entries):
        return
    if not old and not _old_marker(path).exists() and all(one.bytes != seen.st_size for one in entries):
        return
    digest = sha256_of(path)
    origin = next((one.origin for one in reversed(entries) if one.sha256 == digest), None)
    if origin is None and old == digest:
        origin = _Origin.GIVEN
    elif origin is None and _old_marker(path).exists():
        origin = _Origin.GENERATED
    if origin:
        _record(path, _Entry(origin, digest, seen.st_size, seen.st_mtime_ns))
        _forget_old_marks(path)


def _entry_of(path: Path) -> _Entry | None:
    """The entry that is bound to the file at `path`. Raises OSError without such a file."""
    seen = path.stat()
    return next((one for one in reversed(_entries(path)) if one.is_of(seen)), None)


def _entries(path: Path) -> list[_Entry]:
    """Oldest first; none when the record is missing or broken."""
    try:
        return _ENTRIES.validate_json(_record_file(path).read_bytes())
    except (OSError, ValidationError):
        return []


def _record(path: Path, entry: _Entry) -> None:
    kept = [one for one in _entries(path) if replace(one, origin=entry.origin) != entry][1 - _KEPT_ENTRIES :]
    write_atomically(_record_file(path), json.dumps([asdict(one) for one in (*kept, entry)], indent=1) + "\n")


def _record_file(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _was_trusted(path: Path) -> bool:
    """Whether an earlier release trusted this file: a checksum that is not older, and no marker."""
    try:
        checked = path.with_name(path.name + ".sha256").stat().st_mtime_ns
    except FileNotFoundError:
        return False
    return checked >= path.stat().st_mtime_ns and not _old_marker(path).exists()


def _old_checksum(path: Path) -> str:
    try:
        return path.with_name(path.name + ".sha256").read_text(encoding="ascii", errors="replace").partition(" ")[0]
    except OSError:
        return ""


def _old_marker(path: Path) -> Path:
    return path.with_name(path.name + ".TEST-ONLY")


def _forget_old_marks(path: Path) -> None:
    _old_marker(path).unlink(missing_ok=True)
    path.with_name(path.name + ".sha256").unlink(missing_ok=True)


def _check_size(path: Path, logrows: int, hint: str = "remove it and run the play again") -> None:
    """Compares the file's header and size. Raises SrsError; FileNotFoundError when there is none."""
    size = path.stat().st_size
    with path.open("rb") as file:
        rows = int.from_bytes(file.read(4), "little")
    if not 0 < rows <= _LARGEST_LOGROWS or size != _BYTES_AROUND + (_BYTES_PER_ROW << rows):
        raise SrsError(f"{path} ({size} bytes) is truncated or not an SRS", hint)
    if rows < logrows:
        raise SrsError(f"{path} is for logrows {rows}, but {logrows} is needed", "give a larger one")
