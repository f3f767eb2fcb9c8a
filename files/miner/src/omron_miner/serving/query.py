"""Requests a proof from a miner exactly as a validator would, and verifies it.

A real bittensor dendrite, or the signed HTTP transport, over TCP; the proof is then verified in another process with
the circuit's own verification key and the inputs that were sent. The deploy's health gate is this with the miner's own
hotkey.
"""

import asyncio
import json
import time
import uuid
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
import bittensor

from omron_miner.addresses import host_and_port
from omron_miner.circuits.circuit import Circuit, CircuitType, check_circuits_directory
from omron_miner.circuits.circuit_store import CircuitStore
from omron_miner.constants import Circuits, Constants
from omron_miner.errors import CircuitError, ConfigError
from omron_miner.proving.verifier import Verdict, verify_elsewhere
from omron_miner.serving.protocol import (
    ProofOfWeightsBody,
    ProofOfWeightsSynapse,
    QueryZkProof,
    QueryZkProofBody,
    WireProofSystem,
    quiet_sdk,
)
from omron_miner.serving.signing import signed_headers
from omron_miner.untrusted import NOT_OF_ITS_FORM, parse_json

VALIDATORS_TIMEOUT_SECONDS = 60.0
"""How long validators wait for a circuit that names no other time."""

Transport = Literal["axon", "http"]
"""bittensor's axon and dendrite, or plain signed HTTP."""

HINTS = {
    401: "the signature was refused: name the miner's hotkey with --miner-hotkey, and check both clocks",
    403: "this hotkey is not authorised: on the local network add it to omron_local_validator_hotkeys",
    404: "the server there is not a subnet-2 miner",
    408: "no answer in time: find this request in the miner's log, or allow more time with --timeout",
    413: "the inputs are larger than access.max_body_bytes",
    503: "nothing listens there: is the miner up, and are host and port right?",
}
"""The next thing to try, by HTTP status; the dendrite reports 408 and 503 when there was no answer at all."""


@dataclass(frozen=True)
class QueryReport:
    """The result of one request. `outputs` are the model's, as floats; empty unless verified."""

    circuit_id: str
    circuit: str
    address: str
    status: int
    """HTTP status, or the dendrite's: 408 no answer in time, 503 no connection, 422 an answer it could not read."""
    round_trip_s: float
    """From signing the request to having parsed the answer, what a validator scores."""
    verified: bool
    verify_s: float
    proof_bytes: int
    outputs: list[float]
    detail: str
    """Why it is not verified; empty when it is."""


def choose_circuit(constants: Constants, wanted: str | None) -> Circuit:
    """The circuit with that id or name in `circuits.directory`; without one that with the smallest proving key.

    Raises CircuitError when there is none, or more than one of that name.
    """
    store = CircuitStore(constants)
    if wanted:
        return store.find(wanted)
    check_circuits_directory(constants.circuits.directory)
    found = store.usable()
    if not found:
        reasons = "; ".join(store.refused().values()) or f"none in {constants.circuits.directory}"
        raise CircuitError(f"no circuit to request: {reasons}", "omron-miner circuit list")
    return min(found, key=lambda circuit: (circuit.pk.stat().st_size, circuit.id))


def check_host(host: str) -> None:
    """Raises ConfigError for a text that can be neither a host name nor an address."""
    try:
        host.encode("idna")
    except UnicodeError as error:  # a label that is empty or too long, or not of letters
        raise ConfigError(f"{host!r} is not a host name", "give the miner's host name or IP address") from error


def query_miner(
    keypair: Any,
    miner_hotkey: str,
    host: str,
    port: int,
    circuit: Circuit,
    inputs: dict[str, Any],
    circuits: Circuits,
    timeout: float = VALIDATORS_TIMEOUT_SECONDS,
    transport: Transport = "axon",
) -> QueryReport:
    """Asks for a proof of `circuit` for `inputs` and verifies it. Does not raise for anything that the miner does.

    `keypair` signs; `timeout` in seconds; `circuits` locates the SRS and EZKL's cache.
    """
    if transport == "http":
        answer = asyncio.run(_ask_http(keypair, miner_hotkey, host, port, circuit, inputs, timeout))
    else:
        answer = asyncio.run(_ask_axon(keypair, miner_hotkey, host, port, _request(circuit, inputs), timeout))
    if answer.problem:
        verdict = Verdict(False, [], answer.problem, 0.0)
    else:
        verdict = verify_elsewhere(circuit, inputs, answer.proof, circuits, answer.signals)
    return QueryReport(
        circuit_id=circuit.id,
        circuit=circuit.label,
        address=host_and_port(host, port),
        status=answer.status,
        round_trip_s=round(answer.seconds, 6),
        verified=verdict.verified,
        verify_s=round(verdict.seconds, 6),
        proof_bytes=len(answer.proof),
        outputs=verdict.outputs,
        detail=verdict.detail,
    )


@dataclass(frozen=True)
class _Answer:
    """The answer: a proof, or a description of the problem."""

    status: int
    seconds: float
    proof: str = ""
    signals: str = ""
    problem: str = ""


def _request(circuit: Circuit, inputs: dict[str, Any]) -> bittensor.Synapse:
    if circuit.circuit_type is CircuitType.PROOF_OF_WEIGHTS:
        system = WireProofSystem(circuit.proof_system.value)
        return ProofOfWeightsSynapse(
            verification_key_hash=circuit.id, proof_system=system, inputs=inputs, proof="", public_signals=""
        )
    return QueryZkProof(query_input={"public_inputs": inputs, "model_id": circuit.id}, query_output="")


async def _ask_axon(
    keypair: Any, miner_hotkey: str, host: str, port: int, synapse: bittensor.Synapse, timeout: float
) -> _Answer:
    target = bittensor.AxonInfo(
        version=1, ip=host, port=port, ip_type=6 if ":" in host else 4, hotkey=miner_hotkey, coldkey=""
    )
    async with Dendrite(keypair) as dendrite:
        began = time.perf_counter()
        synapse = await dendrite.call(target, synapse, timeout=timeout, deserialize=False)
        seconds = time.perf_counter() - began
    status = int(synapse.dendrite.status_code or 0)
    if status != 200:
        return _Answer(status, seconds, problem=str(synapse.dendrite.status_message))
    return _Answer(status, seconds, *_reply(synapse))


async def _ask_http(
    keypair: Any, miner_hotkey: str, host: str, port: int, circuit: Circuit, inputs: dict[str, Any], timeout: float
) -> _Answer:
    """Timed as its validators do: signing is not in it, but connecting and reading the whole answer are."""
    if circuit.circuit_type is CircuitType.PROOF_OF_WEIGHTS:
        route = ProofOfWeightsBody.name
        system = circuit.proof_system.value
        asked = {"subnet_uid": 2, "verification_key_hash": circuit.id, "proof_system": system, "inputs": inputs}
        asked |= {"proof": "", "public_signals": ""}
    else:
        route = QueryZkProofBody.name
        asked = {"model_id": circuit.id, "query_input": inputs, "query_output": ""}
    body = json.dumps(asked).encode()
    headers = signed_headers(keypair, miner_hotkey, body)
    url = f"http://{host_and_port(host, port)}/{route}"
    began = time.perf_counter()
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout)) as session,
            session.post(url, data=body, headers=headers) as response,
        ):
            status, text = response.status, await response.text(errors="replace")
    except asyncio.TimeoutError:
        return _Answer(408, time.perf_counter() - began, problem=f"no answer in {timeout:g} s")
    except aiohttp.ClientError as error:
        return _Answer(503, time.perf_counter() - began, problem=f"{type(error).__name__}: {error}")
    seconds = time.perf_counter() - began
    return _Answer(status, seconds, *_http_reply(status, text))


class Dendrite(bittensor.Dendrite):  # type: ignore[misc]  # bittensor ships no types we can follow
    """The SDK's dendrite, but it calls IPv6 addresses, and does not look up our external IP, a mere header."""

    def __init__(self, keypair: Any) -> None:
        """Sets what the SDK's constructor sets; `keypair` signs."""
        quiet_sdk()
        self.uuid = str(uuid.uuid1())
        self.external_ip = "127.0.0.1"
        self.keypair = keypair
        self.synapse_history: list[Any] = []
        self._session = None

    def _get_endpoint_url(self, target_axon: bittensor.AxonInfo, request_name: str) -> str:
        return f"http://{host_and_port(target_axon.ip, target_axon.port)}/{request_name}"


def _reply(synapse: Any) -> tuple[str, str, str]:
    """The proof, its public signals, and what is wrong when there is none. As strict as validators."""
    if isinstance(synapse, ProofOfWeightsSynapse):
        proof, signals = synapse.proof, synapse.public_signals
        if not proof:
            return "", "", "the miner sent no proof; its log has the reason"
        return proof, signals, _signals_problem(signals)
    return _proof_in(synapse.query_output or "")


def _http_reply(status: int, text: str) -> tuple[str, str, str]:
    if status == 200:
        return _proof_in(text)
    try:
        said = parse_json(text)
    except ValueError:
        said = text
    if isinstance(said, dict):
        said = said.get("detail", text)
    return "", "", f"the miner says: {str(said)[:300] or 'nothing'}"


def _proof_in(text: str) -> tuple[str, str, str]:
    """As `_reply`, for the JSON object that has both strings."""
    try:
        reply = parse_json(text)
        proof, signals = str(reply["proof"]), str(reply["public_signals"])
    except NOT_OF_ITS_FORM:
        return "", "", f"the miner says: {text[:300] or 'nothing'}"
    return proof, signals, _signals_problem(signals)


def _signals_problem(signals: str) -> str:
    try:
        usable = isinstance(found := parse_json(signals), list) and bool(found)
    except ValueError:
        usable = False
    return "" if usable else "its public signals are not a non-empty list"


def hint(report: QueryReport) -> str | None:
    """The next thing to try; None without advice."""
    return HINTS.get(report.status) if not report.verified else None


def to_text(report: QueryReport) -> str:
    """The report as text, with units."""
    rows = [
        ("circuit", f"{report.circuit} ({report.circuit_id[:12]}…)"),
        ("miner", report.address),
        ("status", str(report.status)),
        ("round trip", f"{report.round_trip_s:.3f} s"),
        ("proof", f"{'VERIFIED' if report.verified else 'NOT VERIFIED'}, {report.proof_bytes} bytes"),
    ]
    if report.verified:
        shown = ", ".join(f"{value:g}" for value in report.outputs[:8])
        more = f", … ({len(report.outputs)} in all)" if len(report.outputs) > 8 else ""
        rows += [("checked in", f"{report.verify_s:.3f} s"), ("outputs", f"{shown}{more}" or "none public")]
    else:
        rows.append(("because", report.detail))
    return "\n".join(f"{name:<11}{value}" for name, value in rows)
