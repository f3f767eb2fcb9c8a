"""Finds circuits on disk, keeps the metadata of the last used ones in memory, and says why others are refused.

It holds metadata only: keys and compiled models stay on disk, where EZKL reads them itself. A folder whose files
change is read anew at the next `get`.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from omron_miner.circuit import FOLDER_PREFIX, METADATA, Circuit, fingerprint, id_of, load_circuit
from omron_miner.errors import CircuitError

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.constants import Circuits

_ID = re.compile(r"[a-f0-9]{64}")
_Fingerprint = tuple[tuple[str, int, int], ...]


class CircuitStore:
    """The circuits in `circuits.directory`. Thread-safe; at most `circuits.cache_size` are kept in memory."""

    def __init__(self, circuits: Circuits) -> None:
        self._circuits = circuits
        self._cache: OrderedDict[str, tuple[_Fingerprint, Circuit]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, circuit_id: str) -> Circuit:
        """The circuit with this id. Raises CircuitError when it is unknown, ignored or refused."""
        if not isinstance(circuit_id, str) or not _ID.fullmatch(circuit_id):
            raise CircuitError("a circuit id is 64 lower-case hex digits")
        if circuit_id in self._circuits.ignored:
            raise CircuitError(f"circuit {circuit_id} is ignored", "take it out of circuits.ignored in constants.toml")
        directory = self._circuits.directory / f"{FOLDER_PREFIX}{circuit_id}"
        try:
            seen = fingerprint(directory)
        except OSError as error:
            raise CircuitError(f"circuit {circuit_id} is not here", "omron-miner circuit list") from error
        with self._lock:
            cached = self._cache.get(circuit_id)
            if cached and cached[0] == seen:
                self._cache.move_to_end(circuit_id)
                return cached[1]
        circuit = load_circuit(directory)  # outside the lock: another circuit's request need not wait for this disk
        with self._lock:
            self._cache[circuit_id] = (seen, circuit)
            self._cache.move_to_end(circuit_id)
            while len(self._cache) > self._circuits.cache_size:
                self._cache.popitem(last=False)
        return circuit

    def find(self, id_or_name: str) -> Circuit:
        """The circuit with this id, or the newest of this name (a rebuilt one stays beside its predecessor).

        Raises CircuitError when there is none.
        """
        if _ID.fullmatch(id_or_name):
            return self.get(id_or_name)
        usable = self._scan()[0]
        named = [circuit for circuit in usable if circuit.name == id_or_name]
        if named:
            return max(named, key=lambda circuit: (circuit.directory / METADATA).stat().st_mtime)
        names = ", ".join(sorted({circuit.name for circuit in usable})) or "none"
        raise CircuitError(f"no usable circuit is named {id_or_name!r}; there are: {names}", "omron-miner circuit list")

    def ids(self) -> list[str]:
        """The ids of all usable circuits, sorted."""
        return [circuit.id for circuit in self._scan()[0]]

    def usable(self) -> list[Circuit]:
        """All usable circuits, by id."""
        return self._scan()[0]

    def refused(self) -> dict[str, str]:
        """Folder name → why it is not used, for every ``model_…`` folder that is not."""
        return self._scan()[1]

    def clear(self) -> None:
        """Forgets everything kept in memory."""
        with self._lock:
            self._cache.clear()

    def _scan(self) -> tuple[list[Circuit], dict[str, str]]:
        usable: list[Circuit] = []
        refused: dict[str, str] = {}
        for directory in _folders(self._circuits.directory):
            try:
                usable.append(self.get(id_of(directory)))
            except CircuitError as error:
                refused[directory.name] = str(error)
        return usable, refused


def _folders(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.glob(f"{FOLDER_PREFIX}*") if path.is_dir())
    except OSError:
        return []
