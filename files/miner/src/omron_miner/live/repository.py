"""Reads the lists of the subnet's circuit repository, and validates their form.

A circuit of the live network is a model cut into slices; each slice names a component (the compiled circuit, shared by
identical slices) and weights. Names become file names in the cache, so every one is checked before use.
"""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from omron_miner import __version__
from omron_miner.building.downloads import DownloadError, Rules, check_url, discard, fetch, parts_of
from omron_miner.circuits.circuit import is_circuit_id
from omron_miner.constants import SHA256_HEX
from omron_miner.errors import OmronError
from omron_miner.formatting import printable
from omron_miner.untrusted import parse_json

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_URL = "https://repository.inferencelabs.com"
CIRCUIT_FILE = "circuit.bin"
"""A component without it has no circuit: none of its slices can be proved."""
_JSON_BYTES = 64 << 20
_JSON_SECONDS = 120.0
_NAME_BYTES = 200
_SHA256 = re.compile(SHA256_HEX)
_LENGTH = re.compile(r"[0-9]{1,18}")
_KIND = "DSPERSE_PROOF_GENERATION"


class RepositoryError(OmronError):
    """The repository cannot be read, or its lists are invalid."""


@dataclass(frozen=True)
class Blob:
    """A file that is addressed by its SHA-256: weights or an artifact."""

    filename: str
    sha256: str


@dataclass(frozen=True)
class Component:
    """A slice of a model."""

    name: str
    """The slice's."""
    sha256: str
    """Identifies the compiled circuit for repository and miner; not the checksum of a single file."""
    files: tuple[str, ...]
    weights: tuple[Blob, ...]

    @property
    def has_circuit(self) -> bool:
        """Whether the repository has a circuit for it."""
        return CIRCUIT_FILE in self.files


@dataclass(frozen=True)
class LiveCircuit:
    """A model as the repository lists it."""

    id: str
    metadata: dict[str, Any]
    components: tuple[Component, ...]
    artifacts: tuple[Blob, ...]

    @property
    def name(self) -> str:
        """For display."""
        return _shown(self.metadata.get("name") or self.id[:12])


@dataclass
class Lists:
    """The content of both lists."""

    circuits: dict[str, LiveCircuit] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """Circuits whose entry is invalid, and why."""
    problems: list[str] = field(default_factory=list)
    """Lists that could not be read: some circuits may be unknown."""


class Repository:
    """The repository at `url`. Its files come from there or from `hosts` that it redirects to, as `rules` allow."""

    def __init__(self, url: str, rules: Rules, hosts: tuple[str, ...] = ()) -> None:
        parts = parts_of(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise RepositoryError(f"{url!r} is not a repository URL", f"for example {DEFAULT_URL}")
        self.url = url.rstrip("/")
        self.rules = replace(rules, hosts=(parts.hostname, *hosts), plain_http=parts.scheme == "http")
        self._opener = urllib.request.build_opener(_OnlyThere(self.rules))

    def lists(self, work: Path, additional: tuple[str, ...] = ()) -> Lists:
        """The active circuits, and those named in `additional`. `work` is a folder for downloads in progress.

        Raises RepositoryError when neither list can be read.
        """
        found = Lists()
        for kind in ("circuits", "models"):
            try:
                self._read_list(kind, work, found)
            except RepositoryError as error:
                found.problems.append(error.message)
        if len(found.problems) == 2:
            raise RepositoryError("; ".join(found.problems), f"check {self.url}/circuits and try again later")
        for circuit_id in additional:
            if circuit_id in found.circuits or circuit_id in found.refused:
                continue
            try:
                self._add(self._single(circuit_id, work), found)
            except RepositoryError as error:
                found.problems.append(error.message)
        return found

    def component_url(self, component: str, filename: str) -> str:
        """Where a component's file is."""
        return f"{self.url}/components/{component}/files/{quote(filename, safe='')}"

    def blob_url(self, sha256: str) -> str:
        """Where weights or an artifact are."""
        return f"{self.url}/models/wb/{sha256}"

    def announced(self, url: str) -> tuple[int | None, str | None]:
        """Size in bytes and SHA-256 that the server announces for a file; None for a missing value."""
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": f"omron-miner/{__version__}"})  # noqa: S310
        try:
            with self._opener.open(request, timeout=self.rules.stall_seconds) as response:
                headers = response.headers
        except (OSError, ValueError, http.client.HTTPException):  # the download itself reports the error
            return None, None
        length = headers.get("Content-Length", "")
        checksum = headers.get("x-checksum-sha256", "").strip().lower()
        size = int(length) if _LENGTH.fullmatch(length) else 0  # some servers answer 0 to every HEAD
        return size or None, checksum if _SHA256.fullmatch(checksum) else None

    def _read_list(self, kind: str, work: Path, found: Lists) -> None:
        content = self._json(f"{self.url}/{kind}", work)
        entries = content.get(kind) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise RepositoryError(f"{self.url}/{kind} holds no list {kind!r}")
        for entry in entries:
            self._add(_as_circuit(entry) if kind == "models" else entry, found)

    def _single(self, circuit_id: str, work: Path) -> Any:
        if not is_circuit_id(circuit_id):
            raise RepositoryError(f"{circuit_id!r} is not a circuit's id", "an id is 64 hexadecimal digits")
        try:
            return self._json(f"{self.url}/circuits/{circuit_id}", work)
        except RepositoryError as error:
            if "404" not in error.message:
                raise
        return _as_circuit(self._json(f"{self.url}/models/{circuit_id}", work))

    def _json(self, url: str, work: Path) -> Any:
        part = work / "list.partial"
        discard(part)
        seconds = min(_JSON_SECONDS, self.rules.total_seconds)
        rules = replace(self.rules, max_bytes=_JSON_BYTES, total_seconds=seconds, keep_free_bytes=0)
        try:
            fetch(url, part, rules, quiet=True)
            return parse_json(part.read_bytes())
        except DownloadError as error:
            raise RepositoryError(error.message, "check the network and the address") from error
        except ValueError as error:
            raise RepositoryError(f"{url} is not JSON: {type(error).__name__}") from error
        finally:
            discard(part)

    @staticmethod
    def _add(entry: Any, found: Lists) -> None:
        label = _shown(entry.get("id")) if isinstance(entry, dict) else type(entry).__name__
        try:
            circuit = _circuit(entry)
        except _WrongError as error:
            found.refused[label] = str(error)
            return
        if circuit is not None:
            found.circuits.setdefault(circuit.id, circuit)


class _OnlyThere(urllib.request.HTTPRedirectHandler):
    """Follows redirects to allowed hosts only."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> Any:
        try:
            check_url(newurl, self._rules)
        except DownloadError as error:
            raise urllib.error.URLError(error.message) from error
        followed = super().redirect_request(req, fp, code, msg, headers, newurl)
        if followed is not None:
            followed.method = "HEAD"
        return followed


class _WrongError(Exception):
    """An entry is invalid."""


def _as_circuit(model: Any) -> Any:
    """An entry of the list of models converted to the form of the list of circuits, as the miner does."""
    if not isinstance(model, dict):
        return model
    metadata, composition = model.get("metadata"), model.get("composition")
    metadata = metadata if isinstance(metadata, dict) else {}
    components = composition.get("components") if isinstance(composition, dict) else None
    first = components[0] if isinstance(components, list) and components else {}
    named = {key: str(metadata.get(key) or "") for key in ("name", "description", "author", "version")}
    kept = {key: metadata.get(key) for key in ("netuid", "weights_version", "input_schema", "image_url")}
    system = first.get("proof_system") if isinstance(first, dict) else None
    return {
        "id": model.get("id"),
        "metadata": {
            **named,
            "type": _KIND,
            "proof_system": str(system or "JSTPROVE"),
            "timeout": metadata.get("timeout", 3600),
            **kept,
        },
        "composition": composition,
    }


def _circuit(entry: Any) -> LiveCircuit | None:
    """The entry; None when it has no components, a kind that miners no longer prove. Raises _WrongError."""
    circuit_id = _sha256(_map(entry, "the entry").get("id"), "its id")
    composition = entry.get("composition")
    if composition is None or not _map(composition, "its composition").get("components"):
        return None
    metadata = _map(entry.get("metadata"), "its metadata")
    try:
        json.dumps(metadata, allow_nan=False)  # the miner's JSON has no NaN
    except ValueError as error:
        raise _WrongError("its metadata contains NaN or infinity") from error
    raw = enumerate(_list(composition["components"], "its components"))
    components = tuple(_component(one, index) for index, one in raw)
    artifacts = tuple(_blob(one, "artifact", "") for one in _list(composition.get("artifacts") or [], "its artifacts"))
    names = [one.name for one in components] + [one.filename for one in artifacts]
    _distinct(names, "slice or artifact")
    return LiveCircuit(circuit_id, metadata, components, artifacts)


def _component(entry: Any, index: int) -> Component:
    name = _name(_map(entry, "a component").get("name", f"slice_{index}"), "a component's name")
    files = tuple(_name(one, f"a file's name of {name}") for one in _list(entry.get("files") or [], "its files") if one)
    raw = enumerate(_list(entry.get("weights") or [], "its weights"))
    weights = tuple(_blob(one, f"weights of {name}", f"{name}_weight_{place}.onnx") for place, one in raw)
    _distinct([*files], f"file of {name}")
    _distinct([part for one in weights for part in (one.filename, one.filename + ".sha")], f"weights' file of {name}")
    return Component(name, _sha256(entry.get("sha256"), f"the sha256 of {name}"), files, weights)


def _blob(entry: Any, what: str, default: str) -> Blob:
    sha256 = _sha256(_map(entry, f"an entry of {what}").get("sha256"), f"the sha256 of {what}")
    return Blob(_name(entry.get("filename", default), f"a file's name of {what}"), sha256)


def _map(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _WrongError(f"{what} is a {type(value).__name__}, not an object")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise _WrongError(f"{what} are a {type(value).__name__}, not a list")
    return value


def _sha256(value: Any, what: str) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise _WrongError(f"{what} is not a SHA-256 in lower case: {value!r:.100}")
    return value


def is_name(value: Any) -> bool:
    """Whether it is a single path component."""
    return (
        isinstance(value, str)
        and value not in ("", ".", "..")
        and value.isprintable()
        and not any(character in value for character in "/\\")
        and len(value.encode(errors="replace")) <= _NAME_BYTES
    )


def _shown(value: Any) -> str:
    """Untrusted text, safe for a terminal."""
    return printable(str(value)[:64])


def _name(value: Any, what: str) -> str:
    if not is_name(value):
        raise _WrongError(f"{what} is not a valid file name: {value!r:.100}")
    return str(value)


def _distinct(names: list[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise _WrongError(f"there is more than one {what} {name!r:.100}")
