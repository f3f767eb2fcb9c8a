"""Why is it slow, why does verification fail, is memory sufficient: likely causes, each with its measured evidence.

A cause is reported only with measured evidence, and never when nothing is wrong: no symptom, no cause. For a symptom
without evidence the answer gives the command that shows more.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from omron_miner.circuits.circuit import ProofSystem
from omron_miner.circuits.folders import compiled_by
from omron_miner.circuits.needs import least_memory
from omron_miner.formatting import MIB, duration, size
from omron_miner.monitor.alerts import daily_growth
from omron_miner.monitor.model import Answer, Cause, Verdict
from omron_miner.monitor.summarize import LEFT_BEHIND_SECONDS, LOW_MEMORY_SHARE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omron_miner.constants import Constants
    from omron_miner.monitor.history import History
    from omron_miner.monitor.model import Change, CircuitRequests, Sn2, Sn2Failure, Summary

OTHER_CPU_PERCENT = 15.0
"""Share of all cores used by other processes while the miner proves: proofs are slower by as much."""
FULL_CPU_PERCENT = 85.0
STEAL_PERCENT = 5.0
PRESSURE_PERCENT = 10.0
IOWAIT_PERCENT = 10.0
COLD_BYTES_PER_SECOND = 20.0 * MIB
"""Reading a key of 1 GiB at this rate takes 51 s; a miner whose keys are in memory reads next to nothing."""
_PROVING = 0.05


class _Evidence:
    """Evidence for the causes: the summary, the host's averages over the last hour, the windows' failures."""

    def __init__(self, history: History, summary: Summary, constants: Constants) -> None:
        self.summary, self.constants = summary, constants
        self.growth = daily_growth(history, summary)
        points = summary.periods.hour.points
        busy = {start for start, proving in zip(points.start, points.proving, strict=True) if proving > _PROVING}
        looks = history.samples(60, points.start[0])
        # Other load matters while proofs are running; without any proofs, the whole hour counts.
        self.looks = [look for start, look in looks.items() if start in busy] or list(looks.values())

    def mean(self, name: str) -> float | None:
        """The average of one measured quantity over the readings of the last hour."""
        values = [look[name] for look in self.looks if name in look]
        return sum(values) / len(values) if values else None


def answer(history: History, summary: Summary, constants: Constants) -> list[Answer]:
    """The three answers: slow, failed, memory."""
    evidence = _Evidence(history, summary, constants)
    failed = _failed_of_sn2(summary, summary.sn2) if summary.sn2 else _failed(evidence)
    return [_slow(evidence), failed, _memory(evidence)]


# --- slow -----------------------------------------------------------------------------------------------------------


def _slow(evidence: _Evidence) -> Answer:
    symptom = _slow_symptom(evidence.summary)
    causes = list(_slow_causes(evidence)) if symptom else []
    return Answer(
        question="slow",
        title="Why are answers slow?",
        asked=bool(symptom),
        symptom=symptom or "no target of time is missed, and there is no timeout",
        causes=causes,
        command="omron-miner doctor",
    )


def _slow_symptom(summary: Summary) -> str:
    found = [
        f"{target.name} is {target.value:.1f} s, target {target.comparison} {target.wanted:g} s"
        for target in summary.verdict.targets
        if target.unit == "s" and target.verdict is Verdict.MISSED and target.value is not None
    ]
    if summary.requests.timeouts:
        found.append(f"{summary.requests.timeouts} of {summary.requests.count} requests timed out")
    return "; ".join(found)


def _slow_causes(evidence: _Evidence) -> Iterator[Cause]:
    yield from _processors(evidence)
    yield from _slow_memory(evidence)
    yield from _slow_disks(evidence)
    yield from _queue(evidence)
    yield from _large_circuits(evidence)


def _processors(evidence: _Evidence) -> Iterator[Cause]:
    host = evidence.summary.host
    busy, miner = evidence.mean("cpu_percent"), evidence.mean("miner_cpu_percent")
    cores = f"of {host.cpu.count} cores in the last hour"
    if busy is not None and miner is not None and busy >= FULL_CPU_PERCENT and busy - miner >= OTHER_CPU_PERCENT:
        yield Cause(
            "cpu_busy",
            "other processes use the CPU",
            [f"{busy:.0f} % {cores} were busy, the miner used {miner:.0f} %"],
            "ps -eo pid,user,pcpu,comm --sort=-pcpu | head",
        )
    stolen = evidence.mean("steal_percent")
    if stolen is not None and stolen >= STEAL_PERCENT:
        yield Cause(
            "cpu_stolen",
            "the hypervisor steals CPU time from this machine",
            [f"steal time was {stolen:.0f} % {cores}"],
            "vmstat 1 5",
        )
    slow = {number: one for number, one in host.cpu.governors.items() if one != "performance"}
    if slow:
        kinds = ", ".join(sorted(set(slow.values())))
        yield Cause(
            "governor",
            "the CPU governor does not keep the processors at full speed",
            [f"{kinds} on {len(slow)} of {len(host.cpu.governors)} CPUs"],
            "cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
        )


def _slow_memory(evidence: _Evidence) -> Iterator[Cause]:
    host = evidence.summary.host
    found = []
    if (host.pressure.memory_percent or 0) >= PRESSURE_PERCENT:
        found.append(f"tasks waited for memory {host.pressure.memory_percent:.0f} % of the last 5 min")
    swapped = sum(device.used_bytes for device in host.swap or [])
    if swapped:
        found.append(f"{size(swapped)} are swapped out")
    if host.memory.available_bytes < LOW_MEMORY_SHARE * host.memory.total_bytes:
        found.append(f"{size(host.memory.available_bytes)} of {size(host.memory.total_bytes)} are available")
    if found:
        yield Cause("memory_pressure", "memory is short", found, "free -h; ps -eo pid,user,rss,comm --sort=-rss | head")
    disk = host.ram_disk
    if disk is None:
        return
    found = []
    if (disk.oldest_session_file_seconds or 0) > LEFT_BEHIND_SECONDS:
        age = duration(disk.oldest_session_file_seconds)
        found.append(f"{disk.session_files} files, {size(disk.session_bytes)}, the oldest {age} old")
    if disk.free_bytes < evidence.constants.sessions.minimum_free_bytes:
        found.append(f"{size(disk.free_bytes)} of {size(disk.size_bytes)} are free: requests use the disk instead")
    if found:
        yield Cause(
            "temporary_files",
            f"temporary files were left behind on {disk.mount_point}",
            found,
            f"ls -lA --time-style=long-iso {disk.session_directory}; du -sh {disk.mount_point}/*",
        )
    if disk.filesystem not in ("tmpfs", "ramfs"):
        yield Cause(
            "no_ram_disk",
            "temporary files are not on a RAM disk",
            [f"{disk.session_directory} is on {disk.filesystem}"],
            f"findmnt --target {disk.session_directory}",
        )


def _slow_disks(evidence: _Evidence) -> Iterator[Cause]:
    host = evidence.summary.host
    found = []
    waited, pressure = evidence.mean("iowait_percent"), host.pressure.io_percent
    if waited is not None and waited >= IOWAIT_PERCENT:
        found.append(f"processors waited for disks {waited:.0f} % of the last hour")
    if pressure is not None and pressure >= PRESSURE_PERCENT:
        found.append(f"tasks waited for disks {pressure:.0f} % of the last 5 min")
    read = evidence.mean("miner_read_bytes_per_second")
    cold = read is not None and read >= COLD_BYTES_PER_SECOND
    if read is not None and cold:
        keys = sum(host.circuit_keys_bytes.values())
        yield Cause(
            "cold_keys",
            "proving keys are read from disk again and again",
            [
                f"the miner read {size(read)}/s from disk in the last hour",
                f"the keys are {size(keys)}, memory available is {size(host.memory.available_bytes)}",
            ],
            "omron-miner circuit list; free -h",
        )
    if found:
        yield Cause("disk_io", "disks are busy", found, "cat /proc/pressure/io; iostat -x 1 5")


def _queue(evidence: _Evidence) -> Iterator[Cause]:
    hour = evidence.summary.periods.hour
    requests = hour.requests if hour.requests.count else evidence.summary.requests
    limit = evidence.constants.monitor.target_overhead_seconds
    found = []
    queue = requests.queue_seconds
    if queue is not None and queue.p95 >= limit / 2:
        found.append(f"5 % of the requests waited {queue.p95:.1f} s or more for a free prover")
    if full := requests.failures.get("queue_full", 0):
        found.append(f"{full} of {requests.count} were refused because none became free")
    if found:
        waiting = max(hour.points.waiting)
        found.append(f"up to {waiting:.1f} requests waited concurrently (average over a minute, in the last hour)")
        yield Cause(
            "queueing",
            "more requests arrive at once than the host can prove",
            found,
            "omron-miner monitor --json | grep '\"recent\"'",
        )


def _large_circuits(evidence: _Evidence) -> Iterator[Cause]:
    """Only when the miner had the processors to itself: else proving times say nothing about the circuits."""
    busy, miner = evidence.mean("cpu_percent"), evidence.mean("miner_cpu_percent")
    if busy is None or miner is None or busy - miner >= OTHER_CPU_PERCENT:
        return
    wanted = evidence.constants.monitor.target_proof_seconds
    slow = [
        one
        for one in evidence.summary.circuits
        if one.circuit and one.requests.proof_seconds is not None and one.requests.proof_seconds.p50 > wanted
    ]
    if slow:
        yield Cause(
            "large_circuit",
            "circuits are too large for this host's processors",
            [
                f"half of the proofs of {one.circuit} took {one.requests.proof_seconds.p50:.1f} s or more"
                for one in slow[:3]
                if one.requests.proof_seconds is not None
            ]
            + [f"other processes used {max(0.0, busy - miner):.0f} % of {evidence.summary.host.cpu.count} cores"],
            "omron-miner circuit list",
        )


# --- failed ---------------------------------------------------------------------------------------------------------

_PROOF_FAILURES = ("verification_failed", "proving_failed", "worker_crashed", "internal_error")


def _failed(evidence: _Evidence) -> Answer:
    requests = evidence.summary.requests
    kinds = {kind: count for kind, count in requests.failures.items() if kind in _PROOF_FAILURES}
    asked = bool(kinds)
    counted = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
    return Answer(
        question="failed",
        title="Why does verification fail?",
        asked=asked,
        symptom=f"of {requests.count} requests failed: {counted}" if asked else "no proof failed in the window",
        causes=list(_failed_causes(evidence)) if asked else [],
        command="tail -n 100 /var/log/omron-miner/miner.log; omron-miner doctor",
    )


def _failed_causes(evidence: _Evidence) -> Iterator[Cause]:
    failing = [one for one in evidence.summary.circuits if _proof_failures(one)]
    yield from _changed_circuits(evidence, failing)
    yield from _ezkl(evidence, failing)
    yield from _one_circuit(evidence, failing)
    yield from _resources(evidence)
    yield from _logged(evidence)


def _proof_failures(one: CircuitRequests) -> int:
    return sum(one.requests.failures.get(kind, 0) for kind in _PROOF_FAILURES)


def _check(one: CircuitRequests) -> str:
    return f"omron-miner circuit check --circuit {one.circuit_id or 'NAME'}"


def _recent_changes(evidence: _Evidence, what: str) -> list[Change]:
    since = evidence.summary.window_start_utc
    return [one for one in evidence.summary.changes if one.what == what and one.utc >= since]


def _changed_circuits(evidence: _Evidence, failing: list[CircuitRequests]) -> Iterator[Cause]:
    for one in failing:
        changes = _recent_changes(evidence, f"circuit {one.circuit_id}") if one.circuit_id else []
        if changes:
            yield Cause(
                "circuit_changed",
                f"the files of {one.circuit} were changed",
                [f"{change.utc}: {change.before} became {change.after}" for change in changes[:3]]
                + [f"{_proof_failures(one)} of its {one.requests.count} requests failed"],
                _check(one),
            )


def _ezkl(evidence: _Evidence, failing: list[CircuitRequests]) -> Iterator[Cause]:
    installed, found = evidence.summary.versions.ezkl, []
    for one in failing:
        wanted = compiled_by(evidence.constants.circuits.directory, one.circuit_id)
        if wanted and installed and wanted != installed:
            found.append(f"{one.circuit} was compiled by EZKL {wanted}, but {installed} is installed")
    if installed is None:
        found.append("EZKL is not installed with the monitor")
    found += [
        f"{change.utc}: EZKL {change.before} became {change.after}" for change in _recent_changes(evidence, "EZKL")
    ]
    if found:
        yield Cause("ezkl_version", "EZKL is not the version that the circuits need", found, "omron-miner doctor")


def _one_circuit(evidence: _Evidence, failing: list[CircuitRequests]) -> Iterator[Cause]:
    """If no proof of one circuit verifies while those of others do, its own files are wrong."""
    well = [one for one in evidence.summary.circuits if one.requests.succeeded and not _proof_failures(one)]
    for one in failing:
        if one.requests.succeeded == 0 and _proof_failures(one) >= 2 and one.circuit and well:
            yield Cause(
                "circuit_wrong",
                f"the files of {one.circuit} are wrong",
                [
                    f"none of its {one.requests.count} requests was answered with a verified proof",
                    f"{sum(other.requests.succeeded for other in well)} requests of {len(well)} other circuits were",
                ],
                _check(one),
            )


def _resources(evidence: _Evidence) -> Iterator[Cause]:
    summary = evidence.summary
    crashed = summary.requests.failures.get("worker_crashed", 0)
    found = []
    if crashed:
        found.append(f"a worker died during {crashed} requests")
    if summary.miner.workers_lost:
        found.append(f"{summary.miner.workers_lost} workers were lost in the window")
    memory, disks = summary.host.memory, summary.host.disks
    short = memory.available_bytes < LOW_MEMORY_SHARE * memory.total_bytes
    if short:
        found.append(f"{size(memory.available_bytes)} of {size(memory.total_bytes)} memory are available")
    full = [disk for disk in disks if disk.free_bytes < 512 * 1024**2]
    found += [f"{size(disk.free_bytes)} are free at {disk.path}" for disk in full]
    if found:
        yield Cause(
            "resources",
            "the host ran out of memory or disk" if short or full else "worker processes died",
            found,
            "journalctl -k --since -1d | grep -i -e 'out of memory' -e oom; df -h",
        )


def _logged(evidence: _Evidence) -> Iterator[Cause]:
    """EZKL's most frequent message."""
    errors = [one for one in evidence.summary.last_errors if one.failure in _PROOF_FAILURES and one.detail]
    if not errors:
        return
    (detail, count), *_ = Counter(one.detail for one in errors).most_common(1)
    yield Cause(
        "logged_error",
        "see the logged error",
        [f"{count} of the last {len(errors)} such errors: {detail[:300]}"],
        "grep -a -A 20 -e 'Proof verification failed' -e 'Request failed' /var/log/omron-miner/miner.log | tail -n 60",
    )


def _failed_of_sn2(summary: Summary, found: Sn2) -> Answer:
    """Based on its log: the miner itself does not verify."""
    count = sum(one.count for one in found.failures)
    return Answer(
        question="failed",
        title="Why do requests fail?",
        asked=count > 0,
        symptom=f"{count} requests of the last day failed" if count else "no request of the last day failed",
        causes=[_cause_of_sn2(found, one) for one in found.failures[:3]],
        command=f"omron-miner live log {summary.log.path}",
    )


def _cause_of_sn2(found: Sn2, failure: Sn2Failure) -> Cause:
    slices = [one for one in found.slices if one.failed and one.failure == failure.text]
    evidence = [f"{failure.count} times: {failure.text}"]
    evidence += [f"{one.failed} of them in {one.slice} of circuit {one.circuit}" for one in slices[:3]]
    if failure.is_upstreams:
        return Cause("upstream_defect", f"{failure.meaning}", evidence, "omron-miner live circuits check")
    return Cause(
        "logged_error", failure.meaning or "what the log says", evidence, "omron-miner live circuits check --hashes"
    )


# --- memory ---------------------------------------------------------------------------------------------------------


def _memory(evidence: _Evidence) -> Answer:
    summary = evidence.summary
    memory, limit = summary.host.memory, evidence.constants.monitor.alert_memory_growth_percent
    grows = evidence.growth is not None and evidence.growth[0] > limit
    short = memory.available_bytes < LOW_MEMORY_SHARE * memory.total_bytes
    causes = [*_growing(evidence, grows), *_files_in_memory(evidence, short), *_keys(evidence)]
    found = []
    if grows and evidence.growth is not None:
        found.append(evidence.growth[1])
    if short:
        found.append(f"{size(memory.available_bytes)} of {size(memory.total_bytes)} are available")
    found += [cause.text for cause in causes if cause.name != "main_process"] if not found else []
    steady = evidence.growth[1] if evidence.growth else "the miner has not run for a day yet"
    return Answer(
        question="memory",
        title="Is memory sufficient?",
        asked=bool(found),
        symptom="; ".join(found) or f"enough is available; {steady}",
        causes=causes,
        command="ps -eo pid,user,rss,etime,comm --sort=-rss | head",
    )


def _growing(evidence: _Evidence, grows: bool) -> Iterator[Cause]:
    miner = evidence.summary.host.miner
    if not grows or miner is None or evidence.growth is None:
        return
    yield Cause(
        "main_process",
        "the miner's main process grows",
        [evidence.growth[1], *(f"{one.role} {one.pid}: {size(one.resident_bytes)}" for one in miner.by_process[:5])],
        f"cat /proc/{miner.pid}/smaps_rollup; omron-pm2 restart all gives the memory back",
    )


def _files_in_memory(evidence: _Evidence, short: bool) -> Iterator[Cause]:
    disk, memory = evidence.summary.host.ram_disk, evidence.summary.host.memory
    if disk is None or disk.filesystem not in ("tmpfs", "ramfs"):
        return
    found = []
    if (disk.oldest_session_file_seconds or 0) > LEFT_BEHIND_SECONDS:
        age = duration(disk.oldest_session_file_seconds)
        found.append(f"{disk.session_files} temporary files, {size(disk.session_bytes)}, the oldest {age} old")
    if short and disk.used_bytes > LOW_MEMORY_SHARE * memory.total_bytes:
        found.append(f"files on {disk.mount_point} take {size(disk.used_bytes)} of {size(memory.total_bytes)} memory")
    if found:
        command = f"du -ah {disk.mount_point} | sort -h | tail"
        yield Cause("ram_disk_files", f"files on {disk.mount_point} take memory", found, command)


def _keys(evidence: _Evidence) -> Iterator[Cause]:
    host = evidence.summary.host
    served = {one.circuit_id for one in evidence.summary.circuits}
    others = {one.circuit_id for one in evidence.summary.circuits if one.circuit.endswith(ProofSystem.CIRCOM.value)}
    keys = {one: count for one, count in host.circuit_keys_bytes.items() if one in served} or host.circuit_keys_bytes
    keys = {one: count for one, count in keys.items() if one not in others}  # CIRCOM's needs were not measured
    if not keys:
        return
    largest = max(keys, key=lambda one: keys[one])
    needed = least_memory(keys[largest])
    if needed > host.memory.total_bytes:
        yield Cause(
            "too_little_memory",
            "this host has too little memory for a circuit it serves",
            [
                f"the proving key of circuit {largest[:8]} is {size(keys[largest])}, a proof needs at least"
                f" {size(needed)} of memory",
                f"memory is {size(host.memory.total_bytes)}",
            ],
            "omron-miner circuit list",
        )
