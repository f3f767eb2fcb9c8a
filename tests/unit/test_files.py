from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from omron_miner.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path


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
