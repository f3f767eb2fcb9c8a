"""The store gives circuits by id or name, keeps a bounded number of them, and says why others are refused."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from circuit_folders import write_circuit
from omron_miner import circuit_store
from omron_miner.circuit import load_circuit
from omron_miner.circuit_store import CircuitStore
from omron_miner.constants import Circuits
from omron_miner.errors import CircuitError

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.circuit import Circuit

A, B, C = ("abc"[index] * 64 for index in range(3))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids read from disk, in order."""
    seen: list[str] = []

    def load(directory: Path) -> Circuit:
        seen.append(directory.name.removeprefix("model_"))
        return load_circuit(directory)

    monkeypatch.setattr(circuit_store, "load_circuit", load)
    return seen


def store_of(directory: Path, size: int = 32, ignored: tuple[str, ...] = ()) -> CircuitStore:
    return CircuitStore(Circuits(directory=directory, cache_size=size, ignored=ignored))


def test_a_circuit_is_read_once(tmp_path: Path, read: list[str]) -> None:
    write_circuit(tmp_path)
    store = store_of(tmp_path)
    assert store.get(A) is store.get(A)
    assert read == [A]


def test_a_changed_folder_is_read_again(tmp_path: Path, read: list[str]) -> None:
    directory = write_circuit(tmp_path)
    store = store_of(tmp_path)
    store.get(A)
    metadata = directory / "metadata.json"
    metadata.write_text(metadata.read_text().replace("sample", "renamed"))
    assert store.get(A).name == "renamed"
    (directory / "pk.key").unlink()
    with pytest.raises(CircuitError, match=r"pk\.key is missing"):
        store.get(A)


def test_the_least_recently_used_circuit_is_forgotten(tmp_path: Path, read: list[str]) -> None:
    for digit in "abc":
        write_circuit(tmp_path, digit)
    store = store_of(tmp_path, size=2)
    for circuit_id in (A, B, A, C, A, B):
        store.get(circuit_id)
    assert read == [A, B, C, B]


def test_clear_forgets_everything(tmp_path: Path, read: list[str]) -> None:
    write_circuit(tmp_path)
    store = store_of(tmp_path)
    store.get(A)
    store.clear()
    store.get(A)
    assert read == [A, A]


@pytest.mark.parametrize("circuit_id", ["", "a", "A" * 64, "../" + "a" * 61, "a" * 65, "a" * 64 + "\n"])
def test_what_is_not_an_id_is_never_looked_for(tmp_path: Path, circuit_id: str) -> None:
    with pytest.raises(CircuitError, match="64 lower-case hex digits"):
        store_of(tmp_path).get(circuit_id)


def test_an_unknown_or_ignored_circuit_says_so(tmp_path: Path) -> None:
    write_circuit(tmp_path)
    with pytest.raises(CircuitError, match="not here"):
        store_of(tmp_path).get(B)
    store = store_of(tmp_path, ignored=(A,))
    with pytest.raises(CircuitError, match="ignored"):
        store.get(A)
    assert store.ids() == []
    assert "ignored" in store.refused()[f"model_{A}"]


def test_refused_folders_are_listed_with_their_reason_and_the_rest_is_served(tmp_path: Path) -> None:
    write_circuit(tmp_path)
    write_circuit(tmp_path, "b", version="19.0.7")
    (tmp_path / "model_short").mkdir()
    (tmp_path / ".building-1").mkdir()
    store = store_of(tmp_path)
    assert store.ids() == [A]
    refused = store.refused()
    assert set(refused) == {f"model_{B}", "model_short"}
    assert "19.0.7" in refused[f"model_{B}"]


def test_no_folder_at_all_is_no_circuits(tmp_path: Path) -> None:
    store = store_of(tmp_path / "absent")
    assert store.ids() == []
    assert store.refused() == {}


def test_a_circuit_is_found_by_name_or_id(tmp_path: Path) -> None:
    write_circuit(tmp_path)
    write_circuit(tmp_path, "b", metadata={"name": "other"})
    store = store_of(tmp_path)
    assert store.find("other").id == B
    assert store.find(A).name == "sample"
    with pytest.raises(CircuitError, match="there are: other, sample"):
        store.find("absent")


def test_of_several_circuits_of_one_name_the_newest_is_found(tmp_path: Path) -> None:
    for digit, age in (("a", 100), ("c", 300), ("b", 200)):
        os.utime(write_circuit(tmp_path, digit) / "metadata.json", (age, age))
    assert store_of(tmp_path).find("sample").id == C


def test_many_threads_get_the_same_circuits(tmp_path: Path) -> None:
    for digit in "abc":
        write_circuit(tmp_path, digit)
    store = store_of(tmp_path, size=2)
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            for circuit_id in (A, B, C) * 20:
                assert store.get(circuit_id).id == circuit_id
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
