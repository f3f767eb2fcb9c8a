"""Waiting in tests for what other threads and processes do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def wait_until(true: Callable[[], Any], seconds: float = 30.0) -> None:
    """Returns as soon as `true` does; fails after `seconds`, which only a hanging test reaches."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.01)
