"""CIRCOM: Groth16 for circom circuits, in this process: wasmtime computes the witness, groth16py (arkworks) the proof.

Keys are loaded once per process and kept: a request reads neither proving key nor witness program again. snarkjs
is not needed on a host; tests compare both directions with it. Importing this module loads native code.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import groth16py
from pydantic_core import to_json

from omron_miner.circuits import circom
from omron_miner.circuits.checksums import fingerprint
from omron_miner.proving.proof_handlers.base import Proof, ProofError, VerificationError, native_errors
from omron_miner.proving.proof_handlers.circom_witness import VALUE_BYTES, WitnessProgram, witness_file
from omron_miner.untrusted import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from omron_miner.circuits.circom import CircomSettings
    from omron_miner.circuits.circuit import Circuit
    from omron_miner.proving.session_storage import Session

WITNESS = "witness.wtns"
_KEPT = 4
"""Maximum number of circuits whose keys are kept in memory; validators request two."""
_PROOF_VALUES = 8
_WITNESS_HEADER_BYTES = len(witness_file(b""))
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class _Loaded:
    """A circuit's keys in memory. `made_of` are its files at that time."""

    made_of: tuple[tuple[str, int, int], ...]
    program: WitnessProgram
    key: groth16py.ProvingKey


class CircomHandler:
    """`base.ProofHandler` for CIRCOM."""

    def __init__(self) -> None:
        self._inputs: WeakKeyDictionary[Session, Mapping[str, list[int]]] = WeakKeyDictionary()
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self._verifiers: OrderedDict[str, tuple[tuple[tuple[str, int, int], ...], groth16py.Verifier]] = OrderedDict()

    def load(self, circuit: Circuit) -> None:
        """Loads the circuit's keys, unless they are loaded and its files unchanged. Raises ProofError."""
        self._keys(circuit)
        self._verifier(circuit)

    def write_input(self, rows: Mapping[str, list[int]], session: Session) -> None:
        """Keeps them for the session: no library takes them from a file, and they would have to be parsed again."""
        self._inputs[session] = rows

    def witness(self, circuit: Circuit, session: Session) -> None:
        """Runs the witness program and writes witness.wtns. Raises ProofError when the inputs do not match it."""
        session.doing("making the witness", circuit.model_compiled, circuit.pk)
        values = self._keys(circuit).program.run(self._inputs[session])
        session.path(WITNESS).write_bytes(witness_file(values))

    def prove(self, circuit: Circuit, session: Session) -> Proof:
        """Proves the session's witness. Raises ProofError. There is no SRS."""
        path, settings = session.path(WITNESS), _settings(circuit)
        session.doing("proving", circuit.pk)
        key = self._keys(circuit).key
        proof = _native(lambda: groth16py.prove_wtns(key, str(path)), ProofError)
        with path.open("rb") as file:
            file.seek(_WITNESS_HEADER_BYTES + VALUE_BYTES)  # the first wire is 1
            values = file.read(settings.public_count * VALUE_BYTES)
        public = [int.from_bytes(values[at : at + VALUE_BYTES], "little") for at in range(0, len(values), VALUE_BYTES)]
        return Proof(_proof_text(proof), _signals_text(public), circom.outputs(settings, self._inputs[session], public))

    def verify(
        self,
        circuit: Circuit,
        rows: Mapping[str, list[int]],
        proof: str,
        session: Session,
        signals: str = "",
    ) -> Proof:
        """The validator's criterion (upstream's circom_handler): the miner's signals with the request's own inputs."""
        settings = _settings(circuit)
        public = circom.validators_signals(settings, rows, _public(signals, settings.public_count))
        session.doing("verifying", circuit.vk)
        verifier = self._verifier(circuit)
        text = _signals_text(public)
        if _native(lambda: verifier.verify_snarkjs(proof, text), VerificationError) is not True:
            raise VerificationError("the proof does not verify for these inputs")
        return Proof(proof, text, circom.outputs(settings, rows, public))

    def _keys(self, circuit: Circuit) -> _Loaded:
        seen = fingerprint(circuit.directory)
        loaded = self._loaded.pop(circuit.id, None)
        if loaded is None or loaded.made_of != seen:
            key, _ = _native(lambda: groth16py.import_zkey(str(circuit.pk)), ProofError)
            loaded = _Loaded(seen, WitnessProgram(circuit.model_compiled), key)
        _keep(self._loaded, circuit.id, loaded)
        return loaded

    def _verifier(self, circuit: Circuit) -> groth16py.Verifier:
        seen = fingerprint(circuit.directory)
        before, verifier = self._verifiers.pop(circuit.id, (None, None))
        if verifier is None or before != seen:
            verifier = _native(
                lambda: groth16py.Verifier(groth16py.VerifyingKey.from_snarkjs_file(str(circuit.vk))), ProofError
            )
        _keep(self._verifiers, circuit.id, (seen, verifier))
        return verifier


def _keep(kept: OrderedDict[str, Any], circuit_id: str, value: object) -> None:
    kept[circuit_id] = value
    while len(kept) > _KEPT:
        kept.popitem(last=False)


def _settings(circuit: Circuit) -> CircomSettings:
    if circuit.circom is None:
        raise ProofError(f"{circuit.label} is not a CIRCOM circuit")
    return circuit.circom


def _native(function: Callable[[], _Answer], kind: type[ProofError] | type[VerificationError]) -> _Answer:
    """The result of native code. Raises `kind` for anything that it raises."""
    with native_errors(kind, "Groth16"):
        return function()


def _proof_text(proof: bytes) -> str:
    """snarkjs' proof.json of eight big-endian coordinates, A, B and C, with the two parts of B's swapped."""
    values = [str(int.from_bytes(proof[at : at + 32], "big")) for at in range(0, len(proof), 32)]
    if len(values) != _PROOF_VALUES:
        raise ProofError(f"Groth16 gave {len(proof)} bytes instead of a proof")
    ax, ay, bx1, bx0, by1, by0, cx, cy = values
    content = {
        "pi_a": [ax, ay, "1"],
        "pi_b": [[bx0, bx1], [by0, by1], ["1", "0"]],
        "pi_c": [cx, cy, "1"],
        "protocol": "groth16",
        "curve": "bn128",
    }
    return to_json(content).decode()


def _signals_text(public: list[int]) -> str:
    """snarkjs' public.json."""
    return to_json([str(value) for value in public]).decode()


def _public(signals: str, count: int) -> list[int]:
    try:
        found = parse_json(signals)
        if not isinstance(found, list) or len(found) != count:
            raise ValueError(f"not a list of {count}")
        public = [int(value) for value in found if isinstance(value, str) and value.isascii() and value.isdigit()]
        if len(public) != count:
            raise ValueError("not all are decimal strings")
    except ValueError as error:
        raise VerificationError(f"the public signals are {error}") from error
    return public
