"""Configures Dask, identically on all hosts: encrypted, no dashboard, no work stealing."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from omron_miner.addresses import host_and_port
from omron_miner.errors import OmronError
from omron_miner.provers.certificates import read_certificates

if TYPE_CHECKING:
    from omron_miner.constants import Provers

_SETTINGS = {
    "distributed.comm.timeouts.connect": "2s",
    "distributed.comm.timeouts.tcp": "15s",  # until the kernel drops the connection of an unreachable host
    "distributed.comm.retry.count": 0,  # the pool retries within the deadline
    "distributed.comm.tls.min-version": 1.3,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.scheduler.http.routes": [],
    "distributed.scheduler.work-stealing": False,
    "distributed.worker.http.routes": [],
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.rebalance.measure": "process",
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.profile.enabled": False,
}
_QUIET = {"version": 1, "disable_existing_loggers": False, "loggers": {"distributed": {"level": "CRITICAL"}}}
"""This package logs everything that matters to an operator."""
NO_DASHBOARD: dict[str, Any] = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
"""Dask opens an HTTP port anyway, without any route: on loopback."""


def configure() -> None:
    """Sets Dask up in this process. Raises OmronError when it is not installed."""
    try:
        import dask
    except ImportError as error:
        message = "Dask is not installed in this release"
        raise OmronError(message, "set prover.engine to dask in the inventory and run the play") from error
    dask.config.set({**_SETTINGS, "logging": _QUIET})
    import distributed  # noqa: F401  sets up its loggers, as configured above


def security(settings: Provers) -> Any:
    """Dask's `Security`, the same for all processes. Raises ConfigError for missing or wrong certificates."""
    from distributed import Security

    if not settings.tls:  # the settings allow that for loopback addresses only
        return Security(require_encryption=False)
    files = read_certificates(settings.certificate_directory)
    named = {"cert": str(files.certificate), "key": str(files.key)}
    roles = {f"tls_{role}_{what}": file for role in ("client", "scheduler", "worker") for what, file in named.items()}
    return Security(require_encryption=True, tls_ca_file=str(files.ca), **roles)


def protocol(settings: Provers) -> str:
    """Dask's name of the transport."""
    return "tls" if settings.tls else "tcp"


def scheduler_address(settings: Provers) -> str:
    """The scheduler's address, in Dask's notation."""
    return f"{protocol(settings)}://{host_and_port(settings.scheduler_host, settings.scheduler_port)}"


def check(settings: Provers, port: int, name: str) -> None:
    """Checks before Dask is loaded that a process can work on `port`, which the setting `name` holds.

    Raises ConfigError for missing or wrong certificates, OmronError when this host cannot listen there.
    """
    if settings.tls:
        read_certificates(settings.certificate_directory)
    with socket.socket(socket.AF_INET6 if ":" in settings.bind_ip else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.bind_ip, port))
        except OSError as error:
            message = f"cannot listen on {host_and_port(settings.bind_ip, port)}: {error.strerror or error}"
            raise OmronError(message, f"check {name} and provers.bind_ip") from error
