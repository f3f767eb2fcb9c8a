"""What reports say of circuits' folders without loading a circuit."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from omron_miner.circuits.folders import compiled_by, file_summaries, key_sizes

if TYPE_CHECKING:
    from pathlib import Path


def test_a_circuits_files_are_listed_by_size_and_time_and_its_key_by_size(tmp_path: Path) -> None:
    folder = tmp_path / "model_abc"
    folder.mkdir()
    for name, size in (("pk.key", 900), ("settings.json", 100)):
        (folder / name).write_bytes(b"x" * size)
        os.utime(folder / name, (1_767_614_400 + size, 1_767_614_400 + size))
    expected = "2 files, 1000 bytes, last changed 2026-01-05 12:15:00 UTC"
    assert file_summaries(tmp_path) == {"abc": expected}
    circom = tmp_path / "model_def"
    circom.mkdir()
    (circom / "circuit.zkey").write_bytes(b"x" * 70)
    assert key_sizes(tmp_path) == {"abc": 900, "def": 70}
    assert file_summaries(tmp_path / "missing") == {}


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b'{"version": "23.0.5"}', "23.0.5"), (b'{"version": 23}', None), (b"{}", None), (b"\xff", None), (None, None)],
)
def test_the_version_of_a_circuit_is_read_where_it_can_be(
    tmp_path: Path, content: bytes | None, expected: str | None
) -> None:
    (tmp_path / "model_abc").mkdir()
    if content is not None:
        (tmp_path / "model_abc/settings.json").write_bytes(content)
    assert compiled_by(tmp_path, "abc") == expected


def test_a_callers_text_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "model_").mkdir()
    (tmp_path / "settings.json").write_text('{"version": "23.0.5"}')
    assert compiled_by(tmp_path, "/..") is None
