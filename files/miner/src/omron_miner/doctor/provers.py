"""Between a miner and its prover hosts: certificates and how long they are valid, and the port opened here."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from omron_miner.addresses import host_and_port
from omron_miner.doctor.check import Check, Status, judged, not_read
from omron_miner.errors import ConfigError
from omron_miner.provers.certificates import read_certificates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omron_miner.constants import Constants
    from omron_miner.host import Machine

_SOON = timedelta(days=14)
_NAME, _WANTED = "prover certificates", "of one CA, valid for two weeks or more"
_ADVICE = "run the play, which makes and renews them"


def certificates(constants: Constants, now: datetime | None = None) -> Iterator[Check]:
    """One check on a host that has such certificates or should, none on others; `now`: UTC, this moment by default."""
    settings = constants.provers
    if not settings.tls or not (constants.prover.engine == "dask" or settings.certificate_directory.exists()):
        return
    now = now or datetime.now(timezone.utc)
    try:
        ends = read_certificates(settings.certificate_directory, now).ends
    except ConfigError as error:
        yield not_read(_NAME, _WANTED, error)
        return
    yield judged(_NAME, ends - now >= _SOON, _WANTED, f"valid until {ends:%Y-%m-%d %H:%M} UTC", _ADVICE)


def port(constants: Constants, machine: Machine) -> Iterator[Check]:
    """Whether a prover host, or the scheduler on the host of a miner that has prover hosts, takes connections."""
    settings = constants.provers
    if constants.prover.engine != "dask":
        return
    name, number = ("prover port", settings.port) if settings.miner else ("scheduler port", settings.scheduler_port)
    fault = machine.try_connection(settings.bind_ip, number)
    live = f"{host_and_port(settings.bind_ip, number)} {'answers' if fault is None else fault}"
    advice = "see the end of miner.log; start with: systemctl restart omron-pm2"
    yield judged(name, fault is None, f"TCP {number} takes connections", live, advice, Status.FAIL)
