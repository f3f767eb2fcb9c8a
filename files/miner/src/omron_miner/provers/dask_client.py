"""The miner's connection to its prover hosts: finds them at the scheduler, and calls the actor on each directly."""

from __future__ import annotations

import asyncio
import logging
import pickle
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from omron_miner.addresses import host_and_port
from omron_miner.errors import OmronError, first_line
from omron_miner.events import LOGGER_NAME
from omron_miner.provers import dask_setup
from omron_miner.provers.circuit_copies import copy_circuits
from omron_miner.provers.dask_server import LIST_FILES, READ_FILE, ProverActor
from omron_miner.provers.hosts import release

if TYPE_CHECKING:
    from collections.abc import Collection

    from omron_miner.circuits.inputs import Inputs
    from omron_miner.constants import Constants
    from omron_miner.provers.circuit_copies import Copied
    from omron_miner.provers.hosts import HostReport
    from omron_miner.provers.multi_host_pool import MultiHostPool
    from omron_miner.proving.verified_model_session import ProofResult

_log = logging.getLogger(LOGGER_NAME)
_LOOK_SECONDS = 0.25
"""How often the scheduler is asked for the hosts."""
_ANSWER_SECONDS = 2.0
_CLOSE_SECONDS = 0.25
_PAUSE_SECONDS = 0.5
"""Between two attempts to connect."""
_MOST_CONNECTIONS = 8192
"""Dask waits for a free one above its limit, by default 512. A proof holds one while it runs."""
_TRIES_OF_AN_ACTOR = 3
"""After this many consecutive unanswered calls a new actor is made: Dask never answers for a lost one."""


class DaskHost:
    """A prover host, reached through an actor on it."""

    is_local = False

    def __init__(self, client: Any, address: str, miner: str) -> None:
        """`miner` names the connection; nothing is called yet."""
        self.name = address.partition("://")[2]
        self._client, self._address, self._miner = client, address, miner
        self._actor: Any = None
        self._unanswered = 0
        self._ends: set[asyncio.Future[Any]] = set()

    async def prove(self, number: int, circuit_id: str, rows: Inputs, within: float) -> ProofResult:
        """See `ProverHost`. Raises OSError when the host is disconnected."""
        actor = await self._get_actor()
        try:
            result: ProofResult = pickle.loads(  # noqa: S301  its certificate was checked
                await actor.prove(number, circuit_id, pickle.dumps(rows, pickle.HIGHEST_PROTOCOL), within)
            )
        except asyncio.CancelledError:
            self._end(actor, number)
            raise
        return result

    async def report(self, wanted: Collection[int], last: int) -> HostReport:
        """See `ProverHost`. Raises OSError when the host is disconnected."""
        self._unanswered += 1
        if self._unanswered > _TRIES_OF_AN_ACTOR:
            self._actor, self._unanswered = None, 0
        actor = await self._get_actor()
        report: HostReport = pickle.loads(await actor.report(list(wanted), last))  # noqa: S301  as above
        self._unanswered = 0
        return report

    async def _get_actor(self) -> Any:
        if self._actor is None:
            made = self._client.submit(
                ProverActor, self._miner, actor=True, workers=[self._address], allow_other_workers=False, pure=False
            )
            self._actor = await made
        return self._actor

    def _end(self, actor: Any, number: int) -> None:
        """Has the host cancel a proof; the next report, which does not list it, does so too."""
        with suppress(Exception):
            ending = asyncio.ensure_future(_quietly(actor.end(number)))
            self._ends.add(ending)
            ending.add_done_callback(self._ends.discard)


class DaskConnection:
    """Connects a pool to the scheduler and keeps its hosts up to date."""

    def __init__(self, constants: Constants) -> None:
        """Raises OmronError when Dask is not installed, ConfigError for missing or wrong certificates."""
        dask_setup.configure()
        self._settings = constants.provers
        dask_setup.security(self._settings)  # errors are found before the miner starts

    async def run(self, pool: MultiHostPool) -> None:
        """Stays connected until it is cancelled."""
        from distributed import Client

        address = dask_setup.scheduler_address(self._settings)
        said = ""
        while True:
            client = None
            hosts: dict[str, DaskHost] = {}
            try:
                client = await asyncio.wait_for(self._client(Client, address), 2 * _ANSWER_SECONDS)
                _log.info("Connected to the scheduler of the prover hosts at %s", address)
                said = ""
                await self._follow(client, pool, hosts)
            except OmronError:
                raise
            except Exception as error:
                why = first_line(error)
                if why != said:
                    _log.warning("No scheduler at %s, using local workers only: %s", address, why)
                    said = why
            finally:
                for host in hosts.values():
                    pool.leave(host.name, "the scheduler disconnected")
                if client is not None:
                    await asyncio.shield(_closed(client))
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _client(self, kind: Any, address: str) -> Any:
        # Read again at each attempt: the play may have renewed the certificates.
        return await _open_client(kind, address, dask_setup.security(self._settings))

    async def _follow(self, client: Any, pool: MultiHostPool, hosts: dict[str, DaskHost]) -> None:
        """Reports joining and leaving hosts to the pool. Raises OSError when the scheduler is disconnected."""
        miner = uuid.uuid4().hex
        while True:
            try:
                answer = await asyncio.wait_for(client.scheduler.identity(n_workers=-1), _ANSWER_SECONDS)
            except asyncio.TimeoutError:  # paused, or short of CPU: the hosts are called directly and keep working
                continue
            found = {str(worker["id"]): address for address, worker in answer["workers"].items()}
            for gone in hosts.keys() - found.keys():
                pool.leave(hosts.pop(gone).name, "it is no longer connected to the scheduler")
            for new in found.keys() - hosts.keys():
                hosts[new] = DaskHost(client, found[new], miner)
                pool.join(hosts[new])
            await asyncio.sleep(_LOOK_SECONDS)


async def _open_client(kind: Any, address: str, security: Any) -> Any:
    return await kind(
        address,
        security=security,
        asynchronous=True,
        direct_to_workers=True,
        connection_limit=_MOST_CONNECTIONS,
        timeout=_ANSWER_SECONDS,
        name="omron-miner",
    )


def fetch_circuits(constants: Constants, seconds: float) -> Copied:
    """Copies the circuits of the miner whose scheduler this host is connected to.

    Waits up to `seconds` for the scheduler. Raises OmronError, ConfigError for missing or wrong certificates.
    """
    dask_setup.configure()
    return asyncio.run(_fetch_circuits(constants, dask_setup.security(constants.provers), seconds))


async def _fetch_circuits(constants: Constants, security: Any, seconds: float) -> Copied:
    from distributed.core import rpc

    address, until = dask_setup.scheduler_address(constants.provers), time.monotonic() + seconds
    scheduler = rpc(address, timeout=_ANSWER_SECONDS, connection_args=security.get_connection_args("client"))
    try:
        while True:
            try:
                listing = await getattr(scheduler, LIST_FILES)()
                break
            except OSError as error:
                if time.monotonic() > until:
                    hint = "start the miner first, and let its firewall accept this host's address"
                    raise OmronError(f"no scheduler at {address}: {first_line(error)}", hint) from error
            await asyncio.sleep(_PAUSE_SECONDS)

        async def read(folder: str, name: str, offset: int) -> bytes:
            part: bytes = await getattr(scheduler, READ_FILE)(folder=folder, name=name, offset=offset)
            return part

        return await copy_circuits(constants, listing, read)
    except OSError as error:
        raise OmronError(f"the circuits cannot be copied from {address}: {first_line(error)}") from error
    finally:
        await scheduler.close_rpc()


def own_report(constants: Constants, seconds: float) -> HostReport:
    """This prover host's report, through its miner's scheduler, once it proves with this release.

    Raises OmronError when it does not within `seconds`.
    """
    dask_setup.configure()
    return asyncio.run(_own_report(constants, seconds))


async def _own_report(constants: Constants, seconds: float) -> HostReport:
    from distributed import Client

    settings, until = constants.provers, time.monotonic() + seconds
    scheduler = dask_setup.scheduler_address(settings)
    own = f"{dask_setup.protocol(settings)}://{host_and_port(settings.bind_ip, settings.port)}"
    why = ""
    while time.monotonic() < until:
        client = None
        try:
            opening = _open_client(Client, scheduler, dask_setup.security(settings))
            client = await asyncio.wait_for(opening, 2 * _ANSWER_SECONDS)
            answer = await asyncio.wait_for(client.scheduler.identity(n_workers=-1), _ANSWER_SECONDS)
            why = f"{own} is not connected to the scheduler at {scheduler}"
            if own in answer["workers"]:
                host = DaskHost(client, own, uuid.uuid4().hex)
                report = await asyncio.wait_for(host.report([], 0), 2 * _ANSWER_SECONDS)
                if report.release == release() and not report.draining:
                    return report
                why = f"{own} still runs release {report.release}"
        except OmronError:
            raise
        except Exception as error:
            why = f"no answer through the scheduler at {scheduler}: {first_line(error)}"
        finally:
            if client is not None:
                await asyncio.shield(_closed(client))
        await asyncio.sleep(_PAUSE_SECONDS)
    raise OmronError(f"this prover host does not prove after {seconds:g} s: {why}", "see the end of miner.log")


async def _quietly(call: Any) -> None:
    with suppress(Exception):
        await call


async def _closed(client: Any) -> None:
    with suppress(Exception):
        await asyncio.wait_for(client.close(), _CLOSE_SECONDS)
