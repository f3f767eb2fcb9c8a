"""Removal restores what it can: of what is gone since, and of a role that fails, the other settings come back."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from building import ROOT
from test_plays import inventory_of, play

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making namespaces takes root"),
]


def test_a_unit_that_is_gone_and_a_role_that_fails_do_not_keep_others_from_being_restored(tmp_path: Path) -> None:
    records = tmp_path / "state/host-record"
    records.mkdir(parents=True)
    (records / "clock.json").write_text(json.dumps({"unit": "gone.service", "unit_state": "enabled", "packages": []}))
    for path, text in {
        "bin/systemctl": '#!/bin/sh\n[ "$1" = show ] && echo not-found || exit 5\n',
        "roles/broken/tasks/restore.yml": "- {name: Restore it, ansible.builtin.fail: {msg: it broke}}\n",
        "roles/last/tasks/restore.yml": f"- ansible.builtin.file: {{path: {tmp_path}/last, state: touch}}\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "bin/systemctl").chmod(0o755)
    for name in ("omron", "clock", "packages"):
        (tmp_path / "roles" / name).symlink_to(ROOT / "roles" / name)
    restore = {
        "ansible.builtin.include_tasks": str(ROOT / "playbooks/tasks/restore_role.yml"),
        "loop": ["broken", "clock", "last"],
        "loop_control": {"loop_var": "__remove_role"},
    }
    tell = {"ansible.builtin.debug": {"msg": "not restored: {{ __remove_errors | join('; ') }}."}}
    plays: list[dict[str, Any]] = [
        {
            "hosts": "miners",
            "gather_facts": False,
            "environment": {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
            "roles": ["omron"],
            "tasks": [restore, tell],
        }
    ]
    (tmp_path / "remove.yml").write_text(json.dumps(plays))
    code, output = play(tmp_path / "remove.yml", inventory_of(tmp_path, {"here": {}}))
    assert code == 0, output
    assert "not restored: broken (Restore it: it broke)." in output
    assert not (records / "clock.json").exists()
    assert (tmp_path / "last").exists()
