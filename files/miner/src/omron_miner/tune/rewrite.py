"""Runs the passes one after another and keeps those that meet their stated error and save cells.

After each pass the model is run by onnxruntime on every sample: a difference beyond the pass's stated error drops it,
as does a higher number of cells by EZKL's own count. No model gets special treatment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from omron_miner.errors import CircuitError, ConfigError
from omron_miner.progress import say
from omron_miner.tune.ask_ezkl import Size, circuit_size
from omron_miner.tune.passes import EXACT, Pass
from omron_miner.tune.running import NotRunError, difference, run_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from omron_miner.circuits.run_args import RunArgs
    from omron_miner.tune.graph import Array, Graph
    from omron_miner.tune.running import Feed

ROUNDED_ONCE = 4 * 2.0**-23
"""Relative difference that a pass may always make. A 32-bit float has a step of 2^-23 of its size (numpy.finfo's eps,
1.2e-7), and onnxruntime may sum in another order, or fuse a multiplication with an addition, when nothing but the nodes
around have changed: a few steps do not indicate another computation."""


@dataclass(frozen=True)
class Step:
    """The result of one pass."""

    name: str
    places: int
    """Number of places it changed."""
    nodes_before: int
    nodes_after: int
    size: Size | None
    """The circuit's size after it; None when EZKL rejects the model."""
    difference: float
    """From the original model, the largest over all samples, relative to the largest output when that is above 1."""
    worst_sample: str
    dropped: str
    """Why it was not kept; empty when it was."""


@dataclass(frozen=True)
class Rewritten:
    """A model after all passes that were kept, and what each did."""

    graph: Graph
    before: Size | None
    after: Size | None
    refused: str
    """Why EZKL rejects the original model; empty when it does not."""
    steps: list[Step]


def rewrite(graph: Graph, feeds: Mapping[str, Feed], run_args: RunArgs, passes: Sequence[Pass] = EXACT) -> Rewritten:
    """The model after `passes`, each checked on `feeds` and counted at `run_args`. `graph` is not changed.

    Raises ConfigError when onnxruntime cannot run the model as given.
    """
    try:
        expected = run_model(graph, list(feeds.values()))
    except NotRunError as error:
        raise ConfigError(f"the model cannot be run: {error}", "check it with onnxruntime") from error
    size, refused = _size(graph, run_args)
    before, steps = size, list[Step]()
    for one in passes:
        step, candidate = _try(one, graph, size, feeds, expected, run_args)
        steps.append(step)
        say(f"{one.name}: {_words(step)}")
        if step.places and not step.dropped:
            graph, size = candidate, step.size
    return Rewritten(graph, before, size, refused, steps)


def _try(
    one: Pass,
    graph: Graph,
    size: Size | None,
    feeds: Mapping[str, Feed],
    expected: list[list[Array]],
    run_args: RunArgs,
) -> tuple[Step, Graph]:
    candidate = graph.copy()
    nodes = len(graph.nodes)
    try:
        places = one.run(candidate)
        if not places:
            return Step(one.name, 0, nodes, nodes, size, 0.0, "", ""), graph
        answers = run_model(candidate, list(feeds.values()))
    except NotRunError as error:
        return Step(one.name, 0, nodes, nodes, size, 0.0, "", f"onnxruntime rejects its result: {error}"), graph
    apart = {what: difference([mine], [theirs]) for what, mine, theirs in zip(feeds, answers, expected, strict=True)}
    worst = max(apart, key=apart.__getitem__)
    new_size, refusal = _size(candidate, run_args) if one.counted or size is None else (size, "")
    dropped = ""
    if apart[worst] > max(one.error, ROUNDED_ONCE) + _earlier_difference(graph, feeds, expected):
        dropped = f"outputs differ by {apart[worst]:.2g} on {worst!r}, it may be {one.error:.2g}"
    elif new_size is None and size is not None:
        dropped = refusal
    elif new_size and size and new_size.cells > size.cells:
        dropped = f"EZKL counts {new_size.cells} cells after this step, {size.cells} before"
    return Step(one.name, places, nodes, len(candidate.nodes), new_size, apart[worst], worst, dropped), candidate


def _earlier_difference(graph: Graph, feeds: Mapping[str, Feed], expected: list[list[Array]]) -> float:
    """The difference already made by earlier passes, within their own errors."""
    return difference(run_model(graph, list(feeds.values())), expected)


def _size(graph: Graph, run_args: RunArgs) -> tuple[Size | None, str]:
    try:
        return circuit_size(graph, run_args), ""
    except CircuitError as error:
        return None, error.message


def _words(step: Step) -> str:
    if step.dropped:
        return f"dropped: {step.dropped}"
    if not step.places:
        return "nothing to do"
    size = f", {step.size.rows} rows" if step.size else ", EZKL does not accept it yet"
    return f"{step.places} places{size}, difference {step.difference:.1e}"
