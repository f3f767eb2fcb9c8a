"""The structured reference string (SRS) that every EZKL key and proof is made with: getting one, and trusting it.

A proof is worth nothing to a validator unless both used the SRS of the public ceremony. An SRS we generate ourselves
is for tests: whoever makes it can forge proofs, and validators' keys do not fit it. So a generated file lies beside a
marker (``kzg<k>.srs.TEST-ONLY``), a trusted one beside its checksum (``kzg<k>.srs.sha256``), and a real network takes
only the latter.
"""

from __future__ import annotations

import logging
import os
import shutil
from typing import TYPE_CHECKING

from omron_miner.circuit import sha256 as sha256_of
from omron_miner.errors import SrsError
from omron_miner.events import LOGGER_NAME

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(LOGGER_NAME)
_BYTES_PER_ROW = 128
_BYTES_AROUND = 260
"""Four bytes of logrows before, two points of 128 bytes after the rows (raw-bytes format of EZKL 22.0.1 and 23.0.5)."""
_LARGEST_LOGROWS = 28


def srs_path(directory: Path, logrows: int) -> Path:
    """Where the SRS for `logrows` lies."""
    return directory / f"kzg{logrows}.srs"


def test_marker(path: Path) -> Path:
    """The file whose presence says that the SRS at `path` is a generated one."""
    return path.with_name(path.name + ".TEST-ONLY")


def checksum_file(path: Path) -> Path:
    """The file that holds the SHA-256 of a trusted SRS at `path`."""
    return path.with_name(path.name + ".sha256")


def check_srs(logrows: int, directory: Path, network: str) -> Path:
    """The path of a usable SRS. Raises SrsError when it is missing, truncated, too small, or untrusted on `network`."""
    path = srs_path(directory, logrows)
    try:
        _check_size(path, logrows)
    except FileNotFoundError as error:
        raise SrsError(f"there is no SRS for logrows {logrows} at {path}", "run the play again") from error
    if network != "local" and (test_marker(path).exists() or not checksum_file(path).exists()):
        raise SrsError(
            f"{path} is not a trusted SRS; proofs made with it fail on {network}",
            "remove it and run the play again, with omron_srs_file and omron_srs_sha256 or with access to the internet",
        )
    return path


def ensure_srs(
    logrows: int, directory: Path, network: str, source_file: Path | None = None, sha256: str | None = None
) -> Path:
    """Makes sure that `directory` has an SRS of at least 2^`logrows` rows that may be used on `network`.

    With `source_file` that file is installed if its SHA-256 is `sha256` (which a real network insists on). Otherwise a
    file that is there is used; else ``local`` generates one, marked as test-only, and a real network has EZKL download
    the ceremony's, which EZKL checks against the hashes it was built with. This may load EZKL: call it in a process
    that may be lost. Raises SrsError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = srs_path(directory, logrows)
    if source_file:
        _install(source_file, sha256, path, logrows, network)
    elif not path.exists():
        _make(path, logrows, network)
    return check_srs(logrows, directory, network)


def _install(source: Path, wanted: str | None, path: Path, logrows: int, network: str) -> None:
    if not wanted and network != "local":
        raise SrsError(f"{source} has no checksum to compare with", "set omron_srs_sha256")
    try:
        found = sha256_of(source)
        _check_size(source, logrows)
        if wanted and found != wanted.lower():
            raise SrsError(f"{source} has SHA-256 {found}, wanted is {wanted}", "fetch the file again")
        if checksum_file(path).exists() and path.exists() and sha256_of(path) == found:
            return
        temporary = _beside(path)
        try:
            shutil.copyfile(source, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise SrsError(f"cannot install the SRS {source}: {error}", "check the file and the free space") from error
    test_marker(path).unlink(missing_ok=True)
    checksum_file(path).write_text(f"{found}  {path.name}\n", encoding="ascii")


def _make(path: Path, logrows: int, network: str) -> None:
    import ezkl

    from omron_miner.proof_handlers.base import ProofError
    from omron_miner.proof_handlers.ezkl_handler import call

    temporary = _beside(path)
    try:
        if network == "local":
            _log.warning("generating %s: a TEST-ONLY SRS, its proofs convince nobody", path.name)
            # The marker first: a crash between the two must not leave a test SRS that looks like another.
            test_marker(path).write_text("Generated on this host for the local network. Worthless elsewhere.\n")
            call(ezkl.gen_srs, str(temporary), logrows)
        else:
            # 22.0.1 asks for the commitment beside logrows, 23.x knows no other and has no such class.
            commitment = {"commitment": ezkl.PyCommitments.KZG} if hasattr(ezkl, "PyCommitments") else {}
            call(ezkl.get_srs, logrows=logrows, srs_path=str(temporary), **commitment)
            checksum_file(path).write_text(f"{sha256_of(temporary)}  {path.name}\n", encoding="ascii")
        temporary.replace(path)
    except ProofError as error:
        hint = "check the free space" if network == "local" else "set omron_srs_file and omron_srs_sha256"
        raise SrsError(f"no SRS for logrows {logrows}: {error.message}", hint) from error
    except OSError as error:
        raise SrsError(f"cannot write {path}: {error}", "check the free space") from error
    finally:
        temporary.unlink(missing_ok=True)


def _check_size(path: Path, logrows: int) -> None:
    """Compares the file's header and size. Raises SrsError; FileNotFoundError when there is none."""
    size = path.stat().st_size
    with path.open("rb") as file:
        rows = int.from_bytes(file.read(4), "little")
    if not 0 < rows <= _LARGEST_LOGROWS or size != _BYTES_AROUND + (_BYTES_PER_ROW << rows):
        raise SrsError(f"{path} ({size} bytes) is truncated or not an SRS", "remove it and run the play again")
    if rows < logrows:
        raise SrsError(f"{path} is for logrows {rows}, needed is {logrows}", "give a larger one")


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")
