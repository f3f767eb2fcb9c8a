"""The roles that tune a host, on this machine in a mount namespace: its /etc and /dev/shm are stand-ins.

So are systemctl and sysctl; what they do to a real host is molecule/default's to show. One run of one playbook
goes through a break-off, an undo, a whole run and another undo.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from test_plays import inventory_of, play

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="making namespaces takes root"),
]

SYSTEMCTL = """#!/bin/sh
case "$*" in
*list-unit-files*) printf '%s\\n' 'dev-vdb1.swap generated -' 'swap.target static -' ;;
"mask "*) [ ! -e {folder}/broken ] || exit 1 ;;
esac
"""
SYSCTL = """#!/bin/sh
[ "$1" = --values ] && exec cat {folder}/sysctl/"$2"
echo "$*" >>{folder}/sysctl.log
"""
FSTAB = """/dev/vdb1 none swap sw,comment=cloudconfig 0 2
tmpfs  /dev/shm  tmpfs  noexec,size=75%  0 0
# /dev/vdc1 none swap sw 0 0
"""
PLAYBOOK = """
- hosts: miners
  gather_facts: true
  gather_subset: ["!all", hardware, virtual]
  environment: {PATH: "{{ folder }}/bin:{{ ansible_env_path }}"}
  vars:
    show: >-
      find /etc/fstab /etc/systemd/system-generators /etc/sysctl.d -type f -exec cksum {} + | sort;
      grep /dev/shm /proc/self/mountinfo | tail -n 1; cat {{ folder }}/sysctl/*;
      cat {{ omron_state }}/host-record/*.json
  roles: [omron]
  tasks:
    - name: Mount two RAM disks on top of each other, and limit the memory
      ansible.builtin.shell: |
        mount -t tmpfs -o size=100m,nodev below /dev/shm
        mount -t tmpfs -o size=200m,nosuid,nodev,noexec,mode=1770 tmpfs /dev/shm
        mount -t tmpfs none /sys/fs/cgroup && echo 1073741824 >/sys/fs/cgroup/memory.max
    - {name: Look, ansible.builtin.shell: "{{ show }}", register: before, failed_when: false}
    - name: Break off
      block:
        - {name: Begin, ansible.builtin.include_role: {name: swap}}
        - {name: Never, ansible.builtin.meta: end_play}
      rescue:
        - {name: Look, ansible.builtin.shell: "cat /etc/fstab {{ omron_state }}/host-record/swap.json", register: half}
    - {name: Undo, ansible.builtin.include_role: {name: swap, tasks_from: restore.yml}}
    - {name: Look, ansible.builtin.shell: "{{ show }}", register: undone, failed_when: false}
    - {name: Mend, ansible.builtin.file: {path: "{{ folder }}/broken", state: absent}}
    - name: Run
      ansible.builtin.include_role: {name: "{{ one }}"}
      loop: &roles [swap, shm, kernel]
      loop_control: &as_one {loop_var: one}
    - {name: Look, ansible.builtin.shell: "{{ show }}; cat /etc/fstab", register: first}
    - name: Undo
      ansible.builtin.include_role: {name: "{{ one }}", tasks_from: restore.yml}
      loop: *roles
      loop_control: *as_one
    - {name: Look, ansible.builtin.shell: "{{ show }}", register: back, failed_when: false}
    - name: Tell
      ansible.builtin.copy:
        content: "{{ dict(names | zip(names | map('extract', vars) | map(attribute='stdout'))) | to_json }}"
        dest: "{{ folder }}/told.json"
        mode: "0600"
      vars: {names: [before, half, undone, first, back]}
"""


def test_there_and_back_again_from_half_way_too(tmp_path: Path) -> None:
    etc = tmp_path / "private-etc"
    subprocess.run(["cp", "--archive", "/etc", etc], check=True)
    (etc / "fstab").write_text(FSTAB)
    (etc / "sysctl.d").mkdir(exist_ok=True)
    (tmp_path / "bin").mkdir()
    for name, text in (("systemctl", SYSTEMCTL), ("sysctl", SYSCTL)):
        (tmp_path / "bin" / name).write_text(text.format(folder=tmp_path))
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "broken").touch()
    (tmp_path / "sysctl").mkdir()
    (tmp_path / "sysctl/vm.overcommit_memory").write_text("1\n")
    shutil.copytree(ROOT / "roles", tmp_path / "roles", symlinks=True)
    (tmp_path / "plugins").symlink_to(ROOT / "plugins")
    (tmp_path / "templates").symlink_to(ROOT / "templates")
    playbook = tmp_path / "host.yml"
    playbook.write_text(PLAYBOOK)
    given = inventory_of(
        tmp_path, {"here": {"folder": str(tmp_path), "shm_enabled": True, "ansible_env_path": os.environ["PATH"]}}
    )
    # As in a container, what is swapped to is the host's; its kernel is looked at all the same.
    own = json.dumps({"__swap_in_container": True, "__kernel_in_container": False})
    # One Python for all tasks instead of one for each.
    (tmp_path / "ansible.cfg").write_text(
        f"[defaults]\nstrategy = mitogen_linear\nstrategy_plugins = {ROOT}/molecule/strategy_plugins\n"
    )
    code, output = play(playbook, given, "-e", own, etc=etc)
    assert code == 0, output
    told = json.loads((tmp_path / "told.json").read_text())

    # Broken off after fstab was edited: what an undo needs was there already, and it put all of it back.
    assert "# off by omron-miner: /dev/vdb1 none swap" in told["half"]
    assert '"masked_units": [' in told["half"]
    assert told["undone"] == told["before"]

    # The whole run: the size of the memory limit's share and no other option of the visible mount, in fstab as well.
    assert "cloud-init wrote swap lines in /etc/fstab" in output
    size = 768 * 2**20
    assert f"tmpfs /dev/shm tmpfs noexec,size={size} 0 0\n" in told["first"]
    mount = next(line for line in told["first"].splitlines() if " /dev/shm " in line)
    assert " rw,nosuid,nodev,noexec" in mount
    assert f"rw,size={size // 1024}k,mode=1770" in mount
    # Somebody's vm.overcommit_memory stays.
    assert "vm.overcommit_memory is 1, which Redis and others require, and is not changed" in " ".join(output.split())
    assert not (tmp_path / "sysctl.log").exists()

    assert told["back"] == told["before"]
