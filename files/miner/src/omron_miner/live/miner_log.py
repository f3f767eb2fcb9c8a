"""Reads the log of upstream's `sn2-miner`: requests, proofs, failures, connections, and its own state.

The lines have no request number, and several requests run concurrently. So requests, proofs and failures are counted
separately. A completion is attributed to a slice if every request that may be open is for that slice, to a circuit
if all are for that circuit, and otherwise to none; a proof gets a time only if its request was the only open one from
its line to its end. Nothing is guessed. A line of a known kind without the expected fields is a misfit: it is
counted and one is shown, because another release may write another line. Imports nothing heavy: the monitor uses it.
"""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TextIO

from omron_miner.errors import OmronError
from omron_miner.formatting import printable, utc, without_colours

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

KNOWN_VERSIONS = ((14, 6), (14, 7))
"""Major and minor of releases whose lines were read in upstream's source."""
KNOWN_FAILURES = {
    "no stamped proof_config": "published without a proof configuration (upstream's issue 467)",
    "activation length mismatch": "constants of the slice are not recovered (upstream's issue 538)",
    "incompatible bundle": "the bundle is of another version of the prover",
    "has incomplete file downloads": "the circuit was still being downloaded: omron-miner live circuits sync",
}
"""Part of a failure's text, and what it means."""
UPSTREAM = "upstream's issue"
"""Marks meanings of failures that the operator of a miner cannot fix."""
TIMED_OUT = "handler timed out"
"""The text of a failure by timeout."""
_MOST_KEYS = 1000
_OTHERS = "others"
_TEXT = 200
_LINE_BYTES = 65_536
_FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)')
_MESSAGES = (
    ("sn2-miner version=", "version"),
    ("starting sn2-miner", "started"),
    ("starting miner in loopback mode", "loopback"),
    ("circuits loaded", "circuits"),
    ("failed to load circuits from cache", "circuits_failed"),
    ("failed to preload pinned circuit", "circuits_failed"),
    ("miner running", "running"),
    ("miner loopback running", "running"),
    ("received SIGTERM", "stopping"),
    ("shutting down miner", "stopping"),
    ("axon registered on chain", "registered"),
    ("axon already registered on chain", "registered"),
    ("serve_axon failed", "serve_failed"),
    ("external IP autodetection failed", "serve_failed"),
    ("handling DSlice", "request"),
    ("handling QueryZkProof", "request"),
    ("handling ProofOfWeights", "request"),
    ("witness and proof generated", "proved"),
    ("Handler error for ", "failed"),
    ("Handler task panicked for ", "failed"),
    ("Handler timed out after ", "timed_out"),
    ("Handshake successful", "connected"),
    ("Stale connection cleanup via fallback scan for validator: ", "disconnected"),
    ("Handshake rejected: hotkey ", "no_permit"),
    ("Signature timestamp too ", "clock"),
    ("Handshake failed: ", "bad_handshake"),
    ("Handshake rate limit exceeded", "rate_limited"),
    ("Unknown or unauthenticated connection from ", "unauthenticated"),
    ("No connection found for validator ", "unauthenticated"),
    ("Connection not verified for validator: ", "unauthenticated"),
    ("Connection limit reached ", "full"),
    ("validator allowlist evaluated", "allowlist"),
    ("validator allowlist transition", "allowlist_changed"),
    ("metagraph sync failed", "metagraph_failed"),
    ("metagraph sync task panicked", "metagraph_failed"),
    ("update applied", "updated"),
    ("auto-update check failed", "update_failed"),
)
"""Prefix of a line's text, and its kind."""
_BY_WORD: dict[str, list[tuple[str, str]]] = {}
for _begin, _kind in _MESSAGES:
    _BY_WORD.setdefault(_begin.split()[0], []).append((_begin, _kind))
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
"""Prefix of a line, without colours."""
_MINUTE_WIDTH = len("2026-01-05T12:00:")
_USUAL_REST = len("2026-01-05T12:00:00.000000Z")
"""Offset of the text after the time in a usual line: upstream writes microseconds."""
_USUAL_Z = _USUAL_REST - 1
_NO_PREFIX = "????-??-??T??:??:"
_SECONDS = re.compile(r"(\d\d(?:\.\d+)?)Z")
"""The text after a line's minute."""
_LEVEL = re.compile(r"\s+(TRACE|DEBUG|INFO|WARN|ERROR)(?:\s+|$)")
_MOST_MESSAGES, _MOST_CHARACTERS = 4096, 1000
"""Parsed messages that are kept, and how long one of these may be."""
_CHUNK_CHARACTERS = 1 << 20
_SLICE_REQUEST = "handling DSlice"
_SPAN = re.compile(r"[\w:]+(?:\{[^{}]*\})?: ?")
"""A span or the target before a line's text."""
_FAILURE = re.compile(r"Handler (?:error|task panicked) for (\S+): (.*)")
_CONNECTED = re.compile(r"Handshake successful, established connection: conn_(\w+)_\d+$")
_HOTKEY = re.compile(r"\b(5[1-9A-HJ-NP-Za-km-z]{47})\b")
_ADDRESS = re.compile(r"(?:from|for) (\S+)$")
_REFUSED = ("no_permit", "bad_handshake", "clock", "rate_limited", "unauthenticated", "full")
"""Kinds of lines that report a refused peer."""
_LONGEST_REQUEST_SECONDS = 1800.0
"""Ten times the miner's default timeout: an older request ended without a line."""
_LAST_FAILURES = 20


@dataclass
class MinerLog:
    """The content of the lines. Times are seconds since 1970, UTC."""

    lines: int = 0
    unreadable: int = 0
    """Not log lines: output of a panic, or of another program."""
    misfits: int = 0
    misfit: str = ""
    """The first of them."""
    errors: int = 0
    """Lines of level ERROR."""
    first: float | None = None
    last: float | None = None
    version: str = ""
    """The version of the last start."""
    version_known: bool | None = None
    """Whether lines of that release are known here; None until it is logged."""
    counts: dict[str, int] = field(default_factory=dict)
    """Lines of each kind."""
    requests: dict[str, int] = field(default_factory=dict)
    """By circuit and slice."""
    failures: dict[str, int] = field(default_factory=dict)
    """By text, without numbers."""
    failures_alone: dict[str, int] = field(default_factory=dict)
    """By circuit and slice, of failures that ran alone."""
    seconds_alone: list[float] = field(default_factory=list)
    """From request to proof, of proofs that ran alone; the last thousand."""
    validators: dict[str, int] = field(default_factory=dict)
    """Handshakes by hotkey."""
    circuits_loaded: int | None = None
    enforcing: bool | None = None
    """Whether the allowlist drops others, according to its last line."""
    coverage_percent: float | None = None
    last_request: float | None = None
    last_proof: float | None = None
    registered: bool | None = None
    """Whether its last attempt to announce itself on the chain succeeded; None: none is in the log."""
    announced: str = ""
    """``ip:port`` that it last announced, or found announced."""
    serve_error: str = ""
    """Why the last attempt failed."""
    started: float | None = None
    """When the last process started."""
    loopback: bool = False
    """Whether it runs without a chain."""
    connected: dict[str, float] = field(default_factory=dict)
    """By hotkey, its last handshake with the running process. The end of a connection is seldom logged."""
    connected_before: list[str] = field(default_factory=list)
    """The hotkeys of `connected` when the previous process ended."""


class _Message:
    """The content of a line without its time; the same messages recur, so each is parsed once and then only counted."""

    __slots__ = ("circuit", "count", "is_error", "is_proof", "is_slice_request", "key", "kind", "text")

    def __init__(self, is_error: bool, kind: str | None, text: str, key: str | None) -> None:
        """`key`: of a request the circuit and slice, of a failure its text without numbers; None when it has none."""
        self.is_error, self.kind, self.text, self.key = is_error, kind, text, key
        self.is_slice_request = kind == "request" and key is not None
        self.circuit = key.partition(" ")[0] if self.is_slice_request and key else ""
        self.is_proof = kind == "proved"
        self.count = 0
        """Lines in the minute."""


@dataclass
class Minute:
    """The content of one minute's lines, or a part of it. `whose` is a circuit and slice, a circuit alone, or empty."""

    begins: float
    counts: dict[str, int] = field(default_factory=dict)
    """Lines of each kind."""
    requests: dict[str, int] = field(default_factory=dict)
    """By circuit and slice."""
    proved: dict[str, int] = field(default_factory=dict)
    """By whose."""
    failed: dict[tuple[str, str], int] = field(default_factory=dict)
    """By text and whose."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Times of the proofs that ran alone, by circuit and slice."""
    validators: dict[str, int] = field(default_factory=dict)
    """Handshakes by hotkey."""
    refused: dict[tuple[str, str], int] = field(default_factory=dict)
    """By kind and peer: a hotkey, an address, or empty."""
    lives: list[tuple[float, str]] = field(default_factory=list)
    """Starts and stops of the process."""


class Reader:
    """Reads lines one after another; `log` is the state so far.

    With `keep_minutes` the content of each minute is in `minutes`, not in the tables of `log`.
    """

    def __init__(self, keep_minutes: bool = False) -> None:
        self.log = MinerLog()
        self.minutes: list[Minute] = []
        self.last_failures: deque[tuple[float, str, str]] = deque(maxlen=_LAST_FAILURES)
        """Time, text and whose."""
        self._keep_minutes = keep_minutes
        self._seconds_alone: deque[float] = deque(maxlen=_MOST_KEYS)
        self._running, self._whose = 0, ""
        """Requests that may be open, and the circuit or slice they share."""
        self._begun: float | None = None
        """When the only open request started; None while none or several are."""
        self._prefix, self._now = _NO_PREFIX, Minute(0.0)
        """Text of the last line's minute, and that minute's content so far."""
        self._messages: dict[str, _Message] = {}
        """By the text after a line's time: without this, parsing takes most of the time."""
        self._touched: list[_Message] = []
        """Those with a count."""

    def dump(self) -> dict[str, Any]:
        """The state that another Reader needs to continue from here, as plain data."""
        log = {name: getattr(self.log, name) for name in _KEPT}
        return {"log": log, "running": self._running, "whose": self._whose, "begun": self._begun}

    def load(self, data: dict[str, Any]) -> None:
        """Continues where the Reader stopped whose `dump` returned `data`."""
        for name in _KEPT:
            if name in data["log"]:
                setattr(self.log, name, data["log"][name])
        self._running, self._whose, self._begun = data["running"], data["whose"], data["begun"]

    def feed(self, lines: Iterable[str]) -> None:
        """Takes lines in the order they were written."""
        messages, touched, now, prefix = self._messages, self._touched, self._now, self._prefix
        running, whose, begun = self._running, self._whose, self._begun
        requested = proved = last = ""
        count = 0
        # Nearly all lines are requests and proofs: they are handled here, with as little work as possible for each.
        for line in lines:
            count += 1
            message = messages.get(line[_USUAL_REST:]) if line.startswith(prefix) else None
            if message is None:
                self._note_last(last, requested, proved)
                requested = proved = ""
                self._running, self._whose, self._begun = running, whose, begun
                message, line = self._unusual(line)
                running, whose, begun = self._running, self._whose, self._begun
                now, prefix = self._now, self._prefix
                if message is None:
                    continue
            last = line
            if message.is_proof:
                proved = line
                now.proved[whose] = now.proved.get(whose, 0) + 1
                if begun is not None:
                    try:
                        took = now.begins + float(line[_MINUTE_WIDTH:_USUAL_Z]) - begun
                        now.seconds.setdefault(whose, []).append(took if took > 0.0 else 0.0)
                    except ValueError:  # not a number: no time
                        pass
                    begun = None
                if running > 1:
                    running -= 1
                else:
                    running, whose = 0, ""
                continue
            if message.count:
                message.count += 1
            else:
                message.count = 1
                touched.append(message)
            if message.is_slice_request:
                requested = line
                running += 1
                if running == 1:
                    whose = message.key or ""
                    try:
                        begun = now.begins + float(line[_MINUTE_WIDTH:_USUAL_Z])
                    except ValueError:
                        begun = None
                else:
                    begun = None
                    if whose != message.key:
                        whose = message.circuit if whose.partition(" ")[0] == message.circuit else ""
            elif message.kind is not None:
                self._running, self._whose, self._begun = running, whose, begun
                self._take_or_count(message, line)
                running, whose, begun = self._running, self._whose, self._begun
        self.log.lines += count
        self._running, self._whose, self._begun = running, whose, begun
        self._note_last(last, requested, proved)
        self._end_minute(now.begins)
        self.log.seconds_alone = [round(seconds, 3) for seconds in self._seconds_alone]

    def _unusual(self, line: str) -> tuple[_Message | None, str]:
        """The message of a line of another minute, of another form or with a new message, and the line as usual.

        None: it is of another form altogether, and counted.
        """
        found = self._stamp_of(line)
        if found is not None:
            seconds, rest = found
            message = self._messages.get(rest) or self._parse(rest)
            if message is not None:
                usual = f"{self._prefix}{seconds}"
                if self.log.first is None:
                    self.log.first = self._now.begins + _second(usual)
                return message, usual
        self.log.unreadable += not line.isspace() and line != ""
        return None, ""

    def _note_last(self, last: str, requested: str, proved: str) -> None:
        """Keeps the times of the minute's last line, request and proof."""
        log, begins = self.log, self._now.begins
        if last:
            log.last = begins + _second(last)
        if requested:
            log.last_request = begins + _second(requested)
        if proved:
            log.last_proof = begins + _second(proved)

    def _take_or_count(self, message: _Message, line: str) -> None:
        """`_take`; a line without the expected fields is a misfit."""
        try:
            self._take(message, self._now.begins + _second(line))
        except (LookupError, ValueError):
            self.log.misfits += 1
            self.log.misfit = self.log.misfit or f"{line[:_USUAL_Z]}Z {message.text}"[:_TEXT]

    def _end_minute(self, next_begins: float) -> None:
        """Adds what was counted to the minute, and the minute to the log; starts the next one."""
        log, now = self.log, self._now
        for message in self._touched:
            log.errors += message.count * message.is_error
            if message.kind is not None:
                now.counts[message.kind] = now.counts.get(message.kind, 0) + message.count
            if message.is_slice_request and message.key is not None:
                now.requests[message.key] = now.requests.get(message.key, 0) + message.count
            message.count = 0
        self._touched.clear()
        if now.proved:
            now.counts["proved"] = sum(now.proved.values())
        if now.counts:
            if self._keep_minutes:
                self.minutes.append(now)
            else:
                self._add(now)
        self._now = Minute(next_begins)

    def _add(self, minute: Minute) -> None:
        log = self.log
        for kind, count in minute.counts.items():
            log.counts[kind] = log.counts.get(kind, 0) + count
        for key, count in minute.requests.items():
            _count(log.requests, key, count)
        for (text, whose), count in minute.failed.items():
            _count(log.failures, text, count)
            if " " in whose:
                _count(log.failures_alone, whose, count)
        for hotkey, count in minute.validators.items():
            _count(log.validators, hotkey, count)
        for seconds in minute.seconds.values():
            self._seconds_alone.extend(seconds)

    def _stamp_of(self, line: str) -> tuple[str, str] | None:
        """Seconds and rest of a line, whose minute is started if it differs from the last; None without a stamp.

        The time of a line with a date that does not exist counts as the last line's.
        """
        line = without_colours(line)
        if STAMP.match(line) is None:
            return None
        found = _SECONDS.match(line, _MINUTE_WIDTH)
        if found is None:
            return None
        seconds, rest = found[1], line[found.end() :]
        if line.startswith(self._prefix):
            return seconds, rest
        try:
            year, month, day, hour, minute = map(int, re.split("[-T:]", line[: _MINUTE_WIDTH - 1]))  # strptime is slow
            moment = datetime(year, month, day, hour, minute, tzinfo=timezone.utc)
        except ValueError:
            return f"{max(0.0, (self.log.last or 0.0) - self._now.begins):.6f}", rest
        self._end_minute(moment.timestamp())
        self._prefix = line[:_MINUTE_WIDTH]
        if self._now.begins - (self.log.last_request or 0.0) > _LONGEST_REQUEST_SECONDS:
            self._running, self._whose, self._begun = 0, "", None
        return seconds, rest

    def _parse(self, rest: str) -> _Message | None:
        """The message in the text after a line's time; None when it does not start with a level."""
        plain = without_colours(rest)
        level = _LEVEL.match(plain)
        if level is None:
            return None
        text = _text(plain[level.end() :])
        kinds = _BY_WORD.get(text.split(" ", 1)[0], ())
        kind = next((kind for begin, kind in kinds if text.startswith(begin)), None)
        key = None
        if kind == "request":
            fields = _fields(text) if text.startswith(_SLICE_REQUEST) else {}
            if "circuit" in fields and "slice" in fields:
                key = f"{fields['circuit'][:64]} {fields['slice'][:64]}"
        elif kind == "failed" and (found := _FAILURE.match(text)):
            key = re.sub(r"\d+", "#", found[2])[:_TEXT]
        elif kind == "timed_out":
            key = TIMED_OUT
        if len(self._messages) >= _MOST_MESSAGES:
            self._messages.clear()  # those with a count stay in `_touched`
        message = _Message(level[1] == "ERROR", kind, text, key)
        self._messages[rest if len(rest) <= _MOST_CHARACTERS else f"long {len(self._messages)}"] = message
        return message

    def _take(self, message: _Message, time: float) -> None:
        log, now, kind, text = self.log, self._now, message.kind, message.text
        if kind == "request":
            log.last_request, self._begun, self._whose = time, None, ""
            self._running += 1
            if text.startswith(_SLICE_REQUEST):
                raise LookupError(text)  # no circuit or no slice
        elif kind in ("failed", "timed_out"):
            self._fail(message, time)
        elif kind == "connected":
            (hotkey,) = _matched(_CONNECTED, text)
            _count(now.validators, hotkey)
            if hotkey in log.connected or len(log.connected) < _MOST_KEYS:
                log.connected[hotkey] = time
        elif kind == "disconnected":
            log.connected.pop(_matched(_HOTKEY, text, anywhere=True)[0], None)
        elif kind in _REFUSED:
            found = _HOTKEY.search(text) or _ADDRESS.search(text)
            peer = found[1] if found else ""
            _count_pair(now.refused, (kind, peer if _HOTKEY.fullmatch(peer) else _host(peer)))
        elif kind in ("version", "started", "loopback", "stopping"):
            self._life(kind, text, time)
        elif kind in ("registered", "serve_failed"):
            log.registered = kind == "registered"
            fields = _fields(text)
            log.serve_error = "" if log.registered else (fields.get("error") or text)[:_TEXT]
            if log.registered and "ip" in fields and "port" in fields:
                log.announced = f"{fields['ip']}:{fields['port']}"[:_TEXT]
        elif kind == "circuits":
            log.circuits_loaded = int(_fields(text)["count"])
        elif kind == "allowlist":
            fields = _fields(text)
            enforcing = {"true": True, "false": False}[fields["enforcing"]]
            log.enforcing, log.coverage_percent = enforcing, float(fields["coverage_pct"])

    def _life(self, kind: str, text: str, time: float) -> None:
        """The process starts or ends: nothing is open, no peer is connected, nothing is announced yet."""
        log = self.log
        self._begun, self._running, self._whose = None, 0, ""
        if kind == "stopping":
            self._now.lives.append((time, "stopping"))
        elif kind == "version":  # the first line of a process
            self._now.lives.append((time, "started"))
            log.connected_before, log.connected = list(log.connected) or log.connected_before, {}
            log.started, log.registered, log.announced, log.serve_error, log.loopback = time, None, "", "", False
            log.misfit = ""
            log.enforcing = log.coverage_percent = log.circuits_loaded = None
            log.version = _fields(text)["version"][:_TEXT]
            numbers = tuple(int(one) for one in log.version.removeprefix("v").split(".")[:2])
            log.version_known = numbers in KNOWN_VERSIONS
        elif kind == "loopback":
            log.loopback = True

    def _fail(self, message: _Message, time: float) -> None:
        whose = self._whose
        self._begun = None
        if self._running > 1:
            self._running -= 1
        else:
            self._running, self._whose = 0, ""
        if message.key is None:
            raise ValueError(message.text)
        _count_pair(self._now.failed, (message.key, whose))
        self.last_failures.append((time, message.key, whose))


_KEPT = (
    "version", "version_known", "circuits_loaded", "enforcing", "coverage_percent", "last_request", "last_proof",
    "registered", "announced", "serve_error", "started", "loopback", "connected", "connected_before", "misfit", "last",
)  # fmt: skip
"""Fields of the log that pass from one Reader to the next."""


def read_files(paths: Iterable[Path]) -> MinerLog:
    """The content of the logs, oldest first. Raises OmronError when one cannot be read, or none is sn2-miner's."""
    reader, names = Reader(), []
    for path in paths:
        names.append(str(path))
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                reader.feed(_lines(file))
        except OSError as error:
            raise OmronError(f"cannot read {path}: {error.strerror}", "check the path and its owner") from error
    if reader.log.first is None:
        raise OmronError(
            f"no line of {', '.join(names)} is sn2-miner's", "its log is usually /var/log/omron-miner/sn2-miner.log"
        )
    return reader.log


def _lines(file: TextIO) -> Iterator[str]:
    """The lines of `file` without their ends; one longer than `_LINE_BYTES` in pieces of that size."""
    rest = ""
    while chunk := file.read(_CHUNK_CHARACTERS):
        *whole, rest = without_colours(rest + chunk).split("\n")
        if whole and max(map(len, whole)) < _LINE_BYTES:
            yield from whole
        else:
            for line in whole:
                yield from (line[at : at + _LINE_BYTES] for at in range(0, len(line) + 1, _LINE_BYTES))
        while len(rest) >= _LINE_BYTES:
            yield rest[:_LINE_BYTES]
            rest = rest[_LINE_BYTES:]
    if rest:
        yield rest


def meaning_of(failure: str) -> str | None:
    """The known meaning of a failure's text."""
    return next((meaning for part, meaning in KNOWN_FAILURES.items() if part in failure), None)


def _text(rest: str) -> str:
    """A line's text: what follows its spans and its target, which end with colons."""
    rest = rest.rstrip()
    while (span := _SPAN.match(rest)) is not None:
        rest = rest[span.end() :]
    return rest


def _fields(text: str) -> dict[str, str]:
    """The line's ``name=value`` pairs, without quotes."""
    return {name: value.strip('"') for name, value in _FIELD.findall(text)}


def _matched(pattern: re.Pattern[str], text: str, anywhere: bool = False) -> tuple[str, ...]:
    found = pattern.search(text) if anywhere else pattern.match(text)
    if found is None:
        raise ValueError(text)
    return found.groups()


def _count(counts: dict[str, int], key: str, count: int = 1) -> None:
    """Counts `key`; limits the size of the table, because others choose the keys."""
    key = key if key in counts or len(counts) < _MOST_KEYS else _OTHERS
    counts[key] = counts.get(key, 0) + count


def _count_pair(counts: dict[tuple[str, str], int], key: tuple[str, str]) -> None:
    key = key if key in counts or len(counts) < _MOST_KEYS else (key[0], "")
    counts[key] = counts.get(key, 0) + 1


def _second(line: str) -> float:
    """Seconds of its minute at which a usual line was written; 0 without a number."""
    try:
        return float(line[_MINUTE_WIDTH:_USUAL_Z])
    except ValueError:
        return 0.0


def _host(address: str) -> str:
    """``203.0.113.7`` of ``203.0.113.7:4433`` and of itself, ``2001:db8::7`` of ``[2001:db8::7]:4433``."""
    if address.startswith("["):
        return address[1:].partition("]")[0][:_TEXT]
    return address.partition(":")[0][:_TEXT] if address.count(":") == 1 else address[:_TEXT]


def to_json(log: MinerLog) -> str:
    """As JSON."""
    return json.dumps(asdict(log))


def to_text(log: MinerLog) -> str:
    """As text."""
    counts: Counter[str] = Counter(log.counts)
    version = f"sn2-miner {log.version or 'of an unknown version'}"
    if log.version_known is False:
        version += " (its lines are not known here: figures may be incomplete)"
    ended = counts["proved"] + counts["failed"] + counts["timed_out"]
    lines = [
        f"{version}, {utc(log.first, '?')} to {utc(log.last, '?')}, {log.lines} lines",
        f"requests {counts['request']}, proofs {counts['proved']}, failures {counts['failed']}, "
        f"handler timeouts {counts['timed_out']}, without an end {max(counts['request'] - ended, 0)}",
    ]
    if log.seconds_alone:
        ordered = sorted(log.seconds_alone)
        middle, high = ordered[len(ordered) // 2], ordered[len(ordered) * 95 // 100]
        lines.append(f"seconds of proofs that ran alone ({len(ordered)}): median {middle:.1f}, p95 {high:.1f}")
    for failure, count in sorted(log.failures.items(), key=lambda one: -one[1])[:10]:
        meaning = meaning_of(failure)
        lines.append(f"  {count} x {printable(failure)}" + (f"  = {meaning}" if meaning else ""))
    lines.append(
        f"handshakes {counts['connected']} of {len(log.validators)} hotkeys, refused without a permit "
        f"{counts['no_permit']}, for the clock {counts['clock']}, unauthenticated requests {counts['unauthenticated']}"
    )
    announced = {True: "yes", False: "FAILED", None: "not in this log"}[log.registered]
    lines.append(
        f"announced on the chain: {announced}; circuits loaded: {log.circuits_loaded}; starts {counts['version']}"
    )
    if log.enforcing is not None:
        lines.append(f"allowlist enforcing: {log.enforcing}, coverage {log.coverage_percent:g} %")
    if log.misfits:
        lines.append(f"{log.misfits} lines do not match the expected format; the first: {printable(log.misfit)}")
    if log.unreadable:
        lines.append(f"{log.unreadable} lines are not sn2-miner log lines")
    return "\n".join(lines)
