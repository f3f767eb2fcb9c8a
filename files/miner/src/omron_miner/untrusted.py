"""Reads untrusted JSON and TOML: malformed, huge or too deeply nested text raises ValueError and nothing else.

For small files; request bodies have their own limits.
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
"""Larger than any circuit's settings.json or input.json."""
NOT_OF_ITS_FORM = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)
"""Errors raised by reading JSON of an unexpected structure, including infinity as an integer."""


def parse_json(text: str | bytes) -> Any:
    """The value of JSON `text`. Raises ValueError, also for invalid UTF-8 and for too deep nesting."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: Path, largest_bytes: int = LARGEST_BYTES) -> Any:
    """The value of the JSON file at `path`. Raises OSError when it cannot be read, ValueError when it is not JSON."""
    with path.open("rb") as file:
        content = file.read(largest_bytes + 1)
    if len(content) > largest_bytes:
        raise ValueError(f"it has more than {largest_bytes} bytes")
    return parse_json(content)


def parse_toml(text: str) -> dict[str, Any]:
    """The tables in TOML `text`. Raises ValueError, also for too deep nesting."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
