"""The repository as a collection: what is packed, and that its plays run from where it was installed alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SHIPPED = {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "NOTICE.md", "README.md", "SECURITY.md", "ansible.cfg", "docs",
           "files", "inventory.example", "meta", "playbooks", "plugins", "requirements.yml",
           "roles", "site.yml", "templates"}  # fmt: skip
OPERATORS = ("inventory", "inventory.yml", "fleet.inventory", "group_vars/miners.yml", "host_vars/one.yml",
             "report/report.txt", ".cache/x", "circuits/model_0/pk.key", "wallets/hotkey", "hotkeys/host-1", "keys/r2",
             "vault-password", "hosts.yml", "hosts.ini", "mine.onnx", "kzg21.srs", "backup.tar.gz",
             "tls.pem")  # fmt: skip


def test_its_version_is_the_packages() -> None:
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    assert f'version = "{galaxy["version"]}"' in (ROOT / "files/miner/pyproject.toml").read_text()


def test_what_is_installed_beside_a_clone_is_what_the_collection_depends_on_and_all_that_is_used() -> None:
    wanted = yaml.safe_load((ROOT / "galaxy.yml").read_text())["dependencies"]
    listed = yaml.safe_load((ROOT / "requirements.yml").read_text())["collections"]
    assert {one["name"]: one["version"] for one in listed} == wanted
    tasks = "\n".join(path.read_text() for name in ("roles", "playbooks") for path in (ROOT / name).glob("**/*.yml"))
    used = set(re.findall(r"^ +(?:- )?((?!ansible\.builtin|omron\.)[a-z]+\.[a-z]+)\.[a-z_]+:$", tasks, re.MULTILINE))
    assert used == set(wanted)


@pytest.mark.slow
def test_it_holds_what_operators_run_and_runs_from_an_empty_path(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    large = shutil.ignore_patterns(".git", ".venv", ".cache", ".*_cache", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, clone, symlinks=True, ignore=large)
    for name in OPERATORS:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text("secret")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment |= {"ANSIBLE_COLLECTIONS_PATH": str(tmp_path), "ANSIBLE_NOCOLOR": "1", "HOME": str(tmp_path)}

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    galaxy = (BIN / "ansible-galaxy", "collection")
    assert run(*galaxy, "build", clone).returncode == 0
    [packed] = tmp_path.glob("omron-miner-*.tar.gz")
    with tarfile.open(packed) as archive:
        files = {one.name for one in archive.getmembers() if not one.isdir()}
    assert {name.partition("/")[0] for name in files} == SHIPPED | {"MANIFEST.json", "FILES.json"}
    wanted = {str(path.relative_to(clone)) for name in SHIPPED for path in [clone / name, *(clone / name).rglob("*")]
              if path.is_symlink() or path.is_file()}  # fmt: skip
    assert files - {"MANIFEST.json", "FILES.json"} == wanted

    installed = run(*galaxy, "install", "--no-deps", "--offline", "-p", tmp_path, packed)
    assert installed.returncode == 0, installed.stderr
    shutil.rmtree(clone)
    host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
    host |= {"ansible_become_method": "su"}  # sudo is not installed on every machine that runs tests
    hosts = {"miners": {"hosts": {"here": {**host, "omron_axn_port": 9000}}}}
    (tmp_path / "hosts.json").write_text(json.dumps(hosts))
    done = run(BIN / "ansible-playbook", "omron.miner.site", "-i", "hosts.json")
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0
    assert "here: omron_axn_port is not a known variable: write omron_axon_port" in said, said
    assert "TASK [omron.miner.preflight : Evaluate all hosts together]" in said, "the collection's own role"
    misspelt = ("-e", "confirm=yes", "-e", "omron_host=x")
    done = run(BIN / "ansible-playbook", "omron.miner.remove", "-i", "hosts.json", *misspelt)
    said = " ".join((done.stdout + done.stderr).split())
    assert "1. here: omron_axn_port is not a known variable" in said, said
    assert "2. here: omron_host is not a known variable: write omron_hosts" in said
    done = run(BIN / "ansible-playbook", "omron.miner.preflight", "-i", "hosts.json", "-e", "omron_skip_bad_hosts=true")
    assert "Skipped and left unchanged: here" in " ".join((done.stdout + done.stderr).split())
