"""Finds circuits on disk, keeps the metadata of recently used ones in memory, and reports why others are refused.

Every caller goes through it: requests, workers, capacities, the doctor and the commands. A circuit that it returns can
be proved on this host now: its id is not ignored, it was made by the installed EZKL, its files match checksums.json,
and its SRS exists and is one that the network accepts.

It holds metadata only: keys and compiled models stay on disk, where EZKL reads them itself. A folder whose files
change is read again at the next `get`, and the SRS is checked every time, so that adding or removing one needs no
restart.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from omron_miner.circuits.checksums import fingerprint
from omron_miner.circuits.circuit import (
    METADATA,
    Circuit,
    check_circuits_directory,
    circuit_folder,
    circuit_folders,
    id_of,
    is_circuit_id,
)
from omron_miner.circuits.load import load_circuit
from omron_miner.circuits.srs import check_srs
from omron_miner.errors import CircuitError, SrsError
from omron_miner.files import recover_parked

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from omron_miner.constants import Constants

LOCK = ".lock"
"""In the folder of circuits; held while one of them is replaced."""
_CACHE_SIZE = 32
"""Circuits whose metadata is kept: some kilobytes each, and more than a miner serves."""
_Fingerprint = tuple[tuple[str, int, int], ...]
_Refusal = tuple[str, str | None]
"""A CircuitError's message and hint: the error itself would grow a longer traceback each time it is raised."""


class CircuitStore:
    """The circuits in `circuits.directory`. Thread-safe; at most `cache_size` are kept in memory."""

    def __init__(
        self, constants: Constants, cache_size: int = _CACHE_SIZE, read: Callable[[Path], Circuit] = load_circuit
    ) -> None:
        """`read` reads a circuit's folder, as `load_circuit` does."""
        self._cache_size, self._read = cache_size, read
        self._circuits = constants.circuits
        self._network = constants.network.name
        self._cache: OrderedDict[str, tuple[_Fingerprint, Circuit | _Refusal]] = OrderedDict()
        self._lock = threading.Lock()
        recover_parked(self._circuits.directory, self._circuits.directory / LOCK)

    def get(self, circuit_id: str) -> Circuit:
        """The circuit with this id, which may be proved here. Raises CircuitError when it is unknown or refused."""
        circuit = self._get_whole(circuit_id)
        if circuit.logrows is not None:
            try:
                check_srs(circuit.logrows, self._circuits.srs_directory, self._network)
            except SrsError as error:
                raise CircuitError(f"circuit {circuit_id}: {error.message}", error.hint) from error
            except OSError as error:
                message = f"circuit {circuit_id}: its SRS cannot be read: {error}"
                raise CircuitError(message, "run the play again, which sets the files' owner") from error
        return circuit

    def find(self, id_or_name: str, *, srs_to_come: bool = False) -> Circuit:
        """The circuit with this id, or the newest of this name (a rebuilt one does not replace its predecessor).

        `srs_to_come`: also one whose SRS is missing or refused, for a caller that installs it before it proves.
        Raises CircuitError when there is none, or when the folder of circuits cannot be read.
        """
        check_circuits_directory(self._circuits.directory)
        get = self._get_whole if srs_to_come else self.get
        if is_circuit_id(id_or_name):
            return get(id_or_name)
        usable, refused = self._scan(get)
        named = [circuit for circuit in usable if circuit.name == id_or_name]
        if named:
            return max(named, key=lambda circuit: (circuit.directory / METADATA).stat().st_mtime)
        names = ", ".join(sorted({circuit.name for circuit in usable})) or "none"
        more = f"; {len(refused)} refused" if refused else ""
        raise CircuitError(
            f"no usable circuit is named {id_or_name!r}; there are: {names}{more}", "omron-miner circuit list"
        )

    def ids(self) -> list[str]:
        """The ids of all circuits that may be proved here, sorted."""
        return [circuit.id for circuit in self.usable()]

    def usable(self) -> list[Circuit]:
        """All circuits that may be proved here, by id."""
        return self._scan(self.get)[0]

    def complete(self) -> list[Circuit]:
        """All circuits whose own files are valid, by id, regardless of their SRS: not for proving."""
        return self._scan(self._get_whole)[0]

    def refused(self) -> dict[str, str]:
        """Folder name → why it is not used, for every ``model_…`` folder that is not."""
        return self._scan(self.get)[1]

    def _get_whole(self, circuit_id: str) -> Circuit:
        """As `get`, but without checking the SRS."""
        if not is_circuit_id(circuit_id):
            raise CircuitError("a circuit id is 64 lower-case hex digits")
        if circuit_id in self._circuits.ignored:
            raise CircuitError(f"circuit {circuit_id} is ignored", "remove it from circuits.ignored in constants.toml")
        directory = circuit_folder(self._circuits.directory, circuit_id)
        try:
            seen = fingerprint(directory)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CircuitError(f"circuit {circuit_id} is not on this host", "omron-miner circuit list") from error
        except OSError as error:
            raise _unreadable(directory, error) from error
        with self._lock:
            cached = self._cache.get(circuit_id)
            if cached and cached[0] == seen:
                self._cache.move_to_end(circuit_id)
                return _unless_refused(cached[1])
        found = _load(directory, self._read)  # outside the lock: another circuit's request need not wait for this disk
        with self._lock:
            self._cache[circuit_id] = (seen, found)
            self._cache.move_to_end(circuit_id)
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        return _unless_refused(found)

    def _scan(self, get: Callable[[str], Circuit]) -> tuple[list[Circuit], dict[str, str]]:
        usable: list[Circuit] = []
        refused: dict[str, str] = {}
        for directory in circuit_folders(self._circuits.directory):
            try:
                usable.append(get(id_of(directory)))
            except CircuitError as error:
                refused[directory.name] = str(error)
        return usable, refused


def _load(directory: Path, read: Callable[[Path], Circuit]) -> Circuit | _Refusal:
    """The circuit, or why it is refused for as long as its files stay as they are. Raises CircuitError otherwise."""
    try:
        return read(directory)
    except CircuitError as error:
        return error.message, error.hint
    except OSError as error:  # may be temporary, without a change to the files: a mode, a mount, a lack of descriptors
        raise _unreadable(directory, error) from error


def _unreadable(directory: Path, error: OSError) -> CircuitError:
    message = f"circuit {directory.name} cannot be read: {error}"
    return CircuitError(message, "check its owner and mode: the service user reads it")


def _unless_refused(found: Circuit | _Refusal) -> Circuit:
    if isinstance(found, Circuit):
        return found
    raise CircuitError(*found)
