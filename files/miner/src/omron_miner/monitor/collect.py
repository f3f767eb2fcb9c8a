"""Reads what is new in the event log since the last run, across rotation, truncation and compression.

Handles files, lines and positions; `omron_miner.events` defines the form of a line, `summarize` what events mean.
A file is identified by its first event, regardless of its name and of where it was moved or copied: every event is
unique. The caller must store the positions in the same transaction as the results of the events, so that no event is
lost or counted twice. Memory does not grow with the log, and one run reads at most `budget`.
"""

from __future__ import annotations

import gzip
import re
import stat
import zlib
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import IO, TYPE_CHECKING

from omron_miner.events import LifecycleEvent, RequestEvent, from_json
from omron_miner.monitor.model import LogState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MAX_LINE_BYTES = 1_048_576
"""An event is about a kilobyte; anything this long is not one."""
_BLOCK_BYTES = 1 << 18
_HEAD_BYTES = 4096
_TAIL_BYTES = 64
_ROTATED = re.compile(r"\.(\d+)(\.gz)?")
_LISTING_TRIES = 3


@dataclass(frozen=True)
class Position:
    """How far a file was read."""

    signature: str
    """Hash of its start, up to its first event: identifies the file."""
    offset: int
    """Bytes read, uncompressed; always at the start of a line, or in the middle of an overlong one."""
    tail: str
    """Hash of the bytes before `offset`: reveals a file that was truncated or edited."""
    inode: int
    size: int
    modified_ns: int
    """As the file was when it was read to its end; -1 if it was not. While they stay, it need not be opened."""


class LogReader:
    """What is new in the log at `path`; iterate once, then read `state` and `positions`.

    Files last written before `since` (Unix seconds) are not opened. `list_files` is `list_log_files` by default.
    `is_first` selects the line that identifies a file; by default its first event. For a log that does not consist of
    events, iterate over `blocks` instead. Raises nothing: read errors are reported in `state`.
    """

    def __init__(
        self,
        path: Path,
        since: float,
        known: list[Position],
        budget: float = float("inf"),
        list_files: Callable[[Path], list[tuple[Path, FileStatus]]] | None = None,
        is_first: Callable[[bytes], bool] | None = None,
    ) -> None:
        self.path = path
        self.since = since
        self.state = LogState(str(path))
        self.positions = {position.signature: position for position in known}
        """Every known file by its signature, as of what was yielded."""
        self.cut: list[str] = []
        """Files that were changed before the position that had been read."""
        self._left = budget
        self._list_files = list_files or list_log_files
        self._is_first = is_first or _is_event

    def __iter__(self) -> Iterator[RequestEvent | LifecycleEvent]:
        for line in self._pieces(_lines):
            event = self._event(line)
            if event is not None:
                yield event

    def blocks(self) -> Iterator[bytes]:
        """New content as blocks of whole lines, of about `_BLOCK_BYTES`. Lines are not parsed."""
        return self._pieces(_blocks)

    def _pieces(self, split: Callable[[IO[bytes]], Iterator[bytes]]) -> Iterator[bytes]:
        for file in self._open():
            with file.stream:
                try:
                    yield from self._read(file, split)
                except (OSError, EOFError, zlib.error) as error:
                    self._failed(file.path, error)

    def _read(self, file: _File, split: Callable[[IO[bytes]], Iterator[bytes]]) -> Iterator[bytes]:
        """What is new in `file`, in pieces of whole lines."""
        signature = _signature(file.stream, file.is_current, self._is_first)
        if signature is None:  # not one event yet
            self.state.half_written_line = file.status.size > 0
            return
        position = self._resume(file, signature)
        if position is None:
            return
        self.state.files += 1
        offset = position.offset
        try:
            for piece in split(file.stream):
                if self._left <= 0:
                    # the rest of a compressed file is not known: the rest of its compressed bytes is used instead
                    self.state.unread_bytes += max(1, file.status.size - (0 if file.is_compressed else offset))
                    return
                whole = piece.rfind(b"\n") + 1
                if whole < len(piece) < whole + MAX_LINE_BYTES and file.is_current:
                    self.state.half_written_line = True
                else:
                    whole = len(piece)
                self._left -= whole
                offset += whole
                if whole:
                    yield piece[:whole]
                if whole < len(piece):
                    break
            position = replace(position, size=file.status.size, modified_ns=file.status.modified_ns)
            # Written to since it was listed: more was read than its size then.
            if not file.is_compressed and offset > file.status.size:
                position = replace(position, modified_ns=-1)
        finally:
            tail = position.tail
            if not file.is_compressed and not file.stream.closed:
                tail = _tail(file.stream, offset)
            self.positions[signature] = replace(position, offset=offset, tail=tail)

    def _event(self, line: bytes) -> RequestEvent | LifecycleEvent | None:
        if line.isspace():
            return None
        self.state.lines += 1
        event = from_json(line.decode("utf-8", "replace"))
        if event is None:
            self.state.unreadable_lines += 1
        return event

    def _resume(self, file: _File, signature: str) -> Position | None:
        """Where to continue in the file, with its stream positioned there; None when there is nothing new."""
        status = file.status
        known = self.positions.get(signature)
        fresh = Position(signature, 0, "", status.inode, -1, -1)
        if known is None:
            file.stream.seek(0)
            return fresh
        position = replace(known, inode=status.inode, size=-1, modified_ns=-1)
        if file.is_compressed:
            if _uncompressed_size(file.path) == known.offset & 0xFFFFFFFF:
                self.positions[signature] = replace(position, size=status.size, modified_ns=status.modified_ns)
                return None
        elif status.size < known.offset or _tail(file.stream, known.offset) != known.tail:
            # Nothing is counted twice; other changes cannot be known.
            self.cut.append(f"{file.path.name} was cut or edited below byte {known.offset}, which had been read")
            offset = min(known.offset, status.size)
            if offset:
                file.stream.seek(offset - 1)
                offset += len(file.stream.readline()) - 1
            return replace(position, offset=offset)
        file.stream.seek(known.offset)
        return position

    def _open(self) -> list[_File]:
        """The files with anything new, opened, oldest first. Tries again when logrotate moves them meanwhile."""
        opened: list[_File] = []
        for _ in range(_LISTING_TRIES):
            for file in opened:
                file.stream.close()
            self.state = LogState(str(self.path))
            try:
                listing = self._list_files(self.path)
                opened = [one for path, status in listing if (one := self._open_one(path, status))]
                if self._list_files(self.path) == listing:
                    break
            except OSError as error:
                self._failed(self.path, error)
                return []
        return opened

    def _open_one(self, path: Path, status: FileStatus) -> _File | None:
        self.state.state = "read" if self.state.state == "missing" else self.state.state
        if status.modified_ns < self.since * 1e9:
            self.state.older_files += 1
            return None
        unchanged = (status.inode, status.size, status.modified_ns)
        if any((one.inode, one.size, one.modified_ns) == unchanged for one in self.positions.values()):
            return None
        try:
            if not status.is_file:
                raise OSError("not a regular file")
            return _File(path, _stream(path), status, path == self.path, path.suffix == ".gz")
        except OSError as error:
            self._failed(path, error)
            return None

    def _failed(self, path: Path, error: Exception) -> None:
        self.state.problems.append(f"{path.name}: {getattr(error, 'strerror', None) or error}")
        if path == self.path:
            self.state.state = "unreadable"


@dataclass(frozen=True)
class FileStatus:
    """A log file as it was listed."""

    inode: int
    is_file: bool
    size: int = field(compare=False)  # the current file is written to all the time
    modified_ns: int = field(compare=False)


@dataclass(frozen=True)
class _File:
    path: Path
    stream: IO[bytes]
    status: FileStatus
    is_current: bool
    is_compressed: bool


def _stream(path: Path) -> IO[bytes]:
    # IO[bytes] covers both; typeshed has a separate class for gzip.
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def list_log_files(path: Path) -> list[tuple[Path, FileStatus]]:
    """The log's files oldest first: ``events.jsonl.2.gz``, ``events.jsonl.1``, ``events.jsonl``. Raises OSError."""
    found: dict[int, Path] = {}
    try:
        # Sorted, a .gz comes after its original and is skipped while both exist: it is incomplete.
        for file in sorted(path.parent.iterdir()):
            number = _ROTATED.fullmatch(file.name.removeprefix(path.name)) if file.name.startswith(path.name) else None
            if number:
                found.setdefault(int(number[1]), file)
            elif file == path:
                found[0] = file
    except FileNotFoundError:
        return []
    listing = []
    for _, file in sorted(found.items(), reverse=True):
        try:
            status = file.stat()
        except FileNotFoundError:  # rotated away since
            continue
        regular = stat.S_ISREG(status.st_mode)
        listing.append((file, FileStatus(status.st_ino, regular, status.st_size, status.st_mtime_ns)))
    return listing


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: stream.readline(MAX_LINE_BYTES), b"")


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: stream.read(_BLOCK_BYTES) + stream.readline(MAX_LINE_BYTES), b"")


def _is_event(line: bytes) -> bool:
    return from_json(line.decode("utf-8", "replace")) is not None


def _signature(stream: IO[bytes], is_current: bool, is_first: Callable[[bytes], bool]) -> str | None:
    """Hash of everything up to the first line that `is_first`, at most `_HEAD_BYTES`; None while there is neither."""
    head = stream.read(_HEAD_BYTES)
    end = 0
    while found := head.find(b"\n", end) + 1:
        if is_first(head[end:found]):
            return _hash(head[:found])
        end = found
    return _hash(head) if len(head) == _HEAD_BYTES or (head and not is_current) else None


def _tail(stream: IO[bytes], offset: int) -> str:
    """Hash of the last bytes before `offset`; the stream is positioned there afterwards."""
    stream.seek(max(0, offset - _TAIL_BYTES))
    return _hash(stream.read(min(offset, _TAIL_BYTES)))


def _hash(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


def _uncompressed_size(path: Path) -> int:
    """What gzip's trailer says, modulo 2^32 (RFC 1952); -1 when there is none. Raises OSError."""
    with path.open("rb") as file:
        file.seek(0, 2)
        if file.tell() < 18:
            return -1
        file.seek(-4, 2)
        return int.from_bytes(file.read(4), "little")
