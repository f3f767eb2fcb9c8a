"""A real axon on loopback with real workers, and real dendrites as callers. The keys are well-known test keys."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import bittensor
import psutil
from bittensor_wallet import Keypair

from omron_miner.chain.open import open_chain
from omron_miner.chain.wallet import create_throwaway_hotkey, open_hotkey
from omron_miner.circuits.circuit_store import CircuitStore
from omron_miner.circuits.examples import example_inputs
from omron_miner.competition.watch import CompetitionWatch
from omron_miner.constants import Access, Axon, Circuits, Constants, Deadlines, Log, Network, Prover, Sessions, Wallet
from omron_miner.events import EventLog, LifecycleEvent, RequestEvent, from_json
from omron_miner.proving.prover import ProverPool
from omron_miner.proving.verifier import verify_elsewhere
from omron_miner.serving.miner_session import MinerSession
from omron_miner.serving.protocol import QueryZkProof
from omron_miner.serving.query import Dendrite
from omron_miner.serving.start import read_chain, watch_of
from ports import free_port
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from omron_miner.chain.chain import Chain
    from omron_miner.circuits.circuit import Circuit
    from omron_miner.circuits.inputs import Inputs
    from omron_miner.proving.verified_model_session import ProofResult
    from omron_miner.serving.axon_server import AxonServer

MAX_BODY_BYTES = 100_000
OMRON_MINER = (sys.executable, "-m", "omron_miner")
VALIDATOR, OTHER_VALIDATOR, STRANGER = (Keypair.create_from_uri(f"//{name}") for name in ("Alice", "Bob", "Charlie"))


def constants_in(directory: Path, circuits: Circuits, **deadlines: float) -> Constants:
    """A local miner whose every file is below `directory`, with a throwaway hotkey, patient unless told otherwise."""
    constants = Constants(
        network=Network(local_validator_hotkeys=(VALIDATOR.ss58_address, OTHER_VALIDATOR.ss58_address)),
        access=Access(max_body_bytes=MAX_BODY_BYTES),
        wallet=Wallet(path=directory / "wallets"),
        axon=Axon(bind_ip="127.0.0.1", port=free_port()),
        deadlines=Deadlines(
            **{"circuit_timeout_seconds": 90.0, "external_queue_seconds": 60.0, "kill_seconds": 600.0, **deadlines}
        ),
        prover=Prover(workers=1),
        circuits=circuits,
        sessions=Sessions(directory=directory / "ram", fallback_directory=directory / "disk", minimum_free_bytes=0),
        log=Log(directory=directory),
    )
    create_throwaway_hotkey(constants)
    return constants


def to_toml(constants: Constants) -> str:
    """The constants as the file they are read from: JSON's scalars and lists are TOML's."""
    sections = constants.model_dump(mode="json").items()
    return "\n".join(
        f"[{name}]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in section.items())
        for name, section in sections
    )


def events_of(constants: Constants) -> list[RequestEvent | LifecycleEvent]:
    if not constants.log.events.exists():
        return []
    found = map(from_json, constants.log.events.read_text(encoding="utf-8").splitlines())
    return [event for event in found if event]


def count_started(constants: Constants) -> int:
    return sum(isinstance(event, LifecycleEvent) and event.what == "started" for event in events_of(constants))


def workers_of(miner: psutil.Process) -> list[psutil.Process]:
    """Its processes that prove or warm up for that; not the dead ones it has not yet buried."""
    found = []
    for child in miner.children():
        with suppress(psutil.NoSuchProcess):
            if "serve_calls" in " ".join(child.cmdline()):
                found.append(child)
    return found


def row_of(circuit: Circuit, seed: int) -> list[Any]:
    """An input of the tiny circuit."""
    [row] = example_inputs(circuit, seed).values()
    return list(row)


def session_files(constants: Constants) -> list[Path]:
    both = (constants.sessions.directory, constants.sessions.fallback_directory)
    return [path for directory in both if directory.exists() for path in directory.iterdir()]


@dataclass
class Caller:
    """Ways to ask a miner, wherever it runs."""

    constants: Constants
    hotkey: str
    circuit: Circuit

    def ask(self, *synapses: Any, by: Any = VALIDATOR, timeout: float = 40.0) -> list[Any]:
        """The answers to synapses sent at the same time, each by its own dendrite."""
        signers = by if isinstance(by, list) else [by] * len(synapses)

        async def one(synapse: Any, signer: Any) -> Any:
            async with Dendrite(signer) as dendrite:
                return await dendrite.call(self.target, synapse, timeout=timeout, deserialize=False)

        async def every() -> list[Any]:
            return await asyncio.gather(*map(one, synapses, signers))

        return asyncio.run(every())

    def ask_for_proof(self, *rows: Any, by: Any = VALIDATOR, model_id: str | None = None, **named: Any) -> list[Any]:
        """Asks for a proof of each of `rows`, the tiny circuit's one input."""
        queries = [{"public_inputs": {"x": row}, "model_id": model_id or self.circuit.id} for row in rows]
        return self.ask(*(QueryZkProof(query_input=query, query_output="") for query in queries), by=by, **named)

    def post(self, route: str, body: bytes | Iterator[bytes], headers: dict[str, str]) -> tuple[int, str]:
        """A bare HTTP request; an iterator is sent in chunks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.constants.axon.port, timeout=20)
        try:
            connection.request("POST", f"/{route}", body, headers, encode_chunked=not isinstance(body, bytes))
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def signed_headers(self, synapse: Any) -> dict[str, str]:
        signed = Dendrite(VALIDATOR).preprocess_synapse_for_request(self.target, synapse, 20.0)
        return {**signed.to_headers(), "content-type": "application/json"}

    @property
    def target(self) -> Any:
        port = self.constants.axon.port
        return bittensor.AxonInfo(version=1, ip="127.0.0.1", port=port, ip_type=4, hotkey=self.hotkey, coldkey="")

    def requests(self) -> list[RequestEvent]:
        return [event for event in events_of(self.constants) if isinstance(event, RequestEvent)]

    def verified(self, row: list[Any], output: str) -> bool:
        """Whether a query's answer holds a proof of the circuit for this row."""
        reply = json.loads(output)
        assert json.loads(reply["public_signals"])
        return verify_elsewhere(self.circuit, {"x": row}, reply["proof"], self.constants.circuits).verified


@dataclass
class Miner(Caller):
    """A miner in this process."""

    pool: DivertedPool
    server: AxonServer

    def settle(self) -> None:
        """Waits until nothing is being served: an answer is sent before its event is written."""
        wait_until(lambda: self.server.in_progress() == 0)

    def event_after(self, count: int) -> RequestEvent:
        """The one request's event written since there were `count`."""
        self.settle()
        [event] = self.requests()[count:]
        return event

    def workers(self) -> list[psutil.Process]:
        return workers_of(psutil.Process())


class DivertedPool(ProverPool):
    """The miner's pool, whose jobs a test may have handed to something else for a while."""

    instead: Callable[[str, Inputs, float], Future[ProofResult]] | None = None

    def submit(self, circuit_id: str, rows: Inputs, deadline: float) -> Future[ProofResult]:
        return (self.instead or super().submit)(circuit_id, rows, deadline)

    @contextmanager
    def diverted(self, instead: Callable[[str, Inputs, float], Future[ProofResult]]) -> Iterator[None]:
        self.instead = instead
        try:
            yield
        finally:
            self.instead = None


@contextmanager
def running(constants: Constants, circuit: Circuit, chain: Chain | None = None) -> Iterator[Miner]:
    """The miner as `serve` builds it, in this process; on the constants' chain unless another is given."""
    wallet = open_hotkey(constants.wallet)
    events = EventLog(constants.log)
    pool = DivertedPool(constants, lambda detail: events.life("worker_lost", detail))
    store = CircuitStore(constants)
    chain = chain or open_chain(constants, wallet)
    watch = watch_of(chain, constants, events.lines)
    competition = None
    if constants.competition.enabled:
        competition = CompetitionWatch(constants.competition, chain, wallet.hotkey, events.lines)
    session = MinerSession(constants, wallet, chain, pool, store, events, competition, watch.want_refresh)
    session.server.open()
    stale = not read_chain(chain, constants, wallet.hotkey.ss58_address, events.lines)
    pool.start()
    session.start()
    watch.start(stale)
    if competition:
        competition.start()
    try:
        yield Miner(constants, wallet.hotkey.ss58_address, circuit, pool, session.server)
    finally:
        if competition:
            competition.stop()
        stopped = session.stop()
        watch.stop()
        events.close()
    assert stopped
    assert session_files(constants) == []


@contextmanager
def serving(constants: Constants, omron_miner: Sequence[str] = OMRON_MINER) -> Iterator[subprocess.Popen[str]]:
    """`omron-miner serve` in a separate process, up and listening; `omron_miner` is how that is started."""
    config, before = constants.log.directory / "constants.toml", count_started(constants)
    config.write_text(to_toml(constants))
    command = [*omron_miner, "--config", str(config), "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: process.poll() is not None or count_started(constants) > before, 60)
            assert process.poll() is None, process.stderr and process.stderr.read()
            yield process
        finally:
            process.kill()
