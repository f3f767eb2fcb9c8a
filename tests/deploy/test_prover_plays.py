"""Hosts that only prove: who is deployed when, with what, and the certificates between them and their miner."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from building import FAST_ANSIBLE
from omron_miner.provers.certificates import read_certificates
from test_plays import TUNING, UNREACHABLE, play, recap, rollout

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("ansible-playbook")
HERE = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
HERE |= {"ansible_become_method": "su"}  # sudo is not installed on every machine that runs tests

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="making namespaces and files of root's takes root"),
]


def fleet_of(folder: Path, miners: dict[str, Any], provers: dict[str, Any], **variables: Any) -> Path:
    """An inventory of miners with prover hosts, all of them this machine."""
    shared = HERE | {f"omron_{name}": str(folder / name) for name in ("etc", "opt", "state", "log")}
    shared |= {"preflight_minimum_disk_mb": 1, "shm_enabled": False, "miner_prover_engine": "dask", **variables}
    path = folder / "inventory.yml"
    groups = {"miners": {"hosts": miners}, "provers": {"hosts": provers}}
    path.write_text(json.dumps({"all": {"vars": shared, "children": groups}}))
    return path


def test_preflight_refuses_prover_hosts_that_do_not_fit(tmp_path: Path) -> None:
    miners = {"one": {"ansible_host": "10.0.0.1"}, "both": {"ansible_host": "10.0.0.2"}}
    provers = {"both": {}, "lost": {"ansible_host": "prover.example", "omron_prover_of": "two"}}
    code, output = play(ROOT / "playbooks/preflight.yml", fleet_of(tmp_path, miners, provers))
    said = " ".join(output.split())
    assert code != 0
    assert "both: it is in the groups of miners and of prover hosts" in said
    assert "lost: it has no address for its miner and prover hosts" in said
    assert "lost: omron_prover_of two is not a miner in this inventory: name one of" in said


def test_prover_hosts_follow_their_miners_in_batches_and_run_what_those_run(tmp_path: Path) -> None:
    playbook = rollout(tmp_path)
    imports = [{"ansible.builtin.import_playbook": f"{playbook.parent}/{name}.yml"} for name in ("miner", "provers")]
    (tmp_path / "deploy.yml").write_text(json.dumps(imports))
    values = ["inventory_hostname", "miner_provers_miner", "miner_provers_bind_ip", "miner_provers_scheduler_host"]
    said = " ".join(f"{{{{ {name} }}}}" for name in (*values, "omron_network"))
    (tmp_path / "roles/miner/tasks/main.yml").write_text(f'- ansible.builtin.debug: {{msg: "is {said}."}}\n')
    miners: dict[str, Any] = {
        "m1": {"ansible_host": "10.0.0.1", "omron_network": "test"},
        "m2": {"ansible_host": "m2.example", "omron_prover_address": "10.0.0.2"},
    }
    provers = {f"p{number}": {"ansible_host": f"10.0.1.{number}", "omron_prover_of": "m1"} for number in (1, 2, 3)}
    provers["p3"]["omron_prover_of"] = "m2"
    given = fleet_of(tmp_path, miners, provers, preflight_enabled=False, omron_serial=[1, 2])
    code, output = play(tmp_path / "deploy.yml", given, "--skip-tags", "doctor")
    assert code == 0, output
    plays = re.findall(r"^PLAY \[(Deploy .*)\]", output, re.MULTILINE)
    assert plays == ["Deploy the miner"] * 2 + ["Deploy the prover hosts"] * 2
    assert sorted(re.findall(r'"is (.*)\."', output)) == [
        "m1  10.0.0.1 10.0.0.1 test",
        "m2  10.0.0.2 10.0.0.2 local",
        "p1 m1 10.0.1.1 10.0.0.1 test",
        "p2 m1 10.0.1.2 10.0.0.1 test",
        "p3 m2 10.0.1.3 10.0.0.2 local",
    ], output


def test_a_prover_host_is_deployed_to_if_its_miner_was_whatever_happened_to_others(tmp_path: Path) -> None:
    playbook = rollout(tmp_path)
    (playbook.parent / "host.yml").write_text(f"- ansible.builtin.import_playbook: preflight.yml{TUNING}")
    names = ("host", "miner", "provers")
    imports = [{"ansible.builtin.import_playbook": f"{playbook.parent}/{name}.yml"} for name in names]
    (tmp_path / "deploy.yml").write_text(json.dumps(imports))
    miners: dict[str, Any] = {"m0": {}, "m1": {}, "m2": {"gate": "false"}, "m3": {}, "m4": {}}
    provers = {f"p{number}": {"omron_prover_of": f"m{number}"} for number in range(5)}
    provers |= {f"q{number}": {"omron_prover_of": f"m{number}"} for number in (3, 4)}
    provers["p1"]["tuned"] = provers["p3"]["gate"] = "false"
    hosts = {name: {"ansible_host": f"10.0.0.{at}"} for at, name in enumerate((*miners, *provers), 1)}
    addressed = [{name: one | hosts[name] for name, one in group.items()} for group in (miners, provers)]
    addressed[0]["m0"] |= {**UNREACHABLE, "preflight_enabled": True}
    given = fleet_of(tmp_path, addressed[0], addressed[1], preflight_enabled=False, omron_serial=[1, 3])
    arguments = ["--skip-tags", "doctor", "-e", "omron_skip_bad_hosts=true"]
    code, output = play(tmp_path / "deploy.yml", given, *arguments)
    said = " ".join(output.split())
    assert code != 0
    deployed = sorted(path.suffix for path in tmp_path.glob("state.*"))
    assert deployed == [".m1", ".m2", ".m3", ".m4", ".p3", ".p4", ".q4"], output
    for prover, miner in (("p0", "m0"), ("p2", "m2")):
        assert f"{prover} was not changed because its miner {miner} failed or was skipped" in said
    assert "q3 was not changed because p3 of the same miner failed" in said
    assert "p3 failed. Ask it: " in said


def certificates(folder: Path, ok: bool = True) -> Any:
    """Runs the role's certificates for a miner and its prover host; the recap of both, or what was said."""
    for place in ("venv", "opt/current/venv"):
        python = folder / place / "bin/python"
        if not python.exists():
            python.parent.mkdir(parents=True)
            python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
            python.chmod(0o755)
            (folder / place / ".complete").touch()
    tasks = [
        {
            "ansible.builtin.include_role": {"name": "miner", "tasks_from": "certificates.yml"},
            "vars": {
                "__miner_venv": str(folder / "venv"),
                "__miner_fleet": str(folder) + "/{{ inventory_hostname }}",
                "miner_provers_miner": "{{ '' if inventory_hostname == 'm' else 'm' }}",
            },
        }
    ]
    plays = [{"hosts": name, "gather_facts": False, "tasks": tasks} for name in ("m", "p")]
    (folder / "play.yml").write_text(json.dumps(plays))
    shared = HERE | {"omron_etc": str(folder / "etc"), "omron_opt": str(folder / "opt")}
    shared |= {"omron_user": "root", "omron_group": "root"}
    (folder / "etc").mkdir(exist_ok=True)
    (folder / "inventory.yml").write_text(json.dumps({"all": {"vars": shared, "hosts": {"m": {}, "p": {}}}}))
    done = subprocess.run(
        [PROGRAM, "-i", "inventory.yml", "play.yml", "--diff", "-v"],
        cwd=folder,
        env={**os.environ, **FAST_ANSIBLE, "ANSIBLE_ROLES_PATH": str(ROOT / "roles"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        umask=0o077,
    )
    assert (done.returncode == 0) is ok, done.stdout + done.stderr
    assert "PRIVATE KEY" not in done.stdout + done.stderr
    return recap(done.stdout) if ok else " ".join(done.stdout.split())


def ends_soon(folder: Path) -> None:
    """Has the prover host's certificate end in ten days."""
    key = serialization.load_pem_private_key((folder / "etc/provers-ca/key.pem").read_bytes(), None)
    old = x509.load_pem_x509_certificate((folder / "p/cert.pem").read_bytes())
    ca = x509.load_pem_x509_certificate((folder / "p/ca.pem").read_bytes())
    builder = x509.CertificateBuilder(ca.subject, old.subject, old.public_key(), 7)
    builder = builder.not_valid_before(old.not_valid_before_utc)
    builder = builder.not_valid_after(datetime.now(timezone.utc) + timedelta(days=10))
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    signed = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]  # of the kind that the role makes
    (folder / "p/cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))


def test_a_miner_and_its_prover_host_have_certificates_of_one_ca_which_are_renewed(tmp_path: Path) -> None:
    def left() -> dict[str, int]:
        now = datetime.now(timezone.utc)
        return {name: (read_certificates(tmp_path / name).ends - now).days for name in ("m", "p")}

    certificates(tmp_path)
    assert all(728 <= days <= 730 for days in left().values())
    assert (tmp_path / "m/ca.pem").read_bytes() == (tmp_path / "p/ca.pem").read_bytes()
    keys = [*tmp_path.glob("?/key.pem"), tmp_path / "etc/provers-ca/key.pem"]
    assert len({path.read_bytes() for path in keys}) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    assert {name: one["changed"] for name, one in certificates(tmp_path).items()} == {"m": 0, "p": 0}
    ends_soon(tmp_path)
    assert left()["p"] < 11
    changed = {name: one["changed"] for name, one in certificates(tmp_path).items()}
    assert (changed["m"], changed["p"] > 0, left()["p"] > 700) == (0, True, True)
    shutil.rmtree(tmp_path / "etc/provers-ca")
    rollout, ours = tmp_path / "opt/rollout.json", (tmp_path / "p/ca.pem").read_bytes()
    started_with = {"ca.pem": hashlib.sha256((tmp_path / "m/ca.pem").read_bytes()).hexdigest()}
    rollout.write_text(json.dumps({"passed": "r1", "switching": False, "certificates": started_with}))
    said = certificates(tmp_path, ok=False)
    assert "m has a new CA for its prover hosts but still runs with the old one: deploy it first" in said
    assert (tmp_path / "p/ca.pem").read_bytes() == ours, "which the scheduler that runs accepts"
    started_with = {"ca.pem": hashlib.sha256((tmp_path / "m/ca.pem").read_bytes()).hexdigest()}
    rollout.write_text(json.dumps({"passed": "r1", "switching": False, "certificates": started_with}))
    certificates(tmp_path)
    assert left().keys() == {"m", "p"}, "both are of the new CA"
    assert (tmp_path / "m/ca.pem").read_bytes() == (tmp_path / "etc/provers-ca/ca.pem").read_bytes()
