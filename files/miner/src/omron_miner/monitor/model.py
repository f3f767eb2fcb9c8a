"""The shape of a summary: every number that summary.json, summary.txt and summary.html show, and nothing else.

Plain frozen dataclasses. Keys that hold a quantity end in its unit; ``None`` means "not available" or "no data",
never 0. Times in numbers are Unix seconds, in text UTC (``2026-01-05T12:00:00Z``). ``docs/summary.md`` and
``summary.schema.json`` are generated from this module.

Percentiles come from histograms with log-spaced buckets (`sketch`): at most `sketch.RELATIVE_ERROR` off, never beyond
the true least and largest value. Whether a target is met is decided by exact counts, not by them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

# Parts of the summary; the schema is generated from these classes.
from omron_miner.host import Disk as Disk  # noqa: TC001
from omron_miner.host import Memory as Memory  # noqa: TC001
from omron_miner.host import RamDisk as RamDisk  # noqa: TC001
from omron_miner.host import SwapDevice as SwapDevice  # noqa: TC001
from omron_miner.provers.status import CircuitSeconds as CircuitSeconds
from omron_miner.provers.status import HostState as HostState  # noqa: TC001

SCHEMA_VERSION = 2
"""Of summary.json: raised when a key is renamed, removed or changes its meaning, not when one is added."""


class Verdict(str, Enum):
    """Whether one target, or all of them, are met."""

    MET = "met"
    MISSED = "missed"
    NO_DATA = "no_data"
    NOT_RUNNING = "not_running"
    """Overall only: the miner answers no request now, regardless of earlier results."""


@dataclass(frozen=True)
class Stats:
    """Seconds over some requests. p50 and p95 are the smallest values that 50 and 95 % do not exceed."""

    mean: float
    p50: float
    p95: float
    max: float


@dataclass(frozen=True)
class Target:
    """One target: it is met when `value` `comparison` `wanted` holds, in `unit`."""

    name: str
    """success, proof p95, overhead p95, total p95 or timeouts."""
    comparison: str
    """≥, ≤ or <."""
    wanted: float
    unit: str
    """%, s or empty."""
    value: float | None
    over: int
    """Number of individual requests over it, counted exactly."""
    verdict: Verdict


@dataclass(frozen=True)
class Requests:
    """Counts and times of some requests."""

    count: int
    succeeded: int
    success_percent: float | None
    failures: dict[str, int]
    """By kind, the most frequent first."""
    timeouts: int
    constant_outputs: int
    timed: int
    """Number of requests in the times below: those whose proof verified."""
    proof_seconds: Stats | None
    overhead_seconds: Stats | None
    total_seconds: Stats | None
    queue_seconds: Stats | None
    """Time spent waiting for a free prover, of all requests."""
    last_utc: str | None
    """When the last one ended, rounded to its minute."""


@dataclass(frozen=True)
class CircuitRequests:
    """The requests for one circuit. Circuits beyond the busiest, and unknown ones, share one entry without a name."""

    circuit_id: str
    circuit: str
    """Its label; empty when it is not known."""
    requests: Requests


@dataclass(frozen=True)
class ValidatorRequests:
    """The requests of one validator."""

    validator_hotkey: str
    """SS58 address; empty: the others together."""
    requests: Requests


@dataclass(frozen=True)
class Histogram:
    """How many requests took how long: `counts[i]` of them from `edges_seconds[i]` to `edges_seconds[i + 1]`."""

    edges_seconds: list[float]
    counts: list[int]


@dataclass(frozen=True)
class Histograms:
    """Of the window's timed requests; empty lists without any. At most 30 bins of one width each."""

    proof: Histogram
    overhead: Histogram
    total: Histogram


@dataclass(frozen=True)
class Points:
    """A period in steps of equal length, oldest first; every list has one value for each step.

    The last step is not over yet. None: no timed request, or no run of the monitor, in that step.
    """

    start: list[int]
    """Start of the step: Unix seconds, UTC."""
    requests: list[int]
    failed: list[int]
    proof_p50_seconds: list[float | None]
    proof_p95_seconds: list[float | None]
    proof_max_seconds: list[float | None]
    overhead_p50_seconds: list[float | None]
    overhead_p95_seconds: list[float | None]
    overhead_max_seconds: list[float | None]
    total_p50_seconds: list[float | None]
    total_p95_seconds: list[float | None]
    total_max_seconds: list[float | None]
    queue_p95_seconds: list[float | None]
    """Time spent waiting for a free prover."""
    waiting: list[float]
    """Requests waiting for a prover, on average over the step."""
    proving: list[float]
    """Requests being proved, on average over the step: marked in the plots of the host."""
    cpu_percent: list[float | None]
    """Of all cores together, for all processes."""
    miner_cpu_percent: list[float | None]
    """Of all cores together, by the miner and its workers."""
    memory_used_percent: list[float | None]
    """Share of RAM that is not available without swapping."""
    miner_resident_bytes: list[float | None]
    """The miner and its workers together."""
    main_resident_bytes: list[float | None]
    """The miner's main process alone; it lives long, so growth shows here."""
    ram_disk_used_bytes: list[float | None]
    session_bytes: list[float | None]
    swap_used_bytes: list[float | None]


@dataclass(frozen=True)
class Period:
    """The last hour, day or week."""

    seconds: int
    step_seconds: int
    requests: Requests
    points: Points


@dataclass(frozen=True)
class Periods:
    """Steps: a minute, ten minutes, an hour."""

    hour: Period
    day: Period
    week: Period


@dataclass(frozen=True)
class RecentRequest:
    """One of the last requests."""

    time: float
    """When it ended: Unix seconds."""
    request_id: str
    circuit: str
    validator_hotkey: str
    failure: str | None
    """Kind of failure; None: answered with a verified proof."""
    total_seconds: float
    proof_seconds: float
    overhead_seconds: float
    queue_seconds: float


@dataclass(frozen=True)
class ErrorLine:
    """One of the last requests that failed."""

    utc: str
    request_id: str
    failure: str
    circuit: str
    validator_hotkey: str
    detail: str


@dataclass(frozen=True)
class Miner:
    """The miner's process, and its starts and stops in the window according to the log."""

    running: bool
    reasons: list[str]
    """Why it is considered not running; empty when it runs."""
    pid: int | None
    uptime_seconds: float | None
    processes: int | None
    resident_bytes: int | None
    cpu_cores: float | None
    port: int
    port_listening: bool | None
    restarts: int
    crashes: int
    """Restarts without a stop before them."""
    workers_lost: int
    last_life: str | None
    last_life_utc: str | None


@dataclass(frozen=True)
class Cpu:
    """Processors. Percentages are of all cores together since the last run of the monitor; loads are runnable tasks."""

    count: int
    percent: float
    load_1min: float
    load_5min: float
    load_15min: float
    governors: dict[str, str]
    """Governor by processor number; empty: this host has no cpufreq (most virtual machines)."""
    iowait_percent: float | None = None
    steal_percent: float | None = None
    """Steal time: used by the hypervisor for others."""
    miner_percent: float | None = None
    """By the miner and its workers."""
    measured_seconds: float | None = None
    """Duration over which the percentages were measured."""


@dataclass(frozen=True)
class ProcessMemory:
    """One process of the miner."""

    pid: int
    role: str
    """main or worker."""
    resident_bytes: int
    """Memory shared with other processes is counted for each of them."""
    uptime_seconds: float


@dataclass(frozen=True)
class MinerProcess:
    """The process ``omron-miner serve`` and its workers."""

    pid: int
    processes: int
    uptime_seconds: float
    resident_bytes: int
    """Summed over the processes; memory they share is counted more than once."""
    cpu_cores: float
    """Average number of busy cores since the last run of the monitor."""
    by_process: list[ProcessMemory] = field(default_factory=list)
    """The main process first."""
    read_bytes_per_second: float | None = None
    """Read from disk: keys that were not in memory."""


@dataclass(frozen=True)
class Pressure:
    """Linux's pressure stall information: percent of the last five minutes in which some task had to wait."""

    cpu_percent: float | None
    memory_percent: float | None
    io_percent: float | None


@dataclass(frozen=True)
class Clock:
    """This host's clock, as far as is known locally."""

    synchronized: bool | None
    """According to systemd-timesyncd; None: it does not run, another program may set the clock."""
    step_seconds: float
    """Seconds by which the clock was stepped since the last run; 0: it was not."""


@dataclass(frozen=True)
class Versions:
    """Software versions. None: not installed, or not visible."""

    omron_miner: str
    python: str
    ezkl: str | None
    bittensor: str | None
    kernel: str
    system: str | None


@dataclass(frozen=True)
class Host:
    """This host at one moment."""

    name: str
    uptime_seconds: float | None
    cpu: Cpu
    memory: Memory
    ram_disk: RamDisk | None
    """None: the session directory's file system is not visible."""
    swap: list[SwapDevice] | None
    """Empty: no swap, as expected. None: /proc/swaps cannot be read."""
    disks: list[Disk]
    miner: MinerProcess | None
    port: int
    port_listening: bool | None
    pressure: Pressure = Pressure(None, None, None)
    clock: Clock = Clock(None, 0.0)
    circuit_keys_bytes: dict[str, int] = field(default_factory=dict)
    """Size of each circuit's proving key, by circuit id."""


@dataclass
class LogState:
    """How reading the log went in this run."""

    path: str
    state: str = "missing"
    """read, missing (no file at all) or unreadable (the current file exists and cannot be read)."""
    problems: list[str] = field(default_factory=list)
    """One sentence for every file that could not be read, or only in part."""
    files: int = 0
    """Files that were opened because they had new content."""
    lines: int = 0
    """New lines, readable or not; blank ones are not counted."""
    unreadable_lines: int = 0
    """Of these lines, the number that are not events."""
    window_unreadable_lines: int = 0
    """Unreadable lines found in the runs of the window."""
    half_written_line: bool = False
    """The current file ends in the middle of a line, which was still being written and counts next time."""
    older_files: int = 0
    """Rotated files last written before the retention period: not opened."""
    unread_bytes: int = 0
    """Bytes left for the next runs, because one run reads a limited amount; until then the numbers are incomplete."""
    future_events: int = 0
    """Events of the window dated after the run that read them (a clock was wrong); counted in that run's minute."""
    total_events: int = 0
    """Events read since the history was created."""


@dataclass(frozen=True)
class Overall:
    """The verdict: what an operator reads first."""

    overall: Verdict
    text: str
    targets: list[Target]
    warnings: list[str]
    """Conditions of host and log that threaten the targets; they do not change the verdict."""


@dataclass(frozen=True)
class Cause:
    """A likely cause and the evidence for it."""

    name: str
    """One word for programs, such as cpu_busy."""
    text: str
    evidence: list[str]
    """What was measured, with units."""
    command: str
    """The next command to run on the host."""


@dataclass(frozen=True)
class Answer:
    """One of an operator's questions, answered from what was measured."""

    question: str
    """slow, failed or memory."""
    title: str
    """Why are answers slow? Why does verification fail? Is memory sufficient?"""
    asked: bool
    """Whether there is a symptom in the last hour or day: slow answers, failures, memory that grows or is short."""
    symptom: str
    """The symptom, or that there is none."""
    causes: list[Cause]
    """Most likely first. Empty although `asked`: no measured cause was found."""
    command: str
    """Where to look when no cause was found."""


@dataclass(frozen=True)
class Alert:
    """A monitored condition."""

    name: str
    firing: bool
    text: str
    """What is wrong, with the measured value; when it does not fire, the current state; after `clearing: `, the current
    state of a condition that fires until it has been well for some minutes."""
    since_utc: str | None
    """When it started or, not firing, when it cleared. None: never fired."""
    undelivered: str
    """Why the last message about it was not delivered; it is retried at the next run. Empty: no message is pending."""


@dataclass(frozen=True)
class Change:
    """Something on this host that changed from one run to the next."""

    utc: str
    what: str
    before: str
    after: str


@dataclass(frozen=True)
class TimeTotal:
    """Cumulative histogram of request times since the counters started."""

    edges_seconds: list[float]
    at_most: list[int]
    """Number of requests that took at most the edge with the same index."""
    count: int
    """All requests, including those beyond the last edge."""
    sum_seconds: float


@dataclass(frozen=True)
class TimeTotals:
    """Proof, overhead and total of requests whose proof verified; queue of all requests."""

    proof: TimeTotal
    overhead: TimeTotal
    total: TimeTotal
    queue: TimeTotal


@dataclass(frozen=True)
class Totals:
    """Counters that only rise, over all runs: Prometheus computes rates from them."""

    since: float
    """When they started at 0: Unix seconds. A later time than before: they were reset."""
    requests: dict[str, int]
    """By outcome: verified, or the kind of failure."""
    life_events: dict[str, int]
    """The miner's own events: started, stopping, stopped, worker_lost, memory_disk_full."""
    times: TimeTotals


@dataclass(frozen=True)
class Sn2Failure:
    """Failed requests of the last day with the same text, ignoring numbers."""

    text: str
    count: int
    meaning: str | None
    """Its known meaning; None: not known."""
    is_upstreams: bool
    """Whether it is a known upstream bug that an operator cannot fix."""


@dataclass(frozen=True)
class Sn2Slice:
    """One slice of a circuit in the last day. Only what the log attributes to it, which on a busy miner is a part."""

    circuit: str
    slice: str
    requests: int
    proved: int
    """Proofs while only requests for this slice were open."""
    failed: int
    """Failures while only requests for this slice were open."""
    failure: str
    """Their most frequent text."""
    reference_seconds: float | None
    """The 10th percentile of its times; None: fewer than 8 are known."""


@dataclass(frozen=True)
class Sn2Validator:
    """A hotkey that shook hands with the miner in the last day, or with the running process."""

    hotkey: str
    handshakes: int
    last_utc: str | None
    """Time of the last handshake with the running process; None: only an earlier process had one."""
    connected: bool
    """Whether it shook hands with the running process. The log rarely reports the end of a connection."""


@dataclass(frozen=True)
class Sn2Refused:
    """Lines of the last day about a peer that was not served."""

    kind: str
    """no_permit, clock, bad_handshake, rate_limited, unauthenticated or full."""
    peer: str
    """Hotkey or address; empty: the line has none."""
    count: int
    recent: int
    """Of these lines, those in this and the previous hour."""
    known: bool
    """Whether this hotkey completed a handshake before."""


@dataclass(frozen=True)
class Sn2Recent:
    """This and the previous hour: the basis of the alerts."""

    ended: int
    failed: int
    circuit: str
    """Slice or circuit with the most frequent failure; empty: there is none."""
    slice: str
    failure: str
    """The text of the most frequent failure."""
    count: int
    """How often it occurred."""


@dataclass(frozen=True)
class Sn2Work:
    """An ESTIMATE of the work that validators credit for the last day, in seconds of reference time."""

    credit_seconds: float
    debit_seconds: float
    """Twice the reference time of each failure."""
    work_seconds: float
    """Credit less debit, halved for every two hours of age; at least 0."""
    ended: int
    """Finished requests; below 100 a validator gives no weight."""
    without_reference: int
    """Of these, requests for slices without a known reference time: neither credited nor debited."""
    assumptions: list[str]


@dataclass(frozen=True)
class Sn2:
    """Data from the log of upstream's sn2-miner. Tables cover the last day in whole hours, most frequent first."""

    version: str
    version_known: bool | None
    """Whether that release's log format is supported; None: the log does not name a release."""
    started_utc: str | None
    since_utc: str
    """Start of the last day in the tables."""
    unreadable_lines: int
    """Lines that do not have the log's format."""
    misfit_lines: int
    """Lines of a known kind that lack expected fields."""
    misfit: str
    """The first of them."""
    requests: int
    proofs: int
    failed: int
    timed_out: int
    last_request_utc: str | None
    last_proof_utc: str | None
    failures: list[Sn2Failure]
    slices: list[Sn2Slice]
    slices_seen: int
    validators: list[Sn2Validator]
    connected: int
    """Validators that shook hands with the running process."""
    connected_before: int
    """Validators that shook hands with the previous process."""
    returned: int
    """Of those, the number that also shook hands with the running process."""
    refused: list[Sn2Refused]
    registered: bool | None
    """Whether the running process announced itself on the chain, or already was; None: the log does not say."""
    announced: str
    """The announced address and port."""
    serve_error: str
    metagraph_failures: int
    loopback: bool
    circuits_loaded: int | None
    enforcing: bool | None
    """Whether the miner's allowlist drops all others; None: not evaluated yet."""
    coverage_percent: float | None
    """Stake of the validators that the allowlist knows."""
    recent: Sn2Recent
    work: Sn2Work


@dataclass(frozen=True)
class Provers:
    """The hosts that prove for this miner, as the miner reports every few seconds."""

    utc: str | None
    """When the miner reported them; None: it never did."""
    problem: str
    """Why this may be out of date; empty when it is current."""
    queued: int | None
    """Requests that wait for a host."""
    hosts: list[HostState]
    """The miner's own first, disconnected ones last."""


@dataclass(frozen=True)
class Summary:
    """summary.json, key by key."""

    schema_version: int
    version: str
    network: str
    time: float
    utc: str
    window_seconds: float
    window_start_utc: str
    """The window starts with these full ten minutes."""
    verdict: Overall
    requests: Requests
    circuits: list[CircuitRequests]
    """Of the window, busiest first."""
    validators: list[ValidatorRequests]
    """Of the window, busiest first."""
    periods: Periods
    histograms: Histograms
    recent: list[RecentRequest]
    """Newest first."""
    last_errors: list[ErrorLine]
    """Newest first."""
    miner: Miner
    host: Host
    versions: Versions
    log: LogState
    answers: list[Answer]
    """slow, failed, memory: in this order."""
    alerts: list[Alert]
    """Firing ones first."""
    changes: list[Change]
    """Of recent days, newest first."""
    history_seconds: float
    """How far back the history goes."""
    totals: Totals | None = None
    """None until a new history has caught up with the log."""
    engine: str = "ezkl"
    """ezkl: this product's own miner. sn2: upstream's sn2-miner."""
    sn2: Sn2 | None = None
    """None with the engine ezkl."""
    provers: Provers | None = None
    """None for a miner without prover hosts (`prover.engine` is local)."""
