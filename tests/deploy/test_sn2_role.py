"""Upstream's miner in the switch to a release: probed, taken back, and left alone when nothing changed.

The role's own tasks against this machine under some names, as in test_switch.py, with a stand-in for the probe. With a
real QUIC handshake and a real pm2 the molecule scenario goes through the same.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from test_switch import Fleet, is_on, port, program  # noqa: F401  # port is a fixture

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="making namespaces takes root"),
]

PROBED = """#!/bin/sh
cd {folder}
case "$*" in *"hotkey show"*) echo '{{"ss58": "5F"}}'; exit 0;; esac
test "$*" = "live probe 127.0.0.1:8091 --hotkey 5F --json" || exit 2
verdict=$(cat verdict 2>/dev/null || echo alive)
test "$(cat running)" = new || verdict=closed
echo "{{\\"verdict\\": \\"$verdict\\", \\"meaning\\": \\"it is $verdict\\"}}"
test "$verdict" = alive
"""


def test_a_release_of_upstreams_is_probed_and_not_restarted_for_a_probe_that_fails(
    tmp_path: Path,
    port: int,  # noqa: F811
) -> None:
    fleet = Fleet(tmp_path, ["good", "broken", "enforcing", "gone"], port)
    for folder in fleet.folders.values():
        new = folder / "opt/releases/new"
        (new / "etc/sn2.json").write_text('{"tag": "v1", "port": 8091, "start_timeout_seconds": 1}')
        (new / "etc/circuits.json").write_text('{"circuits": []}')
        program(new / "venv/bin/omron-miner", PROBED.format(folder=folder))
    # Two of them run it already: silence may be its allowlist, and even a closed port is no reason for a restart.
    for name, verdict in {"broken": "wrong_hotkey", "enforcing": "silent", "gone": "closed"}.items():
        (fleet.folders[name] / "verdict").write_text(verdict)
    for folder in (fleet.folders["enforcing"], fleet.folders["gone"]):
        (folder / "opt/current").unlink()
        (folder / "opt/current").symlink_to(folder / "opt/releases/new")
        (folder / "opt/previous").symlink_to(folder / "opt/releases/old")
        (folder / "opt/rollout.json").write_text('{"passed": "new", "switching": false}')
        (folder / "running").write_text("new")
    code, said = fleet.run("deploy", "new", __sn2_miner_try_seconds=1)
    assert code != 0
    assert "alive: it is alive" in said
    assert said.count("each failure counts twice") == 1, "on the way back from the broken one alone"
    states = fleet.states()
    assert states.pop("broken") == is_on("old", None)
    on_new = {"current": "new", "running": "new", "previous": "old", "rollout": {"passed": "new", "switching": False}}
    assert [{name: state[name] for name in on_new} for state in states.values()] == [on_new] * 3, said
    assert re.search(r"enforcing : ok=\d+ changed=0 unreachable=0 failed=0", said), said
    assert "expected if its allowlist is active" in said
    assert re.search(r"gone : ok=\d+ changed=0 unreachable=0 failed=1", said), said
    assert "It passed before this play and was not changed. The miner's log ends with" in said


def described(**given: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What pm2 is given, and what is written down of the release, as Ansible would render the role's variables."""
    values: dict[str, Any] = {}
    for role in ("omron", "sn2_miner"):
        values |= yaml.safe_load((ROOT / f"roles/{role}/defaults/main.yml").read_text())
    values |= {"role_path": str(ROOT / "roles/sn2_miner"), "omron_engine": "sn2", "sn2_miner_release": "v14.7.5"}
    values |= {"__sn2_miner_wallet_name": "miner-0123456789ab", "__sn2_miner_wallet_hotkey": "default", **given}
    values |= {"ansible_connection": "local"}
    told = "{'apps': __sn2_miner_ecosystem, 'facts': __sn2_miner_facts | to_json}"
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars_files": [str(ROOT / "roles/sn2_miner/vars/main.yml")],
        "vars": values,
        "tasks": [
            {"ansible.builtin.import_tasks": str(ROOT / "roles/sn2_miner/tasks/describe.yml")},
            {"ansible.builtin.debug": {"msg": f"BEGIN{{{{ {told} | to_json | b64encode }}}}END"}},
        ],
    }
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", "/dev/stdin"],
        input=yaml.safe_dump([play]),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [encoded] = re.findall("BEGIN([A-Za-z0-9+/=]+)END", done.stdout)
    found = {name: json.loads(text) for name, text in json.loads(base64.b64decode(encoded)).items()}
    [app] = found["apps"]["apps"]
    assert "11" * 32 not in done.stdout + json.dumps(found)
    return app, found["facts"]


def test_on_a_real_network_it_is_started_for_that_network_and_never_with_its_own_updater(tmp_path: Path) -> None:
    hotkey = tmp_path / "hotkey"
    hotkey.write_text(json.dumps({"ss58Address": "5F", "secretSeed": "0x" + "11" * 32}))
    app, facts = described(
        omron_hotkey_file=str(hotkey),
        omron_network="test",
        omron_netuid=118,
        omron_external_ip="8.8.8.8",
        sn2_miner_threads=4,
        sn2_miner_purge_delay_ms=0,
        sn2_miner_extra_arguments=["--metagraph-sync-interval", "300"],
    )
    arguments = " ".join(app["args"])
    assert app["name"] == "sn2-miner"
    assert app["args"][0] == "--no-auto-update"
    assert "--network test --netuid 118 --external-ip 8.8.8.8 --metagraph-sync-interval 300" in arguments
    assert "--wallet-path /var/lib/omron-miner/wallets --wallet-name miner-0123456789ab" in arguments
    assert not {"--loopback", "--axon-host", "--disable-blacklist"} & set(app["args"])
    assert app["env"] == {"RAYON_NUM_THREADS": "4", "MIMALLOC_PURGE_DELAY": "0"}
    assert app["out_file"] == app["error_file"] == "/var/log/omron-miner/sn2-miner.log"
    assert facts == {
        "tag": "v14.7.5",
        "port": 8091,
        "start_timeout_seconds": 600,
        "program": "/opt/omron-miner/current/sn2-miner/sn2-miner",
        "circuit_cache": "/var/lib/omron-miner/.bittensor/subnet-2/circuit_cache",
        "log_file": "/var/log/omron-miner/sn2-miner.log",
        "external_ip": "8.8.8.8",
        "circuits_url": "",
        "hotkey": "5F",
    }
    app, facts = described(omron_external_ip="8.8.8.8")
    assert (app["env"], facts["external_ip"], facts["hotkey"]) == ({}, "", "")
