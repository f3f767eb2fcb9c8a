"""The model with other weights, used to forge proofs: answers of another model must not verify."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omron_miner.tune.graph import Graph

_WEIGHTED = ("Gemm", "MatMul", "Conv", "Mul", "Add", "Sub")


def with_other_weights(graph: Graph) -> Iterator[Graph]:
    """The model with one weight tensor halved; the tensor that is used last comes first.

    Halved, because smaller numbers stay within the circuit's tables.
    """
    model = graph.copy()  # copying sorts the nodes
    for node in reversed(model.nodes):
        for name in node.input:
            weights = model.constants.get(name)
            if node.op_type in _WEIGHTED and weights is not None and weights.dtype == np.float32 and weights.any():
                made = model.copy()
                made.constants[name] = weights / 2
                yield made
