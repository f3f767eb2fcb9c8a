"""Comparison of miners' logs, of the stock miner or of this one, with this miner's requests in one table.

Reads whole files of any size, line by line, and writes nothing; it is not part of a run of the monitor. Three formats
are recognised line by line: the stock (upstream) miner's log, this miner's ``miner.log`` and ``events.jsonl``.

A stock line means less than a line of this miner, and the table shows that:

- Stock does not verify. Its success is an *answer with a proof*, in time by its own clock; an answer that the validator
  refused counts as a success. Failed verifications are "not in this log".
- Its total runs from its handler's start to its end. It excludes the time a request waited before, behind another's
  proof, and requests that validators gave up meanwhile. This miner's runs from the request's arrival to the answer.
- Its timestamps are of that host's own clock, without a time zone.
- A request with a start and no end (a killed miner) has no outcome: these are counted separately, as `without_end`.
"""

from __future__ import annotations

import gzip
import json
import re
import sqlite3
import stat
import zlib
from dataclasses import dataclass, field
from math import isfinite
from typing import IO, TYPE_CHECKING, Any

from omron_miner import events
from omron_miner.errors import OmronError
from omron_miner.events import FailureKind, RequestEvent
from omron_miner.formatting import clip, percent, printable, table, utc, without_colours
from omron_miner.monitor.collect import MAX_LINE_BYTES
from omron_miner.monitor.history import FILE_NAME, Bucket, History, Limits, Outcome
from omron_miner.monitor.intake import outcome_of
from omron_miner.monitor.render import plain
from omron_miner.monitor.summarize import limits_of, requests_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from omron_miner.constants import Constants
    from omron_miner.monitor.model import Requests, Stats

SCHEMA_VERSION = 1
STOCK, MINER_LOG, EVENTS, HISTORY = "stock", "miner.log", "events.jsonl", "this miner"
_STOCK_FAILURES = {"proving_failed", "timeout", "bad_input", "unknown_circuit"}
_UNTOLD = {
    STOCK: {"constant_outputs", "queue", *(kind.value for kind in FailureKind)} - _STOCK_FAILURES,
    MINER_LOG: {"queue"},
    EVENTS: set[str](),
    HISTORY: set[str](),
}
"""What a log format does not contain."""
HISTORY_SECONDS = 604_800
"""This miner's column covers its last week."""
NOT_IN_LOG, NO_DATA = "not in this log", "no data"
_MOST_OPEN = 1000
"""Started requests that are remembered; no miner has as many concurrently."""
_BATCH = 4096
_SIGN_BYTES = 2000
"""Only the start of a line is searched."""
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:[.,]\d+)?(Z?)")
_NUMBER = r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
# bittensor writes "stamp | LEVEL | text", with its debug level "stamp | LEVEL | file:line | text"; traces have neither.
_TEXT = re.compile(
    r"(?:^|\|)\s*(?:✅\s*)?(?:"
    r"(?P<started>Running proof generation for )"
    r"|(?P<answered>Proof (?:of weights )?completed for )"
    r"|(?P<failed>An error occurred while generating pro(?:ven output|of of weights))"
    r"|(?P<times>Total response time )"
    r"|(?P<late>Response time is greater than circuit timeout\.)"
    r"|(?P<empty>Received empty (?:query input|input for proof of weights))"
    r"|(?P<unknown>Circuit \S+ not found)"
    r"|(?P<competition>Competition only mode enabled\. Skipping proof generation)"
    r"|(?P<booted>Started axon server: )"
    r"|(?P<own_answered>Optimized proof completed for )"
    r"|(?P<own_times>Optimized response - Total: )"
    r"|(?P<own_refused>Proof verification failed: )"
    r"|(?P<own_late>Response time is greater than circuit timeout: )"
    r"|(?P<own_failed>Request failed \((?P<kind>[a-z_]+)\): )"
    r"|(?P<own_constant>Detected constant output from circuit)"
    r")(?P<rest>.*)"
)
_STOCK_TIMES = re.compile(rf"{_NUMBER}s\. Proof time: {_NUMBER}s\. Overhead time: {_NUMBER}s")
_OWN_TIMES = re.compile(rf"{_NUMBER}s, Proof: {_NUMBER}s, Overhead: {_NUMBER}s")
_SIGNS = re.compile(
    rb"[Pp]roof|Total response|Response time|Received empty|not found|Competition only|axon server|Optimized"
    rb"|Request failed|constant output|An error occurred"
)


@dataclass
class Column:
    """The figures of one log, or of this miner's history."""

    label: str
    path: str
    kinds: set[str] = field(default_factory=set)
    """Log formats that were recognised in it."""
    bucket: Bucket = field(default_factory=Bucket)
    without_end: int = 0
    """Requests that started and whose end is not in the log."""
    lines: int = 0
    """Lines that were recognised."""
    problem: str = ""
    """Why it could not be read completely; empty: it could."""
    first: str | None = None
    last: str | None = None
    """First and last stamp of a recognised line, ``YYYY-MM-DD hh:mm:ss``; None: it has none."""
    zone: str = ""
    """UTC, or empty when the log does not say."""

    def tells(self, name: str) -> bool:
        """Whether the log's format contains it."""
        return not any(name in _UNTOLD[kind] for kind in self.kinds)

    def saw(self, kind: str, stamp: str | None, zone: str) -> None:
        """Notes a recognised line."""
        self.kinds.add(kind)
        self.lines += 1
        if stamp:
            self.first = stamp if self.first is None else min(self.first, stamp)
            self.last = stamp if self.last is None else max(self.last, stamp)
            self.zone = zone


@dataclass
class _Request:
    """One request of a log of lines, as far as it was read. Times in seconds."""

    failure: str | None = None
    times: tuple[float, float, float] | None = None
    """Total, proof, overhead."""
    constant_output: bool = False


class _Lines:
    """Combines lines into requests; `emit` gets each as soon as it is complete.

    Stock's handlers run one at a time, so its lines of one request follow each other; if they ever run concurrently,
    an end belongs to the request that started first.
    """

    def __init__(self, column: Column, emit: Callable[[Outcome], None]) -> None:
        self._column, self._emit = column, emit
        self._open = 0
        self._ended: _Request | None = None
        """The last that ended; its times, or that it was late, may follow."""
        self._after_error = False

    def line(self, raw: bytes) -> None:
        """Takes one line."""
        after_error, self._after_error = self._after_error, False
        head = raw[:_SIGN_BYTES]
        if not _SIGNS.search(head):
            return
        text = without_colours(head.decode("utf-8", "replace")).strip()
        match = _TEXT.search(text)
        if match is None:
            return
        sign = next(name for name, found in match.groupdict().items() if found)
        stamp = _STAMP.search(text, 0, match.start() + 1)
        if stamp is None and after_error and sign != "unknown":
            return  # an exception's own text is not a log line
        own = sign.startswith("own_")
        when = f"{stamp[1]} {stamp[2]}" if stamp else None
        self._column.saw(MINER_LOG if own else STOCK, when, "UTC" if stamp and stamp[3] else "")
        if own:
            self._own(sign, match)
        else:
            self._stock(sign, match["rest"], after_error and stamp is None)

    def finish(self) -> None:
        """The log is at its end."""
        self._end(None)
        self._column.without_end += self._open

    def _end(self, request: _Request | None) -> None:
        """Emits the last request that ended; `request` is now the last."""
        if (last := self._ended) is not None:
            total, proof, overhead = last.times or (0.0, 0.0, 0.0)
            timed = last.times is not None and last.failure in (None, FailureKind.TIMEOUT.value)
            self._emit(Outcome(0.0, timed, last.failure, last.constant_output, proof, overhead, total, 0.0))
        self._ended = request

    def _close(self, failure: str | None) -> None:
        self._open = max(0, self._open - 1)
        self._end(_Request(failure))

    def _stock(self, sign: str, rest: str, is_exception: bool) -> None:
        if sign == "started":
            self._end(None)
            if self._open >= _MOST_OPEN:
                self._column.without_end += 1
            else:
                self._open += 1
        elif sign == "answered":
            self._close(None)
        elif sign == "failed":
            # "Circuit not found" may have been logged for the same request just before, which then never started.
            if not (self._open == 0 and self._ended and self._ended.failure == "unknown_circuit"):
                self._close("proving_failed")
            self._after_error = True
        elif sign == "unknown":
            if is_exception and self._ended:
                self._ended.failure = "unknown_circuit"
            else:
                self._end(_Request("unknown_circuit"))
        elif sign == "empty":
            self._end(_Request("bad_input"))
        elif sign == "competition":
            self._end(_Request("competition_only"))
        elif sign == "booted":
            self._end(None)
            self._column.without_end += self._open
            self._open = 0
        elif self._ended is not None:
            if sign == "times" and self._ended.times is None:
                self._ended.times = _seconds(_STOCK_TIMES.match(rest))
            elif sign == "late" and self._ended.failure is None:
                self._ended.failure = "timeout"

    def _own(self, sign: str, match: re.Match[str]) -> None:
        if sign == "own_answered":
            self._end(_Request())
        elif sign == "own_times":
            if self._ended is not None and self._ended.times is None:
                self._ended.times = _seconds(_OWN_TIMES.match(match["rest"]))
        elif sign == "own_constant":
            if self._ended is not None:
                self._ended.constant_output = True
        else:
            kind = {"own_refused": "verification_failed", "own_late": "timeout"}.get(sign) or match["kind"]
            self._end(_Request(kind))


def _seconds(match: re.Match[str] | None) -> tuple[float, float, float] | None:
    if match is None:
        return None
    values = [max(0.0, float(number)) for number in match.groups()]
    return (values[0], values[1], values[2]) if all(isfinite(value) for value in values) else None


def read_log(path: Path, limits: Limits) -> Column:
    """The figures of the log at `path`, plain or gzip; memory does not grow with it.

    Raises OmronError when it is missing, unreadable or empty, or when no line in it is known. A truncated file (a
    damaged .gz) counts as far as it can be read, with a `problem`.
    """
    column, pending = Column(path.name, str(path)), list[Outcome]()

    def emit(outcome: Outcome) -> None:
        pending.append(outcome)
        if len(pending) >= _BATCH:
            column.bucket.add(pending, limits)
            pending.clear()

    lines = _Lines(column, emit)
    is_empty = True
    try:
        with _open(path) as stream:
            try:
                for raw in _whole_lines(stream):
                    is_empty = False
                    if raw.startswith(b"{"):
                        _take_event(raw, column, emit)
                    else:
                        lines.line(raw)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                column.problem = str(error)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OmronError(f"cannot read {path}: {reason}", "check the path and its permissions") from error
    lines.finish()
    column.bucket.add(pending, limits)
    if not column.lines:
        if column.problem:
            raise OmronError(f"cannot read {path}: {column.problem}", "is it a whole .gz file?")
        what = "it is empty" if is_empty else "no line in it is a miner's"
        raise OmronError(f"nothing to compare in {path}: {what}", "give a stock miner's log, miner.log or events.jsonl")
    return column


def _open(path: Path) -> IO[bytes]:
    # A pipe without a writer would block for ever.
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("not a regular file")
    with path.open("rb") as file:
        is_compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if is_compressed else path.open("rb")  # type: ignore[return-value]


def _whole_lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Its lines; of one longer than `MAX_LINE_BYTES` only the start."""
    within = False
    for piece in iter(lambda: stream.readline(MAX_LINE_BYTES), b""):
        if not within:
            yield piece
        within = not piece.endswith(b"\n")


def _take_event(raw: bytes, column: Column, emit: Callable[[Outcome], None]) -> None:
    event = events.from_json(raw.decode("utf-8", "replace"))
    if event is None:
        return
    stamp = _stamp(event.time)
    column.saw(EVENTS, stamp if _STAMP.match(stamp) else None, "UTC")  # it may not be a valid date
    if isinstance(event, RequestEvent):
        emit(outcome_of(event, 0.0))


def read_history(directory: Path, now: float) -> Column:
    """This miner's last week, from the history that the monitor keeps in `directory`; without one, no requests.

    Opened for reading alone. Raises OmronError when it is there and cannot be read.
    """
    path = directory / FILE_NAME
    column = Column(HISTORY, str(path), {HISTORY}, zone="UTC")
    if not path.exists():
        column.problem = "no history yet: omron-miner monitor has not run"
        return column
    since = (now - HISTORY_SECONDS) // 3600 * 3600
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
        try:
            history = History(connection)
            column.bucket = history.total(since).get("", Bucket())
            oldest = history.oldest()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise OmronError(
            f"cannot read the history {path}: {error}", "run this as root or as the service user"
        ) from error
    if oldest is not None:
        column.first, column.last = _stamp(max(oldest, since)), _stamp(now)
    return column


def _stamp(time: float) -> str:
    return utc(time, "not a time").removesuffix(" UTC")


def compare(paths: Iterable[Path], constants: Constants, now: float) -> list[Column]:
    """A column for every log, in the order given, and one for this miner. Raises OmronError as `read_log` does."""
    limits = limits_of(constants.monitor)
    return [*(read_log(path, limits) for path in paths), read_history(constants.monitor.directory, now)]


# --- what is printed ------------------------------------------------------------------------------------------------


def to_text(columns: Sequence[Column]) -> str:
    """One table, a column for each, then what the numbers do and do not mean."""
    requests = [requests_of(column.bucket) for column in columns]
    both = list(zip(columns, requests, strict=True))
    kinds = sorted({kind for one in requests for kind in one.failures} - {"timeout"})
    rows = [
        ("from", *(column.first or NO_DATA for column in columns)),
        ("to", *(column.last or NO_DATA for column in columns)),
        ("clock", *(column.zone or "of that host" for column in columns)),
        ("requests", *(str(one.count) for one in requests)),
        ("success", *(percent(one.success_percent) for one in requests)),
        ("timeouts", *(str(one.timeouts) if one.count else NO_DATA for one in requests)),
        *(
            (f"failed: {kind}", *(_count(column, kind, one, one.failures.get(kind, 0)) for column, one in both))
            for kind in dict.fromkeys(["verification_failed", *kinds])
        ),
        ("constant outputs", *(_count(column, "constant_outputs", one, one.constant_outputs) for column, one in both)),
        ("without an end", *(str(column.without_end) for column in columns)),
    ]
    for name in ("proof", "overhead", "total", "queue"):
        for at in ("p50", "p95", "max"):
            rows.append((f"{name} {at}", *(_time(column, name, at, one) for column, one in both)))
    notes = [f"{column.label}: {column.problem}" for column in columns if column.problem]
    if any(STOCK in column.kinds for column in columns):
        notes += [
            "A stock miner verifies nothing: its success is an answer with a proof, whether or not it was accepted.",
            "Its total starts with its handler: it excludes the time a request waited before that; ours includes it.",
        ]
    lines = [*table(("", *(clip(column.label, 28) for column in columns)), rows), *([""] if notes else []), *notes]
    return "".join(f"{printable(line)}\n" for line in lines)


def to_json(columns: Sequence[Column]) -> str:
    """The same numbers. ``not_in_this_log`` lists what a log does not contain; its value is then null."""
    return json.dumps({"schema_version": SCHEMA_VERSION, "columns": [_plain(one) for one in columns]}, indent=1) + "\n"


def _plain(column: Column) -> dict[str, Any]:
    requests = plain(requests_of(column.bucket))
    del requests["last_utc"]  # `last`, with its clock, has more detail
    untold = sorted(set().union(*(_UNTOLD[kind] for kind in column.kinds)))
    for name in untold:
        key = "queue_seconds" if name == "queue" else name
        if key in requests:
            requests[key] = None
    return {
        "label": column.label,
        "path": column.path,
        "kinds": sorted(column.kinds),
        "first": column.first,
        "last": column.last,
        "zone": column.zone or None,
        "recognised_lines": column.lines,
        "without_end": column.without_end,
        "problem": column.problem,
        "not_in_this_log": untold,
        "requests": requests,
    }


def _count(column: Column, name: str, requests: Requests, count: int) -> str:
    if not column.tells(name):
        return NOT_IN_LOG
    return str(count) if requests.count else NO_DATA


def _time(column: Column, name: str, at: str, requests: Requests) -> str:
    if not column.tells(name):
        return NOT_IN_LOG
    stats: Stats | None = getattr(requests, f"{name}_seconds")
    return NO_DATA if stats is None else f"{getattr(stats, at):.3f} s"
