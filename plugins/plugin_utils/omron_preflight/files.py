"""The operator's files on the control node: reading them, hashing them once, and why one cannot be used."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

ABSOLUTE = "write an absolute path (the variable inventory_dir is the inventory's folder)"
_SHARED_BYTES = 1 << 20
"""Smaller files are read again as quickly."""
VAULT = b"$ANSIBLE_VAULT"
"""What an encrypted file begins with; `copy` decrypts it."""
Reader = Callable[[Path], bytes]
"""Returns a file's content, or raises OSError or ValueError."""


def file_problem(variable: str, value: Any, what: str) -> str | None:
    """Why `value` is not a readable file on the control node, or None; `what` describes the expected file."""
    if not isinstance(value, str):
        return f"{variable} {value!r} is not a path: write the path of {what}"
    path = Path(value).expanduser()
    if not path.is_absolute():
        return f"{variable} {value} is relative: {ABSOLUTE}"
    if path.is_dir():
        return f"{variable} {value} is a folder: name the file itself, {what}"
    try:
        with path.open("rb"):
            return None
    except OSError as error:
        return f"{variable} {value} cannot be read on the control node ({error.strerror}): name {what}"


def json_object(path: Path, read: Reader = Path.read_bytes) -> dict[str, Any] | None:
    """The JSON object in the file, or None when it holds anything else."""
    try:
        content = json.loads(read(path))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def sha256(path: Path) -> str:
    """The file's SHA-256, in hex. Computed once for all hosts, and again only if the file has changed."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, modified: int) -> str:
    # Ansible templates each host's tasks in a separate process. They share digests in the run's own temporary folder.
    found = None
    if size >= _SHARED_BYTES:
        from ansible import constants  # not at the top: tests of the package import this module without Ansible

        name = hashlib.sha256(f"{path.resolve()} {size} {modified}".encode()).hexdigest()
        found = Path(constants.DEFAULT_LOCAL_TMP, f"omron-sha256-{name}")
    if found and found.exists():
        return found.read_text()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if found:
        with suppress(OSError):  # the run ends without it, too
            handle, made = tempfile.mkstemp(dir=found.parent)
            with os.fdopen(handle, "w") as file_made:
                file_made.write(digest)
            os.replace(made, found)
    return digest
