"""Who wins, what outlives an interrupted run, and what the report shows of it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from building import constants_below
from omron_miner.building.build import Source
from omron_miner.circuits.run_args import RunArgs
from omron_miner.cli import main
from omron_miner.competition.score import CircuitMetrics
from omron_miner.tune import tune as tuning
from omron_miner.tune.job import Job, Search, Tuned
from omron_miner.tune.measure_trials import first_turns
from omron_miner.tune.results import Store, Trial, choose_winner, digest
from omron_miner.tune.tune_report import to_json, to_svg, to_text
from wire_miner import to_toml


def tried(place: Path, name: str, seconds: float, baseline: bool = False, **values: Any) -> Trial:
    proof = {"witness_s": seconds / 4, "prove_s": seconds * 3 / 4, "proof_bytes": 9000, "outputs": [1.0], "forged": []}
    given = {"accuracy": 0.999, "ranges": "safe", "proofs": [proof, proof], **values}
    return Trial(name, baseline, place / "model.onnx", RunArgs(), **given)


def test_the_fastest_wins_but_only_if_it_passes(tmp_path: Path) -> None:
    stock = tried(tmp_path, "stock", 5.0, baseline=True)
    good = tried(tmp_path, "good", 2.0)
    out = [
        tried(tmp_path, "unsound", 1.0, unsound=["the first output changed"]),
        tried(tmp_path, "rough", 1.0, accuracy=0.98),
        tried(tmp_path, "exceeded", 1.0, ranges="exceeded"),
        tried(tmp_path, "killed", 1.0, proofs=[], failure="killed: it took longer than 300 s"),
    ]
    assert choose_winner([stock, *out, good], 0.99) is good
    reasons = {one.name: one.failure for one in out}
    assert "UNSOUND" in reasons["unsound"]
    assert "the first output changed" in reasons["unsound"]
    assert "0.9800 is below 0.99" in reasons["rough"]
    assert "exceeds" in reasons["exceeded"]
    assert (stock.failure, good.failure) == ("", "")
    assert choose_winner(out, 0.99) is None


@pytest.mark.parametrize("seconds", [5.0, 6.0])
def test_a_baseline_wins_when_no_candidate_is_faster(tmp_path: Path, seconds: float) -> None:
    stock = tried(tmp_path, "stock", 5.0, baseline=True)
    assert choose_winner([tried(tmp_path, "candidate 1", seconds), stock], 0.99) is stock


def test_a_score_weighs_accuracy_against_time_as_a_competition_does(tmp_path: Path) -> None:
    rough = tried(tmp_path, "candidate 1", 2.0, accuracy=0.99)
    fine = tried(tmp_path, "candidate 2", 2.1, accuracy=0.9999)
    slow = tried(tmp_path, "candidate 3", 20.0, accuracy=1.0)
    trials = [rough, fine, slow]
    assert choose_winner(trials, 0.99) is rough
    assert choose_winner(trials, 0.99, "score") is fine
    assert slow.score == pytest.approx(0.95 + 0.05 * 0.1)
    beaten = CircuitMetrics(accuracy=0.5, proof_bytes=9000, response_s=2.1)
    assert choose_winner(trials, 0.99, "score", beaten) is fine
    assert fine.score == pytest.approx(0.95 * 0.9999 / 0.5 + 0.05)
    stock = tried(tmp_path, "stock", 2.1, baseline=True, accuracy=0.9999)
    assert choose_winner([fine, stock], 0.99, "score") is stock, "no worse than the best baseline"


def test_finished_steps_outlive_a_line_that_broke_off(tmp_path: Path) -> None:
    path = tmp_path / "measurements.jsonl"
    Store(path).put(digest("setup", 1), {"step": "setup"}, {"setup_s": 2.0})
    path.write_text(path.read_text() + '{"key": "half')
    store = Store(path)
    assert store.get(digest("setup", 1)) == {"setup_s": 2.0}
    assert store.get(digest("setup", 2)) is None
    store.put(digest("setup", 2), {}, {"setup_s": 3.0})
    assert Store(path).get(digest("setup", 2)) == {"setup_s": 3.0}


def test_the_report_names_the_winner_and_why_others_are_out(tmp_path: Path) -> None:
    stock, good = tried(tmp_path, "stock <17>", 5.0, baseline=True), tried(tmp_path, "candidate 1", 2.0)
    lost = tried(tmp_path, "candidate 2", 1.0, proofs=[], failure="killed: it took longer than 300 s")
    trials = [stock, good, lost]
    tuned = Tuned(Job(tmp_path / "m.onnx", tmp_path), 14, trials, choose_winner(trials, 0.99), None)
    rows = to_text(tuned).splitlines()
    assert any(row.startswith("candidate 1 ") and row.endswith("WINNER") and " 2.00 " in row for row in rows)
    assert any(
        row.startswith("candidate 2 ") and row.endswith("REJECTED: killed: it took longer than 300 s") for row in rows
    )
    told = json.loads(to_json(tuned))
    assert told["winner"] == "candidate 1"
    assert [one["response_s"] for one in told["trials"]] == [5.0, 2.0, None]
    drawn = ElementTree.fromstring(to_svg(tuned))  # noqa: S314  our own
    words = [one.text for one in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "candidate 1 (winner)" in words
    assert "stock <17>" in words
    assert "candidate 2" not in " ".join(filter(None, words)), "what was not proved has no place in it"


@pytest.mark.parametrize("passes", [True, False])
def test_the_command_hands_on_what_it_was_asked_and_fails_when_nothing_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: bool
) -> None:
    asked: list[Job] = []

    def answer(job: Job, *_: Any) -> Tuned:
        asked.append(job)
        one = tried(tmp_path, "candidate 1", 2.0)
        return Tuned(job, 14, [one], one if passes else None, None)

    monkeypatch.setattr(tuning, "tune", answer)
    config = tmp_path / "constants.toml"
    config.write_text(to_toml(constants_below(tmp_path)))
    given = ["--config", str(config), "circuit", "tune", "m.onnx", "--out", str(tmp_path), "--json", "--floor", "0.9",
             "--baselines", "given", "--srs-file", "own.srs", "--srs-sha256", "ab"]  # fmt: skip
    done = CliRunner().invoke(main, [*given, "--best", "7", "--seed", "5", "--limit-seconds", "9", "--limit-gib", "2"])
    assert done.exit_code == (0 if passes else 1), done.output
    assert json.loads(done.stdout) == json.loads((tmp_path / "report.json").read_text())
    (job,) = asked
    assert (job.goal.floor, job.search.best, job.sampling.seed) == (0.9, 7, 5)
    assert (job.goal.name, job.search.compact, job.search.free_visibilities) == ("time", False, False)
    assert (job.baselines.which, job.srs) == ("given", Source(Path("own.srs"), "ab"))
    assert (job.limits.seconds, job.limits.space_bytes) == (9.0, 2 << 30)
    assert job.base.input_visibility == "Public"
    assert {path.name for path in tmp_path.glob("report.*")} == {"report.txt", "report.json", "report.svg"}


def test_a_missing_model_is_a_usage_error(tmp_path: Path) -> None:
    config = tmp_path / "constants.toml"
    config.write_text(to_toml(constants_below(tmp_path)))
    given = ["--config", str(config), "circuit", "tune", str(tmp_path / "none.onnx"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 2
    assert "none.onnx" in done.stderr
    assert CliRunner().invoke(main, [*given, "--low", "1", "--high", "0"]).exit_code == 2
    assert CliRunner().invoke(main, [*given, "--reference", "beaten.json"]).exit_code == 2, "only with --goal score"


def test_a_coarse_arithmetic_is_skipped_in_every_layout_until_one_is_accurate(tmp_path: Path) -> None:
    asked = []

    def take(one: Trial) -> None:
        asked.append(one.name)
        if one.run_args.input_scale == 5:
            one.accuracy, one.failure = 0.5, "too coarse"
        else:
            one.accuracy, one.accurate = 0.999, True
            one.proofs.append({})

    laid_out = [(f"{scale} at {logrows}", scale, logrows) for scale in (5, 7, 9) for logrows in (16, 17)]
    trials = [
        Trial(name, False, tmp_path / "m.onnx", RunArgs(input_scale=scale, logrows=logrows))
        for name, scale, logrows in laid_out
    ]
    tried_ones = first_turns(trials, Job(tmp_path / "m.onnx", tmp_path, search=Search(1), proofs=1), take)
    assert asked == ["5 at 16", "7 at 16"]
    assert [one.name for one in tried_ones] == asked, "what was not tried is not reported"
