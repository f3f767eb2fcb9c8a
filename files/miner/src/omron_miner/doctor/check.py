"""What every check of the doctor is, and how many become one word."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from omron_miner.errors import OmronError

NOT_OURS = "any (not in host.toml)"
"""What is wanted of a setting that the play was not asked to change: it is shown and not judged."""


class Status(str, Enum):
    """How one check ended: green, amber, red, or not visible."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"
    """Cannot be seen from here."""


@dataclass(frozen=True)
class Check:
    """One thing about this host."""

    name: str
    status: Status
    wanted: str
    live: str
    advice: str = ""
    """The next thing to try; empty when all is well."""


def judged(name: str, is_well: bool, wanted: str, live: str, advice: str, otherwise: Status = Status.WARN) -> Check:
    """OK without advice when `is_well`, else `otherwise` with `advice`."""
    return Check(name, Status.OK, wanted, live) if is_well else Check(name, otherwise, wanted, live, advice)


def unseen(name: str, wanted: str, live: str, advice: str = "") -> Check:
    """What cannot be seen from here."""
    return Check(name, Status.UNKNOWN, wanted, live, advice)


def not_read(name: str, wanted: str, error: OmronError) -> Check:
    """What could not be read: FAIL with the error's advice, or unseen where this user may not look."""
    if isinstance(error.__cause__, PermissionError):
        return unseen(name, wanted, error.message, "run this as root")
    return Check(name, Status.FAIL, wanted, error.message, error.hint or "")


def worst(checks: Iterable[Check]) -> Status:
    """FAIL if one failed, else WARN if one warns, else OK: what is unknown is no fault."""
    statuses = {check.status for check in checks}
    return next((status for status in (Status.FAIL, Status.WARN) if status in statuses), Status.OK)
