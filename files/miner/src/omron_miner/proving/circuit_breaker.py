"""Suspends circuits that keep killing workers, so that they do not starve other circuits of workers.

Pure: nothing here reads a clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from omron_miner.backoff import pause_after

LOSSES_IN_A_ROW = 4
"""A circuit that loses this many workers without an answer is suspended: two requests, each tried twice."""
_FIRST_SECONDS = 30.0
_LONGEST_SECONDS = 900.0


@dataclass
class _Record:
    losses: int = 0
    until: float | None = None


class CircuitBreaker:
    """Counts losses per circuit. A suspended circuit gets one try after 30 s, then after twice as long, up to 15 min.

    Times are `time.monotonic` seconds.
    """

    def __init__(self) -> None:
        """Starts with no circuit suspended."""
        self._records: dict[str, _Record] = {}

    @property
    def circuits(self) -> list[str]:
        """The ids of suspended circuits. Any thread."""
        return [circuit_id for circuit_id, record in list(self._records.items()) if record.until is not None]

    def record_failure(self, circuit_id: str, now: float) -> bool:
        """A worker was lost while proving this circuit; whether that suspends it (again)."""
        record = self._records.setdefault(circuit_id, _Record())
        record.losses += 1
        if record.losses < LOSSES_IN_A_ROW:
            return False
        record.until = now + _pause(record.losses)
        return True

    def reset(self, circuit_id: str) -> bool:
        """The circuit answered, or its files changed: its losses are cleared. Whether it was suspended."""
        record = self._records.pop(circuit_id, None)
        return record is not None and record.until is not None

    def remaining_seconds(self, circuit_id: str, now: float) -> float | None:
        """How long the circuit is still suspended; None when a job of it may be proved.

        After that time one job may be proved; the next must wait for its result.
        """
        record = self._records.get(circuit_id)
        if record is None or record.until is None:
            return None
        if now < record.until:
            return record.until - now
        record.until = now + _pause(record.losses + 1)
        return None


def _pause(losses: int) -> float:
    """How long a circuit is suspended after this many losses."""
    return pause_after(losses - LOSSES_IN_A_ROW + 1, _FIRST_SECONDS, _LONGEST_SECONDS)
