"""The signed HTTP transport, next to the SDK's: raw bodies, four headers, plain JSON answers, on the same port.

Upstream checks only the signature (`signing`); here a nonce must also be fresh and used once, and `miner-hotkey`
must be ours. Cheap checks come first: the hotkey and the nonce before the body is read, the signature before anything
is parsed.

Not for: authorisation and answers. Those are in `admission` and `miner_session`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omron_miner.serving.http_server import ARRIVAL_SECONDS, current_request, send_json
from omron_miner.serving.signing import MINER_HOTKEY, NONCE, SIGNATURE, VALIDATOR_HOTKEY, is_signed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from typing import TypeAlias

    from omron_miner.serving.http_server import Receive, Scope, Send, ServedRequest

    Handler: TypeAlias = "Callable[[bytes], Awaitable[Reply]]"
    """Takes the authenticated body; raises only Refusal."""

_MOST_NONCES = 100_000
"""Nonces remembered of all hotkeys. Each is a signed request of the last seconds: honest traffic stays far below."""
_LONGEST_NONCE = 20
"""Digits; nanoseconds since 1970 have 19."""


@dataclass(frozen=True)
class Reply:
    """A handler's answer: an HTTP status and the content of the JSON body."""

    status: int
    content: Any


class Refusal(Exception):
    """A request that gets no handler: the status and why, sent to the caller and counted in the log."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class SeenNonces:
    """Remembers each hotkey's nonces for longer than they are fresh, so that each is accepted once. Lost on restart.

    Nonces need not ascend: two requests of one validator may overtake each other. Times are nanoseconds since 1970.
    """

    def __init__(self, back_s: float, ahead_s: float, most: int = _MOST_NONCES) -> None:
        """A nonce is fresh from `back_s` seconds ago to `ahead_s` seconds from now; at most `most` are kept."""
        self._back, self._ahead, self._most = int(back_s * 1e9), int(ahead_s * 1e9), most
        # A replay's nonce may be checked while its body is still arriving. Twice, for a busy loop.
        self._keep = self._back + self._ahead + int(2 * ARRIVAL_SECONDS * 1e9)
        self._seen: OrderedDict[tuple[str, int], int] = OrderedDict()
        """With the time at which each may be forgotten; in order of arrival, which is nearly that of time."""

    def fresh(self, nonce: int, now: int) -> bool:
        """Whether a request with this nonce may be served at `now`."""
        return now - self._back <= nonce <= now + self._ahead

    def seen(self, hotkey: str, nonce: int) -> bool:
        """Whether it was used."""
        return (hotkey, nonce) in self._seen

    def use(self, hotkey: str, nonce: int, now: int) -> bool:
        """Remembers a nonce; False when there is no room for it, and the request must not be served."""
        while self._seen and next(iter(self._seen.values())) < now:
            self._seen.popitem(last=False)
        if len(self._seen) >= self._most:
            return False
        self._seen[hotkey, nonce] = now + self._keep  # not nonce + ...: the oldest stay in front
        return True

    def __len__(self) -> int:
        return len(self._seen)


class HttpTransport:
    """An ASGI application serving some paths. All of it runs in the server's loop."""

    def __init__(
        self,
        own_hotkey: str,
        refusal: Callable[[str], str | None],
        admit: Callable[[ServedRequest], str | None],
        nonces: SeenNonces,
        handlers: Mapping[str, Handler],
    ) -> None:
        """`refusal`: why a hotkey is not authorised (403); `admit`: why an authenticated one is over its limits (429).

        `handlers` by path.
        """
        self._own_hotkey = own_hotkey
        self._refusal, self._admit = refusal, admit
        self._nonces = nonces
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI. `scope["path"]` is one of the handlers'."""
        request = current_request()
        try:
            if scope["method"] != "POST":
                raise Refusal(405, "Method Not Allowed")
            body = await self._authenticated_body(_headers(scope), receive, request)
            if body is None:
                return  # the caller disconnected
            reply = await self._handlers[scope["path"]](body)
        except Refusal as refusal:
            request.refusal = refusal.why
            reply = Reply(refusal.status, {"detail": refusal.why})  # where upstream's validators find it
        await send_json(send, reply.status, reply.content)

    async def _authenticated_body(
        self, headers: Mapping[str, str], receive: Receive, request: ServedRequest
    ) -> bytes | None:
        """The body, freshly signed for us and not replayed. None when the caller disconnected; raises Refusal."""
        hotkey, now = headers.get(VALIDATOR_HOTKEY, ""), time.time_ns()
        request.hotkey = hotkey
        if why := self._refusal(hotkey):
            raise Refusal(403, why)
        if headers.get(MINER_HOTKEY) != self._own_hotkey:
            raise Refusal(401, "The miner-hotkey is not ours")
        nonce = _nonce(headers.get(NONCE, ""))
        if nonce is None:
            raise Refusal(401, "The nonce is missing or not a number of nanoseconds")
        if not self._nonces.fresh(nonce, now):
            raise Refusal(401, f"The nonce is {(now - nonce) / 1e9:+.3f} s old by our clock")
        if self._nonces.seen(hotkey, nonce):
            raise Refusal(401, "The nonce was used before")
        body = await _body(receive, request)
        if body is None:
            return None
        if not is_signed(hotkey, headers[NONCE], body, headers.get(SIGNATURE, "")):
            raise Refusal(401, "The signature does not match the body, the nonce and the hotkey")
        request.mark_authenticated()
        if self._nonces.seen(hotkey, nonce):  # by a replay that arrived while this one was read
            raise Refusal(401, "The nonce was used before")
        if why := self._admit(request):
            raise Refusal(429, why)
        if not self._nonces.use(hotkey, nonce, now):
            raise Refusal(503, "Too many requests at this time")
        return body


async def _body(receive: Receive, request: ServedRequest) -> bytes | None:
    """None when the caller disconnected; raises Refusal."""
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        if request.cut_off is not None:
            raise Refusal(request.cut_off.status, request.cut_off.why)
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _nonce(text: str) -> int | None:
    usable = text.isascii() and text.isdigit() and len(text) <= _LONGEST_NONCE
    return int(text) if usable else None
