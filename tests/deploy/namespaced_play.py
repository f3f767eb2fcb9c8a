"""A play against this machine in namespaces of its own, for roles that change a firewall."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FACTS = ["!all", "!min", "virtual"]
PLACES = {
    "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
    "ANSIBLE_LIBRARY": str(ROOT / "plugins/modules"),
    "ANSIBLE_FILTER_PLUGINS": str(ROOT / "plugins/filter"),
    # One Python for all tasks instead of one for each.
    "ANSIBLE_STRATEGY": "mitogen_linear",
    "ANSIBLE_STRATEGY_PLUGINS": str(ROOT / "molecule/strategy_plugins"),
}


def run_namespaced(folder: Path, set_up: str, tasks: list[dict[str, Any]], given: dict[str, Any]) -> str:
    """What Ansible prints of `tasks`, with the variables `given`, in `folder`, which has the state in `state`.

    `set_up`, in shell, comes before, in the same namespaces: network, mounts and processes. Asserts that both succeed.
    """
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": True,
        "gather_subset": FACTS,
        "roles": ["omron"],
        "tasks": tasks,
    }
    return run_namespaced_plays(folder, set_up, [play], given)


def run_namespaced_plays(folder: Path, set_up: str, plays: list[dict[str, Any]], given: dict[str, Any]) -> str:
    """The same for whole plays."""
    (folder / "play.yml").write_text(yaml.safe_dump(plays))
    common = {"ansible_python_interpreter": "/usr/bin/python3", "omron_state": str(folder / "state")}
    (folder / "given.json").write_text(json.dumps(common | given))
    program = Path(sys.executable).with_name("ansible-playbook")
    (folder / "run.sh").write_text(
        f"set -eu\nmkdir -p state\nip link set lo up\n{set_up}\n{program} -i localhost, play.yml -e @given.json\n"
    )
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "run.sh"],
        cwd=folder,
        env={**os.environ, **PLACES, "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout
