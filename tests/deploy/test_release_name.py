"""What makes a new release: any shipped file, the host's Python, and what the tuner needs where it is used."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from ansible import constants

from plugin_loading import load_plugin

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "files/miner"
SHARED: dict[str, Any] = yaml.safe_load((ROOT / "roles/omron/defaults/main.yml").read_text())

if TYPE_CHECKING:
    from collections.abc import Callable

plugin = load_plugin("plugins/filter/miner_release.py")
tune = load_plugin("plugins/filter/miner_tune.py")


def test_every_file_that_is_shipped_counts_and_what_python_leaves_behind_does_not(tmp_path: Path) -> None:
    data = [f"src/omron_miner/{name}" for name in ("a.py", "circuits/needs.json", "monitor/page.html", ".hidden")]
    files = ["pyproject.toml", "requirements.lock", "tune.lock", *data]
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    before = plugin.miner_shipped(str(tmp_path), ["tune.lock"])
    assert [line.split()[0] for line in before] == sorted(files)
    for name in files:
        (tmp_path / name).write_text("changed")
        assert plugin.miner_shipped(str(tmp_path), ["tune.lock"]) != before, name
        (tmp_path / name).write_text(name)
    for name in ("src/omron_miner/__pycache__/a.pyc", "src/omron_miner.egg-info/PKG-INFO", "models/demo.onnx"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    assert plugin.miner_shipped(str(tmp_path), ["tune.lock"]) == before
    assert plugin.miner_shipped(str(tmp_path), []) == [line for line in before if "tune.lock" not in line]
    shipped = [line.split()[0] for line in plugin.miner_shipped(str(PACKAGE), [])]
    assert "src/omron_miner/circuits/needs.json" in shipped
    verifies = [line.split()[0] for line in plugin.miner_shipped(str(PACKAGE), ["live.lock"])]
    assert sorted(set(verifies) - set(shipped)) == ["live.lock"]


def in_another_process(digest: Callable[[], str]) -> str:
    """What `digest` returns in a fork, as which Ansible templates each host's tasks."""
    assert Path(constants.DEFAULT_LOCAL_TMP).is_dir(), "the folder of this run, which all forks share"
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: sender.send(digest()))
    process.start()
    sender.close()
    found: str = receiver.recv()
    process.join()
    return found


def test_a_large_file_is_read_once_in_a_run_whichever_process_asks(tmp_path: Path) -> None:
    model, circuit = tmp_path / "a.onnx", {"name": "a", "model": str(tmp_path / "a.onnx")}

    def digest() -> str:
        return str(tune.circuits_digest([circuit], "/none"))

    model.write_bytes(b"a" * (1 << 20))
    found, status = in_another_process(digest), model.stat()
    model.write_bytes(b"b" * (1 << 20))
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert in_another_process(digest) == found, "not read: by its size and time it is the same"
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert in_another_process(digest) != found


@pytest.mark.slow
def test_another_python_behind_the_same_path_and_the_tuner_where_it_is_used_make_a_new_release(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE / "models", tmp_path / "package/models")
    for name in ("pyproject.toml", "tune.lock"):
        shutil.copy(PACKAGE / name, tmp_path / "package" / name)
    upgraded, circuit = tmp_path / "python3", {"name": "a", "model": "tiny"}
    upgraded.write_text("#!/bin/sh\ncat ${0%/*}/said\n")
    upgraded.chmod(0o755)
    (tmp_path / "said").write_text("cpython-311-x86_64-linux-gnu /usr/bin/python3.11\n")
    asked: list[dict[str, Any]] = [
        {},
        {"omron_circuits": [{**circuit, "circuit_tune": False}]},
        {"omron_circuits": [{**circuit, "circuit_tune": True}]},
        {"miner_python": str(upgraded)},
    ]
    role = {"name": "miner", "tasks_from": "name_release.yml"}
    say = {"ansible.builtin.debug": {"msg": "code {{ __miner_code }}."}}
    tasks: list[dict[str, Any]] = []
    for given in asked:
        tasks += [{"ansible.builtin.include_role": role, "vars": given}, say]
    becomes = "cpython-313-x86_64-linux-gnu /usr/bin/python3.13\n"
    tasks += [{"ansible.builtin.copy": {"dest": str(tmp_path / "said"), "content": becomes}}, *tasks[-2:]]
    given = {name: value for name, value in SHARED.items() if name != "omron_circuits"}
    given |= {"ansible_python_interpreter": sys.executable, "miner_source": str(tmp_path / "package")}
    (tmp_path / "given.json").write_text(json.dumps(given))
    here = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": {"omron_circuits": [circuit]}}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{**here, "tasks": tasks}]))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", "play.yml", "-e", "@given.json"],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_ROLES_PATH": str(ROOT / "roles"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    plain, off, tunes, before, after = re.findall(r"code (\S+)\.", done.stdout)
    assert plain == off
    assert len({plain, tunes, before, after}) == 4
