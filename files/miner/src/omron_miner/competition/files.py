"""A competition circuit's two files on disk: whether they are complete, valid and acceptable to validators.

The circuit's author writes into the folder while the miner runs. So files are read only after nothing has written to
them for a while, once, in pieces, and rejected if they changed meanwhile. Nothing is mapped into memory: truncating a
mapped file would kill the process.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from omron_miner import formatting
from omron_miner.circuits.circuit import COMPILED, SETTINGS
from omron_miner.circuits.load import version_mark
from omron_miner.errors import OmronError, kind_and_message
from omron_miner.untrusted import NOT_OF_ITS_FORM, parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import TypeAlias

    Fingerprint: TypeAlias = tuple[tuple[int, int, int, int], ...]
    """Inode, size and the two times (ns) of each file: a write always changes the last."""

FILES = (COMPILED, SETTINGS)
LARGEST_BYTES = 50_000_000_000
"""Validators declare 50 * 10^9 as the most (protocol, section 6)."""
DECLARED_RUN_ARGS = {
    "input_visibility": "Private",
    "output_visibility": "Public",
    "param_visibility": "Private",
    "commitment": "KZG",
}
"""Rules that a competition declares; validators do not enforce them (protocol, section 6)."""
_LARGEST_SETTINGS = 4 << 20
_PIECE_BYTES = 1 << 20


class CompetitionError(OmronError):
    """The folder has no circuit that could be offered."""


@dataclass(frozen=True)
class CompetitionCircuit:
    """Both files, as read."""

    directory: Path
    digest: str
    """SHA-256 of model.compiled in hex: what is committed on the chain."""
    size: int
    modified: int
    """When model.compiled was written, Unix seconds."""
    settings: bytes
    ezkl_version: str
    warnings: tuple[str, ...]
    """Rules that validators declare and do not enforce."""
    fingerprint: Fingerprint

    @property
    def settings_digest(self) -> str:
        """SHA-256 of settings.json in hex."""
        return hashlib.sha256(self.settings).hexdigest()

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """model.compiled, open for reading. Raises CompetitionError, also at the end, when the file has changed."""
        path = self.directory / COMPILED
        with _opened(path) as file:
            self._must_be(_mark(os.fstat(file.fileno())))
            yield file
            self._must_be(_mark(path.stat()))  # by its name: its reader may have closed it

    def _must_be(self, mark: tuple[int, int, int, int]) -> None:
        if mark != self.fingerprint[0]:
            raise CompetitionError(
                f"{self.directory / COMPILED} changed while it was used", "it will be reread shortly"
            )


def fingerprint(directory: Path) -> Fingerprint:
    """Changes when a file does. Raises CompetitionError naming what is missing."""
    try:
        return tuple(_mark((directory / name).stat()) for name in FILES)
    except OSError as error:
        hint = f"put {COMPILED} and {SETTINGS} there, readable by the miner's user"
        raise CompetitionError(f"cannot read {error.filename}: {error.strerror}", hint) from error


def at_rest_seconds(found: Fingerprint) -> float:
    """Seconds since the last write to the files, by the system clock; negative when it was set back."""
    return time.time() - max(changed for *_, changed in found) / 1e9


def read_circuit(directory: Path, stopping: Callable[[], bool] = lambda: False) -> CompetitionCircuit:
    """Reads the circuit in `directory`, at the disk's speed, in constant memory.

    Raises CompetitionError when files are missing, too large, not written by EZKL, do not belong together, or change
    meanwhile; or when `stopping` returns true.
    """
    before = fingerprint(directory)
    with _opened(directory / SETTINGS) as file:
        content = file.read(_LARGEST_SETTINGS + 1)
    version, warnings = _check_settings(directory / SETTINGS, content)
    size = before[0][1]
    if size > LARGEST_BYTES:
        raise CompetitionError(
            f"{directory / COMPILED} has {formatting.size(size)}, "
            f"competitions take at most {formatting.size(LARGEST_BYTES)}",
            "make a smaller circuit",
        )
    digest = _digest_of(directory / COMPILED, size, version, stopping)
    if fingerprint(directory) != before:
        raise CompetitionError(f"the files in {directory} changed while they were read", "they will be reread shortly")
    modified = before[0][2] // 1_000_000_000
    return CompetitionCircuit(directory, digest, size, modified, content, version, warnings, before)


def _digest_of(path: Path, size: int, version: str, stopping: Callable[[], bool]) -> str:
    """The SHA-256 of its first `size` bytes, if it is a model that this version of EZKL compiled to the end."""
    wanted = version_mark(version)
    digest, tail, found = hashlib.sha256(), b"", False
    with _opened(path) as file:
        while piece := file.read(min(_PIECE_BYTES, size)):  # it may grow while we read
            size -= len(piece)
            if stopping():
                raise CompetitionError("the miner is stopping")
            digest.update(piece)
            found = found or wanted in tail + piece
            tail = piece[-len(wanted) :]
    if not found:
        raise CompetitionError(
            f"{path} is incomplete, or was not made by EZKL {version}, which {SETTINGS} names",
            "copy both files again: they must come from the same compilation",
        )
    return digest.hexdigest()


def _check_settings(path: Path, content: bytes) -> tuple[str, tuple[str, ...]]:
    """EZKL's version, and warnings. Raises CompetitionError when it is not a settings.json of EZKL."""
    hint = "copy the settings.json that the circuit was compiled with"
    if len(content) > _LARGEST_SETTINGS:
        raise CompetitionError(f"{path} has more than {formatting.size(_LARGEST_SETTINGS)}", hint)
    try:
        settings = parse_json(content)
        version, run_args = settings["version"], dict(settings["run_args"])
        if not isinstance(version, str) or not version:
            raise TypeError("version is not a string")
    except NOT_OF_ITS_FORM as error:
        raise CompetitionError(f"{path} was not written by EZKL: {kind_and_message(error)}", hint) from error
    others = [
        f"{name} {_shown(run_args.get(name))}"
        for name, wanted in DECLARED_RUN_ARGS.items()
        # EZKL writes no commitment for its default, which is KZG.
        if run_args.get(name) != wanted and not (name == "commitment" and run_args.get(name) is None)
    ]
    wanted = ", ".join(f"{name} {value}" for name, value in DECLARED_RUN_ARGS.items())
    return version, (f"competitions declare {wanted}; here: {', '.join(others)}",) if others else ()


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:40]


def _mark(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise CompetitionError(f"cannot read {path}: {error.strerror}", "check its owner and mode") from error
