"""A stand-in for upstream's `sn2-miner`, for tests only. It proves nothing: its proofs are noise.

Same flags, handshake, requests and log lines as the real one is described to have; never compared with it. On top
come flags that begin with ``--stand-in``: they set what the chain would tell it, turn its clock, and make it misbehave.
It shares no code with our client, so that a mistake in one does not hide in the other.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import datetime
import hashlib
import json
import os
import signal
import struct
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack  # type: ignore[import-untyped]
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamDataReceived
from bittensor_wallet import Keypair as BittensorKeypair
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Iterator

Keypair: Any = BittensorKeypair  # its stub says bytes, it takes hex
VERSION = "14.7.5"
FAULTS = (
    "garbage",  # bytes that are no message
    "other-type",  # a message of another type
    "huge",  # a handshake's answer of 4 MiB
    "slow",  # it comes a byte a second
    "mute",  # it never comes
    "forged",  # signed by another key
    "die-in-handshake",  # the process ends without a message
    "die-in-request",
    "huge-reply",  # as huge, to a request
    "garbage-reply",
    "odd-name",  # a hotkey that is none
    "close",  # the connection is closed instead of an answer
    "map",  # envelopes as maps, which the format allows as well
)


@dataclass
class StandIn:
    """How it behaves, and what it saw. `log` gets its lines."""

    keypair: Any
    host: str = "127.0.0.1"
    port: int = 0
    enforce_permits: bool = True
    permitted: frozenset[str] = frozenset()
    clock_offset: float = 0.0
    fault: str = ""
    alpn: str = "btlightning"
    retry: bool = True
    idle_timeout: float = 360.0
    server: Any = None
    log: list[str] = field(default_factory=list)
    echo: Any = None
    """Where lines go as well."""
    nonces: set[str] = field(default_factory=set)
    handshakes: list[float] = field(default_factory=list)
    connections: dict[str, _Peer] = field(default_factory=dict)
    fingerprint: str = ""

    def now(self) -> int:
        return int(time.time() + self.clock_offset)

    def say(self, level: str, target: str, text: str) -> None:
        """One line as tracing's default formatter writes it."""
        moment = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        line = f"{moment} {level:>5} {target}: {text}"
        self.log.append(line)
        if self.echo:
            print(line, file=self.echo, flush=True)

    async def start(self) -> Any:
        """Binds the port (0: any) and serves until the loop ends."""
        configuration = QuicConfiguration(
            is_client=False, alpn_protocols=[self.alpn], idle_timeout=self.idle_timeout, max_data=1 << 27,
            max_stream_data=1 << 27,
        )  # fmt: skip
        configuration.certificate, configuration.private_key, self.fingerprint = _certificate()
        server = await serve(
            self.host, self.port, configuration=configuration, retry=self.retry,
            create_protocol=lambda quic, stream_handler=None: _Peer(quic, self),
        )  # fmt: skip
        transport: Any = server._transport
        self.port = transport.get_extra_info("sockname")[1]
        self.say("INFO", "sn2_miner::lightning_server", f"QUIC Lightning server listening port={self.port}")
        return server


class _Peer(QuicConnectionProtocol):
    """One connection."""

    def __init__(self, quic: Any, miner: StandIn) -> None:
        super().__init__(quic)
        self._miner, self._hotkey = miner, ""
        self._streams: dict[int, bytearray] = {}

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived):
            stream = self._streams.setdefault(event.stream_id, bytearray())
            stream += event.data
            if event.end_stream:
                self._take(event.stream_id, bytes(self._streams.pop(event.stream_id)))
        elif isinstance(event, ConnectionTerminated) and self._miner.connections.get(self._hotkey) is self:
            del self._miner.connections[self._hotkey]

    def _take(self, stream: int, frame: bytes) -> None:
        kind, length = struct.unpack_from(">BI", frame)
        content = msgpack.unpackb(frame[5 : 5 + length])
        if kind == 1:
            self._handshake(stream, list(content.values()) if isinstance(content, dict) else content)
        else:
            self._request(stream, *content[:2])

    def _handshake(self, stream: int, request: list[Any]) -> None:
        miner = self._miner
        if miner.fault in ("die-in-handshake", "mute", "slow", "garbage", "huge", "other-type", "close"):
            self._misbehave(stream)
            return
        hotkey, timestamp, nonce, signature = request
        names = ["miner_hotkey", "timestamp", "signature", "accepted", "connection_id", "cert_fingerprint"]
        if not self._within_rate():
            miner.say("WARN", "btlightning::server::dispatch", "Handshake rate limit exceeded for 127.0.0.1")
            self._send(stream, 2, names, ["", 0, "", False, "", None])
            return
        own, now = miner.keypair.ss58_address, miner.now()
        own = "\x1b[2J" + own if miner.fault == "odd-name" else own
        if not self._is_welcome(hotkey, timestamp, nonce, signature, now):
            self._send(stream, 2, names, [own, now, "", False, "", None])
            return
        signer = Keypair.create_from_seed("0x" + "77" * 32) if miner.fault == "forged" else miner.keypair
        text = f"handshake_response:{hotkey}:{own}:{now}:{nonce}:{miner.fingerprint}"
        signed = base64.b64encode(signer.sign(text.encode())).decode()
        connection = f"conn_{hotkey}_{time.time_ns() // 1_000_000}"
        if (before := miner.connections.get(hotkey)) is not None:
            before.close(0, reason_phrase="replaced")
        self._hotkey = hotkey
        miner.connections[hotkey] = self
        miner.say(
            "INFO", "btlightning::server::handshake", f"Handshake successful, established connection: {connection}"
        )
        self._send(stream, 2, names, [own, now, signed, True, connection, miner.fingerprint])

    def _within_rate(self) -> bool:
        miner = self._miner
        miner.handshakes = [one for one in miner.handshakes if one > time.monotonic() - 60]
        if len(miner.handshakes) >= 30:
            return False
        miner.handshakes.append(time.monotonic())
        return True

    def _is_welcome(self, hotkey: str, timestamp: int, nonce: str, signature: str, now: int) -> bool:
        def refuse(reason: str) -> bool:
            miner.say("ERROR", "btlightning::server::handshake", reason)
            miner.say("ERROR", "btlightning::server::handshake", "Handshake failed: invalid signature")
            return False

        miner = self._miner
        if now - timestamp >= 300:
            return refuse(f"Signature timestamp too old: {timestamp} (current: {now})")
        if timestamp - now > 60:
            return refuse(f"Signature timestamp too far in future: {timestamp} (current: {now})")
        if nonce in miner.nonces:
            return refuse(f"Nonce already used: {nonce}")
        miner.nonces.add(nonce)
        text = f"handshake:{hotkey}:{timestamp}:{nonce}:{miner.fingerprint}"
        if not Keypair(ss58_address=hotkey).verify(text.encode(), base64.b64decode(signature)):
            miner.say("ERROR", "btlightning::server::handshake", "Handshake failed: invalid signature")
            return False
        if miner.enforce_permits and hotkey not in miner.permitted:
            miner.say(
                "WARN", "btlightning::server::handshake",
                f"Handshake rejected: hotkey {hotkey} does not hold a validator permit",
            )  # fmt: skip
            return False
        return True

    def _request(self, stream: int, synapse: str, data: dict[str, Any]) -> None:
        miner = self._miner
        if miner.fault in ("die-in-request", "garbage-reply", "huge-reply"):
            self._misbehave(stream)
        elif miner.connections.get(self._hotkey) is not self:
            peer = self._quic._network_paths[0].addr
            miner.say(
                "ERROR", "btlightning::server::dispatch",
                f"Unknown or unauthenticated connection from {peer[0]}:{peer[1]}",
            )  # fmt: skip
            self._reply(stream, error="authentication failed")
        elif synapse == "dsperse-proof-generation":
            self._slice(stream, data)
        elif synapse == "echo":  # the real one has none; benches need it
            self._reply(stream, data)
        else:
            miner.say("ERROR", "btlightning::server::dispatch", f"No handler registered for synapse type: {synapse}")
            self._reply(stream, error="unrecognized synapse type")

    def _slice(self, stream: int, data: dict[str, Any]) -> None:
        """Noise instead of a proof; a circuit that is ``"0" * 64`` fails as an incomplete one does."""
        say, sha = self._miner.say, data.get("component_sha")
        say(
            "INFO", "sn2_miner::handlers",
            f"handling DSlice circuit={data['circuit']} slice={data['slice_num']} component_sha={sha}",
        )  # fmt: skip
        if data["circuit"] == "0" * 64:
            say(
                "ERROR", "btlightning::server::dispatch",
                "Handler error for dsperse-proof-generation: circuit bundle has no stamped proof_config",
            )  # fmt: skip
            self._reply(stream, error="request processing failed")
            return
        say("INFO", "sn2_miner::dsperse", "generating witness and proof")
        say(
            "INFO", "sn2_miner::dsperse",
            "witness and proof generated witness_size=32 proof_size=64 num_outputs=1 holographic=false",
        )  # fmt: skip
        self._reply(stream, {"proof": os.urandom(64), "witness": os.urandom(32), "computed_outputs": [0.5]})

    def _reply(self, stream: int, data: dict[str, Any] | None = None, error: str | None = None) -> None:
        names = ["success", "data", "timestamp", "error"]
        self._send(stream, 4, names, [error is None, data or {}, self._miner.now(), error])

    def _send(self, stream: int, kind: int, names: list[str], values: list[Any]) -> None:
        content = dict(zip(names, values, strict=True)) if self._miner.fault == "map" else values
        body = msgpack.packb(content)
        self._write(stream, struct.pack(">BI", kind, len(body)) + body)

    def _write(self, stream: int, data: bytes, end: bool = True) -> None:
        self._quic.send_stream_data(stream, data, end_stream=end)
        self.transmit()

    def _misbehave(self, stream: int) -> None:
        fault = self._miner.fault
        if fault.startswith("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.startswith("garbage"):
            self._write(stream, struct.pack(">BI", 2 if fault == "garbage" else 4, 40) + b"\xc1" * 40)
        elif fault == "other-type":
            self._write(stream, struct.pack(">BI", 6, 1) + b"\x90")
        elif fault.startswith("huge"):
            self._write(stream, struct.pack(">BI", 2 if fault == "huge" else 4, 1 << 22) + bytes(1 << 22))
        elif fault == "close":
            self.close(0, reason_phrase="\x1b[2Jgone away")
        elif fault == "slow":
            self._drip(stream, 0)

    def _drip(self, stream: int, sent: int) -> None:
        self._write(stream, b"\x02\x00\x00\x01\x00"[sent : sent + 1] or b"\x00", end=False)
        asyncio.get_running_loop().call_later(1.0, self._drip, stream, sent + 1)


def _certificate() -> tuple[Any, Any, str]:
    """A self-signed certificate, its key, and its fingerprint in base64."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    day, now = datetime.timedelta(days=1), datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .sign(key, hashes.SHA256())
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    return certificate, key, base64.b64encode(hashlib.blake2b(der, digest_size=32).digest()).decode()


@contextmanager
def running(**options: Any) -> Iterator[StandIn]:
    """A stand-in in a thread of this process, listening when the block begins."""
    options.setdefault("keypair", Keypair.create_from_seed("0x" + "11" * 32))
    miner, ready = StandIn(**options), threading.Event()
    loop = asyncio.new_event_loop()

    async def begin() -> None:
        miner.server = await miner.start()
        ready.set()

    def run() -> None:
        begun = loop.create_task(begin())
        loop.run_forever()
        begun.result()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10), "the stand-in does not start"
    try:
        yield miner
    finally:
        loop.call_soon_threadsafe(miner.server._transport.abort)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def parse(arguments: list[str]) -> argparse.Namespace:
    """The real one's flags, then our own."""
    parser = argparse.ArgumentParser(prog="sn2-miner", description="A stand-in for sn2-miner, for tests only.")
    parser.add_argument("--version", action="version", version=f"sn2-miner {VERSION} (stand-in)")
    parser.add_argument("--netuid", type=int, default=2)
    parser.add_argument("--network", default="finney")
    parser.add_argument("--subtensor-chain-endpoint")
    parser.add_argument("--wallet-name", default="default")
    parser.add_argument("--wallet-hotkey", default="default")
    parser.add_argument("--wallet-path", type=Path, default=Path("~/.bittensor/wallets").expanduser())
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--axon-host", default="0.0.0.0")  # noqa: S104  as the real one
    parser.add_argument("--axon-port", type=int, default=8091)
    parser.add_argument("--external-ip")
    parser.add_argument("--no-auto-update", action="store_true")
    parser.add_argument("--disable-blacklist", action="store_true")
    parser.add_argument("--no-validator-ip-cache", action="store_true")
    parser.add_argument("--no-nftables", action="store_true")
    parser.add_argument("--metagraph-sync-interval", type=int, default=600)
    parser.add_argument("--loopback", action="store_true")
    parser.add_argument("--additional-circuits", default="")
    parser.add_argument("--handler-timeout", type=int, default=180)
    parser.add_argument("--stand-in-permitted", default="", help="hotkeys with a permit, by commas")
    parser.add_argument("--stand-in-clock", type=float, default=0.0, help="seconds its clock is ahead")
    parser.add_argument("--stand-in-fault", choices=FAULTS, default="")
    return parser.parse_args(arguments)


async def _run(options: argparse.Namespace) -> None:
    hotkey = options.wallet_path / options.wallet_name / "hotkeys" / options.wallet_hotkey
    keypair = Keypair.create_from_seed(seed_of(hotkey))
    miner = StandIn(
        keypair,
        options.axon_host if options.loopback else "0.0.0.0",  # noqa: S104  as the real one
        options.axon_port,
        enforce_permits=not (options.loopback or options.disable_blacklist),
        permitted=frozenset(filter(None, options.stand_in_permitted.split(","))),
        clock_offset=options.stand_in_clock,
        fault=options.stand_in_fault,
        idle_timeout=float(max(2 * options.handler_timeout, 150)),
        echo=sys.stdout,
    )
    miner.say("INFO", "sn2_miner", f'sn2-miner version="{VERSION}"')
    if options.loopback:
        miner.say(
            "INFO", "sn2_miner", f"starting miner in loopback mode (no chain interaction) port={options.axon_port}"
        )
    else:
        miner.say("INFO", "sn2_miner", f"starting sn2-miner netuid={options.netuid} network={options.network}")
    cache = Path("~/.bittensor/subnet-2/circuit_cache").expanduser()
    miner.say("INFO", "sn2_circuit_store", f"circuits loaded count={len(list(cache.glob('model_*/.dslice_ready')))}")
    await miner.start()
    if options.loopback:
        miner.say("INFO", "sn2_miner", f"miner loopback running port={miner.port}")
    else:
        address = options.external_ip or "127.0.0.1"
        miner.say("INFO", "sn2_chain::registration", f"axon registered on chain ip={address} port={miner.port}")
        miner.say("INFO", "sn2_miner", f"miner running hotkey={keypair.ss58_address} quic_port={miner.port}")
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    miner.say("INFO", "sn2_miner", "received SIGTERM, shutting down miner")
    os._exit(0)  # as the real one: no goodbye to its peers


def seed_of(hotkey: Path) -> str:
    """The secret seed in one of bittensor's key files."""
    return str(json.loads(hotkey.read_bytes())["secretSeed"])


if __name__ == "__main__":
    asyncio.run(_run(parse(sys.argv[1:])))
