"""A worker's preparation before its first request, so that no request waits for it.

Each piece was measured (docs/performance.md). Runs in the worker's process only; nothing here affects the
correctness of a proof, so nothing here raises. No circuit is tried: EZKL aborts on some corrupt files, and a worker
must start anyway; a CIRCOM key's sections were counted before it gets here.
"""

from __future__ import annotations

import ctypes
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from omron_miner import formatting
from omron_miner.circuits.srs import srs_path
from omron_miner.errors import OmronError
from omron_miner.events import LOGGER_NAME
from omron_miner.host import read_memory
from omron_miner.proving.proof_handlers import get_handler

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from omron_miner.circuits.circuit import Circuit

_log = logging.getLogger(LOGGER_NAME)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h of glibc
_LARGEST_INT = 2**31 - 1
_TOP_PAD_BYTES = 64 << 20
_SHARE_OF_MEMORY = 0.5
"""Share of the free memory that key files may fill: proofs need the rest."""
_PIECE_BYTES = 8 << 20


def keep_memory() -> None:
    """Makes malloc keep memory once it has it from the kernel: a proof needs gigabytes, and each fresh page is a fault.

    The process then stays as large as its largest proof. Call before native code allocates. Does nothing without glibc.
    """
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)
        libc.mallopt(_M_TOP_PAD, _TOP_PAD_BYTES)


def read_through(circuits: Iterable[Circuit], srs_directory: Path, available_bytes: int | None = None) -> int:
    """Reads the circuits' keys, models and SRS once, so that they are in the page cache; bytes read.

    The smallest files first, and no more than half of the free memory (`available_bytes`, by default what this process
    may still use): files that would evict the others stay cold.
    """
    if available_bytes is None:
        available_bytes = read_memory().available_bytes
    wanted = {path for one in circuits for path in _files(one, srs_directory)}
    sizes = []
    for path in wanted:
        with suppress(OSError):
            sizes.append((path.stat().st_size, path))
    left = read = 0
    budget = _SHARE_OF_MEMORY * available_bytes
    for size, path in sorted(sizes):
        if read + size > budget:
            left += size
            continue
        with suppress(OSError), path.open("rb", buffering=0) as file:
            buffer = bytearray(_PIECE_BYTES)
            while file.readinto(buffer):
                pass
            read += size
    if left:
        _log.warning("Keys of %s do not fit in memory and are read from disk for each proof", formatting.size(left))
    return read


def load_keys(circuits: Iterable[Circuit], srs_directory: Path, seconds: float) -> int:
    """Loads the keys of CIRCOM circuits into this process, the smallest first, for `seconds`; how many are loaded.

    A key that does not load is logged; the first request for it fails with the reason.
    """
    until, loaded = time.monotonic() + seconds, 0
    for circuit in sorted((one for one in circuits if one.circom), key=lambda one: one.rows):
        if time.monotonic() > until:
            _log.warning("No time to load the key of %s before its first request", circuit.label)
            break
        try:
            get_handler(circuit.proof_system, srs_directory).load(circuit)
            loaded += 1
        except (OmronError, OSError) as error:
            _log.error("The key of %s does not load: %s", circuit.label, error)
    return loaded


def _files(circuit: Circuit, srs_directory: Path) -> list[Path]:
    """What a proof of the circuit reads each time; a CIRCOM one reads nothing once its key is loaded."""
    if circuit.logrows is None:
        return []
    return [circuit.pk, circuit.vk, circuit.model_compiled, srs_path(srs_directory, circuit.logrows)]
