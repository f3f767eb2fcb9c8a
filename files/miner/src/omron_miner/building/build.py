"""Builds a circuit from an ONNX model and run args, and refuses it unless a proof of it verifies.

Order: settings → check that it fits → compile → compare with the model → SRS → keys → verified proof of an example →
check that outputs depend on the input → put in place. Everything happens in a folder next to the others that is renamed
last, so an interrupted or failed build leaves nothing behind; EZKL runs in a separate process, so that its aborts and a
lack of memory become error messages. A build is identified by its recipe (model, run args, versions, SRS): the same
recipe is not built twice.

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
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omron_miner.building.compare import (
    Comparison,
    NotComparedError,
    check_accuracy,
    compare,
    find_reference,
)
from omron_miner.circuits.accuracy import FLOOR
from omron_miner.circuits.checksums import check_files, write_checksums
from omron_miner.circuits.circuit import (
    BUILD,
    COMPILED,
    EXAMPLE_INPUT,
    METADATA,
    PK,
    SETTINGS,
    VK,
    Circuit,
    circuit_folder,
    circuit_folders,
    ezkl_metadata,
    ezkl_version,
    read_metadata,
)
from omron_miner.circuits.circuit_store import LOCK
from omron_miner.circuits.constant_output import is_constant, same_output, spread_inputs
from omron_miner.circuits.examples import example_inputs, random_inputs, read_input_file
from omron_miner.circuits.fit import check_fit
from omron_miner.circuits.inputs import Number, validate_inputs
from omron_miner.circuits.load import load_circuit
from omron_miner.circuits.onnx_runtime import load_onnxruntime
from omron_miner.circuits.run_args import RunArgs, read_run_args
from omron_miner.circuits.srs import check_srs, is_test_only, srs_path, usable_srs
from omron_miner.errors import CircuitError, ConfigError
from omron_miner.events import FailureKind
from omron_miner.files import PARKED, open_lock, put_folder, settle_parked, sha256, write_atomically
from omron_miner.host import peak_memory, read_memory
from omron_miner.progress import say
from omron_miner.proving.ezkl_srs import ensure_srs
from omron_miner.proving.isolated import ProcessLostError, run_configured
from omron_miner.proving.proof_handlers import ProofError
from omron_miner.proving.proof_handlers.ezkl_call import (
    bare_witness,
    call,
    check_lookups,
    native_run_args,
    output_floats,
    read_written,
)
from omron_miner.proving.session_storage import SessionStorage
from omron_miner.proving.steps import Stopwatch, make_witness
from omron_miner.proving.verified_model_session import ProofResult, prove_verified
from omron_miner.untrusted import NOT_OF_ITS_FORM, read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from omron_miner.constants import Constants

_RECIPE_VERSION = 1
_STEPS = ("settings", "compile", "compare", "srs", "setup", "prove")
_BUILDING = ".building-"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class HostFaultError(CircuitError):
    """This host could not make a proof, because its disk is full for example: it says nothing about the circuit."""


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
    accuracy: float | None = None
    """Mean over samples of exp(−Σ(difference to the model's outputs)²), 0 to 1; None when it was not compared."""
    compared_samples: int = 0
    largest_difference: float | None = None
    """Of one output number."""
    not_compared: str = ""
    """Why it was not compared; empty when it was."""


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
    name: str,
    onnx: Path,
    settings_file: Path,
    constants: Constants,
    srs: Source = Source(),
    floor: float = FLOOR,
    reference: Path | None = None,
    in_use: Collection[str] | None = None,
) -> BuildResult:
    """Builds the circuit `name` from the model `onnx` with the run args of `settings_file`, unless it is there already.

    Its outputs must match the model's with an accuracy of at least `floor`: by the file `reference`, by the one next to
    the model, or by onnxruntime; the progress reports when none of these is available. A circuit has one name: the same
    circuit under another name is refused if that name is `in_use` (None: any is), else renamed. Raises ConfigError for
    wrong run args or a wrong reference, CircuitError when the circuit cannot be built, is less accurate, or its proof
    does not verify, SrsError.
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
        if present and (found := _built(directory, lambda known: _recipe(known, model, run_args, present))):
            _check_name(Path(found.directory), name, in_use)
            if found.name == name:
                found = _compared(found, onnx, run_args, constants, reference)
                check_accuracy(name, _comparison(found), floor)
                say(f"{name}: already built with this recipe, {found.circuit_id}; {_comparison(found).text}")
                return found
            say(f"{name}: was previously named {found.name}")
        with _temporary(directory) as place:
            asked = (name, onnx, run_args, constants, place, floor, reference)
            built: BuildResult = _isolated(name, constants, _build, *asked)
            made = circuit_folder(place, built.circuit_id)
            used = _srs_digest(run_args.logrows, constants, srs)
            _check_name(Path(built.directory), name, in_use)
            _write_json(made / BUILD, {"recipe": _recipe(name, model, run_args, used), **asdict(built)})
            _put_in_place(made, Path(built.directory))
    say(f"{name}: in place, {built.circuit_id}")
    return built


def check_circuit(circuit: Circuit, constants: Constants, srs: Source = Source()) -> CheckResult:
    """Hashes the circuit's files, proves an example and verifies it; records checksums when there are none yet.

    For circuits built elsewhere, before they serve. Raises CircuitError, InputError or SrsError.
    """
    begun = time.perf_counter()
    try:
        recorded = check_files(circuit.directory)
        say(f"{circuit.name}: files {'match their checksums' if recorded else 'read'}: {_since(begun)}")
        result, peak = _isolated(circuit.name, constants, _prove_example, circuit, constants, srs)
        if not recorded:
            write_checksums(circuit.directory)
    except OSError as error:
        raise CircuitError(f"circuit {circuit.name}: {error}", "check the free space and the owner") from error
    return CheckResult(circuit.name, circuit.id, not recorded, _figures(result), peak)


def prove_once(circuit: Circuit, inputs: Mapping[str, object], constants: Constants) -> ProofResult:
    """One proof by the same code as a worker's, in a separate process, without a deadline.

    Raises InputError for invalid inputs, SrsError when there is no SRS to prove with, CircuitError when EZKL's process
    dies.
    """
    if circuit.logrows is not None:
        check_srs(circuit.logrows, constants.circuits.srs_directory, constants.network.name)
    result: ProofResult = _isolated(
        circuit.name, constants, prove_verified, circuit, validate_inputs(circuit, inputs),
        SessionStorage(constants.sessions), constants.circuits.srs_directory,
    )  # fmt: skip
    return result


# --- in the separate process ----------------------------------------------------------------------------------------


def _build(
    name: str,
    onnx: Path,
    run_args: RunArgs,
    constants: Constants,
    place: Path,
    floor: float,
    reference: Path | None,
) -> BuildResult:
    """All EZKL steps of a build, in the folder `place`. Raises CircuitError."""
    import ezkl

    captured = _CapturedLog()
    logging.getLogger().addHandler(captured)
    work = place / "work"
    work.mkdir()
    settings, compiled, vk, pk = (str(work / file) for file in (SETTINGS, COMPILED, VK, PK))
    srs = str(srs_path(constants.circuits.srs_directory, run_args.logrows))
    timings: dict[str, float] = {}
    with captured.explain(name, run_args, onnx):
        with _step("settings", name, timings):
            call(ezkl.gen_settings, model=str(onnx), output=settings, py_run_args=native_run_args(run_args))
            shape = _ordered(Path(settings))
        disk = shutil.disk_usage(place).free
        for warning in check_fit(name, run_args, shape, read_memory().total_bytes, disk):
            say(f"{name}: {warning}")
        with _step("compile", name, timings):
            call(ezkl.compile_circuit, model=str(onnx), compiled_circuit=compiled, settings_path=settings)
        with _step("compare", name, timings):
            comparison = _compare(onnx, run_args, work, reference)
            say(f"{name}: {comparison.text}")
            check_accuracy(name, comparison, floor)
        with _step("srs", name, timings):
            _make_srs(run_args.logrows, constants, Source())
        with _step("setup", name, timings):
            call(ezkl.setup, model=compiled, vk_path=vk, pk_path=pk, srs_path=srs)
        inputs = _example(onnx, run_args, shape, work)
    circuit = _describe(name, work, inputs)
    with _step("prove", name, timings):
        result = _proved(circuit, inputs, constants)
        _check_outputs_differ(circuit, inputs, result, constants)
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
        peak_memory_bytes=peak_memory(),
        **_figures_of(comparison),
    )


def _compare(onnx: Path, run_args: RunArgs, folder: Path, reference: Path | None) -> Comparison:
    """Compares the compiled circuit in a folder with its model. Raises as `find_reference` does."""
    try:
        expected = find_reference(onnx, dict(run_args.variables), reference)
    except NotComparedError as error:
        return Comparison(None, reason=str(error))
    settings = read_json(folder / SETTINGS)

    def answers(rows: list[list[Number]]) -> list[float]:
        with tempfile.TemporaryDirectory(prefix="omron-miner-compare-") as place:
            made = bare_witness(folder / COMPILED, rows, Path(place))
        check_lookups(settings, made)
        return list(chain.from_iterable(output_floats(made, settings["model_output_scales"])))

    return compare(expected, answers, (ProofError,))


def _figures_of(comparison: Comparison) -> dict[str, Any]:
    """As fields of a BuildResult."""
    return {
        "accuracy": comparison.accuracy,
        "compared_samples": comparison.samples,
        "largest_difference": comparison.largest_difference,
        "not_compared": comparison.reason if comparison.accuracy is None else "",
    }


def _prove_example(circuit: Circuit, constants: Constants, srs: Source) -> tuple[ProofResult, int]:
    timings: dict[str, float] = {}
    if circuit.logrows is not None:
        with _step("SRS", circuit.name, timings):
            _make_srs(circuit.logrows, constants, srs)
    with _step("example proof", circuit.name, timings):
        return _proved(circuit, example_inputs(circuit), constants), peak_memory()


def _make_srs(logrows: int, constants: Constants, srs: Source) -> None:
    path = ensure_srs(logrows, constants.circuits.srs_directory, constants.network.name, srs.file, srs.sha256)
    if is_test_only(path):
        say(f"WARNING: {path.name} was generated here: TEST-ONLY, validators reject its proofs")


def _ordered(settings: Path) -> dict[str, Any]:
    """Settings.json with its tables in a fixed order.

    EZKL 22.0.1 writes them in the order of a hash table that differs from run to run, and the keys follow it: without
    this the same recipe would give another circuit id each time. Raises OSError.
    """
    content = read_written(settings)
    for key in ("required_lookups", "required_range_checks"):
        content[key] = sorted(content[key], key=json.dumps)
    settings.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
    return content


def _example(onnx: Path, run_args: RunArgs, shape: dict[str, Any], work: Path) -> dict[str, Any]:
    """Random inputs of the model's shapes; private ones are not in settings.json, so EZKL makes those."""
    if run_args.input_visibility == "Public":
        scales = shape["model_input_scales"]
        sizes = [math.prod(one) for one in shape["model_instance_shapes"][: len(scales)]]
        return dict(random_inputs(sizes, shape["input_types"], seed=0))
    import ezkl

    path = work / EXAMPLE_INPUT
    call(
        ezkl.gen_random_data,  # type: ignore[attr-defined]  # missing from EZKL's stub
        model=str(onnx),
        output=str(path),
        variables=list(run_args.variables),
        seed=0,
        min=-1.0,
        max=1.0,
    )
    return dict(read_input_file(path))


def _describe(name: str, work: Path, example: dict[str, Any]) -> Circuit:
    """Completes the folder, names it after its verification key and loads it as the miner would."""
    metadata = ezkl_metadata(name, "Built on this host from an ONNX model", "omron-miner", "1.0.0")
    _write_json(work / METADATA, metadata)
    _write_json(work / EXAMPLE_INPUT, {"input_data": list(example.values())})
    directory = circuit_folder(work.parent, sha256(work / VK))
    work.rename(directory)
    write_checksums(directory)
    return load_circuit(directory)


def _proved(circuit: Circuit, inputs: dict[str, Any], constants: Constants) -> ProofResult:
    """An example's verified proof.

    Raises CircuitError when it cannot be proved or does not verify, HostFaultError when that is this host's fault.
    """
    storage = SessionStorage(constants.sessions)
    rows = validate_inputs(circuit, inputs)
    result = prove_verified(circuit, rows, storage, constants.circuits.srs_directory)
    if not result.verified:
        message = f"circuit {circuit.name}: an example could not be proved and verified: {result.detail}"
        if result.failure is FailureKind.INTERNAL_ERROR:
            places = f"{constants.sessions.directory} and {constants.sessions.fallback_directory}"
            raise HostFaultError(message, f"check the free space and the owner of {places}")
        raise CircuitError(
            message,
            "widen lookup_range if a value left it, raise logrows if tables take many columns; "
            "a prebuilt circuit's keys may not belong to this SRS",
        )
    return result


def _check_outputs_differ(circuit: Circuit, example: dict[str, Any], first: ProofResult, constants: Constants) -> None:
    """Raises CircuitError when the outputs are the same for all inputs tried: such answers are scored as cheating.

    Stops at the first that differ. Inputs whose values exceed a lookup table are skipped.
    """
    from omron_miner.proving.proof_handlers.ezkl_handler import EzklHandler

    if not first.outputs:
        return
    handler, outputs = EzklHandler(constants.circuits.srs_directory), [first.outputs]
    sizes = [len(values) for values in example.values()]
    for inputs in spread_inputs(sizes, circuit.settings.input_types):
        try:
            with SessionStorage(constants.sessions).session() as session:
                make_witness(handler, circuit, validate_inputs(circuit, inputs), session, Stopwatch().phase)
                outputs.append(handler.witnessed_outputs(circuit, session))
        except ProofError:
            continue
        if not same_output(first.outputs, outputs[-1]):
            return
    if is_constant(outputs):
        raise CircuitError(
            f"circuit {circuit.name}: {len(outputs)} different inputs give the same outputs",
            "raise input_scale and param_scale, or train the model",
        )


_EXTERNAL_DATA = b"\x0a\x08location\x12"
"""Marks an ONNX tensor whose data are in another file: the field `key` of a StringStringEntryProto."""


def model_hint(said: str, onnx: Path) -> str:
    """The hint for a model that EZKL rejects; `said` is EZKL's error."""
    if "Undetermined symbol" in said:
        return (
            f"the model has a symbolic size{_symbols(onnx)} that variables in run_args do not set: write "
            "`variables: [[batch_size, 1], [NAME, SIZE]]`, or export the model with fixed sizes"
        )
    if "Translating proto model" in said and _EXTERNAL_DATA in onnx.read_bytes():
        return (
            "the model keeps its weights in another file, which EZKL does not read: save it as one file with "
            "onnx.save(onnx.load(MODEL), NEW)"
        )
    if unknown := re.search(r"Unimplemented\((\w+)\)", said):
        return f"EZKL does not know the operation {unknown[1]}: export the model with others"
    if "significant bit truncation" in said:
        return "a weight is infinite or too large: correct the model, or lower input_scale and param_scale"
    return "check the model's operations (every attribute written out) and its run_args"


def _symbols(onnx: Path) -> str:
    """The names of its inputs' symbolic sizes, if onnxruntime is installed to read them."""
    try:
        inputs = load_onnxruntime().InferenceSession(str(onnx), providers=["CPUExecutionProvider"]).get_inputs()
    except Exception:  # not installed, or one of its own error types: the hint omits the names
        return ""
    names = dict.fromkeys(size for one in inputs for size in one.shape if isinstance(size, str))
    return f" ({', '.join(names)})" if names else ""


class _CapturedLog(logging.Handler):
    """Keeps EZKL's log messages: it logs the reasons and raises only a summary of them."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the last lines."""
        self._lines = [*self._lines[-50:], " ".join(record.getMessage().split())]

    @contextlib.contextmanager
    def explain(self, name: str, run_args: RunArgs, onnx: Path) -> Iterator[None]:
        """Turns EZKL's failures in the block into a CircuitError that says what to change."""
        try:
            yield
        except ProofError as error:
            small = next((line for line in self._lines if "too small for the given circuit" in line), None)
            if small:
                message = f"circuit {name} does not fit in logrows {run_args.logrows}: {small}"
                raise CircuitError(message, f"set logrows to {run_args.logrows + 1} or more") from error
            reasons = "; ".join(line for line in self._lines[-3:] if line not in error.message)
            message = f"circuit {name}: {error.message}{' (' + reasons[:300] + ')' if reasons else ''}"
            raise CircuitError(message, model_hint(error.message, onnx)) from error


# --- around it ------------------------------------------------------------------------------------------------------


def _isolated(name: str, constants: Constants, function: Callable[..., Any], *arguments: object) -> Any:
    """Runs a step in a separate process. Raises CircuitError when the process dies."""
    try:
        return run_configured(constants, function, *arguments)
    except ProcessLostError as error:
        raise CircuitError(f"circuit {name}: {error.message}", error.hint) from error


@contextlib.contextmanager
def _writing(directory: Path, name: str) -> Iterator[None]:
    """Locks the folder of circuits against other builds, cleans up after a killed one, and explains a full disk."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with open_lock(directory / LOCK) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            settle_parked(sorted(directory.glob(f"{PARKED}*")))
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


def _comparison(built: BuildResult) -> Comparison:
    return Comparison(built.accuracy, built.compared_samples, built.largest_difference, built.not_compared)


def _compared(
    built: BuildResult, onnx: Path, run_args: RunArgs, constants: Constants, reference: Path | None
) -> BuildResult:
    """A circuit that is in place, compared with its model now if it was not compared when it was built."""
    if built.accuracy is not None:
        return built
    folder = Path(built.directory)
    found: Comparison = _isolated(built.name, constants, _compare, onnx, run_args, folder, reference)
    built = replace(built, **_figures_of(found))
    if found.accuracy is not None:
        record = read_json(folder / BUILD)
        write_atomically(folder / BUILD, json.dumps({**record, **_figures_of(found)}, indent=1) + "\n")
    return built


def _put_in_place(made: Path, target: Path) -> None:
    """Puts a finished folder in place. One of the same id (same keys) serves until then, and is removed with `made`."""
    made.chmod(0o750)
    put_folder(made, target)


def _srs_digest(logrows: int, constants: Constants, srs: Source) -> str:
    """The SRS's SHA-256; empty when there is none yet. A given file is installed here, which needs no EZKL."""
    directory, network = constants.circuits.srs_directory, constants.network.name
    if srs.file:
        return sha256(ensure_srs(logrows, directory, network, srs.file, srs.sha256))
    path = usable_srs(logrows, directory, network)
    return sha256(path) if path else ""


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


def _check_name(directory: Path, name: str, in_use: Collection[str] | None) -> None:
    """Raises CircuitError when `directory` holds the same circuit under another name that is in use."""
    if not directory.is_dir():
        return
    try:
        there = read_metadata(directory).name
    except (OSError, CircuitError):  # broken: the new one takes its place
        return
    if there != name and (in_use is None or there in in_use):
        raise CircuitError(
            f"circuit {name} is the same as {there}, which is in place in {directory.name}",
            f"give it one name; --in-use {name} renames it",
        )


def _built(directory: Path, recipe_as: Callable[[str], str]) -> BuildResult | None:
    """The circuit that was built with this recipe, under any name, if it exists and is still complete."""
    for folder in circuit_folders(directory):
        try:
            record = read_json(folder / BUILD)
            if record.pop("recipe") == recipe_as(record["name"]):
                load_circuit(folder)
                return replace(BuildResult(**record), changed=False, timings={}, directory=str(folder))
        except (OSError, *NOT_OF_ITS_FORM, CircuitError):
            continue
    return None


@contextlib.contextmanager
def _step(step: str, name: str, timings: dict[str, float]) -> Iterator[None]:
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


def _since(begun: float) -> str:
    return f"{time.perf_counter() - begun:.1f} s"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=1) + "\n", 0o640)
