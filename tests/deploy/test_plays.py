"""The playbooks on this machine: which hosts they touch, what they refuse, and in which order they go on.

As on an operator's control node, but for Mitogen, which is faster: from another folder, without this repository's
ansible.cfg. Hosts are this machine by several names, in a mount and process namespace of its own where PID 1 is called
systemd.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from building import FAST_ANSIBLE

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("ansible-playbook")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="making namespaces takes root"),
]


def inventory_of(folder: Path, hosts: dict[str, dict[str, Any]], **variables: Any) -> Path:
    """An inventory whose hosts are all this machine, unless they say otherwise."""
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
    here |= {f"omron_{name}": str(folder / name) for name in ("etc", "opt", "state", "log")}
    # Whatever this machine is: the judges have tests of their own.
    here |= {"preflight_minimum_disk_mb": 1, "shm_enabled": False}
    path = folder / "inventory.yml"
    path.write_text(
        json.dumps({"miners": {"vars": here | variables, "hosts": hosts}, "others": {"hosts": {"stranger": here}}})
    )
    return path


def play(playbook: Path, inventory: Path, *arguments: str, etc: Path | None = None) -> tuple[int, str]:
    """Exit code and output of a playbook, run from a folder that has nothing to do with it; `etc` stands for /etc."""
    folder = inventory.parent
    init = folder / "systemd"
    if not init.exists():
        shutil.copy(shutil.which("bash") or "/bin/bash", init)
    instead = f"mount --bind {etc} /etc && " if etc else ""
    command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", str(init), "-c"]
    command += [f'{instead}"$@"; exit $?', "init"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        [*command, str(PROGRAM), str(playbook), "-i", str(inventory), *arguments],
        cwd=folder,
        env={**kept, **FAST_ANSIBLE, "ANSIBLE_NOCOLOR": "1", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        umask=0o077,  # as on a hardened machine: what others must read is given its mode
    )
    return done.returncode, done.stdout + done.stderr


def recap(output: str) -> dict[str, dict[str, int]]:
    """What the last lines say of each host."""
    lines = re.findall(r"^(\S+) +: (ok=.*)$", output[output.rindex("PLAY RECAP") :], re.MULTILINE)
    return {name: {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", said)} for name, said in lines}


UNREACHABLE = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}


def test_preflight_lists_the_problems_of_all_hosts_together_and_no_host_goes_on(tmp_path: Path) -> None:
    hosts: dict[str, dict[str, Any]] = {
        "misspelt": {"omron_axn_port": 9000},
        "gone": UNREACHABLE,
        "typed": {"pm2_log_keep": "many"},
    }
    given = inventory_of(tmp_path, hosts)
    code, output = play(ROOT / "playbooks/preflight.yml", given)
    said = " ".join(output.split())
    assert code != 0
    assert "Nothing was changed. 3 to mend first: 1. misspelt: omron_axn_port is a variable that nothing reads" in said
    assert "2. gone: cannot be reached: " in said
    assert "3. typed: " in said
    assert "write omron_axon_port if that is meant" in said
    assert "Remember which hosts will do" not in output
    assert set(recap(output)) == set(hosts), "a host outside of omron_hosts is left alone"
    assert {name: one["changed"] for name, one in recap(output).items()} == dict.fromkeys(hosts, 0)


def test_an_inventory_in_the_ini_format_is_taken(tmp_path: Path) -> None:
    """Whose values in [group:vars] are all texts; hosts win over groups, and both over the defaults."""
    path = tmp_path / "inventory"
    path.write_text(
        "[miners]\nhere cpu_governor_required=false\nother\n[miners:vars]\n"
        f"ansible_connection=local\nansible_python_interpreter={sys.executable}\n"
        "ansible_become=false\nshm_enabled=false\npreflight_minimum_disk_mb=1\nminer_enabled=no\nomron_axon_port=8123\n"
        "cpu_governor_required=true\n"
    )
    code, output = play(ROOT / "playbooks/preflight.yml", path)
    assert code != 0
    assert "1 to mend first: 1. other: cpu_governor_required is set" in " ".join(output.split())


def test_hosts_that_no_group_has_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "inventory"
    path.write_text("[provers]\nhere\n")
    for name in ("site.yml", "playbooks/remove.yml", "playbooks/report.yml"):
        code, output = play(ROOT / name, path)
        assert code != 0
        assert "no host of the inventory is matched by omron_hosts 'miners'" in " ".join(output.split())


def rollout(folder: Path) -> Path:
    """miner.yml with stand-ins for its roles: a host fails, or goes away, where its inventory says so."""
    playbooks = folder / "playbooks"
    shutil.copytree(ROOT / "playbooks", playbooks, symlinks=True)
    for name in ("roles", "action_plugins", "filter_plugins"):
        (playbooks / name).unlink()
    shutil.copytree(ROOT / "plugins", folder / "plugins")
    for kind in ("action", "filter"):
        (playbooks / f"{kind}_plugins").symlink_to(folder / "plugins" / kind)
    shutil.copytree(ROOT / "roles", folder / "roles")
    (folder / "files").symlink_to(ROOT / "files")
    (playbooks / "roles").symlink_to(folder / "roles")
    (folder / "roles/pm2/tasks/main.yml").write_text("- {ansible.builtin.set_fact: {__pm2_folder: x}}\n")
    (folder / "roles/monitor/tasks/main.yml").write_text(
        "- {name: Watch, tags: [monitor], ansible.builtin.command: 'touch {{ omron_log }}.{{ inventory_hostname }}'}\n"
    )
    deploy = (playbooks / "miner.yml").read_text()
    (playbooks / "miner.yml").write_text(deploy.replace("gather_facts: true", "gather_facts: false"))  # of no use here
    (folder / "roles/miner/tasks/main.yml").write_text(
        "- {name: Deploy, tags: [miner], ansible.builtin.command: 'touch {{ omron_state }}.{{ inventory_hostname }}'}\n"
        "- name: Ask it\n  tags: [miner]\n  ansible.builtin.command: /bin/{{ gate | default('') or 'true' }}\n"
        "- name: Go away\n  tags: [miner]\n  when: goes_away is defined\n  ansible.builtin.command: 'true'\n"
        "  vars: {ansible_connection: ssh, ansible_host: 127.0.0.1, ansible_port: 9}\n"
    )
    return playbooks / "miner.yml"


@pytest.mark.parametrize("kind", ["fails", "goes away"])
def test_the_others_follow_only_after_the_canary_has_passed(tmp_path: Path, kind: str) -> None:
    playbook = rollout(tmp_path)
    canary = {"gate": "false"} if kind == "fails" else {"goes_away": True}
    names = [f"host-{number}" for number in range(3)]

    def deployed(hosts: dict[str, dict[str, Any]], *arguments: str, **variables: Any) -> tuple[list[str], int, str]:
        for old in tmp_path.glob("state.*"):
            old.unlink()
        code, output = play(playbook, inventory_of(tmp_path, hosts, **variables), *arguments)
        return sorted(path.suffix[1:] for path in tmp_path.glob("state.*")), code, output

    healthy: dict[str, dict[str, Any]] = {name: {} for name in names}
    found, code, output = deployed({**healthy, "host-0": canary}, preflight_enabled=False)
    assert (found, code != 0) == (["host-0"], True), output

    # A canary of several hosts, of which one fails: Ansible alone would go on where one of them passed.
    found, code, output = deployed({**healthy, "host-1": canary}, omron_serial=[2, 1], preflight_enabled=False)
    assert (found, code != 0) == (["host-0", "host-1"], True), output
    assert [path.suffix for path in tmp_path.glob("log.*")] == [".host-0"], "what passed is watched"
    if kind == "goes away":
        assert "did not pass the health gate" in " ".join(output.split())


def test_a_rollout_goes_in_batches(tmp_path: Path) -> None:
    hosts: dict[str, dict[str, Any]] = {f"host-{number}": {} for number in range(5)}
    given = inventory_of(tmp_path, hosts, preflight_enabled=False, omron_serial=[1, "50%"])
    code, output = play(rollout(tmp_path), given)
    assert code == 0, output
    assert re.findall(r"PLAY \[(.*)\]", output).count("Deploy the miner") == 3  # 1, then 2 at a time


def test_the_canary_is_a_host_that_preflight_lets_through(tmp_path: Path) -> None:
    hosts: dict[str, dict[str, Any]] = {"gone": UNREACHABLE, "first": {"gate": "false"}, "second": {}}
    code, output = play(rollout(tmp_path), inventory_of(tmp_path, hosts), "-e", "omron_skip_bad_hosts=true")
    assert code != 0
    assert "gone is left out, nothing was changed on it" in output
    assert [path.suffix for path in tmp_path.glob("state.*")] == [".first"], output


def test_removal_names_the_hosts_and_asks(tmp_path: Path) -> None:
    given = inventory_of(tmp_path, {"one": {}, "two": {}})
    code, output = play(ROOT / "playbooks/remove.yml", given)
    said = " ".join(output.split())
    assert code != 0
    assert "Nothing was removed: the answer was not yes. It would have been removed on one, two" in said
    assert "Remove the monitor" not in output


def test_the_user_is_made_recorded_and_removed_and_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    etc = tmp_path / "private-etc"
    subprocess.run(["cp", "--archive", "/etc", etc], check=True)
    (etc / "tmpfiles.d").mkdir(exist_ok=True)
    (tmp_path / "roles").symlink_to(ROOT / "roles")
    playbook = tmp_path / "user.yml"
    playbook.write_text(
        """
- hosts: miners
  gather_facts: false
  roles: [omron]
  tasks:
    - ansible.builtin.file: {path: "{{ omron_state }}/host-record", state: directory, mode: "0700"}
    - ansible.builtin.include_role: {name: pm2, tasks_from: "{{ what }}"}
"""
    )
    hosts: dict[str, dict[str, Any]] = {"here": {"omron_session_directory": str(tmp_path / "sessions")}}
    given = inventory_of(tmp_path, hosts, omron_user="omron-test", omron_group="omron-test")

    def run(what: str, *arguments: str) -> tuple[int, str]:
        return play(playbook, given, "-e", f"what={what}", *arguments, etc=etc)

    code, output = run("user.yml")
    assert code == 0, output
    recorded = json.loads((tmp_path / "state/host-record/user.json").read_text())
    assert recorded == {"users": ["omron-test"], "groups": ["omron-test"]}
    state, log = tmp_path / "state", tmp_path / "log"
    [uid] = re.findall("^omron-test:x:([0-9]+):", (etc / "passwd").read_text(), re.MULTILINE)
    own = {path: path.stat().st_uid for path in (state / "sessions", state / "pm2", tmp_path / "sessions", log)}
    assert set(own.values()) == {int(uid)}
    roots = {"circuits": 0o1775, "circuits/kept": 0o755, "srs": 0o775, "ezkl": 0o775, "wallets": 0o750}
    assert {name: (state / name).stat().st_mode & 0o7777 for name in roots} == roots
    assert {(state / name).stat().st_uid for name in roots} == {0}
    group = (etc / "group").read_text()
    (etc / "group").write_text(re.sub("^(adm:.*:)$", r"\1omron-test", group, flags=re.MULTILINE))  # somebody added it
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    for path in (state / "sessions", state / "circuits/kept"):
        path.rmdir()
        path.symlink_to(victim)  # by the miner, say
        os.chown(path, int(uid), -1, follow_symlinks=False)
    (state / "srs").rename(tmp_path / "srs")
    (state / "srs").symlink_to(tmp_path / "srs")  # by root
    code, output = run("user.yml")
    assert code != 0
    links = f"{state}/circuits/kept and {state}/srs and {state}/sessions"
    assert f"{links}: a link is where a folder of the miner belongs" in " ".join(output.split())
    assert victim.stat().st_uid == 0
    assert "\nadm:x:4:\n" in (etc / "group").read_text()
    code, output = run("user.yml", "-e", "omron_user=daemon")
    assert code != 0
    assert "The user daemon was not made by this play" in output
    code, output = run("remove_user.yml", "-e", "omron_user=daemon")
    assert code == 0, output
    assert "omron-test" not in (etc / "passwd").read_text() + (etc / "group").read_text()
    assert "daemon:" in (etc / "passwd").read_text()
