"""Start and stop of the miner: every error that can be detected early is found before the first worker starts.

Not for: answers (`miner_session`) and authorisation (`admission`).
"""

from __future__ import annotations

import logging
import signal
import threading
from typing import TYPE_CHECKING, Any

from omron_miner.addresses import host_and_port
from omron_miner.chain.chain import Chain, ChainAwayError, ChainError
from omron_miner.chain.open import open_chain
from omron_miner.chain.wallet import open_hotkey
from omron_miner.chain.watch import ChainWatch
from omron_miner.circuits import needs as circuit_needs
from omron_miner.circuits.circuit_store import CircuitStore
from omron_miner.competition.watch import CompetitionWatch
from omron_miner.errors import CircuitError, OmronError
from omron_miner.events import EventLog
from omron_miner.formatting import utc
from omron_miner.host import Memory, read_memory
from omron_miner.provers.open_pool import open_pool
from omron_miner.proving.session_storage import SessionStorage
from omron_miner.serving.miner_session import MinerSession

if TYPE_CHECKING:
    from types import FrameType

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.constants import Constants


def serve(constants: Constants) -> None:
    """Runs the miner until SIGTERM or SIGINT; the process's main thread. Returns after an orderly stop.

    Every error that can be detected early is found before the first worker starts. Raises OmronError (or a subclass):
    no usable hotkey, port taken, no usable circuit, not registered, chain unreachable, workers do not start.
    """
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    wallet = open_hotkey(constants.wallet)
    try:
        # After bittensor was imported (above): importing it silences every logger there is.
        events = EventLog(constants.log)
    except OSError as error:
        raise OmronError(f"cannot write the logs: {error}", f"check {constants.log.directory} and its owner") from error
    try:
        _serve(constants, wallet, events, stop)
    except OmronError as error:
        # Only a line: the event log may belong to another miner, which has the port and keeps running.
        events.lines.error("The miner did not start: %s", error)
        raise
    finally:
        events.close()


def _serve(constants: Constants, wallet: Any, events: EventLog, stop: threading.Event) -> None:
    store = CircuitStore(constants)
    pool = open_pool(constants, lambda detail: events.life("worker_lost", detail, logging.WARNING))
    chain = open_chain(constants, wallet)
    watch = watch_of(chain, constants, events.lines)
    competition = None
    if constants.competition.enabled:
        competition = CompetitionWatch(constants.competition, chain, wallet.hotkey, events.lines)
    session = MinerSession(constants, wallet, chain, pool, store, events, competition, watch.want_refresh)
    session.server.open()
    circuits = usable_circuits(constants, store, events)
    SessionStorage(constants.sessions).sweep()
    stale = not read_chain(chain, constants, wallet.hotkey.ss58_address, events.lines)
    pool.start()
    try:
        session.start()
        watch.start(stale)
        if competition:
            competition.start()
        _say_started(constants, wallet, circuits, events)
        stop.wait()
        events.life("stopping", f"requests in progress have {constants.deadlines.stop_seconds:g} s")
    finally:
        if competition:
            competition.stop()
        answered = session.stop()
        watch.stop()
        chain.close()
    events.life("stopped", "" if answered else "some requests could not be answered")


def usable_circuits(constants: Constants, store: CircuitStore, events: EventLog) -> list[Circuit]:
    """The circuits that can be proved here. Raises CircuitError, naming every refused one, when there are none."""
    usable, reasons = store.usable(), list(store.refused().values())
    memory = read_memory()
    for circuit in usable:
        warn_of_memory(circuit, events.lines, memory)
    for reason in reasons:
        events.lines.warning("Circuit refused: %s", reason)
    if not usable:
        why = "; ".join(reasons) or f"there is no model_<id> folder in {constants.circuits.directory}"
        raise CircuitError(f"no circuit can be served: {why}", "build one, or fix the problems listed")
    return usable


def warn_of_memory(circuit: Circuit, log: logging.Logger, memory: Memory) -> None:
    """Logs when a circuit does not fit into `memory`. It is served anyway: the requirements are estimates."""
    try:
        needed = circuit_needs.needs_of(circuit)
    except OSError:  # its key was removed since it was found: the first request for it fails with the reason
        return
    if needed and (why := circuit_needs.memory_problem(circuit.label, needed, memory.total_bytes)):
        log.warning("Not enough memory: %s%s", why, memory.limit_in_words())


def read_chain(chain: Chain, constants: Constants, hotkey: str, log: logging.Logger) -> bool:
    """Reads the chain once; False when it is unreachable and the list of an earlier run is used instead.

    Raises OmronError when our hotkey is not registered, ChainError when there is no such list either.
    """
    network = constants.network
    try:
        if not chain.is_registered():
            raise OmronError(
                f"hotkey {hotkey} is not registered on netuid {network.netuid} of {network.name}",
                f"btcli subnet register --netuid {network.netuid} --network {network.name}",
            )
        chain.refresh()
    except ChainAwayError as away:
        try:
            chain.use_copy()
        except ChainError as none:
            raise ChainError(f"{away.message}, and {none.message}", none.hint) from away
        log.warning("Chain unreachable; using the validator list of %s: %s", utc(chain.read_at()), away)
        return False
    return True


def watch_of(chain: Chain, constants: Constants, log: logging.Logger) -> ChainWatch:
    """What watches the chain while the miner serves. Not started."""
    axon, network = constants.axon, constants.network
    address = (axon.external_ip or axon.bind_ip, axon.external_port or axon.port)
    return ChainWatch(chain, network, address, log)


def _say_started(constants: Constants, wallet: Any, circuits: list[Circuit], events: EventLog) -> None:
    from omron_miner import __version__

    axon = constants.axon
    where = host_and_port(axon.bind_ip, axon.port)
    labels = [one.label for one in circuits]
    events.life(
        "started",
        f"omron-miner {__version__} on {where} ({constants.network.name}), {', '.join(labels)}",
        version=__version__,
        port=axon.port,
        network=constants.network.name,
        hotkey=wallet.hotkey.ss58_address,
        circuits=[one.id for one in circuits],
    )
