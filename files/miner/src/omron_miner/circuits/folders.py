"""What the folders of circuits hold, read from the outside: sizes, times and a version, for reports.

Nothing is checked or refused here (`load` does that), and importing this is quick.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from omron_miner.circuits.circuit import KEY_FILES, SETTINGS, bare_name, circuit_folder, circuit_folders
from omron_miner.formatting import utc
from omron_miner.untrusted import NOT_OF_ITS_FORM, parse_json

if TYPE_CHECKING:
    from pathlib import Path


def compiled_by(directory: Path, circuit_id: str) -> str | None:
    """The EZKL version in the settings.json of a circuit below `directory`; None when it cannot be read."""
    if not circuit_id.isalnum():  # a caller's text, not a path
        return None
    file = circuit_folder(directory, circuit_id) / SETTINGS
    try:
        version = parse_json(file.read_text(encoding="utf-8"))["version"]
    except (OSError, *NOT_OF_ITS_FORM):
        return None
    return version if isinstance(version, str) else None


def key_sizes(directory: Path) -> dict[str, int]:
    """Size of every circuit's proving key below `directory`, by the circuit's id."""
    sizes = {}
    for folder in circuit_folders(directory):
        for name in KEY_FILES:
            with suppress(OSError):
                sizes[bare_name(folder.name)] = (folder / name).stat().st_size
    return sizes


def file_summaries(directory: Path) -> dict[str, str]:
    """Of every circuit below `directory`, by its id: how many files of how many bytes, and when the last changed."""
    found = {}
    for folder in circuit_folders(directory):
        try:
            files = [entry.stat() for entry in os.scandir(folder) if entry.is_file()]
        except OSError:
            continue
        newest = utc(max((one.st_mtime for one in files), default=0.0))
        size = sum(one.st_size for one in files)
        found[bare_name(folder.name)] = f"{len(files)} files, {size} bytes, last changed {newest}"
    return found
