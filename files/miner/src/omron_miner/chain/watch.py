"""Keeps the data read from the chain fresh, in its own thread, and logs problems.

Not for answering requests: no request waits for this thread, nor for the chain.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omron_miner.addresses import host_and_port
from omron_miner.backoff import pause_after
from omron_miner.chain.chain import ChainAwayError, ChainError
from omron_miner.formatting import utc

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from omron_miner.chain.chain import Chain
    from omron_miner.constants import Network

_NEVER = float("inf")


@dataclass(frozen=True)
class Rhythm:
    """Interval between queries for which `network` has no setting. Seconds."""

    first_pause: float = 5.0
    longest_pause: float = 300.0
    registration_check: float = 600.0
    """Deregistration costs a miner its place within minutes; one query in ten minutes costs a node nothing."""

    def pause_after(self, failures: int) -> float:
        """Seconds until the next try after `failures` consecutive failures."""
        return pause_after(failures, self.first_pause, self.longest_pause)


@dataclass
class _Job:
    do: Callable[[], float]
    """Returns the seconds until it is due again. Raises ChainError."""
    due: float
    """By `time.monotonic`."""
    refusals: int = 0
    """Consecutive rejections by the chain."""


class ChainWatch:
    """The list of validators, our address and our registration.

    An unreachable chain is retried after 5 s, then after twice as long each time, up to 5 min; so is a rejected call,
    while the other jobs continue. A lost registration is logged at every check; the miner keeps running, because the
    hotkey may be registered again and stopping would gain nothing.
    """

    def __init__(
        self,
        chain: Chain,
        network: Network,
        address: tuple[str, int],
        log: logging.Logger,
        rhythm: Rhythm = Rhythm(),
    ) -> None:
        """`address` is announced to validators."""
        self._chain, self._network, self._address, self._log = chain, network, address, log
        self._rhythm = rhythm
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="chain-watch", daemon=True)
        self._wanted = False
        self._last_refresh = 0.0
        self._failures = 0
        """Consecutive calls that did not reach the chain."""
        self._away = False
        self._refreshing = _Job(self._refresh, 0.0)
        self._announcing = _Job(self._announce, 0.0)
        self._checking = _Job(self._check_registration, 0.0)
        self._jobs = [self._refreshing, self._announcing, self._checking]  # the list first: the next one reads it

    def start(self, stale: bool = False) -> None:
        """Starts. Call after your own `refresh` and `is_registered`: the next ones are due an interval from now.

        With `stale` both are due immediately: the list is from an earlier run. The address is announced immediately.
        """
        now = self._last_refresh = time.monotonic()
        self._away = stale
        if not stale:
            self._refreshing.due = now + self._network.metagraph_sync_seconds
            self._checking.due = now + self._rhythm.registration_check
        self._thread.start()

    def want_refresh(self) -> None:
        """Call after refusing a hotkey that a newer validator list may contain. Any thread; never blocks.

        The list is then read early, but at most once in `network.early_sync_seconds`: this is the only limit on the
        load that strangers can cause, because anyone can create a key and sign with it.
        """
        if not self._wanted and self._network.early_sync_seconds:
            self._wanted = True
            self._wake.set()

    def stop(self) -> None:
        """Stops the watch. A call to the chain that hangs ends with the process."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():  # not if an error came before `start`
            self._thread.join(0.2)

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._wanted:
                early = self._last_refresh + self._network.early_sync_seconds
                self._refreshing.due = min(self._refreshing.due, early)
            now = time.monotonic()
            if all(self._attempt(job) for job in self._jobs if job.due <= now):
                self._wake.wait(max(0.0, min(job.due for job in self._jobs) - time.monotonic()))
                self._wake.clear()
            else:
                self._stop.wait(self._rhythm.pause_after(self._failures))

    def _attempt(self, job: _Job) -> bool:
        """Runs the job and logs failures; False when the chain is unreachable and the other jobs need not be tried."""
        try:
            job.due = time.monotonic() + job.do()
            job.refusals = 0
        except ChainAwayError as error:
            self._away = True
            self._failures += 1
            read = self._chain.read_at()
            self._log.warning(
                "Chain unreachable, using the validator list of %s: %s; retrying in %.0f s",
                utc(read) if read else "the constants",
                error,
                self._rhythm.pause_after(self._failures),
            )
            return False
        except ChainError as error:
            self._put_off(job)
            self._log.warning("%s; retrying in %.0f s", error, job.due - time.monotonic())
        except Exception:  # or the list would become outdated unnoticed
            self._put_off(job)
            self._log.exception("Watching the chain failed unexpectedly")
        if self._away:
            self._away = False
            self._log.info("Chain reachable again")
        self._failures = 0
        return True

    def _put_off(self, job: _Job) -> None:
        job.refusals += 1
        job.due = time.monotonic() + self._rhythm.pause_after(job.refusals)

    def _refresh(self) -> float:
        self._wanted = False  # before reading: a caller refused meanwhile may not be in it yet
        self._last_refresh = time.monotonic()
        self._chain.refresh()
        self._announcing.due = 0.0
        return self._network.metagraph_sync_seconds

    def _announce(self) -> float:
        if self._chain.announce(*self._address):
            self._log.info("Announced to validators: %s", host_and_port(*self._address))
        return _NEVER

    def _check_registration(self) -> float:
        if not self._chain.is_registered():
            self._log.error("The hotkey is no longer registered on netuid %d: register it again", self._network.netuid)
        return self._rhythm.registration_check
