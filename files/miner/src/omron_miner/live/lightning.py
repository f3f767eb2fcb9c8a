"""The client side of btlightning, the QUIC transport between validators and upstream's `sn2-miner`.

Written from the wire format alone: QUIC version 1 with ALPN ``btlightning`` and a self-signed certificate; every
message opens its own stream; a frame is a type (one byte), a length (four, big-endian) and msgpack. Peers
authenticate with an sr25519 signature over the hotkeys, a time, a nonce and the certificate's fingerprint. No policy:
`probe` interprets the outcome.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import re
import secrets
import ssl
import struct
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgpack  # type: ignore[import-untyped]
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, StreamDataReceived, StreamReset

from omron_miner.errors import OmronError
from omron_miner.formatting import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioquic.quic.events import QuicEvent

ALPN = "btlightning"
HANDSHAKE_REQUEST, HANDSHAKE_RESPONSE, REQUEST, RESPONSE = 1, 2, 3, 4
OLDEST_SECONDS = 300
"""How far a handshake's time may be behind the miner's clock."""
NEWEST_SECONDS = 60
"""And how far ahead of it."""
_HEADER = struct.Struct(">BI")
_HANDSHAKE_BYTES = 1 << 16
"""Maximum size of a handshake response, in bytes; real ones have about 400."""

_QUIET = logging.NullHandler()
"""aioquic's logger: its warnings repeat our errors."""


class LightningError(OmronError):
    """The peer did not answer as btlightning does."""


class ClosedError(LightningError):
    """The connection ended. `reason` is from the peer or from QUIC."""

    def __init__(self, reason: str, error_code: int | None = None) -> None:
        super().__init__(f"the connection ended: {reason}")
        self.reason, self.error_code = reason, error_code


_HOTKEY = re.compile(r"[A-Za-z0-9]{0,64}")
"""An SS58 address, or none. Text from a peer is shown on a terminal."""


@dataclass(frozen=True)
class HandshakeReply:
    """The miner's answer to a handshake; unsigned when it does not accept."""

    miner_hotkey: str
    timestamp: int
    """The miner's clock, seconds since 1970."""
    signature: str
    accepted: bool
    signed: bool
    """Whether the signature is the miner hotkey's, over this request and this connection's certificate."""


@dataclass(frozen=True)
class Reply:
    """The miner's answer to a request."""

    success: bool
    data: dict[str, Any]
    error: str | None


@dataclass
class _Stream:
    done: asyncio.Future[bytes]
    limit: int
    """Bytes this reply may have."""
    received: bytearray = field(default_factory=bytearray)


class Connection(QuicConnectionProtocol):
    """One connection as a validator makes it. Made by `connect`."""

    def __init__(self, quic: QuicConnection) -> None:
        super().__init__(quic)
        loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[None] = loop.create_future()
        """Done with the first datagram; fails with ConnectionRefusedError when the host reports the port closed."""
        self.ready: asyncio.Future[None] = loop.create_future()
        """Done when QUIC's own handshake is; fails with ClosedError."""
        self._streams: dict[int, _Stream] = {}
        for future in (self.answered, self.ready):
            future.add_done_callback(_look_at)

    async def handshake(self, keypair: Any) -> HandshakeReply:
        """Authenticates to the miner with `keypair`. Raises LightningError."""
        certificate = self._quic.tls._peer_certificate  # aioquic has no public access to it
        if certificate is None:
            raise LightningError("the miner sent no certificate")
        from cryptography.hazmat.primitives.serialization import Encoding

        digest = hashlib.blake2b(certificate.public_bytes(Encoding.DER), digest_size=32).digest()
        fingerprint = base64.b64encode(digest).decode()
        hotkey, now, nonce = str(keypair.ss58_address), int(time.time()), secrets.token_hex(16)
        signature = keypair.sign(f"handshake:{hotkey}:{now}:{nonce}:{fingerprint}".encode())
        request = [hotkey, now, nonce, base64.b64encode(signature).decode()]
        content = await self._exchange(HANDSHAKE_REQUEST, request, HANDSHAKE_RESPONSE, _HANDSHAKE_BYTES)
        names = ("miner_hotkey", "timestamp", "signature", "accepted", "connection_id", "cert_fingerprint")
        miner, timestamp, signed, accepted = _fields(content, names, (str, int, str, bool))
        if not _HOTKEY.fullmatch(miner):
            raise LightningError(f"the miner's hotkey is not an address: {miner!r:.100}")
        text = f"handshake_response:{hotkey}:{miner}:{timestamp}:{nonce}:{fingerprint}"
        return HandshakeReply(miner, timestamp, signed, accepted, _is_signed(miner, text, signed))

    async def ask(self, synapse: str, data: dict[str, Any], limit: int = 1 << 20) -> Reply:
        """Sends a request and returns the reply, of at most `limit` bytes. Raises LightningError."""
        content = await self._exchange(REQUEST, [synapse, data, int(time.time())], RESPONSE, limit)
        success, received, _, error = _fields(
            content, ("success", "data", "timestamp", "error"), (bool, dict, int, (str, type(None)))
        )
        return Reply(success, received, error)

    async def _exchange(self, kind: int, content: Any, wanted: int, limit: int) -> Any:
        body = msgpack.packb(content)
        stream = self._quic.get_next_available_stream_id()
        waiting = self._streams[stream] = _Stream(asyncio.get_running_loop().create_future(), limit)
        waiting.done.add_done_callback(_look_at)
        self._quic.send_stream_data(stream, _HEADER.pack(kind, len(body)) + body, end_stream=True)
        self.transmit()
        try:
            return _unframed(await waiting.done, wanted)
        finally:
            del self._streams[stream]

    def datagram_received(self, data: bytes | str, addr: Any) -> None:
        """See asyncio.DatagramProtocol."""
        if not self.answered.done():
            self.answered.set_result(None)
        super().datagram_received(data, addr)

    def error_received(self, exc: Exception) -> None:
        """See asyncio.DatagramProtocol: an ICMP message came, or the datagram could not be sent."""
        if not self.answered.done():
            self.answered.set_exception(exc)
        elif isinstance(exc, ConnectionRefusedError):
            self._end(ClosedError("the host reports that the port is closed"))

    def quic_event_received(self, event: QuicEvent) -> None:
        """See aioquic."""
        if isinstance(event, HandshakeCompleted) and not self.ready.done():
            self.ready.set_result(None)
        elif isinstance(event, StreamDataReceived):
            self._take(event)
        elif isinstance(event, StreamReset):
            self._fail(event.stream_id, LightningError("the miner aborted its answer"))
        elif isinstance(event, ConnectionTerminated):
            reason = printable(event.reason_phrase[:200])
            self._end(ClosedError(reason or f"QUIC error {event.error_code:#x}", event.error_code))

    def _take(self, event: StreamDataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None or stream.done.done():
            return
        stream.received += event.data
        if len(stream.received) > stream.limit + _HEADER.size:
            self._fail(event.stream_id, LightningError(f"the miner's answer has more than {stream.limit} bytes"))
            self._quic.stop_stream(event.stream_id, 0)
        elif event.end_stream:
            stream.done.set_result(bytes(stream.received))

    def _end(self, error: ClosedError) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)
        for stream in list(self._streams):
            self._fail(stream, error)

    def _fail(self, stream: int, error: Exception) -> None:
        waiting = self._streams.get(stream)
        if waiting is not None and not waiting.done.done():
            waiting.done.set_exception(error)


@asynccontextmanager
async def connect(address: tuple[Any, ...], window_bytes: int = 1 << 20) -> AsyncIterator[Connection]:
    """A connection to `address` (what `socket.getaddrinfo` gives); wait for its `answered` and `ready`.

    `window_bytes` is what the peer may send before it is read. It is closed at the end, and the peer informed.
    Raises OSError when there is no route.
    """
    logging.getLogger("quic").addHandler(_QUIET)  # once, even if called repeatedly
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=[ALPN],
        verify_mode=ssl.CERT_NONE,  # it is self-signed; the handshake binds it to the hotkey
        max_data=window_bytes,
        max_stream_data=window_bytes,
        idle_timeout=150.0,
    )
    # Connected, unlike aioquic's own: only then does the kernel report an ICMP "port unreachable".
    transport, connection = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Connection(QuicConnection(configuration=configuration)), remote_addr=address[:2]
    )
    try:
        connection.connect(transport.get_extra_info("peername"))
        yield connection
    finally:
        connection.close()
        if connection._timer is not None:
            connection._timer.cancel()  # nothing waits for the peer to close the connection
        transport.close()


def _look_at(future: asyncio.Future[Any]) -> None:
    """Keeps asyncio from logging an outcome that nothing awaited."""
    if not future.cancelled():
        future.exception()


def _unframed(frame: bytes, wanted: int) -> Any:
    """The msgpack content of a whole frame of the type `wanted`. Raises LightningError."""
    if len(frame) < _HEADER.size:
        raise LightningError(f"the miner's answer ends after {len(frame)} bytes")
    kind, length = _HEADER.unpack_from(frame)
    if kind != wanted:
        raise LightningError(f"the miner answers with a message of type {kind}, expected {wanted}")
    if length != len(frame) - _HEADER.size:
        raise LightningError(f"the miner announces {length} bytes and sends {len(frame) - _HEADER.size}")
    try:
        return msgpack.unpackb(frame[_HEADER.size :])
    except Exception as error:  # msgpack may raise anything
        raise LightningError(f"the miner's answer is not msgpack: {type(error).__name__}") from error


def _fields(content: Any, names: tuple[str, ...], types: tuple[Any, ...]) -> list[Any]:
    """The first fields of an envelope, which is an array or a map of `names`. Raises LightningError."""
    values = [content.get(name) for name in names] if isinstance(content, dict) else content
    if not isinstance(values, list) or len(values) < len(types):
        raise LightningError("the miner's answer has an unexpected form")
    for name, value, kind in zip(names, values, types, strict=False):
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise LightningError(f"the miner's answer has an unexpected form: its {name} is a {type(value).__name__}")
    return values[: len(types)]


def _is_signed(address: str, text: str, signature: str) -> bool:
    """Whether `signature` (base64) is the sr25519 one of `text` by `address`."""
    from bittensor_wallet import Keypair

    try:
        raw = base64.b64decode(signature, validate=True)
        return len(raw) == 64 and bool(Keypair(ss58_address=address).verify(text.encode(), raw))
    except Exception:  # an invalid address or signature, in the library's words
        return False
