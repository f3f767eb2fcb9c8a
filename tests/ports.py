"""Ports for servers that open them some time after a test has chosen them."""

from __future__ import annotations

import os
import random
import socket
from itertools import count

# Below the ports that the kernel gives to outgoing connections (32768 and up): one of those, free a moment ago, may be
# a connection's own port by the time the server opens it. Each pytest worker has a range of its own.
_FIRST, _PER_WORKER = 20_000, 1_000
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 12
_KINDS = [
    (family, kind)
    for family in ((socket.AF_INET, socket.AF_INET6) if socket.has_dualstack_ipv6() else (socket.AF_INET,))
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
]
_candidates = (
    _FIRST + _PER_WORKER * _WORKER + number % _PER_WORKER
    for number in count(random.randrange(_PER_WORKER))  # noqa: S311  two runs side by side rarely meet
)


def free_port() -> int:
    """A port that nothing on this machine has open, for TCP or UDP, on any address. The next call gives another."""
    return next(port for port in _candidates if all(_is_free(port, family, kind) for family, kind in _KINDS))


def _is_free(port: int, family: socket.AddressFamily, kind: socket.SocketKind) -> bool:
    with socket.socket(family, kind) as probe:
        if kind is socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        if family is socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
