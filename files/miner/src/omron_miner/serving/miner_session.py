"""The miner's endpoints: receive validators' requests from the axon, have them proved, answer, and log one event each.

Everything here runs in the axon's event loop and never blocks it: the pool proves, files are read in threads,
and the event of a request is written after its answer was sent. Authorisation is in `admission`, start-up in `start`.

No ``from __future__ import annotations``: bittensor compares the handlers' annotations with real classes.
"""

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from omron_miner.chain.chain import Chain
from omron_miner.circuits.circuit import Circuit
from omron_miner.circuits.circuit_store import CircuitStore
from omron_miner.circuits.constant_output import ConstantOutputs
from omron_miner.circuits.inputs import Inputs, validate_inputs
from omron_miner.competition.watch import NOT_TAKING_PART, Answer, CompetitionWatch
from omron_miner.constants import NONCE_AHEAD_SECONDS, NONCE_BACK_SECONDS, Constants
from omron_miner.errors import CircuitError, InputError
from omron_miner.events import EventLog, FailureKind, RequestEvent
from omron_miner.proving.prover import Pool
from omron_miner.proving.verified_model_session import ProofResult, failed
from omron_miner.serving.admission import Admission
from omron_miner.serving.axon_server import TOO_DEEP, AxonServer, too_deep
from omron_miner.serving.http_server import ServedRequest, current_request
from omron_miner.serving.http_transport import HttpTransport, Refusal, Reply, SeenNonces
from omron_miner.serving.protocol import (
    CAPACITIES_ROUTE,
    DEFAULT_CIRCUIT_ID,
    DSPERSE_ROUTE,
    Competition,
    CompetitionBody,
    ProofOfWeightsBody,
    ProofOfWeightsSynapse,
    QueryForCapacities,
    QueryZkProof,
    QueryZkProofBody,
)

REPLIES = {
    FailureKind.BAD_INPUT: "Invalid query input: {detail}",
    FailureKind.UNKNOWN_CIRCUIT: "Circuit not found",
    FailureKind.QUEUE_FULL: "No prover is free",
    FailureKind.TIMEOUT: "Proof not made in time",
    FailureKind.STOPPING: "The miner is stopping",
}
"""The message sent instead of a proof. Only errors caused by the request itself are explained."""
OTHER_REPLY = "An error occurred"
EMPTY_INPUT = "Empty query input"
EMPTY_WEIGHTS = "Empty input for proof of weights"
HTTP_STATUS = {
    FailureKind.BAD_INPUT: 422,
    FailureKind.UNKNOWN_CIRCUIT: 422,
    FailureKind.QUEUE_FULL: 503,
    FailureKind.STOPPING: 503,
}
"""The signed HTTP transport's statuses; 500 for the rest. Its validators do not change a score unless it is 200."""

_Body = TypeVar("_Body", bound=BaseModel)
_Answer = TypeVar("_Answer")
_MARGIN_SECONDS = 0.7
"""Share of `deadlines.stop_seconds` for answering and closing after the last proof, on a busy machine."""


@dataclass(frozen=True)
class _Outcome:
    """What a handler records for the event."""

    request_id: str
    synapse: str
    circuit_id: str
    circuit: Circuit | None
    inputs_hash: int
    result: ProofResult


class MinerSession:
    """Serves requests on an axon. `start` and `stop` belong to the main thread, the rest to the axon's loop."""

    def __init__(
        self,
        constants: Constants,
        wallet: Any,
        chain: Chain,
        pool: Pool,
        store: CircuitStore,
        events: EventLog,
        competition: CompetitionWatch | None = None,
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        """`wallet` is a bittensor wallet with its hotkey. Without a `competition` it takes part in none.

        `on_refused` is called in the axon's loop when a hotkey is refused because of the validator list.
        Opens nothing yet.
        """
        self._constants = constants
        self._hotkey: str = wallet.hotkey.ss58_address
        self._pool, self._store, self._events = pool, store, events
        self._competition = competition
        self._constant_outputs = ConstantOutputs()
        self._stopping = False
        access = constants.access
        self._admission = admission = Admission(chain, access, self._hotkey, events.lines, on_refused)
        self.server = AxonServer(wallet, constants.axon, access, admission.admit, self._done)
        self.server.attach(self.query_zk_proof, admission.blacklist_for(QueryZkProof))
        self.server.attach(self.proof_of_weights, admission.blacklist_for(ProofOfWeightsSynapse))
        self.server.attach(self.query_for_capacities, admission.blacklist_for(QueryForCapacities))
        self.server.attach(self.competition, admission.blacklist_for(Competition))
        routes = {
            QueryZkProofBody.name: self.http_query_zk_proof,
            ProofOfWeightsBody.name: self.http_proof_of_weights,
            CAPACITIES_ROUTE: self.http_capacities,
            CompetitionBody.name: self.http_competition,
            DSPERSE_ROUTE: self.http_dsperse,
        }
        handlers = {f"/{route}": handler for route, handler in routes.items()}
        nonces = SeenNonces(NONCE_BACK_SECONDS, NONCE_AHEAD_SECONDS)
        self.server.mount(handlers, HttpTransport(self._hotkey, admission.refusal, admission.admit, nonces, handlers))

    def start(self) -> None:
        """Listens. The pool must be warm and `server.open` done. Raises OmronError when the server does not start."""
        self.server.start()

    def stop(self) -> bool:
        """No new requests; gives running ones `deadlines.stop_seconds`, answers the rest; whether all went well."""
        until = time.monotonic() + self._constants.deadlines.stop_seconds
        self._stopping = True
        self.server.stop_listening()
        self._pool.close(max(0.0, until - time.monotonic() - _MARGIN_SECONDS))
        return self.server.join(max(0.1, until - time.monotonic()))

    async def query_zk_proof(self, synapse: QueryZkProof) -> QueryZkProof:
        """A proof of computation. Always 200, as upstream: a message instead of a proof when there is none."""
        query = synapse.query_input or {}
        circuit_id = query.get("model_id", DEFAULT_CIRCUIT_ID)
        result = await self._answer("QueryZkProof", circuit_id, query.get("public_inputs"))
        if result.verified:
            output = to_json({"proof": result.proof, "public_signals": result.public_signals}).decode()
        elif not query.get("public_inputs"):
            output = EMPTY_INPUT
        else:
            output = REPLIES.get(result.failure or FailureKind.INTERNAL_ERROR, OTHER_REPLY).format(detail=result.detail)
        # A new synapse: the request's inputs need no echo, and its headers came from an unsigned body.
        return QueryZkProof(query_output=output)

    async def proof_of_weights(self, synapse: ProofOfWeightsSynapse) -> ProofOfWeightsSynapse:
        """A proof of weights. Always 200, as upstream: both strings empty when there is no proof."""
        result = await self._answer("ProofOfWeightsSynapse", synapse.verification_key_hash, synapse.inputs)
        return ProofOfWeightsSynapse(
            subnet_uid=synapse.subnet_uid,
            verification_key_hash=_sendable(synapse.verification_key_hash),
            proof_system=synapse.proof_system,
            inputs={},  # required; validators verify with their own copy
            proof=result.proof if result.verified else "",
            public_signals=result.public_signals if result.verified else "",
        )

    async def query_for_capacities(self, synapse: QueryForCapacities) -> QueryForCapacities:
        """The number of concurrent proofs of each circuit. Validators only log it."""
        return QueryForCapacities(capacities=await self._capacities())

    async def competition(self, synapse: Competition) -> Competition:
        """Where to fetch our competition circuit. Always 200, as upstream: an error message when there is none."""
        answer = self._offered()
        return Competition(
            id=synapse.id,
            hash=_sendable(synapse.hash),
            file_name=_sendable(synapse.file_name),
            commitment=answer.commitment,
            error=answer.error,
        )

    async def http_query_zk_proof(self, body: bytes) -> Reply:
        """A proof of computation over signed HTTP. Raises Refusal when the body does not match the route."""
        asked = self._parse(QueryZkProofBody, body)
        result = await self._answer(asked.name, asked.model_id, asked.query_input)
        if result.verified:
            return Reply(200, {"proof": result.proof, "public_signals": result.public_signals})
        return _http_failure(result, "" if asked.query_input else EMPTY_INPUT)

    async def http_proof_of_weights(self, body: bytes) -> Reply:
        """A proof of weights over signed HTTP. Raises Refusal when the body does not match the route."""
        asked = self._parse(ProofOfWeightsBody, body)
        result = await self._answer(asked.name, asked.verification_key_hash, asked.inputs)
        if result.verified:  # inputs as above: validators never read ours
            return Reply(200, {"inputs": {}, "proof": result.proof, "public_signals": result.public_signals})
        return _http_failure(result, "" if asked.inputs else EMPTY_WEIGHTS)

    async def http_capacities(self, _body: bytes) -> Reply:
        """As `query_for_capacities`."""
        return Reply(200, await self._capacities())

    async def http_competition(self, body: bytes) -> Reply:
        """As `competition`, over signed HTTP. Raises Refusal when the body does not match the route."""
        asked = self._parse(CompetitionBody, body)
        echo = {"id": asked.id, "hash": _sendable(asked.hash), "file_name": _sendable(asked.file_name)}
        answer = self._offered()
        if answer.error:
            return Reply(503, {"error": answer.error, **echo})
        return Reply(200, {"commitment": answer.commitment, "error": None, **echo})

    def _offered(self) -> Answer:
        return self._competition.answer() if self._competition else Answer(error=NOT_TAKING_PART)

    async def http_dsperse(self, _body: bytes) -> Reply:
        """None of the circuits is cut into slices."""
        return Reply(501, {"error": "This miner proves no slices"})

    def _parse(self, kind: type[_Body], body: bytes) -> _Body:
        try:
            asked = kind.model_validate_json(body)
        except ValidationError as error:
            where = ", ".join(sorted({".".join(map(str, one["loc"][:1])) or "body" for one in error.errors()}))
            raise Refusal(422, f"The request does not match its route: {where}") from None
        if too_deep(body, vars(asked)):
            raise Refusal(422, TOO_DEEP)
        return asked

    async def _capacities(self) -> dict[str, int]:
        try:
            ids = await self._in_time(self._store.ids)
        except asyncio.TimeoutError:
            self._events.lines.warning("Cannot read the circuits' folder in time: reporting no capacities")
            ids = []
        return dict.fromkeys(ids, self._pool.capacity()["workers"])

    async def _answer(self, synapse: str, circuit_id: object, inputs: object) -> ProofResult:
        """Admits, proves, and stores the outcome with the request. Never raises for a fault of the request."""
        request = current_request()
        named = circuit_id if isinstance(circuit_id, str) else ""
        given = inputs if isinstance(inputs, dict) else {}
        circuit: Circuit | None = None
        inputs_hash = 0
        try:
            if self._stopping:
                result = failed(named, FailureKind.STOPPING, "the miner is stopping")
            else:
                circuit = await self._in_time(self._store.get, named)
                rows, inputs_hash = await self._in_time(_validated, circuit, given)
                result = await self._prove(circuit, rows, request)
        except asyncio.TimeoutError:
            limit = self._constants.deadlines.circuit_timeout_seconds
            result = failed(named, FailureKind.TIMEOUT, f"the circuit's folder could not be read within {limit:g} s")
        except CircuitError as error:
            result = failed(named, FailureKind.UNKNOWN_CIRCUIT, error.message)
        except InputError as error:
            result = failed(named, FailureKind.BAD_INPUT, error.message)
        except Exception as error:
            self._events.lines.exception("A request failed unexpectedly")
            result = failed(named, FailureKind.INTERNAL_ERROR, f"{type(error).__name__}: {error}")
        request.outcome = _Outcome(uuid.uuid4().hex, synapse, named, circuit, inputs_hash, result)
        return result

    async def _in_time(self, function: Callable[..., _Answer], *arguments: Any) -> _Answer:
        """Runs work that may block, a disk or a large input, in a thread; waits until the deadline at the latest.

        Raises asyncio.TimeoutError then, and what `function` raises. The thread is abandoned.
        """
        until = current_request().arrived + self._constants.deadlines.circuit_timeout_seconds
        running = asyncio.get_running_loop().run_in_executor(None, function, *arguments)
        return await asyncio.wait_for(running, max(0.0, until - time.monotonic()))

    async def _prove(self, circuit: Circuit, rows: Inputs, request: ServedRequest) -> ProofResult:
        """Hands the job to the pool and waits for it or for the caller to disconnect, which cancels the job."""
        limit = self._constants.deadlines.circuit_timeout_seconds
        if circuit.timeout_seconds is not None:
            limit = min(limit, circuit.timeout_seconds)
        job = self._pool.submit(circuit.id, rows, request.arrived + limit)
        answer: asyncio.Future[ProofResult] = asyncio.wrap_future(job)
        gone = asyncio.create_task(request.gone.wait())
        either: set[asyncio.Future[Any]] = {answer, gone}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                self._pool.cancel(job)
            return await answer
        finally:
            gone.cancel()

    def _done(self, request: ServedRequest) -> None:
        """Writes the event of a request, after its answer was sent."""
        self._admission.done(request)
        outcome: _Outcome | None = request.outcome
        if outcome is None:
            return
        result = outcome.result
        if request.status != 200 and result.failure is None:
            if request.gone.is_set():
                why = "the caller disconnected"
                result = replace(result, verified=False, failure=FailureKind.CANCELLED, detail=why)
            else:
                detail = f"the answer could not be sent (status {request.status})"
                result = replace(result, verified=False, failure=FailureKind.INTERNAL_ERROR, detail=detail)
        constant = result.verified and self._constant_outputs.seen(
            outcome.circuit_id, outcome.inputs_hash, result.outputs
        )
        self._events.request(
            RequestEvent(
                time=time.time(),
                request_id=outcome.request_id,
                synapse=outcome.synapse,
                validator_hotkey=request.hotkey,
                circuit_id=outcome.circuit_id,
                circuit=outcome.circuit.label if outcome.circuit else "",
                verified=result.verified,
                failure=result.failure,
                detail=" ".join(result.detail.split()),
                timings=replace(result.timings, total_s=time.perf_counter() - request.started),
                tries=result.tries,
                proof_bytes=len(result.proof),
                constant_output=constant,
            )
        )


def _validated(circuit: Circuit, inputs: dict[str, Any]) -> tuple[Inputs, int]:
    """A request's validated inputs, and a hash of them. Raises InputError."""
    rows = validate_inputs(circuit, inputs)
    return rows, hash(tuple(map(tuple, rows.values() if isinstance(rows, dict) else rows)))


def _sendable(text: str) -> str:
    """JSON may contain half a surrogate pair, an answer cannot."""
    return text.encode(errors="replace").decode()


def _http_failure(result: ProofResult, nothing_given: str) -> Reply:
    """Upstream's words with its status; `nothing_given` when the request had no inputs."""
    failure = result.failure or FailureKind.INTERNAL_ERROR
    if nothing_given:
        return Reply(422, nothing_given)
    if failure is FailureKind.UNKNOWN_CIRCUIT:
        return Reply(422, f"Invalid circuit ID: {result.circuit_id[:64]}")
    return Reply(HTTP_STATUS.get(failure, 500), REPLIES.get(failure, OTHER_REPLY).format(detail=result.detail))
