"""Formats sizes, durations, shares, times and plain-text tables, the same in every output.

Sizes are binary (KiB, MiB, GiB) and times UTC.
"""

from __future__ import annotations

import re
import time
from math import floor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

KIB, MIB, GIB = 1024, 1024**2, 1024**3
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
SIZE_UNITS = (("B", 1), ("KiB", KIB), ("MiB", MIB), ("GiB", GIB), ("TiB", 1024**4))


def size(size_bytes: float | None) -> str:
    """Bytes with a binary unit: ``512 B``, ``1.5 GiB``; ``unknown`` for None."""
    if size_bytes is None:
        return "unknown"
    for unit, length in SIZE_UNITS[:-1]:
        if size_bytes < 1024 * length:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes / length:.1f} {unit}"
    unit, length = SIZE_UNITS[-1]
    return f"{size_bytes / length:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """A duration in its two largest units, up to two days in hours: ``3 d 4 h``, ``24 h``; ``unknown`` for None."""
    if seconds is None:
        return "unknown"
    left, parts = round(seconds), []
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    for unit, length in units if left >= 2 * 86_400 else units[1:]:
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def percent(value: float | None) -> str:
    """A share in percent, rounded down, so that only 1 is 100 %; ``no data`` for None."""
    return "no data" if value is None else f"{floor(value * 100) / 100:g} %"


def counted(number: int | None, one: str, many: str) -> str:
    """``1 file``, ``3 files``."""
    return f"{number} {one if number == 1 else many}"


def utc(seconds: float | None, otherwise: str = "unknown") -> str:
    """Unix `seconds` as ``2026-01-05 12:00:00 UTC``; `otherwise` for None and for times out of range."""
    try:
        return otherwise if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return otherwise


def iso_utc(seconds: float) -> str:
    """Unix `seconds` as ``2026-01-05T12:00:00Z``; ``not a time`` for times out of range."""
    text = utc(seconds, "")
    return text.replace(" ", "T", 1).replace(" UTC", "Z") if text else "not a time"


def printable(text: str) -> str:
    """`text` on one line, with ``?`` for control characters: text from outside must not control a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def without_colours(text: str) -> str:
    """`text` without terminal colour codes; an escape that is cut off at its end stays."""
    return _COLOURS.sub("", text) if "\x1b" in text else text


def clip(text: str, width: int) -> str:
    """`text`, or its beginning and ``…``: at most `width` characters."""
    return text if len(text) <= width else text[: width - 1] + "…"


def wrap(text: str, width: int, most_lines: int) -> Iterator[str]:
    """`text` in at most `most_lines` lines of `width` columns, broken between words; further ones are indented by 4."""
    indent = text[: len(text) - len(text.lstrip(" "))]
    text = indent + " ".join(text.split())
    for index in range(most_lines):
        if len(text) <= width or index == most_lines - 1:
            yield clip(text, width)
            return
        at = text.rfind(" ", 1, width + 1)
        at = at if at > len(indent) + 4 else width
        yield text[:at]
        text = f"{indent}    {text[at:].lstrip()}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: tuple[int, ...] = (0,)) -> Iterator[str]:
    """Lines of aligned columns, those in `left` (-1 is the last) to the left, the others to the right; none without
    rows.
    """
    lines = [tuple(header), *map(tuple, rows)]
    if len(lines) < 2:
        return
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    to_the_left = {column % len(widths) for column in left}
    for line in lines:
        cells = (
            cell.ljust(width) if column in to_the_left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()
