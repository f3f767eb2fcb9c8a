"""The shape of a summary: every number that summary.json, summary.txt and summary.html show, and nothing else.

Plain frozen dataclasses. Keys that hold a quantity end in its unit; ``None`` means "cannot be had" or "no data",
never 0. Times in numbers are Unix seconds, in text UTC (``2026-01-05T12:00:00Z``). ``docs/summary.md`` and
``summary.schema.json`` are generated from this module.

Percentiles come from histograms with log-spaced buckets (`sketch`): at most `sketch.RELATIVE_ERROR` off, never beyond
the true least and largest value. Whether a target is met is decided by exact counts, not by them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

SCHEMA_VERSION = 2
"""Of summary.json: raised when a key is renamed, removed or changes its meaning, not when one is added."""


class Verdict(str, Enum):
    """How one target stands, or all of them."""

    MET = "met"
    MISSED = "missed"
    NO_DATA = "no_data"
    NOT_RUNNING = "not_running"
    """Overall only: the miner answers nobody, whatever it did before."""


@dataclass(frozen=True)
class Stats:
    """Seconds over some requests. p50 and p95 are the smallest values that 50 and 95 % do not exceed."""

    mean: float
    p50: float
    p95: float
    max: float


@dataclass(frozen=True)
class Target:
    """One target: `value` `comparison` `wanted` is wanted, in `unit`."""

    name: str
    """success, proof p95, overhead p95, total p95 or timeouts."""
    comparison: str
    """≥, ≤ or <."""
    wanted: float
    unit: str
    """%, s or empty."""
    value: float | None
    over: int
    """Single requests that were over it, counted exactly."""
    verdict: Verdict


@dataclass(frozen=True)
class Requests:
    """What became of some requests."""

    count: int
    succeeded: int
    success_percent: float | None
    failures: dict[str, int]
    """By kind, the commonest first."""
    timeouts: int
    constant_outputs: int
    timed: int
    """Requests that the times below are of: those whose proof verified."""
    proof_seconds: Stats | None
    overhead_seconds: Stats | None
    total_seconds: Stats | None
    queue_seconds: Stats | None
    """Time waited for a free prover, of all requests."""
    last_utc: str | None
    """When the last one ended, to the minute it is counted in."""


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
    """A period in steps of equal length, the oldest first; every list has one value for each step.

    The last step is not over yet. None: no timed request, or no run of the monitor, in that step.
    """

    start: list[int]
    """When the step begins: Unix seconds, UTC."""
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
    """Time waited for a free prover."""
    waiting: list[float]
    """Requests waiting for a prover, on average over the step."""
    proving: list[float]
    """Requests being proved, on average over the step: what marks proofs in the plots of the host."""
    cpu_percent: list[float | None]
    """Of all cores together, whoever used them."""
    miner_cpu_percent: list[float | None]
    """Of all cores together, by the miner and its workers."""
    memory_used_percent: list[float | None]
    """Of all RAM: what could not be had without swapping."""
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
    """Its kind; None: answered with a verified proof."""
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
    """The miner's process and what the log says of its life in the window."""

    running: bool
    reasons: list[str]
    """Why it counts as not running; empty when it runs."""
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
    """Taken by the hypervisor for others."""
    miner_percent: float | None = None
    """By the miner and its workers."""
    measured_seconds: float | None = None
    """How long the percentages were measured."""


@dataclass(frozen=True)
class Memory:
    """RAM; `available_bytes` is what could be had without swapping."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True)
class RamDisk:
    """The file system below the session directory and what lies in that directory."""

    mount_point: str
    filesystem: str
    options: list[str]
    size_bytes: int
    used_bytes: int
    free_bytes: int
    session_directory: str
    session_files: int | None
    """None: the directory is missing or not readable."""
    session_bytes: int | None
    oldest_session_file_seconds: float | None
    """Age of the oldest file; None without files."""


@dataclass(frozen=True)
class SwapDevice:
    """A swap partition, file or zram device that is on."""

    name: str
    size_bytes: int
    used_bytes: int


@dataclass(frozen=True)
class Disk:
    """A file system that we write to; `free_bytes` is what an unprivileged user may still write."""

    path: str
    size_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class ProcessMemory:
    """One process of the miner."""

    pid: int
    role: str
    """main or worker."""
    resident_bytes: int
    """Memory it shares with others is counted in each."""
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
    """Cores kept busy since the last run of the monitor."""
    by_process: list[ProcessMemory] = field(default_factory=list)
    """The main process first."""
    read_bytes_per_second: float | None = None
    """Fetched from disk: keys that were not in memory."""


@dataclass(frozen=True)
class Pressure:
    """Linux's pressure stall information: percent of the last five minutes in which some task had to wait."""

    cpu_percent: float | None
    memory_percent: float | None
    io_percent: float | None


@dataclass(frozen=True)
class Clock:
    """This host's clock, as far as it can be seen without asking another."""

    synchronized: bool | None
    """What systemd-timesyncd says; None: it is not there, another program may do it."""
    step_seconds: float
    """How far the clock was set since the last run; 0: it was not."""


@dataclass(frozen=True)
class Versions:
    """What runs here. None: not installed, or not to be seen."""

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
    """None: the session directory's file system cannot be seen."""
    swap: list[SwapDevice] | None
    """Empty: no swap, as it should be. None: /proc/swaps cannot be read."""
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
    """What became of reading the log in this run."""

    path: str
    state: str = "missing"
    """read, missing (no file at all) or unreadable (the current file exists and cannot be read)."""
    problems: list[str] = field(default_factory=list)
    """One sentence for every file that could not be read, or only in part."""
    files: int = 0
    """Files that were opened because they held something new."""
    lines: int = 0
    """New lines, readable or not; blank ones are not counted."""
    unreadable_lines: int = 0
    """Of them: not events."""
    window_unreadable_lines: int = 0
    """Unreadable lines found in the runs of the window."""
    half_written_line: bool = False
    """The current file ends in the middle of a line: it was being written just then and counts next time."""
    older_files: int = 0
    """Rotated files last written before anything that is kept: not opened."""
    unread_bytes: int = 0
    """Left for the next runs because one run reads only so much; until then the numbers are not complete."""
    future_events: int = 0
    """Events of the window dated after the run that read them: counted in that minute, but a clock was wrong."""
    total_events: int = 0
    """Read since the history was begun."""


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
    """Why are answers slow? Why does verification fail? What does memory do?"""
    asked: bool
    """Whether there is a sign of it in the last hour or day: slow answers, failures, memory that grows or is short."""
    symptom: str
    """What that sign is, or that there is none."""
    causes: list[Cause]
    """The likeliest first. Empty though asked: nothing that is measured explains it."""
    command: str
    """Where to look when no cause was found."""


@dataclass(frozen=True)
class Alert:
    """A condition that is watched."""

    name: str
    firing: bool
    text: str
    """What is wrong, with the measured value; when it does not fire, what would be."""
    since_utc: str | None
    """When it began or, not firing, when it cleared. None: never fired."""
    undelivered: str
    """Why the last message about it did not get out; it is sent again next time. Empty: nothing is waiting."""


@dataclass(frozen=True)
class Change:
    """Something of this host that is different from one run to the next."""

    utc: str
    what: str
    before: str
    after: str


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
    """The window begins with these full ten minutes."""
    verdict: Overall
    requests: Requests
    circuits: list[CircuitRequests]
    """Of the window, the busiest first."""
    validators: list[ValidatorRequests]
    """Of the window, the busiest first."""
    periods: Periods
    histograms: Histograms
    recent: list[RecentRequest]
    """The newest first."""
    last_errors: list[ErrorLine]
    """The newest first."""
    miner: Miner
    host: Host
    versions: Versions
    log: LogState
    answers: list[Answer]
    """slow, failed, memory: in this order."""
    alerts: list[Alert]
    """Those that fire first."""
    changes: list[Change]
    """Of the last days, the newest first."""
    history_seconds: float
    """How far the kept history reaches back."""
