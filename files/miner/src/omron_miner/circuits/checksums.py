"""Compares a circuit's files with the sizes and SHA-256 digests recorded in its ``checksums.json``."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from omron_miner.circuits.circuit import CHECKSUMS, own_files
from omron_miner.errors import kind_and_message, refuse_circuit
from omron_miner.files import sha256, write_atomically
from omron_miner.untrusted import NOT_OF_ITS_FORM, parse_json

if TYPE_CHECKING:
    from pathlib import Path


def fingerprint(directory: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and mtime (ns) of every file in `directory`: it changes when the circuit does. Raises OSError.

    Hidden files are skipped: they are temporary files that are still being written.
    """
    stats = [(path.name, path.stat()) for path in directory.iterdir() if not path.name.startswith(".")]
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))


def write_checksums(directory: Path) -> None:
    """Writes size and SHA-256 of the circuit's files to checksums.json, atomically. Raises OSError."""
    files = {name: {"bytes": (directory / name).stat().st_size, "sha256": sha256(directory / name)}
             for name in own_files(directory)}  # fmt: skip
    write_atomically(directory / CHECKSUMS, json.dumps(files, indent=1) + "\n", 0o640)


def check_files(directory: Path, hash_up_to_bytes: float = math.inf) -> bool:
    """Compares the files with checksums.json: sizes always, hashes of files up to `hash_up_to_bytes`.

    False when there is no checksums.json to compare with. Raises CircuitError on a difference.
    """
    try:
        recorded = parse_json((directory / CHECKSUMS).read_text(encoding="utf-8"))
        wanted = {name: (int(recorded[name]["bytes"]), str(recorded[name]["sha256"])) for name in own_files(directory)}
    except FileNotFoundError:
        return False
    except (OSError, *NOT_OF_ITS_FORM) as error:
        refuse_circuit(
            directory, f"{CHECKSUMS} is unreadable: {kind_and_message(error)}", "copy or build the circuit again", error
        )
    for name, (size, digest) in wanted.items():
        found = (directory / name).stat().st_size
        if found != size:
            refuse_circuit(
                directory, f"{name} has {found} bytes, {CHECKSUMS} says {size}", "copy or build the circuit again"
            )
        if size <= hash_up_to_bytes and sha256(directory / name) != digest:
            refuse_circuit(
                directory, f"{name} is not the file {CHECKSUMS} was made for", "copy or build the circuit again"
            )
    return True
