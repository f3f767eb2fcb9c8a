"""What stands against a deploy, one list of sentences per topic: what is wrong and what to do about it.

Pure functions: the role gathers facts from the host, these judge them together with the inventory's values. They run on
the control node, so the operator's own files (hotkey, circuits, SRS) are looked at where they are, before anything is
copied. They never change anything and never put a file's content into a message.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

NETWORKS = ("local", "test", "finney")
BUILT_IN_MODELS = ("demo", "tiny")
COMPETITION_FILES = ("model.compiled", "settings.json")
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
"""Of a circuit's circuit_tune, as `omron-miner circuit tune` names them."""
TUNE_BASELINES = ("all", "given")
LOWEST, HIGHEST = -1.0, 1.0
"""What the tuner takes inputs to hold unless told."""
SRS_BYTES_PER_ROW = 128  # two points of 64 bytes each; kzg18 is 32 MiB

_PLACEHOLDER = re.compile(
    r"change.?me|replace.?me|placeholder|\btodo\b|\byour[-_ ]|<[^<>]+>|\bx\.x\.x\.x\b|\bxxx+\b", re.I
)
_SS58 = re.compile(r"5[1-9A-HJ-NP-Za-km-z]{47}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PREBUILT_FOLDER = re.compile(r"model_[a-f0-9]{64}")
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_TCP_LISTEN = "0A"
_ABSOLUTE = "write an absolute path (the variable inventory_dir is the inventory's folder)"


def whole_number(value: Any) -> int | None:
    """`value` as an int if it is one, or a string of digits as ``-e`` gives; None for YAML booleans and all else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return int(value)
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value) else None


def system_problems(facts: Mapping[str, Any], supported: Mapping[str, list[str]], minimum_memory_mb: int) -> list[str]:
    """Operating system, init, architecture and RAM, from Ansible's `facts`; `supported` maps distribution to versions.

    Memory is in MiB.
    """
    problems = []
    name, version = str(facts.get("distribution", "?")), str(facts.get("distribution_version", "?"))
    # Debian's version carries the point release ("12.9"), Ubuntu's does not.
    if not any(version == wanted or version.startswith(f"{wanted}.") for wanted in supported.get(name, [])):
        wanted = ", ".join(f"{system} {' or '.join(versions)}" for system, versions in supported.items())
        problems.append(f"{name} {version} is not supported: use {wanted}")
    if facts.get("service_mgr") != "systemd":
        problems.append(
            f"PID 1 is {facts.get('service_mgr', 'unknown')}, not systemd, which runs the miner: use a machine, "
            "a VM or a container that boots systemd"
        )
    if facts.get("architecture") != "x86_64":
        problems.append(
            f"the architecture is {facts.get('architecture', 'unknown')}, EZKL and Node.js are shipped for x86_64: "
            "use an x86_64 host"
        )
    memory = int(facts.get("memtotal_mb", 0))
    if memory < minimum_memory_mb:
        problems.append(
            f"{memory} MiB of RAM, at least {minimum_memory_mb} MiB are needed: use a larger host, "
            "or lower preflight_minimum_memory_mb if your circuits need less"
        )
    return problems


def disk_problems(df: str, minimum_mb: int) -> list[str]:
    """Free disk space, from the output `df` of ``df -P -B 1 PATH...``; `minimum_mb` in MiB per file system."""
    problems = []
    for line in dict.fromkeys(df.splitlines()[1:]):  # two paths on one file system: one line
        *_, available, _, mount = line.split(maxsplit=5)
        free = int(available) // 2**20
        if free < minimum_mb:
            problems.append(
                f"{free} MiB are free on {mount}, at least {minimum_mb} MiB are needed: free or add some, "
                "or lower preflight_minimum_disk_mb"
            )
    return problems


def governor_problems(required: bool, policies: int, container: bool) -> list[str]:
    """A governor that must be set (`required`) where there is nothing to set: `policies` counts cpufreq's policies."""
    if not required or (policies and not container):
        return []
    why = "in a container the governor belongs to the host" if container else "no CPU of this host has cpufreq"
    return [f"cpu_governor_required is set, but {why}: use another host, or set cpu_governor_required to false"]


def port_problems(port: Any, listeners: str, users: Mapping[str, list[str]], own_user: str) -> list[str]:
    """The axon's port: its range, and whether a process of another user than ours listens on it.

    `listeners` is the text of /proc/net/tcp and tcp6, `users` getent's passwd database (name to its other fields,
    the user id second).
    """
    number = whole_number(port)
    if number is None or not 1025 <= number <= 65534:
        return [f"omron_axon_port {port!r} is not a port from 1025 to 65534: choose one, 8091 is usual"]
    names = {fields[1]: name for name, fields in users.items()}
    owners = set()
    for line in listeners.splitlines():
        fields = line.split()
        if len(fields) > 7 and fields[3] == _TCP_LISTEN and int(fields[1].rpartition(":")[2], 16) == number:
            owners.add(names.get(fields[7], f"id {fields[7]}"))
    others = sorted(owners - {own_user})
    if not others:
        return []
    return [
        f"port {number} is taken by a process of user {' and '.join(others)}: stop it (`ss -ltnp` names it), "
        "or choose another omron_axon_port"
    ]


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def argument_problems(results: list[Mapping[str, Any]]) -> list[str]:
    """What validate_argument_spec found wrong with each role's variables, from its loop's `results`."""
    return [
        f"{error}: docs/role-variables.md says what {result['item']} takes"
        for result in results
        for error in result.get("argument_errors", ())
    ]


def placeholder_problems(settings: Mapping[str, Any]) -> list[str]:
    """Values left as an example has them, in any of `settings` and at any depth."""
    return [
        f"{name} still holds the placeholder {text!r}: write the real value"
        for name, value in settings.items()
        for text in _strings(value)
        if _PLACEHOLDER.search(text)
    ]


def _address_problem(address: str) -> str | None:
    try:
        ip = ipaddress.IPv4Address(address)
    except ValueError:
        return f"omron_external_ip {address!r} is not an IPv4 address: write the host's public one"
    if not ip.is_global or ip.is_multicast:
        return f"omron_external_ip {address} cannot be reached from the internet: write the host's public IPv4 address"
    return None


def network_problems(settings: Mapping[str, Any]) -> list[str]:
    """The network and what it needs or forbids. `settings` holds the shared ``omron_`` variables."""
    network = settings["omron_network"]
    if network not in NETWORKS:
        return [f"omron_network {network!r} is unknown: choose one of {', '.join(NETWORKS)}"]
    problems = []
    netuid = whole_number(settings["omron_netuid"])
    if netuid is None or netuid > 65535:
        problems.append(f"omron_netuid {settings['omron_netuid']!r} is not a subnet: 2 on finney, 118 on test")
    address, validators = settings["omron_external_ip"], settings["omron_local_validator_hotkeys"]
    if network != "local":
        if not address:
            problems.append(
                f"omron_external_ip is empty, but validators of {network} need an address to call: "
                "write the host's public IPv4 address"
            )
        elif not _PLACEHOLDER.search(str(address)) and (problem := _address_problem(str(address))):
            problems.append(problem)
        if validators:
            problems.append(
                f"omron_local_validator_hotkeys is for the local network: remove it, {network} says who may ask"
            )
    elif not isinstance(validators, list):
        problems.append("omron_local_validator_hotkeys is not a list: write one SS58 address a line, each after a dash")
    else:
        problems += [
            f"omron_local_validator_hotkeys holds {key!r}, which is no SS58 address: they begin with 5, 48 characters"
            for key in validators
            if not isinstance(key, str) or not _SS58.fullmatch(key)
        ]
    return problems


def _file_problem(variable: str, value: Any, what: str) -> str | None:
    """Why `value` is no readable file on the control node, or None."""
    if not isinstance(value, str):
        return f"{variable} {value!r} is not a path: write the path of {what}"
    path = Path(value).expanduser()
    if not path.is_absolute():
        return f"{variable} {value} is relative: {_ABSOLUTE}"
    if path.is_dir():
        return f"{variable} {value} is a folder: name the file itself, {what}"
    try:
        with path.open("rb"):
            return None
    except OSError as error:
        return f"{variable} {value} cannot be read on the control node ({error.strerror}): name {what}"


def _json_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in the file, or None when it holds anything else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _hotkey_problems(value: Any) -> list[str]:
    what = "the hotkey's file, hotkeys/NAME of a bittensor wallet"
    # Before anything is opened: a coldkey is not even read.
    if isinstance(value, str) and "coldkey" in value.lower():
        return [
            f"omron_hotkey_file {value} looks like a coldkey, which must never reach a miner: name {what}, "
            "and keep the coldkey off this machine too"
        ]
    if problem := _file_problem("omron_hotkey_file", value, what):
        return [problem]
    path = Path(value).expanduser()
    with path.open("rb") as file:
        if file.read(5) == b"$NACL":
            return [
                f"omron_hotkey_file {value} is encrypted, and a service has nobody to ask: name an unencrypted hotkey"
            ]
    content = _json_object(path)
    if content is None or not {"ss58Address", "secretPhrase", "secretSeed", "privateKey"} & set(content):
        return [f"omron_hotkey_file {value} is not a bittensor key file (JSON with ss58Address): name {what}"]
    return []


def wallet_problems(settings: Mapping[str, Any], coldkeys_on_host: list[str]) -> list[str]:
    """Hotkey and coldkey: what the operator names, and the paths of coldkeys that lie in the host's wallets."""
    problems = [
        f"{path} on the host is a coldkey, which must never be on a miner: move it to a machine that is offline, "
        "and consider its funds exposed"
        for path in coldkeys_on_host
    ]
    hotkey, network = settings["omron_hotkey_file"], settings["omron_network"]
    if hotkey:
        problems += _hotkey_problems(hotkey)
    elif network in NETWORKS and network != "local":
        problems.append(
            f"omron_hotkey_file is empty, but {network} needs your registered hotkey: "
            "name its file (hotkeys/NAME of a wallet) on the control node"
        )
    return problems


def _logrows(circuit: Mapping[str, Any]) -> int | None:
    """The logrows a well-formed circuit is built with: given, the default, or a prebuilt folder's; else None.

    None also where tuning finds it: what a given SRS is too small for is out then.
    """
    if "model" in circuit:
        found = None if circuit.get("circuit_tune") else DEFAULT_LOGROWS
        return whole_number(_given_run_args(circuit).get("logrows", found))
    settings = _json_object(Path(str(circuit.get("folder", ""))).expanduser() / "settings.json") or {}
    run_args = settings.get("run_args")
    return whole_number(run_args.get("logrows")) if isinstance(run_args, dict) else None


def _tuned_run_args(circuit: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the circuit's profile from `omron-miner circuit tune` says; None when there is none or it is not one."""
    content = _json_object(Path(str(circuit["tuned"])).expanduser()) if "tuned" in circuit else {"run_args": {}}
    run_args = (content or {}).get("run_args")
    return run_args if isinstance(run_args, Mapping) else None


def _given_run_args(circuit: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the tuned profile and of the inventory, which win."""
    given = [_tuned_run_args(circuit), circuit.get("run_args", {})]
    return {key: value for one in given if isinstance(one, Mapping) for key, value in one.items()}


def _model_problems(where: str, circuit: Mapping[str, Any]) -> list[str]:
    problems = []
    model = circuit["model"]
    if model not in BUILT_IN_MODELS:
        problem = _file_problem(f"{where}: model", model, f"an .onnx file, or one of {', '.join(BUILT_IN_MODELS)}")
        if problem:
            problems.append(problem)
        elif not str(model).endswith(".onnx"):
            problems.append(f"{where}: model {model} is not an .onnx file: export the model to ONNX")
    if "tuned" in circuit:
        what = "a run_args.json that `omron-miner circuit tune` wrote"
        if problem := _file_problem(f"{where}: tuned", circuit["tuned"], what):
            return [*problems, problem]
        if _tuned_run_args(circuit) is None:
            return [*problems, f"{where}: tuned {circuit['tuned']} has no run_args: name {what}"]
    if "circuit_tune" in circuit:
        problems += _tune_problems(where, circuit)
    run_args = circuit.get("run_args", {})
    if not isinstance(run_args, Mapping):
        return [*problems, f"{where}: run_args is not a mapping: write `logrows: 16` and the like below it"]
    if "logrows" in _given_run_args(circuit) and _logrows(circuit) not in LOGROWS:
        problems.append(
            f"{where}: logrows {_given_run_args(circuit)['logrows']!r} is not a whole number from {LOGROWS[0]} to "
            f"{LOGROWS[-1]}: {DEFAULT_LOGROWS} is the default"
        )
    return problems


def _tune_problems(where: str, circuit: Mapping[str, Any]) -> list[str]:
    options = circuit["circuit_tune"]
    if options and "tuned" in circuit:
        return [f"{where}: tuned names a result and circuit_tune has the host find one: remove one of the two"]
    if isinstance(options, bool):
        return []
    if not isinstance(options, Mapping) or not options:
        return [f"{where}: circuit_tune {options!r} is neither true nor options: write `true`, or `best: 2` below it"]
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
        problems.append(f"{where}: circuit_tune: low {low!r} is not below high {high!r}: give both as inputs hold them")
    if "data" in options and (problem := _samples_problem(f"{where}: circuit_tune: data", options["data"])):
        problems.append(problem)
    return problems


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_TUNE_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "low": (_is_number, "a number: no honest input holds a smaller one"),
    "high": (_is_number, "a number: no honest input holds a larger one"),
    "floor": (lambda value: _is_number(value) and 0 <= value <= 1, "an accuracy from 0 to 1: 0.99 is the default"),
    "best": (lambda value: _is_whole(value) and value >= 1, "a whole number from 1 on: 4 is the default"),
    "proofs": (lambda value: _is_whole(value) and value >= 2, "a whole number from 2 on: 3 is the default"),
    "margin": (lambda value: _is_number(value) and value >= 1, "a number from 1 on: 2 is the default"),
    "compact": (lambda value: isinstance(value, bool), "true or false"),
    "baselines": (lambda value: value in TUNE_BASELINES, f"one of {', '.join(TUNE_BASELINES)}"),
}
"""What an option's value must be, and how that is said."""


def _samples_problem(variable: str, value: Any) -> str | None:
    """Why `value` names no samples on the control node, or None."""
    what = f"a file of samples ({' or '.join(SAMPLE_SUFFIXES)}) or a folder of them"
    path = Path(value).expanduser() if isinstance(value, str) else None
    if path and path.is_absolute() and path.is_dir():
        if any(file.suffix in SAMPLE_SUFFIXES for file in path.iterdir()):
            return None
        return f"{variable} {value} holds no {' or '.join(SAMPLE_SUFFIXES)} file: name {what}"
    if problem := _file_problem(variable, value, what):
        return problem
    return None if path and path.suffix in SAMPLE_SUFFIXES else f"{variable} {value} is no sample: name {what}"


def _address(metadata: Mapping[str, Any] | None, key: str) -> str | None:
    """Where the host can fetch the proving key `key`, by metadata.json; the host judges whether it may."""
    files = metadata.get("external_files") if metadata else None
    address = files.get(key) if isinstance(files, Mapping) else None
    return address if isinstance(address, str) and re.match(r"https?://", address) else None


def _folder_problems(where: str, value: Any, ezkl_version: Any) -> list[str]:
    if not isinstance(value, str) or not Path(value).expanduser().is_absolute():
        return [f"{where}: folder {value!r} is relative or no path: {_ABSOLUTE}"]
    folder = Path(value).expanduser()
    if not folder.is_dir():
        return [f"{where}: there is no folder {value} on the control node: name a prebuilt circuit's folder"]
    problems = []
    if not _PREBUILT_FOLDER.fullmatch(folder.name):
        problems.append(
            f"{where}: folder {value} is not named model_<64 hex digits>: keep the name the circuit came with"
        )
    metadata = _json_object(folder / "metadata.json")
    system = str(metadata.get("proof_system", "")) if metadata else "EZKL"
    if system not in CIRCUIT_FILES:
        known = " and ".join(CIRCUIT_FILES)
        return [
            *problems,
            f"{where}: folder {value} is a {system or 'nameless'} circuit, only {known} ones are proved: remove it",
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
        settings = _json_object(folder / "settings.json")
        if settings is None:
            problems.append(f"{where}: settings.json in {value} is not a JSON object: fetch the circuit again")
        elif (
            system == "EZKL" and ezkl_version in EZKL_VERSIONS and (version := settings.get("version")) != ezkl_version
        ):
            either = f"set omron_ezkl_version to {version} or " if version in EZKL_VERSIONS else ""
            problems.append(
                f"{where}: folder {value} was compiled by EZKL {version or '(unknown)'}, {ezkl_version} is to be "
                f"installed: {either}use a circuit compiled by {ezkl_version}"
            )
    return problems


def ezkl_problems(ezkl_version: Any) -> list[str]:
    """The version of EZKL to install."""
    if ezkl_version in EZKL_VERSIONS:
        return []
    wanted = " or ".join(f'"{version}"' for version in EZKL_VERSIONS)
    return [f"omron_ezkl_version {ezkl_version!r} is not shipped: choose {wanted}"]


def circuit_problems(circuits: Any, ezkl_version: Any) -> list[str]:
    """The list of circuits: its form, the models' files, the prebuilt folders and the EZKL version they are of.

    A version that `ezkl_problems` refuses is not held against the circuits as well.
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
            problems.append(f"{where}: name {name!r} is no name: use letters, digits, dots, dashes and underscores")
        known = ("name", "model", "folder", "tuned", "circuit_tune", "run_args")
        if unknown := sorted(set(circuit) - set(known)):
            problems.append(f"{where}: unknown keys {', '.join(unknown)}: only {', '.join(known)} are known")
        if ("model" in circuit) == ("folder" in circuit):
            problems.append(f"{where}: give either model (to build it) or folder (prebuilt), one of the two")
        elif "model" in circuit:
            problems += _model_problems(where, circuit)
        else:
            problems += _folder_problems(where, circuit["folder"], ezkl_version)
            problems += [
                f"{where}: {key} does nothing for a prebuilt folder: remove it"
                for key in ("tuned", "circuit_tune", "run_args")
                if key in circuit
            ]
    problems += [
        f"{names.count(name)} circuits are named {name}: give each its own name"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    return problems


def srs_problems(settings: Mapping[str, Any]) -> list[str]:
    """The SRS file when one is given: readable, of its checksum, large enough for every circuit, not a test one."""
    value, wanted = settings["omron_srs_file"], settings["omron_srs_sha256"]
    if not value:
        return ["omron_srs_sha256 is given without omron_srs_file: name the file, or remove it"] if wanted else []
    if problem := _file_problem("omron_srs_file", value, "an SRS file such as kzg18.srs"):
        return [problem]
    problems = []
    path = Path(value).expanduser()
    if settings["omron_network"] != "local":
        # The package marks an SRS it generated by a file beside it.
        if "test-only" in path.name.lower() or path.with_name(f"{path.name}.TEST-ONLY").exists():
            problems.append(f"omron_srs_file {value} is a test SRS, whose proofs prove nothing: use a public one")
        if not wanted:
            problems.append(f"omron_srs_file {value} has nothing to be compared with: set omron_srs_sha256")
    circuits = settings["omron_circuits"]
    given = [circuit for circuit in circuits if isinstance(circuit, Mapping)] if isinstance(circuits, list) else []
    sizes = [size for circuit in given if (size := _logrows(circuit)) is not None and size in LOGROWS]
    needed = SRS_BYTES_PER_ROW * 2 ** max(sizes, default=0)
    if sizes and path.stat().st_size < needed:
        problems.append(
            f"omron_srs_file {value} holds {path.stat().st_size} bytes, logrows {max(sizes)} needs {needed}: "
            f"use kzg{max(sizes)}.srs or a larger one"
        )
    if wanted:
        if not isinstance(wanted, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", wanted):
            problems.append(f"omron_srs_sha256 {wanted!r} is not 64 hex digits: write what `sha256sum` prints")
        else:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != wanted.lower():
                problems.append(f"omron_srs_file {value} has the SHA-256 {found}, not {wanted}: fetch it again")
    return problems


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _folders(circuits: Any) -> Iterable[tuple[str, Path]]:
    """Name and folder of each prebuilt circuit that has a proving key; `circuit_problems` tells of the others."""
    for circuit in circuits if isinstance(circuits, list) else []:
        value = circuit.get("folder") if isinstance(circuit, Mapping) else None
        folder = Path(value).expanduser() if isinstance(value, str) else Path()
        if folder.is_absolute() and (folder / "pk.key").is_file():
            yield str(circuit.get("name")), folder


def _known_circuits(circuits: Any, needs: Mapping[str, Any]) -> Iterable[tuple[str, int, int]]:
    """Name, bytes of the proving key and number of instances of each circuit of which they are known before a build.

    Known are prebuilt folders, and the built-in models with the run args that `needs` has them measured with.
    """
    for name, folder in _folders(circuits):
        shapes = (_json_object(folder / "settings.json") or {}).get("model_instance_shapes")
        try:
            instances = sum(math.prod(shape) for shape in shapes or [])
        except TypeError:
            instances = 0
        yield name, (folder / "pk.key").stat().st_size, instances
    for circuit in circuits if isinstance(circuits, list) else []:
        if isinstance(circuit, Mapping) and not any(circuit.get(key) for key in ("run_args", "tuned", "circuit_tune")):
            model = circuit.get("model")
            if isinstance(model, str) and (built_in := needs["built_in_models"].get(model)):
                yield str(circuit.get("name")), built_in["pk_bytes"], built_in["instances"]


def needs_problems(circuits: Any, needs: Mapping[str, Any], memory_mb: int, shm_bytes: int | None) -> list[str]:
    """Circuits that cannot be proved on a host with `memory_mb` MiB of RAM and `shm_bytes` of RAM disk (None: unknown).

    `needs` is the package's circuit_needs.json; its circuit_needs.py computes the same. A circuit is refused only
    below the lower bound: between the two the doctor warns. An .onnx of the operator's is judged by its build.
    """
    memory, session = needs["proof_memory"], needs["session"]
    problems, total = [], memory_mb * 2**20
    for name, pk_bytes, instances in _known_circuits(circuits, needs):
        low, high = (
            memory["process_bytes"] + memory[key] * pk_bytes for key in ("low_per_key_byte", "high_per_key_byte")
        )
        if total < low:
            problems.append(
                f"circuit {name} needs about {_gb(low)} to {_gb(high)} GB to prove (its proving key has "
                f"{_gb(pk_bytes)} GB), this host has {_gb(total)} GB: use a larger host, or take the circuit "
                "out of omron_circuits"
            )
        files = session["bytes"] + session["bytes_per_instance"] * instances
        if shm_bytes and shm_bytes < files:
            problems.append(
                f"circuit {name} needs about {files // 2**20 + 1} MiB of /dev/shm for a request's files, shm_size "
                f"makes it {shm_bytes // 2**20} MiB: choose more"
            )
    return problems


def _gb(size: float) -> str:
    """As machines are sold: of 10^9 bytes."""
    return f"{size / 1e9:.1f}" if size >= 1e9 else f"{size / 1e9:.2f}"


def room_problems(circuits: Any, df: str, there: Iterable[Mapping[str, Any]], srs_file: Any) -> list[str]:
    """Whether the prebuilt folders fit on the host's disk beside what is there.

    `df` is as `disk_problems` has it, its second file system the state's; `there` are the proving keys on the host as
    the module find lists them: a folder whose key is there with its size was copied before. The SRS is counted twice
    (the operator's and the one made of it).
    """
    present = {(Path(str(file["path"])).parent.name, file["size"]) for file in there}
    wanted = 0
    for _, folder in _folders(circuits):
        if (folder.name, (folder / "pk.key").stat().st_size) not in present:
            wanted += _folder_bytes(folder)
    if wanted and srs_file and Path(str(srs_file)).expanduser().is_file():
        wanted += 2 * Path(str(srs_file)).expanduser().stat().st_size
    *_, available, _, mount = df.splitlines()[2].split(maxsplit=5)
    if int(available) >= wanted:
        return []
    return [
        f"the circuits to copy have {_gb(wanted)} GB, {_gb(int(available))} GB are free on {mount}: "
        "free or add some, or copy fewer circuits"
    ]


def competition_problems(settings: Mapping[str, Any]) -> list[str]:
    """What a competition needs, all of it or nothing: storage, its credentials, and the circuit when one is named."""
    if not settings["omron_competition_enabled"]:
        return []
    problems = _bucket_problems(settings) + _credentials_problems(settings["omron_competition_credentials_file"])
    if circuit := settings["omron_competition_circuit"]:
        folder = Path(str(circuit)).expanduser()
        if not folder.is_absolute():
            problems.append(f"omron_competition_circuit {circuit} is relative: {_ABSOLUTE}")
        else:
            missing = [name for name in COMPETITION_FILES if not (folder / name).is_file()]
            if missing:
                problems.append(
                    f"omron_competition_circuit {circuit} lacks {' and '.join(missing)} on the control node: "
                    "name the folder of a compiled circuit"
                )
    return problems


def _bucket_problems(settings: Mapping[str, Any]) -> list[str]:
    endpoint, region = settings["omron_competition_endpoint"], settings["omron_competition_region"]
    bucket = settings["omron_competition_bucket"]
    problems = []
    if endpoint and not (isinstance(endpoint, str) and _ENDPOINT.fullmatch(endpoint)):
        problems.append(
            f"omron_competition_endpoint {endpoint!r} is no https://HOST: write the storage's, without the bucket"
        )
    if not endpoint and region == "auto":
        problems.append(
            "omron_competition_region is auto, which Amazon's storage does not know: write the bucket's region, "
            "or set omron_competition_endpoint"
        )
    if not bucket:
        problems.append("omron_competition_bucket is empty, but omron_competition_enabled is set: write its name")
    elif not isinstance(bucket, str) or not _BUCKET.fullmatch(bucket) or (not endpoint and "." in bucket):
        problems.append(
            f"omron_competition_bucket {bucket!r} is no name of a bucket: 3 to 63 lower-case letters, digits and "
            "dashes, dots not at Amazon"
        )
    return problems


def _credentials_problems(value: Any) -> list[str]:
    if not value:
        return [
            "omron_competition_credentials_file is empty, but omron_competition_enabled is set: name the file with the "
            "storage's keys on the control node"
        ]
    what = "a file as ~/.aws/credentials"
    if problem := _file_problem("omron_competition_credentials_file", value, what):
        return [problem]
    content = Path(value).expanduser().read_bytes()
    if content.startswith(b"$ANSIBLE_VAULT"):  # `copy` decrypts it
        return []
    missing = [name for name in (b"[default]", b"aws_access_key_id", b"aws_secret_access_key") if name not in content]
    if not missing:
        return []
    lacks = ", ".join(name.decode() for name in missing)
    return [f"omron_competition_credentials_file {value} lacks {lacks}: name {what}"]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """The filters by name; each takes what it judges first and gives a list of problems."""
        return {
            f"preflight_{function.__name__}": function
            for function in (
                system_problems,
                disk_problems,
                governor_problems,
                port_problems,
                argument_problems,
                placeholder_problems,
                network_problems,
                wallet_problems,
                ezkl_problems,
                circuit_problems,
                srs_problems,
                needs_problems,
                room_problems,
                competition_problems,
            )
        }
