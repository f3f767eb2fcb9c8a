"""Temporary folders named after the process that makes them, so that those of killed ones can be removed.

The name holds the pid and the process's start time: a pid alone may have been given to another process since.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_NAME = re.compile(r"[a-z]+-(?P<pid>\d+)-(?P<started>\d+)-\w+")


def process_prefix(kind: str) -> str:
    """Prefix of the names of this process's folders of a `kind` (lower-case letters)."""
    return f"{kind}-{os.getpid()}-{_started(os.getpid())}-"


def stale_folders(parent: Path, kind: str, pid: int | None = None) -> list[Path]:
    """Folders of this `kind` in `parent` whose process has exited; with `pid`, only those of that process."""
    found = parent.glob(f"{kind}-{'' if pid is None else f'{pid}-'}*")
    return [folder for folder in found if _owner_is_gone(folder.name)]


def _started(pid: int) -> int:
    """When the process started, in clock ticks since boot. Raises FileNotFoundError when there is no such process."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    return int(stat.rpartition(")")[2].split()[19])  # field 22 of proc(5); the name in () may hold spaces


def _owner_is_gone(name: str) -> bool:
    """Whether the process a folder is named after is not running. Folders with other names are not removed."""
    match = _NAME.fullmatch(name)
    if not match:
        return False
    try:
        return _started(int(match["pid"])) != int(match["started"])
    except (FileNotFoundError, ProcessLookupError):  # the second when it exits while we read
        return True
