"""EZKL: witness, prove and verify through its Python library, on files, as validators expect them.

Only circuits of the installed version may be passed (`circuit.load_circuit` ensures that): a file of another version
aborts the process. Importing this module loads EZKL's native code.
"""

from __future__ import annotations

import json
from itertools import chain
from typing import TYPE_CHECKING

import ezkl
from pydantic_core import to_json

from omron_miner.circuits.srs import srs_path
from omron_miner.errors import kind_and_message
from omron_miner.proving.proof_handlers.base import Proof, ProofError, VerificationError
from omron_miner.proving.proof_handlers.ezkl_call import INPUT, WITNESS, call, check_lookups
from omron_miner.untrusted import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.circuits.inputs import Number
    from omron_miner.proving.session_storage import Session

PROOF, REBUILT_PROOF = "proof.json", "rebuilt_proof.json"
_HEAD = '{"protocol":null,"instances":'
"""Prefix of EZKL's compact proof files; equivalent JSON in another form is parsed in full."""
_TRANSCRIPT_KEY, _TRANSCRIPT = '"transcript_type":', '"transcript_type":"EVM"'
"""Upstream verifies with the EVM transcript whatever the proof declares."""
_READABLE_KEY = '"pretty_public_inputs":'
_decoder = json.JSONDecoder()


class EzklHandler:
    """`base.ProofHandler` for EZKL, with the SRSs ``kzg<logrows>.srs`` of a folder."""

    def __init__(self, srs_directory: Path) -> None:
        self._srs_directory = srs_directory

    def load(self, circuit: Circuit) -> None:
        """No-op: EZKL reads its files for every proof."""

    def write_input(self, rows: object, session: Session) -> None:
        """Writes input.json. Raises OSError."""
        session.path(INPUT).write_bytes(to_json({"input_data": rows}))

    def witness(self, circuit: Circuit, session: Session) -> None:
        """Has EZKL write witness.json. Raises ProofError, e.g. when a value leaves a lookup table."""
        session.doing("making the witness", circuit.model_compiled, circuit.vk)
        # With the vk EZKL adds pretty_public_inputs to the proof, as the proofs of the stock miner have it.
        witness = call(
            ezkl.gen_witness,
            data=str(session.path(INPUT)),
            model=str(circuit.model_compiled),
            output=str(session.path(WITNESS)),
            vk_path=str(circuit.vk),
        )
        check_lookups(circuit.settings.whole, witness)

    def witnessed_outputs(self, circuit: Circuit, session: Session) -> list[float]:
        """The outputs in the session's witness, not yet proved. Raises ProofError."""
        try:
            rows = parse_json(session.path(WITNESS).read_bytes())["outputs"]
            return _outputs(circuit, [felt for row in rows for felt in row])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ProofError(f"EZKL wrote an unreadable witness: {kind_and_message(error)}") from error

    def prove(self, circuit: Circuit, session: Session) -> Proof:
        """Proves the session's witness and reads the proof file. Raises ProofError.

        EZKL's readable copy of the instances, more than half of the text when inputs are large, is omitted:
        verification does not read it, and the caller's clock runs until it has the last byte.
        """
        path, srs = session.path(PROOF), srs_path(self._srs_directory, circuit.settings.logrows)
        session.doing("proving", circuit.model_compiled, circuit.pk, srs)
        call(
            ezkl.prove,
            witness=str(session.path(WITNESS)),
            model=str(circuit.model_compiled),
            pk_path=str(circuit.pk),
            proof_path=str(path),
            srs_path=str(srs),
        )
        text = _without_readable_instances(path.read_text(encoding="utf-8"))
        try:
            instances, signals = _instances(text)
        except ValueError as error:
            raise ProofError(f"EZKL wrote a proof file without instances: {error}") from error
        return Proof(text, signals, _outputs(circuit, instances))

    def verify(
        self,
        circuit: Circuit,
        rows: Sequence[Sequence[Number]],
        proof: str,
        session: Session,
        signals: str = "",
    ) -> Proof:
        """The validator's criterion (upstream's ezkl_handler): instances rebuilt from the request's own inputs.

        When the circuit's inputs are public, their field elements replace the miner's and the outputs that follow are
        kept; the transcript is EVM; then EZKL verifies with the circuit's settings and verification key.
        """
        try:
            instances, _signals = _instances(proof)
        except ValueError as error:
            raise VerificationError(f"not an EZKL proof: {error}") from error
        wanted = list(_felts(circuit, rows)) if circuit.settings.public_inputs else []
        wanted += instances[len(wanted) :]
        if wanted != instances or not _is_plainly_evm(proof):
            proof = _with_instances(proof, wanted)
        path, srs = session.path(REBUILT_PROOF), srs_path(self._srs_directory, circuit.settings.logrows)
        path.write_text(proof, encoding="utf-8")
        session.doing("verifying", circuit.settings_file, circuit.vk, srs)
        try:
            verified = call(
                ezkl.verify,
                proof_path=str(path),
                settings_path=str(circuit.settings_file),
                vk_path=str(circuit.vk),
                srs_path=str(srs),
            )
        except ProofError as error:
            raise VerificationError(error.message) from error
        if verified is not True:
            raise VerificationError("EZKL rejects the proof")
        return Proof(proof, json.dumps([wanted], separators=(",", ":")), _outputs(circuit, wanted))


def _instances(proof: str) -> tuple[list[str], str]:
    """The one row of instances in a proof's JSON text, and the JSON text of the list it is in. Raises ValueError.

    When the text has EZKL's own form the rest is not parsed: with a large input that would be a megabyte of text.
    """
    try:
        if proof.startswith(_HEAD):
            rows, end = _decoder.raw_decode(proof, len(_HEAD))
            signals = proof[len(_HEAD) : end]
        else:
            rows = parse_json(proof)["instances"]
            signals = json.dumps(rows, separators=(",", ":"))
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"no instances ({type(error).__name__})") from error
    if not (isinstance(rows, list) and len(rows) == 1 and isinstance(rows[0], list) and rows[0]):
        raise ValueError("instances are not one non-empty row")
    return rows[0], signals


def _without_readable_instances(proof: str) -> str:
    """EZKL's compact proof text with null for `pretty_public_inputs`; any other text unchanged.

    The value is an object of lists of strings, all of them numbers, so it ends at the first brace.
    """
    start = proof.find(_READABLE_KEY + "{")
    end = proof.find("}", start)
    inside = start + len(_READABLE_KEY) + 1
    if start < 0 or end < 0 or "{" in proof[inside:end]:
        return proof
    return f"{proof[:start]}{_READABLE_KEY}null{proof[end + 1 :]}"


def _is_plainly_evm(proof: str) -> bool:
    """Whether the text needs no parsing to be sure that EZKL will read these instances and the EVM transcript in it.

    EZKL refuses duplicate and missing keys, so a first key is the only one, and so is one that occurs once.
    """
    return proof.startswith(_HEAD) and proof.count(_TRANSCRIPT_KEY) == 1 and _TRANSCRIPT in proof


def _with_instances(proof: str, instances: list[str]) -> str:
    try:
        content = parse_json(proof)
        return json.dumps(
            {**content, "instances": [instances], "transcript_type": "EVM"}, separators=(",", ":"), ensure_ascii=False
        )
    except (ValueError, TypeError) as error:
        raise VerificationError(f"not an EZKL proof: {error}") from error


def _felts(circuit: Circuit, rows: Sequence[Sequence[Number]]) -> Iterator[str]:
    settings = circuit.settings
    for row, scale, name in zip(rows, settings.model_input_scales, settings.input_types, strict=True):
        kind = getattr(ezkl.PyInputType, name)
        for number in row:
            yield ezkl.float_to_felt(number, scale, kind)


def _outputs(circuit: Circuit, instances: list[str]) -> list[float]:
    sizes, scales = circuit.settings.output_sizes, circuit.settings.model_output_scales
    each = chain.from_iterable([scale] * size for size, scale in zip(sizes, scales, strict=False))
    felts = instances[-sum(sizes) :] if sizes else []
    try:
        return [float(ezkl.felt_to_float(felt, scale)) for felt, scale in zip(felts, each, strict=False)]
    except (ValueError, TypeError, RuntimeError) as error:
        raise VerificationError(f"an output is not a field element: {error}") from error
