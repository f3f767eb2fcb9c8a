"""Candidates in the compact arithmetic: a model for each precision, checked by EZKL's own answers to samples.

onnxruntime cannot check these models: integers that are exact in EZKL are not exact as 32-bit floats (`compact`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from omron_miner.circuits.fit import einsum_cells
from omron_miner.errors import CircuitError
from omron_miner.progress import say
from omron_miner.tune.ask_ezkl import shapes_of_each
from omron_miner.tune.compact import PLACES, Precision, compact
from omron_miner.tune.ranges import Lookups
from omron_miner.tune.search import arithmetics, changed, layouts, unchecked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omron_miner.circuits.run_args import RunArgs
    from omron_miner.tune.graph import Graph
    from omron_miner.tune.ranges import Magnitudes
    from omron_miner.tune.search import Candidate, SearchRequest

PRECISIONS = tuple(Precision(product - apart, product) for product in (11, 12, 13, 14) for apart in (6, 7))
_NEVER_SCALED = 64
_WIDE = 1 << 20
_INNER = (1, 2, 3)
"""More than three make the circuit's degree, and with it the key, twice as large (measured, EZKL 23.0.5)."""


def compact_search(request: SearchRequest, graphs: Sequence[tuple[Graph, Magnitudes]]) -> list[Candidate]:
    """Candidates made from the one of `graphs` (models with their magnitudes) whose circuit has the fewest cells.

    Empty if each has an unsupported operation, or if EZKL rejects all.
    """
    sized = [(cells, at) for at, (graph, _) in enumerate(graphs) if (cells := _cells(graph, request.base))]
    if not sized:
        return []
    graph, magnitudes = graphs[min(sized)[1]]
    candidates: list[Candidate] = []
    for precision in PRECISIONS:
        made = compact(graph, precision)
        asked = replace(request, model=made.content(), magnitudes=Lookups(magnitudes, made.places), by_samples=True)
        found = arithmetics(asked, [run_args_for(request.base, precision)], counted=False)
        what = f"compact, {precision.activation} and {precision.product} places"
        say(f"{what}: accuracy {found[0].accuracy:.4f}" if found else f"{what}: not accurate enough")
        candidates += layouts(asked, found, _INNER, counted=False)
    return candidates


def _cells(graph: Graph, base: RunArgs) -> int:
    """Of the circuit in the compact arithmetic, the same at every precision; 0 when there is none."""
    try:
        made = compact(graph, PRECISIONS[0])
    except CircuitError as error:
        say(error.message)
        return 0
    (shape,) = shapes_of_each(made.content(), [run_args_for(base, PRECISIONS[0])])
    if isinstance(shape, str):
        say(f"EZKL rejects the compact arithmetic: {shape}")
        return 0
    return int(shape["num_rows"]) + einsum_cells(shape)


def run_args_for(base: RunArgs, precision: Precision) -> RunArgs:
    """Run args at which EZKL never rescales anything itself, with a table that holds everything samples reach."""
    scales = {"input_scale": precision.input_scale, "param_scale": -PLACES, "scale_rebase_multiplier": _NEVER_SCALED}
    return changed(base, **scales, **unchecked(base), lookup_range=(-_WIDE, _WIDE), logrows=22, num_inner_cols=1)
