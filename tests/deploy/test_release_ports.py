"""The ports of a host's releases stay open: those in use until the rollout, and those that it may go back to."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import tomllib
import yaml

from namespaced_play import ROOT, run_namespaced_plays
from plugin_loading import load_plugin
from test_constants_template import render

if TYPE_CHECKING:
    from pathlib import Path

PLUGIN = load_plugin("plugins/modules/omron_release_ports.py")


def keep(opt: Path, name: str, sn2: dict[str, Any] | None = None, **given: Any) -> Path:
    """A release whose constants.toml the play rendered."""
    etc = opt / "releases" / name / "etc"
    etc.mkdir(parents=True)
    given = {"miner_provers_bind_ip": "10.0.0.1", "miner_provers_miner": "", "miner_provers_name": "", **given}
    (etc / "constants.toml").write_text(render(miner_provers_scheduler_host="10.0.0.1", **given))
    if sn2:
        (etc / "sn2.json").write_text(json.dumps(sn2))
    return etc


def test_a_rendered_file_is_read_as_toml(tmp_path: Path) -> None:
    text = (keep(tmp_path, "one") / "constants.toml").read_text()
    assert PLUGIN.constants_of(text) == tomllib.loads(text)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"tcp": [8091], "udp": [], "fleet": []}),
        ({"miner_axon_bind_ip": "127.0.0.1"}, {"tcp": [], "udp": [], "fleet": []}),
        ({"sn2": {"port": 9000}, "omron_network": "finney"}, {"tcp": [], "udp": [9000], "fleet": []}),
        ({"sn2": {"port": 9000}}, {"tcp": [], "udp": [], "fleet": []}),  # on loopback
        ({"miner_prover_engine": "dask"}, {"tcp": [8091, 8786], "udp": [], "fleet": [8786]}),
        (
            {"miner_prover_engine": "dask", "miner_provers_bind_ip": "127.0.0.1"},
            {"tcp": [8091], "udp": [], "fleet": []},
        ),
        ({"miner_provers_miner": "one"}, {"tcp": [8785], "udp": [], "fleet": [8785]}),
    ],
)
def test_the_ports_of_a_release(tmp_path: Path, given: dict[str, Any], expected: dict[str, list[int]]) -> None:
    keep(tmp_path, "one", **given)
    (tmp_path / "releases/broken/etc").mkdir(parents=True)
    (tmp_path / "releases/strange/etc").mkdir(parents=True)
    (tmp_path / "releases/strange/etc/constants.toml").write_bytes(b"[axon]\nport = \xff\n")
    assert PLUGIN.kept_ports(tmp_path) == expected


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="making namespaces takes root: run bin/test with sudo")
def test_a_port_is_closed_when_no_release_that_is_kept_uses_it(tmp_path: Path) -> None:
    """The play that prepares all hosts at once, with ufw."""
    if not shutil.which("ufw"):
        pytest.skip("ufw is not installed; it is not put on a machine for a test, because it begins to filter at once")
    [_, play] = yaml.safe_load((ROOT / "playbooks/host.yml").read_text())
    roles = [role for role in play["roles"] if role["role"] in ("omron", "firewall", "fleet_firewall")]
    play |= {"roles": roles, "gather_subset": ["!all", "!min", "virtual"], "become": False, "connection": "local"}
    opt = tmp_path / "opt"
    keep(opt, "one")

    def at(port: int, name: str, before: str = "true") -> dict[str, Any]:
        look = {"ansible.builtin.shell": f"ufw show added > {tmp_path}/{name}; {before}", "changed_when": False}
        return {**play, "hosts": "localhost", "vars": {**play["vars"], "omron_axon_port": port}, "post_tasks": [look]}

    plays = [at(8091, "first"), at(9000, "changed"), at(9000, "again", f"rm -r {opt}/releases/one"), at(9000, "gone")]
    start = """
    cp --archive /etc/ufw etc; cp /etc/default/ufw default
    mount --bind etc /etc/ufw; mount --bind default /etc/default/ufw
    ufw --force enable
    """
    output = run_namespaced_plays(tmp_path, start, plays, {"omron_opt": str(opt)})
    opened = {
        name: [port for port in ("8091/tcp", "9000/tcp") if port in (tmp_path / name).read_text()]
        for name in ("first", "changed", "again", "gone")
    }
    both = ["8091/tcp", "9000/tcp"]
    assert opened == {"first": ["8091/tcp"], "changed": both, "again": both, "gone": ["9000/tcp"]}, output
