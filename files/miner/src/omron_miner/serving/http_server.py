"""uvicorn with limits: the part of the server that both transports share and that depends on neither.

One connection passes, from the wire inwards: `HttpProtocol`, which times and counts bytes; `RequestMiddleware`, which
makes a `ServedRequest` of each request, limits its body and detects a disconnect; the application of its path. Until a
transport has found a request signed (`ServedRequest.mark_authenticated`), its connection may be closed to make room,
see `unauthenticated`.

Not for: signatures, authorisation, and answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import h11
import uvicorn
from pydantic_core import to_json
from uvicorn.protocols.http.h11_impl import H11Protocol

from omron_miner.addresses import peer_of

if TYPE_CHECKING:
    from omron_miner.serving.unauthenticated import UnauthenticatedConnections

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

KEEP_ALIVE_SECONDS = 30
"""Idle timeout, longer than aiohttp's (15 s): a validator must never send on a connection that we are closing."""
ARRIVAL_SECONDS = 15.0
"""A request must arrive completely within this time of its first byte, whatever its size."""
TOO_LARGE = "The request body is too large"
MOST_CONTAINERS = 20_000
"""Lists and objects in a body: each becomes an object in memory, made on the event loop. A request for the subnet's
largest circuit has about a dozen."""
TOO_MANY_CONTAINERS = "The request body has too many lists and objects"
_DRAIN_FACTOR = 8
"""A body over the limit is read and discarded up to this many limits, so that the caller can read our answer."""
_CLOSING_SECONDS = 1.0
"""For the answer to a request that was cut off."""
_CONNECTION = "omron_miner.connection"
"""Key of the scope."""


@dataclass(frozen=True)
class Pace:
    """How quickly a request must arrive: in `first_s` seconds, and a second more for each `bytes_per_s` that came."""

    first_s: float = 5.0
    bytes_per_s: float = 16_384.0
    most_s: float = ARRIVAL_SECONDS

    def allowed(self, received: int) -> float:
        """Seconds that a request may take since its start, or since the connection was made."""
        return min(self.first_s + received / self.bytes_per_s, self.most_s)


@dataclass(frozen=True)
class CutOff:
    """Why the rest of a body is not read, and the matching HTTP status."""

    status: int
    why: str


@dataclass(eq=False)
class ServedRequest:
    """One HTTP request while it is served. Handlers find theirs with `current_request`."""

    path: str
    started: float = field(default_factory=time.perf_counter)
    """`time.perf_counter` when its headers had arrived: a validator's clock has been running since before that."""
    arrived: float = field(default_factory=time.monotonic)
    """The same moment on the clock of deadlines."""
    hotkey: str = ""
    """The hotkey that it names, after the blacklist check; verified only if a handler runs."""
    refusal: str = ""
    """Why it was refused, if known."""
    admitted: bool = False
    """Its hotkey is authenticated, and its allowance counts this request."""
    outcome: Any = None
    """What the handler leaves for `on_done`."""
    status: int = 0
    """HTTP status sent; 0 when the caller disconnected first."""
    cut_off: CutOff | None = None
    """Set when we cut its body off: the part that was read must not be used."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the caller closed the connection."""
    connection: HttpProtocol | None = None

    def mark_authenticated(self) -> None:
        """An authorised hotkey has signed it: it is no longer closed to make room for others."""
        if self.connection is not None:
            self.connection.mark_authenticated()


_current: ContextVar[ServedRequest] = ContextVar("omron_miner_request")


def current_request() -> ServedRequest:
    """The request this coroutine serves. Raises LookupError outside of one."""
    return _current.get()


@contextmanager
def serving(request: ServedRequest) -> Iterator[None]:
    """Makes `request` the current one inside the context, and in tasks started there."""
    before = _current.set(request)
    try:
        yield
    finally:
        _current.reset(before)


async def send_json(send: Send, status: int, content: Any) -> None:
    """A whole answer."""
    body = to_json(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class RequestMiddleware:
    """ASGI middleware around all applications: times the request, limits its body, detects a disconnect.

    An unknown path is answered here, because the SDK writes it into headers of its answer.
    """

    def __init__(
        self,
        app: App,
        max_body_bytes: int,
        on_done: Callable[[ServedRequest], None],
        serves: Callable[[str], bool],
        other_apps: Mapping[str, App],
    ) -> None:
        """`app` has the paths that it `serves`, `other_apps` the others. `on_done` is called after each request."""
        self._app, self._serves, self._other_apps = app, serves, other_apps
        self._limit = max_body_bytes
        self._on_done = on_done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI. `scope` is that of an HTTP request: uvicorn is configured for no others."""
        connection: HttpProtocol = scope[_CONNECTION]
        request = connection.request = ServedRequest(scope["path"], connection=connection)
        channel = _Channel(receive, send, connection, request, self._limit, _declared_length(scope))
        try:
            app = self._other_apps.get(request.path) or (self._app if self._serves(request.path) else _not_found)
            with serving(request):
                await app(scope, channel.receive, channel.send)
        finally:
            channel.close()
            self._on_done(request)


async def _not_found(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send_json(send, 404, {"message": "Not Found"})


class _Channel:
    """The two channels of one request. Bodies are counted as they come, so chunked ones are bounded as well."""

    def __init__(
        self,
        receive: Receive,
        send: Send,
        connection: HttpProtocol,
        request: ServedRequest,
        limit: int,
        declared: int,
    ) -> None:
        self._receive, self._send = receive, send
        self._connection, self._request = connection, request
        self._limit, self._declared = limit, declared
        self._read, self._containers = 0, 0
        self._watch: asyncio.Task[Message] | None = None

    def _refused(self) -> CutOff | None:
        """Why the body is not read further; checked before it is parsed."""
        if self._declared > self._limit or self._read > self._limit:
            return CutOff(413, TOO_LARGE)
        if self._containers > MOST_CONTAINERS:
            return CutOff(422, TOO_MANY_CONTAINERS)
        return None

    async def receive(self) -> Message:
        if self._watch is not None:  # the body is complete: the next message can only be a disconnect
            return await asyncio.shield(self._watch)
        message: Message = {}
        if self._declared <= self._limit and self._connection.cut_off is None:
            message = await self._receive()
            body = message.get("body", b"")
            self._read += len(body)
            self._containers += body.count(b"[") + body.count(b"{")
        if self._connection.cut_off is not None:
            self._request.cut_off = self._connection.cut_off
        elif (refused := self._refused()) is not None:
            self._request.cut_off = refused
            self._connection.forget_body()
            await self._drain(message)
        if self._request.cut_off is not None:
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
        most = _DRAIN_FACTOR * self._limit
        while message.get("more_body", True) and self._read <= most and self._connection.cut_off is None:
            message = await self._receive()
            body = message.get("body", b"")
            self._read += len(body)
            self._containers += body.count(b"[") + body.count(b"{")
            if message["type"] == "http.disconnect":
                return


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


class HttpProtocol(H11Protocol):
    """uvicorn's, but requests must arrive in time, and unauthenticated connections make room for others.

    uvicorn waits without limit for a request, for its body, and for a caller to take its answer.
    """

    def __init__(self, *args: Any, unauthenticated: UnauthenticatedConnections, pace: Pace, **named: Any) -> None:
        """`args` and `named` are uvicorn's."""
        super().__init__(*args, **named)
        self.peer = ""
        self.request: ServedRequest | None = None
        self.cut_off: CutOff | None = None
        self._application, self.app = self.app, self._serve
        self._unauthenticated, self._pace = unauthenticated, pace
        self._timer: asyncio.TimerHandle | None = None
        self._since, self._received = 0.0, 0
        self._counting = True

    @property
    def hotkey(self) -> str:
        """As the caller claims it."""
        return self.request.hotkey if self.request else ""

    def mark_authenticated(self) -> None:
        """See `ServedRequest.mark_authenticated`; lasts until the answer was sent."""
        self._unauthenticated.leave(self)

    def forget_body(self) -> None:
        """The rest of this request's body is discarded as it arrives, and takes no memory."""
        self._counting = False
        self._unauthenticated.forget_bytes(self)

    def cut(self, status: int, why: str) -> None:
        """Closes the connection; a request of which only the body is incomplete is answered first."""
        if self.cut_off is not None:
            return
        self._stop_clock()
        self._unauthenticated.leave(self)
        unanswered = self.cycle and not self.cycle.response_started and not self.transport.is_closing()
        if unanswered and self.conn.their_state is h11.SEND_BODY:
            self.cut_off = CutOff(status, why)
            self.cycle.keep_alive = False
            self.cycle.message_event.set()
            self._timer = self.loop.call_later(_CLOSING_SECONDS, self.transport.abort)
        elif self.transport.is_closing() or self.transport.get_write_buffer_size():  # it waits for the caller to read
            self.transport.abort()
        else:
            self.transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        self.peer = peer_of(self.client[0]) if self.client else ""
        self._start_clock()
        self._unauthenticated.enter(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._timer is None and self.conn.their_state is h11.IDLE:
            self._start_clock()
        if self.cut_off is not None or self.transport.is_closing():
            return
        self._received += len(data)
        before = self.conn.their_state
        super().data_received(data)
        self._look_at_clock()
        if self._counting and self.conn.their_state in (h11.IDLE, h11.SEND_BODY):  # a complete request is answered soon
            self._unauthenticated.charge(self, len(data))  # which may close this connection
        if (before, self.conn.their_state) == (h11.SEND_BODY, h11.IDLE):  # the end of a body that was answered before
            self._stop_clock()
            self.timeout_keep_alive_task = self.loop.call_later(KEEP_ALIVE_SECONDS, self.timeout_keep_alive_handler)

    def send_400_response(self, msg: str) -> None:
        """uvicorn's, but also handles one while a request is served, or after its answer has started."""
        if self.cycle and not self.cycle.response_complete:  # its application must not answer as well
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            self.transport.abort()

    def on_response_complete(self) -> None:
        """Called by uvicorn when an answer was handed to the transport."""
        self.request, self._counting = None, False
        self._unauthenticated.enter(self)
        super().on_response_complete()  # which starts the next request if part of it has arrived
        self._look_at_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._stop_clock()
        self._unauthenticated.leave(self)
        super().connection_lost(exc)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_CONNECTION] = self
        await self._application(scope, receive, send)

    def _look_at_clock(self) -> None:
        if self.cut_off is not None or self.transport.is_closing():
            return
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):  # it has arrived, or is malformed and being closed
            self._stop_clock()
        elif self._timer is None and self.conn.their_state is h11.SEND_BODY:
            self._start_clock()

    def _start_clock(self) -> None:
        self._since, self._received, self._counting = self.loop.time(), 0, True
        self._timer = self.loop.call_later(self._pace.allowed(0), self._on_time)

    def _on_time(self) -> None:
        due = self._since + self._pace.allowed(self._received)
        if due > self.loop.time():
            self._timer = self.loop.call_at(due, self._on_time)
        else:
            self._timer = None
            self.cut(408, "The request did not arrive in time")

    def _stop_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def server_of(app: App, unauthenticated: UnauthenticatedConnections, pace: Pace) -> uvicorn.Server:
    """A server of HTTP and nothing else: websocket handshakes get the answer of any other request."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=partial(HttpProtocol, unauthenticated=unauthenticated, pace=pace),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_config=None,  # or it sets up logging for the whole process
            log_level="error",  # its warnings are one per malformed request
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
    )
