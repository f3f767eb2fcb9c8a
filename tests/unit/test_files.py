"""A writer that is killed at any step leaves the old or the new one whole, and nothing that stays."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from omron_miner import files
from omron_miner.files import (
    check_output,
    copy_atomically,
    exchange,
    move_into_place,
    put_folder,
    recover_parked,
    write_atomically,
    write_new,
    write_output,
)

KILLED_AT_EACH_STEP = """
import os, shutil, signal, sys
from pathlib import Path
from omron_miner import files

place = Path(sys.argv[1])
path, made, source = place / "path", place / "made", place / "source"

def cannot(one, other):
    return False

WRITERS = {
    "write": lambda: files.write_atomically(path, "new", 0o600),
    "copy": lambda: files.copy_atomically(source, path),
    "move": lambda: files.move_into_place(made, path),
    "new": lambda: files.write_new(path, b"new"),
    "exchange": lambda: files.put_folder(made, path),
    "park": lambda: files.put_folder(made, path, swap=cannot),
}

def trace(step):
    left = [step]
    def each(frame, event, _):
        if frame.f_code.co_filename != files.__file__:
            return None
        if event == "line":
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return each
    return each

def content(path):
    if path.is_dir():
        path /= "file"
    return path.read_text() if path.exists() else None

def prepare(folders, old):
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (place / "lock").touch()
    if folders:
        for folder, text in ((made, "new"), (path, "old")):
            folder.mkdir()
            (folder / "file").write_text(text)
    else:
        made.write_text("new")
        source.write_text("new")
        if old:
            path.write_text("old")

name = sys.argv[2]
write, folders, old = WRITERS[name], name in ("exchange", "park"), name != "new"
seen, step = set(), 0
while True:
    prepare(folders, old)
    child = os.fork()
    if child == 0:
        sys.settrace(trace(step))
        write()
        sys.settrace(None)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if name == "park":
        files.recover_parked(place, place / "lock")
    seen.add(found := content(path))
    assert found in ("old" if old else None, "new"), (step, found)
    if name in ("write", "copy", "new") and status:
        write()
    rest = sorted(one.name for one in place.iterdir() if one.name not in ("lock", "made", "source"))
    assert rest == ["path"], (step, rest)
    if status == 0:
        break
    step += 1
assert seen == {"old" if old else None, "new"} and step > 5, (seen, step)
"""


@pytest.mark.parametrize("writer", ["write", "copy", "move", "new", "exchange", "park"])
def test_a_killed_writer_leaves_the_old_or_the_new(writer: str) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:  # hundreds of fsyncs take long on a disk
        command = [sys.executable, "-c", KILLED_AT_EACH_STEP, f"{memory}/place", writer]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_file_is_replaced_whole_and_everyone_may_read_it(tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    old_umask = os.umask(0o077)
    try:
        write_atomically(file, "old")
        before = file.stat().st_ino
        write_atomically(file, "new ✓")
    finally:
        os.umask(old_umask)
    assert file.read_text(encoding="utf-8") == "new ✓"
    assert file.stat().st_ino != before
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [file]


def test_on_a_full_disk_the_old_file_stays_and_no_rest_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "summary.json"
    write_atomically(file, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_writer_at_work_is_not_taken_for_one_that_was_killed(tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    with files.replacing(file) as slow:
        slow.write(b"slow")
        write_atomically(file, "quick")
        assert file.read_text() == "quick"
    assert file.read_text() == "slow"


def test_a_new_file_never_replaces_another(tmp_path: Path) -> None:
    assert write_new(tmp_path / "key", b"first")
    assert not write_new(tmp_path / "key", b"second")
    assert (tmp_path / "key").read_bytes() == b"first"
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_root_keeps_the_owner_of_a_file_or_its_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    write_atomically(tmp_path / "new", "1")
    write_atomically(tmp_path / "old", "1")
    os.chown(tmp_path / "old", 1234, 65534)
    write_atomically(tmp_path / "old", "2")
    assert [(tmp_path / name).stat().st_uid for name in ("new", "old")] == [65534, 1234]


def test_large_and_finished_files_are_put_in_place(tmp_path: Path) -> None:
    source, copied, moved = (tmp_path / name for name in ("source", "copied", "moved"))
    source.write_bytes(bytes(3 << 20))
    copy_atomically(source, copied, 0o640)
    assert copied.stat().st_size == 3 << 20
    assert stat.S_IMODE(copied.stat().st_mode) == 0o640
    move_into_place(copied, moved)
    assert not copied.exists()
    assert moved.stat().st_size == 3 << 20


@pytest.mark.parametrize("swap", [exchange, lambda _one, _other: False])
def test_a_folder_takes_the_place_of_another_which_is_at_its_own_then(tmp_path: Path, swap: object) -> None:
    made, path = tmp_path / "work" / "made", tmp_path / "path"
    for folder in (made, path):
        folder.mkdir(parents=True)
        (folder / folder.name).touch()
    put_folder(made, path, swap)  # type: ignore[arg-type]
    assert [one.name for one in path.iterdir()] == ["made"]
    assert [one.name for one in made.iterdir()] == ["path"]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["path", "work"]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path) -> None:
    path = tmp_path / "path"
    path.mkdir()
    for swap in (exchange, lambda _one, _other: False):
        with pytest.raises(FileNotFoundError):
            put_folder(tmp_path / "absent", path, swap)
        assert [one.name for one in tmp_path.iterdir()] == ["path"]


def test_parked_folders_are_left_alone_while_another_process_is_at_it(tmp_path: Path) -> None:
    import fcntl

    (tmp_path / f"{files.PARKED}model").mkdir()
    lock = tmp_path / "lock"
    recover_parked(tmp_path, lock)  # no lock file: nobody parked it under one
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        recover_parked(tmp_path, lock)
        assert not (tmp_path / "model").exists()
    recover_parked(tmp_path, lock)
    assert (tmp_path / "model").is_dir()


def test_an_operators_file_is_written_where_a_link_points_and_keeps_its_mode(tmp_path: Path) -> None:
    file, link = tmp_path / "proof.json", tmp_path / "link"
    file.write_text("old")
    file.chmod(0o604)
    link.symlink_to(file)
    write_output(link, "new")
    assert link.is_symlink()
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o604


def test_an_operators_output_need_not_be_a_file(tmp_path: Path) -> None:
    write_output(tmp_path / "first", "1")
    assert stat.S_IMODE((tmp_path / "first").stat().st_mode) & 0o600 == 0o600
    write_output(Path("/dev/null"), "2")
    assert not Path("/dev/null").is_file()


def test_a_target_that_cannot_be_written_is_known_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("as before")
    (tmp_path / "link").symlink_to("kept")
    os.mkfifo(tmp_path / "pipe")
    for target in (tmp_path / "new", tmp_path / "link", tmp_path / "pipe", Path("/dev/stdout")):
        check_output(target)
    assert (tmp_path / "kept").read_text() == "as before"
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "link", "pipe"}
    for wrong in (tmp_path, tmp_path / "missing/new", tmp_path / "kept/new"):
        with pytest.raises(OSError, match=re.escape(str(tmp_path))):
            check_output(wrong)


def test_a_lock_that_exists_is_opened_without_asking_for_its_creation(tmp_path: Path) -> None:
    """With fs.protected_regular 2 even root may not create an existing file in a sticky folder."""
    program = """
import os, sys
from pathlib import Path
from omron_miner.files import open_lock
creates = []
sys.addaudithook(lambda name, about: name == "open" and creates.append(bool(about[2] & os.O_CREAT)))
for _ in range(2):
    creates.clear()
    with open_lock(Path(sys.argv[1])):
        print(any(creates))
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path / ".lock"], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr
