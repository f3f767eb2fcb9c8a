"""Measures one set of run args: keys within limits, proofs of several inputs, and forgeries that must fail.

Every step is a separate process with a limit of time and of address space, beyond which it is killed. Keys stay in the
given folder, so that proofs of several trials can take turns.
"""

from __future__ import annotations

import json
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omron_miner.circuits.circuit import (
    CHECKSUMS,
    COMPILED,
    METADATA,
    PK,
    SETTINGS,
    VK,
    circuit_folder,
    ezkl_metadata,
)
from omron_miner.circuits.load import load_circuit
from omron_miner.circuits.run_args import RunArgs, parse_run_args
from omron_miner.circuits.srs import check_srs, usable_srs
from omron_miner.errors import CircuitError, OmronError
from omron_miner.files import link_files, sha256
from omron_miner.formatting import size
from omron_miner.host import peak_memory
from omron_miner.proving.ezkl_srs import ensure_srs
from omron_miner.proving.isolated import ProcessLostError, killed_after, limit_address_space, run_configured
from omron_miner.proving.isolated import run as run_isolated
from omron_miner.proving.proof_handlers import ProofError, VerificationError
from omron_miner.proving.proof_handlers.ezkl_call import call, native_run_args, read_written
from omron_miner.proving.session_storage import SessionStorage
from omron_miner.proving.steps import Stopwatch, make_witness, prove_witness

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from omron_miner.building.build import Source
    from omron_miner.circuits.circuit import Circuit
    from omron_miner.constants import Constants

_LONGEST = 300
TARGETS = ("resources", "accuracy")
"""Targets of EZKL's calibrate_settings."""


@dataclass(frozen=True)
class Limits:
    """Of each step: setup, and each proof with its witness and verification. As validators set them."""

    seconds: float = 300.0
    space_bytes: int = 16 << 30
    """Of address space, RLIMIT_AS."""


def calibrated(
    model: Path, base: RunArgs, rows: list[list[float]], target: str, limits: Limits, place: Path
) -> RunArgs:
    """The run args that EZKL's calibrate_settings finds from `base` for a model on samples, a list per input.

    `place` is an empty folder. Raises CircuitError when EZKL finds none within the limits.
    """
    run_here = partial(run_isolated, ezkl_directory=place)
    text: str = _within(run_here, limits, _calibrate, model, base, rows, target, place)
    return parse_run_args(text, f"calibrate_settings for {target}")


def set_up(
    model: Path, run_args: RunArgs, place: Path, constants: Constants, limits: Limits, source: Source
) -> dict[str, Any]:
    """Makes a circuit with keys below `place`: {"folder", "setup_s", "peak_bytes" (resident), "pk_bytes", "rows"}.

    `source` is where the SRS comes from. Raises CircuitError when EZKL cannot within the limits, SrsError.
    """
    circuits, run = constants.circuits, partial(run_configured, constants)
    wanted = (run_args.logrows, circuits.srs_directory, constants.network.name)
    if source.file or not usable_srs(*wanted):  # not part of the limited time
        _within(run, None, ensure_srs, *wanted, source.file, source.sha256)
    srs = check_srs(*wanted)
    place.mkdir(parents=True, exist_ok=True)
    made: dict[str, Any] = _within(run, limits, _set_up, model, run_args, place, srs)
    return made


def prove(folder: Path, rows: Sequence[Sequence[float]], constants: Constants, limits: Limits) -> dict[str, Any]:
    """Proves and verifies one input (a list per input of the model), then tries forgeries.

    {"witness_s", "prove_s", "verify_s", "proof_bytes", "outputs", "forged"}; `forged` names forgeries that verified.
    Raises CircuitError when there is no verified proof within the limits.
    """
    asked = (folder, [list(row) for row in rows], SessionStorage(constants.sessions), constants.circuits.srs_directory)
    proved: dict[str, Any] = _within(partial(run_configured, constants), limits, _prove, *asked)
    return proved


def forge(
    folder: Path, altered: Path, rows: Sequence[Sequence[float]], constants: Constants, limits: Limits, place: Path
) -> bool | None:
    """Whether an output of the model `altered` verifies as an output of the circuit in `folder`.

    It is computed and proved with the circuit's own proving key, below `place`, a new folder. None if the altered model
    has the same output, or none. Raises CircuitError if the limits are exceeded first.
    """
    storage, srs_directory = SessionStorage(constants.sessions), constants.circuits.srs_directory
    asked = (folder, altered, [list(row) for row in rows], storage, srs_directory, place)
    verified: bool | None = _within(partial(run_configured, constants), limits, _forge, *asked)
    return verified


def _within(run: Callable[..., Any], limits: Limits | None, function: Callable[..., Any], *arguments: object) -> Any:
    """Executes a step with `run`, in its process. Raises CircuitError for a fault of the circuit."""
    try:
        return run(_limited, limits, function, arguments)
    except ProcessLostError as error:
        if not error.started:
            raise
        if limits and error.signal_number == signal.SIGALRM:
            raise CircuitError(f"killed: it took longer than {limits.seconds:g} s") from error
        space = f" (with {size(limits.space_bytes)} of address space)" if limits else ""
        raise CircuitError(f"{error.message[:_LONGEST]}{space}") from error


# --- in the separate process ------------------------------------------------------------------------------------------


def _limited(limits: Limits | None, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        if limits is None:
            return function(*arguments)
        limit_address_space(limits.space_bytes)
        with killed_after(limits.seconds):
            return function(*arguments)
    except (ProofError, VerificationError) as error:
        raise CircuitError(" ".join(error.message.split())[:_LONGEST]) from error


def _calibrate(model: Path, base: RunArgs, rows: list[list[float]], target: str, place: Path) -> str:
    import ezkl

    settings, data = place / SETTINGS, place / "data.json"
    data.write_text(json.dumps({"input_data": rows}), encoding="utf-8")
    call(ezkl.gen_settings, model=str(model), output=str(settings), py_run_args=native_run_args(base))
    call(ezkl.calibrate_settings, data=str(data), model=str(model), settings=str(settings), target=target)
    found = read_written(settings)["run_args"]
    low, high = found["lookup_range"]  # 0, 0 when the model has no table
    kept = {key: found[key] for key in ("input_scale", "param_scale", "scale_rebase_multiplier", "logrows",
                                        "num_inner_cols", "decomp_base", "decomp_legs")}  # fmt: skip
    given = base.model_dump(mode="json", exclude_none=True)
    return json.dumps({"run_args": {**given, **kept, "lookup_range": [min(low, -1), max(high, 1)]}})


def _set_up(model: Path, run_args: RunArgs, place: Path, srs: Path) -> dict[str, Any]:
    import ezkl

    begun = time.perf_counter()
    settings, compiled, vk, pk = (str(place / name) for name in (SETTINGS, COMPILED, VK, PK))
    call(ezkl.gen_settings, model=str(model), output=settings, py_run_args=native_run_args(run_args))
    call(ezkl.compile_circuit, model=str(model), compiled_circuit=compiled, settings_path=settings)
    call(ezkl.setup, model=compiled, vk_path=vk, pk_path=pk, srs_path=str(srs))
    seconds = time.perf_counter() - begun
    metadata = ezkl_metadata("trial", "Tried by omron-miner circuit tune")
    (place / METADATA).write_text(json.dumps(metadata), encoding="utf-8")
    folder = circuit_folder(place.parent, sha256(Path(vk)))
    if folder != place and not folder.exists():
        place.rename(folder)
    circuit = load_circuit(folder)
    peak = peak_memory()
    size = circuit.pk.stat().st_size
    return {"folder": str(folder), "setup_s": seconds, "peak_bytes": peak, "pk_bytes": size, "rows": circuit.rows}


def _prove(folder: Path, rows: list[list[float]], storage: SessionStorage, srs_directory: Path) -> dict[str, Any]:
    from omron_miner.proving.proof_handlers.ezkl_handler import EzklHandler

    handler, circuit, watch = EzklHandler(srs_directory), load_circuit(folder), Stopwatch()
    with storage.session() as session:
        make_witness(handler, circuit, rows, session, watch.phase)
        proof = prove_witness(handler, circuit, rows, session, watch.phase)
        forged = [
            what
            for what, inputs, text in _forgeries(circuit, rows, proof.proof)
            if _verifies(handler, circuit, inputs, text, session)
        ]
    spent = watch.seconds
    return {
        "witness_s": spent["input"] + spent["witness"],
        "prove_s": spent["prove"],
        "verify_s": spent["verify"],
        "proof_bytes": len(json.loads(proof.proof)["proof"]),
        "outputs": proof.outputs,
        "forged": forged,
    }


def _forge(
    folder: Path, altered: Path, rows: list[list[float]], storage: SessionStorage, srs_directory: Path, place: Path
) -> bool | None:
    import ezkl

    from omron_miner.proving.proof_handlers.ezkl_handler import EzklHandler

    handler, circuit, mixed = EzklHandler(srs_directory), load_circuit(folder), place / folder.name
    mixed.mkdir(parents=True)
    link_files(folder, mixed, without=(COMPILED, CHECKSUMS))
    compiled = str(mixed / COMPILED)
    call(ezkl.compile_circuit, model=str(altered), compiled_circuit=compiled, settings_path=str(circuit.settings_file))
    forger = load_circuit(mixed)
    with storage.session() as session:
        make_witness(handler, circuit, rows, session, Stopwatch().phase)
        honest = handler.witnessed_outputs(circuit, session)
        try:
            handler.witness(forger, session)
            if handler.witnessed_outputs(forger, session) == honest:
                return None
        except ProofError:
            return None
        try:
            proof = handler.prove(forger, session).proof
        except ProofError:
            return False
        return _verifies(handler, circuit, rows, proof, session)


def _forgeries(circuit: Circuit, rows: list[list[float]], proof: str) -> list[tuple[str, list[list[float]], str]]:
    """The proof with the last bit of its first or last output changed and, if inputs are public, with other inputs."""
    content, outputs = json.loads(proof), sum(circuit.settings.output_sizes)
    made = []
    for what, place in (("the first output changed", -outputs), ("the last output changed", -1)):
        instances = list(content["instances"][0])
        felt = bytearray.fromhex(instances[place])
        felt[0] ^= 1  # little-endian
        instances[place] = felt.hex()
        made.append((what, rows, json.dumps({**content, "instances": [instances]})))
    if circuit.settings.public_inputs:
        for what, place in (("the first input changed", 0), ("the last input changed", -1)):
            other = [list(row) for row in rows]
            other[place][place] += 1.0  # many units at any scale from 0 on
            made.append((what, other, proof))
    return made


def _verifies(handler: Any, circuit: Circuit, *given: Any) -> bool:
    try:
        handler.verify(circuit, *given)
    except OmronError:  # VerificationError, or EZKL's error about invalid instances
        return False
    return True
