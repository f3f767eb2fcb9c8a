"""The interface of every proof system, and its errors."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from omron_miner.errors import OmronError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.proving.session_storage import Session


class ProofError(OmronError):
    """The proof system could not make a witness or a proof."""


class VerificationError(OmronError):
    """The proof does not verify for these inputs, or is not a proof of this circuit."""


@dataclass(frozen=True)
class Proof:
    """A proof in wire format, and its outputs.

    `proof` is the JSON text of the proof system's whole proof file, `public_signals` that of its instances or public
    signals; `outputs` are the public outputs as floats, all in one list.
    """

    proof: str
    public_signals: str
    outputs: list[float]


@contextmanager
def native_errors(kind: type[ProofError] | type[VerificationError], what: str) -> Iterator[None]:
    """Raises `kind`, with `what` before the message, for anything that native code raises, including panics.

    These are BaseExceptions. Those that abort the process cannot be caught here or anywhere.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise kind(f"{what}: {' '.join(str(error).split()) or type(error).__name__}") from error


class ProofHandler(Protocol):
    """The three steps of a request, whose files go to its session. The constructor takes the SRSs' folder, if needed.

    `rows` are what `inputs.validate_inputs` made of the request for this proof system. A handler is used by one
    thread at a time, in a process that may die: native code can abort it.
    """

    def load(self, circuit: Circuit) -> None:
        """Loads the keys of the circuit into memory, if the system can keep them there. Raises ProofError."""

    def write_input(self, rows: Any, session: Session) -> None:
        """Stores validated inputs for the session, in files if the system reads them from files. Raises OSError."""

    def witness(self, circuit: Circuit, session: Session) -> None:
        """Runs the model on the session's input and leaves the witness there. Raises ProofError."""

    def prove(self, circuit: Circuit, session: Session) -> Proof:
        """Proves the session's witness; parts that verification does not read are omitted. Raises ProofError."""

    def verify(self, circuit: Circuit, rows: Any, proof: str, session: Session, signals: str = "") -> Proof:
        """Verifies a proof's wire strings as a validator that sent these inputs would.

        `signals` are the public signals that came with it; EZKL's proofs contain their own and need none.

        Returns the verified proof. Raises VerificationError when it does not verify.
        """
