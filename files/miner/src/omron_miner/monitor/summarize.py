"""Turns the history and the state of the host into one `Summary`: a verdict for every target and one overall.

Reads no file and no clock. What the numbers mean is decided here and nowhere else:

- A request *succeeded* when its proof verified and nothing failed afterwards; the success rate is over all requests.
- Times are those of requests whose proof verified; a request that failed has no proof to time and is counted by kind.
- A time's target holds when its p95 does. `over` says how many single requests were over it; both are exact.
- Without a request there is no rate and no time: None ("no data"), which neither meets nor misses a target.
"""

from __future__ import annotations

from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any

from omron_miner import __version__
from omron_miner.engine import OWN_MINER, SN2_PROGRAM, Engine
from omron_miner.events import FailureKind
from omron_miner.formatting import GIB, iso_utc, size
from omron_miner.monitor import sn2, totals
from omron_miner.monitor.history import CIRCUIT, HISTORY, MOST_KEYS, VALIDATOR, Bucket, Limits
from omron_miner.monitor.model import (
    SCHEMA_VERSION,
    Change,
    CircuitRequests,
    ErrorLine,
    Histogram,
    Histograms,
    Host,
    LogState,
    Miner,
    Overall,
    Period,
    Periods,
    Points,
    RecentRequest,
    Requests,
    Sn2,
    Stats,
    Summary,
    Target,
    ValidatorRequests,
    Verdict,
    Versions,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from omron_miner.constants import Constants, Monitor
    from omron_miner.monitor.history import History
    from omron_miner.monitor.sketch import Sketch

LAST_ERRORS = 10
LEFT_BEHIND_SECONDS = 900.0
"""A session file this old belongs to no request: validators wait a minute."""
LOW_DISK_BYTES = 2 * GIB
LOW_MEMORY_SHARE = 0.1
_MOST_BINS = 30
_SAMPLES = (
    "cpu_percent",
    "miner_cpu_percent",
    "memory_used_percent",
    "miner_resident_bytes",
    "main_resident_bytes",
    "ram_disk_used_bytes",
    "session_bytes",
    "swap_used_bytes",
)


def limits_of(monitor: Monitor) -> Limits:
    """The targets for single requests."""
    return Limits(monitor.target_proof_seconds, monitor.target_overhead_seconds, monitor.target_total_seconds)


def sample_of(host: Host) -> dict[str, float | None]:
    """The part of one reading of the host that the history keeps."""
    memory, disk, miner = host.memory, host.ram_disk, host.miner
    return {
        "cpu_percent": host.cpu.percent,
        "miner_cpu_percent": host.cpu.miner_percent,
        "iowait_percent": host.cpu.iowait_percent,
        "steal_percent": host.cpu.steal_percent,
        "memory_used_percent": 100.0 * (1 - memory.available_bytes / memory.total_bytes)
        if memory.total_bytes
        else None,
        "miner_resident_bytes": miner.resident_bytes if miner else None,
        "main_resident_bytes": miner.by_process[0].resident_bytes if miner and miner.by_process else None,
        "miner_read_bytes_per_second": miner.read_bytes_per_second if miner else None,
        "ram_disk_used_bytes": disk.used_bytes if disk else None,
        "session_bytes": disk.session_bytes if disk else None,
        "swap_used_bytes": sum(device.used_bytes for device in host.swap) if host.swap is not None else None,
    }


def summarize(
    history: History,
    log: LogState,
    host: Host,
    versions: Versions,
    constants: Constants,
    now: float,
    log_problems: Sequence[str] = (),
    engine: Engine = OWN_MINER,
) -> Summary:
    """The summary as of `now`, without answers and alerts, compared with the targets in `constants.monitor`.

    `log_problems` are those of `events.log_problems`; `log` is the one of `engine`.
    """
    monitor = constants.monitor
    since = floor((now - monitor.window_seconds) / 600) * 600
    window = history.total(since).get("", Bucket())
    requests = requests_of(window)
    log.window_unreadable_lines = sum(count for _, count in history.entries("unreadable", since))
    log.future_events = sum(count for _, count in history.entries("future", since))
    miner = _miner(history, since, host, engine)
    targets = _targets(window, requests, monitor)
    # sn2-miner's log does not contain the other times.
    counted = (
        targets if not engine.is_sn2 else [one for one in targets if one.name in ("success", "proof p95", "timeouts")]
    )
    of_sn2 = sn2.report(history, now) if engine.is_sn2 else None
    overall = _overall(counted, miner, log)
    changes = [
        Change(iso_utc(time), what, before, after)
        for time, (what, before, after) in reversed(history.entries("change"))
    ]
    oldest = history.oldest()
    return Summary(
        schema_version=SCHEMA_VERSION,
        version=__version__,
        network=constants.network.name,
        time=now,
        utc=iso_utc(now),
        window_seconds=monitor.window_seconds,
        window_start_utc=iso_utc(since),
        verdict=Overall(
            overall=overall,
            text=_sentence(overall, targets, requests, miner, log, "a proof" if of_sn2 else "a verified proof"),
            targets=targets,
            warnings=[
                *_host_warnings(host, constants, engine),
                *(_sn2_warnings(of_sn2) if of_sn2 else ()),
                *_log_warnings(log, changes, iso_utc(since)),
                *(f"the miner cannot write its log: {problem}" for problem in log_problems),
            ],
        ),
        requests=requests,
        circuits=[_circuit(key, bucket) for key, bucket in _busiest(history.total(since, CIRCUIT))],
        validators=[
            ValidatorRequests(key, requests_of(bucket)) for key, bucket in _busiest(history.total(since, VALIDATOR))
        ],
        periods=Periods(
            hour=_period(history, 3600, 60, now),
            day=_period(history, 86_400, 600, now),
            week=_period(history, 604_800, 3600, now),
        ),
        histograms=Histograms(
            proof=histogram(window.proof), overhead=histogram(window.overhead), total=histogram(window.total)
        ),
        recent=[_recent(time, row) for time, row in reversed(history.entries("recent"))],
        last_errors=[_error(time, row) for time, row in reversed(history.entries("error", since))][:LAST_ERRORS],
        miner=miner,
        host=host,
        versions=versions,
        log=log,
        answers=[],
        alerts=[],
        changes=changes,
        history_seconds=max(0.0, now - oldest) if oldest is not None else 0.0,
        totals=totals.totals_of(history.note(totals.NOTE)),
        engine=engine.name,
        sn2=of_sn2,
    )


def requests_of(bucket: Bucket) -> Requests:
    """A bucket's counts and times."""
    failures = dict(sorted(bucket.failures.items(), key=lambda item: -item[1]))
    return Requests(
        count=bucket.count,
        succeeded=bucket.succeeded,
        success_percent=100.0 * bucket.succeeded / bucket.count if bucket.count else None,
        failures=failures,
        timeouts=failures.get(FailureKind.TIMEOUT.value, 0),
        constant_outputs=bucket.constant_outputs,
        timed=bucket.proof.count,
        proof_seconds=stats(bucket.proof),
        overhead_seconds=stats(bucket.overhead),
        total_seconds=stats(bucket.total),
        queue_seconds=stats(bucket.queue),
        last_utc=iso_utc(bucket.last) if bucket.count else None,
    )


def stats(sketch: Sketch) -> Stats | None:
    """Mean, percentiles and maximum; None without values."""
    if not sketch.count:
        return None
    p50, p95 = sketch.quantiles(0.5, 0.95)
    mean = min(sketch.largest, max(sketch.least, sketch.sum / sketch.count))
    return Stats(*(round(value, 6) for value in (mean, p50, p95, sketch.largest)))


def histogram(sketch: Sketch) -> Histogram:
    """At most `_MOST_BINS` bins of 1, 2 or 5 times a power of ten, from a multiple of it on."""
    if not sketch.count:
        return Histogram([], [])
    reach = max(sketch.largest - sketch.least, sketch.largest * 0.01, 1e-4)
    width = 10.0 ** floor(log10(reach / _MOST_BINS))
    while True:
        for wide in (width, 2 * width, 5 * width):
            first, last = floor(sketch.least / wide), max(ceil(sketch.largest / wide), floor(sketch.least / wide) + 1)
            if last - first <= _MOST_BINS:
                counts = [0] * (last - first)
                for value, count in sketch.values():
                    value = min(sketch.largest, max(sketch.least, value))
                    counts[min(last - first - 1, max(0, floor(value / wide) - first))] += count
                return Histogram([round(number * wide, 6) for number in range(first, last + 1)], counts)
        width *= 10


def _busiest(buckets: dict[str, Bucket]) -> list[tuple[str, Bucket]]:
    """The busiest, and the others as one without a name, which comes last."""
    rest = buckets.pop("", None)
    found = list(buckets.items())
    for _, bucket in found[MOST_KEYS:]:
        rest = rest or Bucket()
        rest.merge(bucket)
    return [*found[:MOST_KEYS], *([("", rest)] if rest else [])]


def _circuit(key: str, bucket: Bucket) -> CircuitRequests:
    circuit_id, _, label = key.partition(" ")
    return CircuitRequests(circuit_id, label, requests_of(bucket))


def _recent(time: float, row: list[Any]) -> RecentRequest:
    return RecentRequest(round(time, 3), *row[:4], *(round(seconds, 3) for seconds in row[4:]))


def _error(time: float, row: list[str]) -> ErrorLine:
    request_id, failure, circuit, validator, detail = row
    return ErrorLine(iso_utc(time), request_id, failure, circuit, validator, detail)


def _period(history: History, seconds: int, step: int, now: float) -> Period:
    last = floor(now / step) * step
    starts = list(range(last - seconds + step, last + 1, step))
    requests, samples = history.points(step, starts[0]), history.samples(step, starts[0])
    empty: list[Any] = [0, 0, *[None] * 10, 0.0, 0.0]
    rows = [requests.get(start, empty) for start in starts]
    column: list[Any] = [list(cells) for cells in zip(*rows, strict=True)]
    looks = [samples.get(start, {}) for start in starts]
    of_host: Any = {name: [_rounded(look.get(name)) for look in looks] for name in _SAMPLES}
    waiting, proving = ([round(value / step, 3) for value in sums] for sums in column[12:])
    of_requests: list[Any] = [starts, *column[:12], waiting, proving]
    return Period(
        seconds=seconds,
        step_seconds=step,
        requests=requests_of(history.total(starts[0]).get("", Bucket())),
        points=Points(*of_requests, **of_host),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _targets(bucket: Bucket, requests: Requests, wanted: Monitor) -> list[Target]:
    failed = requests.count - requests.succeeded
    success, timeouts = requests.success_percent, requests.timeouts if requests.count else None
    allowed = float(wanted.target_timeouts)
    return [
        _target("success", "≥", wanted.target_success_percent, "%", success, failed),
        time_target("proof", "≤", wanted.target_proof_seconds, bucket.proof),
        time_target("overhead", "<", wanted.target_overhead_seconds, bucket.overhead),
        time_target("total", "<", wanted.target_total_seconds, bucket.total),
        _target("timeouts", "≤", allowed, "", timeouts, requests.timeouts),
    ]


def time_target(name: str, comparison: str, wanted: float, sketch: Sketch) -> Target:
    """Whether the p95 meets its target, by exact counts; its value comes from the sketch and never contradicts that."""
    if not sketch.count:
        return Target(f"{name} p95", comparison, wanted, "s", None, 0, Verdict.NO_DATA)
    value = sketch.quantiles(0.95)[0]
    if sketch.over <= sketch.may_exceed(0.95):
        value = min(value, wanted if comparison == "≤" else wanted * 0.9999)
        return Target(f"{name} p95", comparison, wanted, "s", round(value, 6), sketch.over, Verdict.MET)
    value = max(value, wanted * 1.0001 if comparison == "≤" else wanted)
    return Target(f"{name} p95", comparison, wanted, "s", round(value, 6), sketch.over, Verdict.MISSED)


def _target(name: str, comparison: str, wanted: float, unit: str, value: float | None, over: int) -> Target:
    if value is None:
        return Target(name, comparison, wanted, unit, None, over, Verdict.NO_DATA)
    holds = value >= wanted if comparison == "≥" else value <= wanted
    return Target(name, comparison, wanted, unit, value, over, Verdict.MET if holds else Verdict.MISSED)


def _overall(targets: list[Target], miner: Miner, log: LogState) -> Verdict:
    verdicts = {target.verdict for target in targets}
    if not miner.running:
        return Verdict.NOT_RUNNING
    if Verdict.MISSED in verdicts:
        return Verdict.MISSED
    # No target counts as met while part of the log has not been read.
    incomplete = log.problems or log.unread_bytes
    return Verdict.NO_DATA if Verdict.NO_DATA in verdicts or incomplete else Verdict.MET


def _sentence(
    overall: Verdict, targets: list[Target], requests: Requests, miner: Miner, log: LogState, proof: str
) -> str:
    if requests.count:
        seen = f"{requests.succeeded} of {requests.count} requests answered with {proof}"
    elif log.state == "missing":
        seen = f"no log at {log.path}"
    else:
        seen = "no request in the window"
    if log.problems:
        seen += f"; event log not read in full ({'; '.join(log.problems)})"
    if log.unread_bytes:
        seen += f"; {size(log.unread_bytes)} of the event log are still to be read"
    missed = ", ".join(target.name for target in targets if target.verdict is Verdict.MISSED)
    if overall is Verdict.NOT_RUNNING:
        return f"MINER NOT RUNNING: {'; '.join(miner.reasons)}; {seen}" + (f"; missed: {missed}" if missed else "")
    if overall is Verdict.MISSED:
        return f"TARGETS MISSED: {missed}; {seen}"
    if overall is Verdict.NO_DATA:
        return f"{'NO VERDICT' if requests.count else 'NO DATA YET'}: {seen}"
    return f"TARGETS MET: {seen}"


def _miner(history: History, since: float, host: Host, engine: Engine) -> Miner:
    process = host.miner
    starts = crashes = lost = 0
    last: tuple[float, dict[str, Any]] | None = None
    for time, life in history.entries("life"):
        lost += time >= since and life["what"] == "worker_lost"
        if life["what"] not in ("started", "stopping", "stopped"):
            continue
        if life["what"] == "started" and time >= since:
            starts += not life["first"]  # the first start ever is not a restart
            crashes += last is not None and last[1]["what"] == "started"
        last = (time, life)
    reasons = []
    if engine.is_sn2:
        # It may run as another user, whose processes the monitor cannot see: then its port shows whether it runs.
        if process is None and not host.port_listening:
            reasons.append(f"no process '{SN2_PROGRAM}'")
        if host.port_listening is False:
            reasons.append(f"nothing takes packets on UDP port {host.port}")
    else:
        if process is None:
            reasons.append("no process 'omron-miner serve'")
        if host.port_listening is False:
            reasons.append(f"nothing listens on port {host.port}")
    if last is not None and last[1]["what"] != "started":
        why = f": {last[1]['detail']}" if last[1]["detail"] else ""
        reasons.append(f"its log ends with '{last[1]['what']}' at {iso_utc(last[0])}{why}")
    return Miner(
        running=not reasons,
        reasons=reasons,
        pid=process.pid if process else None,
        uptime_seconds=process.uptime_seconds if process else None,
        processes=process.processes if process else None,
        resident_bytes=process.resident_bytes if process else None,
        cpu_cores=process.cpu_cores if process else None,
        port=host.port,
        port_listening=host.port_listening,
        restarts=starts,
        crashes=crashes,
        workers_lost=lost,
        last_life=last[1]["what"] if last else None,
        last_life_utc=iso_utc(last[0]) if last else None,
    )


def _sn2_warnings(found: Sn2) -> Iterator[str]:
    if found.version_known is False:
        yield f"sn2-miner {found.version}: its log format is not supported, figures may be incomplete"
    if found.misfit_lines:
        yield f"{found.misfit_lines} log lines do not have the expected fields; the first: {found.misfit}"
    if found.loopback:
        yield "sn2-miner runs with --loopback: no validator reaches it"


def _host_warnings(host: Host, constants: Constants, engine: Engine) -> list[str]:
    found = []
    if host.swap:
        found.append(f"swap is on: {', '.join(device.name for device in host.swap)}")
    slow = sorted({governor for governor in host.cpu.governors.values() if governor != "performance"})
    if slow:
        found.append(f"CPU governor is {', '.join(slow)}, not performance")
    if engine.is_sn2:
        pass  # it has no temporary files there
    elif host.ram_disk is None:
        found.append("the session directory's file system is unknown")
    else:
        if host.ram_disk.filesystem not in ("tmpfs", "ramfs"):
            found.append(f"temporary files are on {host.ram_disk.filesystem}, not on a RAM disk")
        if host.ram_disk.free_bytes < constants.sessions.minimum_free_bytes:
            found.append(f"RAM disk {host.ram_disk.mount_point} is full: sessions fall back to disk")
        if (host.ram_disk.oldest_session_file_seconds or 0) > LEFT_BEHIND_SECONDS:
            found.append(f"temporary files are left behind in {host.ram_disk.session_directory}")
    found += [f"disk nearly full: {disk.path}" for disk in host.disks if disk.free_bytes < LOW_DISK_BYTES]
    if host.memory.available_bytes < LOW_MEMORY_SHARE * host.memory.total_bytes:
        found.append("memory nearly full")
    if host.clock.synchronized is False:
        found.append("the clock is not synchronised")
    return found


def _log_warnings(log: LogState, changes: list[Change], since: str) -> list[str]:
    found = [f"event log: {problem}" for problem in log.problems]
    kinds = ("event log", HISTORY)
    found += [f"{change.what}: {change.after}" for change in changes if change.what in kinds and change.utc >= since]
    if log.window_unreadable_lines:
        found.append(f"event log: {log.window_unreadable_lines} lines in the window are unreadable and not counted")
    if log.future_events:
        found.append(f"event log: {log.future_events} events are dated in the future; check the clock")
    return found
