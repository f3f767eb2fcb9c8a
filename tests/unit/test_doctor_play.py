"""playbooks/doctor.yml: each host's table is shown once; a red host fails the play unless the operator lets it pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RED = "status  check  live      wanted\nfail    swap   on: sda2  off\n                try: swapoff -a\n\nfail: 1 fail\n"
GREEN = "status  check  live  wanted\nok      swap   off   off\n\nok: 1 ok\n"

pytestmark = pytest.mark.slow


def play(tmp_path: Path, said: str | None, code: int = 0, *arguments: str, **environment: str) -> tuple[int, str]:
    """The play on this machine, whose miner says `said` and ends with `code`; no miner for None."""
    command = tmp_path / "opt/current/venv/bin/omron-miner"
    if said is not None:
        command.parent.mkdir(parents=True)
        (tmp_path / "said").write_text(said)
        command.write_text(f'#!/bin/sh\ntest "$1 $2 $3" = "--config {tmp_path}/constants.toml doctor" || exit 9\n'
                           f"cat {tmp_path}/said\nexit {code}\n")  # fmt: skip
        command.chmod(0o755)
    given = [f"omron_opt={tmp_path}/opt", f"omron_etc={tmp_path}", f"ansible_python_interpreter={sys.executable}"]
    ansible: list[str | Path] = [Path(sys.executable).parent / "ansible-playbook", "-i", "localhost,", "-c", "local"]
    for one in (*given, "ansible_become=false"):
        ansible += ["-e", one]
    done = subprocess.run(
        [*ansible, ROOT / "playbooks/doctor.yml", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment, "ANSIBLE_NOCOLOR": "1"},
    )
    return done.returncode, done.stdout


def test_a_green_host_passes_and_its_table_is_shown_line_by_line(tmp_path: Path) -> None:
    code, output = play(tmp_path, GREEN)
    assert code == 0, output
    assert "\n        ok      swap   off   off\n" in output
    assert "changed=0" in output


def test_where_results_are_json_the_table_is_a_list_of_lines(tmp_path: Path) -> None:
    code, output = play(tmp_path, GREEN, 0, ANSIBLE_CALLBACK_RESULT_FORMAT="json")
    assert code == 0, output
    assert '\n        "ok      swap   off   off",\n' in output


def test_a_red_host_fails_the_play_after_its_table_was_shown(tmp_path: Path) -> None:
    code, output = play(tmp_path, RED, 1)
    assert code != 0
    assert output.index("try: swapoff -a") < output.index("localhost needs mending: fail  swap  on: sda2  off.")


@pytest.mark.parametrize("arguments", [("-e", "omron_doctor_required=false"), ("--check",)])
def test_a_red_host_passes_where_the_operator_says_so_and_in_a_dry_run(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    code, output = play(tmp_path, RED, 1, *arguments)
    assert code == 0, output
    assert "fail    swap   on: sda2  off" in output


def test_a_doctor_that_breaks_fails_the_play_even_where_red_passes(tmp_path: Path) -> None:
    code, _ = play(tmp_path, "Traceback", 2, "-e", "omron_doctor_required=false")
    assert code != 0


@pytest.mark.parametrize("arguments", [(), ("--check",), ("--tags", "swap")])
def test_a_host_without_a_miner_is_passed_over_with_a_word(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code, output = play(tmp_path, None, 0, *arguments)
    assert code == 0, output
    assert "No miner is on localhost yet" in output
