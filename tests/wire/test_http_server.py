"""What a caller without a key can do to others, on real sockets; each peer has its own loopback address."""

from __future__ import annotations

import asyncio
import http.client
import json
import select
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any, Tuple  # noqa: UP035  the SDK compares with it

import bittensor
import pytest
from bittensor_wallet import Keypair

from omron_miner.chain.open import open_chain
from omron_miner.chain.wallet import create_throwaway_hotkey, open_hotkey
from omron_miner.circuits.circuit_store import CircuitStore
from omron_miner.constants import Access, Axon, Circuits, Constants, Wallet
from omron_miner.errors import OmronError
from omron_miner.events import EventLog
from omron_miner.proving.prover import ProverPool
from omron_miner.serving.axon_server import AxonServer
from omron_miner.serving.http_server import Pace, ServedRequest, current_request
from omron_miner.serving.http_transport import HttpTransport, Reply, SeenNonces
from omron_miner.serving.miner_session import MinerSession
from omron_miner.serving.protocol import QueryForCapacities
from omron_miner.serving.query import Dendrite
from omron_miner.serving.signing import signed_headers
from omron_miner.serving.unauthenticated import UnauthenticatedLimits
from ports import free_port
from waiting import wait_until
from wire_miner import constants_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VALIDATOR, STRANGER = Keypair.create_from_uri("//Alice"), Keypair.create_from_uri("//Bob")
MAX_BODY = 100_000
LIMITS = UnauthenticatedLimits(connections_per_peer=8, connections=20, bytes_per_peer=4 * MAX_BODY, bytes=16 * MAX_BODY)
ATTACKER, HONEST = "127.0.0.66", "127.0.0.7"


class Door:
    """The server with both transports, and a handler that says how long the body was."""

    def __init__(self, wallet: Any, bind_ip: str = "127.0.0.1", pace: Pace | None = None) -> None:
        self.host, self.port = bind_ip, free_port()
        self.hotkey: str = wallet.hotkey.ss58_address
        self.done: list[ServedRequest] = []
        self.delay, self.waiting = 0.0, 0
        access = Access(max_body_bytes=MAX_BODY)
        axon = Axon(bind_ip=bind_ip, port=self.port)
        self.server = AxonServer(wallet, axon, access, lambda _: None, self.done.append, LIMITS, pace)
        handlers = {"/length": self.answer}
        nonces = SeenNonces(4.0, 2.0)
        transport = HttpTransport(self.hotkey, self.refusal, lambda _: None, nonces, handlers)
        self.server.mount(handlers, transport)

        async def capacities(synapse: Any) -> Any:
            await self.take_time()
            return QueryForCapacities(capacities={"a": 1})

        async def blacklist(synapse: Any) -> tuple[bool, str]:
            why = self.refusal(str(synapse.dendrite.hotkey))
            return why is not None, why or ""

        capacities.__annotations__ = {"synapse": QueryForCapacities, "return": QueryForCapacities}
        blacklist.__annotations__ = {"synapse": QueryForCapacities, "return": Tuple[bool, str]}  # noqa: UP006  the SDK's
        self.server.attach(capacities, blacklist)

    def refusal(self, hotkey: str) -> str | None:
        return None if hotkey == VALIDATOR.ss58_address else "Hotkey is not registered"

    async def answer(self, body: bytes) -> Reply:
        assert current_request().hotkey == VALIDATOR.ss58_address
        await self.take_time()
        return Reply(200, len(body))

    async def take_time(self) -> None:
        self.waiting += 1
        await asyncio.sleep(self.delay)
        self.waiting -= 1

    def connect(self, peer: str = HONEST, host: str | None = None) -> socket.socket:
        source = (peer, 0) if "." in (host or self.host) else None
        return socket.create_connection((host or self.host, self.port), 10, source)

    def ask(self, size: int = 1000, peer: str = HONEST, by: Any = VALIDATOR) -> tuple[int, Any]:
        """An honest request over signed HTTP on its own connection."""
        body = b"x" * size
        with closing(http.client.HTTPConnection(self.host, self.port, 10, (peer, 0))) as connection:
            connection.request("POST", "/length", body, signed_headers(by, self.hotkey, body))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def ask_axon(self, host: str | None = None) -> Any:
        """The answer to a real dendrite."""

        async def ask() -> Any:
            target = bittensor.AxonInfo(
                version=1, ip=host or self.host, port=self.port, ip_type=4, hotkey=self.hotkey, coldkey=""
            )
            async with Dendrite(VALIDATOR) as dendrite:
                return await dendrite.call(target, QueryForCapacities(), timeout=10, deserialize=False)

        return asyncio.run(ask()).capacities

    def begun(self, size: int, sent: int, hotkey: str = VALIDATOR.ss58_address) -> bytes:
        """The start of a request that names another hotkey: this needs no key."""
        headers = {
            **signed_headers(STRANGER, self.hotkey, b""),
            "validator-hotkey": hotkey,
            "content-length": str(size),
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST /length HTTP/1.1\r\nhost: miner\r\n{head}\r\n".encode() + b"x" * sent


def said(connection: socket.socket) -> bytes:
    """All that the miner sends until it closes the connection."""
    received = b""
    try:
        while piece := connection.recv(65_536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def first_lines_of_closed(connections: list[socket.socket]) -> set[bytes]:
    """What the miner answered first on those connections that it has closed; waits for one."""
    closed, _, _ = select.select(connections, [], [], 10)
    return {said(one).partition(b"\r\n")[0] for one in closed}


def is_reset(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        connection.send(b"x")
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return False


@contextmanager
def opened(wallet: Any, **named: Any) -> Iterator[Door]:
    door = Door(wallet, **named)
    door.server.open()
    door.server.start()
    try:
        yield door
    finally:
        door.server.stop_listening()
        assert door.server.join(10)


@pytest.fixture(scope="module")
def wallet(tmp_path_factory: pytest.TempPathFactory) -> Any:
    constants = Constants(wallet=Wallet(path=tmp_path_factory.mktemp("wallets")))
    create_throwaway_hotkey(constants)
    return open_hotkey(constants.wallet)


@pytest.fixture(scope="module")
def shared_door(wallet: Any) -> Iterator[Door]:
    with opened(wallet, pace=Pace(60.0, 1.0, 60.0)) as made:  # what is closed here is closed to make room
        yield made


@pytest.fixture
def door(shared_door: Door) -> Iterator[Door]:
    yield shared_door
    wait_until(lambda: shared_door.server.in_progress() == 0)


# --- unfinished requests ----------------------------------------------------------------------------------------------


def test_unfinished_bodies_in_a_validators_name_do_not_shut_the_door(door: Door) -> None:
    """More than the whole pool from one address: only its own are closed, with the reason."""
    with ExitStack() as stack:
        attack = [stack.enter_context(door.connect(ATTACKER)) for _ in range(8)]
        for one in attack:
            one.sendall(door.begun(MAX_BODY, MAX_BODY - 1))
        assert door.ask(MAX_BODY) == (200, MAX_BODY)
        assert door.ask(MAX_BODY, peer=ATTACKER) == (200, MAX_BODY), "who shares the address is served as well"
        assert first_lines_of_closed(attack) == {b"HTTP/1.1 503 Service Unavailable"}


def test_unfinished_bodies_from_many_addresses_do_not_shut_the_door(door: Door) -> None:
    with ExitStack() as stack:
        attack = [stack.enter_context(door.connect(f"127.0.1.{number + 1}")) for number in range(18)]
        for one in attack:
            one.sendall(door.begun(MAX_BODY, MAX_BODY - 1))
        assert door.ask(MAX_BODY) == (200, MAX_BODY)
        assert first_lines_of_closed(attack) == {b"HTTP/1.1 503 Service Unavailable"}


def test_open_connections_do_not_shut_the_door(door: Door) -> None:
    with ExitStack() as stack:
        attack = [stack.enter_context(door.connect(f"127.0.2.{number % 10 + 1}")) for number in range(60)]
        attack[-1].sendall(b"POST /length HTTP/1.1\r\nhost:")
        assert door.ask() == (200, 1000)
        assert [said(one) for one in attack[:40]] == [b""] * 40


def test_a_validator_may_have_many_requests_at_a_time_on_kept_connections(door: Door) -> None:
    body = b"x" * 1000
    with ExitStack() as stack:
        kept = [
            stack.enter_context(closing(http.client.HTTPConnection(door.host, door.port, 10, (HONEST, 0))))
            for _ in range(8)
        ]
        for _ in range(3):
            for one in kept:
                one.request("POST", "/length", body, signed_headers(VALIDATOR, door.hotkey, body))
            answers = [one.getresponse() for one in kept]
            assert [(one.status, one.read()) for one in answers] == [(200, b"1000")] * 8
            for one in kept:
                one.auto_open = 0  # a connection that was closed is not replaced


def test_a_caller_that_does_not_read_answers_is_closed_to_make_room(door: Door) -> None:
    flood = b"GET /none HTTP/1.1\r\nhost: miner\r\n\r\n" * 2000
    with ExitStack() as stack:
        attack = [stack.enter_context(door.connect(ATTACKER)) for _ in range(10)]
        for one in attack:
            one.settimeout(0.2)
            try:
                for _ in range(20):
                    one.sendall(flood)
            except OSError:  # full, or closed
                pass
        assert door.ask() == (200, 1000)
        wait_until(lambda: is_reset(attack[0]))


@pytest.mark.parametrize("transport", ["http", "axon"])
def test_a_signed_request_in_progress_is_not_closed_to_make_room(door: Door, transport: str) -> None:
    peer = "127.0.0.1"  # a dendrite's
    door.delay = 0.5
    before = len(door.done)
    try:
        with ThreadPoolExecutor() as threads, ExitStack() as stack:
            asking = threads.submit(door.ask, 1000, peer) if transport == "http" else threads.submit(door.ask_axon)
            wait_until(lambda: door.waiting == 1)
            for _ in range(20):
                stack.enter_context(door.connect(peer)).sendall(door.begun(MAX_BODY, MAX_BODY - 1))
            assert asking.result() == ((200, 1000) if transport == "http" else {"a": 1})
    finally:
        door.delay = 0.0
    wait_until(lambda: len(door.done) > before)


# --- slow requests ----------------------------------------------------------------------------------------------------

HASTE = Pace(first_s=0.2, bytes_per_s=MAX_BODY / 4, most_s=2.0)


@pytest.fixture(scope="module")
def hasty_door(wallet: Any) -> Iterator[Door]:
    with opened(wallet, pace=HASTE) as made:
        yield made


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"POST /length",
        b"GET /none HTTP/1.1\r\nhost: miner\r\n\r\nPOST /none HTTP/1.1\r\nhost: miner\r\ncontent-length: 9\r\n\r\n{",
    ],
)
def test_an_unfinished_request_times_out(hasty_door: Door, beginning: bytes) -> None:
    with hasty_door.connect() as caller:
        caller.sendall(beginning)
        said(caller)


def test_a_trickle_is_cut_off_with_an_answer(hasty_door: Door) -> None:
    with hasty_door.connect() as caller:
        caller.sendall(hasty_door.begun(MAX_BODY, 1))
        caller.settimeout(0.05)
        received = b""
        for _ in range(100):
            try:
                caller.sendall(b"x")
                received += caller.recv(65_536)
            except TimeoutError:
                continue
            except OSError:
                break
            break
        assert b" 408 " in received.partition(b"\r\n")[0]


def outlast_a_small_request(door: Door) -> None:
    """Returns when a request of 5 kB that began now was cut off for taking too long."""
    with door.connect() as caller:
        caller.sendall(b"POST /length HTTP/1.1\r\nx: " + b"y" * 5000)
        said(caller)


def test_a_large_body_may_take_longer_than_a_small_one(hasty_door: Door) -> None:
    body = b"x" * (MAX_BODY // 2)
    head = "".join(f"{name}: {value}\r\n" for name, value in signed_headers(VALIDATOR, hasty_door.hotkey, body).items())
    with hasty_door.connect() as caller:
        caller.sendall(f"POST /length HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n{head}\r\n".encode())
        caller.sendall(body[:-1])
        outlast_a_small_request(hasty_door)
        caller.sendall(body[-1:])
        assert caller.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_a_caller_with_pauses_between_requests_is_not_cut_off(hasty_door: Door) -> None:
    with closing(http.client.HTTPConnection(hasty_door.host, hasty_door.port, timeout=5)) as caller:
        caller.connect()
        caller.auto_open = 0
        for body in (b"", b"x" * 1000):  # the second is answered before it is read
            caller.request("POST", "/none", body)
            answer = caller.getresponse()
            assert (answer.status, answer.read() != b"") == (404, True)
            outlast_a_small_request(hasty_door)
        caller.request("GET", "/none")
        assert caller.getresponse().status == 404


# --- what is no request -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/none", "/%ff", "/%00", "/QueryForCapacities/", "/Synapse/%ff", "/a%0d%0ab", "*"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path_is_a_404(door: Door, path: str, method: str) -> None:
    with closing(http.client.HTTPConnection(door.host, door.port, timeout=10)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())) == (404, {"message": "Not Found"})
        connection.request("GET", "/none")
        assert connection.getresponse().status == 404, "the connection is as good as before"


@pytest.mark.parametrize("path", ["/length", "/none", "/QueryForCapacities"])
def test_a_websocket_handshake_is_a_request_like_others_and_counted(door: Door, path: str) -> None:
    door.done.clear()
    handshake = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    with closing(http.client.HTTPConnection(door.host, door.port, timeout=10)) as connection:
        connection.request("GET", path, headers={**handshake, "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="})
        assert connection.getresponse().status in (403, 404, 405)
    wait_until(lambda: [one.path for one in door.done] == [path])


@pytest.mark.parametrize(
    "text",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /none HTTP/1.1\r\nhost: a\r\nx: \x00\r\n\r\n",
        b"GET /none HTTP/1.1\r\nhost: a\r\n\r\n\x00\r\n\r\n",
        b"POST /none HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /none HTTP/1.1\r\nhost: a\r\ncontent-length: 9999999999999999999999\r\n\r\n",
        b"GET /none HTTP/1.1\r\n" + b"x: y\r\n" * 20_000,
    ],
)
def test_a_connection_that_is_not_http_is_closed_without_a_log_line(
    door: Door, caplog: pytest.LogCaptureFixture, text: bytes
) -> None:
    with door.connect() as caller:
        try:
            caller.sendall(text)
            caller.sendall(b"zz\r\n")
            caller.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        assert b" 500 " not in said(caller)
    assert door.ask() == (200, 1000)
    assert caplog.text == ""


# --- start and stop ---------------------------------------------------------------------------------------------------


def test_stopping_what_never_started_raises_nothing(wallet: Any) -> None:
    door = Door(wallet)
    door.server.stop_listening()
    assert door.server.join(1)


def test_a_miner_that_never_started_can_be_stopped(tmp_path: Path) -> None:
    constants = constants_in(tmp_path, Circuits(directory=tmp_path))
    wallet, events = open_hotkey(constants.wallet), EventLog(constants.log)
    pool, store = ProverPool(constants, lambda _: None), CircuitStore(constants)
    session = MinerSession(constants, wallet, open_chain(constants, wallet), pool, store, events)
    session.server.open()
    assert session.stop()
    events.close()


def test_a_server_that_does_not_start_reports_why(wallet: Any) -> None:
    door = Door(wallet)
    door.server.open()
    assert door.server.join(1)  # which closes the port
    with pytest.raises(OmronError, match="did not start: OSError"):
        door.server.start()
    assert door.server.join(1)


def test_an_address_of_another_host_is_reported(wallet: Any) -> None:
    for address in ("2001:db8::1", "192.0.2.1"):
        with pytest.raises(OmronError, match="must be an address of this host"):
            Door(wallet, bind_ip=address).server.open()
    with socket.socket() as taken:
        door = Door(wallet)
        taken.bind((door.host, door.port))
        taken.listen()
        with pytest.raises(OmronError, match="choose another axon port"):
            door.server.open()


# --- IPv6 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bound", "hosts"), [("::1", ["::1"]), ("::", ["::1", "127.0.0.1"])])
def test_an_axon_on_ipv6_answers_over_both_transports(wallet: Any, bound: str, hosts: list[str]) -> None:
    with opened(wallet, bind_ip=bound) as door:
        for host in hosts:
            assert door.ask_axon(host) == {"a": 1}
            with closing(http.client.HTTPConnection(host, door.port, timeout=10)) as connection:
                connection.request("POST", "/length", b"ab", signed_headers(VALIDATOR, door.hotkey, b"ab"))
                assert connection.getresponse().read() == b"2"
