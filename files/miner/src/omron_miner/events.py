"""The log lines operators grep for and the JSON event of each request: written and parsed only here.

The lines are an interface (operators' scripts read them): change one only by adding a new one.
Every request ends in exactly one `RequestEvent`; starts, stops and lost workers are `LifecycleEvent`s.
Both go to ``events.jsonl``, one compact JSON object a line; the monitor reads that file.
This module is imported by the monitor, so it imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any

from omron_miner.formatting import printable
from omron_miner.untrusted import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from omron_miner.constants import Log

LOGGER_NAME = "omron_miner"
_EVENTS_LOGGER_NAME = "omron_miner_events"  # not below LOGGER_NAME: its records must not reach miner.log
SCHEMA_VERSION = 1
MAX_TEXT = 1000
"""Characters kept of each text in an event: some texts come from callers, who may send a megabyte."""
_FULL_BYTES = 65_536
"""A file system with less free than this is full: the next events do not fit."""

COMPLETED = "✅ Optimized proof completed for {circuit}"
RESPONSE = "Optimized response - Total: {total:.3f}s, Proof: {proof:.3f}s, Overhead: {overhead:.3f}s"
VERIFICATION_FAILED = "Proof verification failed"
TIMEOUT = "Response time is greater than circuit timeout"
CONSTANT_OUTPUT = "Detected constant output from circuit"


class FailureKind(str, Enum):
    """Why a request got no verified proof. The values are used in events and in summary.json."""

    VERIFICATION_FAILED = "verification_failed"
    TIMEOUT = "timeout"
    QUEUE_FULL = "queue_full"
    BAD_INPUT = "bad_input"
    UNKNOWN_CIRCUIT = "unknown_circuit"
    WORKER_CRASHED = "worker_crashed"
    PROVING_FAILED = "proving_failed"
    CANCELLED = "cancelled"
    STOPPING = "stopping"
    INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True)
class Timings:
    """One request's phases in seconds, by `time.perf_counter`. Phases not reached are 0.

    proof_s is witness + prove, the time of EZKL itself (over all tries); overhead_s is the rest of the time on our
    side: total_s - proof_s.
    """

    total_s: float = 0.0
    queue_s: float = 0.0
    input_s: float = 0.0
    witness_s: float = 0.0
    prove_s: float = 0.0
    verify_s: float = 0.0

    @property
    def proof_s(self) -> float:
        """Witness and proof: the cost of the proof itself."""
        return self.witness_s + self.prove_s

    @property
    def overhead_s(self) -> float:
        """The time we add to the proof; never below 0."""
        return max(0.0, self.total_s - self.proof_s)


@dataclass(frozen=True)
class RequestEvent:
    """The outcome of one request. `time` is the Unix time in seconds at which it ended."""

    time: float
    request_id: str
    synapse: str
    validator_hotkey: str
    circuit_id: str
    circuit: str
    """The circuit's label, ``<name> v<version> using <system>``; empty when it is not known."""
    verified: bool
    failure: FailureKind | None
    detail: str
    """Description of the failure, one line; empty on success."""
    timings: Timings
    tries: int = 0
    proof_bytes: int = 0
    constant_output: bool = False


@dataclass(frozen=True)
class LifecycleEvent:
    """Something about the miner itself: `what` is one of started, stopping, stopped, worker_lost, events_lost."""

    time: float
    what: str
    detail: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


def to_json(event: RequestEvent | LifecycleEvent) -> str:
    """The event as one line of compact JSON, with its kind, its schema version and a readable UTC time."""
    kind = "request" if isinstance(event, RequestEvent) else "life"
    stamp = datetime.fromtimestamp(event.time, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    body: dict[str, Any] = asdict(event)
    body = {name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in body.items()}
    if isinstance(event, RequestEvent):
        timings = body["timings"] | {"proof_s": event.timings.proof_s, "overhead_s": event.timings.overhead_s}
        body["timings"] = {name: round(value, 6) for name, value in timings.items()}
    return json.dumps(
        {"v": SCHEMA_VERSION, "event": kind, "utc": stamp, **body}, separators=(",", ":"), ensure_ascii=False
    )


def from_json(line: str) -> RequestEvent | LifecycleEvent | None:
    """The event in a line of ``events.jsonl``; None when the line is corrupt, incomplete or of another schema.

    A returned event has the declared types and finite numbers, so readers need no further checks.
    """
    try:
        body = parse_json(line)
        if body["v"] != SCHEMA_VERSION:
            return None
        if body["event"] == "life":
            return LifecycleEvent(_finite(body["time"]), str(body["what"]), str(body["detail"]), dict(body["fields"]))
        if body["event"] != "request":
            return None
        return RequestEvent(
            time=_finite(body["time"]),
            request_id=str(body["request_id"]),
            synapse=str(body["synapse"]),
            validator_hotkey=str(body["validator_hotkey"]),
            circuit_id=str(body["circuit_id"]),
            circuit=str(body["circuit"]),
            verified=body["verified"] is True,
            failure=FailureKind(body["failure"]) if body["failure"] else None,
            detail=str(body["detail"]),
            timings=Timings(**{name: _finite(body["timings"][name]) for name in Timings.__dataclass_fields__}),
            tries=int(body["tries"]),
            proof_bytes=int(body["proof_bytes"]),
            constant_output=body["constant_output"] is True,
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _one_line(text: str) -> str:
    """A caller's text, safe in a log line: it cannot start another line or colour a terminal."""
    return printable(text[:MAX_TEXT])


class _LogFile(logging.Handler):
    """A log file that may be moved, removed or full at any time, without an error for the code that logs.

    Records that cannot be written are lost; this is reported once on stderr, and in the file once it is writable again.
    """

    def __init__(self, path: Path, formatter: logging.Formatter, gap: Callable[[str, int], str]) -> None:
        """Opens nothing yet. `gap` makes the line that represents lost ones, from the reason and their number."""
        super().__init__()
        self.setFormatter(formatter)
        self._path, self._gap = path, gap
        self._descriptor: int | None = None
        self._half_line = False
        self._why, self._lost = "", 0

    def open(self) -> None:
        """Opens the file, or the one that now has its name. Raises OSError."""
        there = self._there()
        if self._descriptor is not None and there and os.path.samestat(there, os.fstat(self._descriptor)):
            return
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = descriptor
        # A killed miner, or a full disk, may have left half a line: the next event must not become part of it.
        size = os.fstat(descriptor).st_size
        self._half_line = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the record's line, or counts it as lost."""
        try:
            line = self.format(record)
        except Exception:  # a bug in the logging call
            self.handleError(record)
            return
        try:
            problem = self._reopen()
            if self._lost:
                self._write(self._gap(self._why, self._lost))
                self._lost = 0
            self._write(line)
        except OSError as error:
            self._lost += 1
            problem = error
        self._say(problem)

    def close(self) -> None:
        """Closes the file."""
        with self.lock or contextlib.nullcontext():
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
        super().close()

    def _there(self) -> os.stat_result | None:
        try:
            return os.stat(self._path)
        except FileNotFoundError:
            return None

    def _reopen(self) -> OSError | None:
        """Opens the file again when logrotate has moved it: nothing is lost, no signal needed.

        When that fails, the moved file is still written to, as long as it has a name.
        """
        try:
            self.open()
        except OSError as error:
            if self._descriptor is None or os.fstat(self._descriptor).st_nlink == 0:
                raise
            return error
        return None

    def _write(self, line: str) -> None:
        # backslashreplace: half a surrogate pair in a caller's text must not cost the record; in JSON it is an escape.
        data = ("\n" * self._half_line + line + "\n").encode("utf-8", "backslashreplace")
        if self._descriptor is None:
            raise OSError("it is not open")
        written = os.write(self._descriptor, data)
        self._half_line = written < len(data) and (written > 0 or self._half_line)
        if written < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _say(self, problem: OSError | None) -> None:
        """Reports on stderr that the file cannot be written, or can be again; each once."""
        why = f"{problem.strerror or problem}" if problem else ""
        if bool(why) == bool(self._why):
            return
        self._why = why
        state = f"cannot be written: {why}; log records may be lost" if why else "can be written again"
        with contextlib.suppress(Exception):  # there may be no stderr either
            sys.stderr.write(f"omron-miner: {self._path} {state}\n")
            sys.stderr.flush()


def _lost_lines(why: str, lost: int) -> str:
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    return f"{stamp}.000Z | ERROR | {lost} lines were lost: this file could not be written ({why})"


def _lost_events(why: str, lost: int) -> str:
    detail = f"{lost} events were lost: the event log could not be written ({why})"
    return to_json(LifecycleEvent(time.time(), "events_lost", detail, {"lost": lost}))


def log_problems(log: Log) -> list[str]:
    """Why the log directory's owner, the miner, cannot write its logs, judging by the files; empty if it can."""
    try:
        directory = log.directory.stat()
        free = shutil.disk_usage(log.directory).free
    except OSError as error:
        return [f"{log.directory} cannot be used: {error.strerror}"]
    found = [f"{log.directory} has no space left"] if free < _FULL_BYTES else []
    if directory.st_mode & 0o300 != 0o300:
        found.append(f"{log.directory} is not accessible to its owner")
    for path in (log.miner_log, log.events):
        with contextlib.suppress(OSError):  # a missing one is created
            file = path.stat()
            if file.st_uid != directory.st_uid or not file.st_mode & 0o200:
                found.append(f"{path.name} cannot be written by the directory's owner")
    return found


class EventLog:
    """Writes the events and the operators' lines. Thread-safe (logging's own locks); `close` it at the end.

    Writing never raises, whatever happens to the files: see `_LogFile`.
    """

    def __init__(self, log: Log, *, patient: bool = False) -> None:
        """Opens ``miner.log`` and ``events.jsonl`` below `log.directory`.

        Raises OSError when that fails, unless `patient`: then they are opened as soon as possible.
        """
        self.lines = logging.getLogger(LOGGER_NAME)
        self._events = logging.getLogger(_EVENTS_LOGGER_NAME)
        self._own: list[tuple[logging.Logger, logging.Handler]] = []
        text = logging.Formatter("%(asctime)s.%(msecs)03dZ | %(levelname)s | %(message)s", "%Y-%m-%d %H:%M:%S")
        text.converter = time.gmtime
        for_lines = _LogFile(log.miner_log, text, _lost_lines)
        for_events = _LogFile(log.events, logging.Formatter("%(message)s"), _lost_events)
        if not patient:
            for_lines.open()
            for_events.open()
        self._attach(self.lines, for_lines, log.level)
        self._attach(self._events, for_events, "INFO")

    def _attach(self, logger: logging.Logger, handler: logging.Handler, level: str) -> None:
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
        self._own.append((logger, handler))

    def request(self, event: RequestEvent) -> None:
        """Writes the event and the lines operators grep for."""
        circuit = _one_line(event.circuit or event.circuit_id or "unknown circuit")
        detail, timings = _one_line(event.detail), event.timings
        if event.verified:
            self.lines.info(COMPLETED.format(circuit=circuit))
            self.lines.info(RESPONSE.format(total=timings.total_s, proof=timings.proof_s, overhead=timings.overhead_s))
        elif event.failure is FailureKind.VERIFICATION_FAILED:
            self.lines.error("%s: %s: %s", VERIFICATION_FAILED, circuit, detail)
        elif event.failure is FailureKind.TIMEOUT:
            self.lines.error("%s: %s: %s", TIMEOUT, circuit, detail)
        else:
            kind = event.failure.value if event.failure else "failed"
            self.lines.error("Request failed (%s): %s: %s", kind, circuit, detail)
        if event.constant_output:
            self.lines.warning("%s: %s", CONSTANT_OUTPUT, circuit)
        self._events.info("%s", to_json(event))

    def life(self, what: str, detail: str = "", level: int = logging.INFO, **fields: Any) -> None:
        """Writes a `LifecycleEvent` and a matching log line."""
        self.lines.log(level, "%s%s", what, f": {_one_line(detail)}" if detail else "")
        self._events.info("%s", to_json(LifecycleEvent(time.time(), what, detail, fields)))

    def close(self) -> None:
        """Flushes and closes both files."""
        for logger, handler in self._own:
            logger.removeHandler(handler)
            handler.close()
        self._own.clear()
