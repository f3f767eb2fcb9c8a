"""Downloads missing proving keys of circuit folders, and lets a circuit serve only after a proof has verified.

Validators' folders contain everything but the large key, whose URL is in metadata.json. What can be checked without the
key is checked first: the id, the ignore list, EZKL's version. The key is downloaded into a hidden folder next to the
circuit's, tested there with a proof, and renamed into place last, so that a running miner never sees a partial or
invalid key. A key that is already on disk counts once its checksum is recorded, which requires a verified proof.

Not for building circuits (`building.build`), nor for downloading a file (`downloads`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from omron_miner.building import downloads
from omron_miner.building.build import CheckResult, HostFaultError, Source, check_circuit
from omron_miner.building.downloads import DownloadError, Rules
from omron_miner.circuits.circom import ZKEY_MAGIC
from omron_miner.circuits.circuit import (
    CHECKSUMS,
    METADATA,
    PK,
    VK,
    Metadata,
    bare_name,
    check_circuits_directory,
    circuit_folders,
    id_of,
    key_name,
    read_metadata,
)
from omron_miner.circuits.load import check_without_key, load_circuit, load_without_key
from omron_miner.circuits.srs import usable_srs
from omron_miner.errors import CircuitError, ConfigError, OmronError, SrsError, kind_and_message
from omron_miner.files import link_files, move_into_place
from omron_miner.formatting import size
from omron_miner.progress import say
from omron_miner.proving.isolated import ProcessLostError
from omron_miner.untrusted import NOT_OF_ITS_FORM, parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from omron_miner.constants import Circuits, Constants

_WORK = ".sync-"
_LOCK = "lock"
_MODE = 0o640
_HOST_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""Errors that say nothing about the circuit: no space, no memory, no descriptors."""


@dataclass(frozen=True)
class Synced:
    """A circuit that may serve; `changed`: its key or SRS was put in place, or its checksums recorded, just now."""

    circuit_id: str
    name: str
    changed: bool
    key_bytes: int
    key_sha256: str
    received_bytes: int = 0
    """Bytes received over the network."""
    seconds: float = 0.0
    """Of fetching and proving."""
    proof: dict[str, float] = field(default_factory=dict)
    """Seconds of the example's witness_s, prove_s, verify_s and total_s; empty when none was made."""


@dataclass(frozen=True)
class SyncReport:
    """The result for each circuit: `refused` and `unchecked` map a folder's name to the reason."""

    circuits: list[Synced]
    ignored: list[str]
    """Ids on the operator's ignore list, left alone."""
    refused: dict[str, str]
    unchecked: dict[str, str] = field(default_factory=dict)
    """This host could not check them, because of a full disk for example: nothing is known against the circuit."""

    @property
    def ok(self) -> bool:
        """Whether every circuit that is not ignored may serve."""
        return not self.refused and not self.unchecked


def sync(constants: Constants, wanted: Sequence[str], srs: Source, prove: bool = False) -> SyncReport:
    """Syncs the circuits with these ids or names, or when none is `wanted` all in `circuits.directory`.

    With `prove`, keys that are on record are hashed and tested with another proof. A circuit that is refused or cannot
    be checked does not stop the others. Raises CircuitError when the folder of circuits cannot be read, ConfigError
    when a wanted circuit has no folder.
    """
    directory = constants.circuits.directory
    check_circuits_directory(directory)
    _clear_left(directory)
    found = circuit_folders(directory)
    chosen = [_find(found, one) for one in wanted] if wanted else found
    report = SyncReport([], [], {})
    for folder in dict.fromkeys(chosen):
        if not wanted and bare_name(folder.name) in constants.circuits.ignored:
            report.ignored.append(id_of(folder))
            continue
        try:
            report.circuits.append(sync_circuit(folder, constants, srs, prove))
        except OmronError as error:
            is_refused = not _is_this_hosts_fault(error)
            say(f"{folder.name[:14]}: {'refused' if is_refused else 'not checked'}: {error}")
            (report.refused if is_refused else report.unchecked)[folder.name] = str(error)
    return report


def sync_circuit(directory: Path, constants: Constants, srs: Source, prove: bool = False) -> Synced:
    """Makes sure that the circuit in `directory` has a proving key that is on record or, with `prove`, proves now.

    It also proves when its SRS had to be generated or downloaded.

    Raises CircuitError (or InputError, SrsError) when the circuit is refused, DownloadError when the key cannot be
    downloaded.
    """
    begun = time.perf_counter()
    circuit_id = id_of(directory)
    if circuit_id in constants.circuits.ignored:
        raise CircuitError(f"circuit {circuit_id} is ignored", "remove it from circuits.ignored in constants.toml")
    received, checked = 0, None
    try:
        key = _key_of(directory)
        with _working(directory, key) as work:
            srs_is_missing = _lacks_srs(directory, constants, srs)
            job = _Job(directory, key, work, constants, srs)
            if not (directory / key.name).is_file() or not _usable(directory):
                received, checked = _fetch_and_put(job)
            elif prove or srs_is_missing or not (directory / CHECKSUMS).is_file():
                received, checked = _prove_what_is_here(job)
        circuit = load_circuit(directory)
        record = parse_json((directory / CHECKSUMS).read_bytes())[key.name]
    except OSError as error:
        raise CircuitError(f"circuit {directory.name}: {error}", "check the free space and the owner") from error
    if not checked:
        say(f"{circuit.name}: nothing to do")
    return Synced(
        circuit_id=circuit.id,
        name=circuit.name,
        changed=received > 0 or srs_is_missing or (checked is not None and checked.changed),
        key_bytes=record["bytes"],
        key_sha256=record["sha256"],
        received_bytes=received,
        seconds=round(time.perf_counter() - begun, 3),
        proof=checked.proof if checked else {},
    )


def to_text(report: SyncReport) -> str:
    """A line for each circuit."""
    lines = [
        f"{one.circuit_id}  {one.name}: "
        + (f"proved and verified, {size(one.received_bytes)} fetched" if one.proof else "nothing to do")
        for one in report.circuits
    ]
    lines += [f"{one}  ignored" for one in report.ignored]
    lines += [f"{folder}  REFUSED  {reason}" for folder, reason in report.refused.items()]
    lines += [f"{folder}  NOT CHECKED  {reason}" for folder, reason in report.unchecked.items()]
    return "\n".join(lines) or "no circuits"


def rules_of(circuits: Circuits) -> Rules:
    """The constants' limits for a download."""
    return Rules(
        hosts=circuits.download_hosts,
        plain_http=circuits.download_plain_http,
        total_seconds=circuits.download_seconds,
        max_bytes=circuits.download_max_bytes,
    )


# --- one circuit ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Key:
    """A circuit's proving key, which may have to be fetched."""

    name: str
    url: str | None
    begins_with: bytes


@dataclass(frozen=True)
class _Job:
    """One circuit's sync."""

    directory: Path
    key: _Key
    work: Path
    constants: Constants
    srs: Source

    @property
    def part(self) -> Path:
        """The partial key."""
        return self.work / self.key.name

    def tell(self, text: str) -> None:
        """Progress, with the circuit's short name."""
        say(f"{self.directory.name[:14]}: {text}")


def _key_of(directory: Path) -> _Key:
    """The key according to metadata.json. Raises CircuitError for a circuit that could not serve even with it."""
    meta = check_without_key(directory)
    _check_names(directory, meta)
    name = key_name(directory)
    # EZKL's key starts with its verification key, circom's with its type.
    head = (directory / VK).read_bytes() if name == PK else ZKEY_MAGIC
    return _Key(name, meta.external_files.get(name), head)


def _check_names(directory: Path, meta: Metadata) -> None:
    """Raises CircuitError for an external file with an invalid name. The other external files are for validators."""
    for name in meta.external_files:
        if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
            raise CircuitError(
                f"circuit {directory.name}: {METADATA} names the external file {name!r}, which is not a file name",
                "do not use this folder",
            )


def _lacks_srs(directory: Path, constants: Constants, srs: Source) -> bool:
    """Whether an SRS for the circuit has to be made, fetched or installed before it is proved. Raises SrsError."""
    if key_name(directory) != PK:
        return False
    logrows = load_without_key(directory)[1].logrows
    try:
        return usable_srs(logrows, constants.circuits.srs_directory, constants.network.name) is None
    except SrsError:
        if srs.file:  # it replaces the one on disk
            return True
        raise


def _usable(directory: Path) -> bool:
    """Whether the key on disk may be the circuit's, as far as its file shows."""
    try:
        load_circuit(directory)
    except CircuitError:
        return False
    return True


def _prove_what_is_here(job: _Job) -> tuple[int, CheckResult]:
    """A proof with an unverified key: a copied one can be truncated. If it fails, the key is downloaded."""
    try:
        return 0, check_circuit(load_circuit(job.directory), job.constants, job.srs)
    except CircuitError as error:
        if not job.key.url or _is_this_hosts_fault(error):
            raise
        job.tell(f"the {job.key.name} on disk is not used: {error.message}")
        return _fetch_and_put(job)


def _fetch_and_put(job: _Job) -> tuple[int, CheckResult]:
    """Downloads the key, proves with it and puts it in place; bytes received.

    If a file that an earlier run left, complete or partial, does not prove, it is downloaded once more from the start.
    """
    was_begun = job.part.exists()
    received = _fetch(job)
    try:
        checked = _prove_staged(job)
    except CircuitError as error:
        if not was_begun or _is_this_hosts_fault(error):
            raise
        job.tell(f"the partial download of an earlier run is unusable, restarting: {error.message}")
        downloads.discard(job.part)
        received += _fetch(job)
        checked = _prove_staged(job)
    _put_in_place(job)
    return received, checked


def _fetch(job: _Job) -> int:
    name, url = job.key.name, job.key.url
    if not url:
        raise CircuitError(
            f"circuit {job.directory.name}: {name} is missing or of another circuit, and {METADATA} has no URL for it",
            f"copy {name} into the folder",
        )
    wanted, rules = _recorded_bytes(job), rules_of(job.constants.circuits)
    try:
        fetched = downloads.fetch(url, job.part, rules, wanted, job.key.begins_with)
    except DownloadError as error:
        raise DownloadError(f"circuit {job.directory.name}: {error.message}", error.hint) from error
    received = f"{size(fetched.received_bytes)} of them in this run, in {fetched.seconds:.1f} s"
    say(f"{name}: {size(fetched.bytes)} downloaded, {received}")
    return fetched.received_bytes


def _recorded_bytes(job: _Job) -> int | None:
    """The key's size by checksums.json, which came with the folder; None without one."""
    try:
        return int(parse_json((job.directory / CHECKSUMS).read_bytes())[job.key.name]["bytes"])
    except FileNotFoundError:
        return None
    except NOT_OF_ITS_FORM as error:
        raise CircuitError(
            f"circuit {job.directory.name}: {CHECKSUMS} is unreadable: {kind_and_message(error)}",
            "copy the circuit again",
        ) from error


def _prove_staged(job: _Job) -> CheckResult:
    """Proves the circuit with this key, in a folder that no miner reads."""
    staged = job.work / job.directory.name
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    link_files(job.directory, staged, without=(job.key.name,))
    (staged / job.key.name).symlink_to(job.part.resolve())
    try:
        return check_circuit(load_circuit(staged), job.constants, job.srs)
    except CircuitError as error:
        raise CircuitError(f"the downloaded {job.key.name} is not used: {error.message}", error.hint) from error


def _put_in_place(job: _Job) -> None:
    """The key first: it was tested with a proof. The record last: without its key it would describe another file."""
    made = job.work / job.directory.name / CHECKSUMS
    job.part.chmod(_MODE)
    move_into_place(job.part, job.directory / job.key.name)
    if not made.is_symlink():
        made.chmod(_MODE)
        move_into_place(made, job.directory / CHECKSUMS)


def _is_this_hosts_fault(error: OmronError) -> bool:
    """Whether it failed because of the host (memory, disk, no process could start): a new download would not help."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HostFaultError) or (isinstance(cause, ProcessLostError) and cause.host_fault):
            return True
        if isinstance(cause, OSError) and cause.errno in _HOST_ERRORS:
            return True
        cause = cause.__cause__
    return False


# --- folders --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _working(directory: Path, key: _Key) -> Iterator[Path]:
    """A hidden folder next to the circuit's, on the same file system, kept if it has a part. One process at a time.

    Raises CircuitError when another process uses it, or when root would leave files that the owner cannot change.
    """
    directory = directory.resolve()
    owner = directory.stat().st_uid
    if os.geteuid() == 0 and owner != 0:
        name = _user(owner)
        message = f"{directory.name} belongs to {name}, who could not change files created by root"
        raise CircuitError(message, f"sudo -u {name} omron-miner circuit sync")
    work = directory.with_name(_WORK + directory.name)
    try:
        work.mkdir(mode=0o700, exist_ok=True)
        with (work / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                yield work
            finally:
                shutil.rmtree(work / directory.name, ignore_errors=True)
                if not (work / key.name).exists():
                    shutil.rmtree(work, ignore_errors=True)
    except BlockingIOError as error:
        raise CircuitError(f"{directory.name} is being synced by another process", "wait for it") from error
    except OSError as error:
        raise CircuitError(f"cannot write {work}: {error}", "check the free space and the owner") from error


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"#{number}"


def _clear_left(directory: Path) -> None:
    """Removes partial downloads of circuits that no longer exist."""
    for work in directory.glob(f"{_WORK}*"):
        if not (directory / work.name.removeprefix(_WORK)).exists():
            shutil.rmtree(work, ignore_errors=True)


def _find(found: Sequence[Path], id_or_name: str) -> Path:
    for folder in found:
        if bare_name(folder.name) == id_or_name:
            return folder
    for folder in found:
        with contextlib.suppress(OmronError, OSError):
            if read_metadata(folder).name == id_or_name:
                return folder
    raise ConfigError(
        f"there is no folder of circuit {id_or_name}", "copy it into circuits.directory, or name it in omron_circuits"
    )
