"""Progress of long work: lines for the waiting operator, separate from the miner's log.

Long work calls `say` for a line and `count` for a series of steps. A command that shows them attaches a handler with
`show`; without one nothing is shown.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_log = logging.getLogger("omron_miner.progress")
_log.propagate = False  # keeps it out of miner.log, whose logger is the parent


@dataclass(frozen=True)
class Step:
    """A counted step: `done` of `total` are finished, 0 before the first."""

    what: str
    done: int
    total: int


class LineHandler(logging.Handler):
    """Passes each line to a function, and a line for every quarter of counted steps."""

    def __init__(self, take: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        """Errors of the function propagate to the caller of `say`."""
        self._take(record.getMessage())


def say(line: str) -> None:
    """Logs a line of progress."""
    _log.info("%s", line)


def count(what: str, total: int) -> Callable[[], None]:
    """A function to call after each of `total` steps.

    Every quarter is logged as a line; the other steps, and the start of the first, at level DEBUG.
    """
    done = 0

    def log() -> None:
        quarter = done and (done % max(1, total // 4) == 0 or done == total)
        level = logging.INFO if quarter else logging.DEBUG
        _log.log(level, "%s %d of %d", what, done, total, extra={"step": Step(what, done, total)})

    def step() -> None:
        nonlocal done
        done += 1
        log()

    log()
    return step


def step_of(record: logging.LogRecord) -> Step | None:
    """The counted step of a record; None for a line."""
    return getattr(record, "step", None)


@contextmanager
def show(handler: logging.Handler) -> Iterator[None]:
    """Sends the progress of all threads to `handler` within the context."""
    level = _log.level
    _log.addHandler(handler)
    _log.setLevel(logging.DEBUG)  # the handler's own level decides; importing bittensor sets the logger's to CRITICAL
    try:
        yield
    finally:
        _log.setLevel(level)
        _log.removeHandler(handler)
