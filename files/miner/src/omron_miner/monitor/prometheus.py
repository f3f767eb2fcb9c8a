"""The summary as metrics for Prometheus, in the text format that node_exporter's textfile collector reads.

Names follow Prometheus' rules: base units (seconds, bytes, ratios), a HELP and a TYPE line each. Values of a window or
of the present are gauges; values that only rise are counters or histograms, for rate() and histogram_quantile().
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from omron_miner.events import FailureKind
from omron_miner.monitor.model import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from omron_miner.monitor.model import HostState, Provers, Requests, Summary

FILE_NAME = "omron_miner.prom"
_Sample = tuple[dict[str, str], "float | None"]


def to_prometheus(summary: Summary) -> str:
    """The metrics. Labels without a value (no data, not available) are omitted, as is a metric without any value."""
    lines = []
    for name, text, samples in _metrics(summary):
        rows = [f"omron_{name}{_labels(labels)} {value!r}" for labels, value in samples if value is not None]
        if rows:
            lines += [f"# HELP omron_{name} {_escaped(text, False)}", f"# TYPE omron_{name} gauge", *rows]
    lines += [*_totals(summary), *_prover_totals(summary)]
    return "".join(f"{line}\n" for line in lines)


_HISTOGRAMS = {
    "proof": ("proof_seconds", "Time of witness and proof, of requests whose proof verified."),
    "overhead": ("overhead_seconds", "What is added to the proof, of requests whose proof verified."),
    "total": ("answer_seconds", "Time from the request to its answer, of requests whose proof verified."),
    "queue": ("queue_seconds", "Time that requests waited for a free prover."),
}


def _totals(summary: Summary) -> Iterator[str]:
    """Counters and histograms; every outcome is there from the start, at 0."""
    totals = summary.totals
    if totals is None:
        return
    for name, label, text, counts in (
        ("requests", "outcome", "Requests by outcome: verified, or the kind of failure.", totals.requests),
        ("miner_events", "event", "Lifecycle events that the miner logged.", totals.life_events),
    ):
        yield f"# HELP omron_{name}_total {text}"
        yield f"# TYPE omron_{name}_total counter"
        for what, count in counts.items():
            yield f"omron_{name}_total{_labels({label: what})} {count!r}"
    for key, (name, text) in _HISTOGRAMS.items():
        times = getattr(totals.times, key)
        yield f"# HELP omron_{name} {text}"
        yield f"# TYPE omron_{name} histogram"
        for edge, count in zip(times.edges_seconds, times.at_most, strict=True):
            yield f'omron_{name}_bucket{{le="{edge!r}"}} {count!r}'
        yield f'omron_{name}_bucket{{le="+Inf"}} {times.count!r}'
        yield f"omron_{name}_sum {times.sum_seconds!r}"
        yield f"omron_{name}_count {times.count!r}"


def _metrics(summary: Summary) -> Iterator[tuple[str, str, Iterable[_Sample]]]:
    yield from _of_the_run(summary)
    yield from _of_requests(summary)
    yield from _of_the_miner(summary)
    yield from _of_the_host(summary)
    yield from _of_sn2(summary)
    yield from _of_provers(summary)


def _of_the_run(summary: Summary) -> Iterator[tuple[str, str, Iterable[_Sample]]]:
    versions, overall = summary.versions, summary.verdict.overall
    yield (
        "info",
        "Versions; always 1.",
        [
            (
                {
                    "version": versions.omron_miner,
                    "ezkl": versions.ezkl or "",
                    "network": summary.network,
                    "kernel": versions.kernel,
                },
                1,
            )
        ],
    )
    yield "last_run_timestamp_seconds", "When the monitor last ran.", [({}, summary.time)]
    yield (
        "window_seconds",
        "How long ago the window of the omron_window_ metrics starts.",
        [({}, summary.window_seconds)],
    )
    yield (
        "verdict",
        "1 for the verdict that holds: met, missed, no_data or not_running.",
        [({"verdict": one.value}, int(one is overall)) for one in Verdict],
    )
    yield (
        "target_met",
        "Whether the target is met in the window; absent without data.",
        [
            ({"target": one.name}, int(one.verdict is Verdict.MET) if one.value is not None else None)
            for one in summary.verdict.targets
        ],
    )
    yield (
        "alert_firing",
        "Whether the monitor's own alert of that name fires.",
        [({"alert": one.name}, int(one.firing)) for one in summary.alerts],
    )
    yield (
        "cause",
        "A likely cause that the monitor found for slow answers, failed proofs or memory; always 1.",
        [
            ({"question": answer.question, "cause": cause.name}, 1)
            for answer in summary.answers
            for cause in answer.causes
        ],
    )
    yield "log_unread_bytes", "Part of the event log that the next runs have to read.", [({}, summary.log.unread_bytes)]


def _of_requests(summary: Summary) -> Iterator[tuple[str, str, Iterable[_Sample]]]:
    requests, hour = summary.requests, summary.periods.hour.requests
    kinds = list(dict.fromkeys([*(kind.value for kind in FailureKind), *requests.failures]))
    yield "window_requests", "Requests in the window.", [({}, requests.count)]
    yield (
        "window_requests_succeeded",
        "Requests in the window answered with a verified proof.",
        [({}, requests.succeeded)],
    )
    yield (
        "window_requests_failed",
        "Requests in the window that failed, by kind.",
        [({"kind": kind}, requests.failures.get(kind, 0)) for kind in kinds],
    )
    yield (
        "window_success_ratio",
        "Share of the window's requests that succeeded.",
        [({}, _ratio(requests.success_percent))],
    )
    yield (
        "hour_success_ratio",
        "Share of the last hour's requests that succeeded.",
        [({}, _ratio(hour.success_percent))],
    )
    yield "hour_requests", "Requests in the last hour.", [({}, hour.count)]
    yield "hour_timeouts", "Timeouts in the last hour.", [({}, hour.timeouts)]
    yield (
        "window_constant_outputs",
        "Requests with the same output as several before.",
        [({}, requests.constant_outputs)],
    )
    for period, one in (("window", requests), ("hour", hour)):
        for name in ("proof", "overhead", "total", "queue"):
            yield (
                f"{period}_{name}_seconds",
                f"{name.capitalize()} time of requests in the {period}.",
                _times(one, name),
            )
    yield "target_seconds", "Target of the p95 of each time.", [
        ({"time": one.name.removesuffix(" p95")}, one.wanted) for one in summary.verdict.targets if one.unit == "s"
    ]  # fmt: skip
    yield "target_success_ratio", "Least share of requests that should succeed.", [
        ({}, _ratio(one.wanted)) for one in summary.verdict.targets if one.name == "success"
    ]  # fmt: skip
    for kind, label, groups in (
        ("circuit", "circuit", [(one.circuit or "unknown", one.circuit_id, one.requests) for one in summary.circuits]),
        ("validator", "hotkey", [(one.validator_hotkey or "others", "", one.requests) for one in summary.validators]),
    ):
        labels = [
            {label: name, **({"circuit_id": identity} if kind == "circuit" else {})} for name, identity, _ in groups
        ]
        of = [one for _, _, one in groups]
        rows = list(zip(labels, of, strict=True))
        yield f"{kind}_window_requests", f"Requests in the window, by {kind}.", [(by, one.count) for by, one in rows]
        yield (
            f"{kind}_window_success_ratio",
            f"Share of the window's requests that succeeded, by {kind}.",
            [(by, _ratio(one.success_percent)) for by, one in rows],
        )
        yield (
            f"{kind}_window_total_seconds",
            f"Total time of requests in the window, by {kind}.",
            [({**by, **at}, value) for by, one in rows for at, value in _times(one, "total")],
        )


def _of_the_miner(summary: Summary) -> Iterator[tuple[str, str, Iterable[_Sample]]]:
    miner = summary.miner
    yield "miner_up", "Whether the miner runs and listens.", [({}, int(miner.running))]
    yield "miner_uptime_seconds", "How long its process runs.", [({}, miner.uptime_seconds)]
    yield "miner_window_restarts", "Restarts in the window.", [({}, miner.restarts)]
    yield "miner_window_crashes", "Restarts in the window without a stop before.", [({}, miner.crashes)]
    yield "miner_window_workers_lost", "Workers that died in the window.", [({}, miner.workers_lost)]
    process = summary.host.miner
    if process is None:
        return
    roles = ("main", "worker")
    resident = {role: sum(one.resident_bytes for one in process.by_process if one.role == role) for role in roles}
    yield (
        "miner_resident_bytes",
        "Memory of the miner's processes; what they share is counted in each.",
        [({"role": role}, resident[role]) for role in roles],
    )
    yield "miner_processes", "Processes of the miner, workers included.", [({}, process.processes)]
    yield "miner_cpu_cores", "Cores the miner kept busy since the last run.", [({}, process.cpu_cores)]
    yield "miner_read_bytes_per_second", "What the miner reads from disk.", [({}, process.read_bytes_per_second)]


def _of_the_host(summary: Summary) -> Iterator[tuple[str, str, Iterable[_Sample]]]:
    host = summary.host
    cpu, disk = host.cpu, host.ram_disk
    yield (
        "host_cpu_ratio",
        "Share of all cores, since the last run.",
        [
            ({"mode": "busy"}, _ratio(cpu.percent)),
            ({"mode": "miner"}, _ratio(cpu.miner_percent)),
            ({"mode": "iowait"}, _ratio(cpu.iowait_percent)),
            ({"mode": "steal"}, _ratio(cpu.steal_percent)),
        ],
    )
    governors = list(cpu.governors.values())
    yield (
        "host_governor_cpus",
        "Processors by governor.",
        [({"governor": one}, governors.count(one)) for one in sorted(set(governors))],
    )
    yield "host_memory_bytes", "RAM.", [({}, host.memory.total_bytes)]
    yield "host_memory_available_bytes", "RAM available without swapping.", [({}, host.memory.available_bytes)]
    swap = None if host.swap is None else sum(one.size_bytes for one in host.swap)
    yield "host_swap_bytes", "Swap that is on; 0 is expected.", [({}, swap)]
    yield (
        "host_pressure_ratio",
        "Share of the last five minutes in which at least one task waited.",
        [
            ({"resource": "cpu"}, _ratio(host.pressure.cpu_percent)),
            ({"resource": "memory"}, _ratio(host.pressure.memory_percent)),
            ({"resource": "io"}, _ratio(host.pressure.io_percent)),
        ],
    )
    if disk is not None:
        yield "ram_disk_bytes", "Size of the RAM disk.", [({}, disk.size_bytes)]
        yield "ram_disk_used_bytes", "Used on the RAM disk by all programs.", [({}, disk.used_bytes)]
        yield "session_bytes", "Temporary files of requests.", [({}, disk.session_bytes)]
        yield "session_files", "Temporary files of requests.", [({}, disk.session_files)]
    yield "host_clock_step_seconds", "Clock step since the last run.", [({}, host.clock.step_seconds)]


def _provers_now(summary: Summary) -> Provers | None:
    """None where they are not known now: what the miner reported before it stopped is not a metric."""
    return summary.provers if summary.provers and not summary.provers.problem else None


def _by_labels(hosts: Iterable[HostState]) -> list[tuple[dict[str, str], HostState]]:
    return [({"host": one.name, "address": one.address}, one) for one in hosts]


def _of_provers(summary: Summary) -> Iterator[tuple[str, str, Iterable[_Sample]]]:
    if (found := _provers_now(summary)) is None:
        return
    hosts = _by_labels(found.hosts)
    yield "prover_queued_requests", "Requests that wait for a prover host.", [({}, found.queued)]
    yield (
        "prover_host_up",
        "Whether the prover host gets work.",
        [(labels, int(one.gets_work)) for labels, one in hosts],
    )
    here = [(labels, one) for labels, one in hosts if not one.left]
    yield "prover_host_workers", "Warm workers of the prover host.", [(labels, one.workers) for labels, one in here]
    yield "prover_host_proving", "Proofs running on the prover host.", [(labels, one.running) for labels, one in here]
    yield (
        "prover_host_circuits",
        "Circuits that the prover host may prove.",
        [(labels, one.circuits) for labels, one in here],
    )
    yield (
        "prover_host_pace_seconds",
        "What the next proof of the circuit is expected to take there if it runs alone.",
        [
            ({**labels, "circuit": name}, pace.expected_seconds)
            for labels, one in here
            for name, pace in one.pace.items()
        ],
    )


def _prover_totals(summary: Summary) -> Iterator[str]:
    """Counters of each prover host, which start at 0 when the miner starts."""
    if (found := _provers_now(summary)) is None:
        return
    for name, text, attribute in (
        ("prover_host_proofs", "Verified proofs of the prover host.", "proofs"),
        ("prover_host_failures", "Proofs that failed on the prover host, or were lost with it.", "failures"),
    ):
        rows = [
            f"omron_{name}_total{_labels(labels)} {getattr(one, attribute)!r}"
            for labels, one in _by_labels(found.hosts)
            if not one.left
        ]
        if rows:
            yield from (f"# HELP omron_{name}_total {text}", f"# TYPE omron_{name}_total counter", *rows)


def _of_sn2(summary: Summary) -> Iterator[tuple[str, str, Iterable[_Sample]]]:
    """Of the last day, in whole hours."""
    if (found := summary.sn2) is None:
        return
    yield (
        "sn2_info",
        "Release of sn2-miner, and whether its log lines are known here; always 1.",
        [({"version": found.version, "known": str(found.version_known is True).lower()}, 1)],
    )
    yield "sn2_day_requests", "Requests of the last day.", [({}, found.requests)]
    yield "sn2_day_proofs", "Proofs of the last day.", [({}, found.proofs)]
    yield (
        "sn2_day_failures",
        "Failed requests of the last day, by whether upstream knows of the failure.",
        [
            ({"upstream": word}, sum(one.count for one in found.failures if one.is_upstreams is is_upstreams))
            for word, is_upstreams in (("yes", True), ("no", False))
        ],
    )
    kinds = dict.fromkeys(one.kind for one in found.refused)
    yield (
        "sn2_day_refused",
        "Log lines of the last day about peers that were not served, by kind.",
        [({"kind": kind}, sum(one.count for one in found.refused if one.kind == kind)) for kind in kinds],
    )
    yield (
        "sn2_log_misfit_lines",
        "Log lines of the last day in an unknown format.",
        [({}, found.misfit_lines)],
    )
    yield "sn2_validators_connected", "Validators with a handshake since the start.", [({}, found.connected)]
    yield "sn2_registered", "Whether it is announced on the chain.", [
        ({}, None if found.registered is None else int(found.registered))
    ]  # fmt: skip
    yield "sn2_allowlist_enforcing", "Whether its allowlist drops all others.", [
        ({}, None if found.enforcing is None else int(found.enforcing))
    ]  # fmt: skip
    yield (
        "sn2_allowlist_coverage_ratio",
        "Stake of the validators that its allowlist knows.",
        [({}, _ratio(found.coverage_percent))],
    )
    yield (
        "sn2_work_estimate_seconds",
        "ESTIMATE of the last day's work in seconds of reference time: credit, debit, and the balance by age.",
        [
            ({"part": "credit"}, found.work.credit_seconds),
            ({"part": "debit"}, found.work.debit_seconds),
            ({"part": "balance"}, found.work.work_seconds),
        ],
    )


def _times(requests: Requests, name: str) -> list[_Sample]:
    stats = getattr(requests, f"{name}_seconds")
    if stats is None:
        return []
    # Not "quantile": that label is reserved for summaries.
    return [({"stat": key}, getattr(stats, key)) for key in ("mean", "p50", "p95", "max")]


def _ratio(percent: float | None) -> float | None:
    return None if percent is None else round(percent / 100, 6)


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value, True)}"' for name, value in labels.items()) + "}"


def _escaped(text: str, quotes: bool) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    # A caller may send a lone surrogate, which cannot be written as UTF-8.
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text.replace('"', '\\"') if quotes else text
