"""Ours and the stock miner as separate processes on loopback, and validators to query them.

Both get the same constants.toml but for port and folders: the same circuit files, SRS, EZKL and number of threads.
Everything they write is below one temporary directory (our sessions: on the RAM disk, as on a host), which is removed
afterwards. The validators are real dendrites that keep their connection, signed with public test keys.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bittensor
import psutil
import tomllib
from bittensor_wallet import Keypair

from omron_miner.chain.wallet import create_throwaway_hotkey, read_address
from omron_miner.circuits.examples import example_inputs
from omron_miner.constants import (
    Access,
    Axon,
    Constants,
    Deadlines,
    Log,
    Network,
    Sessions,
    Wallet,
    parse_constants,
)
from omron_miner.errors import ConfigError, OmronError
from omron_miner.events import LifecycleEvent, RequestEvent, from_json
from omron_miner.proving.isolated import die_with_parent, ezkl_environment
from omron_miner.proving.verifier import verify_elsewhere
from omron_miner.proving.worker_process import threads_per_worker
from omron_miner.serving.protocol import QueryForCapacities, QueryZkProof
from omron_miner.serving.query import Dendrite

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench_circuits import BenchCircuit

HERE = Path(__file__).parent
OURS, STOCK = "ours", "stock"
VALIDATORS = [Keypair.create_from_uri(f"//Validator{number}") for number in range(64)]
_RAM_DISK = Path("/dev/shm")  # noqa: S108
_START_SECONDS = 180.0
_EVENT_SECONDS = 30.0


@dataclass
class Miner:
    """A miner that listens, ours or stock."""

    name: str
    constants: Constants
    process: psutil.Process
    hotkey: str
    _read: int = 0
    """Bytes of the event log already returned."""
    _waiting: list[RequestEvent] = field(default_factory=list)

    @property
    def target(self) -> Any:
        """Where a dendrite finds it."""
        return _target(self.constants.axon.port, self.hotkey)

    async def events(self, count: int) -> list[RequestEvent]:
        """The next `count` requests' events, in the order they ended. Raises OmronError when they do not come.

        They are written after the answer was sent, so there is something to wait for.
        """
        until = time.monotonic() + _EVENT_SECONDS
        while len(self._waiting) < count:
            with self.constants.log.events.open("rb") as file:
                file.seek(self._read)
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read += len(whole)
            found = map(from_json, whole.decode().splitlines())
            self._waiting += [event for event in found if isinstance(event, RequestEvent)]
            if time.monotonic() > until:
                raise OmronError(f"{self.name} wrote {len(self._waiting)} of {count} events", "see its miner.log")
            if len(self._waiting) < count:
                await asyncio.sleep(0.002)
        found_now, self._waiting = self._waiting[:count], self._waiting[count:]
        return found_now

    def processes(self) -> list[psutil.Process]:
        """The miner's process and every one below it."""
        with suppress(psutil.NoSuchProcess):
            return [self.process, *self.process.children(recursive=True)]
        return []

    def session_files(self) -> list[Path]:
        """Leftover files and folders of requests."""
        both = (self.constants.sessions.directory, self.constants.sessions.fallback_directory)
        return [path for directory in both if directory.exists() for path in directory.rglob("*")]


@dataclass(frozen=True)
class Answer:
    """What a validator has after a request. `seconds` is what it scores: from before signing to the parsed reply."""

    status: int
    seconds: float
    output: str
    proof: str
    """Empty when there is none; then `output` or `message` says why."""
    message: str
    """The HTTP status in words, or what kept the dendrite from having an answer."""


class Validators:
    """`count` dendrites, each with its own hotkey and connection. Use as an async context manager."""

    def __init__(self, bench: BenchCircuit, count: int, timeout_seconds: float) -> None:
        self._bench = bench
        self._timeout = timeout_seconds
        self._dendrites = [Dendrite(VALIDATORS[number]) for number in range(count)]

    async def __aenter__(self) -> Validators:
        return self

    async def __aexit__(self, *_: object) -> None:
        for dendrite in self._dendrites:
            await dendrite.aclose_session()

    async def prove(self, target: Any, seed: int, who: int = 0, timeout: float | None = None) -> Answer:
        """Asks for a proof of the circuit for fresh inputs, the same for the same seed."""
        return await self.ask(target, example_inputs(self._bench.circuit, seed), who, timeout)

    async def ask(self, target: Any, inputs: dict[str, Any], who: int = 0, timeout: float | None = None) -> Answer:
        """Asks for a proof for `inputs`, which may be wrong."""
        query = {"public_inputs": inputs, "model_id": self._bench.circuit.id}
        answer, seconds = await self._call(target, QueryZkProof(query_input=query, query_output=""), who, timeout)
        output = answer.query_output or ""
        try:
            proof = str(json.loads(output)["proof"])
        except (ValueError, KeyError, TypeError):
            proof = ""
        status, message = int(answer.dendrite.status_code or 200), str(answer.dendrite.status_message or "")
        return Answer(status, seconds, output, proof, message)

    async def trivial(self, target: Any, who: int = 0) -> float:
        """Seconds of a call that asks for no proof: QueryForCapacities."""
        answer, seconds = await self._call(target, QueryForCapacities(), who)
        if not answer.capacities:
            raise OmronError(f"a miner does not answer: {answer.dendrite.status_message}", "see its miner.log")
        return seconds

    async def prove_surely(self, miner: Miner, seed: int) -> tuple[Answer, RequestEvent]:
        """As `prove`, with the request's event. Raises OmronError when there is no proof."""
        answer = await self.prove(miner.target, seed)
        if not answer.proof:
            said = answer.output or answer.message
            raise OmronError(f"{miner.name} answered {answer.status} without a proof: {said[:300]}", "see its output")
        [event] = await miner.events(1)
        return answer, event

    async def check(self, seed: int, answer: Answer) -> None:
        """Verifies an answer as a validator would. Raises OmronError when it does not verify."""
        inputs = example_inputs(self._bench.circuit, seed)
        # In a thread: the event loop must keep noticing which connections the miners close.
        verdict = await asyncio.to_thread(
            verify_elsewhere, self._bench.circuit, inputs, answer.proof, self._bench.circuits
        )
        if not verdict.verified:
            raise OmronError(f"a proof does not verify: {verdict.detail}; the miner said: {answer.output[:200]}")

    async def _call(self, target: Any, synapse: Any, who: int, timeout: float | None = None) -> tuple[Any, float]:
        dendrite = self._dendrites[who]
        began = time.perf_counter()
        answer = await dendrite.call(target, synapse, timeout=timeout or self._timeout, deserialize=False)
        seconds = time.perf_counter() - began
        dendrite.synapse_history.clear()  # the SDK keeps every request for ever
        measured = answer.dendrite.process_time  # without what the SDK does for its history; None on a failure
        return answer, float(measured) if measured else seconds


@contextmanager
def workplace() -> Iterator[Path]:
    """A temporary directory for everything the miners write except our sessions. Removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="omron-bench-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(_ram_disk_of(directory), ignore_errors=True)


@contextmanager
def miners(
    names: Sequence[str],
    bench: BenchCircuit,
    directory: Path,
    deadline_seconds: float,
    overrides: Sequence[str] = (),
) -> Iterator[dict[str, Miner]]:
    """The named miners (`OURS`, `STOCK`), started and listening, by name.

    `overrides` are ``section.key=value`` for constants.toml, the value in TOML; they hold for both, but only ours has
    workers. A request may wait for a prover as long as `deadline_seconds`, not only 5 s as on a host.
    Raises OmronError (ConfigError for an override that is none).
    """
    with ExitStack() as stack:
        yield {name: stack.enter_context(_miner(name, bench, directory, deadline_seconds, overrides)) for name in names}


@contextmanager
def canned(directory: Path, output: str) -> Iterator[Any]:
    """A bare server whose every answer has this `output`: the target to ask for what a call itself costs."""
    port, reply = free_port(), directory / "canned_reply.json"
    reply.write_text(json.dumps({"query_output": output}), encoding="utf-8")
    command = [sys.executable, str(HERE / "canned_server.py"), str(port), str(reply)]
    with _started_by_us(command) as process:
        try:
            _wait(lambda: _listens(port), process, "the bare server", None)
            yield _target(port, VALIDATORS[0].ss58_address)
        finally:
            process.kill()


@contextmanager
def _miner(
    name: str, bench: BenchCircuit, directory: Path, deadline_seconds: float, overrides: Sequence[str]
) -> Iterator[Miner]:
    constants = _constants(name, bench, directory / name, deadline_seconds, overrides)
    create_throwaway_hotkey(constants)
    config = directory / name / "constants.toml"
    config.write_text(_to_toml(constants), encoding="utf-8")
    if name == OURS:
        command, environment = [sys.executable, "-m", "omron_miner", "--config", str(config), "serve"], {}
    else:
        command = [sys.executable, str(HERE / "stock_miner.py"), str(config)]
        # Ours sets these itself. Stock has one proof at a time, so all the threads ours has in all its workers.
        threads = constants.prover.workers * threads_per_worker(constants)
        environment = {**ezkl_environment(constants.circuits.ezkl_directory), "RAYON_NUM_THREADS": str(threads)}
    output = (directory / name / "output.txt").open("wb")
    with output, _started_by_us(command, env={**os.environ, **environment}, stdout=output, stderr=output) as process:
        try:
            _wait(lambda: _started(constants), process, name, Path(output.name))
            yield Miner(name, constants, psutil.Process(process.pid), read_address(constants.wallet))
        finally:
            _stop(process)


def _started_by_us(command: list[str], **named: Any) -> subprocess.Popen[bytes]:
    """A process that is killed when we are, however that happens."""
    return subprocess.Popen(command, preexec_fn=partial(die_with_parent, os.getpid()), **named)


def _constants(
    name: str, bench: BenchCircuit, directory: Path, deadline_seconds: float, overrides: Sequence[str]
) -> Constants:
    directory.mkdir(parents=True)
    constants = Constants(
        network=Network(local_validator_hotkeys=tuple(one.ss58_address for one in VALIDATORS)),
        access=Access(max_body_bytes=16 << 20),
        wallet=Wallet(path=directory / "wallets"),
        axon=Axon(bind_ip="127.0.0.1", port=free_port()),
        deadlines=Deadlines(
            circuit_timeout_seconds=deadline_seconds, external_queue_seconds=max(0.01, deadline_seconds - 0.01)
        ),
        circuits=bench.circuits,
        sessions=Sessions(directory=_ram_disk_of(directory.parent) / name, fallback_directory=directory / "sessions"),
        log=Log(directory=directory),
    )
    if not overrides:
        return constants
    content = constants.model_dump(mode="json")
    for override in overrides:
        key, _, value = override.partition("=")
        section, _, entry = key.strip().partition(".")
        hint = "write section.key=value, the value in TOML, e.g. prover.workers=2"
        if section not in content or not entry:
            raise ConfigError(f"{override!r} names no constant", hint)
        try:
            content[section][entry] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{override!r} sets nothing: {error}", hint) from error
    return parse_constants(_dump(content), "the bench's constants")


def _to_toml(constants: Constants) -> str:
    return _dump(constants.model_dump(mode="json"))


def _dump(content: dict[str, dict[str, Any]]) -> str:
    """TOML: JSON's scalars and lists are TOML's as well."""
    sections = ((name, (f"{key} = {json.dumps(value)}" for key, value in one.items())) for name, one in content.items())
    return "\n".join("\n".join((f"[{name}]", *lines)) for name, lines in sections) + "\n"


def _ram_disk_of(directory: Path) -> Path:
    return _RAM_DISK / directory.name if _RAM_DISK.is_dir() else directory / "ram"


def _started(constants: Constants) -> bool:
    if not constants.log.events.exists():
        return False
    found = map(from_json, constants.log.events.read_text(encoding="utf-8").splitlines())
    return any(isinstance(event, LifecycleEvent) and event.what == "started" for event in found) and _listens(
        constants.axon.port
    )


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait(true: Any, process: subprocess.Popen[bytes], name: str, output: Path | None) -> None:
    until = time.monotonic() + _START_SECONDS
    while not true():
        if process.poll() is not None or time.monotonic() > until:
            said = output.read_text(encoding="utf-8", errors="replace")[-500:] if output else ""
            how = "did not start" if process.poll() is not None else f"was not up within {_START_SECONDS:.0f} s"
            raise OmronError(f"{name} {how}; it said: {said.strip() or 'nothing'}", "try omron-miner doctor")
        time.sleep(0.02)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stops the miner; kills any of its child processes that do not stop with it."""
    try:
        below = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)
    process.kill()
    for one in below:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def _target(port: int, hotkey: str) -> Any:
    return bittensor.AxonInfo(version=1, ip="127.0.0.1", port=port, ip_type=4, hotkey=hotkey, coldkey="")
