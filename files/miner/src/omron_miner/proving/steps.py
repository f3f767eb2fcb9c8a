"""The steps from an input to a verified proof, in order, each inside whatever the caller measures or limits it with.

Callers handle tries, deadlines and results: for requests see `verified_model_session`.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.proving.proof_handlers import Proof, ProofHandler
    from omron_miner.proving.session_storage import Session

    Phase = Callable[[str], AbstractContextManager[object]]
    """A context for the step of that name: input, witness, prove or verify."""


class Stopwatch:
    """Seconds per step, each inside a context that `limit` makes. A step that raises is not counted."""

    def __init__(self, limit: Callable[[], AbstractContextManager[object]] = nullcontext) -> None:
        self._limit = limit
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times the step `name`."""
        begun = time.perf_counter()
        with self._limit():
            yield
        self.seconds[name] = time.perf_counter() - begun


def make_witness(handler: ProofHandler, circuit: Circuit, rows: Any, session: Session, phase: Phase) -> None:
    """Writes the input and leaves its witness in the session. Raises OSError or ProofError."""
    with phase("input"):
        handler.write_input(rows, session)
    with phase("witness"):
        handler.witness(circuit, session)


def prove_witness(handler: ProofHandler, circuit: Circuit, rows: Any, session: Session, phase: Phase) -> Proof:
    """Proves the session's witness of `rows` and verifies the proof as a validator does.

    Raises ProofError or VerificationError.
    """
    with phase("prove"):
        proof = handler.prove(circuit, session)
    with phase("verify"):
        handler.verify(circuit, rows, proof.proof, session, proof.public_signals)
    return proof
