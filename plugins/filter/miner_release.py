"""The files of the package that are shipped in a release of the miner, with their checksums."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

_UTILS = str(Path(__file__).resolve().parents[1] / "plugin_utils")
if _UTILS not in sys.path:  # found so from a clone and from a collection alike
    sys.path.append(_UTILS)

from omron_preflight.files import sha256  # noqa: E402  # after the path is there

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXTRAS = {"tune.lock", "provers.lock", "live.lock"}
"""Locks of packages that not every host needs."""
_BUILT = ("__pycache__", ".egg-info")
"""Endings of folders that building or running leaves in the source, and that are not shipped."""


def miner_shipped(source: str, extras: list[str]) -> list[str]:
    """A line ``PATH SHA256`` for each shipped file of the package in the folder `source`, sorted.

    These are its pyproject.toml, its lock files and everything below ``src``; optional lock files only if named in
    `extras`. Raises OSError for a file that cannot be read.
    """
    root = Path(source)
    files = [*root.glob("*.toml"), *root.glob("*.lock"), *_below(root / "src")]
    shipped = [file for file in files if file.name not in _EXTRAS - set(extras)]
    return sorted(f"{file.relative_to(root)} {sha256(file)}" for file in shipped)


def _below(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.endswith(_BUILT) for part in path.relative_to(folder).parts):
            yield path


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """The filters by name."""
        return {"miner_shipped": miner_shipped}
