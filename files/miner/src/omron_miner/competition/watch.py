"""The competition: keeps a circuit where validators can download it, and provides the answer to their requests.

One thread watches the folder, uploads new files and then commits their hash on the chain, in this order, so that a
committed circuit can always be downloaded. Another renews URLs long before they expire. Both may be slow, fail and
retry; the answer is always the last complete state, read without waiting. While a new circuit is being uploaded, the
previous one, which the chain still names, is still offered.

Not for evaluating a circuit: see `competition.evaluate`.
"""

from __future__ import annotations

import io
import json
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from omron_miner.backoff import pause_after
from omron_miner.chain.chain import ChainError
from omron_miner.competition.files import (
    FILES,
    CompetitionCircuit,
    CompetitionError,
    at_rest_seconds,
    fingerprint,
    read_circuit,
)
from omron_miner.competition.status import WRITE_SECONDS, Status, write_status
from omron_miner.competition.storage import Storage, StorageError, host_problem, read_credentials
from omron_miner.errors import OmronError
from omron_miner.formatting import size

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from omron_miner.chain.chain import Chain
    from omron_miner.competition.files import Fingerprint
    from omron_miner.constants import Competition

NOT_TAKING_PART = "Circuit manager not initialized"
NOTHING_PREPARED = "No valid circuit commitment available"
NOT_COMMITTED = "Hash mismatch between local and chain commitment"
NO_URLS = "Failed to get signed URLs"
"""Upstream's answers in these cases, word for word."""


@dataclass(frozen=True)
class Rhythm:
    """Intervals, in seconds, that no setting of `competition` controls."""

    first_pause: float = 5.0
    longest_pause: float = 300.0
    commit_pauses: tuple[float, ...] = (1.0, 2.0)
    """Pause between three consecutive tries, as upstream; after them the failure is handled like any other."""
    look_again: float = 60.0
    """Check after a commitment: the block that contains it may still be dropped."""
    renewal: float = WRITE_SECONDS
    """Renewal of the URLs and the status file."""

    def pause_after(self, failures: int) -> float:
        """Seconds until the next try after `failures` consecutive failures."""
        return pause_after(failures, self.first_pause, self.longest_pause)


@dataclass(frozen=True)
class Answer:
    """Either the commitment, as JSON text, or why there is none."""

    commitment: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class _Offer:
    """A circuit whose files are in the storage, and the answer with URLs to them."""

    circuit: CompetitionCircuit
    expiry: int
    commitment: str


@dataclass(frozen=True)
class _State:
    """Everything an answer depends on. Immutable; replaced as a whole."""

    offer: _Offer | None = None
    """The last circuit that was uploaded and committed."""
    prepared: CompetitionCircuit | None = None
    """The last one that was uploaded."""
    committed: str | None = None
    """The last commitment read from the chain; None when it was never read, or there is none."""
    storage_answers: bool = True
    problem: str | None = None


class CompetitionWatch:
    """Offers the circuit in a folder. `answer` may be called from any thread at any time, the rest by one thread."""

    def __init__(
        self,
        competition: Competition,
        chain: Chain,
        hotkey: Any,
        log: logging.Logger,
        rhythm: Rhythm = Rhythm(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`hotkey` is the signing keypair; `chain` must allow calls from another thread. Opens nothing yet.

        `clock`: Unix seconds, for the expiry of URLs.
        """
        self._competition, self._chain, self._hotkey, self._log = competition, chain, hotkey, log
        self._rhythm, self._clock = rhythm, clock
        self._storage: Storage | None = None
        self._state, self._changing = _State(), threading.Lock()
        # The watching thread's own: the last circuit read, files not to be read again until they change, and since
        # when (monotonic) the files are as they are.
        self._circuit: CompetitionCircuit | None = None
        self._refused: tuple[Fingerprint, CompetitionError] | None = None
        self._seen: tuple[Fingerprint, float] | None = None
        self._next_check = 0.0
        self._status_refused = False
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._watch, "competition"), (self._renew, "competition-urls"))
        ]

    def start(self) -> None:
        """Starts the watch. Logs immediately what validators would refuse regardless of the folder's content."""
        if problem := host_problem(self._competition):
            self._log.warning("Competition: %s", problem)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stops the watch without waiting: an upload or a call to the chain dies with the process."""
        self._stop.set()

    def answer(self) -> Answer:
        """The current answer to a validator. No network access, no waiting."""
        state = self._state
        error = _error_of(state, self._clock())
        return Answer(error=error) if error or state.offer is None else Answer(commitment=state.offer.commitment)

    def status(self) -> Status:
        """The status shown to people."""
        state, now = self._state, self._clock()
        shown = state.prepared
        host = host_problem(self._competition)
        return Status(
            written=int(now),
            prepared=shown.digest if shown else None,
            bytes=shown.size if shown else None,
            ezkl_version=shown.ezkl_version if shown else None,
            modified=shown.modified if shown else None,
            committed=state.committed,
            urls_until=state.offer.expiry if state.offer else None,
            error=_error_of(state, now),
            problem=state.problem,
            warnings=((host,) if host else ()) + (shown.warnings if shown else ()),
        )

    # --- the folder, the storage and the chain, in the thread that may wait --------------------------------------

    def _watch(self) -> None:
        failures = 0
        while True:
            problem: str | None = None
            try:
                found = fingerprint(self._competition.directory)
                if wait := self._unrest(found):
                    problem = self._state.problem  # nothing new
                else:
                    wait = self._round(found)
                    failures = 0
            except OmronError as error:
                problem = str(error)
                # Retrying more often does not fix problems in the folder.
                if isinstance(error, CompetitionError):
                    wait = self._competition.settle_seconds
                else:
                    failures += 1
                    wait = self._rhythm.pause_after(failures)
            except Exception as error:
                self._log.exception("The competition failed unexpectedly")
                problem = f"{type(error).__name__}: {error}"
                failures += 1
                wait = self._rhythm.pause_after(failures)
            if self._stop.is_set():
                return
            self._tell(problem)
            if self._stop.wait(wait):
                return

    def _tell(self, problem: str | None) -> None:
        before = self._state.problem
        if problem and problem != before:
            self._log.warning("Competition: %s", problem)
        elif before and not problem:
            self._log.info("Competition: OK again")
        self._change(problem=problem)
        self._write_status()

    def _round(self, found: Fingerprint) -> float:
        """Handles the files found; returns the seconds until the next check. Raises OmronError with what is wrong."""
        new = self._circuit is None or self._circuit.fingerprint != found
        if new:
            self._circuit = self._read(found)
        if new or time.monotonic() >= self._next_check:
            self._next_check = 0.0  # until all of it went well
            circuit = self._circuit
            assert circuit is not None  # noqa: S101  read just now, or before
            self._upload(circuit)
            pause = self._competition.recheck_seconds
            if self._commit(circuit):
                pause = min(pause, self._rhythm.look_again)
            self._next_check = time.monotonic() + pause
        return min(self._competition.settle_seconds, max(0.0, self._next_check - time.monotonic()))

    def _unrest(self, found: Fingerprint) -> float:
        """Seconds to wait until the files can be read; 0 when they can."""
        settle, now = self._competition.settle_seconds, time.monotonic()
        if self._seen is None or self._seen[0] != found:
            self._seen = (found, now)
        # By the file system's times, or by what was observed if the clock is wrong.
        return max(0.0, settle - max(at_rest_seconds(found), now - self._seen[1]))

    def _read(self, found: Fingerprint) -> CompetitionCircuit:
        if self._refused and self._refused[0] == found:
            raise self._refused[1]
        try:
            circuit = read_circuit(self._competition.directory, self._stop.is_set)
        except CompetitionError as error:
            self._refused = (found, error)
            raise
        for warning in circuit.warnings:
            self._log.warning("Competition: %s", warning)
        self._log.info("Competition: found circuit %s, %s", circuit.digest, size(circuit.size))
        return circuit

    def _upload(self, circuit: CompetitionCircuit) -> None:
        """Makes sure that both files are in the storage and can be fetched."""
        try:
            storage = self._open_storage()
            model, settings = (f"{circuit.digest}/{name}" for name in FILES)
            content = circuit.settings
            whole = storage.holds(model, circuit.size, circuit.digest)
            # settings.json goes last and marks both as complete: without it a model that changed counts as absent.
            if not whole or not storage.holds(settings, len(content), circuit.settings_digest):
                if not whole:
                    with circuit.open() as file:
                        storage.put(model, file, circuit.size, circuit.digest)
                storage.put(settings, io.BytesIO(content), len(content), circuit.settings_digest)
                self._log.info("Competition: uploaded circuit %s", circuit.digest)
            for key in (model, settings):
                storage.try_url(key)
        except StorageError:
            self._storage = None  # so that replaced credentials are read
            offer = self._state.offer
            if offer and offer.circuit.digest == circuit.digest:
                self._change(storage_answers=False)
            raise
        self._change(prepared=circuit, storage_answers=True)

    def _open_storage(self) -> Storage:
        """Retries until it succeeds: credentials may be installed after the miner."""
        storage = self._storage
        if storage is None:
            storage = self._storage = Storage(self._competition, read_credentials(self._competition.credentials_file))
        return storage

    def _commit(self, circuit: CompetitionCircuit) -> bool:
        """Makes sure that the chain names this circuit; returns whether a commitment was needed. Raises ChainError."""
        committed = self._chain.commitment()
        offer = self._offer(circuit)
        if committed == circuit.digest:
            self._change(committed=committed, offer=offer)
            return False
        self._change(committed=committed)
        for pause in (*self._rhythm.commit_pauses, None):
            try:
                self._chain.commit(circuit.digest)
                break
            except ChainError:
                if pause is None or self._stop.wait(pause):
                    raise
        self._change(committed=circuit.digest, offer=offer)
        self._log.info("Competition: committed circuit %s", circuit.digest)
        return True

    # --- the answer, in a thread that never waits for others -----------------------------------------------------

    def _renew(self) -> None:
        """URLs live for an hour and are never older than a minute or two."""
        while not self._stop.wait(self._rhythm.renewal):
            try:
                offer = self._state.offer
                if offer is not None:
                    renewed = self._offer(offer.circuit)
                    with self._changing:
                        if self._state.offer is offer:  # else there is a newer one
                            self._state = replace(self._state, offer=renewed)
                self._write_status()
            except OmronError:  # no usable credentials: the other thread reports that
                self._write_status()
            except Exception:
                self._log.exception("The competition's URLs could not be renewed")

    def _offer(self, circuit: CompetitionCircuit) -> _Offer:
        storage = self._open_storage()
        urls = {name: storage.url(f"{circuit.digest}/{name}") for name in FILES}
        expiry = int(self._clock()) + storage.url_seconds
        commitment = {
            "vk_hash": circuit.digest,
            "file_urls": urls,
            "expiry": expiry,
            "signature": self._hotkey.sign(f"{circuit.digest}:{expiry}").hex(),
            "last_modified": circuit.modified,
            "signed_urls": urls,
        }
        return _Offer(circuit, expiry, json.dumps(commitment))

    def _change(self, **what: Any) -> None:
        with self._changing:
            self._state = replace(self._state, **what)

    def _write_status(self) -> None:
        try:
            write_status(self._competition.status_file, self.status())
            self._status_refused = False
        except OSError as error:
            if not self._status_refused:
                self._log.warning("Competition: cannot write %s: %s", self._competition.status_file, error.strerror)
            self._status_refused = True


def _error_of(state: _State, now: float) -> str | None:
    """Why validators get no URLs; None when they get them."""
    if state.offer is None and state.prepared is None:
        return NOTHING_PREPARED
    if state.offer is None or state.offer.circuit.digest != state.committed:
        return NOT_COMMITTED
    if not state.storage_answers or state.offer.expiry <= now:
        return NO_URLS
    return None
