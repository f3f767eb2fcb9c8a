"""Searches run args at which a model is cheap to prove and accurate enough: by EZKL's own counts, without a key.

In two steps, because a circuit's outputs depend only on its scales, and its cost on its layout. `arithmetics` tries
scales: EZKL runs each on samples, and the outputs are compared with onnxruntime's. `layouts` tries decomposition, inner
columns and logrows for each accurate one, counted by gen_settings and ranked by `cost`. Lookup range and digits always
follow from the range bounds, so that no candidate has a table that is too small. `tune` measures the best.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from omron_miner.circuits.accuracy import FLOOR, accuracy
from omron_miner.circuits.constant_output import is_constant
from omron_miner.circuits.fit import einsum_cells
from omron_miner.circuits.run_args import SMALLEST_LOGROWS, RunArgs, logrows_for
from omron_miner.competition.score import CircuitMetrics, best_of_each, score
from omron_miner.progress import count, say
from omron_miner.tune.ask_ezkl import outputs_of_each, shapes_of_each
from omron_miner.tune.cost import Cost, cost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omron_miner.tune.ranges import Lookups, Magnitudes, Range

    Rows = Sequence[Sequence[Sequence[float]]]

SCALES = range(3, 14)
_OFFSETS = (0, -2, 2)
"""Offsets of param_scale from input_scale."""
_REBASES = (1, 2, 3)
_MOST_ARITHMETICS = 36
_MOST_WITH_LAYOUTS = 12
"""Number of arithmetics with layouts: those with the smallest numbers, which need the smallest tables."""
_LEGS = (1, 2, 3)
_INNER = (1, 2)
_LARGEST_LOGROWS = 22
SAMPLED_MARGIN = 2.0
"""Default factor over the largest sample for a number without a bound."""
_ROUNDING = 1.02
"""Bounds are for real numbers; this share, plus two, is added for rounding in the circuit."""
_PLACES = 3
"""Number of decimals to which outputs of the model are compared."""
_FEWEST = 2
_LARGEST_BASE = 1 << 20
_ESTIMATE_ERROR = 0.05
"""Approximate mean error of key size estimates."""


@dataclass(frozen=True)
class SearchRequest:
    """A search: `model` is ONNX, `rows` are samples (a list per input), `expected` its correct outputs.

    `base` has the run args that are not searched: visibilities, variables.
    """

    model: bytes
    base: RunArgs
    rows: Rows
    expected: Sequence[Sequence[float]]
    magnitudes: Magnitudes | Lookups
    floor: float = FLOOR
    """Least mean accuracy, 0 to 1; full precision has 1."""
    seed: int = 0
    by_samples: bool = False
    """Whether tables hold only `margin` times the samples' range, even where the bound is larger."""
    margin: float = SAMPLED_MARGIN


@dataclass(frozen=True)
class Arithmetic:
    """Scales, the answers at them, and the magnitude of numbers, as EZKL's integers without sign."""

    run_args: RunArgs
    accuracy: float
    """Mean over the samples of exp(−Σ(difference²))."""
    lookup: int
    digits: int


@dataclass(frozen=True)
class Candidate:
    """A model and run args worth measuring."""

    request: SearchRequest
    """With its model: candidates may have different models."""
    run_args: RunArgs
    accuracy: float
    cost: Cost


def search(request: SearchRequest) -> list[Candidate]:
    """Candidates; none if EZKL rejects all or all are too inaccurate. Deterministic for a seed."""
    # Wide digits and a wide table, so that the answers depend only on the scales.
    wide = {"logrows": 17, "decomp_base": 1 << 15, "decomp_legs": 3, "num_inner_cols": 1}
    tried = [changed(one, **wide, **unchecked(request.base)) for one in grid(request.base, request.seed)]
    found = arithmetics(request, tried)
    say(f"{len(found)} arithmetics are accurate enough")
    laid_out = sorted(found, key=lambda one: (max(one.lookup, one.digits), -one.accuracy))[:_MOST_WITH_LAYOUTS]
    return layouts(request, laid_out)


# --- arithmetic -------------------------------------------------------------------------------------------------------


def grid(base: RunArgs, seed: int) -> list[RunArgs]:
    """Run args for all scales to try: the usual ones, and a random selection of the others by `seed`."""
    plain, other = list[RunArgs](), list[RunArgs]()
    for rebase in _REBASES:
        for offset in _OFFSETS:
            for scale in SCALES:
                values = {"input_scale": scale, "param_scale": scale + offset, "scale_rebase_multiplier": rebase}
                (plain if (offset, rebase) == (0, 1) else other).append(changed(base, **values))
    drawn = random.Random(seed).sample(range(len(other)), _MOST_ARITHMETICS - len(plain))  # noqa: S311  no secret
    return [*plain, *(other[at] for at in sorted(drawn))]


def arithmetics(request: SearchRequest, tried: Sequence[RunArgs], *, counted: bool = True) -> list[Arithmetic]:
    """Those tried whose mean accuracy on the samples is at least the floor and which distinguish samples.

    `counted`: each one tried is a step of progress.
    """
    tell = count("arithmetic", len(tried)) if counted else _no_progress
    answers = outputs_of_each(request.model, tried, request.rows, tell)
    found = []
    for run_args, each in zip(tried, answers, strict=True):
        if isinstance(each, str) or any(isinstance(one, str) for one in each):
            continue
        outputs = [[number for row in one["outputs"] for number in row] for one in each]
        mean = fmean(map(accuracy, outputs, request.expected))
        if mean >= request.floor and not collapses(outputs, request.expected):
            met = max(max(-one["lowest"], one["highest"]) for one in each)
            places = request.magnitudes.at(run_args)
            lookup, digits = (needed(places, kind, request.margin, by_samples=request.by_samples)
                              for kind in ("lookup", "digits"))  # fmt: skip
            unknown = any(one.verdict == "unknown" for one in places)
            digits = max(digits, _largest_input_or_output(request, run_args, checked=unknown))
            inside = math.ceil(met * request.margin) if unknown else met if lookup else 0
            found.append(Arithmetic(run_args, mean, max(lookup, inside), digits))
    return found


def collapses(outputs: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> bool:
    """Whether a circuit gives the same output for samples that the model distinguishes: its numbers are too coarse."""
    told_apart = {tuple(round(number, _PLACES) for number in one) for one in expected}
    constant = is_constant(outputs) and not is_constant(expected)
    return constant or len({tuple(one) for one in outputs}) < len(told_apart)


def needed(places: Sequence[Range], kind: str, margin: float = SAMPLED_MARGIN, *, by_samples: bool = False) -> int:
    """The largest number in places of a kind: a bound, or `margin` times the samples' range; 0 without places.

    `by_samples`: the smaller of both.
    """
    most = [_held(one, margin, by_samples=by_samples) for one in places if one.kind == kind]
    return math.ceil(max(most) * _ROUNDING) + 2 if most else 0


def _held(place: Range, margin: float, *, by_samples: bool) -> int:
    sampled = math.ceil(place.seen * margin)
    if place.bound is None:
        return sampled
    return min(place.bound, sampled) if by_samples else place.bound


def _largest_input_or_output(request: SearchRequest, run_args: RunArgs, *, checked: bool) -> int:
    """The largest integer of inputs and outputs; 0 unless their range is checked, or `checked` inside a node."""
    if run_args.ignore_range_check_inputs_outputs and not checked:
        return 0
    largest = max(max(map(abs, answer), default=0.0) for answer in request.expected)
    inputs = max(max(map(abs, row), default=0.0) for sample in request.rows for row in sample)
    places = max(run_args.input_scale, run_args.param_scale) * (run_args.scale_rebase_multiplier + 1)
    return math.ceil(request.margin * max(largest, inputs) * 2.0**places)


def cheapest_visibilities(model: bytes, base: RunArgs) -> RunArgs:
    """Run args with the visibilities of inputs and parameters that give the fewest cells.

    For circuits whose prover and verifier are free to choose. `base` itself when EZKL takes none.
    """
    each = [
        changed(base, input_visibility=inputs, param_visibility=parameters)
        for inputs in ("Public", "Private")
        for parameters in ("Fixed", "Private")
    ]
    each = [changed(one, **{"ignore_range_check_inputs_outputs": False, **unchecked(one)}) for one in each]
    shapes = shapes_of_each(model, each)
    counted = [
        (int(shape["num_rows"]) + einsum_cells(shape), at)
        for at, shape in enumerate(shapes)
        if not isinstance(shape, str)
    ]
    return each[min(counted)[1]] if counted else base


def unchecked(base: RunArgs) -> dict[str, bool]:
    """Public inputs are rebuilt by the verifier, so that their range needs no check."""
    return {"ignore_range_check_inputs_outputs": True} if base.input_visibility == "Public" else {}


# --- layout -----------------------------------------------------------------------------------------------------------


def layouts(
    request: SearchRequest, found: Sequence[Arithmetic], inner: Sequence[int] = _INNER, *, counted: bool = True
) -> list[Candidate]:
    """Every layout of each arithmetic that fits its logrows, with its cost; `inner`: num_inner_cols to try.

    `counted`: each one tried is a step of progress.
    """
    tried = [(one, layout) for one in found for layout in _layouts(one, inner)]
    tell = count("layout", len(tried)) if counted else _no_progress
    shapes = shapes_of_each(request.model, [layout for _, layout in tried], tell)
    candidates = []
    for (one, layout), shape in zip(tried, shapes, strict=True):
        if not isinstance(shape, str):
            for run_args, price in _fitting(layout, shape):
                filled = _filled(run_args, price) if request.by_samples else run_args
                candidates.append(Candidate(request, filled, one.accuracy, price))
    return candidates


def _no_progress() -> None:
    """A step that is not counted."""


def _layouts(one: Arithmetic, inner: Sequence[int]) -> list[RunArgs]:
    """Layouts without logrows: lookup range and digits as needed, with each number of legs and inner columns."""
    reach = max(1, one.lookup)
    made = []
    for legs in _LEGS if one.digits else (1,):
        base = smallest_base(one.digits, legs)
        if base > _LARGEST_BASE or (legs > 1 and base == smallest_base(one.digits, legs - 1)):
            continue
        logrows = min(_LARGEST_LOGROWS, logrows_for(max(base, 2 * reach + 1 if one.lookup else 0)))
        values = {"lookup_range": (-reach, reach), "decomp_base": base, "decomp_legs": legs, "logrows": logrows}
        made += [changed(one.run_args, **values, num_inner_cols=columns) for columns in inner]
    return made


def _fitting(layout: RunArgs, shape: dict[str, Any]) -> list[tuple[RunArgs, Cost]]:
    """The layout at each logrows around the one at which its tables take one column, where it fits."""
    around = range(layout.logrows - 1, min(layout.logrows + 4, _LARGEST_LOGROWS) + 1)
    each = [changed(layout, logrows=logrows) for logrows in around if logrows >= SMALLEST_LOGROWS]
    return [(one, price) for one in each if (price := cost(one, shape))]


def _filled(run_args: RunArgs, price: Cost) -> RunArgs:
    """Run args with the widest lookup range for the same number of table columns: a margin without cost."""
    reach = (price.table_columns * run_args.usable_rows - 1) // 2
    return changed(run_args, lookup_range=(-reach, reach))


def _cost_class(price: Cost) -> int:
    return round(math.log(price.key_bytes) / math.log1p(_ESTIMATE_ERROR))


def choose(candidates: Sequence[Candidate], best: int, goal: str = "time") -> list[Candidate]:
    """The `best` candidates: the cheapest, and among equal costs the most accurate; or those with the best score.

    Costs count as equal if the keys' estimates differ by less than their error. A score is estimated from the key's
    size instead of the time.
    """

    def standing(one: Candidate) -> CircuitMetrics:
        return CircuitMetrics(one.accuracy, 1.0, one.cost.key_bytes)

    ideal = best_of_each([standing(one) for one in candidates]) if candidates else None

    def rank(one: Candidate) -> tuple[float, int, float, float, str]:
        first = -score(standing(one), ideal).score if goal == "score" else 0.0
        return first, _cost_class(one.cost), -one.accuracy, one.cost.key_bytes, one.run_args.model_dump_json()

    chosen = dict[tuple[int, int, int], Candidate]()
    for one in sorted(candidates, key=rank):
        chosen.setdefault((_cost_class(one.cost), one.run_args.decomp_legs, one.run_args.num_inner_cols), one)
    return list(chosen.values())[:best]


def smallest_base(number: int, legs: int) -> int:
    """The smallest power of two, `legs` digits of which hold all numbers up to `number`."""
    return int(max(_FEWEST, 1 << math.ceil(number.bit_length() / legs)))


def changed(run_args: RunArgs, **values: object) -> RunArgs:
    """Run args with other values, checked."""
    return RunArgs.model_validate({**run_args.model_dump(), **values})
