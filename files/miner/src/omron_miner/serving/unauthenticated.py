"""Limits on unauthenticated callers: each has a bounded share, so that none of them crowds out the others.

Anyone can open connections and name a validator's hotkey in a request that is never finished. When a limit is exceeded,
the connection that has waited longest is closed, because an honest request arrives in milliseconds. First one of the
same peer address; when all together exceed a limit, one of those that have at least half of the average, among the
named hotkeys and then among the peers that name them.

Not for: authenticated requests, see `allowance`.
"""

from __future__ import annotations

import logging
import resource
import time
from collections import Counter
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Protocol

from omron_miner.events import LOGGER_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

_MIB = 1_048_576
_BODIES = 4
"""Number of bodies of the maximum size that one peer may send concurrently."""
_LINE_SECONDS = 60.0
_TOO_MUCH = "Too many unfinished requests at this time"
_log = logging.getLogger(LOGGER_NAME)


class Connection(Protocol):
    """A connection as seen here. `peer` never changes."""

    peer: str

    @property
    def hotkey(self) -> str:
        """As the caller claims it; empty before that."""

    def cut(self, status: int, why: str) -> None:
        """Closes it."""


@dataclass(frozen=True)
class UnauthenticatedLimits:
    """Connections without an authenticated request: being opened, receiving a request, or idle."""

    connections_per_peer: int = 256
    connections: int = 1024
    bytes_per_peer: int = 16 * _MIB
    bytes: int = 64 * _MIB
    """Bytes received of unanswered requests."""

    def fitted(self, max_body_bytes: int) -> UnauthenticatedLimits:
        """These limits, with room for bodies of `max_body_bytes`, within the process's limit of open files."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        per_peer = max(self.bytes_per_peer, _BODIES * max_body_bytes)
        most = self.connections if files == resource.RLIM_INFINITY else min(self.connections, max(1, files // 2))
        return replace(self, connections=most, bytes_per_peer=per_peer, bytes=max(self.bytes, _BODIES * per_peer))


@dataclass
class _Held:
    number: int
    """Ascending with the time since when it waits."""
    bytes: int = 0


class UnauthenticatedConnections:
    """The connections without an authenticated request, and the bytes they have sent. For one thread."""

    def __init__(self, limits: UnauthenticatedLimits) -> None:
        self._limits = limits
        self._held: dict[str, dict[Connection, _Held]] = {}
        """By peer, those that wait longest first."""
        self._numbers = count()
        self._count = 0
        self._bytes: Counter[str] = Counter()
        """By peer."""
        self._all_bytes = 0
        self._closed, self._written = 0, -_LINE_SECONDS

    def enter(self, connection: Connection) -> None:
        """It waits for a request from now on; may be called again. May close it or others."""
        self.leave(connection)
        of_peer = self._held.setdefault(connection.peer, {})
        of_peer[connection] = _Held(next(self._numbers))
        self._count += 1
        if len(of_peer) > self._limits.connections_per_peer:
            self._cut(next(iter(of_peer)))
        if self._count > self._limits.connections:
            self._cut(self._one_of_many(lambda _: 1))

    def charge(self, connection: Connection, size: int) -> None:
        """It has sent `size` more bytes; not counted once authenticated. May close it or others."""
        of_peer = self._held.get(connection.peer, {})
        held = of_peer.get(connection)
        if held is None:
            return
        held.bytes += size
        self._bytes[connection.peer] += size
        self._all_bytes += size
        while self._bytes[connection.peer] > self._limits.bytes_per_peer:
            self._cut(next(one for one, its in of_peer.items() if its.bytes))
        while self._all_bytes > self._limits.bytes:
            self._cut(self._one_of_many(lambda its: its.bytes))

    def forget_bytes(self, connection: Connection) -> None:
        """The bytes that it has sent were discarded."""
        held = self._held.get(connection.peer, {}).get(connection)
        if held is not None:
            self.charge(connection, -held.bytes)

    def leave(self, connection: Connection) -> None:
        """It is authenticated, or closed."""
        of_peer = self._held.get(connection.peer, {})
        held = of_peer.pop(connection, None)
        if held is None:
            return
        self._count -= 1
        self._bytes[connection.peer] -= held.bytes
        self._all_bytes -= held.bytes
        if not of_peer:
            del self._held[connection.peer], self._bytes[connection.peer]

    def __len__(self) -> int:
        return self._count

    @property
    def held_bytes(self) -> int:
        """Bytes received of unanswered requests."""
        return self._all_bytes

    def _one_of_many(self, weight: Callable[[_Held], int]) -> Connection:
        """The longest-waiting connection of the heaviest hotkeys, and among these of the heaviest peers."""
        found = {one: held for of_peer in self._held.values() for one, held in of_peer.items() if weight(held)}
        found = _heavy(found, lambda one: one.hotkey, weight)
        found = _heavy(found, lambda one: one.peer, weight)
        return min(found, key=lambda one: found[one].number)

    def _cut(self, connection: Connection) -> None:
        self.leave(connection)
        self._closed += 1
        now = time.monotonic()
        if now - self._written >= _LINE_SECONDS:
            said = "Closed %d unfinished connection(s) to make room for others, the last of %s"
            _log.warning(said, self._closed, connection.peer)
            self._closed, self._written = 0, now
        connection.cut(503, _TOO_MUCH)


def _heavy(
    found: dict[Connection, _Held], name: Callable[[Connection], str], weight: Callable[[_Held], int]
) -> dict[Connection, _Held]:
    """The names with at least half of the average weight: callers that send little are spared."""
    weights: Counter[str] = Counter()
    for one, held in found.items():
        weights[name(one)] += weight(held)
    least = sum(weights.values()) / len(weights) / 2
    return {one: held for one, held in found.items() if weights[name(one)] >= least}
