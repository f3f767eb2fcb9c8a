"""The status of the prover hosts: a small file that the miner writes and the monitor reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from omron_miner.errors import OmronError
from omron_miner.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SCHEMA_VERSION = 1
WRITE_SECONDS = 5.0
"""The miner writes this often."""
STALE_SECONDS = 60.0
"""An older file means that the miner is not running, or cannot write."""
REMEMBER_SECONDS = 86_400.0
"""How long a host that left is listed."""


@dataclass(frozen=True)
class CircuitSeconds:
    """How long one circuit's proofs take on one host."""

    expected_seconds: float
    """Of the next proof if it runs alone."""
    fastest_seconds: float
    """Of the fastest proof since the host's process started."""


@dataclass(frozen=True)
class HostState:
    """One host that proves for the miner."""

    name: str
    """The name that it reports."""
    address: str
    """Empty: the miner's own host."""
    gets_work: bool
    """False also while one of its proofs has just failed to verify here; a host that is busy does get work."""
    state: str
    """Why it gets no work, or none at this moment; empty when it may."""
    since: float
    """Unix time in seconds at which it began to get work, or ceased to. A proof that did not verify leaves it."""
    circuits: int
    """How many it may prove."""
    workers: int
    """Warm ones."""
    running: int
    """Proofs that it makes now."""
    proofs: int
    """Verified ones, since the miner started or the host joined."""
    failures: int
    """Proofs that failed on it, or were lost with it, since the same time."""
    left: bool = False
    """Whether it is not connected any more. It is listed for a day."""
    release: str = ""
    """What it runs; empty: not known."""
    pace: dict[str, CircuitSeconds] = field(default_factory=dict)
    """By circuit ID, of the circuits that it has proved."""


@dataclass(frozen=True)
class ProversStatus:
    """All hosts that prove for one miner. Times are Unix seconds."""

    written: float
    queued: int
    """Requests that wait for a host."""
    hosts: tuple[HostState, ...]
    """The miner's own first."""
    schema_version: int = SCHEMA_VERSION


def working(hosts: Iterable[HostState]) -> str:
    """``2 of 3``: how many of the hosts that are not the miner's own get work."""
    others = [one for one in hosts if one.address]
    return f"{sum(one.gets_work for one in others)} of {len(others)}"


def write_status(path: Path, status: ProversStatus) -> None:
    """Writes the file atomically. Raises OSError."""
    write_atomically(path, json.dumps(asdict(status)) + "\n")


def read_status(path: Path) -> ProversStatus:
    """The last status that the miner wrote, of any age. Raises OmronError if it cannot be read."""
    try:
        status = TypeAdapter(ProversStatus).validate_json(path.read_bytes())
    except OSError as error:
        raise OmronError(f"cannot read {path}: {error.strerror}", "start the miner, which writes it") from error
    except ValidationError as error:
        raise OmronError(f"{path} is not the miner's", "start the miner, which writes it again") from error
    if status.schema_version != SCHEMA_VERSION:
        raise OmronError(f"{path} is of another release of the miner", "deploy miner and monitor with the same play")
    return status
