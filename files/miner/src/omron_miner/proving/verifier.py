"""Verifies an external proof in another process, so that a malformed one cannot crash this process.

The proof handlers define verification; who made the proof, and how it was received, does not matter.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omron_miner.circuits.inputs import validate_inputs
from omron_miner.errors import OmronError
from omron_miner.proving import isolated
from omron_miner.proving.session_storage import Session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.constants import Circuits


@dataclass(frozen=True)
class Verdict:
    """Whether a proof verifies. `seconds` is all of it, the process's start included."""

    verified: bool
    outputs: list[float]
    """The model's, as floats, all in one list; empty unless verified."""
    detail: str
    """Why not; empty when it does."""
    seconds: float


def verify_elsewhere(
    circuit: Circuit, inputs: Mapping[str, object], proof: str, circuits: Circuits, signals: str = ""
) -> Verdict:
    """Verifies `proof` and `signals` (wire strings) of `circuit` for `inputs` as a validator that sent them would.

    EZKL's proofs need no `signals`. `circuits` locates the SRS and EZKL's cache. Raises OmronError for a fault of this
    host such as a full disk, never for anything a proof can cause.
    """
    began = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(prefix="omron-verify-") as directory:  # ours: the process may be killed
            session = Session(Path(directory))
            asked = (circuit, dict(inputs), proof, circuits.srs_directory, signals, session)
            outputs = isolated.run(_verify, *asked, ezkl_directory=circuits.ezkl_directory)
    except OmronError as error:
        return Verdict(False, [], str(error), time.perf_counter() - began)
    except OSError as error:
        raise OmronError(
            f"the proof cannot be verified here: {error}", f"check the free space of {tempfile.gettempdir()}"
        ) from error
    return Verdict(True, outputs, "", time.perf_counter() - began)


def _verify(
    circuit: Circuit, inputs: dict[str, object], proof: str, srs_directory: Path, signals: str, session: Session
) -> list[float]:
    """In the other process: the outputs. Raises OmronError when the proof does not verify."""
    from omron_miner.proving.proof_handlers import get_handler

    handler = get_handler(circuit.proof_system, srs_directory)
    rows = validate_inputs(circuit, inputs)
    return handler.verify(circuit, rows, proof, session, signals).outputs
