"""The record of what a host was like before, and which packages go when a deploy is taken back."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from plugin_loading import load_plugin

ROOT = Path(__file__).parents[2]


RECORD = load_plugin("plugins/modules/omron_host_record.py")
PACKAGES = load_plugin("plugins/filter/packages.py")


def record(capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    with (
        patch_module_args(
            {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()}
        ),
        pytest.raises(SystemExit),
    ):
        RECORD.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_what_was_recorded_first_stays_and_later_runs_add_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, fstab = tmp_path / "state/host-record/swap.json", tmp_path / "fstab"
    fstab.write_text("as before\n")
    assert record(capsys, path=path)["record"] == {}
    first = {"units": ["b"], "sysctl": {"x": "1"}, "made": True}
    planned = record(capsys, path=path, state="present", content=first, backup=fstab, _ansible_check_mode=True)
    assert planned["changed"]
    assert not path.parent.parent.exists()
    assert record(capsys, path=path, state="present", content=first, backup=fstab)["changed"]
    assert [stat.S_IMODE(one.stat().st_mode) for one in (path.parent.parent, path.parent, path)] == [
        0o755,
        0o700,
        0o600,
    ]
    fstab.write_text("edited\n")
    later = {"units": ["a", "b"], "sysctl": {"x": "2", "y": "3"}, "made": False, "new": "n"}
    merged = {"units": ["b", "a"], "sysctl": {"x": "1", "y": "3"}, "made": True, "new": "n"}
    assert not record(capsys, path=path, state="present", content=later, once=True)["changed"]
    assert record(capsys, path=path, state="present", content=later, backup=fstab)["record"] == merged
    assert not record(capsys, path=path, state="present", content=later)["changed"]
    assert sorted(one.name for one in path.parent.iterdir()) == ["fstab-before-swap", "swap.json"]
    assert (path.parent / "fstab-before-swap").read_text() == "as before\n"
    assert record(capsys, path=path)["record"] == merged
    assert record(capsys, path=path, state="absent", backup=fstab)["changed"]
    assert list(path.parent.iterdir()) == []


def test_every_folder_above_the_records_is_open_to_the_service_user_whatever_the_umask_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "srv/omron/state/host-record/user.json"
    umask = os.umask(0o077)
    try:
        assert record(capsys, path=path, state="present", content={"a": 1})["changed"]
    finally:
        os.umask(umask)
    modes = [stat.S_IMODE(one.stat().st_mode) for one in list(path.parents)[:4]]
    assert modes == [0o700, 0o755, 0o755, 0o755]


def test_a_record_that_cannot_be_read_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "swap.json"
    for text in ("{", "[]"):
        path.write_text(text)
        result = record(capsys, path=path, state="present", content={"a": 1})
        assert f"the record {path} cannot be read" in result["msg"]
        assert path.read_text() == text


def test_a_folder_that_another_user_put_in_the_records_place_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "host-record").symlink_to(tmp_path / "elsewhere")
    result = record(capsys, path=tmp_path / "host-record/swap.json", state="present", content={"a": 1})
    assert "host-record is not owned by root" in result["msg"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


DPKG = """installed\tlogrotate\tcron | anacron
installed\trsyslog\tlogrotate (>= 3), curl
deinstalled\told\tpython3-venv
installed\tlater\tfoo | python3-venv:any, logrotate
installed\tpython3-venv\tlogrotate
installed\tplain\t
"""


def test_a_package_that_another_came_to_recommend_is_kept_and_one_that_was_recommended_before_is_not() -> None:
    now = PACKAGES.recommended_by(DPKG, ["logrotate", "python3-venv"])
    assert now == {"logrotate": ["later", "rsyslog"], "python3-venv": ["later"]}
    assert PACKAGES.newly_recommended(now, {"logrotate": ["later", "rsyslog"], "python3-venv": []}) == ["python3-venv"]
    assert PACKAGES.newly_recommended(now, {}) == ["logrotate", "python3-venv"]
    assert PACKAGES.newly_recommended(now, None) == [], "a record from before this was recorded"


def test_who_has_apt_locked_is_named(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    program = ROOT / "roles/packages/files/apt_lock_holder.py"
    command: list[str | Path] = [sys.executable, program, tmp_path / "none", lock]

    def holder() -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout

    lock.touch()
    assert holder() == ""
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        other.stdout.readline()
        assert holder().endswith(f"(process {other.pid})\n")
        other.communicate("\n")
