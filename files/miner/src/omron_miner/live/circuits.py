"""Fills the circuit cache of upstream's `sn2-miner` before the miner needs it.

The miner downloads one file at a time, trusts existing files, and refuses requests for a circuit while it downloads.
Here several components are downloaded in parallel; each is assembled in `.omron-sync` in the cache and moved into place
complete with its stamp. So the miner, which may run meanwhile, finds a component complete or not at all, and the
circuit's ``.dslice_ready`` only after the last one. Only replaced files are deleted.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import queue
import shutil
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from omron_miner import formatting
from omron_miner.building.downloads import DownloadError, Rules, discard, fetch
from omron_miner.circuits.circuit import FOLDER_PREFIX, circuit_folder
from omron_miner.files import PARKED, move_into_place, put_folder, settle_parked, write_atomically
from omron_miner.files import sha256 as file_sha256
from omron_miner.live.cache import (
    AREA,
    BUNDLE,
    COMPONENTS,
    DEFAULT,
    METADATA,
    PAYLOAD,
    READY,
    RECORD,
    SLICES,
    STAMP,
    CacheError,
    LinkIndex,
    circuit_ids,
    has_content,
    is_complete,
    read_record,
    stamp_file,
)
from omron_miner.live.repository import DEFAULT_URL, Component, Repository
from omron_miner.progress import say

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from omron_miner.live.repository import Blob, LiveCircuit

_REPORT_SECONDS = 5.0
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_RULES = Rules(
    hosts=(), plain_http=False, total_seconds=3600.0, stall_seconds=30.0, tries=5, max_bytes=500 << 30,
    keep_free_bytes=0,
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Source, destination and limits of a sync."""

    url: str = DEFAULT_URL
    cache: Path = DEFAULT
    parallel: int = 4
    """Components downloaded in parallel."""
    keep_free_bytes: int = 10 << 30
    """Bytes to keep free on the cache's file system."""
    hosts: tuple[str, ...] = ()
    """Other hosts that the repository may redirect to."""
    additional: tuple[str, ...] = ()
    """Circuits to sync although they are not listed."""
    ignored: tuple[str, ...] = ()
    """Circuits to skip."""
    rules: Rules = _RULES
    """For each file. Hosts and free space are set from the fields above."""


@dataclass
class CircuitResult:
    """The result for one circuit."""

    id: str
    name: str
    components: int
    fetched: int = 0
    """Components and artifacts that this sync put in place."""
    unprovable: int = 0
    """Components for which the repository has no circuit."""
    ready: bool = False
    failed: dict[str, str] = field(default_factory=dict)
    """Slice or artifact, and why it is missing."""


@dataclass
class SyncReport:
    """The result of a sync; `ok` decides the exit code."""

    ok: bool = False
    circuits: list[CircuitResult] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    """Circuits whose entry in the lists is invalid, and why."""
    problems: list[str] = field(default_factory=list)
    inactive: list[str] = field(default_factory=list)
    """Circuits in the cache that the lists no longer have. The miner purges them itself."""
    files: int = 0
    received_bytes: int = 0
    linked_files: int = 0
    """Linked from another slice here instead of downloaded."""
    unchecked_files: int = 0
    """Downloaded without a checksum to verify: the server sent none."""
    seconds: float = 0.0


class _FullError(Exception):
    """Not enough space for the download."""


def sync(settings: Settings) -> SyncReport:
    """Downloads all missing files of the repository's circuits. Raises OmronError when nothing can be done."""
    begun = time.monotonic()
    cache = settings.cache.expanduser()
    rules = replace(settings.rules, keep_free_bytes=settings.keep_free_bytes)
    repository = Repository(settings.url, rules, settings.hosts)
    with _held(cache) as area:
        lists = repository.lists(area / "parts", settings.additional)
        report = SyncReport(refused=dict(lists.refused), problems=list(lists.problems))
        wanted = [one for one in lists.circuits.values() if one.id not in settings.ignored]
        if not lists.problems:
            known = {*lists.circuits, *lists.refused, *settings.ignored}
            report.inactive = [one for one in circuit_ids(cache) if one not in known]
        _Sync(settings, cache, area, repository, report).run(wanted)
        report.ok = not (report.refused or report.problems or any(one.failed for one in report.circuits))
        if report.ok:
            shutil.rmtree(area / "parts", ignore_errors=True)  # of files that are no longer needed
    report.seconds = round(time.monotonic() - begun, 1)
    return report


@contextmanager
def _held(cache: Path) -> Iterator[Path]:
    """The work area, locked by this process. Raises CacheError."""
    area = cache / AREA
    try:
        (area / "parts").mkdir(parents=True, exist_ok=True)
        with (area / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CacheError(f"another sync is running in {cache}", "wait until it finishes") from None
            for leftover in ("new", "old"):  # earlier releases moved replaced files to "old"
                shutil.rmtree(area / leftover, ignore_errors=True)
            settle_parked(sorted(cache.glob(f"{FOLDER_PREFIX}*/{SLICES}/{PARKED}*")))
            (area / "new").mkdir()
            yield area
            shutil.rmtree(area / "new", ignore_errors=True)
    except OSError as error:
        raise CacheError(f"cannot write {cache}: {error.strerror or error}", "check its owner and the disk") from error


@dataclass(frozen=True)
class _Task:
    """A component or an artifact that is missing."""

    circuit: LiveCircuit
    result: CircuitResult
    item: Component | Blob

    @property
    def name(self) -> str:
        return self.item.name if isinstance(self.item, Component) else self.item.filename


class _Sync:
    """One run. Its workers are threads that end with the process, so that a signal stops it immediately."""

    def __init__(
        self,
        settings: Settings,
        cache: Path,
        area: Path,
        repository: Repository,
        report: SyncReport,
    ) -> None:
        self._settings, self._cache, self._area, self._repository = settings, cache, area, repository
        self._report = report
        self._lock = threading.Lock()
        self._busy: dict[str, threading.Lock] = {}
        self._known = LinkIndex(cache)
        self._room = _Room(cache, settings.keep_free_bytes)
        self._full = threading.Event()
        self._told_full = False
        self._record = read_record(cache)
        self._number = 0

    def run(self, circuits: list[LiveCircuit]) -> None:
        """Downloads the missing files of `circuits`, then marks each complete one as ready."""
        tasks: list[_Task] = []
        for circuit in circuits:
            result = CircuitResult(circuit.id, circuit.name, len(circuit.components))
            result.unprovable = sum(not one.has_circuit for one in circuit.components)
            self._report.circuits.append(result)
            tasks += [_Task(circuit, result, one) for one in self._missing(circuit)]
        self._work(tasks)
        for circuit, result in zip(circuits, self._report.circuits, strict=True):
            for component in circuit.components:
                known = self._record.get(component.sha256, {})
                self._record[component.sha256] = {name: known.get(name, "") for name in component.files}
            if not result.failed:
                self._finish(circuit)
                result.ready = True
        write_atomically(self._area / RECORD, json.dumps(self._record))

    def _missing(self, circuit: LiveCircuit) -> list[Component | Blob]:
        slices = self._slices(circuit)
        slices.mkdir(parents=True, exist_ok=True)
        recorded = self._record.get(_artifacts_of(circuit), {})
        missing: list[Component | Blob] = [one for one in circuit.components if not is_complete(slices / one.name, one)]
        for one in circuit.artifacts:
            path = slices / one.filename
            if not has_content(path) or (recorded.get(one.filename) or file_sha256(path)) != one.sha256:
                missing.append(one)
        return missing

    def _slices(self, circuit: LiveCircuit) -> Path:
        return circuit_folder(self._cache, circuit.id) / SLICES

    def _work(self, tasks: list[_Task]) -> None:
        """All of `tasks`, several at a time; every failure is recorded with its circuit."""
        waiting: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        workers = min(self._settings.parallel, len(tasks))
        for task in [*tasks, *[None] * workers]:
            waiting.put(task)

        def work() -> None:
            while (task := waiting.get()) is not None:
                try:
                    self._one(task)
                    done.put(None)
                except BaseException as error:
                    done.put(error)

        for _ in range(workers):
            threading.Thread(target=work, daemon=True).start()
        reported = time.monotonic()
        for count in range(1, len(tasks) + 1):
            if (error := done.get()) is not None:
                raise error
            if time.monotonic() - reported >= _REPORT_SECONDS:
                reported = time.monotonic()
                received = formatting.size(self._report.received_bytes)
                say(f"{count} of {len(tasks)} components and artifacts, {received} received")

    def _one(self, task: _Task) -> None:
        """Puts one item in place, or records why not. Its downloads are kept for the next run until then."""
        if self._full.is_set():
            task.result.failed[task.name] = "not started: the disk is full"
            return
        parts: list[Path] = []
        try:
            if isinstance(task.item, Component):
                self._component(task.item, self._slices(task.circuit) / task.item.name, parts)
            else:
                self._artifact(task.circuit, task.item, parts)
            for part in parts:
                discard(part)
            with self._lock:
                task.result.fetched += 1
        except (_FullError, OSError, DownloadError) as error:
            task.result.failed[task.name] = error.message if isinstance(error, DownloadError) else str(error)
            cause = error if isinstance(error, OSError) else error.__cause__
            if isinstance(cause, OSError) and cause.errno in _FULL:
                self._full.set()  # no further items are started
            if isinstance(error, _FullError) or self._full.is_set():
                self._tell_full(task.result.failed[task.name])

    def _tell_full(self, why: str) -> None:
        """Records once that the disk is full. Smaller files may still fit."""
        with self._lock:
            if not self._told_full:
                self._told_full = True
                self._report.problems.append(f"the disk is full: {why}; free some space, or lower --keep-free-gib")

    def _component(self, component: Component, place: Path, parts: list[Path]) -> None:
        """Assembles the component in the work area and moves it to `place`, replacing what is there."""
        staged = self._aside()
        (staged / PAYLOAD).mkdir(parents=True)
        if component.has_circuit:
            (staged / BUNDLE).mkdir(parents=True)
            for name in component.files:
                part = self._area / "parts" / f"{component.sha256[:32]}-{name}.partial"
                url, target = self._repository.component_url(component.sha256, name), staged / BUNDLE / name
                digest = self._obtain(f"{component.sha256}/{name}", url, part, target, parts)
                if digest:
                    with self._lock:
                        self._record.setdefault(component.sha256, {})[name] = digest
        for weights in component.weights:
            target = staged / PAYLOAD / weights.filename
            self._blob(weights, target, parts)
            stamp_file(target).write_text(weights.sha256, encoding="ascii")
        (staged / STAMP).write_text(component.sha256, encoding="ascii")
        self._known.forget_slice(place)
        put_folder(staged, place)
        self._known.add_slice(place)

    def _artifact(self, circuit: LiveCircuit, artifact: Blob, parts: list[Path]) -> None:
        staged = self._aside()
        self._blob(artifact, staged, parts)
        place = self._slices(circuit) / artifact.filename
        move_into_place(staged, place)
        self._known.add(artifact.sha256, place)
        with self._lock:
            self._record.setdefault(_artifacts_of(circuit), {})[artifact.filename] = artifact.sha256

    def _blob(self, blob: Blob, target: Path, parts: list[Path]) -> None:
        part = self._area / "parts" / f"{blob.sha256[:32]}.partial"
        self._obtain(blob.sha256, self._repository.blob_url(blob.sha256), part, target, parts, blob.sha256)

    def _obtain(
        self, key: str, url: str, part: Path, target: Path, parts: list[Path], sha256: str | None = None
    ) -> str | None:
        """Links `target` to the same file elsewhere in the cache, or downloads it and returns its SHA-256.

        Concurrent calls with one `key` download it once. A downloaded part is added to `parts`, and is also linked to
        `target`. Raises DownloadError, _FullError, OSError.
        """
        with self._lock:
            alone = self._busy.setdefault(key, threading.Lock())
        with alone:
            if self._known.link(key, target):
                self._count(linked=1)
                return None
            digest = self._fetch(url, part, sha256)
            os.link(part, target)
            parts.append(part)
            # Not `target`, which moves. The part stays until the file is known in its final place.
            self._known.add(key, part)
            return digest

    def _fetch(self, url: str, part: Path, sha256: str | None) -> str:
        size, announced = self._repository.announced(url)
        right = sha256 or announced
        had = part.stat().st_size if part.exists() else 0
        with self._room.taken(max((size or 0) - had, 0)):
            digest = self._fetch_part(url, part, right)
            if right not in (None, digest) and had:
                discard(part)  # the leftover of an earlier run may be of another file
                digest = self._fetch_part(url, part, right)
            if right not in (None, digest) or not has_content(part):
                discard(part)
                wrong = f"has SHA-256 {digest}, expected {right}" if right else "is empty"
                raise DownloadError(f"{url} {wrong}", "try again later; report it to the subnet's team if it persists")
        self._count(unchecked=int(right is None))
        return digest

    def _fetch_part(self, url: str, part: Path, right: str | None) -> str:
        fetched = fetch(url, part, self._repository.rules, quiet=True)
        self._count(files=1, received=fetched.received_bytes)
        return file_sha256(part)

    def _aside(self) -> Path:
        """A new path in the area."""
        with self._lock:
            self._number += 1
            return self._area / "new" / str(self._number)

    def _count(self, files: int = 0, received: int = 0, linked: int = 0, unchecked: int = 0) -> None:
        with self._lock:
            self._report.files += files
            self._report.received_bytes += received
            self._report.linked_files += linked
            self._report.unchecked_files += unchecked

    def _finish(self, circuit: LiveCircuit) -> None:
        """Writes the missing files that make the miner load the circuit, the stamp last."""
        folder = circuit_folder(self._cache, circuit.id)
        shas = [[one.name, one.sha256] for one in circuit.components]
        for name, content in (
            (COMPONENTS, json.dumps(shas)),
            (METADATA, json.dumps(circuit.metadata, indent=2)),
            (READY, ""),
        ):
            path = folder / name
            if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != content:
                write_atomically(path, content)


def _artifacts_of(circuit: LiveCircuit) -> str:
    """The record's key for a circuit's artifacts."""
    return f"artifacts/{circuit.id}"


class _Room:
    """The free space, minus the space that running downloads still need."""

    def __init__(self, place: Path, keep_free_bytes: int) -> None:
        self._place, self._keep = place, keep_free_bytes
        self._lock, self._promised = threading.Lock(), 0

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Reserves `size` bytes. Raises _FullError when they are not available."""
        with self._lock:
            free = shutil.disk_usage(self._place).free - self._promised - self._keep
            if free < size:
                raise _FullError(
                    f"{formatting.size(size)} needed, {formatting.size(max(free, 0))} available, "
                    f"{formatting.size(self._keep)} kept free"
                )
            self._promised += size
        try:
            yield
        finally:
            with self._lock:
                self._promised -= size


def to_json(report: SyncReport) -> str:
    """A report as JSON."""
    return json.dumps(asdict(report))


def to_text(report: SyncReport) -> str:
    """A sync report as text."""
    lines = []
    for one in report.circuits:
        state = "ready" if one.ready else f"NOT READY, {len(one.failed)} missing"
        bare = f", {one.unprovable} published without a circuit" if one.unprovable else ""
        lines.append(f"{one.id}  {one.name}  {one.components} components, {one.fetched} fetched{bare}  {state}")
        lines += [f"  {name}: {reason}" for name, reason in sorted(one.failed.items())[:20]]
    lines += [f"{circuit}  REFUSED  {reason}" for circuit, reason in report.refused.items()]
    lines += [f"{circuit}  no longer listed" for circuit in report.inactive]
    lines += [f"problem: {one}" for one in report.problems]
    lines.append(
        f"{report.files} files, {formatting.size(report.received_bytes)} received, {report.linked_files} linked, "
        f"{report.unchecked_files} without a checksum, {report.seconds:.1f} s"
    )
    return "\n".join(lines)
