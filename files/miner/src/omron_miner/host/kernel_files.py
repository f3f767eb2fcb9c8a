"""Reading the files in which the kernel and systemd show what a machine does."""

from __future__ import annotations

import re
from pathlib import Path

PROC, SYS = Path("/proc"), Path("/sys")


def read_file(file: Path) -> str | None:
    """The text of `file`; None when it is missing or not readable. Bytes that are not UTF-8 are replaced."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def read_line(file: Path) -> str | None:
    """As `read_file`, without white space around the text."""
    text = read_file(file)
    return None if text is None else text.strip()


def unescape(text: str) -> str:
    """A name from /proc, which writes white space in it as octal escapes (proc_mounts(5))."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
