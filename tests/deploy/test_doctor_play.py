"""playbooks/doctor.yml: each host's table is shown once; a red host fails the play unless the operator lets it pass."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from building import FAST_ANSIBLE, ROOT

RED = "status  check  live      wanted\nfail    swap   on: sda2  off\n                try: swapoff -a\n\nfail: 1 fail\n"
GREEN = "status  check  live  wanted\nok      swap   off   off\n\nok: 1 ok\n"

pytestmark = pytest.mark.slow


HOSTS: dict[str, dict[str, object]] = {
    "green": {"said": GREEN, "code": 0},
    "red": {"said": RED, "code": 1},
    "tolerated": {"said": RED, "code": 1, "omron_doctor_required": False},
    "broken": {"said": "Traceback", "code": 2, "omron_doctor_required": False},
    "bare": {},
}
"""What each host's miner says and ends with; the last has none."""


def play(tmp_path: Path, *arguments: str, **environment: str) -> tuple[int, str, dict[str, bool]]:
    """The play on this machine by several names: exit code, output, and which hosts failed."""
    for name, host in HOSTS.items():
        command = tmp_path / name / "opt/current/venv/bin/omron-miner"
        command.parent.mkdir(parents=True)
        if "said" in host:
            (tmp_path / name / "said").write_text(str(host["said"]))
            command.write_text(
                f'#!/bin/sh\ntest "$1 $2 $3" = "--config {tmp_path / name}/constants.toml doctor" || exit 9\n'
                f"cat {tmp_path / name}/said\nexit {host['code']}\n"
            )
            command.chmod(0o755)
    inventory = {
        name: {"omron_opt": str(tmp_path / name / "opt"), "omron_etc": str(tmp_path / name), **host}
        for name, host in HOSTS.items()
    }
    (tmp_path / "inventory.yml").write_text(json.dumps({"all": {"hosts": inventory}}))
    ansible: list[str | Path] = [Path(sys.executable).parent / "ansible-playbook", "-i", tmp_path / "inventory.yml"]
    for one in (f"ansible_python_interpreter={sys.executable}", "ansible_become=false", "omron_hosts=all"):
        ansible += ["-c", "local", "-e", one]
    done = subprocess.run(
        [*ansible, ROOT / "playbooks/doctor.yml", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **FAST_ANSIBLE, **environment, "ANSIBLE_NOCOLOR": "1"},
    )
    recap = done.stdout[done.stdout.index("PLAY RECAP") :]
    assert set(re.findall(r"changed=(\d+)", recap)) == {"0"}
    failed = {name: int(count) > 0 for name, count in re.findall(r"^(\w+) .* failed=(\d+)", recap, re.MULTILINE)}
    return done.returncode, done.stdout, failed


def test_tables_are_shown_and_a_host_fails_that_is_red_unless_the_operator_lets_it_pass(tmp_path: Path) -> None:
    code, output, failed = play(tmp_path)
    assert code != 0
    assert failed == {"green": False, "red": True, "tolerated": False, "broken": True, "bare": False}, output
    assert "\n        ok      swap   off   off\n" in output
    assert output.count("try: swapoff -a") == 2
    assert output.rindex("try: swapoff -a") < output.index("red failed checks: fail  swap  on: sda2  off.")
    assert "No miner is deployed on bare" in output


def test_in_a_dry_run_no_red_host_fails_and_where_results_are_json_the_table_is_a_list_of_lines(tmp_path: Path) -> None:
    code, output, failed = play(tmp_path, "--check", "--limit=!broken", ANSIBLE_CALLBACK_RESULT_FORMAT="json")
    assert (code, set(failed.values())) == (0, {False}), output
    assert '\n        "ok      swap   off   off",\n' in output
    assert "fail    swap   on: sda2  off" in output
    assert "No miner is deployed on bare" in output


def test_whatever_tags_are_given_the_hosts_are_examined(tmp_path: Path) -> None:
    code, output, failed = play(tmp_path, "--tags", "swap", "--limit=green,bare")
    assert (code, set(failed.values())) == (0, {False}), output
    assert "ok      swap   off   off" in output
    assert "No miner is deployed on bare" in output
