"""A request's temporary files: on the RAM disk, tracked, and always removed.

Each request gets its own directory, 0700, named after the process that made it (`process_folders`), so that
`SessionStorage.sweep` can tell the leftovers of a killed process from the files of a running one. When the RAM disk is
full or absent, sessions go to the fallback directory on disk with one log line; nothing else in the package decides
where the files of a proof live while the miner serves. Commands that build, tune, compare or verify have their
own folders.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from omron_miner.events import LOGGER_NAME
from omron_miner.formatting import size
from omron_miner.proving.process_folders import process_prefix, stale_folders

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omron_miner.constants import Sessions

_log = logging.getLogger(LOGGER_NAME)
_STEP = "step"
_FULL_BYTES = 65_536
"""Space that may remain on a full file system: writers fail when their next buffer does not fit."""
_KIND = "session"


class Session:
    """One request's directory and the files in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._paths: dict[str, Path] = {}

    def path(self, name: str) -> Path:
        """Where the request's file `name` is or will be. Raises ValueError unless `name` is a plain file name."""
        if not name or Path(name).name != name or name == "..":
            raise ValueError(f"not a file name: {name!r}")
        return self._paths.setdefault(name, self.directory / name)

    def doing(self, step: str, *files: Path) -> None:
        """Records the next step and its files, for a reader that finds this session after its process has died."""
        names = ", ".join(str(file) for file in files)
        self.path(_STEP).write_text(f"{step} with {names}", encoding="utf-8")

    def is_full(self) -> bool:
        """Whether its file system is full: EZKL does not always report a failed write."""
        return shutil.disk_usage(self.directory).free < _FULL_BYTES

    @property
    def files(self) -> tuple[Path, ...]:
        """Every path handed out so far, in order."""
        return tuple(self._paths.values())

    def discard(self) -> None:
        """Removes the files handed out so far, for a new try in the same session."""
        for path in self._paths.values():
            path.unlink(missing_ok=True)


class SessionStorage:
    """Makes sessions below the RAM disk or, failing that, below the fallback directory. Thread-safe."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._fell_back = False
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[SessionStorage], tuple[Sessions]]:
        """Another process gets its own storage: locks cannot be pickled."""
        return SessionStorage, (self._sessions,)

    @contextmanager
    def session(self, *, on_disk: bool = False, needed_bytes: int = 0) -> Iterator[Session]:
        """A session whose directory is removed at the end, even after an error; `on_disk`: not on the RAM disk.

        It is not there either when its `needed_bytes` would leave less than `sessions.minimum_free_bytes` for others.
        Raises OSError when neither the RAM disk nor the fallback directory can hold one.
        """
        directory = self._make_directory(on_disk, needed_bytes)
        try:
            yield Session(directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def sweep(self, pid: int | None = None) -> int:
        """Removes the directories of exited processes, or of one such; returns how many. Call once at start."""
        removed = 0
        for parent in (self._sessions.directory, self._sessions.fallback_directory):
            for directory in stale_folders(parent, _KIND, pid):
                shutil.rmtree(directory, ignore_errors=True)
                removed += not directory.exists()
        return removed

    def last_step(self, pid: int) -> str:
        """What a dead process was doing, as it recorded with `Session.doing`; empty when there is no record."""
        for parent in (self._sessions.directory, self._sessions.fallback_directory):
            for note in parent.glob(f"{_KIND}-{pid}-*/{_STEP}"):
                with suppress(OSError):
                    return note.read_text(encoding="utf-8", errors="replace")
        return ""

    def _make_directory(self, on_disk: bool, needed_bytes: int) -> Path:
        prefix = process_prefix(_KIND)
        try:
            if on_disk:
                raise OSError("it filled up during a request")
            _make_private(self._sessions.directory)
            free = shutil.disk_usage(self._sessions.directory).free
            wanted = self._sessions.minimum_free_bytes + needed_bytes
            if free < wanted:
                raise OSError(f"{size(free)} free, {size(wanted)} needed")
            directory = Path(tempfile.mkdtemp(prefix=prefix, dir=self._sessions.directory))  # 0700
        except OSError as error:
            self._note_fallback(error)
            _make_private(self._sessions.fallback_directory)
            return Path(tempfile.mkdtemp(prefix=prefix, dir=self._sessions.fallback_directory))
        self._fell_back = False
        return directory

    def _note_fallback(self, error: OSError) -> None:
        with self._lock:
            first, self._fell_back = not self._fell_back, True
        if first:
            wanted, used = self._sessions.directory, self._sessions.fallback_directory
            _log.warning("RAM disk %s cannot be used (%s): sessions go to %s", wanted, error, used)


def _make_private(directory: Path) -> None:
    """Makes `directory`, accessible to us only. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_mode & 0o077:
        directory.chmod(0o700)
