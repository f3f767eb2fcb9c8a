"""remove_data=true where folders of the miner's are mounts, as docs/operating.md advises: emptied, left, and told."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

from namespaced_play import ROOT, run_namespaced

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = yaml.safe_load((ROOT / "roles/miner/vars/main.yml").read_text())["__miner_remove"]
SET_UP = """
mkdir opt victim
touch victim/stays opt/program
mount -t tmpfs none state
mkdir state/circuits state/wallets
mount -t tmpfs none state/circuits
touch state/circuits/.hidden state/wallets/hotkey
ln -s "$PWD/victim" state/circuits/link
"""


def remove(*folders: Path) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-euc", SCRIPT, "remove", *folders]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_is_no_mount_goes_whole_and_what_is_not_there_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/stays").touch()
    for link in ("link", "a/link"):
        (tmp_path / link).symlink_to(tmp_path / "victim")
    names = ["a", "none", "link"]
    done = remove(*(tmp_path / name for name in names))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["removed", f"{tmp_path}/a", "removed", f"{tmp_path}/link"]
    assert [path.name for path in tmp_path.rglob("*")] == ["victim", "stays"]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="making namespaces takes root")
def test_mounts_are_emptied_and_left(tmp_path: Path) -> None:
    given = {f"omron_{name}": str(tmp_path / name) for name in ("opt", "log")}
    role = {"ansible.builtin.include_role": {"name": "miner", "tasks_from": "remove_data.yml"}}
    look = {"ansible.builtin.command": f"find {tmp_path} -path *state* -o -path *victim* -o -path *opt*"}
    show = {"ansible.builtin.debug": {"msg": "left {{ found.stdout_lines | sort | join(' ') }}."}}
    output = run_namespaced(tmp_path, SET_UP, [role, {**look, "register": "found"}, show, role], given)
    said = " ".join(output.split())
    mounts = f"{tmp_path}/state and {tmp_path}/state/circuits"
    assert said.count(f"{mounts}: emptied but not removed, because a file system is mounted there") == 2, said
    left = ("state", "state/circuits", "victim", "victim/stays")
    assert f"left {' '.join(f'{tmp_path}/{name}' for name in left)}." in said
    assert "changed=2" in said, "the first time, and the look"


@pytest.mark.skipif(os.geteuid() != 0, reason="making a mount takes root")
def test_what_cannot_be_removed_is_a_failure(tmp_path: Path) -> None:
    script = 'mount -t tmpfs none "$1"; touch "$1/file"; mount -o remount,ro "$1"; shift; exec "$@"'
    command = ["unshare", "--mount", "sh", "-euc", script, "sh", tmp_path, "sh", "-euc", SCRIPT, "remove", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr
