"""The miner and its prover hosts: validity of certificates, ports, and which hosts get work."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from omron_miner.addresses import host_and_port
from omron_miner.doctor.check import Check, Status, check_that, not_read
from omron_miner.errors import ConfigError, OmronError
from omron_miner.formatting import duration
from omron_miner.provers.certificates import read_certificates
from omron_miner.provers.status import STALE_SECONDS, read_status, working

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omron_miner.constants import Constants
    from omron_miner.host import Machine

_SOON = timedelta(days=14)
_NAME, _WANTED = "prover certificates", "of one CA, valid for two weeks or more"
_ADVICE = "run the play, which creates and renews them"


def certificates(constants: Constants, now: datetime | None = None) -> Iterator[Check]:
    """One check on a host that has or should have such certificates, none on others; `now`: UTC, by default now."""
    settings = constants.provers
    if not settings.tls or not (constants.prover.engine == "dask" or settings.certificate_directory.exists()):
        return
    now = now or datetime.now(timezone.utc)
    try:
        ends = read_certificates(settings.certificate_directory, now).ends
    except ConfigError as error:
        yield not_read(_NAME, _WANTED, error)
        return
    yield check_that(_NAME, ends - now >= _SOON, _WANTED, f"valid until {ends:%Y-%m-%d %H:%M} UTC", _ADVICE)


def port(constants: Constants, machine: Machine) -> Iterator[Check]:
    """Whether a prover host, or the scheduler on the host of a miner that has prover hosts, takes connections."""
    settings = constants.provers
    if constants.prover.engine != "dask":
        return
    name, number = ("prover port", settings.port) if settings.miner else ("scheduler port", settings.scheduler_port)
    fault = machine.try_connection(settings.bind_ip, number)
    live = f"{host_and_port(settings.bind_ip, number)} {'answers' if fault is None else fault}"
    advice = "see the end of miner.log; start with: systemctl restart omron-pm2"
    yield check_that(name, fault is None, f"TCP {number} takes connections", live, advice, Status.FAIL)


def hosts(constants: Constants, now: float | None = None) -> Iterator[Check]:
    """Whether all prover hosts of this miner get work, according to the miner; `now`: Unix time, by default now."""
    if not constants.has_prover_hosts:
        return
    name, wanted = "prover hosts", "all of them get work"
    try:
        status = read_status(constants.log.prover_hosts)
    except OmronError as error:
        yield not_read(name, wanted, error)
        return
    age = (time.time() if now is None else now) - status.written
    if age > STALE_SECONDS:
        live = f"{constants.log.prover_hosts} was written {duration(age)} ago"
        yield Check(name, Status.FAIL, wanted, live, "start the miner, which writes it every few seconds")
        return
    idle = [f"{one.name}: {one.state}" for one in status.hosts if one.address and not one.gets_work]
    live = "; ".join([f"{working(status.hosts)} get work", *idle])
    advice = "omron-miner provers check on that host; a removed host stays listed for a day"
    yield check_that(name, not idle, wanted, live, advice)
