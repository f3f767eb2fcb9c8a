"""The history: what happened, minute by minute and hour by hour, in one small SQLite file. Bounded by its retention.

Requests are kept in buckets of a minute, ten minutes and an hour; those of each circuit and each validator in the
latter two. Any stretch of full (ten) minutes is a sum of few buckets. How far the log was read is in the same file and
changes in the same transaction, so that a run that is killed anywhere has counted all of what it says it read, or none.
What the buckets hold is a `Bucket`; nothing else knows its shape, nor the tables.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from omron_miner.errors import OmronError
from omron_miner.monitor.collect import Position
from omron_miner.monitor.sketch import Sketch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

FILE_NAME = "monitor.sqlite"
SPANS = (60, 600, 3600)
"""Seconds of a bucket."""
METRICS = ("proof", "overhead", "total", "queue")
ALL, CIRCUIT, VALIDATOR = "all", "circuit", "validator"
MOST_KEYS = 40
"""Circuits, and validators, counted apart in one run; the others share one entry: callers must not fill the disk."""
RECENT, ERRORS, LIVES, CHANGES = 200, 20, 2000, 50
"""Rows kept of each."""
SLACK_SECONDS = 60
"""What is dated this far ahead is not held to be wrong: a run takes a moment."""
WAIT_SECONDS = 30.0
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
    """What is counted of one request: when it ended, why it failed (None: it did not), and its times in seconds."""

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
        """Counts requests. Many at once: one by one it takes thrice as long."""
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
        """Counts anew what is over `limits`, to the sketch's error: for targets that have changed since."""
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
        """The bucket that `dump` made `text` of."""
        bucket = Bucket()
        bucket.count, bucket.succeeded, bucket.constant_outputs, bucket.last, bucket.failures, sketches = json.loads(
            text
        )
        for name, data in zip(METRICS, sketches, strict=True):
            setattr(bucket, name, Sketch.load(data))
        return bucket


class History:
    """The file. One run at a time writes: open it with `open_history`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection

    # --- notes: small facts kept from one run to the next -----------------------------------------------------------

    def note(self, name: str, otherwise: Any = None) -> Any:
        """What `set_note` kept under `name`."""
        row = self._sql.execute("SELECT body FROM note WHERE name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else otherwise

    def set_note(self, name: str, value: Any) -> None:
        """Keeps `value`, plain data, under `name`."""
        self._sql.execute("REPLACE INTO note VALUES(?, ?)", (name, json.dumps(value)))

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
        """Adds buckets of their kind's shortest span, by kind, start and key, to those that are there, and to those
        that hold them.
        """
        for span in SPANS:
            sums: dict[tuple[str, int, str], Bucket] = {}
            for (kind, start, key), bucket in buckets.items():
                if span >= shortest(kind):
                    sums.setdefault((kind, start - start % span, key), Bucket()).merge(bucket)
            for (kind, start, key), bucket in sums.items():
                self._put(span, start, kind, key, bucket)

    def _put(self, span: int, start: int, kind: str, key: str, bucket: Bucket) -> None:
        """Adds `bucket` to the one that is there."""
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
        """Everything from `since` on, the start of a bucket of the kind's shortest span, by key, the busiest first."""
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
        return {start: json.loads(point) for start, point in rows}

    def hold_to(self, limits: Limits) -> None:
        """Counts anew what is over its target when the targets are others than before."""
        if self.note("limits") == limits.dump():
            return
        rows = self._sql.execute("SELECT span, start, kind, key, body FROM bucket").fetchall()
        for span, start, kind, key, body in rows:
            bucket = Bucket.load(body)
            bucket.hold_to(limits)
            self._write(span, start, kind, key, bucket)
        self.set_note("limits", limits.dump())

    def refile_future(self, now: float) -> int:
        """Moves what is dated after `now` into its minute; returns how many requests. The clock was set back, or was
        wrong before: left there, they would count for too long.
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
        """Makes the longer buckets of a kind from `since` on anew from its shortest."""
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
        """Adds one look at the host to the averages of its minute, ten minutes and hour."""
        for span in SPANS:
            start = int(now) // span * span
            row = self._sql.execute("SELECT body FROM sample WHERE span = ? AND start = ?", (span, start)).fetchone()
            sums: dict[str, list[float]] = json.loads(row[0]) if row else {}
            for name, value in values.items():
                if value is not None:
                    total, count = sums.get(name, (0.0, 0))
                    sums[name] = [round(total + value, 3), count + 1]
            self._sql.execute(
                "REPLACE INTO sample VALUES(?, ?, ?)", (span, start, json.dumps(sums, separators=(",", ":")))
            )

    def samples(self, span: int, since: int) -> dict[int, dict[str, float]]:
        """Averages by name, by the start of each stretch of `span` seconds from `since` on, in order."""
        rows = self._sql.execute(
            "SELECT start, body FROM sample WHERE span = ? AND start >= ? ORDER BY start", (span, since)
        )
        return {
            start: {name: total / count for name, (total, count) in json.loads(body).items()} for start, body in rows
        }

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
        return [(time, json.loads(body)) for time, body in rows]

    # --- retention --------------------------------------------------------------------------------------------------

    def prune(self, minutes_days: float, hours_days: float) -> None:
        """Keeps as many minutes and ten minutes as `minutes_days` have, as many hours as `hours_days` have.

        Counted, not compared with the clock: one that jumps ahead for a moment must not take the history with it.
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
        """Makes what was changed last, all at once, and begins anew. Raises sqlite3.Error."""
        self._sql.execute("COMMIT")
        self._sql.execute("BEGIN IMMEDIATE")


@contextmanager
def open_history(directory: Path) -> Iterator[History]:
    """The history in `directory`, for one run alone; what is not committed at its end is undone.

    Waits up to `WAIT_SECONDS` for another run. A file that SQLite cannot read is put aside as ``monitor.sqlite.broken``
    and a new one begun: the logs are then read again. Raises OmronError when it cannot be opened or written.
    """
    path = directory / FILE_NAME
    try:
        try:
            connection = connect(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            path.replace(path.with_name(f"{FILE_NAME}.broken"))
            connection = connect(path)
    except (sqlite3.Error, OSError) as error:
        raise _unusable(path, error) from error
    try:
        yield History(connection)
    except sqlite3.Error as error:
        raise _unusable(path, error) from error
    finally:
        connection.close()


def _unusable(path: Path, error: Exception) -> OmronError:
    if "locked" in str(error):
        return OmronError(
            f"another monitor has used {path} for {WAIT_SECONDS:g} s", "try again when it has ended: pgrep -af monitor"
        )
    return OmronError(
        f"cannot use the history {path}: {error}",
        "check the free space, and that the directory and the file belong to the service user",
    )


def connect(path: Path) -> sqlite3.Connection:
    """Opens the file, makes its tables, and begins. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)
    try:
        # In 2 MiB the pages of a run are at hand; no -wal and -shm files lie about for another user to trip over.
        connection.execute("PRAGMA cache_size = -2048")
        connection.execute("BEGIN IMMEDIATE")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"it is of version {version}, this package knows {_VERSION}")
        if version == 0:
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
    except BaseException:
        connection.close()
        raise
    return connection


def _cover(since: int) -> list[tuple[int, int, int]]:
    """Span, first start and end of the buckets that make up everything from the full minute of `since` on."""
    minute = since // 60 * 60
    ten, hour = -(-minute // 600) * 600, -(-minute // 3600) * 3600
    return [(60, minute, ten), (600, ten, hour), (3600, hour, 1 << 62)]
