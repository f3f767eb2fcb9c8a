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
from ansible.constants import DEFAULT_VAULT_ID_MATCH
from ansible.parsing.vault import VaultLib, VaultSecret

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
    here |= {"ansible_become_method": "su"}  # sudo is not installed on every machine that runs tests
    here |= {f"omron_{name}": str(folder / name) for name in ("etc", "opt", "state", "log")}
    # Whatever this machine is: preflight's checks have tests of their own.
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
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/ssh-options\nexit 255\n')
    ssh.chmod(0o755)
    hosts: dict[str, dict[str, Any]] = {
        "misspelt": {"omron_axn_port": 9000},
        "gone": {**UNREACHABLE, "ansible_ssh_executable": str(ssh)},
        "typed": {"pm2_log_keep": "many"},
    }
    given = inventory_of(tmp_path, hosts)
    code, output = play(ROOT / "playbooks/preflight.yml", given, "--ssh-extra-args", "-o ProxyJump=bastion")
    said = " ".join(output.split())
    assert code != 0
    assert "Nothing was changed. Problems to fix first (3): 1. misspelt: omron_axn_port is not a known variable" in said
    assert "2. gone: cannot be reached: " in said
    assert "3. typed: " in said
    assert "write omron_axon_port if you mean that" in said
    assert "Group the hosts that passed preflight" not in output
    assert set(recap(output)) == set(hosts), "a host outside of omron_hosts is left alone"
    assert {name: one["changed"] for name, one in recap(output).items()} == dict.fromkeys(hosts, 0)
    assert "-o ProxyJump=bastion -o ServerAliveInterval=30" in (tmp_path / "ssh-options").read_text()


def test_an_inventory_in_the_ini_format_is_taken(tmp_path: Path) -> None:
    """Whose values in [group:vars] are all texts; hosts win over groups, and both over the defaults."""
    path = tmp_path / "inventory"
    path.write_text(
        "[miners]\nhere cpu_governor_required=false\nother\n[miners:vars]\n"
        f"ansible_connection=local\nansible_python_interpreter={sys.executable}\n"
        "ansible_become=false\nansible_become_method=su\nshm_enabled=false\npreflight_minimum_disk_mb=1\nminer_enabled=no\nomron_axon_port=8123\n"
        "cpu_governor_required=true\n"
    )
    code, output = play(ROOT / "playbooks/preflight.yml", path)
    assert code != 0
    assert "Problems to fix first (1): 1. other: cpu_governor_required is true" in " ".join(output.split())


def test_hosts_that_no_group_has_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "inventory"
    path.write_text("[provers]\nhere\n")
    for name in ("site.yml", "playbooks/remove.yml", "playbooks/report.yml"):
        code, output = play(ROOT / name, path)
        assert code != 0
        assert "omron_hosts 'miners' matches no host of the inventory" in " ".join(output.split())


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
        assert "failed the health gate" in " ".join(output.split())


def test_a_rollout_goes_in_batches(tmp_path: Path) -> None:
    hosts: dict[str, dict[str, Any]] = {f"host-{number}": {} for number in range(5)}
    given = inventory_of(tmp_path, hosts, preflight_enabled=False, omron_serial=[1, "50%"])
    code, output = play(rollout(tmp_path), given)
    assert code == 0, output
    assert re.findall(r"PLAY \[(.*)\]", output).count("Deploy the miner") == 3  # 1, then 2 at a time


def test_a_host_without_a_miner_is_no_canary(tmp_path: Path) -> None:
    hosts: dict[str, dict[str, Any]] = {"off": {"miner_enabled": False}, **{name: {"gate": "false"} for name in "abc"}}
    code, output = play(rollout(tmp_path), inventory_of(tmp_path, hosts, preflight_enabled=False))
    assert code != 0
    assert [path.suffix for path in tmp_path.glob("state.*")] == [".a"], output


def test_the_canary_is_a_host_that_preflight_lets_through(tmp_path: Path) -> None:
    hosts: dict[str, dict[str, Any]] = {"gone": UNREACHABLE, "first": {"gate": "false"}, "second": {}}
    code, output = play(rollout(tmp_path), inventory_of(tmp_path, hosts), "-e", "omron_skip_bad_hosts=true")
    assert code != 0
    assert "gone is skipped, nothing was changed on it" in output
    assert [path.suffix for path in tmp_path.glob("state.*")] == [".first"], output
    said = " ".join(output.split())
    assert "Skipped and left unchanged: gone. The preflight output above gives the reasons" in said, (
        "although no play begins after one in which all hosts of a batch failed"
    )


TUNING = """
- hosts: omron_ready
  gather_facts: false
  tasks:
    - {name: Tune, ansible.builtin.command: "/bin/{{ tuned | default('true') }}"}
"""


@pytest.mark.parametrize("canary", ["passes", "fails"])
def test_a_host_that_fails_while_it_is_tuned_does_not_strand_the_others(tmp_path: Path, canary: str) -> None:
    playbook = rollout(tmp_path)
    (playbook.parent / "host.yml").write_text(f"- ansible.builtin.import_playbook: preflight.yml{TUNING}")
    imports = [{"ansible.builtin.import_playbook": f"{playbook.parent}/{name}.yml"} for name in ("host", "miner")]
    (tmp_path / "deploy.yml").write_text(json.dumps(imports))
    hosts: dict[str, dict[str, Any]] = {f"host-{number}": {} for number in range(4)}
    hosts["host-0"]["tuned"] = hosts["host-3"]["tuned"] = "false"
    hosts["host-1"]["gate"] = "true" if canary == "passes" else "false"
    given = inventory_of(tmp_path, hosts, preflight_enabled=False)
    code, output = play(tmp_path / "deploy.yml", given, "--skip-tags", "doctor")
    assert code != 0, "a host failed"
    deployed = sorted(path.suffix for path in tmp_path.glob("state.*"))
    assert deployed == ([".host-1", ".host-2"] if canary == "passes" else [".host-1"]), output
    assert "host-0 failed the health gate" not in output


def test_a_clone_that_anybody_may_write_to_works_without_its_ansible_cfg(tmp_path: Path) -> None:
    playbook = rollout(tmp_path)
    shutil.copy(ROOT / "ansible.cfg", tmp_path)
    tmp_path.chmod(0o777)
    code, output = play(playbook, inventory_of(tmp_path, {"one": {}, "two": {}}), "--skip-tags", "doctor")
    assert code == 0, output
    assert "world writable directory" in output, "Ansible did not ignore ansible.cfg"
    assert sorted(path.suffix for path in tmp_path.glob("state.*")) == [".one", ".two"]


def test_preflight_finds_a_user_that_a_directory_has_but_does_not_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("getent")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "getent").write_text(
        '#!/bin/sh\ncase "$*" in\n'
        "'passwd someone') echo 'someone:x:7777:7778:Some One:/home/someone:/bin/sh' ;;\n"
        "'group others') echo 'others:x:7779:someone' ;;\n"
        f'*) exec {real} "$@" ;;\nesac\n'
    )
    (programs / "getent").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    given = inventory_of(tmp_path, {"here": {}}, omron_user="someone", omron_group="others")
    code, output = play(ROOT / "playbooks/preflight.yml", given)
    said = " ".join(output.split())
    assert code != 0
    assert "omron_user someone already exists (id 7777, home /home/someone)" in said, output
    assert "omron_group others already exists (id 7779)" in said


def test_a_monitor_is_set_up_only_where_there_is_a_miner_to_watch(tmp_path: Path) -> None:
    hosts: dict[str, dict[str, Any]] = {"fresh": {"omron_opt": str(tmp_path / "none")}, "deployed": {}}
    command = tmp_path / "opt/current/venv/bin/omron-miner"
    command.parent.mkdir(parents=True)
    command.touch()
    given = inventory_of(tmp_path, hosts, preflight_enabled=False, miner_enabled=False)
    playbook = rollout(tmp_path)
    for name in ("miner.yml", "monitor.yml"):
        code, output = play(playbook.parent / name, given, "--skip-tags", "doctor")
        assert code == 0, output
        assert [path.suffix for path in tmp_path.glob("log.*")] == [".deployed"]
        assert "No miner is deployed on fresh" in output
        (tmp_path / "log.deployed").unlink()


def test_preflight_may_be_off_for_some_hosts(tmp_path: Path) -> None:
    """Its tasks for all hosts together run on the first host, whatever is off there."""
    off = {"preflight_enabled": False}
    given = inventory_of(tmp_path, {"first": off, "second": {}, "third": off, "fourth": {"omron_axn_port": 1}})
    code, output = play(ROOT / "playbooks/preflight.yml", given, "-e", "omron_skip_bad_hosts=true")
    assert code != 0
    assert {name for name, one in recap(output).items() if one["failed"]} == {"fourth"}, output
    code, output = play(ROOT / "playbooks/preflight.yml", given)
    assert "Problems to fix first (1): 1. fourth: omron_axn_port" in " ".join(output.split())


def test_a_vaulted_hotkey_is_compared_with_those_of_hosts_that_are_not_deployed_to(tmp_path: Path) -> None:
    vault = VaultLib([(DEFAULT_VAULT_ID_MATCH, VaultSecret(b"open"))])
    (tmp_path / "password").write_text("open")
    address = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
    key = json.dumps({"ss58Address": address, "secretSeed": "hush"})
    hosts: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(("one", "two", "plain")):
        (tmp_path / name).write_bytes(key.encode() if name == "plain" else vault.encrypt(key))
        hosts[name] = {"omron_hotkey_file": str(tmp_path / name), "omron_external_ip": f"8.8.8.{number}"}
    given = inventory_of(tmp_path, hosts, omron_network="test", omron_netuid=118)
    password = ("--vault-password-file", str(tmp_path / "password"))
    code, output = play(ROOT / "playbooks/preflight.yml", given, "-e", "omron_hosts=one", "-vvv", *password)
    assert code != 0
    assert f"one: the hotkey {address} is used on two, plain and one" in " ".join(output.split())
    assert "hush" not in output
    assert set(recap(output)) == {"one"}


@pytest.mark.parametrize("name", ["remove", "rollback", "report", "doctor"])
def test_a_misspelt_variable_is_refused_by_every_play(tmp_path: Path, name: str) -> None:
    given = inventory_of(tmp_path, {"canary": {}, "other": {"monitor_intervall": 5}})
    more = ["-e", "confirm=yes", "-e", "rollback_too=x"]
    code, output = play(ROOT / f"playbooks/{name}.yml", given, "-e", "omron_host=canary", *more)
    said = " ".join(output.split())
    assert code != 0
    assert "Nothing was done. Problems to fix first (3): 1. canary, other: omron_host is not a known variable: " in said
    assert "write omron_hosts if you mean that" in said
    assert "2. canary, other: rollback_too is not a known variable: write rollback_to if you" in said
    assert "3. other: monitor_intervall is not a known variable: write monitor_interval if" in said
    assert set(re.findall(r"PLAY \[(.*)\]", output)) == {"Check the variables"}


def test_only_the_prover_hosts_of_the_miners_that_were_asked_for_are_removed(tmp_path: Path) -> None:
    groups = {
        "miners": {"hosts": {"one": {}, "two": {}}},
        "provers": {"hosts": {"p1": {"omron_prover_of": "one"}, "p2": {"omron_prover_of": "two"}, "foreign": {}}},
    }
    given = tmp_path / "inventory.yml"
    given.write_text(json.dumps({"all": {"vars": UNREACHABLE, "children": groups}}))
    code, output = play(ROOT / "playbooks/remove.yml", given, "-e", "omron_hosts=two", "-e", "confirm=yes")
    assert code != 0
    assert "This removes the miner on 2 host(s): two, p2" in " ".join(output.split()), "named although nobody is asked"
    assert set(recap(output)) == {"two", "p2"}
    assert "Skipping the prover hosts foreign: omron_prover_of is empty" in " ".join(output.split())


def test_removal_names_the_hosts_and_asks(tmp_path: Path) -> None:
    given = inventory_of(tmp_path, {"one": {}, "two": {}})
    code, output = play(ROOT / "playbooks/remove.yml", given)
    said = " ".join(output.split())
    assert code != 0
    assert "Nothing was removed: removal on one, two was not confirmed" in said
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
    roots |= {"supplied": 0o750, "models": 0o755, "tuned": 0o755, "competition": 0o755}
    assert {name: (state / name).stat().st_mode & 0o7777 for name in roots} == roots
    assert {(state / name).stat().st_uid for name in roots} == {0}
    os.chown(state / "competition", int(uid), -1)  # made by the miner before the play, say
    code, output = run("user.yml")
    assert code != 0
    assert f"{state}/competition: found a folder of another user than root" in " ".join(output.split())
    os.chown(state / "competition", 0, -1)
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
    assert f"{links}: found a symbolic link instead of a folder" in " ".join(output.split())
    assert victim.stat().st_uid == 0
    assert "\nadm:x:4:\n" in (etc / "group").read_text()
    code, output = run("user.yml", "-e", "omron_user=daemon")
    assert code != 0
    assert "The user daemon was not created by this play" in output
    code, output = run("user.yml", "-e", "omron_group=daemon")
    assert code != 0
    assert "The group daemon was not created by this play" in output
    assert "daemon" not in (tmp_path / "state/host-record/user.json").read_text()
    code, output = run("remove_user.yml", "-e", "omron_user=daemon")
    assert code == 0, output
    assert "omron-test" not in (etc / "passwd").read_text() + (etc / "group").read_text()
    assert "daemon:" in (etc / "passwd").read_text()
