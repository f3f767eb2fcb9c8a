"""An SRS is used only if it is whole, large enough and, on a real network, trusted. No EZKL: sizes and headers."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from omron_miner.circuits.srs import check_srs, ensure_srs, is_test_only, srs_path, usable_srs
from omron_miner.errors import SrsError
from omron_miner.proving.proof_handlers import ProofError

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.circuits import srs as srs_module

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


def made_of(fill: bytes) -> srs_module.Make:
    def make(path: Path, logrows: int, for_tests: bool) -> None:
        write_srs(path, logrows, b"t" if for_tests else fill)

    return make


CEREMONY = made_of(b"c")


def without_network(path: Path, logrows: int, for_tests: bool) -> None:
    raise ProofError("no route to host")


def filled_with(path: Path) -> bytes:
    return path.read_bytes()[-1:]


def mark(path: Path, kind: str, content: str = "") -> None:
    """As an earlier release did."""
    path.with_name(f"{path.name}.{kind}").write_text(content)


def test_a_given_file_with_its_checksum_is_trusted_on_a_real_network(tmp_path: Path, source: Path) -> None:
    digest = write_srs(source)
    path = ensure_srs(LOGROWS, tmp_path / "srs", "finney", source, digest.upper())
    assert path.read_bytes() == source.read_bytes()
    assert check_srs(LOGROWS, tmp_path / "srs", "finney") == path
    assert sorted(file.name for file in path.parent.iterdir()) == [".lock", "kzg6.srs", "kzg6.srs.json"]


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
    with pytest.raises(SrsError, match=r"has SHA-256 .*, expected 0000"):
        ensure_srs(LOGROWS, tmp_path / "srs", "test", source, "0" * 64)
    assert list((tmp_path / "srs").iterdir()) == []


def test_a_real_network_insists_on_a_checksum_for_a_given_file(tmp_path: Path, source: Path) -> None:
    digest = write_srs(source)
    with pytest.raises(SrsError, match="no checksum"):
        ensure_srs(LOGROWS, tmp_path / "srs", "finney", source)
    path = ensure_srs(LOGROWS, tmp_path / "srs", "local", source)
    with pytest.raises(SrsError, match=r"not a trusted SRS.*never compared"):
        check_srs(LOGROWS, tmp_path / "srs", "finney")
    assert ensure_srs(LOGROWS, tmp_path / "srs", "finney", source, digest) == path


@pytest.mark.parametrize("network", ["test", "finney"])
def test_a_host_tried_on_local_gets_the_real_srs_on_a_real_network(tmp_path: Path, network: str) -> None:
    path = ensure_srs(LOGROWS, tmp_path, "local", make=CEREMONY)
    assert (filled_with(path), is_test_only(path)) == (b"t", True)
    with pytest.raises(SrsError, match=r"TEST-ONLY.*run the play again: it downloads the public one"):
        check_srs(LOGROWS, tmp_path, network)
    assert ensure_srs(LOGROWS, tmp_path, network, make=CEREMONY) == path
    assert (filled_with(path), is_test_only(path)) == (b"c", False)
    assert check_srs(LOGROWS, tmp_path, network) == check_srs(LOGROWS, tmp_path, "local") == path


def test_a_test_srs_stays_if_the_real_one_cannot_be_downloaded(tmp_path: Path) -> None:
    path = ensure_srs(LOGROWS, tmp_path, "local", make=CEREMONY)
    with pytest.raises(SrsError, match=r"not a trusted SRS.*no route to host.*set omron_srs_file"):
        ensure_srs(LOGROWS, tmp_path, "finney", make=without_network)
    assert (filled_with(path), is_test_only(path)) == (b"t", True)


@pytest.mark.parametrize("by_earlier_release", [True, False])
def test_an_srs_that_was_removed_takes_its_origin_with_it(tmp_path: Path, by_earlier_release: bool) -> None:
    path = srs_path(tmp_path, LOGROWS)
    if by_earlier_release:
        mark(path, "TEST-ONLY")  # also what Ctrl-C left on a fresh host
    else:
        ensure_srs(LOGROWS, tmp_path, "local", make=CEREMONY).unlink()
    ensure_srs(LOGROWS, tmp_path, "finney", make=CEREMONY)
    assert check_srs(LOGROWS, tmp_path, "finney") == path
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", "kzg6.srs", "kzg6.srs.json"]
    ensure_srs(LOGROWS, tmp_path, "finney", make=CEREMONY).unlink()
    assert filled_with(ensure_srs(LOGROWS, tmp_path, "local", make=CEREMONY)) == b"t"
    assert is_test_only(path)


def test_a_file_of_unknown_origin_is_refused_on_a_real_network_and_left_alone(tmp_path: Path) -> None:
    path = srs_path(tmp_path, LOGROWS)
    write_srs(path)
    for refuses in (check_srs, ensure_srs):
        with pytest.raises(SrsError, match=r"not a trusted SRS.*remove it and run the play again"):
            refuses(LOGROWS, tmp_path, "finney")
    assert filled_with(path) == b"x"
    path.unlink()
    ensure_srs(LOGROWS, tmp_path, "finney", make=CEREMONY)
    assert check_srs(LOGROWS, tmp_path, "finney") == path


def test_a_file_put_over_a_trusted_one_is_not_trusted(tmp_path: Path, source: Path) -> None:
    path = ensure_srs(LOGROWS, tmp_path, "finney", source, write_srs(source))
    write_srs(path, fill=b"y")
    for refuses in (check_srs, usable_srs):
        with pytest.raises(SrsError, match="changed after it was checked"):
            refuses(LOGROWS, tmp_path, "finney")


def test_a_restored_backup_is_taken_up_by_its_checksum(tmp_path: Path, source: Path) -> None:
    path = ensure_srs(LOGROWS, tmp_path, "finney", source, write_srs(source))
    os.utime(path, (1, 1))
    with pytest.raises(SrsError, match="changed after it was checked"):
        check_srs(LOGROWS, tmp_path, "finney")
    assert usable_srs(LOGROWS, tmp_path, "finney") == check_srs(LOGROWS, tmp_path, "finney") == path


def test_what_an_earlier_release_trusted_is_trusted_and_no_other(tmp_path: Path) -> None:
    path = srs_path(tmp_path, LOGROWS)
    mark(path, "sha256", f"{write_srs(path)}  {path.name}\n")
    assert check_srs(LOGROWS, tmp_path, "finney") == path
    mark(path, "TEST-ONLY")  # it survived the file it was made for
    with pytest.raises(SrsError, match="TEST-ONLY"):
        check_srs(LOGROWS, tmp_path, "finney")
    assert usable_srs(LOGROWS, tmp_path, "finney") == check_srs(LOGROWS, tmp_path, "finney") == path
    assert sorted(file.name for file in tmp_path.iterdir()) == ["kzg6.srs", "kzg6.srs.json"]


def test_a_test_srs_of_an_earlier_release_is_known_and_replaced(tmp_path: Path) -> None:
    path = srs_path(tmp_path, LOGROWS)
    write_srs(path, fill=b"g")
    mark(path, "TEST-ONLY")
    mark(path, "sha256", f"{'0' * 64}  {path.name}\n")  # of a file that lay here before
    assert is_test_only(path)
    assert check_srs(LOGROWS, tmp_path, "local") == path
    with pytest.raises(SrsError, match="TEST-ONLY"):
        check_srs(LOGROWS, tmp_path, "finney")
    assert usable_srs(LOGROWS, tmp_path, "finney") is None
    assert filled_with(ensure_srs(LOGROWS, tmp_path, "finney", make=CEREMONY)) == b"c"


def test_a_trusted_file_replaces_a_generated_one(tmp_path: Path, source: Path) -> None:
    path = ensure_srs(LOGROWS, tmp_path, "local", make=CEREMONY)
    ensure_srs(LOGROWS, tmp_path, "finney", source, write_srs(source))
    assert not is_test_only(path)
    assert check_srs(LOGROWS, tmp_path, "finney") == path


KILLED_AT_EACH_LINE = """
import os, signal, sys
from pathlib import Path
from omron_miner.circuits import srs

place = Path(sys.argv[1])

def make(path, logrows, for_tests):
    path.write_bytes(logrows.to_bytes(4, "little") + (b"t" if for_tests else b"c") * (256 + (128 << logrows)))

def kill_at(line):
    left = [line]
    def trace(frame, event, _):
        if frame.f_code.co_filename != srs.__file__:
            return None
        if event == "line":
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)

seen, line, status = set(), 0, 1
while status:
    directory = place / str(line)
    path = srs.ensure_srs(6, directory, "local", make=make)
    child = os.fork()
    if child == 0:
        kill_at(line)
        srs.ensure_srs(6, directory, "finney", make=make)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    seen.add((path.read_bytes()[-1:], srs.is_test_only(path)))
    srs.ensure_srs(6, directory, "finney", make=make)
    names = sorted(one.name for one in directory.iterdir())
    assert names == [".lock", "kzg6.srs", "kzg6.srs.json"], (line, names)
    line += 1
assert seen == {(b"t", True), (b"c", False)}, seen
"""


@pytest.mark.slow
def test_a_killed_maker_leaves_no_file_with_anothers_origin() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        command = [sys.executable, "-c", KILLED_AT_EACH_LINE, memory]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_an_srs_smaller_than_the_circuit_is_refused_and_a_larger_one_taken(tmp_path: Path) -> None:
    write_srs(srs_path(tmp_path, 7), logrows=6)
    with pytest.raises(SrsError, match="for logrows 6, but 7 is needed"):
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


def test_an_operators_truncated_file_is_fetched_again_by_the_operator(tmp_path: Path, source: Path) -> None:
    source.write_bytes(b"cut off")
    with pytest.raises(SrsError, match=r"given\.srs .* is truncated") as caught:
        ensure_srs(LOGROWS, tmp_path, "local", source)
    assert caught.value.hint == "fetch the file again"


def test_a_missing_file_is_named(tmp_path: Path, source: Path) -> None:
    with pytest.raises(SrsError, match=r"kzg6\.srs"):
        check_srs(LOGROWS, tmp_path, "local")
    with pytest.raises(SrsError, match=r"given\.srs"):
        ensure_srs(LOGROWS, tmp_path, "finney", source, "0" * 64)
