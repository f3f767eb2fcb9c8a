"""The CIRCOM-specific part of a circuit: its files, settings and inputs. `circuit` has the rest.

A CIRCOM folder holds, besides metadata.json, ``settings.json`` (which public signals there are, and how many of each),
``circuit.wasm`` (the witness program), ``circuit.zkey`` (the Groth16 proving key, snarkjs' format) and
``verification_key.json``. Only headers and small files are read here, and nothing native is loaded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from omron_miner.errors import InputError, kind_and_message, refuse_circuit
from omron_miner.untrusted import NOT_OF_ITS_FORM, parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

SETTINGS, WASM, VERIFICATION_KEY, ZKEY = "settings.json", "circuit.wasm", "verification_key.json", "circuit.zkey"
FIELD_MODULUS = 21888242871839275222246405745257275088548364400416034343698204186575808495617
"""Order of BN254's scalar field: signals are numbers below it, and −1 is one less than it."""
_BASE_MODULUS = 21888242871839275222246405745257275088696311157297823662689037894645226208583
"""The field that coordinates of BN254's points are in."""
_MONTGOMERY = 1 << 256
"""snarkjs' keys hold coordinates multiplied by this."""
ZKEY_MAGIC = b"zkey\1\0\0\0"
"""First bytes of a proving key: its type and its format's version."""
_WASM_MAGIC = b"\0asm\1\0\0\0"
_COORDINATE_BYTES = 32
_POINT_BYTES = 2 * _COORDINATE_BYTES
_COEFFICIENT_BYTES = 12 + _COORDINATE_BYTES
_GROTH16 = 1
_SECTIONS = range(1, 10)
"""A zkey's: protocol, header, IC, coefficients, then the points A, B1, B2, C and H."""
_DEEPEST = 16
"""Maximum nesting of lists in an input; the circuit only sees its values in order."""
_INTEGER = re.compile(r"-?[0-9]{1,78}")
_LARGEST_WHOLE_FLOAT = 1 << 53
"""Beyond it a float does not represent one exact integer."""
_AGAIN = "copy the circuit again"
_SCALE = 10**8
"""Of the numbers in the subnet's proofs of weights."""
_WEIGHTS_OUTPUTS = {"new_score", "block_number_out", "miner_uid_out", "validator_uid_out"}
_WEIGHTS: dict[str, Callable[[int], int | bool]] = {
    "maximum_score": lambda _: _SCALE // 256,
    "previous_score": lambda place: _SCALE // 256 * (place % 97) // 97,
    "verified": lambda place: place % 3 != 0,
    "proof_size": lambda place: _SCALE * (place % 5000),
    "response_time": lambda place: _SCALE * (10 + place % 20),
    "competition": lambda place: _SCALE * (place % 89) // 89,
    "maximum_response_time": lambda _: _SCALE * 40,
    "minimum_response_time": lambda _: _SCALE * 5,
    "validator_uid": lambda place: place % 256,
    "block_number": lambda place: 3_000_000 + place,
    "miner_uid": lambda place: place % 256,
}
"""Lists of a proof of weights, by the place in them, in the order in which validators send them."""
_WEIGHTS_SCALARS = {
    "scaling": _SCALE,
    "RATE_OF_DECAY": _SCALE * 4 // 10,
    "RATE_OF_RECOVERY": _SCALE // 10,
    "FLATTENING_COEFFICIENT": _SCALE * 9 // 10,
    "PROOF_SIZE_THRESHOLD": _SCALE * 3648,
    "PROOF_SIZE_WEIGHT": 0,
    "RESPONSE_TIME_WEIGHT": _SCALE,
    "COMPETITION_WEIGHT": 0,
    "MAXIMUM_RESPONSE_TIME_DECIMAL": _SCALE * 99 // 100,
}
"""Its scalars, with upstream's values (`input.py` in the circuits' folders)."""


@dataclass(frozen=True)
class CircomSettings:
    """settings.json's public signals in order with their sizes, and what the proving key's header says."""

    order: tuple[str, ...]
    sizes: tuple[int, ...]
    wires: int
    domain_size: int
    """Rows of the constraint system, a power of two."""

    @property
    def public_count(self) -> int:
        """Public signals, outputs first; the 1 that Groth16 puts in front is not counted."""
        return sum(self.sizes)


def load_settings(directory: Path) -> CircomSettings:
    """Reads and checks all files of a CIRCOM circuit. Raises CircuitError."""
    order, sizes, key = load_without_key(directory)
    header = _ZkeyHeader.read(directory)
    if header.public != sum(sizes):
        refuse_circuit(directory, f"{ZKEY} has {header.public} public signals, {SETTINGS} names {sum(sizes)}", _AGAIN)
    if (header.alpha, header.delta) != (_pair(key["vk_alpha_1"]), _pair(key["vk_delta_2"])):
        refuse_circuit(directory, f"{ZKEY} and {VERIFICATION_KEY} do not belong together", _AGAIN)
    return CircomSettings(order, sizes, header.wires, header.domain_size)


def load_without_key(directory: Path) -> tuple[tuple[str, ...], tuple[int, ...], dict[str, Any]]:
    """Everything `load_settings` checks except the proving key: public signals, their sizes, the verification key.

    Raises CircuitError.
    """
    order, sizes = _public_signals(directory)
    with (directory / WASM).open("rb") as file:
        if file.read(len(_WASM_MAGIC)) != _WASM_MAGIC:
            refuse_circuit(directory, f"{WASM} is not a WebAssembly module", _AGAIN)
    key = _verification_key(directory)
    if key["nPublic"] != sum(sizes):
        message = f"{VERIFICATION_KEY} has {key['nPublic']} public signals, {SETTINGS} names {sum(sizes)}"
        refuse_circuit(directory, message, _AGAIN)
    return order, sizes, key


def validate_inputs(name: str, settings: CircomSettings, inputs: Mapping[str, object]) -> dict[str, list[int]]:
    """A request's inputs by name, in their order, each flat: integers between −modulus and modulus.

    Booleans are 0 and 1; decimal strings and floats without a fraction count as the integers they represent, as in
    circom's own tools. Raises InputError on anything else, and on a number of values other than the public signal's.
    Only the witness program knows which other inputs a circuit has.
    """
    if not isinstance(inputs, dict) or not inputs:
        raise InputError(f"{name} takes its inputs by name, the request has none")
    known = dict(zip(settings.order, settings.sizes, strict=True))
    flat = {key: _flat(value, key) for key, value in inputs.items()}
    for key, row in flat.items():
        if len(row) != known.get(key, len(row)):
            raise InputError(f"input {_shown(key)} has {len(row)} value(s), {name} takes {known[key]}")
    return {key: [_integer(item, key) for item in row] for key, row in flat.items()}


def weights_example(settings: CircomSettings) -> dict[str, Any] | None:
    """Inputs as a validator generates them for one of the subnet's proofs of weights; None for another circuit.

    The same for every caller, so that a key is tested with realistic requests. Names, scale and the incentive's numbers
    are upstream's (`_WEIGHTS`); times lie between 0 and a minute.
    """
    sizes = dict(zip(settings.order, settings.sizes, strict=True))
    named = {name: size for name, size in sizes.items() if name not in _WEIGHTS_OUTPUTS}
    if not (sizes.keys() >= _WEIGHTS_OUTPUTS and named.keys() <= _WEIGHTS.keys() | _WEIGHTS_SCALARS.keys()):
        return None
    lists = {name: [_WEIGHTS[name](place) for place in range(named[name])] for name in _WEIGHTS if name in named}
    return lists | {name: value for name, value in _WEIGHTS_SCALARS.items() if name in named}


def validators_signals(settings: CircomSettings, inputs: Mapping[str, list[int]], public: list[int]) -> list[int]:
    """The public signals a validator verifies with: the miner's, with its own inputs put in their places.

    Exactly upstream's rule: names that are not inputs (the outputs) are skipped by their sizes, lists are truncated to
    size, and the rest of a list that is too short is not skipped. Negative numbers are taken modulo the field's order.
    """
    signals, place = list(public), 0
    for name, size in zip(settings.order, settings.sizes, strict=True):
        if name not in inputs:
            place += size
            continue
        for value in inputs[name][:size]:
            signals[place : place + 1] = [value % FIELD_MODULUS]
            place += 1
    return signals


def outputs(settings: CircomSettings, inputs: Mapping[str, list[int]], public: list[int]) -> list[float]:
    """The public signals that are not inputs, as numbers: the upper half of the field is negative."""
    found: list[float] = []
    place = 0
    for name, size in zip(settings.order, settings.sizes, strict=True):
        if name not in inputs:
            signals = public[place : place + size]
            found += [float(one if one <= FIELD_MODULUS // 2 else one - FIELD_MODULUS) for one in signals]
        place += size
    return found


def _public_signals(directory: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    try:
        public = parse_json((directory / SETTINGS).read_bytes())["public_inputs"]
        order = tuple(str(name) for name in public["order"])
        sizes = tuple(int(public["sizes"][name]) for name in order)
    except NOT_OF_ITS_FORM as error:
        refuse_circuit(
            directory, f"{SETTINGS} lacks public_inputs' order and sizes: {kind_and_message(error)}", _AGAIN, error
        )
    if not order or len(set(order)) != len(order) or min(sizes) < 1:
        refuse_circuit(directory, f"{SETTINGS} lists a public signal twice, or one of size 0", _AGAIN)
    return order, sizes


def _verification_key(directory: Path) -> dict[str, Any]:
    try:
        key = parse_json((directory / VERIFICATION_KEY).read_bytes())
        kind = key["protocol"], key["curve"]
        if not len(key["IC"]) == key["nPublic"] + 1 or not key["vk_alpha_1"] or not key["vk_delta_2"]:
            raise ValueError("it is not complete")
    except NOT_OF_ITS_FORM as error:
        refuse_circuit(
            directory, f"{VERIFICATION_KEY} was not written by snarkjs: {kind_and_message(error)}", _AGAIN, error
        )
    if kind != ("groth16", "bn128"):
        message = f"{VERIFICATION_KEY} is for {kind[0]} on {kind[1]}, only groth16 on bn128 is supported"
        refuse_circuit(directory, message, "remove the folder or ignore its id")
    return key  # type: ignore[no-any-return]


def _pair(value: Any) -> tuple[int, ...]:
    """The affine coordinates of a point in snarkjs' JSON, whose third is 1."""
    flat = [item for one in value[:2] for item in (one if isinstance(one, list) else [one])]
    return tuple(int(item) for item in flat)


@dataclass(frozen=True)
class _ZkeyHeader:
    wires: int
    public: int
    domain_size: int
    alpha: tuple[int, ...]
    delta: tuple[int, ...]

    @classmethod
    def read(cls, directory: Path) -> _ZkeyHeader:
        """The header of circuit.zkey, whose sections must be complete: native code reads them after this."""
        path = directory / ZKEY
        try:
            with path.open("rb") as file:
                sections = dict(_sections(file, path.stat().st_size))
                if int.from_bytes(_read(file, sections[1][0], 4), "little") != _GROTH16:
                    raise ValueError("it is not a Groth16 key")
                header = cls._parse(_read(file, *sections[2]))
                file.seek(sections[4][0])
                coefficients = int.from_bytes(file.read(4), "little")
            header._check_sizes({number: size for number, (_, size) in sections.items()}, coefficients)
        except (ValueError, KeyError, IndexError) as error:
            refuse_circuit(directory, f"{ZKEY} is not a complete proving key: {error}", _AGAIN, error)
        return header

    @classmethod
    def _parse(cls, header: bytes) -> _ZkeyHeader:
        """n8q, q, n8r, r, wires, public, domain, then the points alpha1, beta1, beta2, gamma2, delta1, delta2."""
        q, r = header[4:36], header[40:72]
        moduli = (int.from_bytes(q, "little"), int.from_bytes(r, "little"))
        if moduli != (_BASE_MODULUS, FIELD_MODULUS):
            raise ValueError("its curve is not BN254")
        wires, public, domain_size = (int.from_bytes(header[at : at + 4], "little") for at in (72, 76, 80))
        points = header[84:]
        alpha, delta = points[:_POINT_BYTES], points[7 * _POINT_BYTES : 9 * _POINT_BYTES]
        if len(points) != 9 * _POINT_BYTES or not public < wires or domain_size & (domain_size - 1):
            raise ValueError("its header is invalid")
        return cls(wires, public, domain_size, _coordinates(alpha), _coordinates(delta))

    def _check_sizes(self, sizes: dict[int, int], coefficients: int) -> None:
        points = {3: self.public + 1, 5: self.wires, 6: self.wires, 7: 2 * self.wires,
                  8: self.wires - self.public - 1, 9: self.domain_size}  # fmt: skip
        wanted = {number: count * _POINT_BYTES for number, count in points.items()}
        wanted[4] = 4 + coefficients * _COEFFICIENT_BYTES
        for number, size in wanted.items():
            if sizes[number] != size:
                raise ValueError(f"section {number} has {sizes[number]} bytes, expected {size}")


def _sections(file: BinaryIO, size: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Number, and place and length in bytes, of each section of an iden3 binary file. Raises ValueError."""
    if file.read(len(ZKEY_MAGIC)) != ZKEY_MAGIC:
        raise ValueError("it does not start with zkey")
    count, at = int.from_bytes(file.read(4), "little"), 12
    for _ in range(min(count, 64)):
        head = _read(file, at, 12)
        number, length = int.from_bytes(head[:4], "little"), int.from_bytes(head[4:], "little")
        at += 12 + length
        if at > size:
            raise ValueError(f"it ends within section {number}")
        yield number, (at - length, length)


def _read(file: BinaryIO, at: int, length: int) -> bytes:
    file.seek(at)
    content = file.read(min(length, 1 << 16))
    if len(content) != length:
        raise ValueError("it is truncated")
    return content


def _coordinates(point: bytes) -> tuple[int, ...]:
    inverse = pow(_MONTGOMERY, -1, _BASE_MODULUS)
    pieces = (point[at : at + _COORDINATE_BYTES] for at in range(0, len(point), _COORDINATE_BYTES))
    return tuple(int.from_bytes(piece, "little") * inverse % _BASE_MODULUS for piece in pieces)


def _flat(value: object, name: str) -> list[Any]:
    """The values of nested lists, in order. Raises InputError for lists nested too deeply."""
    level = list(value) if isinstance(value, (list, tuple)) else [value]
    for _ in range(_DEEPEST):
        if not any(isinstance(item, (list, tuple)) for item in level):
            return level
        level = [one for item in level for one in (item if isinstance(item, (list, tuple)) else (item,))]
    raise InputError(f"input {_shown(name)} has lists deeper than {_DEEPEST}")


def _integer(value: object, name: str) -> int:
    number: int | None = None
    is_whole_text = isinstance(value, str) and _INTEGER.fullmatch(value)
    is_whole_float = isinstance(value, float) and abs(value) <= _LARGEST_WHOLE_FLOAT and value.is_integer()
    if isinstance(value, int) or is_whole_text or is_whole_float:
        number = int(value)  # type: ignore[call-overload]  # it is one of the three
    if number is None or abs(number) >= FIELD_MODULUS:
        raise InputError(f"input {_shown(name)} has a value that is not an integer of the field: {_shown(value)}")
    return number


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
