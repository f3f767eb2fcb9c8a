"""Each bench runs with the tiny circuit and prints its documented output; speed is not checked here."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from building import NEEDS, ROOT
from omron_miner.circuits import needs as circuit_needs

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def run(bench: str, directory: Path, *arguments: str) -> dict[str, Any]:
    return run_alone(bench, directory, "--circuit", "tiny", *arguments)


def run_alone(bench: str, directory: Path, *arguments: str) -> dict[str, Any]:
    """Of a bench that takes no circuit."""
    file = directory / "found.json"
    command = [sys.executable, str(ROOT / "bench" / f"{bench}.py"), "--json", str(file)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", "only JSON may go to stdout"
    found: dict[str, Any] = json.loads(file.read_text())
    assert found["bench"] == bench
    assert {"cpu", "cores", "memory_bytes", "ezkl", "bittensor", "load_1m_before"} <= set(found["host"])
    return found


def test_overhead_splits_every_response_of_both_miners(tmp_path: Path) -> None:
    found = run("overhead", tmp_path, "--requests", "2")["circuits"]["tiny"]
    for name in ("ours", "stock"):
        assert len(found[name]["samples"]) == 2
        for one in found[name]["samples"]:
            assert 0 < one["witness_s"] + one["prove_s"] < min(one["total_s"], one["round_trip_s"])
            assert one["overhead_s"] == pytest.approx(one["round_trip_s"] - one["witness_s"] - one["prove_s"])
            assert (one["verify_s"] > 0) is (name == "ours"), "ours verifies, stock does not"
        assert {"p50", "p95"} <= set(found[name]["round_trip_s"])
    assert all(seconds > 0 for seconds in found["client_s"]["samples"])
    ratios = found["ratio_ours_to_stock"]
    assert ratios["round_trip_of_pairs"] > 0
    assert all(ratios[key][share] > 0 for key in ("round_trip_s", "prove_s") for share in ("p50", "p95"))
    assert len(found["aims"]) == 2


@pytest.mark.long
def test_throughput_counts_proofs_of_bursts(tmp_path: Path) -> None:
    found = run("throughput", tmp_path, "--at-once", "2", "--rounds", "1", "--set", "prover.workers=2")
    assert found["settings"]["overrides"] == ["prover.workers=2"]
    tiny = found["circuits"]["tiny"]
    for name in ("ours", "stock"):
        [burst] = tiny[name]["bursts"]
        assert (burst["asked"], burst["proofs"], burst["failures"]) == (2, 2, [])
        assert burst["proofs_per_minute"] == pytest.approx(60 * 2 / burst["seconds"], rel=1e-3)
        assert max(burst["response_s"]) <= burst["seconds"]
    assert tiny["ratio_ours_to_stock"]["proofs_per_minute"] > 0


@pytest.mark.long
@pytest.mark.timeout(600)
def test_soak_makes_trouble_and_finds_what_is_left_behind(tmp_path: Path) -> None:
    found = run("soak", tmp_path, "--proofs", "5", "--trouble-every", "4")
    for name in ("ours", "stock"):
        one = found[name]
        assert (one["proofs"], one["failures"], one["troubles"]) == (5, 0, 2)
        assert 0 < one["memory"]["idle"] <= max(one["memory"]["idle_samples"])
        assert one["memory"]["peak"] > 0
    assert found["ours"]["left_behind"]["session_files"] == 0
    assert found["stock"]["left_behind"]["session_files"] > 0, "upstream leaves the files of a request that fails"
    assert found["ratio_ours_to_stock"]["peak_memory"] > 0


def test_prover_hosts_answer_everything_and_as_much_in_time_as_arithmetic_allows(tmp_path: Path) -> None:
    few = ["--many", "100", "--scale", "0.05"]
    found = run_alone("provers", tmp_path, "--only", "many", "--only", "deadline", *few)
    assert found["many"]["answered"] == found["many"]["verified"] == 100
    assert [one["hosts"] for one in found["deadline"]["by_hosts"]] == [1, 2, 4]
    assert all(0 < one["answered_in_time"] <= one["arithmetic"] for one in found["deadline"]["by_hosts"])


def test_settings_are_compared_with_plain_proofs_of_the_same_run(tmp_path: Path) -> None:
    found = run("settings", tmp_path, "--rounds", "2", "--only", "keep-memory", "--only", "fresh-process")
    settings = found["circuits"]["tiny"]["settings"]
    assert set(settings) == {"plain", "keep-memory", "fresh-process"}
    assert len(settings["keep-memory"]["samples"]) == 3, "the first and two rounds"
    for one in settings.values():
        assert all(sample["cpu_s"] > 0 for sample in one["samples"])
        pairs = zip(one["samples"][1:], one["plain_samples"][1:], strict=True)
        ratios = [sample["wall_s"] / plain["wall_s"] for sample, plain in pairs]
        assert min(ratios) <= one["wall_ratio"]["p50"] <= max(ratios)


@pytest.mark.long
def test_proofs_at_a_time_are_counted_for_each_way_of_sharing_the_cores(tmp_path: Path) -> None:
    found = run("settings", tmp_path, "--rounds", "1", "--at-a-time", "2")["circuits"]["tiny"]
    assert set(found["sharing"]) == {"one after another", "all cores each", "cores shared out", "shared out and pinned"}
    assert all(one["proofs_per_minute"] > 0 for one in found["sharing"].values())


def test_needs_reports_the_memory_of_a_proof_alone_and_in_a_worker(tmp_path: Path) -> None:
    tiny = run("needs", tmp_path, "--proofs", "2")["circuits"]["tiny"]
    numbers = json.loads(NEEDS.read_text())["built_in_models"]["tiny"]
    assert {key: tiny[key] for key in numbers} == numbers, "what preflight checks the built-in model against"
    needed = circuit_needs.needs(tiny["pk_bytes"], tiny["logrows"], tiny["instances"])
    assert needed.memory_low < tiny["peak_bytes"]
    assert tiny["kept_first_bytes"] <= tiny["kept_peak_bytes"] < 1.5 * needed.memory_high
    assert 0 < tiny["session_bytes"] <= needed.ram_disk


def test_keys_are_made_and_held_against_their_estimate(tmp_path: Path) -> None:
    found = run_alone("keys", tmp_path, "--count", "4")["keys"]
    assert len(found) == 4
    for one in found:
        assert one["estimate_bytes"] == pytest.approx(one["key_bytes"], rel=0.35)
