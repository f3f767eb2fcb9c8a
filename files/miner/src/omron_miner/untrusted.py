"""Reading JSON and TOML that others wrote: what is broken, huge or nested too deep is a ValueError, nothing else.

For small files; requests' bodies have limits of their own.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from pathlib import Path

LARGEST_BYTES = 256 << 20
"""More than any circuit's settings.json or input.json has."""
NOT_OF_ITS_FORM = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)
"""What looking into JSON of another form than expected raises, infinity as a whole number included."""


def parse_json(text: str | bytes) -> Any:
    """What JSON `text` says. Raises ValueError, also for bytes that are no UTF-8 and for what is nested too deep."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def read_json(path: Path, largest_bytes: int = LARGEST_BYTES) -> Any:
    """What the JSON file at `path` says. Raises OSError when it cannot be read, ValueError when it is no JSON."""
    with path.open("rb") as file:
        content = file.read(largest_bytes + 1)
    if len(content) > largest_bytes:
        raise ValueError(f"it has more than {largest_bytes} bytes")
    return parse_json(content)


def parse_toml(text: str) -> dict[str, Any]:
    """The tables in TOML `text`. Raises ValueError, also for what is nested too deep."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
