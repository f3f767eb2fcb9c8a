"""bittensor's Axon, tamed: the one place that knows what the SDK's HTTP server does and leaves undone.

The SDK binds every interface whatever it is told, runs its server with a thread that polls a thousand times a second,
calls `sys.exit` in that thread when the port is taken, reads bodies of any size, parses them twice, answers 500 to
one that is not JSON, and keeps every caller's nonces for ever. So the SDK keeps what it is good at (routes, headers),
and the server around its application is ours: our socket, a gate in front of every request, our start and stop.

Not for: who may ask and what is answered. That is `miner_session`'s.
"""

import asyncio
import hashlib
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import bittensor
import bittensor.core.axon as axon_of_the_sdk
import h11
import uvicorn
from bittensor.core.errors import InvalidRequestNameError, SynapseException, SynapseParsingError
from bittensor_wallet import Keypair
from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic_core import to_json
from starlette.exceptions import HTTPException as AnyHTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

from omron_miner.constants import Access, Axon
from omron_miner.errors import OmronError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_EMPTY_BODY_HASH = hashlib.sha3_256(b"").hexdigest()
"""`computed_body_hash` of every subnet-2 message: none of them names a field to be hashed."""
_KEEP_ALIVE_SECONDS = 30
"""Longer than aiohttp keeps an idle connection (15 s): a validator must never send on one we are just closing."""
_NONCE_SECONDS = 4.0
_LONGEST_TIMEOUT = 60.0
"""Seconds since it was signed after which a first request is refused: the SDK's 4 s and the longest that a validator
waits for its answer."""
_PING = bittensor.Synapse.__name__
"""The SDK's route that answers everybody who signs."""
_DRAIN_FACTOR = 8
"""A body over the limit is read and thrown away up to this many limits, so that the caller can read our answer."""
ARRIVAL_SECONDS = 15.0
"""A request, once begun, must have arrived whole by then; a connection must have begun one. uvicorn waits for ever."""
TOO_LARGE = "The request body is too large"
TOO_DEEP = "The request body is nested too deeply"


@dataclass(eq=False)
class ServedRequest:
    """One HTTP request while it is served. Handlers find theirs with `current_request`."""

    path: str
    started: float = field(default_factory=time.perf_counter)
    """`time.perf_counter` when its headers had arrived: a validator's clock has been running since before that."""
    arrived: float = field(default_factory=time.monotonic)
    """The same moment on the clock of deadlines."""
    hotkey: str = ""
    """Who signed it, once the blacklist has looked; verified only if a handler runs."""
    refusal: str = ""
    """Why it was refused, when we know."""
    admitted: bool = False
    """Its hotkey is proven, and its allowance counts this request."""
    outcome: Any = None
    """What the handler leaves for `on_done`."""
    status: int = 0
    """HTTP status sent; 0 when the caller was gone before."""
    too_large: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the caller closed the connection."""


_current: ContextVar[ServedRequest] = ContextVar("omron_miner_request")


def current_request() -> ServedRequest:
    """The request this coroutine serves. Raises LookupError outside of one."""
    return _current.get()


class _Gate:
    """ASGI middleware around everything: takes the time, bounds the body, notices a caller who leaves."""

    def __init__(
        self, app: App, max_body_bytes: int, on_done: Callable[[ServedRequest], None], beside: Mapping[str, App]
    ) -> None:
        self._app = app
        self._limit = max_body_bytes
        self._on_done = on_done
        self._beside = beside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = ServedRequest(scope["path"])
        _current.set(request)
        connection = _Connection(receive, send, request, self._limit, _declared_length(scope))
        try:
            await self._beside.get(request.path, self._app)(scope, connection.receive, connection.send)
        finally:
            connection.close()
            self._on_done(request)


class _Connection:
    """The two channels of one request. Bodies are counted as they come, so chunked ones are bounded as well."""

    def __init__(self, receive: Receive, send: Send, request: ServedRequest, limit: int, declared: int) -> None:
        self._receive, self._send = receive, send
        self._request, self._limit, self._declared = request, limit, declared
        self._read = 0
        self._watch: asyncio.Task[Message] | None = None

    async def receive(self) -> Message:
        if self._watch is not None:  # the body is complete: the next message can only be the caller leaving
            return await asyncio.shield(self._watch)
        message = {} if self._declared > self._limit else await self._receive()
        self._read += len(message.get("body", b""))
        if self._declared > self._limit or self._read > self._limit:
            self._request.too_large = True
            await self._drain(message)
            message = {"type": "http.request", "body": b"", "more_body": False}
        if message["type"] == "http.disconnect":
            self._request.gone.set()
        elif not message.get("more_body", False):
            self._watch = asyncio.create_task(self._wait_for_disconnect())
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._request.status = message["status"]
        await self._send(message)

    def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()

    async def _wait_for_disconnect(self) -> Message:
        message = await self._receive()
        self._request.gone.set()
        return message

    async def _drain(self, message: Message) -> None:
        while message.get("more_body", True) and self._read <= _DRAIN_FACTOR * self._limit:
            message = await self._receive()
            self._read += len(message.get("body", b""))
            if message["type"] == "http.disconnect":
                return


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


class _HttpProtocol(H11Protocol):
    """uvicorn's, but that a request must arrive in time; uvicorn closes idle connections only after an answer."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(ARRIVAL_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):  # it is here, or it is broken and being closed
            self._forget_deadline()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(ARRIVAL_SECONDS, self.transport.close)

    def on_response_complete(self) -> None:
        super().on_response_complete()  # which begins the next request if some of it is here
        if self.conn.their_state is h11.SEND_BODY and self._deadline is None:
            self._deadline = self.loop.call_later(ARRIVAL_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        super().connection_lost(exc)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _QuickJson(JSONResponse):
    """Three times as quick as the standard library's on a megabyte of proof, and the loop waits for it (bench)."""

    def render(self, content: Any) -> bytes:
        return to_json(content)


axon_of_the_sdk.JSONResponse = _QuickJson


def too_deep(body: bytes, parsed: Any, most: int) -> bool:
    """Whether the JSON in `body`, as `parsed`, has more than `most` containers in each other.

    An honest request does not even hold so many, which is quick to see; only others are looked through.
    """
    if body.count(b"[") + body.count(b"{") <= most:
        return False
    level = [parsed]
    for _ in range(most + 1):
        level = [node for node in level if isinstance(node, (dict, list))]
        if not level:
            return False
        level = [child for node in level for child in (node.values() if isinstance(node, dict) else node)]
    return True


class LastNonces:
    """The newest nonce of each caller, a hotkey's dendrite with its uuid. Each must be above the one before.

    The SDK's rule, but that headers nobody signed (timeout, version) do not widen it, and that it is bounded: a hotkey
    has so many uuids, and who makes more only forgets its own. A validator has two, new ones after each restart of its.
    """

    def __init__(self, hotkeys: int = 4096, uuids: int = 64) -> None:
        self._hotkeys, self._uuids = hotkeys, uuids
        self._last: OrderedDict[str, OrderedDict[str, int]] = OrderedDict()

    def refusal(self, hotkey: str, uuid: str, nonce: int, timeout: float, now: int) -> str | None:
        """Why a request may not be served; None when it may. `timeout` in s is the caller's, `now` and `nonce` ns."""
        uuids = self._last.get(hotkey)
        last = uuids.get(uuid) if uuids else None
        if last is not None:
            return None if nonce > last else "Nonce is too old, a newer one was last processed"
        window = _NONCE_SECONDS + (timeout if 0 <= timeout <= _LONGEST_TIMEOUT else _LONGEST_TIMEOUT)
        age = (now - nonce) / 1e9
        return None if age < window else f"Nonce is too old: {age:.2f} s, acceptable are {window:.2f} s"

    def use(self, hotkey: str, uuid: str, nonce: int) -> None:
        """Remembers it as the newest."""
        uuids = self._last.setdefault(hotkey, OrderedDict())
        uuids[uuid] = nonce
        uuids.move_to_end(uuid)
        self._last.move_to_end(hotkey)
        if len(uuids) > self._uuids:
            uuids.popitem(last=False)
        if len(self._last) > self._hotkeys:
            self._last.popitem(last=False)

    def __len__(self) -> int:
        return sum(map(len, self._last.values()))


class _Middleware(axon_of_the_sdk.AxonMiddleware):  # type: ignore[misc]
    """The SDK's order of checks, with one more after the signature."""

    async def preprocess(self, request: Request) -> Any:
        """The SDK's, but that headers that do not fit get a 400 without an echo of them, not a 500 with one."""
        try:
            return await super().preprocess(request)
        except SynapseParsingError:
            raise InvalidRequestNameError("The request's headers do not fit its route") from None

    async def verify(self, synapse: Any) -> None:
        await super().verify(synapse)
        request = current_request()
        request.hotkey = synapse.dendrite.hotkey
        if why := self.axon.admit(request):
            request.refusal = why
            synapse.axon.status_code = 429
            raise SynapseException(why, synapse=synapse)


axon_of_the_sdk.AxonMiddleware = _Middleware


class _Axon(bittensor.Axon):  # type: ignore[misc]  # bittensor ships no types we can follow
    admit: Callable[[ServedRequest], str | None]
    max_body_depth: int
    last_nonces: LastNonces

    async def default_verify(self, synapse: Any) -> None:
        """Whether the caller signed this for us and now. Raises ValueError, which becomes a 401 with its words."""
        caller = synapse.dendrite
        if not caller.hotkey or not caller.signature or caller.nonce is None:
            raise ValueError("Missing hotkey, nonce or signature")
        uuid = str(caller.uuid)
        why = self.last_nonces.refusal(caller.hotkey, uuid, caller.nonce, synapse.timeout or 0.0, time.time_ns())
        if why is not None:
            raise ValueError(why)
        ours = self.wallet.hotkey.ss58_address
        message = f"{caller.nonce}.{caller.hotkey}.{ours}.{uuid}.{synapse.computed_body_hash}"
        if not Keypair(ss58_address=caller.hotkey).verify(message, caller.signature):
            raise ValueError("Signature mismatch")
        if synapse.name != _PING:  # anybody may send one: it must not push out who is remembered
            self.last_nonces.use(caller.hotkey, uuid, caller.nonce)

    async def verify_body_integrity(self, request: Request) -> dict[str, Any]:
        """The SDK's check with honest statuses and without parsing the body a second time.

        FastAPI has parsed it by now and keeps the result; it turns what does not fit the synapse into a 422 itself.
        """
        if current_request().too_large:
            raise HTTPException(413, TOO_LARGE)  # what came before the limit may be JSON by itself
        try:
            body = await request.json()
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict) or request.headers.get("content-type", "").split(";")[0] != "application/json":
            raise HTTPException(422, "The request body is not a JSON object")
        if too_deep(await request.body(), body, self.max_body_depth):
            raise HTTPException(422, TOO_DEEP)
        if request.headers.get("computed_body_hash", "") != _EMPTY_BODY_HASH:
            raise HTTPException(422, "The body's hash is not the one the headers promise")
        return body


async def _say(_request: Request, error: AnyHTTPException) -> JSONResponse:
    return _refusal(error.status_code, str(error.detail))


async def _say_invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
    fields = ", ".join(sorted({".".join(map(str, problem["loc"])) for problem in error.errors()})[:5])
    return _refusal(422, f"The request does not fit its route: {fields}")


def _refusal(status: int, message: str) -> JSONResponse:
    """Words where a dendrite looks for them. What is wrong with a body cut off at the limit is its size."""
    if current_request().too_large:
        status, message = 413, TOO_LARGE
    return JSONResponse({"message": message}, status)


class AxonServer:
    """An axon on our own socket. `open` first, then attach, then `start`; all from one thread."""

    def __init__(
        self,
        wallet: Any,
        axon: Axon,
        access: Access,
        admit: Callable[[ServedRequest], str | None],
        on_done: Callable[[ServedRequest], None],
    ) -> None:
        """`wallet` is a bittensor wallet with its hotkey.

        `admit` is called once a request's hotkey is proven, and may say why it is refused all the same (429); `on_done`
        after each request was answered. Both run in the server's loop and must be quick.
        """
        self._settings = axon
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        # An external address is always given: without one the SDK asks the internet for it.
        self._axon = _Axon(
            wallet=wallet,
            ip=axon.bind_ip,
            port=axon.port,
            external_ip=axon.external_ip or axon.bind_ip,
            external_port=axon.external_port or axon.port,
        )
        self._axon.admit, self._axon.max_body_depth, self._axon.last_nonces = admit, access.max_body_depth, LastNonces()
        self._beside: dict[str, App] = {}
        app = self._axon.app
        limit = access.max_body_bytes
        app.add_middleware(_Gate, max_body_bytes=limit, on_done=on_done, beside=self._beside)  # last added, outermost
        app.add_exception_handler(AnyHTTPException, _say)
        app.add_exception_handler(RequestValidationError, _say_invalid)

    def open(self) -> None:
        """Takes the port, so that nobody else does while the rest starts. Raises OmronError when it is taken."""
        family = socket.AF_INET6 if ":" in self._settings.bind_ip else socket.AF_INET
        # The protocol is named because asyncio sets TCP_NODELAY only then; without it each answer's last piece waits
        # for the caller's acknowledgement of the one before: a round trip.
        opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not held up by connections of a last run
            # A caller who vanished is given up; the kernel would try for a quarter of an hour to reach it.
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * _KEEP_ALIVE_SECONDS)
            opened.bind((self._settings.bind_ip, self._settings.port))
        except OSError as error:
            opened.close()
            where = f"{self._settings.bind_ip}:{self._settings.port}"
            hint = f"see who has it (ss -ltnp 'sport = {self._settings.port}'), or choose another axon port"
            raise OmronError(f"cannot open the axon's port {where}: {error.strerror}", hint) from error
        self._socket = opened

    def attach(self, forward: Callable[..., Any], blacklist: Callable[..., Any]) -> None:
        """Serves the synapse class that annotates `forward`'s argument; signatures are checked by the SDK."""
        self._axon.attach(forward_fn=forward, blacklist_fn=blacklist)

    def mount(self, paths: Iterable[str], app: App) -> None:
        """Serves these whole paths by `app` instead of the SDK; the gate, `current_request` and `on_done` are its too.

        Whoever serves a path checks signatures itself, and asks `admit` after that.
        """
        self._beside.update(dict.fromkeys(paths, app))

    def start(self) -> None:
        """Begins to listen; returns when it does. Raises OmronError when that fails."""
        config = uvicorn.Config(
            self._axon.app,
            http=_HttpProtocol,
            log_config=None,  # or it sets up logging for the whole process
            access_log=False,
            lifespan="off",
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        )
        self._server = server = uvicorn.Server(config)
        # Not in the main thread, so uvicorn leaves the signals to us.
        self._thread = threading.Thread(target=server.run, args=([self._socket],), name="axon", daemon=True)
        self._thread.start()
        until = time.monotonic() + 10
        while not server.started and self._thread.is_alive() and time.monotonic() < until:
            time.sleep(0.005)
        if not server.started:
            raise OmronError("the axon's HTTP server did not start", "see the miner's error output")

    def in_progress(self) -> int:
        """Requests being served, `on_done` included. A snapshot; any thread."""
        return len(self._server.server_state.tasks) if self._server is not None else 0

    def stop_listening(self) -> None:
        """No new connection from now on (0.1 s); requests in progress go on."""
        if self._server is not None:
            self._server.should_exit = True

    def join(self, seconds: float) -> bool:
        """Waits at most `seconds` until every request is answered and the server has ended; whether it has."""
        if self._thread is not None:
            self._thread.join(seconds)
        if self._socket is not None:
            self._socket.close()
        return self._thread is None or not self._thread.is_alive()
