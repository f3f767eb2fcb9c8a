"""How long to wait before the next try after a failure."""

from __future__ import annotations

_MOST_DOUBLINGS = 30


def pause_after(failures: int, first: float, longest: float) -> float:
    """Seconds to wait after `failures` consecutive failures: `first` after one, then twice as long each time.

    Never above `longest`; 0 after none.
    """
    return min(first * 2.0 ** min(failures - 1, _MOST_DOUBLINGS), longest) if failures > 0 else 0.0
