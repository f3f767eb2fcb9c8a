"""An SRS is used only if it is whole, large enough and, on a real network, trusted. No EZKL: sizes and headers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from omron_miner import srs as srs_module
from omron_miner.errors import SrsError
from omron_miner.srs import check_srs, ensure_srs, srs_path

if TYPE_CHECKING:
    from pathlib import Path

LOGROWS = 6


def write_srs(path: Path, logrows: int = LOGROWS, fill: bytes = b"x") -> str:
    """A file with the header and size of an SRS; returns its SHA-256."""
    content = logrows.to_bytes(4, "little") + fill * (256 + (128 << logrows))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "given.srs"


def test_a_given_file_with_its_checksum_is_trusted_on_a_real_network(tmp_path: Path, source: Path) -> None:
    digest = write_srs(source)
    path = ensure_srs(LOGROWS, tmp_path / "srs", "finney", source, digest.upper())
    assert path.read_bytes() == source.read_bytes()
    assert check_srs(LOGROWS, tmp_path / "srs", "finney") == path
    assert sorted(file.name for file in path.parent.iterdir()) == ["kzg6.srs", "kzg6.srs.sha256"]


def test_installing_the_same_file_again_writes_nothing(tmp_path: Path, source: Path) -> None:
    digest = write_srs(source)
    path = ensure_srs(LOGROWS, tmp_path / "srs", "finney", source, digest)
    before = path.stat().st_ino
    assert ensure_srs(LOGROWS, tmp_path / "srs", "finney", source, digest).stat().st_ino == before
    write_srs(path, fill=b"y")
    ensure_srs(LOGROWS, tmp_path / "srs", "finney", source, digest)
    assert path.read_bytes() == source.read_bytes()


def test_a_given_file_with_another_checksum_is_refused_and_not_kept(tmp_path: Path, source: Path) -> None:
    write_srs(source)
    with pytest.raises(SrsError, match=r"has SHA-256 .*, wanted is 0000"):
        ensure_srs(LOGROWS, tmp_path / "srs", "test", source, "0" * 64)
    assert list((tmp_path / "srs").iterdir()) == []


def test_a_real_network_insists_on_a_checksum_for_a_given_file(tmp_path: Path, source: Path) -> None:
    write_srs(source)
    with pytest.raises(SrsError, match="no checksum"):
        ensure_srs(LOGROWS, tmp_path / "srs", "finney", source)
    assert ensure_srs(LOGROWS, tmp_path / "srs", "local", source).exists()


@pytest.mark.parametrize("network", ["test", "finney"])
def test_a_generated_srs_is_refused_on_a_real_network(tmp_path: Path, network: str) -> None:
    path = srs_path(tmp_path, LOGROWS)
    write_srs(path)
    srs_module.test_marker(path).write_text("")
    assert check_srs(LOGROWS, tmp_path, "local") == path
    with pytest.raises(SrsError, match="not a trusted SRS"):
        ensure_srs(LOGROWS, tmp_path, network)


def test_a_file_of_unknown_origin_is_refused_on_a_real_network(tmp_path: Path) -> None:
    write_srs(srs_path(tmp_path, LOGROWS))
    with pytest.raises(SrsError, match="not a trusted SRS"):
        check_srs(LOGROWS, tmp_path, "finney")


def test_a_trusted_file_replaces_a_generated_one(tmp_path: Path, source: Path) -> None:
    path = srs_path(tmp_path, LOGROWS)
    write_srs(path, fill=b"g")
    srs_module.test_marker(path).write_text("")
    ensure_srs(LOGROWS, tmp_path, "finney", source, write_srs(source))
    assert not srs_module.test_marker(path).exists()


def test_an_srs_smaller_than_the_circuit_is_refused_and_a_larger_one_taken(tmp_path: Path) -> None:
    write_srs(srs_path(tmp_path, 7), logrows=6)
    with pytest.raises(SrsError, match="for logrows 6, needed is 7"):
        check_srs(7, tmp_path, "local")
    write_srs(srs_path(tmp_path, 7), logrows=8)
    assert check_srs(7, tmp_path, "local").exists()


@pytest.mark.parametrize("size", [0, 3, 4, 1000])
def test_a_truncated_srs_is_refused(tmp_path: Path, size: int) -> None:
    path = srs_path(tmp_path, LOGROWS)
    write_srs(path)
    with path.open("r+b") as file:
        file.truncate(size)
    with pytest.raises(SrsError, match="truncated or not an SRS"):
        check_srs(LOGROWS, tmp_path, "local")


def test_a_missing_file_is_named(tmp_path: Path, source: Path) -> None:
    with pytest.raises(SrsError, match=r"kzg6\.srs"):
        check_srs(LOGROWS, tmp_path, "local")
    with pytest.raises(SrsError, match=r"given\.srs"):
        ensure_srs(LOGROWS, tmp_path, "finney", source, "0" * 64)
