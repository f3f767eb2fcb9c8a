"""Numbers and sizes, as in the inventory and in messages."""

from __future__ import annotations

import re
from typing import Any


def whole_number(value: Any) -> int | None:
    """`value` as an int, also if it is a string of digits, as with ``-e``; None for YAML booleans and anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return int(value)
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value) else None


def size(size_bytes: float) -> str:
    """Bytes with a binary unit, such as ``1.5 GiB``, as the package writes them."""
    for unit, length in (("B", 1), ("KiB", 1024), ("MiB", 1024**2), ("GiB", 1024**3)):
        if size_bytes < 1024 * length:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes / length:.1f} {unit}"
    return f"{size_bytes / 1024**4:.1f} TiB"
