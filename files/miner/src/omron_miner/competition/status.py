"""The last status of the miner's competition circuit: a small file, and the table shown to people.

The miner writes it, ``omron-miner competition status`` shows it. It never contains a URL: anyone with one can download.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from omron_miner.errors import OmronError
from omron_miner.files import write_atomically
from omron_miner.formatting import size, utc

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.constants import Competition

SCHEMA_VERSION = 1
WRITE_SECONDS = 60.0
"""The miner writes at least this often."""
_STALE_SECONDS = 3 * WRITE_SECONDS


@dataclass(frozen=True)
class Status:
    """Times are Unix seconds. Hashes are SHA-256 in hex, of model.compiled."""

    written: int
    prepared: str | None = None
    """The circuit whose files are in the storage."""
    bytes: int | None = None
    """Of its model.compiled."""
    ezkl_version: str | None = None
    modified: int | None = None
    """When its model.compiled was written."""
    committed: str | None = None
    """The last known text on the chain, committed by the miner's hotkey."""
    urls_until: int | None = None
    """When the URLs that validators get now expire."""
    error: str | None = None
    """The error that validators get instead of URLs."""
    problem: str | None = None
    """Why the miner does not offer the folder's present content, and what to do."""
    warnings: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION


def write_status(path: Path, status: Status) -> None:
    """Writes the file atomically. Raises OSError."""
    write_atomically(path, to_json(status))


def read_status(competition: Competition) -> Status:
    """The running miner's status. Raises OmronError when no miner has written it recently."""
    path, hint = competition.status_file, "start the miner; its log says why it does not take part"
    try:
        content = path.read_bytes()
        status = TypeAdapter(Status).validate_json(content)
    except OSError as error:
        raise OmronError(f"cannot read {path}: {error.strerror}", hint) from error
    except ValidationError as error:
        raise OmronError(f"{path} was not written by the miner", hint) from error
    age = time.time() - status.written
    if age > _STALE_SECONDS:
        raise OmronError(f"{path} was written {age / 60:.0f} min ago: no running miner updates it", hint)
    return status


def to_json(status: Status) -> str:
    """One JSON object."""
    return json.dumps(asdict(status)) + "\n"


def to_text(status: Status) -> str:
    """One line per fact."""
    details = "" if status.bytes is None else f", {size(status.bytes)}, EZKL {status.ezkl_version}"
    rows = [
        ("prepared", f"{status.prepared}{details}" if status.prepared else "nothing yet"),
        ("files of", utc(status.modified, "-")),
        ("committed", status.committed or "nothing known"),
        ("URLs until", utc(status.urls_until, "-")),
        ("validators get", f"an error: {status.error}" if status.error else "the URLs"),
        *(("warning", one) for one in status.warnings),
        *([("problem", status.problem)] if status.problem else []),
    ]
    return "".join(f"{name:16}{value}\n" for name, value in rows)
