"""The miner role puts the competition's files where the miner looks for them, its key for the miner alone."""

from __future__ import annotations

import getpass
import grp
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def play(directory: Path, **variables: Any) -> str:
    """What ansible-playbook prints of the role's tasks for the competition, run for a host below `directory`."""
    state, etc = directory / "state", directory / "etc"
    for folder in (state, etc):
        folder.mkdir(exist_ok=True)
    given = {
        "omron_etc": str(etc),
        "omron_state": str(state),
        "omron_user": getpass.getuser(),
        "omron_group": grp.getgrgid(os.getegid()).gr_name,
        "omron_competition_credentials_file": str(directory / "keys"),
        "omron_competition_circuit": str(directory / "mine"),
        **variables,
    }
    (directory / "given.json").write_text(json.dumps(given))
    playbook = directory / "play.yml"
    playbook.write_text(
        "- hosts: localhost\n  connection: local\n  gather_facts: false\n  tasks:\n"
        "    - ansible.builtin.include_role: {name: miner, tasks_from: competition.yml}\n"
    )
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    command = [program, "-i", "localhost,", str(playbook), "--diff", "-v"]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_ROLES_PATH": str(ROOT / "roles")}
    done = subprocess.run(
        [*command, "-e", f"@{directory / 'given.json'}", "-e", f"ansible_python_interpreter={sys.executable}"],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_files_are_put_in_place_once_and_the_key_is_shown_to_nobody(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("[default]\naws_secret_access_key = hush\n")
    (tmp_path / "mine").mkdir()
    for name in ("model.compiled", "settings.json"):
        (tmp_path / "mine" / name).write_text(name)
    first = play(tmp_path, omron_competition_enabled=True)
    [key] = (tmp_path / "etc").glob("competition-credentials-*")
    assert key.read_text().endswith("hush\n")
    assert key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "state/competition/model.compiled").read_text() == "model.compiled"
    assert "hush" not in first
    assert "changed=0" in play(tmp_path, omron_competition_enabled=True)
    (tmp_path / "keys").write_text("[default]\naws_secret_access_key = other\n")
    assert "changed=1" in play(tmp_path, omron_competition_enabled=True)
    assert "changed=0" in play(tmp_path, omron_competition_enabled=False)
    keys = {one.read_text().split()[-1] for one in (tmp_path / "etc").glob("competition-credentials-*")}
    assert keys == {"hush", "other"}, "a release has its own until it is removed"
    assert (tmp_path / "state/competition/model.compiled").exists()
