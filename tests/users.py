"""Tests as a user whom the permissions of files stop."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SOMEBODY = 65_533
"""A user id that owns nothing."""


@contextmanager
def without_roots_rights() -> Iterator[None]:
    """As `SOMEBODY` where the tests run as root; else as who they run as."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(SOMEBODY)
    try:
        yield
    finally:
        os.seteuid(0)
