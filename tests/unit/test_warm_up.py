from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from omron_miner.proving.warm_up import read_through

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

# Faults of writing 64 MiB that was allocated, freed and allocated again, after all was touched once.
FAULTS_OF_A_SECOND_USE = """
import ctypes, resource, sys
from omron_miner.proving.warm_up import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
for turn in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    piece = libc.malloc(64 << 20)
    ctypes.memset(piece, 1, 64 << 20)
    libc.free(piece)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    command = [sys.executable, "-c", FAULTS_OF_A_SECOND_USE, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_memory_once_used_is_not_faulted_in_again() -> None:
    assert faults("keep") < 100 < 1000 < faults("give back")


def circuit(directory: Path, **sizes: int) -> Any:
    directory.mkdir()
    for name in ("pk", "vk", "model_compiled"):
        (directory / name).write_bytes(b"x" * sizes.get(name, 10))
    paths = {name: directory / name for name in ("pk", "vk", "model_compiled")}
    return SimpleNamespace(logrows=11, **paths)


def test_keys_models_and_the_srs_are_read_once_each(tmp_path: Path) -> None:
    (tmp_path / "kzg11.srs").write_bytes(b"s" * 1000)
    circuits = [circuit(tmp_path / "a", pk=20_000_000), circuit(tmp_path / "b")]
    assert read_through(circuits, tmp_path) == 1000 + 20_000_000 + 20 + 30


def test_keys_that_do_not_fit_in_memory_stay_on_disk_and_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_through([circuit(tmp_path / "a", pk=5000), circuit(tmp_path / "b")], tmp_path, 2_000) == 50
    assert "do not fit in memory" in caplog.text


def test_a_file_that_cannot_be_read_stops_nothing(tmp_path: Path) -> None:
    broken = circuit(tmp_path / "a")
    os.remove(broken.pk)
    assert read_through([broken], tmp_path) == 20
