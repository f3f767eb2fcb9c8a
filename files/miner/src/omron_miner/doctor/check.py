"""The result of a check, and the overall result of several."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from omron_miner.errors import OmronError

NOT_OURS = "any (not in host.toml)"
"""The expected value of a setting that the play does not manage: it is shown, not checked."""


class Status(str, Enum):
    """The result of one check: green, amber, red, or not visible."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"
    """Not visible from here."""


@dataclass(frozen=True)
class Check:
    """One thing about this host."""

    name: str
    status: Status
    wanted: str
    live: str
    advice: str = ""
    """The next thing to try; empty when the check passed."""


def check_that(name: str, is_well: bool, wanted: str, live: str, advice: str, otherwise: Status = Status.WARN) -> Check:
    """OK without advice if `is_well`, otherwise the status `otherwise` with `advice`."""
    return Check(name, Status.OK, wanted, live) if is_well else Check(name, otherwise, wanted, live, advice)


def unseen(name: str, wanted: str, live: str, advice: str = "") -> Check:
    """A check whose state is not visible from here."""
    return Check(name, Status.UNKNOWN, wanted, live, advice)


def not_read(name: str, wanted: str, error: OmronError) -> Check:
    """Something that could not be read: FAIL with the error's advice, or unseen where this user has no access."""
    if isinstance(error.__cause__, PermissionError):
        return unseen(name, wanted, error.message, unreadable_advice())
    return Check(name, Status.FAIL, wanted, error.message, error.hint or "")


def unreadable_advice() -> str:
    """Advice for an unreadable file: root reads the service user's files with that user's rights."""
    if os.geteuid() != 0:
        return "run this as root"
    return "check its owner and mode, and whether a link leads to it: the service user may not read it"


def worst(checks: Iterable[Check]) -> Status:
    """FAIL if one failed, else WARN if one warns, else OK: an unknown state is not a failure."""
    statuses = {check.status for check in checks}
    return next((status for status in (Status.FAIL, Status.WARN) if status in statuses), Status.OK)
