"""Whether each circuit's files still match its checksums.json.

A proof with a partly corrupt key fails or does not verify; nothing else reveals it, since loading a circuit compares
sizes only. Hashing uses a core and the disk, so it stops after `HASH_SECONDS`: the smallest circuits come first, and
for the rest only sizes are compared, which the check reports.
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
"""Initial estimate of bytes hashed per second: the speed of a slow SSD."""


def key_files(directory: Path, seconds: float = HASH_SECONDS) -> Iterator[Check]:
    """One check per readable circuit folder below `directory`; other checks report the rest."""
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
