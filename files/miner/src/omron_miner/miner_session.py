"""The miner itself: takes validators' requests from the axon, has them proved, answers, and leaves one event each.

Everything here runs in the axon's event loop and never blocks it: proofs are the pool's, files are read in threads,
and the event of a request is written after its answer was sent. Start and stop are the main thread's.

No ``from __future__ import annotations``: bittensor compares the handlers' annotations with real classes.
"""

import asyncio
import hashlib
import json
import logging
import signal
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, Tuple, TypeVar  # noqa: UP035  the SDK compares a blacklist's annotation with typing's Tuple

import psutil
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from omron_miner import circuit_needs
from omron_miner.allowance import Allowances
from omron_miner.axon_server import TOO_DEEP, AxonServer, ServedRequest, current_request, too_deep
from omron_miner.bond_reset import BondReset
from omron_miner.chain import Chain, ChainAwayError, ChainError, open_chain
from omron_miner.chain_bittensor import BittensorChain
from omron_miner.chain_watch import ChainWatch, moment
from omron_miner.circuit import Circuit, Inputs, validate_inputs
from omron_miner.circuit_store import CircuitStore
from omron_miner.competition import NOT_TAKING_PART, Answer, CompetitionWatch
from omron_miner.constants import Access, Constants
from omron_miner.errors import CircuitError, InputError, OmronError, SrsError
from omron_miner.events import EventLog, FailureKind, RequestEvent, Timings
from omron_miner.http_transport import HttpTransport, Refusal, Reply, SeenNonces
from omron_miner.protocol import (
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
from omron_miner.prover import ProverPool
from omron_miner.session_storage import SessionStorage
from omron_miner.srs import check_srs
from omron_miner.verified_model_session import ProofResult
from omron_miner.wallet import open_hotkey

REPLIES = {
    FailureKind.BAD_INPUT: "Invalid query input: {detail}",
    FailureKind.UNKNOWN_CIRCUIT: "Circuit not found",
    FailureKind.QUEUE_FULL: "No prover is free",
    FailureKind.TIMEOUT: "Proof not made in time",
    FailureKind.STOPPING: "The miner is stopping",
}
"""What a caller reads instead of a proof. Only what the request itself caused is told in detail."""
OTHER_REPLY = "An error occurred"
EMPTY_INPUT = "Empty query input"
EMPTY_WEIGHTS = "Empty input for proof of weights"
HTTP_STATUS = {
    FailureKind.BAD_INPUT: 422,
    FailureKind.UNKNOWN_CIRCUIT: 422,
    FailureKind.QUEUE_FULL: 503,
    FailureKind.STOPPING: 503,
}
"""The signed HTTP transport's statuses; 500 for the rest. Its validators leave a score alone unless it is 200."""

_Body = TypeVar("_Body", bound=BaseModel)
_SAME_OUTPUT = 1e-4
"""Validators call outputs constant when they are all this close (PROTOCOL's competition rule)."""
_REFUSAL_LINE_SECONDS = 60.0
_MARGIN_SECONDS = 0.7
"""Of `deadlines.stop_seconds`, what answering and closing may take after the last proof, on a busy machine."""


def refusal(chain: Chain, access: Access, own_hotkey: str, hotkey: str | None) -> str | None:
    """Why `hotkey` may not ask, in upstream's words; None when it may.

    Our own hotkey always may: only we can sign with it, and the health gate does.
    """
    if hotkey == own_hotkey or not access.blacklist:
        return None
    validator = chain.validator(hotkey) if hotkey else None
    if validator is None:
        return "Hotkey is not registered"
    if not validator.stake >= access.minimum_stake:  # NaN is refused as well
        return "Stake below minimum"
    if access.require_validator_permit and not validator.permit:
        return "Requesting UID has no validator permit"
    return None


@dataclass(frozen=True)
class _Outcome:
    """What a handler leaves for the event."""

    request_id: str
    synapse: str
    circuit_id: str
    circuit: Circuit | None
    inputs: dict[str, Any]
    result: ProofResult


class ConstantOutputs:
    """Notices a circuit whose outputs do not depend on its inputs. Remembers one answer each of 64 circuits."""

    def __init__(self, circuits: int = 64) -> None:
        self._circuits = circuits
        self._last: OrderedDict[str, tuple[bytes, list[float]]] = OrderedDict()

    def seen(self, circuit_id: str, inputs: dict[str, Any], outputs: list[float]) -> bool:
        """Whether these outputs equal the last ones (within 1e-4), which were for other inputs."""
        if not outputs:
            return False
        digest = hashlib.sha256(json.dumps(inputs).encode()).digest()
        before, last = self._last.pop(circuit_id, (digest, outputs))
        self._last[circuit_id] = (digest, outputs)
        if len(self._last) > self._circuits:
            self._last.popitem(last=False)
        same = len(last) == len(outputs) and all(
            abs(one - other) <= _SAME_OUTPUT for one, other in zip(last, outputs, strict=True)
        )
        return digest != before and same


class _Refusals:
    """One line a minute for each kind of refusal, so that nobody can fill the log by being refused."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._counts: dict[int, int] = {}
        self._written: dict[int, float] = {}

    def note(self, request: ServedRequest) -> None:
        status, now = request.status, time.monotonic()
        self._counts[status] = self._counts.get(status, 0) + 1
        if now - self._written.get(status, -_REFUSAL_LINE_SECONDS) >= _REFUSAL_LINE_SECONDS:
            count, self._counts[status], self._written[status] = self._counts[status], 0, now
            # Both come from an unauthenticated caller: cut, and without control characters.
            path, hotkey = (repr(text[:64]) for text in (request.path, request.hotkey))
            why = f" ({request.refusal})" if request.refusal else ""
            self._log.warning("Refused %d request(s) with %d%s, the last to %s by %s", count, status, why, path, hotkey)


class MinerSession:
    """Serves requests on an axon. `start` and `stop` belong to the main thread, the rest to the axon's loop."""

    def __init__(
        self,
        constants: Constants,
        wallet: Any,
        chain: Chain,
        pool: ProverPool,
        store: CircuitStore,
        events: EventLog,
        competition: CompetitionWatch | None = None,
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        """`wallet` is a bittensor wallet with its hotkey. Without a `competition` it takes part in none.

        `on_refused` is called in the axon's loop when a hotkey is refused for what the chain's list says of it.
        Opens nothing yet.
        """
        self._constants = constants
        self._hotkey: str = wallet.hotkey.ss58_address
        self._chain, self._pool, self._store, self._events = chain, pool, store, events
        self._competition = competition
        self._on_refused = on_refused
        self._constant_outputs = ConstantOutputs()
        self._refusals = _Refusals(events.lines)
        self._stopping = False
        access = constants.access
        self._allowances = Allowances(access.requests_in_progress, access.requests_per_minute)
        self.server = AxonServer(wallet, constants.axon, access, self._admit, self._done)
        self.server.attach(self.query_zk_proof, self._blacklist_for(QueryZkProof))
        self.server.attach(self.proof_of_weights, self._blacklist_for(ProofOfWeightsSynapse))
        self.server.attach(self.query_for_capacities, self._blacklist_for(QueryForCapacities))
        self.server.attach(self.competition, self._blacklist_for(Competition))
        routes = {
            QueryZkProofBody.name: self.http_query_zk_proof,
            ProofOfWeightsBody.name: self.http_proof_of_weights,
            CAPACITIES_ROUTE: self.http_capacities,
            CompetitionBody.name: self.http_competition,
            DSPERSE_ROUTE: self.http_dsperse,
        }
        handlers = {f"/{route}": handler for route, handler in routes.items()}
        nonces = SeenNonces(access.nonce_back_seconds, access.nonce_ahead_seconds)
        self.server.mount(handlers, HttpTransport(self._hotkey, self._refusal, self._admit, nonces, handlers))

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
        """A proof of computation. Always 200, as upstream: words instead of a proof when there is none."""
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
        """Each circuit's compute units: the constants', else proofs made at the same time. Validators only log it."""
        return QueryForCapacities(capacities=await self._capacities())

    async def competition(self, synapse: Competition) -> Competition:
        """Where to fetch our competition circuit. Always 200, as upstream: an error in words when there is none."""
        answer = self._offered()
        return Competition(
            id=synapse.id,
            hash=_sendable(synapse.hash),
            file_name=_sendable(synapse.file_name),
            commitment=answer.commitment,
            error=answer.error,
        )

    async def http_query_zk_proof(self, body: bytes) -> Reply:
        """A proof of computation over signed HTTP. Raises Refusal when the body is another's."""
        asked = self._parse(QueryZkProofBody, body)
        result = await self._answer(asked.name, asked.model_id, asked.query_input)
        if result.verified:
            return Reply(200, {"proof": result.proof, "public_signals": result.public_signals})
        return _http_failure(result, "" if asked.query_input else EMPTY_INPUT)

    async def http_proof_of_weights(self, body: bytes) -> Reply:
        """A proof of weights over signed HTTP. Raises Refusal when the body is another's."""
        asked = self._parse(ProofOfWeightsBody, body)
        result = await self._answer(asked.name, asked.verification_key_hash, asked.inputs)
        if result.verified:  # inputs as above: validators never look at ours
            return Reply(200, {"inputs": {}, "proof": result.proof, "public_signals": result.public_signals})
        return _http_failure(result, "" if asked.inputs else EMPTY_WEIGHTS)

    async def http_capacities(self, _body: bytes) -> Reply:
        """As `query_for_capacities`."""
        return Reply(200, await self._capacities())

    async def http_competition(self, body: bytes) -> Reply:
        """As `competition`, over signed HTTP. Raises Refusal when the body is another's."""
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
            raise Refusal(422, f"The request does not fit its route: {where}") from None
        if too_deep(body, vars(asked), self._constants.access.max_body_depth):
            raise Refusal(422, TOO_DEEP)
        return asked

    async def _capacities(self) -> dict[str, int]:
        ids = await asyncio.to_thread(self._store.ids)
        units = dict(self._constants.capacities.compute_units)
        return {one: units.get(one, self._pool.capacity()["workers"]) for one in ids}

    async def _answer(self, synapse: str, circuit_id: object, inputs: object) -> ProofResult:
        """Admits, proves, and leaves the outcome with the request. Never raises for what a request can cause."""
        request = current_request()
        named = circuit_id if isinstance(circuit_id, str) else ""
        given = inputs if isinstance(inputs, dict) else {}
        circuit: Circuit | None = None
        try:
            if self._stopping:
                result = _failed(named, FailureKind.STOPPING, "the miner is stopping")
            else:
                circuit = await asyncio.to_thread(self._store.get, named)
                result = await self._prove(circuit, validate_inputs(circuit, given), request)
        except CircuitError as error:
            result = _failed(named, FailureKind.UNKNOWN_CIRCUIT, error.message)
        except InputError as error:
            result = _failed(named, FailureKind.BAD_INPUT, error.message)
        except Exception as error:
            self._events.lines.exception("A request failed in a way nobody foresaw")
            result = _failed(named, FailureKind.INTERNAL_ERROR, f"{type(error).__name__}: {error}")
        request.outcome = _Outcome(uuid.uuid4().hex, synapse, named, circuit, given, result)
        return result

    async def _prove(self, circuit: Circuit, rows: Inputs, request: ServedRequest) -> ProofResult:
        """Hands the job to the pool and waits for it or for the caller to leave, whose job is then given up."""
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

    def _blacklist_for(self, synapse_class: type) -> Callable[..., Awaitable[Tuple[bool, str]]]:  # noqa: UP006
        """The SDK's hook. It sees headers only, and before the signature is checked: it decides by hotkey alone."""

        async def blacklist(synapse: Any) -> Tuple[bool, str]:  # noqa: UP006
            request = current_request()
            request.hotkey = str(synapse.dendrite.hotkey or "")
            reason = self._refusal(request.hotkey)
            request.refusal = reason or ""
            return reason is not None, reason or ""

        blacklist.__annotations__["synapse"] = synapse_class
        return blacklist

    def _refusal(self, hotkey: str) -> str | None:
        try:
            reason = refusal(self._chain, self._constants.access, self._hotkey, hotkey)
            if reason is not None and hotkey:
                self._on_refused()
        except Exception:
            self._events.lines.exception("The blacklist failed; the request is refused")
            return "Not allowed"
        return reason

    def _admit(self, request: ServedRequest) -> str | None:
        """Takes it from its hotkey's allowance, until it is done; says why when that is used up."""
        why = self._allowances.take(request.hotkey)
        request.admitted = why is None
        return why

    def _done(self, request: ServedRequest) -> None:
        """Writes what became of a request, after its answer was sent."""
        if request.admitted:
            self._allowances.give_back(request.hotkey)
        outcome: _Outcome | None = request.outcome
        if outcome is None:
            if request.status >= 400:
                self._refusals.note(request)
            return
        result = outcome.result
        if request.status != 200 and result.failure is None:
            if request.gone.is_set():
                result = replace(result, verified=False, failure=FailureKind.CANCELLED, detail="the caller went away")
            else:
                detail = f"the answer could not be sent (status {request.status})"
                result = replace(result, verified=False, failure=FailureKind.INTERNAL_ERROR, detail=detail)
        constant = result.verified and self._constant_outputs.seen(outcome.circuit_id, outcome.inputs, result.outputs)
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


def _sendable(text: str) -> str:
    """JSON may carry half a surrogate pair, an answer cannot."""
    return text.encode(errors="replace").decode()


def _http_failure(result: ProofResult, nothing_given: str) -> Reply:
    """Upstream's words with its status; `nothing_given` when the request had no inputs."""
    failure = result.failure or FailureKind.INTERNAL_ERROR
    if nothing_given:
        return Reply(422, nothing_given)
    if failure is FailureKind.UNKNOWN_CIRCUIT:
        return Reply(422, f"Invalid circuit ID: {result.circuit_id[:64]}")
    return Reply(HTTP_STATUS.get(failure, 500), REPLIES.get(failure, OTHER_REPLY).format(detail=result.detail))


def _failed(circuit_id: str, failure: FailureKind, detail: str) -> ProofResult:
    return ProofResult(circuit_id, "", "", "", [], False, failure, detail, Timings(), 0)


def serve(constants: Constants) -> None:
    """Runs the miner until SIGTERM or SIGINT; the process's main thread. Returns after an orderly stop.

    Everything that can be known to be wrong is found before the first worker starts. Raises OmronError (or a subclass)
    saying what: no usable hotkey, port taken, no usable circuit, not registered, chain or workers not to be reached.
    """
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    wallet = open_hotkey(constants.wallet)
    try:
        # After bittensor was imported (above): importing it silences every logger there is.
        events = EventLog(constants.log)
    except OSError as error:
        raise OmronError(f"cannot write the logs: {error}", f"check {constants.log.directory} and its owner") from error
    try:
        _serve(constants, wallet, events, stop)
    except OmronError as error:
        # Only a line: the events may be those of another miner, which has the port and goes on.
        events.lines.error("The miner did not start: %s", error)
        raise
    finally:
        events.close()


def _serve(constants: Constants, wallet: Any, events: EventLog, stop: threading.Event) -> None:
    store = CircuitStore(constants.circuits)
    pool = ProverPool(constants, lambda detail: events.life("worker_lost", detail, logging.WARNING))
    chain = open_chain(constants, wallet)
    watch = watch_of(chain, constants, events.lines)
    competition = None
    if constants.competition.enabled:
        competition = CompetitionWatch(constants.competition, chain, wallet.hotkey, events.lines)
    session = MinerSession(constants, wallet, chain, pool, store, events, competition, watch.want_refresh)
    session.server.open()
    ids = _usable_circuits(constants, store, events)
    SessionStorage(constants.sessions).sweep()
    stale = not read_chain(chain, constants, wallet.hotkey.ss58_address, events.lines)
    pool.start()
    try:
        session.start()
        watch.start(stale)
        if competition:
            competition.start()
        _say_started(constants, wallet, ids, store, events)
        stop.wait()
        events.life("stopping", f"requests in progress have {constants.deadlines.stop_seconds:g} s")
    finally:
        if competition:
            competition.stop()
        answered = session.stop()
        watch.stop()
        chain.close()
    events.life("stopped", "" if answered else "some requests could not be answered")


def _usable_circuits(constants: Constants, store: CircuitStore, events: EventLog) -> list[str]:
    """The ids of circuits that can be proved here. Raises CircuitError naming every refused one when there is none."""
    usable, reasons = [], list(store.refused().values())
    for circuit in map(store.get, store.ids()):
        try:
            if circuit.logrows is not None:
                check_srs(circuit.logrows, constants.circuits.srs_directory, constants.network.name)
            usable.append(circuit.id)
            _warn_of_memory(circuit, events.lines)
        except SrsError as error:
            reasons.append(f"{circuit.label}: {error}")
    for reason in reasons:
        events.lines.warning("Circuit refused: %s", reason)
    if not usable:
        why = "; ".join(reasons) or f"there is no model_<id> folder in {constants.circuits.directory}"
        raise CircuitError(f"no circuit can be served: {why}", "build one, or correct what is named")
    return usable


def _warn_of_memory(circuit: Circuit, log: logging.Logger) -> None:
    """Says that a circuit does not fit this host's memory. It is served all the same: the bounds are estimates."""
    try:
        needed = circuit_needs.needs_of(circuit)
    except OSError:  # its key went away since it was found: the first request for it will say so
        return
    if needed and (why := circuit_needs.misfit(circuit.label, needed, psutil.virtual_memory().total)):
        log.warning("Not enough memory: %s", why)


def read_chain(chain: Chain, constants: Constants, hotkey: str, log: logging.Logger) -> bool:
    """Reads the chain once; False when it is away and the list of an earlier run stands in for it.

    Raises OmronError when our hotkey is not registered, ChainError when the chain is away and there is no such list.
    """
    network = constants.network
    try:
        if not chain.is_registered():
            raise OmronError(
                f"hotkey {hotkey} is not registered on netuid {network.netuid} of {network.name}",
                f"btcli subnet register --netuid {network.netuid} --network {network.name}",
            )
        chain.refresh()
    except ChainAwayError as away:
        try:
            chain.use_copy()
        except ChainError as none:
            raise ChainError(f"{away.message}, and {none.message}", none.hint) from away
        log.warning("The chain is away; using the list of validators of %s: %s", moment(chain.read_at()), away)
        return False
    return True


def watch_of(chain: Chain, constants: Constants, log: logging.Logger) -> ChainWatch:
    """What watches the chain while the miner serves. Not started."""
    axon, network = constants.axon, constants.network
    address = (axon.external_ip or axon.bind_ip, axon.external_port or axon.port)
    also = None
    if constants.reset.bonds and isinstance(chain, BittensorChain):
        also = BondReset(chain, network.netuid, log).step
    return ChainWatch(chain, network, address, log, also)


def _say_started(constants: Constants, wallet: Any, ids: list[str], store: CircuitStore, events: EventLog) -> None:
    from omron_miner import __version__

    axon = constants.axon
    labels = [store.get(one).label for one in ids]
    events.life(
        "started",
        f"omron-miner {__version__} on {axon.bind_ip}:{axon.port} ({constants.network.name}), {', '.join(labels)}",
        version=__version__,
        port=axon.port,
        network=constants.network.name,
        hotkey=wallet.hotkey.ss58_address,
        circuits=ids,
    )
