"""What a circuit needs to be proved, and that the package and preflight say the same of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from omron_miner.circuits import needs as circuit_needs
from omron_miner.circuits.circuit import Circuit, ProofSystem
from omron_miner.host import Memory
from omron_miner.serving.start import warn_of_memory
from omron_preflight.circuits import needs_problems

NUMBERS: dict[str, Any] = json.loads((Path(circuit_needs.__file__).parent / "needs.json").read_text())
MB = 1_000_000

MEASURED = [
    # key, memory of a process of its own, memory a worker kept, of bench/needs.py (and PROVING's one large circuit)
    (6, 72, 78),
    (47, 166, 196),
    (170, 473, 591),
    (227, 596, 728),
    (378, 918, 1004),
    (453, 1086, 1286),
    (655, 1622, 2071),
    (1309, 3171, 4867),
    (6120, 9800, 9800),
]


@pytest.mark.parametrize(("key", "alone", "kept"), MEASURED)
def test_what_was_measured_lies_between_the_bounds(key: int, alone: int, kept: int) -> None:
    found = circuit_needs.needs(key * MB, 16, 0)
    assert found.memory_low <= alone * MB
    assert found.memory_high >= kept * MB
    assert found.memory_low > 0.6 * alone * MB, "a bound far below would refuse nothing"


def circuit(pk_bytes: int, system: ProofSystem = ProofSystem.EZKL) -> Circuit:
    settings = SimpleNamespace(logrows=16, input_sizes=(10, 2), output_sizes=(3,))
    pk = SimpleNamespace(stat=lambda: SimpleNamespace(st_size=pk_bytes))
    return cast("Circuit", SimpleNamespace(label="demo v1", proof_system=system, settings=settings, pk=pk))


def test_a_circuits_needs_are_those_of_its_key_its_logrows_and_its_instances() -> None:
    assert circuit_needs.needs_of(circuit(5 * MB)) == circuit_needs.needs(5 * MB, 16, 15)
    assert circuit_needs.needs(5 * MB, 16, 15).disk == 5 * MB + 128 * 2**16
    assert circuit_needs.needs_of(circuit(5 * MB, ProofSystem.CIRCOM)) is None


def test_a_memory_problem_is_reported_with_the_needed_and_the_available_size() -> None:
    needed = circuit_needs.needs(5000 * MB, 17, 0)
    assert circuit_needs.memory_problem("x", needed, 32_000 * MB) is None
    assert circuit_needs.memory_problem("x", needed, 16_000 * MB) == (
        "x may need about 7.0 GiB to 18.7 GiB to prove, this host has 14.9 GiB"
    )
    assert (
        circuit_needs.memory_problem("x", needed, 4_000 * MB)
        == "x needs about 7.0 GiB to 18.7 GiB to prove, this host has 3.7 GiB"
    )
    assert circuit_needs.at_a_time(needed, 41_000 * MB) == 2


@pytest.mark.parametrize(("memory", "lines"), [(64_000, 0), (16_000, 1), (4_000, 1)])
def test_the_miner_logs_at_start_which_circuit_does_not_fit(
    caplog: pytest.LogCaptureFixture, memory: int, lines: int
) -> None:
    warn_of_memory(circuit(5000 * MB), logging.getLogger(), Memory(memory * MB, 0))
    assert len(caplog.records) == lines
    assert all("demo v1" in record.getMessage() and "this host has" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("pk_bytes", [5_902_243, 226_592_171, 6_120_000_000])
def test_preflight_refuses_exactly_below_the_packages_lower_bound(tmp_path: Path, pk_bytes: int) -> None:
    folder = tmp_path / f"model_{'ab' * 32}"
    folder.mkdir()
    with (folder / "pk.key").open("wb") as file:
        file.truncate(pk_bytes)  # sparse
    (folder / "settings.json").write_text(json.dumps({"model_instance_shapes": [[1, 12], [3]]}))
    needed = circuit_needs.needs(pk_bytes, 16, 15)
    circuits = [{"name": "theirs", "folder": str(folder)}]
    enough_mb = -(-needed.memory_low // 2**20)

    def problems(memory_mb: int, shm_bytes: int | None) -> list[str]:
        found: list[str] = needs_problems(circuits, NUMBERS, memory_mb, shm_bytes)
        return found

    assert problems(enough_mb, needed.ram_disk) == []
    assert problems(enough_mb, None) == []
    [memory] = problems(enough_mb - 1, None)
    assert memory.startswith(f"circuit theirs needs about {needed.in_words()} to prove")
    [shm] = problems(enough_mb, needed.ram_disk - 1)
    assert "of /dev/shm" in shm


@pytest.mark.parametrize("model", ["demo", "tiny"])
def test_preflight_knows_the_built_in_models_as_long_as_they_are_built_as_measured(model: str) -> None:
    def problems(**more: Any) -> list[str]:
        found: list[str] = needs_problems([{"name": "a", "model": model, **more}], NUMBERS, 1, None)
        return found

    assert len(problems()) == 1
    assert problems(run_args={"logrows": 20}) == []  # only its build can tell
    assert problems(circuit_tune=True) == []


def test_preflight_leaves_other_models_and_broken_lists_to_others() -> None:
    for circuits in (None, "demo", [None, 3, {"model": ["demo"]}, {"folder": 1}, {"name": "a", "model": "/a.onnx"}]):
        assert needs_problems(circuits, NUMBERS, 1, 1) == []
