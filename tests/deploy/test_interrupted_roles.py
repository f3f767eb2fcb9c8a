"""Roles that tune a host, interrupted after each task that changes something: the next run ends in the wanted state.

In namespaces, with stand-ins for systemctl, sysctl and sysfs. An interruption is a run whose tasks are all skipped once
so many have changed something. What a run keeps in memory, such as whether a file was changed, is lost with it.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from namespaced_play import run_namespaced

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="making namespaces takes root: run bin/test with sudo"),
]

COUNTER = '''
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: counter
type: aggregate
short_description: writes down which tasks changed something
description: for tests
"""

class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "counter"

    def v2_runner_on_ok(self, result):
        if result._result.get("changed"):
            with open("changes", "a") as file:
                file.write(result._task.get_name() + "\\n")
'''

# Units are loaded when they are first asked for and when systemctl is told to, as systemd does.
SYSTEMCTL = """#!/bin/sh
cd {folder}
for one; do case $one in *.service) unit=$one;; esac; done
load() {{ test -e /etc/systemd/system/$unit && {{ test -e loaded/$unit || cp /etc/systemd/system/$unit loaded/; }}; }}
run() {{ sed -n "s/^$1=//p" loaded/$unit | sh -e; }}
stop() {{ test ! -e active/$unit || run ExecStop; rm -f active/$unit; }}
case "$*" in
    *daemon-reload*) rm -f loaded/*;;
    *show*) load && echo LoadState=loaded || echo LoadState=not-found
        echo ActiveState=$(test -e active/$unit && echo active || echo inactive);;
    *is-enabled*) test -e enabled/$unit || {{ echo disabled; exit 1; }}; echo enabled;;
    *restart*) load; stop; run ExecStart && touch active/$unit;;
    *start*) load; run ExecStart && touch active/$unit;;
    *stop*) load; stop;;
    *enable*) touch enabled/$unit;;
    *disable*) rm -f enabled/$unit;;
esac
"""
SYSCTL = """#!/bin/sh
for last; do :; done
case "$*" in
    *--write*|*-w*) echo "${{last#*=}}" >{folder}/sysctl/"${{last%%=*}}"; echo "$last";;
    *) cat {folder}/sysctl/"$last";;
esac
"""
TEE = """#!/bin/sh
value=$(cat)
sed -i "s/[][]//g; s/$value/[$value]/" "$1"
"""
SET_UP = """
export PATH=$PWD/bin:$PATH ANSIBLE_CALLBACK_PLUGINS=$PWD ANSIBLE_CALLBACKS_ENABLED=counter
mkdir -p loaded active enabled
mount -t tmpfs none /etc/systemd/system
mount -t tmpfs none /usr/local/sbin
"""


@dataclass(frozen=True)
class Scene:
    """A role, what it was run with before, and what it is run with now."""

    role: str
    before: dict[str, Any]
    after: dict[str, Any]
    state: str
    """Shell: prints what is wanted in the end."""
    wanted: str
    points: int
    """How many tasks change something on the way."""
    set_up: str = ""
    given: dict[str, Any] = field(default_factory=dict)
    tasks_from: str = "main"


CLOSED = "nft 'add table inet own; add chain inet own input { type filter hook input priority 0; policy drop; }'"
KERNEL_SET_UP = """
mkdir -p sysctl; echo 0 >sysctl/vm.overcommit_memory; echo 60 >sysctl/vm.swappiness; echo 'always [madvise] never' >thp
"""
KERNEL_STATE = "cat thp sysctl/vm.swappiness; ls thp.conf sysctl.conf 2>/dev/null | wc -l; grep -c swap sysctl.conf"
KERNEL_SET = {"kernel_sysctl": {"vm.swappiness": 10}, "kernel_transparent_hugepages": "always"}
SCENES = {
    "another port": Scene(
        "firewall",
        {"firewall_tcp_ports": [8091]},
        {"firewall_tcp_ports": [9000]},
        "nft list ruleset | grep -o 'dport [0-9]*'; grep -o 'open .*' loaded/omron-firewall.service",
        "dport 9000\nopen 9000/tcp\nopen 9000/tcp\n",
        2,
        CLOSED,
        {"__firewall_in_container": False},
    ),
    "another address": Scene(
        "fleet_firewall",
        {"fleet_firewall_tcp_ports": [8786], "fleet_firewall_addresses": ["10.9.0.2"]},
        {"fleet_firewall_tcp_ports": [8786], "fleet_firewall_addresses": ["10.9.0.3"]},
        "nft list ruleset | grep -o 'saddr .*'",
        "saddr 10.9.0.3 accept\n",
        2,
        "",
        {"__fleet_firewall_in_container": False, "__fleet_firewall_rules": "{{ playbook_dir }}/fleet.nft"},
    ),
    "another governor": Scene(
        "cpu_governor",
        {"cpu_governor_name": "performance"},
        {"cpu_governor_name": "schedutil"},
        "cat /sys/devices/system/cpu/cpufreq/policy0/scaling_governor",
        "schedutil\n",
        2,
        """
        mkdir -p cpu/cpufreq/policy0 cpu/cpu0/cpufreq; cp /sys/devices/system/cpu/online cpu/
        echo schedutil | tee cpu/cpu0/cpufreq/scaling_governor >cpu/cpufreq/policy0/scaling_governor
        echo performance schedutil >cpu/cpufreq/policy0/scaling_available_governors
        mount --bind cpu /sys/devices/system/cpu
        """,
        {"__cpu_governor_in_container": False, "cpu_governor_energy_preference": ""},
    ),
    "kernel left alone": Scene(
        "kernel",
        KERNEL_SET,
        {},
        KERNEL_STATE,
        "always [madvise] never\n60\n1\n0\n",
        4,
        KERNEL_SET_UP,
    ),
    "kernel given back": Scene(
        "kernel",
        KERNEL_SET,
        {},
        KERNEL_STATE,
        "always [madvise] never\n60\n0\n",
        4,
        KERNEL_SET_UP,
        tasks_from="restore",
    ),
}
KERNEL_GIVEN = {
    "__kernel_in_container": False,
    "__kernel_thp_setting": "{{ playbook_dir }}/thp",
    "__kernel_thp_file": "{{ playbook_dir }}/thp.conf",
    "__kernel_sysctl_file": "{{ playbook_dir }}/sysctl.conf",
}


def shell(name: str, command: str) -> dict[str, Any]:
    return {
        "name": name,
        "ansible.builtin.shell": {"cmd": command, "chdir": "{{ playbook_dir }}"},
        "changed_when": False,
    }


@pytest.mark.parametrize("name", SCENES)
def test_the_next_run_ends_in_the_wanted_state(name: str, tmp_path: Path) -> None:
    scene = SCENES[name]
    if "firewall" in scene.role and not shutil.which("nft"):
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("nftables is not installed; bin/test installs it")
    (tmp_path / "bin").mkdir()
    for program, text in (("systemctl", SYSTEMCTL), ("sysctl", SYSCTL), ("tee", TEE)):
        if program != "tee" or scene.role == "kernel":
            (tmp_path / "bin" / program).write_text(text.format(folder=tmp_path) if program != "tee" else text)
            (tmp_path / "bin" / program).chmod(0o755)
    (tmp_path / "counter.py").write_text(COUNTER)

    def role(values: dict[str, Any], tasks_from: str = scene.tasks_from) -> dict[str, Any]:
        return {"vars": values, "ansible.builtin.include_role": {"name": scene.role, "tasks_from": tasks_from}}

    is_going_on = "lookup('ansible.builtin.pipe', 'wc -l <' ~ playbook_dir ~ '/changes') | int < point"
    tasks = [
        role(scene.before, "main"),
        shell("Begin", ": >changes"),
        {"when": is_going_on, "block": [role(scene.after)]},
        shell("Look", "cat changes >interrupted-{{ point }}"),
        role(scene.after),
        shell("Look", f"({scene.state}) >state-{{{{ point }}}}; : >changes"),
    ]
    again = [role(scene.after), shell("Look", "cat changes >again")]
    (tmp_path / "scene.yml").write_text(yaml.safe_dump(tasks))
    points = range(1, scene.points + 1)
    each = {"ansible.builtin.include_tasks": "scene.yml", "loop": list(points), "loop_control": {"loop_var": "point"}}
    given = {key: value.replace("{{ playbook_dir }}", str(tmp_path)) if isinstance(value, str) else value
             for key, value in (KERNEL_GIVEN | scene.given).items()}  # fmt: skip
    output = run_namespaced(tmp_path, SET_UP + scene.set_up, [each, *again], given)
    for point in points:
        done = (tmp_path / f"interrupted-{point}").read_text()
        assert len(done.splitlines()) == point, output
        assert (tmp_path / f"state-{point}").read_text() == scene.wanted, done
    assert (tmp_path / "again").read_text() == "", output
