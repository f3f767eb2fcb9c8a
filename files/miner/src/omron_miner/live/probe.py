"""Probes upstream's sn2-miner from outside its process: can validators reach it? Step by step.

The address, UDP, QUIC, btlightning's handshake, an answer: the first step that fails is reported, with its usual
meaning. No permit is needed: a miner refuses a hotkey without one, and a refusal under its hotkey shows that it is
alive. Costs the miner one of the 30 handshakes a minute that it allows an address, and one line in its log.
"""

from __future__ import annotations

import asyncio
import json
import queue
import secrets
import socket
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from omron_miner.addresses import is_address
from omron_miner.errors import OmronError
from omron_miner.live.lightning import (
    ALPN,
    NEWEST_SECONDS,
    OLDEST_SECONDS,
    ClosedError,
    LightningError,
    connect,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from omron_miner.live.lightning import Connection, HandshakeReply

_SYNAPSE = "omron-probe"
"""A request that no miner supports: the miner's refusal is an answer that costs no work."""
_UNKNOWN = "unrecognized synapse type"
_TCP_SECONDS = 2.0
_CLOCK_SECONDS = 10
"""A clock this far off still works, but is not synchronised by NTP."""
_TLS_ALERTS = range(0x100, 0x200)
"""QUIC's codes for TLS alerts; 0x178 is "no application protocol in common", which some servers send as 0x128."""
_REFUSED = 0x2
"""QUIC's CONNECTION_REFUSED: the server accepts no more connections."""

STEPS = ("address", "udp", "quic", "handshake", "answer")
_FIREWALL = (
    "check the address, the port, the firewall and the forwarding of UDP. A miner whose allowlist is enforcing (log: "
    "'validator allowlist transition', nft table inet sn2_lightning) drops all but validators: then probe it on its "
    "own host, or from an address that it lists"
)
_MEANINGS = {
    "alive": ("the miner accepts requests from this hotkey", None),
    "not_permitted": (
        "alive: the miner refuses this hotkey, as expected without a validator permit; it gives no reason",
        None,
    ),
    "no_address": ("the name has no address", "check the name; the chain has an IPv4 address and a port"),
    "no_route": (
        "no datagram can be sent there",
        "check this host's network; for an IPv6 address, its IPv6 connectivity",
    ),
    "closed": (
        "the host is up, and reports that no program has this UDP port open",
        "start the miner, or check its --axon-port; behind a NAT, check the port forwarding",
    ),
    "tcp_only": (
        "TCP is open at this port and UDP is not: the forwarding or the firewall's rule is for TCP",
        "forward and open the port for UDP",
    ),
    "silent": ("nothing came back over UDP", _FIREWALL),
    "not_quic": (
        "something answers over UDP, but not as QUIC",
        "another program has this port, or a middlebox answers for it",
    ),
    "not_btlightning": (
        "QUIC works, but not for the protocol of the subnet's miners",
        "another program has this port (HTTP/3?), or the miner speaks a version this probe does not know",
    ),
    "full": (
        "the miner accepts no more connections: it is alive, but its limit of 128 is reached",
        "check its log for 'Connection limit reached'",
    ),
    "no_answer": (
        "QUIC works, but the miner does not answer in time",
        "it is overloaded, hung, or was just stopped: check its log and its CPU",
    ),
    "bad_answer": (
        "the miner's answer is not btlightning's",
        "it speaks a version this probe does not know, or another program has this port",
    ),
    "rate_limited": (
        "the miner refuses anonymously: over 30 handshakes a minute from this address",
        "wait a minute and probe again",
    ),
    "wrong_hotkey": (
        "another miner answers there",
        "check the port, the forwarding and the hotkey that the miner was started with",
    ),
    "bad_signature": (
        "the answer is not signed by the hotkey it names, over this connection's certificate",
        "a proxy terminates QUIC, or another host impersonates the miner",
    ),
    "clock_off": (
        "the clocks of this host and the miner's differ too much for a handshake",
        "set the wrong one of the two with NTP (chrony, timedatectl); validators refuse a miner whose clock is off",
    ),
}
"""Verdict: its usual meaning, and the next step."""


@dataclass(frozen=True)
class Step:
    """One of `STEPS`. `status` is ok, failed or skipped."""

    name: str
    status: str
    milliseconds: float | None
    """From the start of the step; None when skipped."""
    found: str


@dataclass
class Report:
    """The result of the probe; `alive` decides the exit code."""

    host: str
    port: int
    address: str | None = None
    alive: bool = False
    verdict: str = ""
    """A key for programs: alive, not_permitted, silent, …"""
    meaning: str = ""
    advice: str | None = None
    miner_hotkey: str | None = None
    """Proven when `signed`, else only claimed."""
    signed: bool = False
    clock_seconds: int | None = None
    """How far the miner's clock is ahead of this one's, to a second or two."""
    steps: list[Step] = field(default_factory=list)


def parse_target(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT`` or ``[IPV6]:PORT``. Raises OmronError."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise _wrong(f"{text!r} is not HOST:PORT", "for example 203.0.113.7:8091 or [2001:db8::7]:8091")
    if "[" in host or "]" in host:
        raise _wrong(f"{text!r} is not HOST:PORT", "write an IPv6 address in brackets, as [2001:db8::7]:8091")
    if ":" in host and not bracketed:
        raise _wrong(f"{text!r} is ambiguous", f"write [{host}]:{port}")
    return host, int(port)


def throwaway_keypair() -> Any:
    """A new random hotkey that is not stored."""
    from bittensor_wallet import Keypair

    create: Any = Keypair.create_from_seed  # the stub declares bytes, but it takes hex
    return create("0x" + secrets.token_hex(32))


def probe(host: str, port: int, keypair: Any, hotkey: str | None = None, seconds: float = 10.0) -> Report:
    """Probes the miner at `host` and `port`, signed by `keypair`, in little more than `seconds` at most.

    With `hotkey` the miner must have that SS58 address. A miner keeps one connection a hotkey: probing with that of a
    running validator closes the validator's own.
    """
    return asyncio.run(_Probe(Report(host, port), keypair, hotkey, seconds).run())


class _FailedError(Exception):
    """The probe ends here, with this verdict and finding."""

    def __init__(self, verdict: str, found: str) -> None:
        super().__init__(found)
        self.verdict, self.found = verdict, found


class _Probe:
    def __init__(self, report: Report, keypair: Any, hotkey: str | None, seconds: float) -> None:
        self._report, self._keypair, self._hotkey = report, keypair, hotkey
        self._until = time.monotonic() + seconds
        self._begun = 0.0

    async def run(self) -> Report:
        try:
            verdict = await self._steps()
        except _FailedError as failed:
            self._end("failed", failed.found)
            verdict = failed.verdict
        report = self._report
        report.verdict, report.alive = verdict, verdict in ("alive", "not_permitted")
        report.meaning, report.advice = _MEANINGS[verdict]
        if report.alive and report.miner_hotkey and not report.signed:
            report.meaning += "; its hotkey is claimed, a refusal is not signed"
        if report.alive and abs(report.clock_seconds or 0) > _CLOCK_SECONDS:
            report.advice = (
                f"the miner's clock is {report.clock_seconds:+d} s from this host's: set the wrong one with NTP"
            )
        for name in STEPS[len(report.steps) :]:
            report.steps.append(Step(name, "skipped", None, "needs a permit" if report.alive else ""))
        return report

    async def _steps(self) -> str:
        address = self._resolve()
        try:
            async with connect(address) as connection:
                await self._udp(connection, address)
                await self._quic(connection)
                reply = await self._handshake(connection)
                return await self._answer(connection) if reply.accepted else "not_permitted"
        except OSError as error:
            raise _FailedError("no_route", error.strerror or str(error)) from error

    def _resolve(self) -> tuple[Any, ...]:
        self._begin()
        address = _resolved(self._report.host, self._report.port, self._left() / 2)
        if isinstance(address, str):
            raise _FailedError("no_address", address)
        self._report.address = str(address[0])
        self._end("ok", self._report.address)
        return address

    async def _udp(self, connection: Connection, address: tuple[Any, ...]) -> None:
        self._begin()
        try:
            await asyncio.wait_for(asyncio.shield(connection.answered), self._left() * 0.6)
        except (ConnectionRefusedError, asyncio.TimeoutError) as error:
            refused = isinstance(error, ConnectionRefusedError)
            found = "ICMP: port unreachable" if refused else "no datagram came back"
            if await _tcp_open(address, min(_TCP_SECONDS, self._left())):
                raise _FailedError("tcp_only", f"{found}, but a TCP connection was accepted") from None
            raise _FailedError("closed" if refused else "silent", found) from None
        self._end("ok", "the first datagram came back")

    async def _quic(self, connection: Connection) -> None:
        self._begin()
        try:
            await asyncio.wait_for(asyncio.shield(connection.ready), self._left() * 0.6)
        except ClosedError as error:
            tls = error.error_code in _TLS_ALERTS
            verdict = "not_btlightning" if tls else "full" if error.error_code == _REFUSED else "not_quic"
            raise _FailedError(verdict, error.reason) from None
        except asyncio.TimeoutError:
            raise _FailedError("not_quic", "datagrams came back, but no QUIC handshake completed") from None
        self._end("ok", f"connected, ALPN {ALPN}")

    async def _handshake(self, connection: Connection) -> HandshakeReply:
        self._begin()
        asked = time.time()
        reply: HandshakeReply = await self._wait(connection.handshake(self._keypair), self._left() * 0.7)
        report = self._report
        report.miner_hotkey = reply.miner_hotkey or None
        report.signed = reply.accepted and reply.signed
        if not reply.miner_hotkey and not reply.accepted:
            raise _FailedError("rate_limited", "refused without a hotkey")
        report.clock_seconds = round(reply.timestamp - (asked + time.time()) / 2)
        if self._hotkey not in (None, reply.miner_hotkey):
            raise _FailedError("wrong_hotkey", f"it is {reply.miner_hotkey}, expected {self._hotkey}")
        if reply.accepted and not reply.signed:
            raise _FailedError("bad_signature", f"accepted, in the name of {reply.miner_hotkey}")
        if not -NEWEST_SECONDS < report.clock_seconds < OLDEST_SECONDS:
            raise _FailedError("clock_off", f"the miner's clock is {report.clock_seconds:+d} s from this host's")
        how = "accepted and signed" if reply.accepted else "refused"
        self._end("ok", f"{how} by {reply.miner_hotkey}, clock {report.clock_seconds:+d} s")
        return reply

    async def _answer(self, connection: Connection) -> str:
        self._begin()
        reply = await self._wait(connection.ask(_SYNAPSE, {}), self._left())
        if reply.success or reply.error != _UNKNOWN:
            answer = "success" if reply.success else repr((reply.error or "")[:100])
            raise _FailedError("bad_answer", f"it answers {answer} to a request that no miner supports")
        self._end("ok", f"{_UNKNOWN!r}, the expected answer to the probe's request")
        return "alive"

    async def _wait(self, work: Awaitable[Any], seconds: float) -> Any:
        try:
            return await asyncio.wait_for(work, seconds)
        except asyncio.TimeoutError:
            raise _FailedError("no_answer", f"no answer within {seconds:.1f} s") from None
        except ClosedError as error:
            raise _FailedError("no_answer", error.message) from None
        except LightningError as error:
            raise _FailedError("bad_answer", error.message) from None

    def _left(self) -> float:
        return max(self._until - time.monotonic(), 0.05)

    def _begin(self) -> None:
        self._begun = time.monotonic()

    def _end(self, status: str, found: str) -> None:
        name = STEPS[len(self._report.steps)]
        self._report.steps.append(Step(name, status, round(1000 * (time.monotonic() - self._begun), 1), found))


def _resolved(host: str, port: int, seconds: float) -> tuple[Any, ...] | str:
    """The first address of `host`, IPv4 before IPv6, as on the chain; or why there is none."""
    if is_address(host):
        seconds = 60.0  # connects to nothing
    answers: queue.Queue[list[Any] | str] = queue.Queue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM))
        except (OSError, UnicodeError) as error:
            answers.put(str(getattr(error, "strerror", None) or error))

    threading.Thread(target=ask, daemon=True).start()  # the resolver has no timeout
    try:
        found = answers.get(timeout=seconds)
    except queue.Empty:
        return f"no answer within {seconds:.1f} s"
    if isinstance(found, str):
        return found
    address: tuple[Any, ...] = min(found, key=lambda one: one[0] != socket.AF_INET)[4]
    return address


async def _tcp_open(address: tuple[Any, ...], seconds: float) -> bool:
    """Whether a TCP connection is accepted there."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(*address[:2]), seconds)
    except (OSError, asyncio.TimeoutError):
        return False
    writer.close()
    return True


def _wrong(message: str, hint: str) -> OmronError:
    """A usage error."""
    error = OmronError(message, hint)
    error.exit_code = 2
    return error


def to_json(report: Report) -> str:
    """The report as JSON."""
    return json.dumps(asdict(report))


def to_text(report: Report) -> str:
    """The report as text: a line per step, then the meaning."""
    lines = []
    for step in report.steps:
        took = "" if step.milliseconds is None else f"{step.milliseconds:.1f} ms"
        lines.append(f"{step.name:<10} {step.status:<8} {took:>12}  {step.found}".rstrip())
    state = "ALIVE" if report.alive else "FAILED"
    lines.append(f"{state} ({report.verdict}): {report.meaning.removeprefix('alive: ')}")
    if report.advice:
        lines.append(f"  try: {report.advice}")
    return "\n".join(lines)
