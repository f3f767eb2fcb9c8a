"""One circuit on disk: what its folder must hold, what its settings say, and what a request for it must look like.

A circuit is a folder ``model_<id>`` as validators ship it. An EZKL one holds ``metadata.json``, ``settings.json``,
``model.compiled``, ``vk.key`` and ``pk.key``; for CIRCOM's see `circuit_circom`. Folders we built also hold
``build.json`` (how), ``checksums.json`` and ``input.json`` (an example). Everything here reads headers and small
files: EZKL is never imported, because opening a file of another version with it aborts the whole process. Finding and
caching circuits is `circuit_store`'s job, proving the handlers'.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from importlib import metadata as distributions
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from omron_miner import circuit_circom as circom
from omron_miner.errors import CircuitError, InputError
from omron_miner.errors import refuse_circuit as _refuse

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.circuit_circom import CircomSettings

Number = float | int | bool
Inputs = list[list[Number]] | dict[str, list[int]]
"""A request's inputs once they passed `validate_inputs`: EZKL's by place, CIRCOM's by name."""

FOLDER_PREFIX = "model_"
METADATA, SETTINGS, COMPILED, VK, PK = "metadata.json", "settings.json", "model.compiled", "vk.key", "pk.key"
CHECKSUMS, BUILD, EXAMPLE_INPUT = "checksums.json", "build.json", "input.json"
REQUIRED_FILES = (METADATA, SETTINGS, COMPILED, VK, PK)
"""Of an EZKL circuit."""
CIRCOM_FILES = (METADATA, SETTINGS, circom.WASM, circom.VERIFICATION_KEY, circom.ZKEY)
"""Of a CIRCOM circuit."""

_ID = re.compile(r"[a-f0-9]{64}")
_HASHED_AT_LOAD_BYTES = 1 << 20
"""Files up to this size are hashed at every load (a few ms); larger ones only by `check_files`."""
_KEY_FORMAT = 3
"""First byte of a key file of halo2's raw-bytes format; the second is logrows (read from keys of 22.0.1 and 23.0.5)."""
_LARGEST_FELT = 1 << 62
"""EZKL computes in 128-bit integers; an input that quantises beyond this can only overflow later, so it is refused."""


class ProofSystem(str, Enum):
    """What proves a circuit; the values stand in metadata.json."""

    EZKL = "EZKL"
    CIRCOM = "CIRCOM"


class CircuitType(str, Enum):
    """Which synapse asks for a circuit (QueryZkProof or ProofOfWeightsSynapse); the values stand in metadata.json."""

    PROOF_OF_COMPUTATION = "proof_of_computation"
    PROOF_OF_WEIGHTS = "proof_of_weights"


class Metadata(BaseModel):
    """metadata.json with the keys upstream knows; upstream refuses a circuit with any other, so we write no other."""

    model_config = ConfigDict(frozen=True)  # other keys are passed over: a validator's circuit is taken as it is

    name: str = Field(min_length=1)
    description: str
    author: str
    version: str
    proof_system: ProofSystem
    type: CircuitType
    external_files: dict[str, str]
    netuid: int | str | None = None
    weights_version: int | str | None = None
    timeout: float | None = Field(None, gt=0, allow_inf_nan=False)
    benchmark_choice_weight: float | None = None


@dataclass(frozen=True)
class Settings:
    """What we need of EZKL's settings.json; `whole` is all of it.

    Shapes are of the public instances in order: inputs first when they are public, then outputs when they are.
    Scales are binary exponents (7 means multiples of 1/128). Types are EZKL's names (F32, Int, Bool, ...).
    """

    version: str
    logrows: int
    num_rows: int
    input_visibility: str
    output_visibility: str
    param_visibility: str
    model_instance_shapes: tuple[tuple[int, ...], ...]
    model_input_scales: tuple[int, ...]
    model_output_scales: tuple[int, ...]
    input_types: tuple[str, ...]
    whole: dict[str, Any] = field(repr=False, hash=False, compare=False)

    @property
    def public_inputs(self) -> bool:
        """Whether the inputs are part of the proof's instances, which a validator then rebuilds from its request."""
        return self.input_visibility == "Public"

    @property
    def public_outputs(self) -> bool:
        """Whether the outputs are part of the proof's instances."""
        return self.output_visibility == "Public"

    @property
    def input_sizes(self) -> tuple[int, ...] | None:
        """Numbers in each input; None when the inputs are private, whose shapes settings.json does not give."""
        count = len(self.model_input_scales)
        return tuple(map(math.prod, self.model_instance_shapes[:count])) if self.public_inputs else None

    @property
    def output_sizes(self) -> tuple[int, ...]:
        """Numbers in each output; empty when the outputs are not public."""
        skip = len(self.model_input_scales) if self.public_inputs else 0
        return tuple(map(math.prod, self.model_instance_shapes[skip:])) if self.public_outputs else ()


@dataclass(frozen=True)
class Circuit:
    """A circuit that passed `load_circuit`. Plain data: it can be pickled and sent to a worker."""

    id: str
    directory: Path
    name: str
    version: str
    proof_system: ProofSystem
    circuit_type: CircuitType
    timeout_seconds: float | None
    """What metadata.json says; None leaves it to the constants."""
    ezkl: Settings | None
    """None unless EZKL proves it."""
    circom: CircomSettings | None = None
    """None unless it is a CIRCOM circuit."""

    @property
    def settings(self) -> Settings:
        """EZKL's settings. Raises CircuitError for a circuit of another system."""
        if self.ezkl is None:
            raise CircuitError(f"{self.label} has no EZKL settings", "name an EZKL circuit")
        return self.ezkl

    @property
    def logrows(self) -> int | None:
        """Of the SRS it needs; None when it needs none (CIRCOM: all is in its key)."""
        return self.ezkl.logrows if self.ezkl else None

    @property
    def rows(self) -> int:
        """Of EZKL's table, or of CIRCOM's constraint system."""
        return self.ezkl.num_rows if self.ezkl else self._circom.domain_size

    @property
    def _circom(self) -> CircomSettings:
        if self.circom is None:
            raise CircuitError(f"{self.label} is not a CIRCOM circuit", "name a CIRCOM circuit")
        return self.circom

    @property
    def label(self) -> str:
        """How log lines and events name it."""
        return f"{self.name} v{self.version} using {self.proof_system.value}"

    @property
    def model_compiled(self) -> Path:
        """EZKL's compiled model, or circom's witness program."""
        return self.directory / (COMPILED if self.ezkl else circom.WASM)

    @property
    def pk(self) -> Path:
        """The proving key."""
        return self.directory / (PK if self.ezkl else circom.ZKEY)

    @property
    def vk(self) -> Path:
        """The verification key."""
        return self.directory / (VK if self.ezkl else circom.VERIFICATION_KEY)

    @property
    def settings_file(self) -> Path:
        """settings.json itself."""
        return self.directory / SETTINGS


@lru_cache(maxsize=1)
def ezkl_version() -> str:
    """The installed EZKL's version, read without importing it. Raises CircuitError when it is not installed."""
    try:
        return distributions.version("ezkl")
    except distributions.PackageNotFoundError as error:
        raise CircuitError("EZKL is not installed", "run the play again") from error


def load_circuit(directory: Path) -> Circuit:
    """The circuit in `directory` (``model_<id>``).

    Raises CircuitError when a file is missing or malformed, the circuit was made by another EZKL version than the
    installed one, its keys and settings do not belong together as far as the disk shows, or a checksum differs.
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
    """All that `load_circuit` checks but the proving key, whatever the proof system. Raises CircuitError."""
    id_of(directory)
    if key_name(directory) != circom.ZKEY:
        return load_without_key(directory)[0]
    for name in CIRCOM_FILES:
        if name != circom.ZKEY and not (directory / name).is_file():
            _refuse(directory, f"{name} is missing", "copy the folder again")
    circom.load_without_key(directory)
    return read_metadata(directory)


def key_name(directory: Path) -> str:
    """The name of the proving key's file, by metadata.json; EZKL's without one. Raises CircuitError."""
    is_circom = (directory / METADATA).is_file() and read_metadata(directory).proof_system is ProofSystem.CIRCOM
    return circom.ZKEY if is_circom else PK


def load_without_key(directory: Path) -> tuple[Metadata, Settings]:
    """Of an EZKL circuit, all that `load_circuit` checks but the proving key, which may be missing.

    EZKL can open the rest. Raises CircuitError as that does.
    """
    id_of(directory)
    for name in REQUIRED_FILES:
        if name != PK and not (directory / name).is_file():
            _refuse(directory, f"{name} is missing", "copy the folder again")
    meta = read_metadata(directory)
    if meta.proof_system is not ProofSystem.EZKL:
        _refuse(directory, f"it is a {meta.proof_system.value} circuit, not EZKL's", "name an EZKL circuit")
    settings = _read_settings(directory)
    if settings.version != ezkl_version():
        message = f"was made by EZKL {settings.version}, installed is {ezkl_version()}"
        _refuse(directory, message, "build it again, or install that version of EZKL")
    check_compiled_version(directory, settings.version)
    _check_vk(directory, settings.logrows)
    return meta, settings


def id_of(directory: Path) -> str:
    """The circuit id in a folder's name ``model_<64 lower-case hex digits>``. Raises CircuitError."""
    circuit_id = directory.name.removeprefix(FOLDER_PREFIX)
    if directory.name == circuit_id or not _ID.fullmatch(circuit_id):
        _refuse(
            directory, "the folder's name is not model_<64 lower-case hex digits>", "rename it as upstream names it"
        )
    return circuit_id


def fingerprint(directory: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and mtime (ns) of every file in `directory`: it changes when the circuit does. Raises OSError."""
    stats = [(path.name, path.stat()) for path in directory.iterdir()]
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))


def write_checksums(directory: Path) -> None:
    """Records size and SHA-256 of the circuit's files in checksums.json. Raises OSError."""
    files = {name: {"bytes": (directory / name).stat().st_size, "sha256": sha256(directory / name)}
             for name in _own_files(directory)}  # fmt: skip
    (directory / CHECKSUMS).write_text(json.dumps(files, indent=1) + "\n", encoding="utf-8")


def check_files(directory: Path, hash_up_to_bytes: float = math.inf) -> bool:
    """Compares the files with checksums.json: sizes always, hashes of files up to `hash_up_to_bytes`.

    False when there is no checksums.json to compare with. Raises CircuitError on a difference.
    """
    try:
        recorded = json.loads((directory / CHECKSUMS).read_text(encoding="utf-8"))
        wanted = {name: (int(recorded[name]["bytes"]), str(recorded[name]["sha256"])) for name in _own_files(directory)}
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError) as error:
        _refuse(directory, f"{CHECKSUMS} is unreadable: {error!r}", "copy or build the circuit again", error)
    for name, (size, digest) in wanted.items():
        found = (directory / name).stat().st_size
        if found != size:
            _refuse(directory, f"{name} has {found} bytes, {CHECKSUMS} says {size}", "copy or build the circuit again")
        if size <= hash_up_to_bytes and sha256(directory / name) != digest:
            _refuse(directory, f"{name} is not the file {CHECKSUMS} was made for", "copy or build the circuit again")
    return True


def _own_files(directory: Path) -> tuple[str, ...]:
    """The files its proof system wants."""
    return CIRCOM_FILES if key_name(directory) == circom.ZKEY else REQUIRED_FILES


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex, read in pieces. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def validate_inputs(circuit: Circuit, inputs: Mapping[str, object]) -> Inputs:
    """A request's inputs as its proof system takes them. Raises InputError when it would not."""
    if circuit.circom:
        return circom.validate_inputs(circuit.name, circuit.circom, inputs)
    return _ezkl_inputs(circuit, inputs)


def _ezkl_inputs(circuit: Circuit, inputs: Mapping[str, object]) -> list[list[Number]]:
    """The mapping's values in their order, each a flat list of finite numbers.

    A lone number stands for a list of one. Raises InputError on NaN, infinity, strings, nested lists, numbers too
    large to quantise, anything but 0 and 1 for a Bool (EZKL would panic), or other counts than the circuit takes
    (known only when its inputs are public).
    """
    settings = circuit.settings
    scales, sizes = settings.model_input_scales, settings.input_sizes
    if not isinstance(inputs, Mapping) or len(inputs) != len(scales):
        given = len(inputs) if isinstance(inputs, Mapping) else type(inputs).__name__
        raise InputError(f"{circuit.name} takes {len(scales)} input(s), the request has {given}")
    kinds = settings.input_types or ("F64",) * len(scales)
    rows = []
    for index, (name, value) in enumerate(inputs.items()):
        row = list(value) if isinstance(value, (list, tuple)) else [value]
        if sizes and len(row) != sizes[index]:
            raise InputError(f"input {name!r} has {len(row)} value(s), {circuit.name} takes {sizes[index]}")
        limit = math.ldexp(_LARGEST_FELT, -scales[index])
        rows.append([_number(number, f"{name!r}[{place}]", kinds[index], limit) for place, number in enumerate(row)])
    return rows


def example_inputs(circuit: Circuit, seed: int = 0) -> dict[str, list[Number]]:
    """Inputs to try the circuit with: those in its ``input.json`` for seed 0, otherwise random ones of its shapes.

    Random values are in [-1, 1] for floats and 0 or 1 for the rest, which every circuit's lookup tables should hold.
    A CIRCOM circuit, whose bounds nobody tells, gets its example's lists in another order. Without an input.json
    there are examples for EZKL circuits with public inputs, whose shapes the settings tell, and for the subnet's proofs
    of weights. Raises InputError for the others.
    """
    path = circuit.directory / EXAMPLE_INPUT
    example = read_input_file(path) if path.is_file() else None
    if example and seed == 0:
        return example
    if circuit.circom:
        example = example or circom.weights_example(circuit.circom)
        if not example:
            raise InputError(f"{circuit.name} has no {EXAMPLE_INPUT}", f"put an example at {path}")
        return _shuffled(example, seed) if seed else example
    sizes: Sequence[int] | None = circuit.settings.input_sizes
    sizes = sizes or ([len(row) for row in example.values()] if example else None)
    if not sizes:
        raise InputError(f"{circuit.name} has private inputs and no {EXAMPLE_INPUT}", f"put an example at {path}")
    return random_inputs(sizes, circuit.settings.input_types, seed)


def _shuffled(example: dict[str, list[Number]], seed: int) -> dict[str, list[Number]]:
    source = random.Random(seed)  # noqa: S311  examples, not secrets
    return {name: source.sample(row, len(row)) if isinstance(row, list) else row for name, row in example.items()}


def random_inputs(sizes: Sequence[int], types: Sequence[str], seed: int) -> dict[str, list[Number]]:
    """Reproducible random inputs: floats in [-1, 1] of three places, 0 or 1 for Int, Bool and TDim."""
    source = random.Random(seed)  # noqa: S311  examples, not secrets
    rows: dict[str, list[Number]] = {}
    for index, size in enumerate(sizes):
        real = index >= len(types) or types[index].startswith("F")
        draw = (lambda: round(source.uniform(-1, 1), 3)) if real else (lambda: source.randint(0, 1))
        rows[f"input_{index}"] = [draw() for _ in range(size)]
    return rows


def read_input_file(path: Path) -> dict[str, list[Number]]:
    """Inputs from a JSON file: an object of name to values, or EZKL's ``{"input_data": [[...], ...]}``.

    What the values must be is for `validate_inputs`. Raises InputError when the file is missing or not such JSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read inputs from {path}: {error}", "name a JSON file") from error
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path} is not a JSON object of inputs", 'write {"input_data": [[...]]}')
    rows = content.get("input_data")
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        return content
    if set(content) - {"input_data", "output_data"}:  # EZKL writes the second as null
        return content
    return {f"input_{index}": row for index, row in enumerate(rows)}


def read_metadata(directory: Path) -> Metadata:
    """What metadata.json says. Raises CircuitError."""
    try:
        return Metadata.model_validate_json((directory / METADATA).read_bytes())
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'file'}: {one['msg']}" for one in error.errors())
        _refuse(directory, f"{METADATA}: {problems}", "copy the folder again", error)


def _read_settings(directory: Path) -> Settings:
    try:
        whole = json.loads((directory / SETTINGS).read_bytes())
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
    except (ValueError, KeyError, TypeError) as error:
        _refuse(directory, f"{SETTINGS} is not EZKL's: {error!r}", "copy or build the circuit again", error)
    if settings.public_inputs and len(settings.input_types) != len(settings.model_input_scales):
        _refuse(directory, f"{SETTINGS} has no input_types, so proofs cannot be checked", "build it with a newer EZKL")
    return settings


def _visibility(value: object) -> str:
    """EZKL writes plain names for all but {"Hashed": {...}} and {"KZGCommit"...}: their first word is enough here."""
    return next(iter(value)) if isinstance(value, dict) and value else str(value)


def version_mark(version: str) -> bytes:
    """What stands in every model.compiled of an EZKL `version`.

    It carries the settings it was compiled with, the version as length (8 bytes) and text.
    """
    return len(version).to_bytes(8, "little") + version.encode()


def check_compiled_version(directory: Path, version: str) -> None:
    """Raises CircuitError unless model.compiled was made by this `version` of EZKL: another one aborts opening it."""
    wanted = version_mark(version)
    path = directory / COMPILED
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            _refuse(directory, f"{COMPILED} is empty", "copy or build the circuit again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.rfind(wanted) < 0:
                message = f"{COMPILED} was not made by EZKL {version}, which {SETTINGS} names"
                _refuse(directory, message, "copy or build the circuit again: the two do not belong together")


def _check_vk(directory: Path, logrows: int) -> None:
    """A verification key begins with its format and logrows."""
    with (directory / VK).open("rb") as file:
        head = file.read(2)
    if len(head) < 2 or head[0] != _KEY_FORMAT:
        _refuse(directory, f"{VK} is not a verification key", "copy or build the circuit again")
    if head[1] != logrows:
        _refuse(
            directory, f"{VK} is for logrows {head[1]}, {SETTINGS} for {logrows}", "copy or build the circuit again"
        )


def _check_pk(directory: Path) -> None:
    """A proving key begins with its verification key."""
    vk = (directory / VK).read_bytes()
    with (directory / PK).open("rb") as file:
        head = file.read(len(vk))
    if head != vk:
        _refuse(directory, f"{PK} and {VK} do not belong together", "copy or build the circuit again")


def _number(value: object, place: str, kind: str, limit: float) -> Number:
    if not isinstance(value, (int, float)) or not -limit < value < limit:  # NaN compares false
        raise InputError(f"input {place} is not a usable number: {_shown(value)}")
    if kind == "Bool" and value not in (0, 1):
        raise InputError(f"input {place} is not true, false, 0 or 1: {_shown(value)}")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
