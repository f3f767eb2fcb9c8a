"""Circuits, the EZKL and the SRS they are proved with, and whether a host can prove them at all."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from omron_preflight.files import ABSOLUTE, file_problem, json_object, sha256
from omron_preflight.values import size, whole_number

BUILT_IN_MODELS = ("demo", "tiny")
CIRCUIT_FILES = {
    "EZKL": ("model.compiled", "settings.json", "vk.key", "pk.key", "metadata.json"),
    "CIRCOM": ("circuit.wasm", "settings.json", "verification_key.json", "circuit.zkey", "metadata.json"),
}
# Where the folder lacks it and metadata.json names its address, the host fetches it.
FETCHED_FILES = {"EZKL": "pk.key", "CIRCOM": "circuit.zkey"}
EZKL_VERSIONS = ("22.0.1", "23.0.5")  # the miner's package has a lock for each
LOGROWS = range(1, 27)  # what public SRS files exist for
DEFAULT_LOGROWS = 16
SAMPLE_SUFFIXES = (".json", ".npy")
TUNE_OPTIONS = ("baselines", "best", "compact", "data", "floor", "high", "low", "margin", "proofs")
"""Options that circuit_tune may contain, named as in `omron-miner circuit tune`."""
TUNE_BASELINES = ("all", "given")
LOWEST, HIGHEST = -1.0, 1.0
"""The tuner's default range of inputs."""
SRS_BYTES_PER_ROW = 128  # two points of 64 bytes each; kzg18 is 32 MiB

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PREBUILT_FOLDER = re.compile(r"model_[a-f0-9]{64}")


def _logrows(circuit: Mapping[str, Any]) -> int | None:
    """The logrows of a valid circuit: configured, the default, or a prebuilt folder's; otherwise None.

    None also if the host tunes the circuit, which then uses only logrows that the SRS is large enough for.
    """
    if "model" in circuit:
        found = None if circuit.get("circuit_tune") else DEFAULT_LOGROWS
        return whole_number(_given_run_args(circuit).get("logrows", found))
    settings = json_object(Path(str(circuit.get("folder", ""))).expanduser() / "settings.json") or {}
    run_args = settings.get("run_args")
    return whole_number(run_args.get("logrows")) if isinstance(run_args, dict) else None


def _tuned_run_args(circuit: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The run args in the circuit's `tuned` profile, empty without one; None if the file has no run args."""
    content = json_object(Path(str(circuit["tuned"])).expanduser()) if "tuned" in circuit else {"run_args": {}}
    run_args = (content or {}).get("run_args")
    return run_args if isinstance(run_args, Mapping) else None


def _given_run_args(circuit: Mapping[str, Any]) -> dict[str, Any]:
    """The run args of the tuned profile, overridden by those of the inventory."""
    given = [_tuned_run_args(circuit), circuit.get("run_args", {})]
    return {key: value for one in given if isinstance(one, Mapping) for key, value in one.items()}


def _model_problems(where: str, circuit: Mapping[str, Any]) -> list[str]:
    problems = []
    model = circuit["model"]
    if model not in BUILT_IN_MODELS:
        problem = file_problem(f"{where}: model", model, f"an .onnx file, or one of {', '.join(BUILT_IN_MODELS)}")
        if problem:
            problems.append(problem)
        elif not str(model).endswith(".onnx"):
            problems.append(f"{where}: model {model} is not an .onnx file: export the model to ONNX")
    if "tuned" in circuit:
        what = "a run_args.json that `omron-miner circuit tune` wrote"
        if problem := file_problem(f"{where}: tuned", circuit["tuned"], what):
            return [*problems, problem]
        if _tuned_run_args(circuit) is None:
            return [*problems, f"{where}: tuned {circuit['tuned']} has no run_args: name {what}"]
    if "circuit_tune" in circuit:
        problems += _tune_problems(where, circuit)
    run_args = circuit.get("run_args", {})
    if not isinstance(run_args, Mapping):
        return [*problems, f"{where}: run_args is not a mapping: write keys such as `logrows: 16` below it"]
    if "logrows" in _given_run_args(circuit) and _logrows(circuit) not in LOGROWS:
        problems.append(
            f"{where}: logrows {_given_run_args(circuit)['logrows']!r} is not a whole number from {LOGROWS[0]} to "
            f"{LOGROWS[-1]}: {DEFAULT_LOGROWS} is the default"
        )
    return problems


def _tune_problems(where: str, circuit: Mapping[str, Any]) -> list[str]:
    options = circuit["circuit_tune"]
    if options and "tuned" in circuit:
        return [f"{where}: tuned and circuit_tune cannot be combined: remove one of the two"]
    if isinstance(options, bool):
        return []
    if not isinstance(options, Mapping) or not options:
        return [f"{where}: circuit_tune {options!r} is neither true nor a mapping: write `true`, or `best: 2` below it"]
    problems = [
        f"{where}: circuit_tune: {name} {options[name]!r} is not {what}"
        for name, (fits, what) in _TUNE_VALUES.items()
        if name in options and not fits(options[name])
    ]
    if unknown := sorted(set(options) - set(TUNE_OPTIONS), key=str):
        names = ", ".join(map(str, unknown))
        problems.append(f"{where}: circuit_tune has no {names}: only {', '.join(TUNE_OPTIONS)} are known")
    low, high = options.get("low", LOWEST), options.get("high", HIGHEST)
    if _is_number(low) and _is_number(high) and not low < high:
        problems.append(f"{where}: circuit_tune: low {low!r} is not below high {high!r}: set the bounds of your inputs")
    if "data" in options and (problem := _samples_problem(f"{where}: circuit_tune: data", options["data"])):
        problems.append(problem)
    return problems


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_TUNE_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "low": (_is_number, "a number: the smallest in any input"),
    "high": (_is_number, "a number: the largest in any input"),
    "floor": (_is_share, "an accuracy from 0 to 1: 0.99 is the default"),
    "best": (lambda value: _is_whole(value) and value >= 1, "a whole number, at least 1: 4 is the default"),
    "proofs": (lambda value: _is_whole(value) and value >= 2, "a whole number, at least 2: 3 is the default"),
    "margin": (lambda value: _is_number(value) and value >= 1, "a number, at least 1: 2 is the default"),
    "compact": (lambda value: isinstance(value, bool), "true or false"),
    "baselines": (lambda value: value in TUNE_BASELINES, f"one of {', '.join(TUNE_BASELINES)}"),
}
"""For each option a test of its value, and the text of the error."""


def _samples_problem(variable: str, value: Any) -> str | None:
    """Why `value` names no samples on the control node, or None."""
    what = f"a file of samples ({' or '.join(SAMPLE_SUFFIXES)}) or a folder of them"
    path = Path(value).expanduser() if isinstance(value, str) else None
    if path and path.is_absolute() and path.is_dir():
        if any(file.suffix in SAMPLE_SUFFIXES for file in path.iterdir()):
            return None
        return f"{variable} {value} holds no {' or '.join(SAMPLE_SUFFIXES)} file: name {what}"
    if problem := file_problem(variable, value, what):
        return problem
    return None if path and path.suffix in SAMPLE_SUFFIXES else f"{variable} {value} is not a sample: name {what}"


def _address(metadata: Mapping[str, Any] | None, key: str) -> str | None:
    """Where the host can fetch the proving key `key`, by metadata.json; the host decides whether it may."""
    files = metadata.get("external_files") if metadata else None
    address = files.get(key) if isinstance(files, Mapping) else None
    return address if isinstance(address, str) and re.match(r"https?://", address) else None


def _folder_problems(where: str, value: Any, ezkl_version: Any) -> list[str]:
    if not isinstance(value, str) or not Path(value).expanduser().is_absolute():
        return [f"{where}: folder {value!r} is relative or no path: {ABSOLUTE}"]
    folder = Path(value).expanduser()
    if not folder.is_dir():
        return [f"{where}: folder {value} does not exist on the control node: name a prebuilt circuit's folder"]
    problems = []
    if not _PREBUILT_FOLDER.fullmatch(folder.name):
        problems.append(
            f"{where}: folder {value} is not named model_<64 hex digits>: keep the name the circuit came with"
        )
    metadata = json_object(folder / "metadata.json")
    system = str(metadata.get("proof_system", "")) if metadata else "EZKL"
    if system not in CIRCUIT_FILES:
        known = " and ".join(CIRCUIT_FILES)
        return [
            *problems,
            f"{where}: folder {value} has the proof system {system or '(none)'}, only {known} are supported: remove it",
        ]
    files = [folder / name for name in CIRCUIT_FILES[system]]
    missing = [file.name for file in files if not file.is_file() or not file.stat().st_size]
    key = FETCHED_FILES[system]
    if missing == [key] and not (folder / key).exists() and _address(metadata, key):
        missing = []
    if missing:
        problems.append(
            f"{where}: folder {value} lacks {', '.join(missing)} (or they are empty): fetch the whole circuit"
        )
    if "metadata.json" not in missing and metadata is None:
        problems.append(f"{where}: metadata.json in {value} is not a JSON object: fetch the circuit again")
    if "settings.json" not in missing:
        settings = json_object(folder / "settings.json")
        if settings is None:
            problems.append(f"{where}: settings.json in {value} is not a JSON object: fetch the circuit again")
        elif (
            system == "EZKL" and ezkl_version in EZKL_VERSIONS and (version := settings.get("version")) != ezkl_version
        ):
            either = f"set omron_ezkl_version to {version} or " if version in EZKL_VERSIONS else ""
            problems.append(
                f"{where}: folder {value} was compiled by EZKL {version or '(unknown)'}, but {ezkl_version} will "
                f"be installed: {either}use a circuit compiled by {ezkl_version}"
            )
    return problems


def ezkl_problems(ezkl_version: Any) -> list[str]:
    """The version of EZKL to install."""
    if ezkl_version in EZKL_VERSIONS:
        return []
    wanted = " or ".join(f'"{version}"' for version in EZKL_VERSIONS)
    return [f"omron_ezkl_version {ezkl_version!r} is not supported: choose {wanted}"]


def circuit_problems(circuits: Any, ezkl_version: Any) -> list[str]:
    """The list of circuits: its form, the models' files, the prebuilt folders and the EZKL version they are of.

    A version that `ezkl_problems` refuses is not reported for each circuit as well.
    """
    if not isinstance(circuits, list) or not circuits:
        return ["omron_circuits is not a list with at least one circuit: write `- {name: demo, model: demo}`"]
    problems, names = [], []
    for position, circuit in enumerate(circuits, start=1):
        where = f"omron_circuits, number {position}"
        if not isinstance(circuit, Mapping):
            problems.append(f"{where} is not a mapping: write name and either model or folder")
            continue
        name = circuit.get("name")
        if isinstance(name, str) and _NAME.fullmatch(name):
            where = f"circuit {name}"
            names.append(name)
        else:
            problems.append(
                f"{where}: name {name!r} is not a valid name: use letters, digits, dots, dashes and underscores"
            )
        known = ("name", "model", "folder", "tuned", "circuit_tune", "run_args", "floor")
        if unknown := sorted(set(circuit) - set(known)):
            problems.append(f"{where}: unknown keys {', '.join(unknown)}: only {', '.join(known)} are known")
        if ("model" in circuit) == ("folder" in circuit):
            problems.append(f"{where}: set either model (to build it) or folder (prebuilt), not both")
        elif "model" in circuit:
            problems += _model_problems(where, circuit)
        else:
            problems += _folder_problems(where, circuit["folder"], ezkl_version)
            problems += [
                f"{where}: {key} does nothing for a prebuilt folder: remove it"
                for key in ("tuned", "circuit_tune", "run_args", "floor")
                if key in circuit
            ]
        if "floor" in circuit and not _is_share(circuit["floor"]):
            problems.append(f"{where}: floor {circuit['floor']!r} is not a number from 0 to 1: write `floor: 0.99`")
    problems += [
        f"{names.count(name)} circuits are named {name}: give each its own name"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    return problems + _same_circuit_problems(circuits)


def _same_circuit_problems(circuits: list[Any]) -> list[str]:
    """Circuits that differ only in their names: they would share one folder, which has one name."""
    named: dict[str, list[str]] = {}
    for circuit in circuits:
        if isinstance(circuit, Mapping):
            content = {key: value for key, value in circuit.items() if key != "name" and value not in ({}, None)}
            named.setdefault(json.dumps(content, sort_keys=True, default=str), []).append(str(circuit.get("name")))
    return [
        f"circuits {' and '.join(names)} differ only in their names: keep one of them"
        for names in named.values()
        if len(set(names)) > 1
    ]


def srs_problems(settings: Mapping[str, Any]) -> list[str]:
    """The SRS file, if set: readable, with the right checksum, large enough for every circuit, not a test SRS."""
    value, wanted = settings["omron_srs_file"], settings["omron_srs_sha256"]
    if not value:
        return ["omron_srs_sha256 is given without omron_srs_file: name the file, or remove it"] if wanted else []
    if problem := file_problem("omron_srs_file", value, "an SRS file such as kzg18.srs"):
        return [problem]
    problems = []
    path = Path(value).expanduser()
    if settings["omron_network"] != "local":
        if _is_test_srs(path):
            problems.append(f"omron_srs_file {value} is a test SRS, and validators reject its proofs: use a public one")
        if not wanted:
            problems.append(f"omron_srs_file {value} has no checksum: set omron_srs_sha256")
    circuits = settings["omron_circuits"]
    given = [circuit for circuit in circuits if isinstance(circuit, Mapping)] if isinstance(circuits, list) else []
    sizes = [size for circuit in given if (size := _logrows(circuit)) is not None and size in LOGROWS]
    needed = SRS_BYTES_PER_ROW * 2 ** max(sizes, default=0)
    if sizes and path.stat().st_size < needed:
        problems.append(
            f"omron_srs_file {value} has {path.stat().st_size} bytes, but logrows {max(sizes)} needs {needed}: "
            f"use kzg{max(sizes)}.srs or a larger one"
        )
    if wanted:
        if not isinstance(wanted, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", wanted):
            problems.append(f"omron_srs_sha256 {wanted!r} is not 64 hex digits: write what `sha256sum` prints")
        else:
            found = sha256(path)
            if found != wanted.lower():
                problems.append(f"omron_srs_file {value} has the SHA-256 {found}, not {wanted}: fetch it again")
    return problems


def _is_test_srs(path: Path) -> bool:
    """Whether the package generated the SRS, according to the record next to it or an earlier release's marker."""
    if "test-only" in path.name.lower() or path.with_name(f"{path.name}.TEST-ONLY").exists():
        return True
    try:
        entries = json.loads(path.with_name(f"{path.name}.json").read_bytes())
        return any(one["origin"] == "generated" and one["sha256"] == sha256(path) for one in entries)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def prebuilt_keys(circuits: Any) -> Iterable[tuple[str, Path]]:
    """Name and proving key of each prebuilt circuit that has one; `circuit_problems` reports the others."""
    for circuit in circuits if isinstance(circuits, list) else []:
        value = circuit.get("folder") if isinstance(circuit, Mapping) else None
        folder = Path(value).expanduser() if isinstance(value, str) else Path()
        for key in FETCHED_FILES.values():
            if folder.is_absolute() and (folder / key).is_file():
                yield str(circuit.get("name")), folder / key
                break


def _known_circuits(circuits: Any, needs: Mapping[str, Any]) -> Iterable[tuple[str, int, int]]:
    """Name, proving key size and number of instances of each circuit for which these are known before a build.

    That is the case for prebuilt folders, and for the built-in models with the run args measured in `needs`.
    """
    for name, key in prebuilt_keys(circuits):
        if key.name != FETCHED_FILES["EZKL"]:  # what others need was not measured
            continue
        shapes = (json_object(key.parent / "settings.json") or {}).get("model_instance_shapes")
        try:
            instances = sum(math.prod(shape) for shape in shapes or [])
        except TypeError:
            instances = 0
        yield name, key.stat().st_size, instances
    for circuit in circuits if isinstance(circuits, list) else []:
        if isinstance(circuit, Mapping) and not any(circuit.get(key) for key in ("run_args", "tuned", "circuit_tune")):
            model = circuit.get("model")
            if isinstance(model, str) and (built_in := needs["built_in_models"].get(model)):
                yield str(circuit.get("name")), built_in["pk_bytes"], built_in["instances"]


def needs_problems(circuits: Any, needs: Mapping[str, Any], memory_mb: int, shm_bytes: int | None) -> list[str]:
    """Circuits that cannot be proved on a host with `memory_mb` MiB of RAM and `shm_bytes` of RAM disk (None: unknown).

    `needs` is the package's needs.json; its needs.py computes the same. A circuit is refused only
    below the lower bound; between the bounds the doctor warns. The operator's own .onnx is checked when it is built.
    """
    memory, session = needs["proof_memory"], needs["session"]
    problems, total = [], memory_mb * 2**20
    for name, pk_bytes, instances in _known_circuits(circuits, needs):
        low, high = (
            memory["process_bytes"] + memory[key] * pk_bytes for key in ("low_per_key_byte", "high_per_key_byte")
        )
        if total < low:
            problems.append(
                f"circuit {name} needs about {size(low)} to {size(high)} to prove (its proving key has "
                f"{size(pk_bytes)}), this host has {size(total)} for it: use a larger host, or "
                "remove the circuit from omron_circuits"
            )
        files = session["bytes"] + session["bytes_per_instance"] * instances
        if shm_bytes and shm_bytes < files:
            problems.append(
                f"circuit {name} needs about {files // 2**20 + 1} MiB of /dev/shm for a request's files, shm_size "
                f"gives it {shm_bytes // 2**20} MiB: raise shm_size"
            )
    return problems
