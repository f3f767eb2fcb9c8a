"""Inputs to check a rewrite on: the operator's own, random ones, and the extremes that an honest caller can send."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from omron_miner.competition.inputs import draw, read_inputs
from omron_miner.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from omron_miner.tune.graph import Array, Graph
    from omron_miner.tune.running import Feed

RANDOM = 4
"""Uniform and clipped normal inputs each."""
AUGMENTED = 8
"""Number of the operator's images that are augmented as by the competition's validators."""
_MOST_OWN = 32
_IMAGES = 4
"""Dimensions of a batch of images."""


def make_feeds(graph: Graph, data: Path | None, low: float, high: float, seed: int) -> dict[str, Feed]:
    """Inputs by description ("own 1", "all low", …), each number within `low` and `high`.

    At most 32 of the operator's, and 8 more augmented as by validators. Raises ConfigError if these are outside the
    bounds or do not fit the model.
    """
    random = np.random.default_rng(seed)
    makers: dict[str, Callable[[tuple[int, ...]], Array]] = {
        "all low": lambda shape: np.full(shape, low),
        "all high": lambda shape: np.full(shape, high),
        "all zero": lambda shape: np.full(shape, np.clip(0.0, low, high)),
        "checkerboard": lambda shape: np.where(np.indices(shape).sum(axis=0) % 2, low, high),
        "stripes": lambda shape: np.where(np.indices((*shape, 1))[-2 if shape else -1].reshape(shape) % 2, high, low),
        "black and white noise": lambda shape: random.choice([low, high], shape),
    }
    for number in range(1, RANDOM + 1):
        makers[f"uniform {number}"] = lambda shape: random.uniform(low, high, shape)
        makers[f"normal {number}"] = lambda shape: np.clip(random.standard_normal(shape), low, high)
    shapes = {one.name: graph.shape(one.name) or () for one in graph.inputs}
    feeds: dict[str, Feed] = dict(_own(shapes, data, low, high, seed)) if data else {}
    for what, make in makers.items():
        feeds[what] = {name: np.asarray(make(shape), np.float32) for name, shape in shapes.items()}
    return feeds


def _own(shapes: dict[str, tuple[int, ...]], data: Path, low: float, high: float, seed: int) -> dict[str, Feed]:
    if len(shapes) != 1:
        raise ConfigError(f"the model takes {len(shapes)} inputs", "--data is for models of one input")
    ((name, shape),) = shapes.items()
    arrays = read_inputs(data, shape)[:_MOST_OWN]
    lowest, highest = min(float(one.min()) for one in arrays), max(float(one.max()) for one in arrays)
    if lowest < low or highest > high:
        raise ConfigError(
            f"{data} holds numbers from {lowest:g} to {highest:g}, the bounds are {low:g} to {high:g}",
            "give --low and --high that contain every honest input",
        )
    changed = draw(arrays, shape, AUGMENTED, seed) if len(shape) == _IMAGES else []
    return {
        **{f"own {number}": {name: array} for number, array in enumerate(arrays, start=1)},
        **{f"augmented {number}": {name: np.clip(one, low, high)} for number, one in enumerate(changed, start=1)},
    }
