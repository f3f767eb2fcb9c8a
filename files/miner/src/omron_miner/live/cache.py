"""Layout of the circuit cache of upstream's `sn2-miner`, and its stamps.

``model_<id>/`` holds ``circuit_metadata.json``, ``component_shas.json``, ``.dslice_ready`` and ``slices/``; a slice's
folder ``component.sha``, ``jstprove/circuit.bundle/`` and ``payload/``, weights with a ``.sha`` next to each. Only
``.omron-sync/`` is ours; the miner ignores it.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from omron_miner.circuits.circuit import FOLDER_PREFIX, circuit_folders, id_of, is_circuit_folder
from omron_miner.errors import OmronError
from omron_miner.files import sha256 as file_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omron_miner.live.repository import Component

DEFAULT = Path("~/.bittensor/subnet-2/circuit_cache")
"""The miner's cache; it has no flag for another folder, so HOME decides."""
AREA = ".omron-sync"
READY = ".dslice_ready"
METADATA = "circuit_metadata.json"
COMPONENTS = "component_shas.json"
SLICES = "slices"
BUNDLE = "jstprove/circuit.bundle"
PAYLOAD = "payload"
STAMP = "component.sha"
RECORD = "published.json"


class CacheError(OmronError):
    """The cache cannot be read or written, or another sync is running in it."""


def circuit_ids(cache: Path) -> list[str]:
    """Ids of the circuits in the cache."""
    return [id_of(one) for one in circuit_folders(cache) if is_circuit_folder(one.name)]


def slice_folders(cache: Path) -> Iterator[Path]:
    """The folders of installed slices, of all circuits."""
    return (one.parent for one in cache.glob(f"{FOLDER_PREFIX}*/{SLICES}/*/{STAMP}"))


def stamp_file(path: Path) -> Path:
    """Where the SHA-256 of weights is written."""
    return path.with_name(path.name + ".sha")


def stamp_text(path: Path) -> str:
    """A stamp's text; empty when there is none."""
    try:
        return path.read_bytes()[:200].decode("ascii", errors="replace").strip()
    except OSError:
        return ""


def has_content(path: Path) -> bool:
    """Whether it is a non-empty file."""
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def read_record(cache: Path) -> dict[str, dict[str, str]]:
    """By component, or ``artifacts/<circuit>``: the files it has in the repository, and the SHA-256 each came with.

    An empty SHA-256 means that we did not download the file.
    """
    try:
        content = json.loads((cache / AREA / RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {
        key: {str(name): str(value) for name, value in names.items()}
        for key, names in content.items()
        if isinstance(names, dict)
    }


class LinkIndex:
    """Index of cached files that other slices need as well: they are linked instead of downloaded.

    Keys are ``<component>/<file>`` and the SHA-256 of weights.
    """

    def __init__(self, cache: Path) -> None:
        self._lock = threading.Lock()
        self._paths: dict[str, list[Path]] = {}
        for folder in slice_folders(cache):
            self.add_slice(folder)

    def add_slice(self, folder: Path) -> None:
        """Adds all files of an installed slice."""
        component = stamp_text(folder / STAMP)
        for path in (folder / BUNDLE).glob("*"):
            self.add(f"{component}/{path.name}", path)
        for stamp in (folder / PAYLOAD).glob("*.sha"):
            self.add(stamp_text(stamp), stamp.with_suffix(""))

    def add(self, key: str, path: Path) -> None:
        """Adds one file."""
        with self._lock:
            self._paths.setdefault(key, []).append(path)

    def forget_slice(self, folder: Path) -> None:
        """Removes all files of a slice that is about to be replaced: its paths will hold other files."""
        with self._lock:
            for key, paths in self._paths.items():
                self._paths[key] = [one for one in paths if folder not in one.parents]

    def link(self, key: str, target: Path) -> bool:
        """Whether `target` is now a link to the file of this key."""
        with self._lock:  # also while linking: no slice is replaced meanwhile
            return any(_linked(one, target) for one in self._paths.get(key, ()))


def _linked(source: Path, target: Path) -> bool:
    if not has_content(source):
        return False
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def is_complete(folder: Path, component: Component) -> bool:
    """Whether the slice matches the repository, judging by names and stamps."""
    if stamp_text(folder / STAMP) != component.sha256:
        return False
    if component.has_circuit and not all(has_content(folder / BUNDLE / one) for one in component.files):
        return False
    payload, wanted = folder / PAYLOAD, {one.filename: one.sha256 for one in component.weights}
    if not payload.is_dir() or {one.name for one in payload.glob("*.onnx")} - set(wanted):
        return False
    return all(has_content(payload / name) and _is_weights(payload / name, sha) for name, sha in wanted.items())


def _is_weights(path: Path, sha256: str) -> bool:
    """By its stamp; without one, which the miner may leave out, by its content."""
    stamp = stamp_file(path)
    if stamp.exists():
        return stamp_text(stamp) == sha256
    if file_sha256(path) != sha256:
        return False
    stamp.write_text(sha256, encoding="ascii")
    return True
