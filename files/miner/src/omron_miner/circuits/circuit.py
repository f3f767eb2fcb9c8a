"""One circuit on disk: what its folder must hold, and what its settings say.

A circuit is a folder ``model_<id>`` as validators ship it. An EZKL one holds ``metadata.json``, ``settings.json``,
``model.compiled``, ``vk.key`` and ``pk.key``; for CIRCOM's see `circuits.circom`. Folders we built also hold
``build.json`` (how), ``checksums.json`` and ``input.json`` (an example). This file is the model: names, types and
metadata.json. `load` reads a folder, `checksums` compares it, `inputs` validates a request's inputs, `circuit_store`
finds and caches circuits.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from omron_miner.circuits import circom
from omron_miner.constants import SHA256_HEX
from omron_miner.errors import CircuitError, problems_in_words
from omron_miner.errors import refuse_circuit as _refuse
from omron_miner.host import installed_version

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.circuits.circom import CircomSettings

FOLDER_PREFIX = "model_"
_ID = re.compile(SHA256_HEX)
METADATA, SETTINGS, COMPILED, VK, PK = "metadata.json", "settings.json", "model.compiled", "vk.key", "pk.key"
CHECKSUMS, BUILD, EXAMPLE_INPUT = "checksums.json", "build.json", "input.json"
REQUIRED_FILES = (METADATA, SETTINGS, COMPILED, VK, PK)
"""Of an EZKL circuit."""
CIRCOM_FILES = (METADATA, SETTINGS, circom.WASM, circom.VERIFICATION_KEY, circom.ZKEY)
"""Of a CIRCOM circuit."""
KEY_FILES = (PK, circom.ZKEY)
"""The proving key's file name for each proof system."""


class ProofSystem(str, Enum):
    """What proves a circuit; the values are those of metadata.json."""

    EZKL = "EZKL"
    CIRCOM = "CIRCOM"


class CircuitType(str, Enum):
    """Which synapse requests a circuit (QueryZkProof or ProofOfWeightsSynapse); values as in metadata.json."""

    PROOF_OF_COMPUTATION = "proof_of_computation"
    PROOF_OF_WEIGHTS = "proof_of_weights"


class Metadata(BaseModel):
    """metadata.json with the keys upstream knows; upstream refuses a circuit with any other, so we write no other."""

    model_config = ConfigDict(frozen=True)  # other keys are ignored: a validator's circuit is accepted as it is

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
        """Size of each input; None for private inputs, whose shapes are not in settings.json."""
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
        """logrows of the SRS it needs; None if it needs none (CIRCOM: everything is in its key)."""
        return self.ezkl.logrows if self.ezkl else None

    @property
    def rows(self) -> int:
        """logrows of EZKL's table, or of CIRCOM's constraint system."""
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
    version = installed_version("ezkl")
    if version is None:
        raise CircuitError("EZKL is not installed", "run the play again")
    return version


def circuit_folder(directory: Path, circuit_id: str) -> Path:
    """The path of the circuit with this id in a folder of circuits."""
    return directory / f"{FOLDER_PREFIX}{circuit_id}"


def circuit_folders(directory: Path) -> list[Path]:
    """Every folder named ``model_...`` in a folder of circuits, by name; empty when it cannot be read."""
    try:
        return sorted(path for path in directory.glob(f"{FOLDER_PREFIX}*") if path.is_dir())
    except OSError:
        return []


def check_circuits_directory(directory: Path) -> None:
    """Raises CircuitError when the folder of circuits does not exist or cannot be read.

    For commands: the miner and the monitor treat such a folder as one without circuits.
    """
    try:
        os.listdir(os.path.join(directory, "."))  # the dot: what is in it must be accessible, too
    except FileNotFoundError as error:
        raise CircuitError(f"{directory} does not exist", "run the play, or check circuits.directory") from error
    except OSError as error:
        raise CircuitError(
            f"cannot read {directory}: {error.strerror}", "run it as the service user, or check circuits.directory"
        ) from error


def is_circuit_id(text: object) -> bool:
    """Whether it is 64 lower-case hex digits. Upstream's ids on the live network have this form, too."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def bare_name(folder: str) -> str:
    """A folder's name without ``model_``: the circuit's id, unless the name is invalid."""
    return folder.removeprefix(FOLDER_PREFIX)


def is_circuit_folder(name: str) -> bool:
    """Whether a folder of this name can be a circuit's: ``model_<64 lower-case hex digits>``."""
    return name.startswith(FOLDER_PREFIX) and is_circuit_id(bare_name(name))


def id_of(directory: Path) -> str:
    """The circuit id in a folder's name. Raises CircuitError when the name is not a circuit's."""
    if not is_circuit_folder(directory.name):
        _refuse(
            directory, "the folder's name is not model_<64 lower-case hex digits>", "rename it as upstream names it"
        )
    return bare_name(directory.name)


def ezkl_metadata(name: str, description: str, author: str = "", version: str = "0") -> dict[str, Any]:
    """The content of metadata.json for an EZKL circuit that this host builds."""
    return {
        "name": name,
        "description": description,
        "author": author,
        "version": version,
        "proof_system": ProofSystem.EZKL.value,
        "type": CircuitType.PROOF_OF_COMPUTATION.value,
        "external_files": {},
    }


def read_metadata(directory: Path) -> Metadata:
    """What metadata.json says. Raises CircuitError."""
    try:
        return Metadata.model_validate_json((directory / METADATA).read_bytes())
    except ValidationError as error:
        _refuse(directory, f"{METADATA}: {problems_in_words(error)}", "copy the folder again", error)


def key_name(directory: Path) -> str:
    """The name of the proving key's file, by metadata.json; EZKL's without one. Raises CircuitError."""
    is_circom = (directory / METADATA).is_file() and read_metadata(directory).proof_system is ProofSystem.CIRCOM
    return circom.ZKEY if is_circom else PK


def own_files(directory: Path) -> tuple[str, ...]:
    """The names of the files that its proof system needs. Raises CircuitError."""
    return CIRCOM_FILES if key_name(directory) == circom.ZKEY else REQUIRED_FILES
