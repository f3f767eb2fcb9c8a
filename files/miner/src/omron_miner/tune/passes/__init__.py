"""The rewrites, one small module each, in the order they are run.

A pass is a function that changes a `Graph` and returns the number of places it changed. Its docstring states what it
does, how exact it is, and what it saves; `Pass.error` is the maximum difference it may make (see `running.difference`),
beyond which `rewrite` drops it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from omron_miner.tune.passes.attributes import write_attributes
from omron_miner.tune.passes.batch_norm import fold_batch_norm
from omron_miner.tune.passes.constants import fold_constants
from omron_miner.tune.passes.conv_layouts import convolutions_by_rows, convolutions_by_tiles
from omron_miner.tune.passes.im2col import convolutions_as_matmul, window_indices
from omron_miner.tune.passes.max_pool import MONOTONE, pool_before_activation
from omron_miner.tune.passes.merge import merge_products
from omron_miner.tune.passes.pads import fold_pads

if TYPE_CHECKING:
    from collections.abc import Callable

    from omron_miner.tune.graph import Graph

__all__ = ["EXACT", "FOR_COMPACT", "MONOTONE", "Pass", "window_indices"]

ROUNDING = 1e-5
"""Maximum difference of sums of 32-bit floats in another order, relative to the largest output."""


@dataclass(frozen=True)
class Pass:
    """A named rewrite and the largest difference it may make."""

    name: str
    run: Callable[[Graph], int]
    error: float
    counted: bool = True
    """Whether EZKL counts the circuit's cells after it; False for a pass that only prepares for others."""


EXACT = (
    Pass("fold-constants", fold_constants, 0.0, counted=False),
    Pass("write-attributes", write_attributes, 0.0, counted=False),
    Pass("fold-pads", fold_pads, 0.0, counted=False),
    Pass("fold-batch-norm", fold_batch_norm, ROUNDING),
    Pass("pool-before-activation", pool_before_activation, 0.0),
    Pass("conv-as-matmul", convolutions_as_matmul, ROUNDING),
    Pass("merge-matmuls", merge_products, ROUNDING),
)

_PREPARING = {"fold-constants", "write-attributes", "fold-pads", "fold-batch-norm", "pool-before-activation"}
FOR_COMPACT = (
    *(replace(one, counted=False) for one in EXACT if one.name in _PREPARING),
    Pass("conv-in-tiles", convolutions_by_tiles, ROUNDING, counted=False),
    Pass("conv-by-rows", convolutions_by_rows, ROUNDING, counted=False),
    *(replace(one, counted=False) for one in EXACT if one.name not in _PREPARING),
)
"""For EZKL 23.0.5, before the compact arithmetic. Not counted: that arithmetic replaces what EZKL would count."""
