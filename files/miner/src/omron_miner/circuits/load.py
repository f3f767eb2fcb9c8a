"""Reads a circuit's folder and refuses one that could not be proved: missing, malformed or mismatched files.

Reads headers and small files only. EZKL is never imported: opening a file of another version with it aborts the whole
process.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from omron_miner.circuits import circom
from omron_miner.circuits.checksums import check_files
from omron_miner.circuits.circuit import (
    CIRCOM_FILES,
    COMPILED,
    PK,
    REQUIRED_FILES,
    SETTINGS,
    VK,
    Circuit,
    Metadata,
    ProofSystem,
    Settings,
    ezkl_version,
    id_of,
    key_name,
    read_metadata,
)
from omron_miner.errors import kind_and_message
from omron_miner.errors import refuse_circuit as _refuse
from omron_miner.untrusted import NOT_OF_ITS_FORM, parse_json

if TYPE_CHECKING:
    from pathlib import Path

_HASHED_AT_LOAD_BYTES = 1 << 20
"""Files up to this size are hashed at every load (a few ms); larger ones only by `check_files`."""
_PIECE_BYTES = 1 << 20
"""Bytes read from a file at a time."""
_KEY_FORMAT = 3
"""First byte of a key file of halo2's raw-bytes format; the second is logrows (read from keys of 22.0.1 and 23.0.5)."""


def load_circuit(directory: Path) -> Circuit:
    """The circuit in `directory` (``model_<id>``).

    Raises CircuitError when a file is missing or malformed, the circuit was made by another EZKL version than the
    installed one, its keys and settings do not belong together as far as their files show, or a checksum differs.
    """
    id_of(directory)
    if key_name(directory) == circom.ZKEY:
        return _load_circom(directory)
    meta, settings = load_without_key(directory)
    if not (directory / PK).is_file():
        _refuse(directory, f"{PK} is missing", "omron-miner circuit sync downloads it where metadata.json names it")
    _check_pk(directory)
    check_files(directory, hash_up_to_bytes=_HASHED_AT_LOAD_BYTES)
    circuit_id = id_of(directory)
    return Circuit(circuit_id, directory, meta.name, meta.version, meta.proof_system, meta.type, meta.timeout, settings)


def _load_circom(directory: Path) -> Circuit:
    meta = check_without_key(directory)
    if not (directory / circom.ZKEY).is_file():
        hint = "omron-miner circuit sync downloads it where metadata.json names it"
        _refuse(directory, f"{circom.ZKEY} is missing", hint)
    settings = circom.load_settings(directory)
    check_files(directory, hash_up_to_bytes=_HASHED_AT_LOAD_BYTES)
    return Circuit(
        id_of(directory), directory, meta.name, meta.version, meta.proof_system, meta.type, meta.timeout, None, settings
    )


def check_without_key(directory: Path) -> Metadata:
    """Everything `load_circuit` checks except the proving key, for any proof system. Raises CircuitError."""
    id_of(directory)
    if key_name(directory) != circom.ZKEY:
        return load_without_key(directory)[0]
    for name in CIRCOM_FILES:
        if name != circom.ZKEY and not (directory / name).is_file():
            _refuse(directory, f"{name} is missing", "copy the folder again")
    circom.load_without_key(directory)
    return read_metadata(directory)


def load_without_key(directory: Path) -> tuple[Metadata, Settings]:
    """Everything `load_circuit` checks of an EZKL circuit except the proving key, which may be missing.

    EZKL can open the other files. Raises CircuitError as `load_circuit` does.
    """
    id_of(directory)
    for name in REQUIRED_FILES:
        if name != PK and not (directory / name).is_file():
            _refuse(directory, f"{name} is missing", "copy the folder again")
    meta = read_metadata(directory)
    if meta.proof_system is not ProofSystem.EZKL:
        _refuse(directory, f"it is a {meta.proof_system.value} circuit, not an EZKL circuit", "name an EZKL circuit")
    settings = _read_settings(directory)
    if settings.version != ezkl_version():
        message = f"was made by EZKL {settings.version}, but {ezkl_version()} is installed"
        _refuse(directory, message, "build it again, or install that version of EZKL")
    check_compiled_version(directory, settings.version)
    _check_vk(directory, settings.logrows)
    return meta, settings


def _read_settings(directory: Path) -> Settings:
    try:
        whole = parse_json((directory / SETTINGS).read_bytes())
        run_args = whole["run_args"]
        settings = Settings(
            version=str(whole["version"]),
            logrows=int(run_args["logrows"]),
            num_rows=int(whole["num_rows"]),
            input_visibility=_visibility(run_args["input_visibility"]),
            output_visibility=_visibility(run_args["output_visibility"]),
            param_visibility=_visibility(run_args["param_visibility"]),
            model_instance_shapes=tuple(tuple(map(int, shape)) for shape in whole["model_instance_shapes"]),
            model_input_scales=tuple(map(int, whole["model_input_scales"])),
            model_output_scales=tuple(map(int, whole["model_output_scales"])),
            input_types=tuple(map(str, whole.get("input_types") or ())),
            whole=whole,
        )
    except NOT_OF_ITS_FORM as error:
        message = f"{SETTINGS} was not written by EZKL: {kind_and_message(error)}"
        _refuse(directory, message, "copy or build the circuit again", error)
    if settings.public_inputs and len(settings.input_types) != len(settings.model_input_scales):
        _refuse(directory, f"{SETTINGS} has no input_types, so proofs cannot be checked", "build it with a newer EZKL")
    return settings


def _visibility(value: object) -> str:
    """EZKL writes plain names for all but {"Hashed": {...}} and {"KZGCommit"...}: their first word is enough here."""
    return next(iter(value)) if isinstance(value, dict) and value else str(value)


def version_mark(version: str) -> bytes:
    """Bytes that every model.compiled of an EZKL `version` contains.

    It includes the settings it was compiled with, the version as length (8 bytes) and text.
    """
    return len(version).to_bytes(8, "little") + version.encode()


def check_compiled_version(directory: Path, version: str) -> None:
    """Raises CircuitError unless model.compiled was made by this `version` of EZKL: another one aborts opening it."""
    wanted = version_mark(version)
    path = directory / COMPILED
    if path.stat().st_size == 0:
        _refuse(directory, f"{COMPILED} is empty", "copy or build the circuit again")
    if not _holds(path, wanted):
        message = f"{COMPILED} was not made by EZKL {version}, which {SETTINGS} names"
        _refuse(directory, message, "copy or build the circuit again: the two do not belong together")


def _holds(path: Path, wanted: bytes) -> bool:
    """Whether the file contains `wanted`; searched from its end in pieces. Raises OSError.

    It is read, never mapped: truncating a mapped file would kill the process (SIGBUS).
    """
    with path.open("rb") as file:
        start, after = file.seek(0, os.SEEK_END), b""
        while start > 0:
            start, length = max(0, start - _PIECE_BYTES), min(start, _PIECE_BYTES)
            file.seek(start)
            piece = file.read(length) + after
            if wanted in piece:
                return True
            after = piece[: len(wanted) - 1]
    return False


def _check_vk(directory: Path, logrows: int) -> None:
    """A verification key starts with its format and logrows."""
    with (directory / VK).open("rb") as file:
        head = file.read(2)
    if len(head) < 2 or head[0] != _KEY_FORMAT:
        _refuse(directory, f"{VK} is not a verification key", "copy or build the circuit again")
    if head[1] != logrows:
        _refuse(
            directory, f"{VK} is for logrows {head[1]}, {SETTINGS} for {logrows}", "copy or build the circuit again"
        )


def _check_pk(directory: Path) -> None:
    """A proving key starts with its verification key."""
    vk = (directory / VK).read_bytes()
    with (directory / PK).open("rb") as file:
        head = file.read(len(vk))
    if head != vk:
        _refuse(directory, f"{PK} and {VK} do not belong together", "copy or build the circuit again")
