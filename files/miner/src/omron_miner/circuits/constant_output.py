"""Whether a circuit gives the same output for every input: the one rule for build, tune, evaluate and serving.

Validators score a circuit of constant output as cheating. An ArgMax or a threshold has few different answers and gives
the same one for many inputs, so nothing is concluded from fewer than `JUDGED_OVER` different inputs.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from omron_miner.circuits.examples import random_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from omron_miner.circuits.inputs import Number

ABSOLUTE, RELATIVE = 1e-4, 1e-5
"""Outputs this close to the first ones count as the same: the evaluator's atol, and the rtol its allclose adds."""
JUDGED_OVER = 8
"""Different inputs that must give the same outputs; the evaluator has 100."""
_LARGER = (8.0, 64.0, 512.0)
"""Magnitudes of the last inputs, for models whose inputs exceed −1 to 1."""


def same_output(first: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `other` equals the `first` outputs within the tolerances."""
    return len(first) == len(other) and all(
        abs(one - two) <= ABSOLUTE + RELATIVE * abs(two) for one, two in zip(first, other, strict=True)
    )


def is_constant(outputs: Sequence[Sequence[float]]) -> bool:
    """Whether the outputs of `JUDGED_OVER` or more different inputs all equal the first."""
    return len(outputs) >= JUDGED_OVER and all(same_output(outputs[0], one) for one in outputs[1:])


def spread_inputs(sizes: Sequence[int], types: Sequence[str]) -> Iterator[dict[str, list[Number]]]:
    """Inputs of `sizes` numbers each that differ as much as possible, for `is_constant`; always the same ones.

    `types` are EZKL's names. Floats are in [-1, 1] first, as lookup tables should hold them, and up to 512 at the end;
    others are 0 or 1. The first of `examples.example_inputs` (seed 0) is not among them.
    """
    yield from (random_inputs(sizes, types, seed) for seed in range(1, JUDGED_OVER))
    shapes: list[Callable[[int, int], float]] = [
        lambda _place, _size: 0.0,
        lambda _place, _size: 1.0,
        lambda _place, _size: -1.0,
        lambda place, size: 1.0 if 2 * place < size else -1.0,
        lambda place, size: -1.0 if 2 * place < size else 1.0,
        lambda place, _size: 1.0 if place % 2 else -1.0,
        lambda place, _size: -1.0 if place % 2 else 1.0,
        lambda place, size: 2 * place / max(size - 1, 1) - 1,
    ]
    for magnitude in (1.0, *_LARGER):
        for shape in shapes:
            yield {
                f"input_{index}": [
                    round(magnitude * shape(place, size), 3) if _is_float(types, index) else int(shape(place, size) > 0)
                    for place in range(size)
                ]
                for index, size in enumerate(sizes)
            }


def _is_float(types: Sequence[str], index: int) -> bool:
    return index >= len(types) or types[index].startswith("F")


@dataclass
class _Streak:
    """A repeated output, and the inputs that gave it; no more inputs are remembered than needed."""

    outputs: list[float]
    inputs: set[int] = field(default_factory=set)


class ConstantOutputs:
    """Notices a circuit whose outputs do not depend on its inputs, by the requests it answers.

    Remembers the last outputs of at most `circuits` circuits. Used by one thread at a time.
    """

    def __init__(self, circuits: int = 64) -> None:
        self._circuits = circuits
        self._streaks: OrderedDict[str, _Streak] = OrderedDict()

    def seen(self, circuit_id: str, inputs: int, outputs: list[float]) -> bool:
        """Whether the circuit's last answers, these `outputs` included, are constant; `inputs` is a hash of them."""
        if not outputs:
            return False
        streak = self._streaks.pop(circuit_id, None)
        if streak is None or not same_output(streak.outputs, outputs):
            streak = _Streak(outputs)
        if len(streak.inputs) < JUDGED_OVER:
            streak.inputs.add(inputs)
        self._streaks[circuit_id] = streak
        if len(self._streaks) > self._circuits:
            self._streaks.popitem(last=False)
        return len(streak.inputs) >= JUDGED_OVER
