"""Listening ports, the interfaces of the default route, and whether a port takes connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omron_miner.host.kernel_files import PROC, read_file

if TYPE_CHECKING:
    from pathlib import Path

CONNECT_SECONDS = 2.0
_TCP_LISTEN = "0A"  # include/net/tcp_states.h


def is_listening(port: int, proc: Path = PROC) -> bool | None:
    """Whether anything on this host listens on TCP `port`; None when the kernel's tables cannot be read.

    Reads the kernel's tables, because a connection would show up in the miner's log.
    """
    tables = [text for name in ("tcp", "tcp6") if (text := read_file(proc / "net" / name)) is not None]
    if not tables:
        return None
    wanted = f":{port:04X}"
    for table in tables:
        for line in table.splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == _TCP_LISTEN and local.endswith(wanted):
                return True
    return False


def is_bound(port: int, proc: Path = PROC) -> bool | None:
    """Whether a socket of this host takes packets for UDP `port`; None when the kernel's tables cannot be read."""
    tables = [text for name in ("udp", "udp6") if (text := read_file(proc / "net" / name)) is not None]
    wanted = f":{port:04X}"
    rows = (line.split() for table in tables for line in table.splitlines()[1:])
    return any(row[1].endswith(wanted) for row in rows if len(row) > 1) if tables else None


def default_interfaces(proc: Path = PROC) -> frozenset[str]:
    """The interfaces of the IPv4 default routes: packets from the internet arrive on them."""
    rows = (line.split() for line in (read_file(proc / "net/route") or "").splitlines()[1:])
    return frozenset(row[0] for row in rows if len(row) > 7 and row[1] == row[7] == "00000000")


def try_connection(address: str, port: int) -> str | None:
    """Why `address`:`port` takes no TCP connection from this host; None when it does. Sends no data."""
    import socket  # the monitor does not need it and must start fast

    try:
        socket.create_connection((address, port), CONNECT_SECONDS).close()
    except TimeoutError:
        return f"no answer within {CONNECT_SECONDS:g} s"
    except OSError as error:
        return error.strerror or str(error)
    return None
