"""The accuracy of a circuit's outputs, as validators of a competition compute it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

FLOOR = 0.99
"""Default minimum mean accuracy of a circuit, built or tuned; 1 is the model itself."""


def accuracy(outputs: Sequence[float], expected: Sequence[float]) -> float:
    """exp(−Σ(output−expected)²), 0 to 1: the sum, not the mean; 0 if their counts differ.

    As in upstream's ``competitions/services/circuit_evaluator.py``.
    """
    if len(outputs) != len(expected):
        return 0.0
    error = sum((found - wanted) * (found - wanted) for found, wanted in zip(outputs, expected, strict=True))
    return 0.0 if math.isnan(error) else math.exp(-error)
