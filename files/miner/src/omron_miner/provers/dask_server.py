"""The two processes that Dask needs besides the miner: the scheduler, and one worker per prover host.

The worker holds an actor per miner's connection; all use the process's one `ProverService`, which outlives them: when
the scheduler disconnects, Dask closes the worker, and a new one connects with the pool still warm. There is no nanny:
under one, a worker is a daemonic process, which cannot start processes.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import signal
import threading
from typing import TYPE_CHECKING, Any

from omron_miner.addresses import host_and_port
from omron_miner.errors import OmronError
from omron_miner.events import EventLog
from omron_miner.provers import dask_setup
from omron_miner.provers.circuit_copies import OfferedFiles
from omron_miner.provers.prover_service import ProverService

if TYPE_CHECKING:
    from omron_miner.constants import Constants
    from omron_miner.provers.hosts import Catalogue
    from omron_miner.proving.worker_process import Work

_PAUSE_SECONDS = 0.5
"""Between two attempts to connect to the scheduler."""
_CLOSE_SECONDS = 2.0
LIST_FILES, READ_FILE = "omron_list_files", "omron_read_file"
"""The scheduler's calls besides Dask's own: the files of the miner's circuits."""
_service: ProverService | None = None
"""Of this process; actors find it here."""


class ProverActor:
    """The actor that a miner's connection calls on a prover host. Bytes transfer fastest."""

    def __init__(self, miner: str) -> None:
        """`miner` names the connection."""
        if _service is None:
            raise RuntimeError("not an omron-miner Dask worker: start it with omron-miner provers worker")
        self._service, self._miner = _service, miner

    async def prove(self, number: int, circuit_id: str, rows: bytes, within: float) -> bytes:
        """See `hosts.ProverHost`."""
        inputs = pickle.loads(rows)  # noqa: S301  from the miner, whose certificate was checked
        return pickle.dumps(await self._service.prove(self._miner, number, circuit_id, inputs, within))

    async def end(self, number: int) -> None:
        """Cancels a proof."""
        self._service.end(self._miner, number)

    async def report(self, wanted: list[int], last: int) -> bytes:
        """See `hosts.ProverHost`."""
        return pickle.dumps(await self._service.report(self._miner, wanted, last))


def run_scheduler(constants: Constants) -> None:
    """Runs the scheduler until SIGTERM or SIGINT. Raises OmronError when it cannot start."""
    dask_setup.check(constants.provers, constants.provers.scheduler_port, "provers.scheduler_port")
    dask_setup.configure()
    asyncio.run(_scheduler(constants, dask_setup.security(constants.provers)))


def run_worker(constants: Constants, work: Work | None = None, catalogue: Catalogue | None = None) -> None:
    """Runs a prover host until SIGTERM or SIGINT, then it finishes its proofs; a second signal stops it immediately.

    `work` runs in its processes: by default real proofs. Raises OmronError when it cannot start.
    """
    global _service
    dask_setup.check(constants.provers, constants.provers.port, "provers.port")
    dask_setup.configure()
    security = dask_setup.security(constants.provers)
    try:
        events = EventLog(constants.log)
    except OSError as error:
        raise OmronError(f"cannot write the logs: {error}", f"check {constants.log.directory} and its owner") from error
    _service = service = ProverService(constants, work, catalogue)
    try:
        service.start()
        where = host_and_port(constants.provers.bind_ip, constants.provers.port)
        events.life("started", f"prover host on {where}, {len(service.circuits)} circuits", circuits=service.circuits)
        asyncio.run(_worker(constants, security, service, events.lines))
        events.life("stopped", "")
    except OmronError as error:
        events.lines.error("The prover host did not start: %s", error)
        raise
    finally:
        service.close()
        events.close()


def _on_stop() -> tuple[asyncio.Event, asyncio.Event]:
    """Two events: SIGTERM or SIGINT arrived, and arrived again."""
    first, second = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (second if first.is_set() else first).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    return first, second


async def _scheduler(constants: Constants, security: Any) -> None:
    from distributed import Scheduler

    settings = constants.provers
    stop, _ = _on_stop()
    scheduler = Scheduler(
        host=settings.bind_ip,
        port=settings.scheduler_port,
        protocol=dask_setup.protocol(settings),
        security=security,
        **dask_setup.NO_DASHBOARD,
    )
    offered, one_at_a_time = OfferedFiles(constants), threading.Lock()

    def locked(call: Any, *given: Any) -> Any:
        with one_at_a_time:
            return call(*given)

    async def list_files() -> Any:
        return await asyncio.to_thread(locked, offered.listing)

    async def read_file(folder: str, name: str, offset: int) -> bytes:
        found: bytes = await asyncio.to_thread(locked, offered.read, folder, name, offset)
        return found

    scheduler.handlers |= {LIST_FILES: list_files, READ_FILE: read_file}
    await scheduler
    try:
        await _first(stop.wait(), scheduler.finished())
    finally:
        await asyncio.wait_for(scheduler.close(), _CLOSE_SECONDS)


async def _worker(constants: Constants, security: Any, service: ProverService, log: logging.Logger) -> None:
    stop, stop_now = _on_stop()
    leases = asyncio.create_task(service.keep_leases())
    connecting = asyncio.create_task(_stay_connected(constants, security, service, log))
    try:
        await stop.wait()  # the two tasks never end on their own
        limit = constants.deadlines.circuit_timeout_seconds
        log.info("Stopping: proofs in progress have %g s", limit)
        await _first(stop_now.wait(), service.drain(limit))
    finally:
        for task in (connecting, leases):
            task.cancel()
        await asyncio.wait({connecting, leases}, timeout=_CLOSE_SECONDS)


async def _stay_connected(constants: Constants, security: Any, service: ProverService, log: logging.Logger) -> None:
    """Connects to the scheduler, and reconnects whenever Dask gives up. Runs until it is cancelled."""
    from distributed import Worker

    settings = constants.provers
    said = ""
    while True:
        settings.directory.mkdir(parents=True, exist_ok=True)
        worker = Worker(
            dask_setup.scheduler_address(settings),
            host=settings.bind_ip,
            port=settings.port,
            protocol=dask_setup.protocol(settings),
            security=security,
            local_directory=str(settings.directory),
            nthreads=1,
            memory_limit=0,
            **dask_setup.NO_DASHBOARD,
        )
        try:
            await worker
            log.info("Connected to the scheduler at %s", worker.scheduler.address)
            said = ""
            await worker.finished()
            why = "the connection was lost"
        except Exception as error:  # a scheduler with another CA, one that still lists this host, no network
            why = str(error) or type(error).__name__
        finally:
            service.leave_all()
            await asyncio.shield(_closed(worker))
        if why != said:
            log.warning("Not connected to the scheduler at %s: %s", dask_setup.scheduler_address(settings), why)
            said = why
        await asyncio.sleep(_PAUSE_SECONDS)


async def _closed(worker: Any) -> None:
    try:
        await asyncio.wait_for(worker.close(timeout=1, executor_wait=False), _CLOSE_SECONDS)
    except Exception as error:
        logging.getLogger("distributed").debug("the worker did not close cleanly: %s", error)


async def _first(*waiting: Any) -> None:
    """Waits until the first is done, cancels the others, raises what it raised."""
    tasks = [asyncio.ensure_future(one) for one in waiting]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    for task in done:
        task.result()
