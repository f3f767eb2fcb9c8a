"""Checks a slice's folder, as far as possible without the proving library: can the miner use it?

Only the form of the files is checked: which exist, the manifest's envelope (magic, length, CRC-32C) and the proof
configuration stamped in it. Only the miner can show whether a proof succeeds.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgpack  # type: ignore[import-untyped]

from omron_miner.formatting import size
from omron_miner.live.cache import BUNDLE, PAYLOAD

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "manifest.msgpack"
FILES = ("circuit.bin", "witness_solver.bin", MANIFEST)
"""What every bundle needs."""
_KEY = "vk.bin"
_MAGIC, _ZSTD_MAGIC = b"JST\x01", b"\x28\xb5\x2f\xfd"
_HEADER = struct.Struct("<4sIQI")
_COMPRESSED = 1
_MANIFEST_BYTES = 16 << 20
_CONFIGURATIONS = {
    "bn254raw": 2,
    "goldilocksraw": 4,
    "goldilocksbasefold": 8,
    "goldilocksext2basefold": 9,
    "goldilocksext3whir": 10,
    "goldilocksext4whir": 11,
}
"""Names without their underscores, and numbers."""
_WITH_KEY = "goldilocksext4whir"
"""The one configuration that has holographic keys."""
_SPECIFICATION = 1


@dataclass(frozen=True)
class Problem:
    """Why a slice cannot, or might not, be proved."""

    text: str
    published: bool
    """Published like this by the repository; otherwise damaged or missing here, and a download fixes it."""


def examine(folder: Path, published: frozenset[str] | None = None) -> list[Problem]:
    """What is wrong with the slice in `folder`; empty when it has everything that a proof needs.

    `published` are the files that its component has in the repository, where that is known.
    """
    problems = _payload(folder / PAYLOAD)
    bundle = folder / BUNDLE
    if FILES[0] not in published if published is not None else not bundle.is_dir():
        return [Problem(f"published without a circuit ({FILES[0]})", published=True), *problems]
    for name in FILES:
        problem = _file(bundle / name, published is None or name in published)
        if problem:
            problems.append(problem)
    if not any(MANIFEST in problem.text for problem in problems):
        problems += _manifest(bundle)
    return problems


def _payload(folder: Path) -> list[Problem]:
    try:
        models = [one for one in folder.iterdir() if one.suffix == ".onnx"]
        empty = [one.name for one in models if one.stat().st_size == 0]
        stamped = {one.stem for one in folder.glob("*.onnx.sha")}
    except OSError as error:
        return [Problem(f"{PAYLOAD} cannot be read: {error.strerror}", published=False)]
    if empty:
        return [Problem(f"{PAYLOAD}/{empty[0]} is empty", published=False)]
    lost = stamped - {one.name for one in models}
    if lost:
        return [Problem(f"{PAYLOAD}/{min(lost)} is missing", published=False)]
    if len(models) != 1:
        text = f"{len(models)} ONNX files in {PAYLOAD}, the miner takes exactly one"
        return [Problem(text, published=len(models) == len(stamped))]
    return []


def _file(path: Path, published: bool) -> Problem | None:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.read(1)
    except FileNotFoundError:
        if not published:
            return Problem(f"published without {path.name}", published=True)
        return Problem(f"{path.name} is missing", published=False)
    except OSError as error:
        return Problem(f"{path.name} cannot be read: {error.strerror}", published=False)
    return None if size else Problem(f"{path.name} is empty", published=False)


def _manifest(bundle: Path) -> list[Problem]:
    try:
        with (bundle / MANIFEST).open("rb") as file:
            data = file.read(_MANIFEST_BYTES + 1)
    except OSError as error:
        return [Problem(f"{MANIFEST} cannot be read: {error.strerror}", published=False)]
    if len(data) > _MANIFEST_BYTES:
        return [Problem(f"{MANIFEST} has over {size(_MANIFEST_BYTES)}", published=False)]
    payload = _opened(data)
    if isinstance(payload, Problem):
        return [payload]
    if payload is None:
        return []  # compressed, which is allowed; without zstd it cannot be checked further
    try:
        content = msgpack.unpackb(payload, strict_map_key=False)
    except Exception as error:  # msgpack may raise anything
        return [Problem(f"{MANIFEST} is not msgpack: {type(error).__name__}", published=False)]
    return _stamp(content, (bundle / _KEY).exists())


def _opened(data: bytes) -> bytes | Problem | None:
    """The manifest's msgpack; None when it is compressed."""
    if data.startswith(_ZSTD_MAGIC):
        return None
    if not data.startswith(_MAGIC):
        return data  # older than the envelope format
    if len(data) < _HEADER.size:
        return Problem(f"{MANIFEST} ends within its header", published=False)
    _, flags, length, checksum = _HEADER.unpack_from(data)
    payload = data[_HEADER.size : _HEADER.size + length]
    if len(payload) < length:
        return Problem(f"{MANIFEST} has {len(payload)} of the {length} bytes it announces", published=False)
    if crc32c(payload) != checksum:
        return Problem(f"{MANIFEST} does not match its checksum (CRC-32C)", published=False)
    if flags & ~_COMPRESSED:
        return Problem(f"{MANIFEST} has a form unknown to this check (flags {flags:#x})", published=True)
    return None if flags else payload


def _stamp(content: Any, has_key: bool) -> list[Problem]:
    """Problems of the proof configuration that the manifest is stamped with."""
    metadata = content.get("metadata") if isinstance(content, dict) else None
    stamped = metadata.get("proof_config") if isinstance(metadata, dict) else None
    if not isinstance(stamped, dict):
        return [Problem("its manifest has no stamped proof_config", published=True)]
    config, version = stamped.get("config"), stamped.get("version")
    name = re.sub("[^a-z0-9]", "", config.lower()) if isinstance(config, str) else ""
    numbers = {number: known for known, number in _CONFIGURATIONS.items()}
    known = name if name in _CONFIGURATIONS else numbers.get(config) if isinstance(config, int) else None
    problems = []
    if known is None:
        problems.append(Problem(f"its proof configuration {config!r:.60} is not known to this check", published=True))
    if version != _SPECIFICATION:
        problems.append(Problem(f"incompatible bundle: specification {version!r:.20}, not 1", published=True))
    if has_key and known not in (None, _WITH_KEY):
        problems.append(Problem(f"{_KEY} with a proof configuration that has no such keys: {config}", published=True))
    return problems


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ 0x82F63B78 * (value & 1)
        table.append(value)
    return tuple(table)


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """The CRC-32C (Castagnoli) of `data`."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF
