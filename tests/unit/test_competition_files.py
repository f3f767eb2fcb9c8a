"""A competition's files are taken whole and as they are, or refused with the reason."""

from __future__ import annotations

import hashlib
import os
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from competition_samples import VERSION, write_circuit
from omron_miner.circuits.load import version_mark
from omron_miner.competition.files import (
    LARGEST_BYTES,
    CompetitionError,
    at_rest_seconds,
    fingerprint,
    read_circuit,
)
from omron_miner.files import sha256

if TYPE_CHECKING:
    from pathlib import Path


def test_a_circuit_is_known_by_the_digest_of_its_model(tmp_path: Path) -> None:
    content = write_circuit(tmp_path)
    circuit = read_circuit(tmp_path)
    assert circuit.digest == hashlib.sha256(content).hexdigest()
    assert (circuit.size, circuit.ezkl_version, circuit.warnings) == (len(content), VERSION, ())
    assert circuit.settings == (tmp_path / "settings.json").read_bytes()
    assert abs(circuit.modified - time.time()) < 60


def test_a_large_model_is_read_in_little_memory_and_its_mark_found_across_pieces(tmp_path: Path) -> None:
    write_circuit(tmp_path)
    with (tmp_path / "model.compiled").open("wb") as file:
        file.seek((64 << 20) - 5)  # the mark lies on both sides of a piece's end
        file.write(version_mark(VERSION))
    tracemalloc.start()
    try:
        circuit = read_circuit(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()
    assert circuit.digest == sha256(tmp_path / "model.compiled")


def test_half_a_model_or_one_of_another_compilation_is_refused(tmp_path: Path) -> None:
    content = write_circuit(tmp_path)
    for half in (b"", content[: len(content) // 2], b"weights" + version_mark("23.0.5")):
        (tmp_path / "model.compiled").write_bytes(half)
        with pytest.raises(CompetitionError, match=r"is incomplete, or was not made by EZKL 22\.0\.1"):
            read_circuit(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"version": 1, "run_args": {}}', '{"version": "22.0.1"}', "[" * 9999]
)
def test_settings_that_are_not_ezkls_are_refused(tmp_path: Path, text: str) -> None:
    write_circuit(tmp_path)
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(CompetitionError, match=r"settings\.json was not written by EZKL"):
        read_circuit(tmp_path)


def test_a_model_larger_than_validators_take_is_refused_unread(tmp_path: Path) -> None:
    write_circuit(tmp_path)
    os.truncate(tmp_path / "model.compiled", LARGEST_BYTES + 1)  # holes: it takes no room on the disk
    with pytest.raises(CompetitionError, match=r"has 46\.6 GiB"):
        read_circuit(tmp_path)


@pytest.mark.parametrize("name", ["model.compiled", "settings.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write_circuit(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CompetitionError, match=name):
        fingerprint(tmp_path)


def test_a_model_that_changes_while_it_is_read_or_used_is_not_believed(tmp_path: Path) -> None:
    write_circuit(tmp_path, b"x" * (2 << 20))

    def write() -> bool:
        with (tmp_path / "model.compiled").open("ab") as file:
            file.write(b"more")
        return False

    with pytest.raises(CompetitionError, match="changed while they were read"):
        read_circuit(tmp_path, write)
    circuit = read_circuit(tmp_path)
    with pytest.raises(CompetitionError, match="changed while it was used"), circuit.open():
        write()
    with pytest.raises(CompetitionError, match="changed while it was used"), circuit.open():
        pytest.fail("what was written before is noticed at once")


def test_reading_ends_when_the_miner_stops(tmp_path: Path) -> None:
    write_circuit(tmp_path)
    with pytest.raises(CompetitionError, match="is stopping"):
        read_circuit(tmp_path, lambda: True)


def test_a_file_whose_times_were_set_back_is_not_at_rest(tmp_path: Path) -> None:
    write_circuit(tmp_path)
    for name in ("model.compiled", "settings.json"):
        os.utime(tmp_path / name, (0, 0))  # as copying with `cp -p` does
    assert -1 < at_rest_seconds(fingerprint(tmp_path)) < 5


@pytest.mark.parametrize(
    ("run_args", "said"),
    [
        ({"input_visibility": "Public"}, "here: input_visibility Public"),
        ({"commitment": "IPA"}, "here: commitment IPA"),
        ({"param_visibility": {"Hashed": {"hash_is_public": True}}}, "param_visibility {"),
        ({"commitment": None}, ""),
    ],
)
def test_what_a_competition_declares_otherwise_is_warned_of(
    tmp_path: Path, run_args: dict[str, Any], said: str
) -> None:
    write_circuit(tmp_path, **run_args)
    warnings = read_circuit(tmp_path).warnings
    assert said in warnings[0] if said else not warnings
