"""The switch to a release, interrupted at each task that changes something: the next run ends in the wanted state.

The real tasks against this machine under some names, each with folders, a systemctl and a miner of its own. What is in
the largest of these tasks is interrupted in test_releases.py.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("ansible-playbook")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="making namespaces takes root"),
]

LOST = '''
from pathlib import Path
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection.local import Connection as Local

DOCUMENTATION = """
name: lost
short_description: local, until a module has changed something and has this text in its result
description: for tests
author: nobody
options:
  folder: {description: of the host, vars: [{name: folder}]}
"""

class Connection(Local):
    transport = "lost"
    has_pipelining = True

    def exec_command(self, cmd, in_data=None, sudoable=True):
        folder = Path(self.get_option("folder"))
        if (folder / "is-lost").exists():
            raise AnsibleConnectionFailure("lost")
        done = super().exec_command(cmd, in_data, sudoable)
        after = folder / "lost-after"
        if after.exists() and after.read_bytes() in done[1] and b'"changed": true' in done[1]:
            (folder / "is-lost").touch()
        return done
'''

SYSTEMCTL = """#!/bin/sh
cd {folder}
case "$*" in
    *show*) echo LoadState=loaded; echo ActiveState=$(test -s running && echo active || echo inactive);;
    *is-enabled*) echo enabled;;
    *start*) cat opt/current/name >running;;
    *stop*) : >running;;
esac
"""

MINER = """#!/bin/sh
# answers if the process is this release's, with its circuits, and the release is not broken
cd {folder}
test "$(cat running)" = {release} || exit 3
test "$(cat state/circuits/model_a/vk.key)" = {release} || exit 4
test ! -e opt/releases/{release}/broken || exit 5
echo '{{"verified": true}}'
"""

DEPLOY = """
- hosts: miners
  gather_facts: false
  serial: 100%
  roles: [omron]
  tasks:
    - ansible.builtin.set_fact: {__miner_release: "{{ omron_opt }}/releases/{{ to }}"}
    - ansible.builtin.include_role: {name: miner, tasks_from: deploy.yml}
"""


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def make_host(folder: Path, port: int, is_fresh: bool) -> None:
    """A host with the releases `old` and `new`, which serve a circuit with other keys; it runs `old`, or is fresh."""
    for name in ("opt/releases", "state/circuits", "state/circuits/kept", "etc", "log", "bin"):
        (folder / name).mkdir(parents=True)
    program(folder / "bin/systemctl", SYSTEMCTL.format(folder=folder))
    for release in ("old", "new"):
        place = folder / "opt/releases" / release
        for name in ("venv/bin", "etc", "pm2"):
            (place / name).mkdir(parents=True)
        (place / "name").write_text(f"{release}\n")
        (place / "pm2/omron-pm2.service").write_text("")
        (place / "etc/constants.toml").write_text(f'bind_ip = "127.0.0.1"\nport = {port}\n')
        (place / "etc/circuits.json").write_text('{"circuits": ["a"]}')
        program(place / "venv/bin/omron-miner", MINER.format(folder=folder, release=release))
        staged = folder / "state/circuits/kept" / release / "model_a"
        staged.mkdir(parents=True)
        (staged / "vk.key").write_text(release)
    if not is_fresh:
        (folder / "state/circuits/kept/old/model_a").rename(folder / "state/circuits/model_a")
        (folder / "opt/current").symlink_to(folder / "opt/releases/old")
        (folder / "opt/rollout.json").write_text('{"passed": "old", "switching": false}')
        (folder / "running").write_text("old")


def state_of(folder: Path) -> dict[str, Any]:
    """What runs, what is current, what came before, what is written down, and what is served."""
    links = {name: folder / "opt" / name for name in ("current", "previous")}
    return {
        "running": (folder / "running").read_text().strip(),
        **{name: link.readlink().name if link.is_symlink() else None for name, link in links.items()},
        "rollout": json.loads((folder / "opt/rollout.json").read_text()),
        "circuit": (folder / "state/circuits/model_a/vk.key").read_text(),
    }


def is_on(release: str, previous: str | None) -> dict[str, Any]:
    rollout = {"passed": release, "switching": False}
    return {"running": release, "current": release, "previous": previous, "rollout": rollout, "circuit": release}


@pytest.fixture
def port() -> Iterator[int]:
    """Where a miner would listen."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        opened.listen(64)
        yield opened.getsockname()[1]


class Fleet:
    """Hosts that are this machine."""

    def __init__(self, place: Path, names: list[str], port: int) -> None:
        self.folders = {name: place / name for name in names}
        for name, folder in self.folders.items():
            make_host(folder, port, is_fresh=name == "fresh")
        self.place = place / "playbooks"
        (self.place / "connection_plugins").mkdir(parents=True)
        (self.place / "connection_plugins/lost.py").write_text(LOST)
        for name in ("roles", "filter_plugins", "action_plugins", "check_variables.yml", "meta"):
            (self.place / name).symlink_to((ROOT / "playbooks" / name).resolve())
        (place / "roles").symlink_to(ROOT / "roles")
        environment = '  environment: {PATH: "{{ folder }}/bin:/usr/sbin:/usr/bin:/sbin:/bin"}\n  serial:'
        for name, text in {"deploy": DEPLOY, "rollback": (ROOT / "playbooks/rollback.yml").read_text()}.items():
            (self.place / f"{name}.yml").write_text(text.replace("  serial:", environment))

    def run(self, playbook: str, release: str = "", **more: Any) -> tuple[int, str]:
        """Exit code and output, on one line, of a playbook on all hosts; `more` are further variables."""
        given = {
            name: {
                "ansible_connection": "lost",
                "ansible_python_interpreter": "/usr/bin/python3",
                "ansible_become": False,
                "folder": str(folder),
                **{f"omron_{one}": str(folder / one) for one in ("etc", "opt", "state", "log")},
                "omron_user": "root",
                "miner_start_timeout_seconds": 120,
            }
            for name, folder in self.folders.items()
        }
        inventory = self.place / "inventory.json"
        inventory.write_text(json.dumps({"miners": {"hosts": given}}))
        # Where commands and units are put is nobody else's.
        script = 'mount -t tmpfs none /usr/local/bin; mount -t tmpfs none /etc/systemd/system; exec "$@"'
        command = [
            str(PROGRAM),
            str(self.place / f"{playbook}.yml"),
            "-i",
            str(inventory),
            "-e",
            json.dumps({"to": release, "__miner_gate_delay_seconds": 0, **more}),
        ]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", *command],
            cwd=self.place,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    def states(self) -> dict[str, dict[str, Any]]:
        """The state of each host."""
        return {name: state_of(folder) for name, folder in self.folders.items()}


def test_the_next_run_mends_what_was_interrupted_and_a_broken_release_is_taken_back(tmp_path: Path, port: int) -> None:
    points = {"linked": "/opt/current -> ", "restarted": '"state": "started"', "passed": "/opt/previous -> "}
    fleet = Fleet(tmp_path, [*points, "fresh", "prover"], port)
    for release in ("old", "new"):
        constants = fleet.folders["prover"] / "opt/releases" / release / "etc/constants.toml"
        constants.write_text('bind_ip = "127.0.0.1"\nport = 9\n[provers]\nminer = "m"\n')  # no axon listens there
    for name, text in points.items():
        (fleet.folders[name] / "lost-after").write_text(text)
    code, said = fleet.run("deploy", "new")
    assert code != 0
    assert said.count("unreachable=1") == len(points) - 1, said  # nothing comes after the last one
    states = fleet.states()
    assert (states["linked"]["current"], states["linked"]["running"]) == ("new", "old")
    assert [states[name]["rollout"]["passed"] for name in fleet.folders] == ["old", "old", "new", "new", "new"]
    for name in points:
        (fleet.folders[name] / "lost-after").unlink()
        (fleet.folders[name] / "is-lost").unlink()

    # The release is broken: back to the last one that passed, not to the one that was being switched to.
    for folder in fleet.folders.values():
        (folder / "opt/releases/new/broken").touch()
    code, said = fleet.run("deploy", "new")
    assert code != 0
    assert "The host was rolled back to old, which passed." in said
    assert "was not changed; the next run restarts it" in said
    assert [fleet.states()[name] for name in ("linked", "restarted")] == [is_on("old", None)] * 2
    failed = {"passed": "new", "switching": True}
    before = {"passed": "old", "fresh": None, "prover": "old"}
    assert {name: fleet.states()[name] for name in before} == {
        name: is_on("new", previous) | {"rollout": failed} for name, previous in before.items()
    }

    # Mended, and one run takes all there.
    for folder in fleet.folders.values():
        (folder / "opt/releases/new/broken").unlink()
    code, said = fleet.run("deploy", "new")
    assert code == 0, said
    assert fleet.states() == {name: is_on("new", None if name == "fresh" else "old") for name in fleet.folders}

    # Back again, also from a switch that was interrupted, but for those that cannot.
    (fleet.folders["linked"] / "opt/releases/old/broken").touch()
    (fleet.folders["passed"] / "opt/rollout.json").write_text('{"passed": "old", "switching": true}')
    (fleet.folders["passed"] / "opt/previous").unlink()
    code, said = fleet.run("rollback", rollback_serial=[1, "100%"])
    assert code != 0
    assert "linked failed. Fail the deploy: The release old failed the health gate" in said, said
    assert "fresh has no earlier release" in said, said
    on_old = is_on("old", "new")
    assert fleet.states() == {
        "linked": is_on("new", "old"), "restarted": on_old, "passed": is_on("old", None),
        "fresh": is_on("new", None), "prover": on_old,
    }  # fmt: skip
