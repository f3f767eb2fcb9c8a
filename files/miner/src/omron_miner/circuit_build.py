"""Builds a circuit from an ONNX model and run args, and refuses it unless a proof of it verifies.

Order: settings → does it fit → compile → SRS → keys → proof of an example, verified → outputs that depend on the
input → in place. Everything happens in a folder beside the others that is renamed at the very end, so an interrupted
or failed build leaves nothing; EZKL runs in a process of its own, so that its aborts and a lack of memory become
messages. A build is known by its recipe (model, run args, versions, SRS): the same recipe is not built twice.

Also checks circuits that were built elsewhere (`check_circuit`). Not for serving requests.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import math
import re
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from omron_miner import circuit as files
from omron_miner.circuit import Circuit, check_files, example_inputs, ezkl_version, load_circuit, random_inputs
from omron_miner.circuit_fit import check_fit
from omron_miner.errors import CircuitError, ConfigError
from omron_miner.isolated import ProcessLostError
from omron_miner.isolated import run as run_isolated
from omron_miner.proof_handlers.base import ProofError
from omron_miner.run_args import RunArgs, read_run_args
from omron_miner.session_storage import SessionStorage
from omron_miner.srs import check_srs, ensure_srs, srs_path, test_marker
from omron_miner.verified_model_session import ProofResult, prove_verified

if TYPE_CHECKING:
    from omron_miner.constants import Constants

Say = Callable[[str], None]

_RECIPE_VERSION = 1
_STEPS = ("settings", "srs", "compile", "setup", "prove")
_BUILDING = ".building-"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True)
class BuildResult:
    """A circuit that is in place and how it got there. `timings` are seconds per step, empty when nothing changed."""

    name: str
    circuit_id: str
    directory: str
    changed: bool
    logrows: int
    num_rows: int
    pk_bytes: int
    timings: dict[str, float] = field(default_factory=dict)
    proof: dict[str, float] = field(default_factory=dict)
    """Seconds of the example's witness_s, prove_s, verify_s and total_s."""
    peak_memory_bytes: int = 0


@dataclass(frozen=True)
class CheckResult:
    """A circuit whose files and example proof were checked; `changed`: its checksums were recorded only now."""

    name: str
    circuit_id: str
    changed: bool
    proof: dict[str, float]
    peak_memory_bytes: int


@dataclass(frozen=True)
class Source:
    """Where the SRS comes from on a real network; both empty: EZKL downloads it."""

    file: Path | None = None
    sha256: str | None = None


def build_circuit(
    name: str, onnx: Path, settings_file: Path, constants: Constants, srs: Source = Source(), say: Say = print
) -> BuildResult:
    """Builds the circuit `name` from the model `onnx` with the run args of `settings_file`, unless it is there already.

    Raises ConfigError for wrong run args, CircuitError when the circuit cannot be built or its proof does not verify,
    SrsError. Progress goes to `say`, a line per step.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is not a circuit name", "use letters, digits, dots, dashes and underscores")
    run_args = read_run_args(settings_file)
    try:
        model = onnx.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the model {onnx}: {error}", "name an .onnx file with --onnx") from error
    directory = constants.circuits.directory
    with _writing(directory, name):
        present = _srs_digest(run_args.logrows, constants, srs)
        if present and (found := _built(directory, _recipe(name, model, run_args, present))):
            say(f"{name}: already built with this recipe, {found.circuit_id}")
            return found
        with _temporary(directory) as place:
            built: BuildResult = _isolated(name, constants, _build, name, onnx, run_args, constants, place, say=say)
            made = place / f"{files.FOLDER_PREFIX}{built.circuit_id}"
            used = _srs_digest(run_args.logrows, constants, srs)
            _write_json(made / files.BUILD, {"recipe": _recipe(name, model, run_args, used), **asdict(built)})
            _put_in_place(made, Path(built.directory))
    say(f"{name}: in place, {built.circuit_id}")
    return built


def check_circuit(circuit: Circuit, constants: Constants, srs: Source = Source(), say: Say = print) -> CheckResult:
    """Hashes the circuit's files, proves an example and verifies it; records checksums when there are none yet.

    For circuits built elsewhere, before they serve. Raises CircuitError, InputError or SrsError.
    """
    begun = time.perf_counter()
    recorded = check_files(circuit.directory)
    say(f"{circuit.name}: files {'match their checksums' if recorded else 'read'}: {_since(begun)}")
    result, peak = _isolated(circuit.name, constants, _prove_example, circuit, constants, srs, say=say)
    if not recorded:
        files.write_checksums(circuit.directory)
    return CheckResult(circuit.name, circuit.id, not recorded, _figures(result), peak)


def prove_once(circuit: Circuit, inputs: Mapping[str, object], constants: Constants) -> ProofResult:
    """One proof by the same code as a worker's, in a process of its own, without a deadline.

    Raises InputError for inputs it does not take, SrsError when there is no SRS to prove with, CircuitError when EZKL's
    process is lost.
    """
    if circuit.logrows is not None:
        check_srs(circuit.logrows, constants.circuits.srs_directory, constants.network.name)
    result: ProofResult = _isolated(
        circuit.name, constants, prove_verified, circuit, files.validate_inputs(circuit, inputs),
        SessionStorage(constants.sessions), constants.circuits.srs_directory,
    )  # fmt: skip
    return result


# --- in the process of its own --------------------------------------------------------------------------------------


def _build(name: str, onnx: Path, run_args: RunArgs, constants: Constants, place: Path, say: Say) -> BuildResult:
    """Everything EZKL does, in `place`. Raises CircuitError."""
    import ezkl

    from omron_miner.proof_handlers.ezkl_handler import call

    heard = _Heard()
    logging.getLogger().addHandler(heard)
    work = place / "work"
    work.mkdir()
    settings, compiled, vk, pk = (str(work / file) for file in (files.SETTINGS, files.COMPILED, files.VK, files.PK))
    srs = str(srs_path(constants.circuits.srs_directory, run_args.logrows))
    timings: dict[str, float] = {}
    with heard.explain(name, run_args):
        with _step("settings", name, timings, say):
            call(ezkl.gen_settings, model=str(onnx), output=settings, py_run_args=native_run_args(run_args))
            shape = _ordered(Path(settings))
        disk = shutil.disk_usage(place).free
        for warning in check_fit(name, run_args, shape, psutil.virtual_memory().total, disk):
            say(f"{name}: {warning}")
        with _step("srs", name, timings, say):
            _make_srs(run_args.logrows, constants, Source(), say)
        with _step("compile", name, timings, say):
            call(ezkl.compile_circuit, model=str(onnx), compiled_circuit=compiled, settings_path=settings)
        with _step("setup", name, timings, say):
            call(ezkl.setup, model=compiled, vk_path=vk, pk_path=pk, srs_path=srs)
        inputs = [_example(onnx, run_args, shape, work, seed) for seed in (0, 1)]
    circuit = _describe(name, work, inputs[0])
    with _step("prove", name, timings, say):
        result = _proved(circuit, inputs[0], constants)
        _check_outputs_differ(circuit, inputs[1], result, constants)
    return BuildResult(
        name=name,
        circuit_id=circuit.id,
        directory=str(constants.circuits.directory / circuit.directory.name),
        changed=True,
        logrows=circuit.settings.logrows,
        num_rows=circuit.settings.num_rows,
        pk_bytes=circuit.pk.stat().st_size,
        timings=timings,
        proof=_figures(result),
        peak_memory_bytes=_peak(),
    )


def _prove_example(circuit: Circuit, constants: Constants, srs: Source, say: Say) -> tuple[ProofResult, int]:
    timings: dict[str, float] = {}
    if circuit.logrows is not None:
        with _step("SRS", circuit.name, timings, say):
            _make_srs(circuit.logrows, constants, srs, say)
    with _step("example proof", circuit.name, timings, say):
        return _proved(circuit, example_inputs(circuit), constants), _peak()


def _make_srs(logrows: int, constants: Constants, srs: Source, say: Say) -> None:
    path = ensure_srs(logrows, constants.circuits.srs_directory, constants.network.name, srs.file, srs.sha256)
    if test_marker(path).exists():
        say(f"WARNING: {path.name} was generated here: TEST-ONLY, its proofs convince no validator")


def _ordered(settings: Path) -> dict[str, Any]:
    """Settings.json with its tables in a fixed order.

    EZKL 22.0.1 writes them in the order of a hash table that differs from run to run, and the keys follow it: without
    this the same recipe would give another circuit id each time.
    """
    content: dict[str, Any] = json.loads(settings.read_text(encoding="utf-8"))
    for key in ("required_lookups", "required_range_checks"):
        content[key] = sorted(content[key], key=json.dumps)
    settings.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
    return content


def native_run_args(run_args: RunArgs) -> Any:
    """EZKL's own run args object. Raises CircuitError for a run arg the installed EZKL does not know."""
    import ezkl

    native = ezkl.PyRunArgs()
    for key, value in run_args.model_dump(exclude_none=True).items():
        if key == "commitment":  # KZG is the only one that is allowed here, and every version's default
            continue
        if not hasattr(native, key):
            raise CircuitError(f"EZKL {ezkl_version()} has no run arg {key}", "take it out of the circuit's run_args")
        setattr(native, key, list(value) if key == "variables" else value)
    return native


def _example(onnx: Path, run_args: RunArgs, shape: dict[str, Any], work: Path, seed: int) -> dict[str, Any]:
    """Random inputs of the model's shapes; private ones are not in settings.json, so EZKL makes those."""
    if run_args.input_visibility == "Public":
        scales = shape["model_input_scales"]
        sizes = [math.prod(one) for one in shape["model_instance_shapes"][: len(scales)]]
        return dict(random_inputs(sizes, shape["input_types"], seed))
    import ezkl

    from omron_miner.proof_handlers.ezkl_handler import call

    path = work / files.EXAMPLE_INPUT
    call(
        ezkl.gen_random_data,  # type: ignore[attr-defined]  # missing from EZKL's stub
        model=str(onnx),
        output=str(path),
        variables=list(run_args.variables),
        seed=seed,
        min=-1.0,
        max=1.0,
    )
    return dict(files.read_input_file(path))


def _describe(name: str, work: Path, example: dict[str, Any]) -> Circuit:
    """Completes the folder, names it after its verification key and loads it as the miner would."""
    metadata = {
        "name": name,
        "description": "Built on this host from an ONNX model",
        "author": "omron-miner",
        "version": "1.0.0",
        "proof_system": files.ProofSystem.EZKL.value,
        "type": files.CircuitType.PROOF_OF_COMPUTATION.value,
        "external_files": {},
    }
    _write_json(work / files.METADATA, metadata)
    _write_json(work / files.EXAMPLE_INPUT, {"input_data": list(example.values())})
    directory = work.with_name(f"{files.FOLDER_PREFIX}{files.sha256(work / files.VK)}")
    work.rename(directory)
    files.write_checksums(directory)
    return load_circuit(directory)


def _proved(circuit: Circuit, inputs: dict[str, Any], constants: Constants) -> ProofResult:
    """An example's verified proof. Raises CircuitError when it cannot be proved or does not verify."""
    storage = SessionStorage(constants.sessions)
    rows = files.validate_inputs(circuit, inputs)
    result = prove_verified(circuit, rows, storage, constants.circuits.srs_directory)
    if not result.verified:
        raise CircuitError(
            f"circuit {circuit.name}: an example could not be proved and verified: {result.detail}",
            "widen lookup_range if a value left it, raise logrows if tables take many columns; "
            "a prebuilt circuit's keys may not belong to this SRS",
        )
    return result


def _check_outputs_differ(circuit: Circuit, other: dict[str, Any], first: ProofResult, constants: Constants) -> None:
    """Raises CircuitError when the outputs are the same for another input: such answers are scored as cheating."""
    from omron_miner.proof_handlers.ezkl_handler import EzklHandler

    handler = EzklHandler()
    with SessionStorage(constants.sessions).session() as session:
        handler.write_input(files.validate_inputs(circuit, other), session)
        handler.witness(circuit, session)
        outputs = handler.witnessed_outputs(circuit, session)
    if outputs == first.outputs:
        raise CircuitError(
            f"circuit {circuit.name}: two different inputs give the same outputs",
            "raise input_scale and param_scale, or train the model",
        )


class _Heard(logging.Handler):
    """Keeps what EZKL logs, because it logs the reasons and raises only a summary of them."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the last lines."""
        self._lines = [*self._lines[-50:], " ".join(record.getMessage().split())]

    @contextlib.contextmanager
    def explain(self, name: str, run_args: RunArgs) -> Iterator[None]:
        """Turns EZKL's failures inside into a CircuitError that says what to change."""
        try:
            yield
        except ProofError as error:
            small = next((line for line in self._lines if "too small for the given circuit" in line), None)
            if small:
                message = f"circuit {name} does not fit in logrows {run_args.logrows}: {small}"
                raise CircuitError(message, f"set logrows to {run_args.logrows + 1} or more") from error
            reasons = "; ".join(line for line in self._lines[-3:] if line not in error.message)
            raise CircuitError(
                f"circuit {name}: {error.message}{' (' + reasons[:300] + ')' if reasons else ''}",
                "check the model's operations (every attribute written out) and its run_args",
            ) from error


# --- around it ------------------------------------------------------------------------------------------------------


def _isolated(
    name: str, constants: Constants, function: Callable[..., Any], *arguments: object, say: Say | None = None
) -> Any:
    """Runs a step in a process of its own, with EZKL's cache where the constants say."""
    environment = {"EZKL_REPO_PATH": str(constants.circuits.ezkl_directory)}
    constants.circuits.ezkl_directory.mkdir(parents=True, exist_ok=True)
    try:
        return run_isolated(function, *arguments, say=say, environment=environment)
    except ProcessLostError as error:
        raise CircuitError(f"circuit {name}: {error.message}", error.hint) from error


@contextlib.contextmanager
def _writing(directory: Path, name: str) -> Iterator[None]:
    """Holds the folder of circuits against other builds, clears what a killed one left, and explains a full disk."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in directory.glob(f"{_BUILDING}*"):
                shutil.rmtree(left)
            yield
    except OSError as error:
        raise CircuitError(
            f"circuit {name} cannot be written: {error}", "check the free space and the owner"
        ) from error


@contextlib.contextmanager
def _temporary(directory: Path) -> Iterator[Path]:
    """A folder on the same file system, removed at the end."""
    place = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=directory))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _put_in_place(made: Path, target: Path) -> None:
    """Renames a finished folder; one of the same id (the same keys) makes way first."""
    if target.exists():
        target.rename(made.with_name("replaced"))
    made.chmod(0o750)
    made.rename(target)


def _srs_digest(logrows: int, constants: Constants, srs: Source) -> str:
    """The SRS's SHA-256; empty when there is none yet. A given file is installed here, which needs no EZKL."""
    directory, network = constants.circuits.srs_directory, constants.network.name
    if srs.file:
        return files.sha256(ensure_srs(logrows, directory, network, srs.file, srs.sha256))
    path = srs_path(directory, logrows)
    return files.sha256(check_srs(logrows, directory, network)) if path.exists() else ""


def _recipe(name: str, model: bytes, run_args: RunArgs, srs_digest: str) -> str:
    """A hash of everything the circuit's files depend on."""
    parts = [
        _RECIPE_VERSION,
        name,
        hashlib.sha256(model).hexdigest(),
        run_args.model_dump(),
        ezkl_version(),
        srs_digest,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _built(directory: Path, recipe: str) -> BuildResult | None:
    """The circuit that was built with this recipe, if it is there and still whole."""
    for path in directory.glob(f"{files.FOLDER_PREFIX}*/{files.BUILD}"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record.pop("recipe") == recipe:
                load_circuit(path.parent)
                return replace(BuildResult(**record), changed=False, timings={}, directory=str(path.parent))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, CircuitError):
            continue
    return None


@contextlib.contextmanager
def _step(step: str, name: str, timings: dict[str, float], say: Say) -> Iterator[None]:
    number = f"{_STEPS.index(step) + 1}/{len(_STEPS)} " if step in _STEPS else ""
    say(f"{name}: {number}{step} ...")
    begun = time.perf_counter()
    yield
    timings[step] = round(time.perf_counter() - begun, 3)
    say(f"{name}: {number}{step}: {timings[step]:.1f} s")


def _figures(result: ProofResult) -> dict[str, float]:
    timings = result.timings
    return {
        "witness_s": round(timings.witness_s, 3),
        "prove_s": round(timings.prove_s, 3),
        "verify_s": round(timings.verify_s, 3),
        "total_s": round(timings.total_s, 3),
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _since(begun: float) -> str:
    return f"{time.perf_counter() - begun:.1f} s"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
