"""Upstream's `sn2-miner` in the history and the summary: adds new log content, and reports the last day.

`live.miner_log` reads its lines. Finished requests go into the same buckets as those of this product's own miner:
proofs, failures and the times of proofs that ran alone; what the log does not contain (overhead, total, the caller)
stays empty. Data that only this miner has, by hour, is in notes of the history: failures by text and slice,
handshakes, refusals.
"""

from __future__ import annotations

from collections import Counter
from math import ceil
from typing import TYPE_CHECKING, Any

from omron_miner.events import FailureKind
from omron_miner.formatting import iso_utc, without_colours
from omron_miner.live.miner_log import STAMP, TIMED_OUT, UPSTREAM, Reader, meaning_of
from omron_miner.monitor import totals
from omron_miner.monitor.history import ALL, CIRCUIT, ERRORS, LIVES, MOST_KEYS, SLACK_SECONDS, Bucket
from omron_miner.monitor.model import (
    Sn2,
    Sn2Failure,
    Sn2Recent,
    Sn2Refused,
    Sn2Slice,
    Sn2Validator,
    Sn2Work,
)
from omron_miner.monitor.sketch import Sketch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from omron_miner.live.miner_log import Minute
    from omron_miner.monitor.collect import LogReader
    from omron_miner.monitor.history import History, Limits

_STATE, _HOUR = "sn2", "sn2 {:010}"
"""Names of notes: the reader's state, and an hour's tables by its number since 1970."""
_HOURS = 24
_MOST = 1000
"""Slices, validators, peers and texts of an hour that are counted separately."""
_MOST_SHOWN = 40
_OTHERS = "others"
_TIMES = 16
"""Times of a slice that are kept of an hour."""
REFERENCE_TIMES, REFERENCE_SHARE, LAST_TIMES = 8, 0.1, 256
"""A slice's reference time is the 10th percentile of its last 256 successful times, of which it needs 8."""
DEBIT, HALF_LIFE_HOURS = 2.0, 2.0
"""Cost of a failure in reference times, and half-life of work (upstream's scoring, July 2026)."""
ASSUMPTIONS = [
    "a slice's reference time is the 10th percentile of this miner's own times; validators take those of all miners",
    "results that the log does not attribute to one slice are distributed over the hour's requests",
    "slices with fewer than 8 known times are not counted",
    "all validators together, while each keeps its own account",
    "what a validator timed out, refused or could not send is not in this log; one proof that a validator finds wrong "
    "takes all weight for a day",
    "scoring as it was read in upstream's source of July 2026",
]


def is_stamped(line: bytes) -> bool:
    """Whether a log's `line` starts as the miner's do; the first such line identifies the file."""
    return STAMP.match(without_colours(line[:200].decode("utf-8", "replace"))) is not None


def take_in(reader: LogReader, history: History, now: float, kept_since: float, limits: Limits) -> None:
    """Adds new log content and the position to the history, and completes `reader.state`. Commits nothing."""
    lines = Reader(keep_minutes=True)
    if (state := history.note(_STATE)) is not None:
        lines.load(state)
    for block in reader.blocks():
        lines.feed(without_colours(block.decode("utf-8", "replace")).removesuffix("\n").split("\n"))
    log, state_of_log = lines.log, reader.state
    is_first = not history.note("seen", 0) and not state_of_log.older_files
    _Intake(history, now, kept_since, limits).keep(lines, is_first)
    state_of_log.lines, state_of_log.unreadable_lines = log.lines, log.unreadable
    history.set_note(_STATE, lines.dump())
    history.set_note("seen", history.note("seen", 0) + log.lines)
    history.set_positions(reader.positions.values(), now, now - 30 * 86_400.0)
    if history.note(totals.NOTE) is None and not state_of_log.unread_bytes:
        history.set_note(totals.NOTE, totals.begin(now))
    if log.unreadable:
        history.add_entries("unreadable", LIVES, [(now, log.unreadable)])
    history.add_entries("change", 50, [(now, ["log", "read in full", text]) for text in reader.cut])
    state_of_log.total_events = history.note("seen", 0)


class _Intake:
    """Adds what a run read to the history."""

    def __init__(self, history: History, now: float, kept_since: float, limits: Limits) -> None:
        self._history, self._now, self._kept_since, self._limits = history, now, kept_since, limits
        self._buckets: dict[tuple[str, int, str], Bucket] = {}
        self._circuits: set[str] = set()
        self._hours: dict[int, dict[str, Any]] = {}
        self._future = 0

    def keep(self, lines: Reader, is_first: bool) -> None:
        """`is_first`: nothing was read before, so that the first start is not a restart."""
        history, outcomes = self._history, Counter[str]()
        seconds: list[float] = []
        lives: list[tuple[float, Any]] = []
        for minute in lines.minutes:
            time = self._time(minute.begins)
            outcomes.update(self._count(minute, time))
            for some in minute.seconds.values():
                seconds += some
            for moment, what in minute.lives:
                lives.append((min(moment, self._now), {"what": what, "detail": "", "first": is_first and not lives}))
            if time >= self._now - (_HOURS + 1) * 3600:
                _add_to_hour(self._hour(time), minute)
        if lines.log.misfits or lines.log.unreadable:
            of_now = self._hour(self._now)
            of_now["misfits"] += lines.log.misfits
            of_now["unreadable"] += lines.log.unreadable
        history.add(self._buckets)
        for hour, tables in self._hours.items():
            history.set_note(_HOUR.format(hour), tables)
        history.forget_notes(_HOUR.format(0), _HOUR.format(int(self._now // 3600) - _HOURS - 1))
        history.add_entries("life", LIVES, lives)
        history.add_entries("error", ERRORS, [(min(at, self._now), _error(*one)) for at, *one in lines.last_failures])
        if self._future:
            history.add_entries("future", LIVES, [(self._now, self._future)])
        if (kept := history.note(totals.NOTE)) is not None:
            events = Counter(life["what"] for _, life in lives)
            history.set_note(totals.NOTE, totals.add_counts(kept, outcomes, seconds, events))
        last = min(lines.log.last_request or 0.0, self._now)
        history.set_note("last_request", max(last, history.note("last_request", 0.0)))

    def _time(self, begins: float) -> float:
        """`begins`, or the nearest possible time if it cannot be true."""
        if begins > self._now + SLACK_SECONDS:
            self._future += 1
            return self._now
        return begins if begins >= self._kept_since else self._now if begins <= 0.0 else self._kept_since

    def _count(self, minute: Minute, time: float) -> Mapping[str, int]:
        """Adds a minute's finished requests to its bucket and its circuits'; returns them by outcome."""
        outcomes, limit = Counter[str](), self._limits.proof
        of_circuits: dict[str, Bucket] = {}
        everything = Bucket()
        for whose, count in minute.proved.items():
            outcomes[totals.VERIFIED] += count
            for bucket in (everything, self._of_circuit(whose, of_circuits)):
                bucket.count += count
                bucket.succeeded += count
        for (text, whose), count in minute.failed.items():
            kind = (FailureKind.TIMEOUT if text == TIMED_OUT else FailureKind.PROVING_FAILED).value
            outcomes[kind] += count
            for bucket in (everything, self._of_circuit(whose, of_circuits)):
                bucket.count += count
                bucket.failures[kind] = bucket.failures.get(kind, 0) + count
        for whose, some in minute.seconds.items():
            sketch = Sketch()
            sketch.add(some, sum(one > limit for one in some))
            for bucket in (everything, self._of_circuit(whose, of_circuits)):
                bucket.proof.merge(sketch)
        if everything.count:
            minute_start, ten = int(time) // 60 * 60, int(time) // 600 * 600
            self._merge((ALL, minute_start, ""), everything, time)
            for key, bucket in of_circuits.items():
                self._merge((CIRCUIT, ten, key), bucket, time)
        return outcomes

    def _of_circuit(self, whose: str, buckets: dict[str, Bucket]) -> Bucket:
        circuit = whose.partition(" ")[0]
        if circuit not in self._circuits:
            if len(self._circuits) >= MOST_KEYS:
                circuit = ""
            elif circuit:
                self._circuits.add(circuit)
        return buckets.setdefault(f"{circuit} {short(circuit)}" if circuit else "", Bucket())

    def _merge(self, where: tuple[str, int, str], bucket: Bucket, time: float) -> None:
        bucket.last = time
        self._buckets.setdefault(where, Bucket()).merge(bucket)

    def _hour(self, time: float) -> dict[str, Any]:
        number = int(time // 3600)
        if number not in self._hours:
            self._hours[number] = self._history.note(_HOUR.format(number)) or _no_tables()
        return self._hours[number]


def _no_tables() -> dict[str, Any]:
    return {
        "misfits": 0, "unreadable": 0, "counts": {}, "proved": {}, "failed": {}, "units": {}, "validators": {},
        "refused": {},
    }  # fmt: skip


def _add_to_hour(hour: dict[str, Any], minute: Minute) -> None:
    """`units`: by circuit and slice, requests, proofs and times. `proved`: other proofs, by circuit or empty."""
    for kind, count in minute.counts.items():
        hour["counts"][kind] = hour["counts"].get(kind, 0) + count
    for whose, count in minute.requests.items():
        _unit(hour, whose)[0] += count
    for whose, count in minute.proved.items():
        if " " in whose:
            _unit(hour, whose)[1] += count
        else:
            _more(hour["proved"], whose, count)
    for whose, seconds in minute.seconds.items():
        times = _unit(hour, whose)[2]
        times += [round(one, 3) for one in seconds[-_TIMES:]]
        del times[:-_TIMES]
    for (text, whose), count in minute.failed.items():
        _more(_table(hour["failed"], text), whose, count)
    for hotkey, count in minute.validators.items():
        _more(hour["validators"], hotkey, count)
    for (kind, peer), count in minute.refused.items():
        _more(_table(hour["refused"], kind), peer, count)


def _unit(hour: dict[str, Any], whose: str) -> list[Any]:
    circuit, _, name = whose.partition(" ")
    units = hour["units"]
    if name not in units.get(circuit, ()) and sum(map(len, units.values())) >= _MOST:
        circuit, name = _OTHERS, ""
    unit: list[Any] = units.setdefault(circuit, {}).setdefault(name, [0, 0, []])
    return unit


def _table(tables: dict[str, dict[str, int]], key: str) -> dict[str, int]:
    return tables.setdefault(key if key in tables or len(tables) < _MOST else _OTHERS, {})


def _more(counts: dict[str, int], key: str, count: int) -> None:
    key = key if key in counts or len(counts) < _MOST else _OTHERS
    counts[key] = counts.get(key, 0) + count


def _error(text: str, whose: str) -> list[str]:
    kind = FailureKind.TIMEOUT if text == TIMED_OUT else FailureKind.PROVING_FAILED
    circuit, _, name = whose.partition(" ")
    return ["", kind.value, f"{short(circuit)} {name}".strip(), "", text]


def short(circuit: str) -> str:
    """The start of a circuit's id."""
    return f"{circuit[:12]}…" if len(circuit) > 12 else circuit


# --- the report -----------------------------------------------------------------------------------------------------


def report(history: History, now: float) -> Sn2:
    """What the log says, as of `now`."""
    reader = Reader()
    if (state := history.note(_STATE)) is not None:
        reader.load(state)
    log = reader.log
    first = int(now // 3600) - _HOURS
    hours = {
        int(name.rpartition(" ")[2]): tables
        for name, tables in history.notes(_HOUR.format(first), _HOUR.format(9_999_999_999)).items()
    }
    recent = [tables for number, tables in hours.items() if number >= first + _HOURS - 1]
    counts = _sum(tables["counts"] for tables in hours.values())
    failed = _pairs("failed", hours.values())
    times = _times(hours)
    handshakes = _sum(tables["validators"] for tables in hours.values())
    known = {*handshakes, *log.connected, *log.connected_before}
    slices = _slices(hours, failed, times)
    return Sn2(
        version=log.version,
        version_known=log.version_known,
        started_utc=_utc(log.started),
        since_utc=iso_utc(first * 3600),
        unreadable_lines=sum(tables["unreadable"] for tables in hours.values()),
        misfit_lines=sum(tables["misfits"] for tables in hours.values()),
        misfit=log.misfit,
        requests=counts["request"],
        proofs=counts["proved"],
        failed=counts["failed"],
        timed_out=counts["timed_out"],
        last_request_utc=_utc(log.last_request),
        last_proof_utc=_utc(log.last_proof),
        failures=_failures(failed),
        slices=slices[:_MOST_SHOWN],
        slices_seen=len(slices),
        validators=[
            Sn2Validator(hotkey, handshakes[hotkey], _utc(log.connected.get(hotkey)), hotkey in log.connected)
            for hotkey in sorted({*handshakes, *log.connected}, key=lambda one: (one not in log.connected, one))
        ][:_MOST_SHOWN],
        connected=len(log.connected),
        connected_before=len(log.connected_before),
        returned=len(set(log.connected) & set(log.connected_before)),
        refused=_refused(hours.values(), recent, known),
        registered=log.registered,
        announced=log.announced,
        serve_error=log.serve_error,
        metagraph_failures=counts["metagraph_failed"],
        loopback=log.loopback,
        circuits_loaded=log.circuits_loaded,
        enforcing=log.enforcing,
        coverage_percent=log.coverage_percent,
        recent=_recent(recent),
        work=estimate(hours, times, now),
    )


def _utc(time: float | None) -> str | None:
    return None if time is None else iso_utc(time)


def _sum(tables: Any) -> Counter[str]:
    total = Counter[str]()
    for one in tables:
        total.update(one)
    return total


def _pairs(name: str, hours: Any) -> Counter[tuple[str, str]]:
    """Counts by the two keys of the tables `name`."""
    total = Counter[tuple[str, str]]()
    for tables in hours:
        for one, counts in tables[name].items():
            for other, count in counts.items():
                total[one, other] += count
    return total


def _failures(failed: Counter[tuple[str, str]]) -> list[Sn2Failure]:
    texts = Counter[str]()
    for (text, _), count in failed.items():
        texts[text] += count
    found = []
    for text, count in texts.most_common(_MOST_SHOWN):
        meaning = meaning_of(text)
        found.append(Sn2Failure(text, count, meaning, UPSTREAM in (meaning or "")))
    return found


def _refused(hours: Any, recent: Any, known: set[str]) -> list[Sn2Refused]:
    late = _pairs("refused", recent)
    return [
        Sn2Refused(kind, peer, count, late[kind, peer], peer in known)
        for (kind, peer), count in _pairs("refused", hours).most_common(_MOST_SHOWN)
    ]


def _recent(hours: list[dict[str, Any]]) -> Sn2Recent:
    counts, failed = _sum(tables["counts"] for tables in hours), _pairs("failed", hours)
    ended = counts["proved"] + counts["failed"] + counts["timed_out"]
    (text, whose), count = failed.most_common(1)[0] if failed else (("", ""), 0)
    circuit, _, name = whose.partition(" ")
    return Sn2Recent(ended, counts["failed"] + counts["timed_out"], circuit, name, text, count)


def _times(hours: Mapping[int, dict[str, Any]]) -> dict[tuple[str, str], list[float]]:
    """Times by circuit and slice, the oldest first."""
    found: dict[tuple[str, str], list[float]] = {}
    for _, tables in sorted(hours.items()):
        for circuit, units in tables["units"].items():
            for name, (_, _, times) in units.items():
                if times:
                    found.setdefault((circuit, name), []).extend(times)
    return found


def reference(times: list[float]) -> float | None:
    """A slice's reference time in seconds, from its times, the oldest first; None: too few."""
    if len(times) < REFERENCE_TIMES:
        return None
    ordered = sorted(times[-LAST_TIMES:])
    return ordered[ceil(REFERENCE_SHARE * len(ordered)) - 1]


def _slices(
    hours: Mapping[int, dict[str, Any]], failed: Counter[tuple[str, str]], times: dict[tuple[str, str], list[float]]
) -> list[Sn2Slice]:
    """Most failures first, then most requests."""
    units: dict[tuple[str, str], list[int]] = {}
    for tables in hours.values():
        for circuit, slices in tables["units"].items():
            for name, (requests, proved, _) in slices.items():
                one = units.setdefault((circuit, name), [0, 0])
                one[0] += requests
                one[1] += proved
    texts: dict[tuple[str, str], Counter[str]] = {}
    for (text, whose), count in failed.items():
        circuit, space, name = whose.partition(" ")
        if space:
            texts.setdefault((circuit, name), Counter())[text] += count
    found = []
    for key in {**units, **texts}:
        requests, proved = units.get(key, [0, 0])
        of_it = texts.get(key, Counter[str]())
        worst = of_it.most_common(1)[0][0] if of_it else ""
        found.append(Sn2Slice(*key, requests, proved, of_it.total(), worst, reference(times.get(key, []))))
    return sorted(found, key=lambda one: (-one.failed, -one.requests, one.circuit, one.slice))


def estimate(hours: Mapping[int, dict[str, Any]], times: dict[tuple[str, str], list[float]], now: float) -> Sn2Work:
    """The value of the last day's work by upstream's rules, as far as a miner can know; see `ASSUMPTIONS`."""
    references = {key: reference(some) for key, some in times.items()}
    credit = debit = work = left_out = 0.0
    ended = 0
    for number, tables in hours.items():
        age_hours = max(0.0, now - (number + 0.5) * 3600) / 3600
        of_hour = 0.0
        for key, (proved, failed) in _ends(tables):
            seconds = references.get(key) if key else None
            if seconds is None:
                left_out += proved + failed
                continue
            credit += seconds * proved
            debit += DEBIT * seconds * failed
            of_hour += seconds * (proved - DEBIT * failed)
        counts = tables["counts"]
        ended += sum(counts.get(kind, 0) for kind in ("proved", "failed", "timed_out"))
        work += of_hour * 0.5 ** (age_hours / HALF_LIFE_HOURS)
    return Sn2Work(
        round(credit, 1), round(debit, 1), round(max(0.0, work), 1), ended, round(left_out), list(ASSUMPTIONS)
    )


def _ends(tables: dict[str, Any]) -> Iterator[tuple[tuple[str, str] | None, tuple[float, float]]]:
    """Proofs and failures of an hour by circuit and slice; those that no request of the hour can have, without one."""
    failed_of: dict[str, int] = {}
    shared_failed = 0
    for counts in tables["failed"].values():
        for whose, count in counts.items():
            if " " in whose:
                failed_of[whose] = failed_of.get(whose, 0) + count
            else:
                shared_failed += count
    shared_proved = sum(tables["proved"].values())
    units = [
        ((circuit, name), requests, proved, failed_of.pop(f"{circuit} {name}", 0))
        for circuit, slices in tables["units"].items()
        for name, (requests, proved, _) in slices.items()
    ]
    rests = [max(0, requests - proved - failed) for _, requests, proved, failed in units]
    total = sum(rests)
    for (key, _, proved, failed), rest in zip(units, rests, strict=True):
        share = rest / total if total else 0.0
        yield key, (proved + share * shared_proved, failed + share * shared_failed)
    if not total:
        yield None, (shared_proved, shared_failed)
    for whose, count in failed_of.items():  # their requests were of the hour before
        circuit, _, name = whose.partition(" ")
        yield (circuit, name), (0.0, count)
