"""The history: counts and times by minute and hour, in one small SQLite file. Bounded by its retention.

Requests are kept in buckets of a minute, ten minutes and an hour; those of each circuit and each validator in the
latter two. Any period of full (ten) minutes is a sum of few buckets. The position in the log is in the same file and
changes in the same transaction, so that a killed run has counted everything before its stored position and nothing
after. A bucket's content is a `Bucket`; no other module knows its format, nor the tables.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from omron_miner.errors import OmronError
from omron_miner.monitor.collect import Position
from omron_miner.monitor.sketch import Sketch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    Connecting = Callable[[Path, float], sqlite3.Connection]

FILE_NAME = "monitor.sqlite"
SPANS = (60, 600, 3600)
"""Seconds of a bucket."""
METRICS = ("proof", "overhead", "total", "queue")
ALL, CIRCUIT, VALIDATOR = "all", "circuit", "validator"
MOST_KEYS = 40
"""Circuits, and validators, counted separately in one run; the rest share one entry: callers must not fill the disk."""
RECENT, ERRORS, LIVES, CHANGES = 200, 20, 2000, 50
"""Rows kept of each."""
SLACK_SECONDS = 60
"""A date this far ahead is not an error: a run takes some time."""
WAIT_SECONDS = 30.0
CHECK_SECONDS = 3600.0
"""How often the whole file is checked: 0.1 s for 29 MiB, which block other runs."""
_OPEN_TRIES = 4
MOST_DAMAGED_FILES = 3
"""Damaged files that are kept for inspection."""
HISTORY = "history"
"""The name of a change that reports a damaged file."""
_VERSION = 1
_TABLES = """
CREATE TABLE note(name TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE file(signature TEXT PRIMARY KEY, offset INTEGER NOT NULL, tail TEXT NOT NULL, inode INTEGER NOT NULL,
  size INTEGER NOT NULL, modified_ns INTEGER NOT NULL, seen REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE bucket(span INTEGER NOT NULL, start INTEGER NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL,
  point TEXT, body TEXT NOT NULL, PRIMARY KEY(kind, span, start, key)) WITHOUT ROWID;
CREATE TABLE sample(span INTEGER NOT NULL, start INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY(span, start))
  WITHOUT ROWID;
CREATE TABLE entry(id INTEGER PRIMARY KEY, kind TEXT NOT NULL, time REAL NOT NULL, body TEXT NOT NULL);
CREATE INDEX entry_kind ON entry(kind, time);
"""


def _decode(text: str) -> Any:
    """Plain data from a row. Raises DatabaseError if a damaged page left something else."""
    try:
        return json.loads(text)
    except (TypeError, ValueError) as error:
        raise sqlite3.DatabaseError(f"a row cannot be read: {error}") from error


def shortest(kind: str) -> int:
    """Seconds of the shortest buckets kept of a kind."""
    return SPANS[0] if kind == ALL else SPANS[1]


class Limits:
    """Seconds beyond which a value counts as over its target; proof at the limit is not over, the others are."""

    def __init__(self, proof: float, overhead: float, total: float) -> None:
        self.proof, self.overhead, self.total = proof, overhead, total

    def dump(self) -> list[float]:
        """As plain data."""
        return [self.proof, self.overhead, self.total]


class Outcome(NamedTuple):
    """The counted facts of one request: when it ended, why it failed (None: it did not), and its times in seconds."""

    time: float
    verified: bool
    failure: str | None
    constant_output: bool
    proof: float
    overhead: float
    total: float
    queue: float


class Bucket:
    """Counts and times of some requests."""

    __slots__ = ("constant_outputs", "count", "failures", "last", "overhead", "proof", "queue", "succeeded", "total")

    def __init__(self) -> None:
        self.count = self.succeeded = self.constant_outputs = 0
        self.failures: dict[str, int] = {}
        self.last = 0.0
        self.proof, self.overhead, self.total, self.queue = Sketch(), Sketch(), Sketch(), Sketch()

    def add(self, outcomes: Sequence[Outcome], limits: Limits) -> None:
        """Counts requests. Pass many together: one by one takes three times as long."""
        if not outcomes:
            return
        self.count += len(outcomes)
        self.last = max(self.last, max(one.time for one in outcomes))
        self.constant_outputs += sum(one.constant_output for one in outcomes)
        for kind, count in Counter(one.failure for one in outcomes).items():
            if kind is None:
                self.succeeded += count
            else:
                self.failures[kind] = self.failures.get(kind, 0) + count
        self.queue.add([one.queue for one in outcomes])
        verified = [one for one in outcomes if one.verified]
        proof, overhead, total = ([getattr(one, name) for one in verified] for name in METRICS[:3])
        self.proof.add(proof, sum(value > limits.proof for value in proof))
        self.overhead.add(overhead, sum(value >= limits.overhead for value in overhead))
        self.total.add(total, sum(value >= limits.total for value in total))

    def merge(self, other: Bucket) -> None:
        """Adds what `other` counted."""
        self.count += other.count
        self.succeeded += other.succeeded
        self.constant_outputs += other.constant_outputs
        self.last = max(self.last, other.last)
        for kind, count in other.failures.items():
            self.failures[kind] = self.failures.get(kind, 0) + count
        for name in METRICS:
            getattr(self, name).merge(getattr(other, name))

    def hold_to(self, limits: Limits) -> None:
        """Recounts values over `limits`, within the sketch's error: for targets that have changed since."""
        for name, limit in zip(METRICS, limits.dump(), strict=False):
            sketch = getattr(self, name)
            sketch.over = sketch.count_over(limit)

    def point(self) -> list[Any]:
        """What a plot shows of it: count, failed, p50, p95 and max of proof, overhead and total, p95 of the queue,
        and the sums of waiting and proving.
        """
        row: list[Any] = [self.count, self.count - self.succeeded]
        for sketch in (self.proof, self.overhead, self.total):
            row += [*sketch.quantiles(0.5, 0.95), sketch.largest] if sketch.count else [None, None, None]
        row += self.queue.quantiles(0.95) if self.queue.count else [None]
        return [round(cell, 4) if isinstance(cell, float) else cell for cell in (*row, self.queue.sum, self.proof.sum)]

    def dump(self) -> str:
        """As JSON."""
        sketches = [getattr(self, name).dump() for name in METRICS]
        counts = [self.count, self.succeeded, self.constant_outputs, self.last, self.failures]
        return json.dumps([*counts, sketches], separators=(",", ":"))

    @staticmethod
    def load(text: str) -> Bucket:
        """The bucket that `dump` converted to `text`."""
        bucket = Bucket()
        try:
            *counts, sketches = _decode(text)
            bucket.count, bucket.succeeded, bucket.constant_outputs, bucket.last, bucket.failures = counts
            for name, data in zip(METRICS, sketches, strict=True):
                setattr(bucket, name, Sketch.load(data))
        except (TypeError, ValueError, LookupError) as error:
            raise sqlite3.DatabaseError(f"a bucket cannot be read: {error}") from error
        return bucket


class History:
    """The file. One run at a time writes: open it with `open_history`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection

    # --- notes: small facts kept from one run to the next -----------------------------------------------------------

    def note(self, name: str, otherwise: Any = None) -> Any:
        """What `set_note` kept under `name`."""
        row = self._sql.execute("SELECT body FROM note WHERE name = ?", (name,)).fetchone()
        return _decode(row[0]) if row else otherwise

    def set_note(self, name: str, value: Any) -> None:
        """Keeps `value`, plain data, under `name`."""
        self._sql.execute("REPLACE INTO note VALUES(?, ?)", (name, json.dumps(value)))

    def notes(self, first: str, last: str) -> dict[str, Any]:
        """The notes whose names are from `first` to `last`, in order."""
        rows = self._sql.execute("SELECT name, body FROM note WHERE name BETWEEN ? AND ? ORDER BY name", (first, last))
        return {name: _decode(body) for name, body in rows}

    def forget_notes(self, first: str, before: str) -> None:
        """Removes the notes whose names are from `first` on and below `before`."""
        self._sql.execute("DELETE FROM note WHERE name >= ? AND name < ?", (first, before))

    # --- how far the log was read -----------------------------------------------------------------------------------

    def positions(self) -> list[Position]:
        """How far every known file was read."""
        rows = self._sql.execute("SELECT signature, offset, tail, inode, size, modified_ns FROM file")
        return [Position(*row) for row in rows]

    def set_positions(self, positions: Iterable[Position], now: float, forget_before: float) -> None:
        """Keeps `positions`; forgets files not seen since `forget_before`."""
        self._sql.executemany(
            "REPLACE INTO file VALUES(?, ?, ?, ?, ?, ?, ?)",
            [(p.signature, p.offset, p.tail, p.inode, p.size, p.modified_ns, now) for p in positions],
        )
        self._sql.execute("DELETE FROM file WHERE seen < ?", (forget_before,))

    # --- requests ---------------------------------------------------------------------------------------------------

    def add(self, buckets: dict[tuple[str, int, str], Bucket]) -> None:
        """Adds buckets of their kind's shortest span, by kind, start and key, to the existing ones, and to the longer
        buckets that contain them.
        """
        for span in SPANS:
            sums: dict[tuple[str, int, str], Bucket] = {}
            for (kind, start, key), bucket in buckets.items():
                if span >= shortest(kind):
                    sums.setdefault((kind, start - start % span, key), Bucket()).merge(bucket)
            for (kind, start, key), bucket in sums.items():
                self._put(span, start, kind, key, bucket)

    def _put(self, span: int, start: int, kind: str, key: str, bucket: Bucket) -> None:
        """Adds `bucket` to the existing one."""
        where = (kind, span, start, key)
        row = self._sql.execute("SELECT body FROM bucket WHERE kind=? AND span=? AND start=? AND key=?", where)
        if (old := row.fetchone()) is not None:
            bucket.merge(Bucket.load(old[0]))
        self._write(span, start, kind, key, bucket)

    def _write(self, span: int, start: int, kind: str, key: str, bucket: Bucket) -> None:
        point = json.dumps(bucket.point(), separators=(",", ":")) if kind == ALL else None
        self._sql.execute(
            "REPLACE INTO bucket VALUES(?, ?, ?, ?, ?, ?)", (span, start, kind, key, point, bucket.dump())
        )

    def total(self, since: float, kind: str = ALL) -> dict[str, Bucket]:
        """All data from `since` (the start of a bucket of the kind's shortest span) by key, the busiest first."""
        sums: dict[str, Bucket] = {}
        for span, first, end in _cover(int(since)):
            rows = self._sql.execute(
                "SELECT key, body FROM bucket WHERE kind=? AND span=? AND start>=? AND start<?",
                (kind, span, first, end),
            )
            for key, body in rows:
                bucket = Bucket.load(body)
                if key in sums:
                    sums[key].merge(bucket)
                else:
                    sums[key] = bucket
        return dict(sorted(sums.items(), key=lambda item: -item[1].count))

    def points(self, span: int, since: int) -> dict[int, list[Any]]:
        """`Bucket.point` of all requests, by the start of each bucket of `span` seconds from `since` on."""
        rows = self._sql.execute(
            "SELECT start, point FROM bucket WHERE kind=? AND span=? AND start>=?", (ALL, span, since)
        )
        return {start: _decode(point) for start, point in rows}

    def hold_to(self, limits: Limits) -> None:
        """Recounts values over their targets if the targets have changed."""
        if self.note("limits") == limits.dump():
            return
        rows = self._sql.execute("SELECT span, start, kind, key, body FROM bucket").fetchall()
        for span, start, kind, key, body in rows:
            bucket = Bucket.load(body)
            bucket.hold_to(limits)
            self._write(span, start, kind, key, bucket)
        self.set_note("limits", limits.dump())

    def refile_future(self, now: float) -> int:
        """Moves requests dated after `now` into the current minute; returns how many. The clock was set back, or was
        wrong before: unmoved, they would count for too long.
        """
        self._sql.execute("DELETE FROM sample WHERE start > ?", (now,))
        self._sql.execute("UPDATE entry SET time = ? WHERE time > ?", (now, now + SLACK_SECONDS))
        late = self._sql.execute("SELECT 1 FROM bucket WHERE start > ? LIMIT 1", (now + SLACK_SECONDS,)).fetchone()
        return sum(self._refile(kind, now) for kind in (CIRCUIT, VALIDATOR, ALL)) if late else 0

    def _refile(self, kind: str, now: float) -> int:
        """`refile_future` for one kind; returns how many requests."""
        span = shortest(kind)
        present = int(now) // span * span
        where = (kind, span, now + SLACK_SECONDS)
        rows = self._sql.execute("SELECT key, body FROM bucket WHERE kind = ? AND span = ? AND start > ?", where)
        moved: dict[str, Bucket] = {}
        for key, body in rows.fetchall():
            moved.setdefault(key, Bucket()).merge(Bucket.load(body))
        self._sql.execute("DELETE FROM bucket WHERE kind = ? AND span = ? AND start > ?", where)
        for key, bucket in moved.items():
            bucket.last = now
            self._put(span, present, kind, key, bucket)
        for longer in SPANS:
            if longer > span:
                self._rebuild(kind, longer, present - present % longer)
        return sum(bucket.count for bucket in moved.values()) if kind == ALL else 0

    def _rebuild(self, kind: str, span: int, since: int) -> None:
        """Rebuilds the longer buckets of a kind from `since` on, from its shortest."""
        rows = self._sql.execute(
            "SELECT start, key, body FROM bucket WHERE kind = ? AND span = ? AND start >= ?",
            (kind, shortest(kind), since),
        ).fetchall()
        self._sql.execute("DELETE FROM bucket WHERE kind = ? AND span = ? AND start >= ?", (kind, span, since))
        sums: dict[tuple[int, str], Bucket] = {}
        for start, key, body in rows:
            sums.setdefault((start - start % span, key), Bucket()).merge(Bucket.load(body))
        for (start, key), bucket in sums.items():
            self._write(span, start, kind, key, bucket)

    # --- the host ---------------------------------------------------------------------------------------------------

    def add_sample(self, now: float, values: dict[str, float | None]) -> None:
        """Adds one reading of the host to the averages of its minute, ten minutes and hour."""
        for span in SPANS:
            start = int(now) // span * span
            row = self._sql.execute("SELECT body FROM sample WHERE span = ? AND start = ?", (span, start)).fetchone()
            sums: dict[str, list[float]] = _decode(row[0]) if row else {}
            for name, value in values.items():
                if value is not None:
                    total, count = sums.get(name, (0.0, 0))
                    sums[name] = [round(total + value, 3), count + 1]
            self._sql.execute(
                "REPLACE INTO sample VALUES(?, ?, ?)", (span, start, json.dumps(sums, separators=(",", ":")))
            )

    def samples(self, span: int, since: int) -> dict[int, dict[str, float]]:
        """Averages by name, by the start of each interval of `span` seconds from `since` on, in order."""
        rows = self._sql.execute(
            "SELECT start, body FROM sample WHERE span = ? AND start >= ? ORDER BY start", (span, since)
        )
        return {start: {name: total / count for name, (total, count) in _decode(body).items()} for start, body in rows}

    # --- entries: the last few of something -------------------------------------------------------------------------

    def add_entries(self, kind: str, most: int, entries: Iterable[tuple[float, Any]]) -> None:
        """Keeps entries (time and plain data) in the order they happened; the `most` newest stay."""
        self._sql.executemany(
            "INSERT INTO entry(kind, time, body) VALUES(?, ?, ?)",
            [(kind, time, json.dumps(body, separators=(",", ":"))) for time, body in entries],
        )
        self._sql.execute(
            "DELETE FROM entry WHERE kind = ? AND id <= "
            "(SELECT id FROM entry WHERE kind = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
            (kind, kind, most),
        )

    def entries(self, kind: str, since: float = 0.0) -> list[tuple[float, Any]]:
        """Those of `kind` from `since` on, the oldest first."""
        rows = self._sql.execute("SELECT time, body FROM entry WHERE kind = ? AND time >= ? ORDER BY id", (kind, since))
        return [(time, _decode(body)) for time, body in rows]

    # --- retention --------------------------------------------------------------------------------------------------

    def prune(self, minutes_days: float, hours_days: float) -> None:
        """Keeps as many minutes and ten minutes as `minutes_days` have, as many hours as `hours_days` have.

        By count, not by the clock: a clock that jumps ahead briefly must not delete the history.
        """
        for span, days in ((60, minutes_days), (600, minutes_days), (3600, hours_days)):
            most = max(1, int(days * 86_400 / span))
            self._sql.execute(
                "DELETE FROM sample WHERE span = ? AND start <= "
                "(SELECT start FROM sample WHERE span = ? ORDER BY start DESC LIMIT 1 OFFSET ?)",
                (span, span, most),
            )
            row = self._sql.execute(
                "SELECT start FROM bucket WHERE kind = ? AND span = ? ORDER BY start DESC LIMIT 1 OFFSET ?",
                (ALL, span, most),
            ).fetchone()
            if row:
                for kind in (ALL, CIRCUIT, VALIDATOR):
                    self._sql.execute(
                        "DELETE FROM bucket WHERE kind = ? AND span = ? AND start <= ?", (kind, span, row[0])
                    )

    def oldest(self) -> float | None:
        """The start of the oldest hour that is kept; None without any."""
        row = self._sql.execute(
            "SELECT min(start) FROM (SELECT min(start) AS start FROM sample WHERE span = 3600"
            " UNION ALL SELECT min(start) FROM bucket WHERE kind = 'all' AND span = 3600)"
        ).fetchone()
        return None if row[0] is None else float(row[0])

    def commit(self) -> None:
        """Commits all changes and begins the next transaction. Raises sqlite3.Error."""
        self._sql.execute("COMMIT")
        self._sql.execute("BEGIN IMMEDIATE")


class DamagedHistory(OmronError):
    """The history was damaged and has been renamed; opened again, it is new and empty, and the logs are read again.

    `kept` is the damaged file's new path, None if the maximum number of damaged files is already kept.
    """

    def __init__(self, path: Path, kept: Path | None, why: str) -> None:
        super().__init__(f"the history {path} is damaged: {why}", "run the monitor again: it starts a new one")
        self.kept, self.why = kept, why


def connect(path: Path, wait_seconds: float = WAIT_SECONDS) -> sqlite3.Connection:
    """Opens the file, creates its tables, and begins a transaction. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=wait_seconds, isolation_level=None)
    try:
        # 2 MiB cache the pages of a run; without WAL no -wal and -shm files are left that another user could not open.
        connection.execute("PRAGMA cache_size = -2048")
        connection.execute("BEGIN IMMEDIATE")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _VERSION):
            raise _NewerSchema(f"it has version {version}, this package supports {_VERSION}")
        if version == 0:
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def open_history(
    directory: Path, wait_seconds: float = WAIT_SECONDS, connecting: Connecting = connect
) -> Iterator[History]:
    """The history in `directory`, locked for one run; uncommitted changes are rolled back at the end.

    Waits up to `wait_seconds` for another run. A file that SQLite cannot read, or that a newer version of this package
    wrote, is renamed and a new one created: the logs are then read again. Raises DamagedHistory when the damage is
    found only while the history is in use (it is renamed then, so try again), and OmronError when the history cannot be
    opened or written for any other reason. `connecting` opens the file, as `connect` does.
    """
    path = directory / FILE_NAME
    try:
        connection, inode = _open(path, wait_seconds, connecting)
    except (sqlite3.Error, OSError) as error:
        raise _unusable(path, error, wait_seconds) from error
    try:
        history = History(connection)
        _check_now_and_then(history, connection)
        yield history
    except OmronError:
        raise
    except Exception as error:
        if isinstance(error, sqlite3.Error):
            if not _is_damage(error, path):
                raise _unusable(path, error) from error
        elif not _fails_check(connection):
            raise
        try:  # while the lock on the file is held: another run may wait for it
            kept = _put_aside(path, inode, "broken")
        except OSError as failed:
            raise _unusable(path, failed) from error
        raise DamagedHistory(path, kept, str(error)) from error
    finally:
        with suppress(sqlite3.Error):
            connection.close()


def _open(path: Path, wait_seconds: float, connecting: Connecting) -> tuple[sqlite3.Connection, int]:
    """The file, open and locked, and its inode; one that is visibly damaged is renamed."""
    damage: tuple[Path | None, str] | None = None
    for _ in range(_OPEN_TRIES):
        before = _inode(path)
        try:
            connection = connecting(path, wait_seconds)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error, path):
                raise
            if before is not None and _inode(path) == before:
                word = "newer" if isinstance(error, _NewerSchema) else "broken"
                damage = _put_aside(path, before, word), str(error)
            continue
        inode = _inode(path)
        if inode is None or before not in (None, inode):  # another run renamed it while this one waited for the lock
            connection.close()
            continue
        if damage:
            _tell(History(connection), *damage)
        return connection, inode
    raise sqlite3.DatabaseError("a new file is damaged as soon as it is written: the disk may be failing")


def note_damage(history: History, damage: DamagedHistory) -> None:
    """Lets the summary report what happened to the previous history."""
    _tell(history, damage.kept, damage.why)


def _tell(history: History, kept: Path | None, why: str) -> None:
    after = f"rebuilt from the logs ({why}); the old file is {kept or 'removed: enough damaged files are kept'}"
    history.add_entries("change", CHANGES, [(time.time(), [HISTORY, "in use", after])])


class _NewerSchema(sqlite3.DatabaseError):
    """A newer version of this package wrote the file, before it was rolled back."""


_NOT_DAMAGE = ("locked", "full", "readonly", "unable to open", "permission denied", "authorization", "interrupted")
"""SQLite messages (sqlite3_errstr) about problems outside the file's content. Codes came with Python 3.11."""


def _is_damage(error: sqlite3.Error, path: Path) -> bool:
    """Whether `error` is about the file's content, which no later run can read either."""
    if not isinstance(error, sqlite3.DatabaseError) or isinstance(error, sqlite3.ProgrammingError):
        return False
    message = str(error)
    if "readonly" in message:  # also SQLite's message when two bytes of the header require a newer SQLite
        return all(os.access(one, os.W_OK, effective_ids=True) for one in (path, path.parent))
    if "disk I/O error" in message:  # for example a quota; or a lost sector of the file
        return not _can_be_read(path)
    return not any(words in message for words in _NOT_DAMAGE)


def _fails_check(connection: sqlite3.Connection) -> bool:
    """Whether SQLite finds the file damaged: rows of a damaged page may have any form, and break the reader first."""
    try:
        return bool(connection.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok")
    except sqlite3.Error:
        return True


def _check_now_and_then(history: History, connection: sqlite3.Connection) -> None:
    """Reads the whole file every `CHECK_SECONDS`: rows lost without an error are not detected in any other way."""
    now = time.time()
    if not 0 <= now - history.note("checked", -CHECK_SECONDS) < CHECK_SECONDS:
        if _fails_check(connection):
            raise sqlite3.DatabaseError("SQLite's integrity check found damaged pages")
        history.set_note("checked", now)


def _can_be_read(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            while file.read(1 << 20):
                pass
    except OSError:
        return False
    return True


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _put_aside(path: Path, inode: int, word: str) -> Path | None:
    """Moves the file out of the way, never over an earlier one; returns where to.

    `MOST_DAMAGED_FILES` are kept; further ones are removed (None): they would fill a failing disk. Nothing is moved if
    the file's inode is no longer `inode`: then another run has already done it. Raises OSError.
    """
    if _inode(path) != inode:
        return None
    names = [f"{FILE_NAME}.{word}", *(f"{FILE_NAME}.{word}.{number}" for number in range(2, MOST_DAMAGED_FILES + 1))]
    free = next((one for one in map(path.with_name, names) if not os.path.lexists(one)), None)
    # A journal left by a killed run belongs to this file; SQLite would apply it to the new one.
    journal = path.with_name(f"{FILE_NAME}-journal")
    for file, to in ((journal, free and free.with_name(f"{free.name}-journal")), (path, free)):
        with suppress(FileNotFoundError):
            if to is None:
                file.unlink()
            else:
                file.replace(to)
    return free


def _unusable(path: Path, error: Exception, waited_seconds: float = WAIT_SECONDS) -> OmronError:
    if "locked" in str(error):
        return OmronError(
            f"another monitor has used {path} for {waited_seconds:g} s",
            "try again when it has finished: pgrep -af monitor",
        )
    return OmronError(
        f"cannot use the history {path}: {error}",
        "run it with sudo; check the free space, and that the directory and the file belong to the service user",
    )


def _cover(since: int) -> list[tuple[int, int, int]]:
    """Span, first start and end of the buckets that make up everything from the full minute of `since` on."""
    minute = since // 60 * 60
    ten, hour = -(-minute // 600) * 600, -(-minute // 3600) * 3600
    return [(60, minute, ten), (600, ten, hour), (3600, hour, 1 << 62)]
