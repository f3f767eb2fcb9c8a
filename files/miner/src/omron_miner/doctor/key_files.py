"""Whether the bytes of each circuit's files are still those that its checksums.json was made for.

A proof with a key of which some bytes are spoilt fails, or does not verify; nothing else shows it, since loading a
circuit compares sizes only. Hashing takes a core and the disk, so it stops after `HASH_SECONDS`: the smallest circuits
come first, and of those that are left only the sizes are compared, and the check says so.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from omron_miner.circuits.checksums import check_files
from omron_miner.circuits.circuit import CHECKSUMS, bare_name, circuit_folders
from omron_miner.doctor import probes
from omron_miner.doctor.check import Check, Status, unreadable_advice, unseen
from omron_miner.errors import CircuitError
from omron_miner.files import folder_bytes
from omron_miner.formatting import size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HASH_SECONDS = 10.0
_FIRST_GUESS = 200e6
"""Bytes hashed a second, before any were: what a slow SSD delivers."""


def key_files(directory: Path, seconds: float = HASH_SECONDS) -> Iterator[Check]:
    """One check per circuit folder below `directory` that can be read; other checks report the others."""
    folders = [one for one in circuit_folders(directory) if probes.unreadable(one) is None]
    begun, hashed = time.monotonic(), 0
    for total, folder in sorted((folder_bytes(folder), folder) for folder in folders):
        spent = time.monotonic() - begun
        pace = hashed / spent if hashed and spent else _FIRST_GUESS
        in_time = spent + total / pace <= seconds
        yield _check(folder, total, in_time)
        hashed += total if in_time else 0


def _check(folder: Path, total: int, hash_them: bool) -> Check:
    circuit_id = bare_name(folder.name)
    name, wanted = f"files of {circuit_id[:8]}", f"as in {CHECKSUMS}"
    try:
        is_recorded = check_files(folder) if hash_them else check_files(folder, hash_up_to_bytes=0)
    except CircuitError as error:
        return Check(name, Status.FAIL, wanted, error.message, error.hint or "")
    except FileNotFoundError as error:
        return Check(name, Status.FAIL, wanted, str(error), "copy or build the circuit again")
    except OSError as error:
        return unseen(name, wanted, str(error), unreadable_advice())
    advice = f"omron-miner circuit check {circuit_id}"
    if not is_recorded:
        return unseen(name, wanted, f"there is no {CHECKSUMS}: nothing was compared", advice)
    if not hash_them:
        return unseen(name, wanted, f"{size(total)}: only sizes were compared", advice)
    return Check(name, Status.OK, wanted, f"{size(total)}, every byte compared")
