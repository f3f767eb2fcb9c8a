"""Evaluates a competition circuit as validators do, and reports what they would conclude.

Validators download only ``model.compiled`` and ``settings.json``. They generate keys within limits of time and memory,
run the circuit on their own inputs, prove some of these, and compare the outputs with the baseline model's. This module
does the same, each EZKL step in a separate process. The formula is in `competition.score`, the inputs are in
`competition.inputs`, the report is in `competition.report`. Nothing in the folder is changed, and the keys generated
here are discarded.

Not for building circuits, nor for circuits that are served: those have keys and are checked by `building.build`.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from omron_miner.circuits.circuit import (
    COMPILED,
    METADATA,
    PK,
    SETTINGS,
    VK,
    Circuit,
    circuit_folder,
    ezkl_metadata,
    ezkl_version,
    id_of,
)
from omron_miner.circuits.load import check_compiled_version, load_circuit
from omron_miner.circuits.onnx_runtime import load_onnxruntime
from omron_miner.circuits.srs import is_test_only, srs_path, usable_srs
from omron_miner.competition import inputs as competition_inputs
from omron_miner.competition import score as competition_score
from omron_miner.competition.files import DECLARED_RUN_ARGS
from omron_miner.competition.report import Limits, Plan, Report, Setup, read_reference, run_text
from omron_miner.competition.score import Conclusion, Run
from omron_miner.errors import CircuitError, ConfigError, OmronError, kind_and_message
from omron_miner.files import sha256
from omron_miner.formatting import size
from omron_miner.host import peak_memory
from omron_miner.progress import say
from omron_miner.proving.ezkl_srs import ensure_srs
from omron_miner.proving.isolated import ProcessLostError, killed_after, limit_address_space, run_configured
from omron_miner.proving.process_folders import process_prefix, stale_folders
from omron_miner.proving.proof_handlers import ProofError, VerificationError
from omron_miner.proving.proof_handlers.ezkl_call import WITNESS, call
from omron_miner.proving.session_storage import SessionStorage
from omron_miner.proving.steps import Stopwatch, make_witness, prove_witness
from omron_miner.untrusted import NOT_OF_ITS_FORM, read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from omron_miner.competition.inputs import Array
    from omron_miner.constants import Constants

_LONGEST_DETAIL = 300
_KIND = "evaluate"
"""Prefix of a work folder's name."""
_TELL_EVERY = 10
"""Witness-only runs between two lines of progress."""


def evaluate(plan: Plan, constants: Constants) -> Report:
    """Generates keys, runs, proves, and concludes.

    A circuit that a validator would refuse is a report with a `refusal`, not an error. Raises ConfigError when the
    folder, the model, the inputs or the reference cannot be used at all, CircuitError or SrsError when this host
    cannot evaluate.
    """
    logrows, variables = _check_folder(plan.directory)
    reference = read_reference(plan.reference) if plan.reference else None
    baseline = _Baseline(plan.model, variables)
    samples = competition_inputs.read_inputs(plan.inputs, baseline.shape) if plan.inputs else None
    inputs = competition_inputs.draw(samples, baseline.shape, plan.count, plan.seed)
    drawn = frozenset(random.Random(plan.seed).sample(range(plan.count), plan.proofs))  # noqa: S311  a draw, no secret
    say(f"baseline {plan.model.name} on {plan.count} inputs ...")
    expected = [baseline.outputs(one) for one in inputs]
    with _work_folder(constants) as place:
        folder = _stage(plan.directory, place)
        setup = _set_up(folder, logrows, constants, plan.limits)
        circuit, setup = _load(folder, setup)
        if circuit:
            _check_sizes(circuit, baseline)
        runs = _run_all(circuit, inputs, drawn, constants, plan.limits) if circuit else []
    conclusion = competition_score.conclude(runs, expected) if circuit else None
    accepted = conclusion.standing if conclusion and not conclusion.refusal else None
    return Report(
        plan=plan,
        model_sha256=id_of(folder),
        logrows=logrows,
        num_rows=circuit.settings.num_rows if circuit else 0,
        setup=setup,
        runs=runs,
        conclusion=conclusion,
        reference=reference,
        score=competition_score.score(accepted, reference) if accepted else None,
        notes=_notes(plan, circuit, conclusion, srs_path(constants.circuits.srs_directory, logrows)),
    )


# --- the baseline ---------------------------------------------------------------------------------------------------


class _Baseline:
    """The model that outputs are compared with, run by onnxruntime."""

    def __init__(self, model: Path, variables: Mapping[str, int]) -> None:
        """Symbolic sizes are as in `variables`, others 1.

        Raises ConfigError when onnxruntime is missing or the model cannot be run.
        """
        try:
            onnxruntime = load_onnxruntime()
        except ImportError as error:
            raise ConfigError(
                "the baseline model is run by onnxruntime, which is not installed",
                "pip install 'omron-miner[evaluate]'",
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # no warnings about how a model was exported
        try:
            self._session = onnxruntime.InferenceSession(model.read_bytes(), options)
        except Exception as error:  # onnxruntime's errors have no common base class
            raise ConfigError(f"cannot load the model {model}: {error}", "name the baseline's .onnx file") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            found = ", ".join(one.type for one in inputs)
            raise ConfigError(f"{model} takes {found}", "a competition's model takes one tensor of floats")
        self._name = inputs[0].name
        self.path = model
        sizes = (size if isinstance(size, int) else variables.get(str(size), 1) for size in inputs[0].shape)
        self.shape = tuple(max(1, size) for size in sizes)

    def outputs(self, array: Array) -> list[float]:
        """All outputs for one input, in the model's order, in one list. Raises ConfigError."""
        try:
            outputs = self._session.run(None, {self._name: array})
        except Exception as error:  # as above
            raise ConfigError(f"the model {self.path} cannot be run: {error}", "check the model") from error
        return [float(number) for output in outputs for number in np.asarray(output).ravel()]


# --- around EZKL ----------------------------------------------------------------------------------------------------


def _check_folder(directory: Path) -> tuple[int, dict[str, int]]:
    """logrows, and symbolic sizes by name, of the circuit in a folder without keys.

    Raises ConfigError when there is no circuit of the installed EZKL.
    """
    for name in (COMPILED, SETTINGS):
        if not (directory / name).is_file():
            raise ConfigError(f"{directory / name} is missing", "name a folder with model.compiled and settings.json")
    try:
        settings = read_json(directory / SETTINGS)
        logrows, version = int(settings["run_args"]["logrows"]), str(settings["version"])
        variables = {str(name): int(size) for name, size in settings["run_args"].get("variables") or []}
    except (OSError, *NOT_OF_ITS_FORM) as error:
        hint = "copy the folder again"
        raise ConfigError(f"{directory / SETTINGS} was not written by EZKL: {kind_and_message(error)}", hint) from error
    if version != ezkl_version():  # opening a file of another version aborts EZKL
        message = f"{directory} was made by EZKL {version}, but {ezkl_version()} is installed"
        raise ConfigError(message, "evaluate it where that version is installed")
    return logrows, variables


def _check_sizes(circuit: Circuit, baseline: _Baseline) -> None:
    taken, given = circuit.settings.input_sizes, int(np.prod(baseline.shape))
    if taken and taken != (given,):
        message = f"the circuit takes {taken} numbers, the baseline {given}"
        raise ConfigError(message, "name the model the circuit was made of")


@contextmanager
def _work_folder(constants: Constants) -> Iterator[Path]:
    """A folder on disk, for keys of up to several gigabytes; removed at the end, or after a kill by the next run.

    Raises CircuitError for anything in it that cannot be read or written.
    """
    parent = constants.sessions.fallback_directory
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in stale_folders(parent, _KIND):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=process_prefix(_KIND), dir=parent) as place:
            yield Path(place)
    except OSError as error:
        raise CircuitError(f"cannot evaluate below {parent}: {error}", "check the owner and the free space") from error


def _stage(directory: Path, place: Path) -> Path:
    """A folder as `load_circuit` needs it, still without keys, with links to the circuit's own files."""
    compiled = directory / COMPILED
    folder = circuit_folder(place, sha256(compiled))
    folder.mkdir()
    for name in (COMPILED, SETTINGS):
        (folder / name).symlink_to((directory / name).resolve())
    metadata = ezkl_metadata(directory.name or "circuit", "A competition circuit under evaluation")
    (folder / METADATA).write_text(json.dumps(metadata), encoding="utf-8")
    return folder


def _set_up(folder: Path, logrows: int, constants: Constants, limits: Limits) -> Setup:
    """The keys, generated within the limits. Raises SrsError or CircuitError when there is no SRS for them."""
    try:  # before EZKL opens it: a file of another version aborts EZKL
        check_compiled_version(folder, ezkl_version())
    except CircuitError as error:
        return Setup(None, None, None, error.message)
    circuits = constants.circuits
    _ensure_srs(logrows, constants)
    say(f"setup, at most {limits.setup_seconds:g} s and {size(limits.setup_bytes)} of address space ...")
    begun = time.perf_counter()
    try:
        srs = srs_path(circuits.srs_directory, logrows)
        seconds, peak = run_configured(constants, _make_keys, folder, srs, limits)
    except (ProcessLostError, ProofError) as error:
        if isinstance(error, ProcessLostError) and not error.started:
            raise
        passed = time.perf_counter() - begun
        failure = f"{_why(error, limits.setup_seconds)} (after {passed:.1f} s, within {size(limits.setup_bytes)})"
        say(f"setup failed: {failure}")
        return Setup(None, None, None, failure)
    say(f"setup: {seconds:.1f} s")
    return Setup(seconds, peak, (folder / PK).stat().st_size)


def _load(folder: Path, setup: Setup) -> tuple[Circuit | None, Setup]:
    """The circuit with its keys, or None and the reason: a miner's two files may not belong together."""
    if setup.failure:
        return None, setup
    try:
        return load_circuit(folder), setup
    except CircuitError as error:
        return None, replace(setup, failure=error.message)


def _ensure_srs(logrows: int, constants: Constants) -> None:
    directory, network = constants.circuits.srs_directory, constants.network.name
    if usable_srs(logrows, directory, network):
        return
    try:
        run_configured(constants, ensure_srs, logrows, directory, network)  # EZKL generates or downloads it
    except ProcessLostError as error:
        raise CircuitError(f"no SRS for logrows {logrows}: {error.message}", error.hint) from error


def _run_all(
    circuit: Circuit, inputs: list[Array], drawn: frozenset[int], constants: Constants, limits: Limits
) -> list[Run]:
    """A run of every input, in order; the `drawn` ones with a proof.

    When EZKL's process dies, its current run has failed and a new process continues with the next one.
    """
    storage, runs = SessionStorage(constants.sessions), list[Run]()

    def take(run: Run) -> None:
        runs.append(run)
        if run.proved or run.detail or len(runs) % _TELL_EVERY == 0 or len(runs) == len(inputs):
            say(f"run {len(runs)}/{len(inputs)}: {run_text(run)}")

    while len(runs) < len(inputs):
        fixed = (circuit, inputs, drawn, len(runs), storage, constants.circuits.srs_directory, limits.step_seconds)
        try:
            run_configured(constants, _work, *fixed, receive=lambda text: take(Run(**json.loads(text))))
        except ProcessLostError as error:
            if not error.started:
                raise
            if (index := len(runs)) < len(inputs):
                proved = index in drawn
                detail = _why(error, limits.step_seconds)
                take(Run(index, proved, provable=False, verified=False if proved else None, detail=detail))
    return runs


def _why(error: OmronError, seconds: float) -> str:
    """Why a step with a limit of `seconds` stopped."""
    if isinstance(error, ProcessLostError) and error.signal_number == signal.SIGALRM:
        return f"it took longer than {seconds:g} s"
    return _brief(error)


def _brief(error: OmronError) -> str:
    return " ".join(error.message.split())[:_LONGEST_DETAIL]


# --- in the separate process ----------------------------------------------------------------------------------------


def _make_keys(folder: Path, srs: Path, limits: Limits) -> tuple[float, int]:
    """Writes vk.key and pk.key; seconds and peak resident bytes. Raises ProofError, or the process dies."""
    import ezkl

    limit_address_space(limits.setup_bytes)
    model, vk, pk = (str(folder / name) for name in (COMPILED, VK, PK))
    begun = time.perf_counter()
    with killed_after(limits.setup_seconds):
        call(ezkl.setup, model=model, vk_path=vk, pk_path=pk, srs_path=str(srs))
    return time.perf_counter() - begun, peak_memory()


def _work(
    circuit: Circuit,
    inputs: list[Array],
    drawn: frozenset[int],
    first: int,
    storage: SessionStorage,
    srs_directory: Path,
    step_seconds: float,
    send: Callable[[str], None],
) -> None:
    """Runs the inputs from `first` on; sends each finished `Run` immediately, as JSON: a later crash loses none.

    Raises CircuitError when this host, not the circuit, is at fault.
    """
    for index in range(first, len(inputs)):
        row = inputs[index].ravel().tolist()
        try:
            run = _run(circuit, row, index, index in drawn, storage, srs_directory, step_seconds)
        except OSError as error:
            raise CircuitError(f"cannot write a session's files: {error}", "check the free space") from error
        send(json.dumps(asdict(run)))


def _run(
    circuit: Circuit,
    row: list[float],
    index: int,
    proved: bool,
    storage: SessionStorage,
    srs_directory: Path,
    step_seconds: float,
) -> Run:
    from omron_miner.proving.proof_handlers.ezkl_handler import EzklHandler

    handler, watch = EzklHandler(srs_directory), Stopwatch(lambda: killed_after(step_seconds))
    with storage.session() as session:
        try:
            make_witness(handler, circuit, [row], session, watch.phase)
        except ProofError as error:
            # To a validator that does not prove it, a witness beyond the lookup tables still counts.
            witnessed = not proved and session.path(WITNESS).exists()
            outputs = handler.witnessed_outputs(circuit, session) if witnessed else None
            return Run(index, proved, outputs, provable=False, verified=False if proved else None, detail=_brief(error))
        witness_s = watch.seconds["witness"]
        if not proved:
            return Run(index, False, handler.witnessed_outputs(circuit, session), witness_s=witness_s)
        try:
            proof = prove_witness(handler, circuit, [row], session, watch.phase)
        except (ProofError, VerificationError) as error:
            return Run(index, True, verified=False, witness_s=witness_s, detail=_brief(error))
    return Run(
        index,
        True,
        proof.outputs,
        verified=True,
        witness_s=witness_s,
        prove_s=watch.seconds["prove"],
        verify_s=watch.seconds["verify"],
        proof_bytes=len(json.loads(proof.proof)["proof"]),
    )


# --- words ----------------------------------------------------------------------------------------------------------


def _notes(plan: Plan, circuit: Circuit | None, conclusion: Conclusion | None, srs: Path) -> list[str]:
    """Remarks that an operator should know before relying on the verdict."""
    notes = []
    usual = (competition_score.EVALUATIONS, competition_score.PROOF_EVALUATIONS)
    if (plan.count, plan.proofs) != usual:
        notes.append(f"validators run {usual[0]} inputs and prove {usual[1]} of them")
    if conclusion and conclusion.unprovable:
        chance = competition_score.chance_of_refusal(plan.count, conclusion.unprovable, plan.proofs)
        notes.append(
            f"{conclusion.unprovable} of {plan.count} inputs cannot be proved: "
            f"drawing {plan.proofs} of them again would hit one, and so score 0, with probability {chance:.2f}"
        )
    if circuit:
        run_args = circuit.settings.whole["run_args"]
        others = [f"{key} {run_args[key]}" for key, value in DECLARED_RUN_ARGS.items() if run_args[key] != value]
        if others:
            wanted = ", ".join(f"{key} {value}" for key, value in DECLARED_RUN_ARGS.items())
            notes.append(f"competitions declare {wanted}; here: {', '.join(others)}. Validators do not check it")
    if is_test_only(srs):
        notes.append(f"{srs.name} was generated here: good for measuring, not the SRS that validators use")
    return notes
