"""Keys that the miner role takes to a host: another one is another release, and next to the old one, vaulted or not."""

from __future__ import annotations

import getpass
import grp
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.constants import DEFAULT_VAULT_ID_MATCH
from ansible.parsing.vault import VaultLib, VaultSecret

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PLAY = """
- hosts: all
  gather_facts: false
  roles: [omron]
  tasks:
    - ansible.builtin.include_role: {name: miner, tasks_from: "{{ item }}.yml"}
      loop: [name_release, wallet, competition]
    - ansible.builtin.set_fact: {release: "{{ __miner_release }}"}
    - ansible.builtin.include_role: {name: miner, tasks_from: name_release.yml}
      vars: {omron_hotkey_file: "{{ other }}"}
    - ansible.builtin.assert: {that: release != __miner_release}
    - ansible.builtin.include_role: {name: miner, tasks_from: name_release.yml}
      vars: {omron_competition_credentials_file: "{{ other }}"}
    - ansible.builtin.assert: {that: release != __miner_release}
"""


def test_another_hotkey_is_another_release_with_a_folder_of_its_own(tmp_path: Path) -> None:
    vault = VaultLib([(DEFAULT_VAULT_ID_MATCH, VaultSecret(b"open"))])
    (tmp_path / "password").write_text("open")
    keys = {"one": b'{"secretSeed": "hush-1"}\n', "two": b'{"secretSeed": "hush-2"}'}
    (tmp_path / "other").write_bytes(b"{}")
    for name, key in keys.items():
        (tmp_path / name).write_bytes(vault.encrypt(key) if name == "two" else key)
    (tmp_path / "keys").write_bytes(vault.encrypt("[default]\naws_secret_access_key = hush-3\n"))
    stub = tmp_path / "omron-miner"
    stub.write_text("""#!/bin/sh\necho '{"ss58": "5x"}'\n""")
    stub.chmod(0o755)
    hosts: dict[str, dict[str, Any]] = {"first": {}, "vaulted": {"omron_hotkey_file": str(tmp_path / "two")}}
    for name, variables in hosts.items():
        for folder in ("state", "etc"):
            (tmp_path / name / folder).mkdir(parents=True)
        variables["omron_state"] = str(tmp_path / name / "state")
        variables["omron_etc"] = str(tmp_path / name / "etc")
    given = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "ansible_become": False,
        "omron_network": "test",
        "omron_hotkey_file": str(tmp_path / "one"),
        "other": str(tmp_path / "other"),
        "omron_user": getpass.getuser(),
        "omron_group": grp.getgrgid(os.getegid()).gr_name,
        "omron_competition_enabled": True,
        "omron_competition_credentials_file": str(tmp_path / "keys"),
    }
    (tmp_path / "inventory.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": given}}))
    (tmp_path / "play.yml").write_text(PLAY)
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    command = [program, "-i", str(tmp_path / "inventory.json"), str(tmp_path / "play.yml"), "--diff", "-v"]
    done = subprocess.run(
        [*command, "--vault-password-file", str(tmp_path / "password"), "-e", f"__miner_command={stub}"],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_ROLES_PATH": str(ROOT / "roles")},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "hush" not in said
    found = {}
    for name in hosts:
        [file] = (tmp_path / name / "state/wallets").glob("miner-*/hotkeys/default")
        # The folders are root's, and nobody else but the miner may enter them.
        assert [path.stat().st_mode & 0o777 for path in (file, *list(file.parents)[:3])] == [0o600, *[0o750] * 3]
        [credentials] = (tmp_path / name / "etc").glob("competition-credentials-*")
        assert credentials.read_text().endswith("= hush-3\n")
        found[name] = (file.read_bytes(), file.parents[1].name)
    assert [found[name][0] for name in hosts] == [keys["one"], keys["two"]]
    assert found["first"][1] != found["vaulted"][1]
