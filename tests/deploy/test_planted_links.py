"""Links that the service user puts where root works: root follows none of them, and says so where one is in its way."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
USER = pwd.getpwnam("daemon")
"""Stands in for the service user."""
SYSTEM_PYTHON = "/usr/bin/python3"
CIRCUIT = f"model_{'ab' * 32}"
_VARIABLES = yaml.safe_load((ROOT / "roles/miner/vars/main.yml").read_text())
TAKE, COMPARE = _VARIABLES["__miner_take"], _VARIABLES["__miner_compare"]

STAND_IN = """#!/bin/sh
case "$*" in
  *"circuit sync"*) echo '{"circuits": [{"changed": false}]}' ;;
  *"hotkey show"*) echo '{"ss58": "5F"}' ;;
esac
"""


def take(supplied: Path, circuit: Path, script: str = TAKE) -> list[str]:
    command: list[str | Path] = ["sh", "-euc", script, "take", supplied, circuit]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same file system", "another file system"])
def test_a_circuit_is_taken_once_and_again_where_a_file_differs(tmp_path: Path, elsewhere: bool) -> None:
    supplied = tmp_path / "supplied"
    folder = Path("/dev/shm", f"omron-{os.getpid()}") if elsewhere else tmp_path / "circuit"
    supplied.mkdir()
    for name in ("pk.key", "settings.json"):
        (supplied / name).write_text(name)
    try:
        assert take(supplied, folder) == ["pk.key", "settings.json"]
        assert folder.stat().st_mode & 0o777 == 0o750
        assert (folder / "pk.key").samefile(supplied / "pk.key") is not elsewhere
        assert take(supplied, folder) == take(supplied, folder, COMPARE) == []
        (folder / "pk.key").unlink()
        (folder / "pk.key").write_text("other")
        (folder / "checksums.json").write_text("of the other")
        assert take(supplied, folder, COMPARE) == ["pk.key"]
        assert take(supplied, folder) == ["pk.key"]
        assert sorted(path.name for path in folder.iterdir()) == ["pk.key", "settings.json"]
        assert (folder / "pk.key").read_text() == "pk.key"
        (folder / "pk.key").unlink()
        (folder / "pk.key").write_text("pk.key")  # as an earlier release of ours copied it
        assert take(supplied, folder, COMPARE) == []
        assert (folder / "pk.key").samefile(supplied / "pk.key") is not elsewhere
    finally:
        if elsewhere:
            subprocess.run(["rm", "-rf", folder], check=True)


def play(place: Path, tasks: list[dict[str, Any]], given: dict[str, Any]) -> tuple[int, str]:
    (place / "given.json").write_text(json.dumps(given))
    here = {"hosts": "localhost", "connection": "local", "gather_facts": False, "roles": ["omron"]}
    (place / "play.yml").write_text(yaml.safe_dump([{**here, "tasks": tasks}]))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", "play.yml", "-e", "@given.json"],
        cwd=place,
        env={**os.environ, "ANSIBLE_ROLES_PATH": str(ROOT / "roles"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def open_path() -> Iterator[Path]:
    """As `tmp_path`, which is below a folder for root alone."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        yield Path(place)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="becoming the service user takes root")
@pytest.mark.skipif(not Path(SYSTEM_PYTHON).exists(), reason="root's own Python may be closed to the service user")
def test_root_copies_keys_and_circuits_past_planted_links(open_path: Path) -> None:
    """Where an earlier release, or the miner itself, left folders of the service user's."""
    tmp_path = open_path
    state, victim = tmp_path / "state", tmp_path / "victim"
    digest = hashlib.sha256(b"{}").hexdigest()[:12]
    hotkeys, release = state / "wallets" / f"miner-{digest}" / "hotkeys", tmp_path / "release"
    programs = release / "venv/bin"
    for folder in (
        hotkeys,
        state / "circuits",
        tmp_path / "etc/circuits",
        victim,
        tmp_path / CIRCUIT,
        programs,
        release / "etc",
    ):
        folder.mkdir(parents=True)
    secret = victim / "shadow"
    secret.write_text("root's")
    secret.chmod(0o640)
    (hotkeys / "default").symlink_to(secret)
    (state / "circuits" / CIRCUIT).symlink_to(victim)
    for path in (*list(hotkeys.parents)[:2], hotkeys, hotkeys / "default", state / "circuits" / CIRCUIT):
        os.chown(path, USER.pw_uid, USER.pw_gid, follow_symlinks=False)
    state.chmod(0o1775)
    os.chown(state / "circuits", 0, USER.pw_gid)
    (state / "circuits").chmod(0o775)
    (tmp_path / CIRCUIT / "pk.key").write_text("key")
    (tmp_path / "hotkey").write_text("{}")
    command = programs / "omron-miner"
    command.write_text(STAND_IN)
    command.chmod(0o755)
    given: dict[str, Any] = {
        "omron_state": str(state), "omron_etc": str(tmp_path / "etc"), "omron_user": "daemon", "omron_group": "daemon",
        "omron_network": "test", "omron_hotkey_file": str(tmp_path / "hotkey"),
        "__miner_release": str(release), "__miner_venv": str(release / "venv"),
        "omron_circuits": [{"name": "a", "folder": str(tmp_path / CIRCUIT)}], "__miner_shipped_models": "/none",
        "ansible_python_interpreter": SYSTEM_PYTHON, "ansible_become_method": "su",
        "ansible_become_flags": "-s /bin/sh",
    }  # fmt: skip
    tasks = [
        {"ansible.builtin.include_role": {"name": "miner", "tasks_from": f"{name}.yml"}}
        for name in ("wallet", "circuits")
    ]
    code, output = play(tmp_path, tasks, given)
    assert code == 0, output
    assert [path.name for path in victim.iterdir()] == ["shadow"]
    assert (secret.read_text(), secret.stat().st_mode & 0o777, secret.stat().st_uid) == ("root's", 0o640, 0)
    assert not (hotkeys / "default").is_symlink()
    found = {path: (path.stat().st_uid, path.stat().st_mode & 0o7777) for path in (hotkeys, hotkeys / "default")}
    assert found == {hotkeys: (0, 0o750), hotkeys / "default": (USER.pw_uid, 0o600)}
    assert (state / "wallets").stat().st_uid == 0

    key = state / "circuits/kept/release" / CIRCUIT / "pk.key"
    assert (key.read_text(), key.parent.stat().st_uid) == ("key", USER.pw_uid)
    assert key.samefile(state / "supplied/circuits" / CIRCUIT / "pk.key"), "no second copy"
