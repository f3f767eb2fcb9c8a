"""Circuits that kill their workers again and again, so that they do not eat the workers of the others.

Pure: nothing here reads a clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from omron_miner.backoff import pause_after

LOSSES_IN_A_ROW = 4
"""A circuit that loses so many workers, without an answer between, is set aside: two requests, each tried twice."""
_FIRST_SECONDS = 30.0
_LONGEST_SECONDS = 900.0


@dataclass
class _Record:
    losses: int = 0
    until: float | None = None


class CircuitBreaker:
    """Counts losses per circuit. A circuit set aside gets one try after 30 s, then after twice as long, up to 15 min.

    Times are `time.monotonic` seconds.
    """

    def __init__(self) -> None:
        """None is set aside."""
        self._records: dict[str, _Record] = {}

    @property
    def circuits(self) -> list[str]:
        """The ids of those set aside. Any thread."""
        return [circuit_id for circuit_id, record in list(self._records.items()) if record.until is not None]

    def record_failure(self, circuit_id: str, now: float) -> bool:
        """A worker was lost over this circuit; whether that sets it aside (again)."""
        record = self._records.setdefault(circuit_id, _Record())
        record.losses += 1
        if record.losses < LOSSES_IN_A_ROW:
            return False
        record.until = now + _pause(record.losses)
        return True

    def reset(self, circuit_id: str) -> bool:
        """The circuit answered, or its files changed: all is forgotten. Whether it was set aside."""
        record = self._records.pop(circuit_id, None)
        return record is not None and record.until is not None

    def remaining_seconds(self, circuit_id: str, now: float) -> float | None:
        """How long the circuit is still set aside; None when a job of it may be proved.

        When the time is over that is so for one job; the next must wait for what becomes of it.
        """
        record = self._records.get(circuit_id)
        if record is None or record.until is None:
            return None
        if now < record.until:
            return record.until - now
        record.until = now + _pause(record.losses + 1)
        return None


def _pause(losses: int) -> float:
    """How long a circuit is set aside after so many losses."""
    return pause_after(losses - LOSSES_IN_A_ROW + 1, _FIRST_SECONDS, _LONGEST_SECONDS)
