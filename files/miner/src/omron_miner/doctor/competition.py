"""Whether validators can get the competition circuit, according to the miner. No checks if the competition is off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omron_miner.competition.status import read_status
from omron_miner.competition.storage import host_problem
from omron_miner.doctor.check import Check, Status
from omron_miner.errors import OmronError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omron_miner.constants import Competition


def offered(competition: Competition) -> Iterator[Check]:
    """Whether a circuit is offered, and whether validators accept its storage host."""
    if not competition.enabled:
        return
    name, wanted = "competition", "a circuit that validators can fetch"
    try:
        status = read_status(competition)
    except OmronError as error:
        yield Check(name, Status.WARN, wanted, error.message, error.hint or "")
    else:
        if status.error:
            advice = status.problem or "omron-miner competition status; the miner's log says more"
            yield Check(name, Status.WARN, wanted, f"an error: {status.error}", advice)
        else:
            # The reason why a newer circuit is not offered is reported too.
            state = Status.WARN if status.problem else Status.OK
            yield Check(name, state, wanted, f"circuit {str(status.prepared)[:12]}…", status.problem or "")
    problem = host_problem(competition)
    advice = "use Cloudflare R2, or leave the endpoint empty for Amazon S3" if problem else ""
    state = Status.WARN if problem else Status.OK
    yield Check("competition storage", state, "a host that validators accept", problem or "accepted", advice)
