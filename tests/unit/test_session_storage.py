"""Temporary files are private, tracked and always removed, and a full or absent RAM disk does not stop a request."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from omron_miner.constants import Sessions
from omron_miner.events import LOGGER_NAME
from omron_miner.proving.session_storage import SessionStorage

if TYPE_CHECKING:
    from pathlib import Path


def sessions_in(tmp_path: Path, minimum_free_bytes: int = 0) -> Sessions:
    return Sessions(
        directory=tmp_path / "memory",
        fallback_directory=tmp_path / "disk",
        minimum_free_bytes=minimum_free_bytes,
    )


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[logging.LogRecord]:
    seen: list[logging.LogRecord] = []
    monkeypatch.setattr(logging.getLogger(LOGGER_NAME), "handle", seen.append)
    return seen


def test_a_session_is_private_and_removed_afterwards(tmp_path: Path) -> None:
    with SessionStorage(sessions_in(tmp_path)).session() as session:
        session.path("witness.json").write_text("{}")
        assert stat.S_IMODE(session.directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(session.directory.parent.stat().st_mode) == 0o700
        assert session.files == (session.directory / "witness.json",)
    assert list((tmp_path / "memory").iterdir()) == []


def test_a_directory_others_could_read_is_closed(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir(mode=0o755)
    with SessionStorage(sessions_in(tmp_path)).session():
        assert stat.S_IMODE((tmp_path / "memory").stat().st_mode) == 0o700


def test_files_are_removed_when_the_request_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with SessionStorage(sessions_in(tmp_path)).session() as session:
            session.path("proof.json").write_text("{}")
            (session.directory / "not tracked").write_text("left by native code")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list((tmp_path / "memory").iterdir()) == []


def test_discard_removes_the_files_of_a_try_but_keeps_the_session(tmp_path: Path) -> None:
    with SessionStorage(sessions_in(tmp_path)).session() as session:
        session.path("proof.json").write_text("{}")
        session.path("never written")
        session.discard()
        assert list(session.directory.iterdir()) == []


@pytest.mark.parametrize("name", ["../escape", "a/b", "/etc/passwd", "", ".."])
def test_only_plain_file_names_are_taken(tmp_path: Path, name: str) -> None:
    with SessionStorage(sessions_in(tmp_path)).session() as session, pytest.raises(ValueError, match="not a file name"):
        session.path(name)


KILLED = """
import os, pathlib, signal, sys
from omron_miner.constants import Sessions
from omron_miner.proving.session_storage import SessionStorage
base = pathlib.Path(sys.argv[1])
with SessionStorage(Sessions(directory=base / "memory", fallback_directory=base / "disk", minimum_free_bytes=0)
                    ).session() as session:
    session.path("witness.json").write_text("{}")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_uses_is_not(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "memory").iterdir()
    storage = SessionStorage(sessions_in(tmp_path))
    assert storage.sweep(os.getpid()) == 0, "another process's stay when only one's are asked for"
    with storage.session() as session:
        assert storage.sweep() == 1
        assert session.directory.exists()
    assert not left.exists()


def test_a_pid_that_was_given_to_another_process_does_not_protect_what_is_left(tmp_path: Path) -> None:
    for parent in ("memory", "disk"):
        (tmp_path / parent / f"session-{os.getpid()}-1-abcdefgh").mkdir(parents=True)
    assert SessionStorage(sessions_in(tmp_path)).sweep() == 2


def test_sweeping_leaves_alone_what_is_not_ours_and_what_does_not_exist(tmp_path: Path) -> None:
    storage = SessionStorage(sessions_in(tmp_path))
    assert storage.sweep() == 0
    (tmp_path / "memory" / "session-of-somebody").mkdir(parents=True)
    assert storage.sweep() == 0


def test_a_full_ram_disk_means_the_disk_and_one_line(
    tmp_path: Path, warnings: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 10 << 20
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=free))
    storage = SessionStorage(sessions_in(tmp_path, minimum_free_bytes=64 << 20))
    for _ in range(3):
        with storage.session() as session:
            assert session.directory.parent == tmp_path / "disk"
            assert stat.S_IMODE(session.directory.stat().st_mode) == 0o700
    assert len(warnings) == 1
    assert "10.0 MiB free, 64.0 MiB wanted" in warnings[0].getMessage()
    free = 100 << 20  # room again: used again, and the next shortage is news again
    with storage.session() as session:
        assert session.directory.parent == tmp_path / "memory"
    free = 0
    with storage.session():
        assert len(warnings) == 2


def test_a_session_leaves_the_room_that_others_need(tmp_path: Path, warnings: list[logging.LogRecord]) -> None:
    storage = SessionStorage(sessions_in(tmp_path))
    with storage.session(needed_bytes=1 << 20) as session:
        assert session.directory.parent == tmp_path / "memory"
    with storage.session(needed_bytes=1 << 60) as session:
        assert session.directory.parent == tmp_path / "disk"
    assert len(warnings) == 1


def test_an_absent_ram_disk_means_the_disk(tmp_path: Path, warnings: list[logging.LogRecord]) -> None:
    (tmp_path / "memory").write_text("not a directory")
    with SessionStorage(sessions_in(tmp_path)).session() as session:
        assert session.directory.parent == tmp_path / "disk"
    assert len(warnings) == 1


def test_without_any_room_the_request_fails_with_an_error_of_the_system(tmp_path: Path) -> None:
    for name in ("memory", "disk"):
        (tmp_path / name).write_text("not a directory")
    with pytest.raises(OSError, match="disk"), SessionStorage(sessions_in(tmp_path)).session():
        pass
