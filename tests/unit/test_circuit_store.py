"""The store gives circuits by id or name, keeps a bounded number of them, and reports why others are refused."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Literal

import pytest

from circuit_folders import write_circuit, write_srs
from omron_miner.circuits.circuit_store import LOCK, CircuitStore
from omron_miner.circuits.load import load_circuit
from omron_miner.constants import Axon, Circuits, Constants, Network
from omron_miner.errors import CircuitError
from omron_miner.files import PARKED

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.circuits.circuit import Circuit

Name = Literal["local", "test", "finney"]
A, B, C = ("abc"[index] * 64 for index in range(3))


@pytest.fixture
def read() -> list[str]:
    """The ids read from disk by a store that was given it, in order."""
    return []


def store_of(
    directory: Path,
    size: int = 32,
    ignored: tuple[str, ...] = (),
    network: Name = "local",
    read: list[str] | None = None,
) -> CircuitStore:
    """A store of the circuits in `directory`, whose SRS is there and trusted. Notes in `read` what it reads."""

    def load(folder: Path) -> Circuit:
        if read is not None:
            read.append(folder.name.removeprefix("model_"))
        return load_circuit(folder)

    srs = directory / "srs"
    write_srs(srs)
    circuits = Circuits(directory=directory, srs_directory=srs, ignored=ignored)
    constants = Constants(network=Network(name=network), axon=Axon(external_ip="203.0.113.7"), circuits=circuits)
    return CircuitStore(constants, size, load)


def test_a_circuit_is_read_once(tmp_path: Path, read: list[str]) -> None:
    write_circuit(tmp_path)
    store = store_of(tmp_path, read=read)
    assert store.get(A) is store.get(A)
    assert read == [A]


def test_a_changed_folder_is_read_again(tmp_path: Path) -> None:
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
    store = store_of(tmp_path, read=read, size=2)
    for circuit_id in (A, B, A, C, A, B):
        store.get(circuit_id)
    assert read == [A, B, C, B]


def test_a_refused_circuit_is_read_once_too(tmp_path: Path, read: list[str]) -> None:
    (write_circuit(tmp_path) / "vk.key").write_bytes(b"")
    store = store_of(tmp_path, read=read)
    for _ in range(3):
        with pytest.raises(CircuitError, match=r"vk\.key is not a verification key"):
            store.get(A)
    assert read == [A]


def test_a_circuit_that_cannot_be_read_is_refused_until_it_can_be(tmp_path: Path) -> None:
    write_circuit(tmp_path, "b")
    settings = write_circuit(tmp_path) / "settings.json"
    store, content = store_of(tmp_path), settings.read_bytes()
    settings.unlink()
    settings.mkdir()
    assert store.ids() == [B]
    settings.rmdir()
    settings.write_bytes(b"[" * 100_000)
    assert "nested too deep" in store.refused()[f"model_{A}"]
    settings.write_bytes(content)
    assert store.ids() == [A, B]


# --- the SRS


def spoil(srs: Path, how: str) -> None:
    if how == "missing":
        srs.unlink()
    elif how == "for tests only":
        write_srs(srs.parent, trusted=False)
    elif how == "of unknown origin":
        srs.with_name(f"{srs.name}.json").unlink()
    else:
        srs.write_bytes(b"cut off")


@pytest.mark.parametrize("network", ["test", "finney"])
@pytest.mark.parametrize("how", ["missing", "for tests only", "of unknown origin", "cut off"])
def test_a_circuit_whose_srs_a_real_network_refuses_is_never_returned(tmp_path: Path, network: Name, how: str) -> None:
    write_circuit(tmp_path)
    store = store_of(tmp_path, network=network)
    assert store.get(A).id == A
    spoil(tmp_path / "srs/kzg11.srs", how)
    for ask, named in ((store.get, A), (store.find, A), (store.find, "sample")):
        with pytest.raises(CircuitError):
            ask(named)
    assert (store.ids(), store.usable()) == ([], [])
    assert "kzg11.srs" in store.refused()[f"model_{A}"]
    assert [circuit.id for circuit in store.complete()] == [A]
    assert store.find("sample", srs_to_come=True).id == A, "a caller that installs the SRS finds it"
    write_srs(tmp_path / "srs")
    assert store.get(A).id == A, "no restart is needed"


def test_the_local_network_takes_a_generated_srs_but_not_a_missing_one(tmp_path: Path) -> None:
    write_circuit(tmp_path)
    store = store_of(tmp_path)
    spoil(tmp_path / "srs/kzg11.srs", "for tests only")
    assert store.ids() == [A]
    spoil(tmp_path / "srs/kzg11.srs", "missing")
    assert store.ids() == []


def test_checking_the_srs_does_not_open_the_circuit_again(tmp_path: Path, read: list[str]) -> None:
    write_circuit(tmp_path)
    store = store_of(tmp_path, read=read, network="finney")
    spoil(tmp_path / "srs/kzg11.srs", "missing")
    for _ in range(3):
        assert store.ids() == []
    write_srs(tmp_path / "srs")
    assert store.ids() == [A]
    assert read == [A]


@pytest.mark.parametrize("circuit_id", ["", "a", "A" * 64, "../" + "a" * 61, "a" * 65, "a" * 64 + "\n"])
def test_an_invalid_id_is_never_searched_on_disk(tmp_path: Path, circuit_id: str) -> None:
    with pytest.raises(CircuitError, match="64 lower-case hex digits"):
        store_of(tmp_path).get(circuit_id)


def test_an_unknown_or_ignored_circuit_is_an_error_with_its_reason(tmp_path: Path) -> None:
    write_circuit(tmp_path)
    with pytest.raises(CircuitError, match="not on this host"):
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


def test_a_circuit_that_made_way_for_one_that_never_came_is_put_back(tmp_path: Path) -> None:
    parked = write_circuit(tmp_path)
    parked.rename(tmp_path / f"{PARKED}{parked.name}")
    (tmp_path / LOCK).touch()
    assert store_of(tmp_path).ids() == [A]
