"""The report of a tuning: a table, JSON, and a plot of accuracy against proving time."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from omron_miner.circuits.circuit import ezkl_version
from omron_miner.files import write_output
from omron_miner.formatting import size, table
from omron_miner.page import Markup, round_ticks, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omron_miner.tune.job import Tuned
    from omron_miner.tune.results import Trial

_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 690, 30, 360


def write_report(tuned: Tuned) -> None:
    """Writes report.txt, report.json and report.svg into the job's folder. Raises OSError."""
    out = tuned.job.out
    for name, content in (("txt", to_text(tuned)), ("json", to_json(tuned)), ("svg", to_svg(tuned))):
        write_output(out / f"report.{name}", content)


def to_json(tuned: Tuned) -> str:
    """Everything measured as one line of JSON; times in seconds, sizes in bytes."""
    job, winner = tuned.job, tuned.winner
    content = {
        "model": str(job.onnx),
        "ezkl": ezkl_version(),
        "seed": job.sampling.seed,
        "floor": job.goal.floor,
        "goal": job.goal.name,
        "reference": asdict(job.goal.reference) if job.goal.reference else None,
        "limits": {"seconds": job.limits.seconds, "space_bytes": job.limits.space_bytes},
        "samples": tuned.samples,
        "winner": winner.name if winner else None,
        "circuit": tuned.built.directory if tuned.built else None,
        "trials": [_trial(one) for one in tuned.trials],
    }
    return json.dumps(content) + "\n"


def to_text(tuned: Tuned) -> str:
    """A row for each set of run args, and which one was chosen."""
    job = tuned.job
    rows = [("run args", "logrows", "rows", "key", "setup s", "response s", "accuracy", "score", "ranges", "")]
    for one in tuned.trials:
        setup = one.setup
        rows.append(
            (
                one.name,
                str(one.run_args.logrows),
                str(setup.get("rows", "")),
                size(setup["pk_bytes"]) if setup else "",
                f"{setup['setup_s']:.1f}" if setup else "",
                "" if one.response_s is None else f"{one.response_s:.2f}",
                "" if one.accuracy is None else f"{one.accuracy:.4f}",
                "" if one.score is None else f"{one.score:.4f}",
                one.ranges,
                "WINNER" if one is tuned.winner else f"REJECTED: {one.failure}" if one.failure else "",
            )
        )
    title = f"{job.onnx} with EZKL {ezkl_version()}, {tuned.samples} samples, {job.proofs} proofs each, medians"
    return "\n".join([title, *table(rows[0], rows[1:], left=(0, -1)), *_conclusion(tuned)]) + "\n"


def _conclusion(tuned: Tuned) -> list[str]:
    winner, built = tuned.winner, tuned.built
    if winner is None or built is None:
        return ["no candidate passed: no circuit was built"]
    lines = [f"winner: {winner.name}; model.onnx, run_args.json and {built.directory}"]
    others = [one for one in tuned.trials if one.baseline and one is not winner and not one.failure]
    for one in others:
        if one.response_s and winner.response_s:
            lines.append(f"response time, {one.name} / winner: {one.response_s / winner.response_s:.2f}")
    if tuned.job.goal.name == "score":
        best = "one with the best accuracy and the best time of all that passed"
        compared_with = "the reference" if tuned.job.goal.reference else best
        lines.append(f"score: as a competition weighs accuracy and time, compared with {compared_with}")
    if not winner.weights_tried:
        lines.append("the weight forgery could not be tested: changing weights did not change any output")
    if any(one.reused for one in tuned.trials):
        lines.append("some figures are from an earlier run in this folder: measurements.jsonl")
    return lines


def _trial(one: Trial) -> dict[str, Any]:
    return {
        "name": one.name,
        "baseline": one.baseline,
        "model": one.model.name,
        "run_args": one.run_args.model_dump(mode="json", exclude_none=True),
        "estimated_key_bytes": one.estimated_bytes,
        "ranges": one.ranges,
        "accuracy": one.accuracy,
        "response_s": one.response_s,
        "setup": {key: value for key, value in one.setup.items() if key != "folder"},
        "proofs": [{key: value for key, value in proof.items() if key != "outputs"} for proof in one.proofs],
        "failure": one.failure,
        "unsound": one.unsound,
        "weights_tried": one.weights_tried,
        "score": one.score,
        "reused": one.reused,
    }


# --- the picture ------------------------------------------------------------------------------------------------------


def to_svg(tuned: Tuned) -> str:
    """Accuracy against median response time: a square for each baseline, a disc for each candidate, the winner ringed.

    Trials without a proof are not in it.
    """
    shown = [one for one in tuned.trials if one.response_s is not None and one.accuracy is not None]
    times = round_ticks(max((one.response_s or 0.0 for one in shown), default=1.0))
    lowest = min([tuned.job.goal.floor, *(one.accuracy or 0.0 for one in shown)])
    bottom = max(0.0, lowest - 0.1 * max(1e-6, 1 - lowest))

    def x(seconds: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * seconds / times[-1]

    def y(accuracy: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (accuracy - bottom) / max(1e-9, 1 - bottom)

    drawn = [_label(x(one), _BOTTOM + 18, f"{one:g}", "middle") for one in times]
    for one in sorted({bottom, tuned.job.goal.floor, 1.0}):
        drawn += [_line(_LEFT, y(one), _RIGHT, y(one), dashed=one == tuned.job.goal.floor)]
        drawn += [_label(_LEFT - 6, y(one) + 4, f"{one:.5g}", "end")]
    drawn.append(_label((_LEFT + _RIGHT) / 2, _BOTTOM + 42, "witness and proof, s", "middle"))
    drawn.append(_label(_LEFT, _TOP - 12, "accuracy; dashed: the floor", "start"))
    points = [(one, x(one.response_s or 0.0), y(one.accuracy or 0.0)) for one in shown]
    return _svg([*drawn, *_points(points, tuned.winner)])


def _points(points: Sequence[tuple[Trial, float, float]], winner: Trial | None) -> list[str]:
    drawn = list[str]()
    for number, (one, at, height) in enumerate(points):
        fill = "#999" if one.failure else "#0b6" if not one.baseline else "#36c"
        if one.baseline:
            drawn.append(f'<rect x="{at - 5:.1f}" y="{height - 5:.1f}" width="10" height="10" fill="{fill}"/>')
        else:
            drawn.append(f'<circle cx="{at:.1f}" cy="{height:.1f}" r="5" fill="{fill}"/>')
        if one is winner:
            drawn.append(f'<circle cx="{at:.1f}" cy="{height:.1f}" r="10" fill="none" stroke="#c30"/>')
        end = "end" if at > (_LEFT + _RIGHT) / 2 else "start"
        name = one.name + (" (winner)" if one is winner else " (rejected)" if one.failure else "")
        drawn.append(_label(at + (-12 if end == "end" else 12), height + 16 + 14 * (number % 3), name, end))
    return drawn


def _line(x1: float, y1: float, x2: float, y2: float, dashed: bool) -> str:
    dash = ' stroke-dasharray="6 4"' if dashed else ""
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="#888"{dash}/>'


def _label(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text(words)}</text>'


def _svg(drawn: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">'
    )
    return Markup(f'{head}<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>{"".join(drawn)}</svg>\n')
