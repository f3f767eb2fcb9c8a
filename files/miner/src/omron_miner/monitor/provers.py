"""The hosts that prove for a miner, as last reported by the miner, and their monitored conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omron_miner.errors import OmronError
from omron_miner.formatting import duration, iso_utc
from omron_miner.monitor.model import Provers
from omron_miner.provers.status import STALE_SECONDS, read_status, working

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omron_miner.constants import Constants

Watched = tuple[str, "bool | None", str, float]
"""Name, bad, text, patience in seconds. `bad` None: not known now."""
LOST_SECONDS = 300.0
"""A host that is being deployed or restarted is back sooner."""
BEHIND = 2.0
"""Expected time over the host's own fastest proof that is reported: a throttled CPU, or other work on it."""
BEHIND_SECONDS = 600.0


def read(constants: Constants, now: float) -> Provers | None:
    """What the miner reports about its hosts; None for a miner without prover hosts. Raises nothing."""
    if not constants.has_prover_hosts:
        return None
    try:
        status = read_status(constants.log.prover_hosts)
    except OmronError as error:
        return Provers(None, str(error), None, [])
    age = now - status.written
    problem = f"the miner last wrote it {duration(age)} ago" if age > STALE_SECONDS else ""
    return Provers(iso_utc(status.written), problem, status.queued, list(status.hosts))


def watched(found: Provers, now: float) -> Iterator[Watched]:
    """The conditions that are alerts."""
    known = not found.problem
    lost = [one for one in found.hosts if one.address and not one.gets_work and now - one.since >= LOST_SECONDS]
    yield (
        "prover_host_lost",
        bool(lost) if known else None,
        "no work goes to " + "; ".join(f"{one.name} ({one.address}): {one.state}" for one in lost)
        if lost
        else f"{working(found.hosts)} prover hosts get work",
        0.0,
    )
    slow = [
        f"{one.name} takes {pace.expected_seconds:.1f} s for circuit {circuit_id[:8]}, at best"
        f" {pace.fastest_seconds:.1f} s"
        for one in found.hosts
        for circuit_id, pace in one.pace.items()
        if one.gets_work and pace.expected_seconds > BEHIND * pace.fastest_seconds
    ]
    yield (
        "prover_host_behind",
        bool(slow) if known else None,
        "; ".join(slow) if slow else f"no host takes over {BEHIND:g} times its own fastest proof",
        BEHIND_SECONDS,
    )
