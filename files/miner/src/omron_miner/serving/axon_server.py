"""Wraps bittensor's Axon: the only module that depends on the SDK's HTTP server.

The SDK always binds every interface, runs its server with a thread that polls a thousand times a second,
calls `sys.exit` in that thread when the port is taken, reads bodies of any size, parses them twice, answers 500 to
one that is not JSON, and never forgets a caller's nonces. So only the SDK's routes and headers are used,
and the server around its application is ours (`http_server`), with its socket, start and stop.

Not for: authorisation and answers. Those are in `admission` and `miner_session`.
"""

import errno
import hashlib
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import bittensor
import bittensor.core.axon as axon_of_the_sdk
import uvicorn
from bittensor.core.errors import InvalidRequestNameError, SynapseException, SynapseParsingError
from bittensor_wallet import Keypair
from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic_core import to_json
from starlette.exceptions import HTTPException as AnyHTTPException

from omron_miner.addresses import host_and_port
from omron_miner.constants import Access, Axon
from omron_miner.errors import OmronError
from omron_miner.serving.http_server import (
    KEEP_ALIVE_SECONDS,
    App,
    Pace,
    RequestMiddleware,
    ServedRequest,
    current_request,
    server_of,
)
from omron_miner.serving.protocol import quiet_sdk
from omron_miner.serving.unauthenticated import UnauthenticatedConnections, UnauthenticatedLimits

_EMPTY_BODY_HASH = hashlib.sha3_256(b"").hexdigest()
"""`computed_body_hash` of every subnet-2 message: none of them names a field to be hashed."""
_NONCE_SECONDS = 4.0
_LONGEST_TIMEOUT = 60.0
"""Seconds since it was signed after which a first request is refused: the SDK's 4 s and the longest that a validator
waits for its answer."""
_PING = bittensor.Synapse.__name__
"""The SDK's route that answers any caller with a valid signature."""
TOO_DEEP = "The request body is nested too deeply"


class _QuickJson(JSONResponse):
    """Three times as fast as the standard library's on a megabyte of proof (bench); it blocks the event loop."""

    def render(self, content: Any) -> bytes:
        return to_json(content)


_MOST_BODY_DEPTH = 32
"""Nesting depth. Tensors of today's circuits have at most 5 dimensions; each level costs memory to parse."""


def too_deep(body: bytes, parsed: Any, most: int = _MOST_BODY_DEPTH) -> bool:
    """Whether the JSON in `body`, as `parsed`, is nested more than `most` levels deep.

    An honest request has fewer containers than that in all, which is quick to count; only others are traversed.
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

    The SDK's rule, but unsigned headers (timeout, version) do not widen it, and it is bounded: the number of uuids per
    hotkey is limited, and a further uuid evicts the hotkey's oldest. A validator has two, new ones after each restart.
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
        """Records it as the newest."""
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
        """The SDK's, but invalid headers get a 400 without an echo of them, not a 500 with one."""
        try:
            return await super().preprocess(request)
        except SynapseParsingError:
            raise InvalidRequestNameError("The request's headers do not match its route") from None

    async def verify(self, synapse: Any) -> None:
        await super().verify(synapse)
        request = current_request()
        request.hotkey = synapse.dendrite.hotkey
        if why := self.axon.admit(request):
            request.refusal = why
            synapse.axon.status_code = 429
            raise SynapseException(why, synapse=synapse)
        if synapse.name != _PING:
            request.mark_authenticated()


class _Axon(bittensor.Axon):  # type: ignore[misc]  # bittensor ships no types we can follow
    admit: Callable[[ServedRequest], str | None]
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
        if synapse.name != _PING:  # anyone can send one: it must not evict other nonces
            self.last_nonces.use(caller.hotkey, uuid, caller.nonce)

    async def verify_body_integrity(self, request: Request) -> dict[str, Any]:
        """The SDK's check with honest statuses and without parsing the body a second time.

        FastAPI has parsed it by now and keeps the result; it answers 422 when the body does not match the synapse.
        """
        if current_request().cut_off:
            raise HTTPException(400)  # the part that was read may be valid JSON; `_refusal` gives the reason
        try:
            body = await request.json()
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict) or request.headers.get("content-type", "").split(";")[0] != "application/json":
            raise HTTPException(422, "The request body is not a JSON object")
        if too_deep(await request.body(), body):
            raise HTTPException(422, TOO_DEEP)
        if request.headers.get("computed_body_hash", "") != _EMPTY_BODY_HASH:
            raise HTTPException(422, "The body's hash is not the one the headers promise")
        return body


async def _say(_request: Request, error: AnyHTTPException) -> JSONResponse:
    return _refusal(error.status_code, str(error.detail))


async def _say_invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
    fields = ", ".join(sorted({".".join(map(str, problem["loc"])) for problem in error.errors()})[:5])
    return _refusal(422, f"The request does not match its route: {fields}")


def _refusal(status: int, message: str) -> JSONResponse:
    """The message where a dendrite reads it. For a body that was cut off, the reason for the cut."""
    if cut_off := current_request().cut_off:
        status, message = cut_off.status, cut_off.why
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
        limits: UnauthenticatedLimits | None = None,
        pace: Pace | None = None,
    ) -> None:
        """`wallet` is a bittensor wallet with its hotkey. `limits` and `pace`: for unauthenticated callers.

        `admit` is called once a request's hotkey is authenticated, and may return why to refuse it (429); `on_done`
        after each request was answered. Both run in the server's loop and must be quick.
        """
        quiet_sdk()
        self._settings = axon
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._limits, self._pace = (limits or UnauthenticatedLimits()).fitted(access.max_body_bytes), pace or Pace()
        self._failure: BaseException | None = None
        # The SDK's own names for them, looked up when it makes an application.
        axon_of_the_sdk.JSONResponse = _QuickJson
        axon_of_the_sdk.AxonMiddleware = _Middleware
        # An external address is always given: without one the SDK queries an external service.
        self._axon = _Axon(
            wallet=wallet,
            ip=axon.bind_ip,
            port=axon.port,
            external_ip=axon.external_ip or axon.bind_ip,
            external_port=axon.external_port or axon.port,
        )
        self._axon.admit, self._axon.last_nonces = admit, LastNonces()
        self._other_apps: dict[str, App] = {}
        app = self._axon.app
        limit = access.max_body_bytes
        app.add_middleware(  # last added, outermost
            RequestMiddleware, max_body_bytes=limit, on_done=on_done, serves=self._serves, other_apps=self._other_apps
        )
        app.add_exception_handler(AnyHTTPException, _say)
        app.add_exception_handler(RequestValidationError, _say_invalid)

    def open(self) -> None:
        """Takes the port, so that no other process does while the rest starts. Raises OmronError when it is taken."""
        family = socket.AF_INET6 if ":" in self._settings.bind_ip else socket.AF_INET
        # The protocol is named because asyncio sets TCP_NODELAY only then; without it each answer's last piece waits
        # for the caller's acknowledgement of the one before: a round trip.
        try:
            opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        except OSError as error:  # no IPv6 here
            raise self._cannot_open(error) from error
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not held up by connections of a last run
            # A vanished caller times out; the kernel would retry for a quarter of an hour.
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * KEEP_ALIVE_SECONDS)
            if self._settings.bind_ip == "::":  # every address of this host, whatever the kernel's default is
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            opened.bind((self._settings.bind_ip, self._settings.port))
        except OSError as error:
            opened.close()
            raise self._cannot_open(error) from error
        self._socket = opened

    def _cannot_open(self, error: OSError) -> OmronError:
        where = host_and_port(self._settings.bind_ip, self._settings.port)
        hint = "axon.bind_ip must be an address of this host: see ip address"
        if error.errno == errno.EADDRINUSE:
            hint = f"see which process has it (ss -ltnp 'sport = {self._settings.port}'), or choose another axon port"
        return OmronError(f"cannot open the axon's port {where}: {error.strerror}", hint)

    def attach(self, forward: Callable[..., Any], blacklist: Callable[..., Any]) -> None:
        """Serves the synapse class that annotates `forward`'s argument; signatures are checked by the SDK."""
        self._axon.attach(forward_fn=forward, blacklist_fn=blacklist)

    def mount(self, paths: Iterable[str], app: App) -> None:
        """Serves these whole paths by `app` instead of the SDK, within the same middleware and with the same `on_done`.

        An app that serves a path checks signatures itself, and then calls `admit`.
        """
        self._other_apps.update(dict.fromkeys(paths, app))

    def start(self) -> None:
        """Starts to listen; returns when it does. Raises OmronError when that fails."""
        self._server = server = server_of(self._axon.app, UnauthenticatedConnections(self._limits), self._pace)
        # Not in the main thread, so uvicorn leaves the signals to us.
        self._thread = threading.Thread(target=self._run, args=(server,), name="axon", daemon=True)
        self._thread.start()
        until = time.monotonic() + 10
        while not server.started and self._thread.is_alive() and time.monotonic() < until:
            time.sleep(0.005)
        if not server.started:
            why = f"{type(self._failure).__name__}: {self._failure}" if self._failure else "unknown reason"
            raise OmronError(f"the axon's HTTP server did not start: {why}", "see the miner's error output")

    def _run(self, server: uvicorn.Server) -> None:
        try:
            server.run([self._socket] if self._socket else [])
        except BaseException as error:  # uvicorn raises SystemExit as well
            self._failure = error
            if server.started:
                raise

    def _serves(self, path: str) -> bool:
        return path[:1] == "/" and path[1:] in self._axon.forward_class_types

    def in_progress(self) -> int:
        """Requests being served, `on_done` included. A snapshot; any thread."""
        return len(self._server.server_state.tasks) if self._server is not None else 0

    def stop_listening(self) -> None:
        """Stops accepting connections (takes 0.1 s); requests in progress continue."""
        if self._server is not None:
            self._server.should_exit = True

    def join(self, seconds: float) -> bool:
        """Waits at most `seconds` until every request is answered and the server has ended; whether it has."""
        running = self._thread is not None and self._thread.is_alive()  # not if it was never started
        if self._thread is not None and running:
            self._thread.join(seconds)
            running = self._thread.is_alive()
        if self._socket is not None:
            self._socket.close()
        return not running
