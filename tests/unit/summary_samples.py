"""Summaries as an operator's hosts would have them, made without a log or a host: for what shows or collects them."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import cache

from omron_miner.monitor.history import Outcome
from omron_miner.monitor.model import (
    SCHEMA_VERSION,
    Alert,
    Answer,
    Cause,
    Change,
    CircuitRequests,
    CircuitSeconds,
    Clock,
    Cpu,
    Disk,
    ErrorLine,
    Histogram,
    Histograms,
    Host,
    HostState,
    LogState,
    Memory,
    Miner,
    MinerProcess,
    Overall,
    Period,
    Periods,
    Points,
    Pressure,
    ProcessMemory,
    Provers,
    RamDisk,
    RecentRequest,
    Requests,
    Sn2,
    Sn2Failure,
    Sn2Recent,
    Sn2Refused,
    Sn2Slice,
    Sn2Validator,
    Sn2Work,
    Stats,
    Summary,
    SwapDevice,
    Target,
    Totals,
    ValidatorRequests,
    Verdict,
    Versions,
)
from omron_miner.monitor.totals import add, begin, totals_of

NOW = 1_767_614_400.0
"""2026-01-05T12:00:00Z"""
GIB = 1024**3
UTC = "2026-01-05T12:00:00Z"


def sample_summary(name: str = "prover-1", seed: int = 1) -> Summary:
    """A tuned host that met every target over the day."""
    random.seed(seed)
    requests = _requests(1440)
    return Summary(
        schema_version=SCHEMA_VERSION,
        version="0.1.0",
        network="finney",
        time=NOW,
        utc=UTC,
        window_seconds=86_400.0,
        window_start_utc="2026-01-04T12:00:00Z",
        verdict=Overall(
            Verdict.MET, "TARGETS MET: 1440 of 1440 requests answered with a verified proof", _targets(), []
        ),
        requests=requests,
        circuits=[
            CircuitRequests("ab" * 32, "lstm v0.1.0 using EZKL", _requests(1000)),
            CircuitRequests("cd" * 32, "age v0.2.0 using EZKL", _requests(440)),
        ],
        validators=[
            ValidatorRequests(f"5{letter * 47}", _requests(count)) for letter, count in (("F", 800), ("G", 640))
        ],
        periods=Periods(
            hour=Period(3600, 60, _requests(60), _points(60, 60)),
            day=Period(86_400, 600, requests, _points(144, 600)),
            week=Period(604_800, 3600, _requests(10_080), _points(168, 3600)),
        ),
        histograms=Histograms(_histogram(20.0, 30), _histogram(1.2, 30), _histogram(21.2, 30)),
        recent=[
            RecentRequest(
                time=NOW - 40.0 * number,
                request_id=f"{number:032x}",
                circuit="lstm v0.1.0 using EZKL",
                validator_hotkey="5" + "F" * 47,
                failure=None,
                total_seconds=21.5,
                proof_seconds=20.3,
                overhead_seconds=1.2,
                queue_seconds=0.2,
            )
            for number in range(90)
        ],
        last_errors=[],
        miner=Miner(True, [], 812, 90_000.0, 2, 3 * GIB, 7.5, 8091, True, 0, 0, 0, "started", "2026-01-04T11:00:00Z"),
        host=_host(name),
        versions=Versions("0.1.0", "3.11.2", "22.0.1", "10.5.0", "6.1.0-18-amd64", "Debian GNU/Linux 12 (bookworm)"),
        log=LogState("/var/log/omron-miner/events.jsonl", "read", [], 1, 1, total_events=54_321),
        answers=[
            Answer("slow", "Why are answers slow?", False, "no: total p95 is 23.1 s in the last hour", [], ""),
            Answer("failed", "Why does verification fail?", False, "no failure in the window", [], ""),
            Answer(
                "memory", "Is memory sufficient?", False, "steady: the main process grew by 3.0 MiB in 24 h", [], ""
            ),
        ],
        alerts=[
            Alert("verification_failed", False, "no failed verification for 10 min", "2026-01-03T08:00:00Z", ""),
            Alert("success_below_target", False, "success is 100 % over 1 h", None, ""),
            Alert("p95_over_target", False, "total p95 is 23.1 s, target < 45 s", None, ""),
        ],
        changes=[Change("2026-01-03T07:58:00Z", "EZKL", "22.0.0", "22.0.1")],
        history_seconds=30 * 86_400.0,
        totals=_totals(),
    )


def bad_summary(name: str = "prover-2", seed: int = 2) -> Summary:
    """A host in trouble: failures of several kinds, slow proofs, swap on, alerts, causes, hostile texts."""
    good = sample_summary(name, seed)
    hostile = 'lstm <script>alert("1")</script> & "quotes" v9 using EZKL'
    requests = replace(
        good.requests,
        succeeded=1380,
        success_percent=100 * 1380 / 1440,
        failures={"timeout": 40, "verification_failed": 15, "queue_full": 5},
        timeouts=40,
        timed=1380,
        total_seconds=Stats(38.0, 36.5, 58.25, 61.0),
    )
    targets = [
        replace(target, value=95.833, over=60, verdict=Verdict.MISSED)
        if target.name == "success"
        else replace(target, value=58.25, over=300, verdict=Verdict.MISSED)
        if target.name == "total p95"
        else replace(target, value=40.0, over=40, verdict=Verdict.MISSED)
        if target.name == "timeouts"
        else target
        for target in good.verdict.targets
    ]
    return replace(
        good,
        verdict=Overall(
            Verdict.MISSED,
            "TARGETS MISSED: success, total p95, timeouts; 1380 of 1440 requests answered with a verified proof",
            targets,
            ["swap is on: /dev/sda2", "CPU governor is powersave, not performance"],
        ),
        requests=requests,
        circuits=[CircuitRequests("ef" * 32, hostile, requests)],
        host=replace(
            good.host,
            swap=[SwapDevice("/dev/sda2", 2 * GIB, GIB)],
            cpu=replace(good.host.cpu, governors={str(number): "powersave" for number in range(8)}, percent=99.0),
        ),
        last_errors=[
            ErrorLine("2026-01-05T11:59:00Z", "1f", "verification_failed", hostile, "5" + "F" * 47, "<b>EZKL</b> said"),
            ErrorLine("2026-01-05T11:50:00Z", "2f", "timeout", hostile, "5" + "G" * 47, "the deadline passed"),
        ],
        answers=[
            Answer(
                "slow",
                "Why are answers slow?",
                True,
                "total p95 is 58.2 s in the last hour, target < 45 s",
                [
                    Cause(
                        "cpu_busy",
                        "other processes use the CPU",
                        ["99 % of 8 cores busy over the last minute, the miner used 41 %"],
                        "top -o %CPU",
                    ),
                    Cause(
                        "governor",
                        "the CPU governor lets the clock down",
                        ["powersave on 8 of 8 CPUs"],
                        "ansible-playbook site.yml --tags cpu_governor",
                    ),
                ],
                "omron-miner doctor",
            ),
            Answer(
                "failed",
                "Why does verification fail?",
                True,
                "15 proofs did not verify in the window",
                [],
                "omron-miner circuit check --circuit lstm",
            ),
            good.answers[2],
        ],
        alerts=[
            Alert("swap_on", True, "swap is on: /dev/sda2", "2026-01-05T09:00:00Z", ""),
            Alert("p95_over_target", True, "total p95 is 58.2 s, target < 45 s", "2026-01-05T11:00:00Z", "timed out"),
            good.alerts[0],
        ],
    )


def empty_summary(name: str = "prover-3") -> Summary:
    """A host whose miner has not been asked yet."""
    good = sample_summary(name)
    none = Requests(0, 0, None, {}, 0, 0, 0, None, None, None, None, None)
    targets = [replace(target, value=None, over=0, verdict=Verdict.NO_DATA) for target in good.verdict.targets]
    nothing = Histogram([], [])
    periods = Periods(
        *(
            replace(period, requests=none, points=_no_points(len(period.points.start), period.step_seconds))
            for period in (good.periods.hour, good.periods.day, good.periods.week)
        )
    )
    return replace(
        good,
        verdict=Overall(Verdict.NO_DATA, "NO DATA YET: no request in the window", targets, []),
        requests=none,
        circuits=[],
        validators=[],
        periods=periods,
        histograms=Histograms(nothing, nothing, nothing),
        recent=[],
        changes=[],
        history_seconds=0.0,
        totals=totals_of(begin(NOW)),
    )


@cache  # hypothesis asks for a summary again and again
def _totals() -> Totals | None:
    """A month of requests: proofs of 15 to 29 s, three timeouts."""
    verified = [Outcome(NOW, True, None, False, 15.0 + n % 15, 1.2, 16.2 + n % 15, 0.2) for n in range(3000)]
    late = [Outcome(NOW, False, "timeout", False, 0.0, 0.0, 60.0, 30.0)] * 3
    return totals_of(add(begin(NOW - 30 * 86_400.0), [*verified, *late], {"started": 2, "worker_lost": 1}))


def _targets() -> list[Target]:
    return [
        Target("success", "≥", 100.0, "%", 100.0, 0, Verdict.MET),
        Target("proof p95", "≤", 30.0, "s", 23.4, 3, Verdict.MET),
        Target("overhead p95", "<", 5.0, "s", 1.6, 0, Verdict.MET),
        Target("total p95", "<", 45.0, "s", 24.8, 0, Verdict.MET),
        Target("timeouts", "≤", 0.0, "", 0.0, 0, Verdict.MET),
    ]


def _requests(count: int) -> Requests:
    return Requests(
        count=count,
        succeeded=count,
        success_percent=100.0,
        failures={},
        timeouts=0,
        constant_outputs=0,
        timed=count,
        proof_seconds=Stats(20.1, 20.0, 23.4, 31.2),
        overhead_seconds=Stats(1.2, 1.1, 1.6, 2.4),
        total_seconds=Stats(21.3, 21.1, 24.8, 32.9),
        queue_seconds=Stats(0.2, 0.0, 0.9, 1.4),
        last_utc="2026-01-05T11:59:00Z",
    )


def _points(steps: int, step: int) -> Points:
    start = [int(NOW) - (steps - number - 1) * step for number in range(steps)]
    # One gap, as after a reboot.
    there = [not steps // 2 <= number < steps // 2 + 3 for number in range(steps)]

    def wave(around: float, by: float) -> list[float | None]:
        return [
            around + by * math.sin(number / 7) + by * random.random() if there[number] else None  # noqa: S311
            for number in range(steps)
        ]

    def filled(values: list[float | None]) -> list[float]:
        return [value or 0.0 for value in values]

    return Points(
        start=start,
        requests=[step // 60 if one else 0 for one in there],
        failed=[0] * steps,
        proof_p50_seconds=wave(20, 1),
        proof_p95_seconds=wave(23, 2),
        proof_max_seconds=wave(26, 3),
        overhead_p50_seconds=wave(1, 0.1),
        overhead_p95_seconds=wave(1.5, 0.2),
        overhead_max_seconds=wave(2, 0.3),
        total_p50_seconds=wave(21, 1),
        total_p95_seconds=wave(24.5, 2),
        total_max_seconds=wave(28, 3),
        queue_p95_seconds=wave(0.5, 0.2),
        waiting=filled(wave(0.1, 0.05)),
        proving=filled(wave(0.5, 0.2)),
        cpu_percent=wave(70, 10),
        miner_cpu_percent=wave(66, 10),
        memory_used_percent=wave(35, 3),
        miner_resident_bytes=wave(3 * GIB, GIB / 8),
        main_resident_bytes=wave(GIB / 3, GIB / 200),
        ram_disk_used_bytes=wave(GIB, GIB / 100),
        session_bytes=wave(70_000, 9_000),
        swap_used_bytes=[0.0 if one else None for one in there],
    )


def _no_points(steps: int, step: int) -> Points:
    start = [int(NOW) - (steps - number - 1) * step for number in range(steps)]
    columns = {
        name: [0] * steps if name in ("requests", "failed") else [0.0] * steps if name in ("waiting", "proving") else []
        for name in Points.__dataclass_fields__
        if name != "start"
    }
    return Points(start=start, **{name: values or [None] * steps for name, values in columns.items()})  # type: ignore[arg-type]


def _histogram(around: float, bins: int) -> Histogram:
    width = around * 2 / bins
    counts = [round(300 * math.exp(-(((number - bins / 2) / 4) ** 2))) for number in range(bins)]
    return Histogram([round(number * width, 6) for number in range(bins + 1)], counts)


def _host(name: str) -> Host:
    return Host(
        name=name,
        uptime_seconds=890_061.0,
        cpu=Cpu(8, 63.0, 1.5, 1.25, 1.0, {str(number): "performance" for number in range(8)}, 0.5, 0.0, 60.0, 60.0),
        memory=Memory(32 * GIB, 20 * GIB),
        ram_disk=RamDisk(
            mount_point="/dev/shm",
            filesystem="tmpfs",
            options=["rw", "nosuid", "nodev"],
            size_bytes=24 * GIB,
            used_bytes=GIB,
            free_bytes=23 * GIB,
            session_directory="/dev/shm/omron-miner",
            session_files=3,
            session_bytes=70_000,
            oldest_session_file_seconds=4.0,
        ),
        swap=[],
        disks=[Disk("/var/lib/omron-miner", 200 * GIB, 100 * GIB)],
        miner=MinerProcess(
            pid=812,
            processes=2,
            uptime_seconds=90_000.0,
            resident_bytes=3 * GIB,
            cpu_cores=7.5,
            by_process=[
                ProcessMemory(812, "main", 350 * 1024**2, 90_000.0),
                ProcessMemory(9001, "worker", 3 * GIB - 350 * 1024**2, 200.0),
            ],
            read_bytes_per_second=0.0,
        ),
        port=8091,
        port_listening=True,
        pressure=Pressure(3.0, 0.0, 0.1),
        clock=Clock(True, 0.0),
        circuit_keys_bytes={"ab" * 32: 2 * GIB, "cd" * 32: GIB // 2},
    )


def sn2_summary(name: str = "sn2-1") -> Summary:
    """A host of upstream's sn2-miner, with a slice that upstream published incomplete."""
    hotkey, circuit = "5F3sa2TJAWMqDhXG6jhV4N8ko9SxwGy8TpaNS1repo5EYjQX", "ab" * 32
    text, meaning = "no stamped proof_config", "published without a proof configuration (upstream's issue 467)"
    found = Sn2(
        version="14.7.5", version_known=True, started_utc=UTC, since_utc=UTC, unreadable_lines=0, misfit_lines=0,
        misfit="", requests=1440, proofs=1400, failed=40, timed_out=0, last_request_utc=UTC, last_proof_utc=UTC,
        failures=[Sn2Failure(text, 40, meaning, is_upstreams=True)],
        slices=[
            Sn2Slice(circuit, "slice_17", 40, 0, 40, text, None), Sn2Slice(circuit, "slice_1", 70, 70, 0, "", 12.5),
        ],
        slices_seen=2, validators=[Sn2Validator(hotkey, 3, UTC, connected=True)], connected=1, connected_before=1,
        returned=1, refused=[Sn2Refused("clock", "", 2, 0, known=False)], registered=True,
        announced="203.0.113.7:8091", serve_error="", metagraph_failures=1, loopback=False, circuits_loaded=4,
        enforcing=True, coverage_percent=97.5, recent=Sn2Recent(60, 2, circuit, "slice_17", text, 2),
        work=Sn2Work(17_500.0, 1000.0, 2000.0, 1440, 40, ["an assumption"]),
    )  # fmt: skip
    return replace(sample_summary(name), engine="sn2", sn2=found)


def prover_summary(name: str = "miner-1") -> Summary:
    """A miner with two prover hosts, one of them switched off two hours ago."""
    first, second = CircuitSeconds(12.25, 11.5), CircuitSeconds(3.0, 2.75)
    both = {"ab" * 32: first, "cd" * 32: second}
    local = HostState("this host", "", True, "", NOW - 86_400, 2, 1, 1, 900, 1, pace=both)
    well = HostState("prover-1", "tls://10.0.0.2:8785", True, "", NOW - 3600, 2, 2, 2, 500, 0, pace={"ab" * 32: first})
    lost = replace(
        well, name="prover-2", address="tls://10.0.0.3:8785", gets_work=False, left=True, workers=0, running=0,
        failures=3, state="it left: it is no longer connected to the scheduler", since=NOW - 7200,
    )  # fmt: skip
    return replace(sample_summary(name), provers=Provers(UTC, "", 4, [local, well, lost]))
