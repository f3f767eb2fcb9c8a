"""Whom a play is for: refused at once where Ansible is too old or no host is meant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from plugin_loading import load_plugin

ROOT = Path(__file__).parents[2]


PLUGIN = load_plugin("plugins/filter/omron_target.py")
omron_target, omron_asked = PLUGIN.omron_target, PLUGIN.omron_asked


@pytest.mark.parametrize("version", ["2.19.0", "2.19.14", "2.20.0b1", "2.100.1", "3.0"])
def test_a_play_is_for_the_hosts_that_its_pattern_matches(version: str) -> None:
    assert omron_target("miners:!a", ["b"], version=version) == ["b"]


@pytest.mark.parametrize("version", ["2.9.27", "2.17.0", "2.18.19"])
def test_an_old_ansible_is_refused(version: str) -> None:
    with pytest.raises(AnsibleFilterError, match=f"this is ansible-core {version}, at least 2.19 is needed"):
        omron_target("miners", ["a"], version=version)


def test_a_pattern_that_matches_no_host_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="put your hosts into a group miners"):
        omron_target("miners", [])
    assert omron_target("miners", [], may_be_empty=True) == "miners"


def test_a_play_begins_with_all_hosts_that_only_prove() -> None:
    assert omron_target("a,b", ["a", "b"], provers=["p", "b", "fd00::7"]) == ["a", "b", "p", "fd00::7"]


HOSTS: dict[str, dict[str, str]] = {
    "m1": {"miner_prover_engine": "dask"},
    "m2": {"miner_prover_engine": "dask"},
    "alone": {},
    "p1": {"omron_prover_of": "m1"},
    "p2": {"omron_prover_of": "m2"},
    "lost": {"omron_prover_of": "gone"},
    "any": {},
}
PROVERS = ["p1", "p2", "lost", "any"]


@pytest.mark.parametrize(
    ("matched", "miners", "asked"),
    [
        (["m1"], ["m1", "m2"], ["m1", "p1"]),
        (["m2"], ["m1", "m2"], ["m2", "p2"]),
        (["m2"], ["m2"], ["m2", "p2", "any"]),
        (["m1", "m2"], ["m1", "m2"], ["m1", "m2", "p1", "p2", "any"]),  # whose `any` is, preflight asks
        (["m1", "p2"], [], ["m1", "p2", "p1", "any"]),
        (["p2"], ["m1", "m2"], ["p2"]),
        (["alone"], ["alone"], ["alone"]),  # with a group of somebody else's that is called provers
        ([], ["m1"], []),
    ],
)
def test_of_the_hosts_that_only_prove_those_of_the_matched_miners_come_along(
    matched: list[str], miners: list[str], asked: list[str]
) -> None:
    assert omron_asked(matched, PROVERS, miners, HOSTS) == asked


def test_a_host_that_proves_for_a_miner_that_is_not_there_is_for_preflight_to_refuse() -> None:
    assert omron_asked(["m1"], ["lost"], [], HOSTS) == ["m1"]
    assert omron_asked(["m1"], ["lost"], [], HOSTS, with_lost=True) == ["m1", "lost"]


@pytest.mark.parametrize("file", sorted(ROOT.glob("playbooks/*.yml")), ids=lambda file: file.stem)
def test_every_play_is_for_hosts_that_were_asked_for(file: Path) -> None:
    """Of the first play the pattern that is checked, of others a group of those that were asked for."""
    entries = yaml.safe_load(file.read_text())
    plays = [play for play in entries if "hosts" in play]
    assert plays or file.stem == "site", "only site.yml consists of other playbooks alone"
    ours = re.compile(r"omron_(asked|ready|ready_miners)|\{\{ '(omron_(ready|deploy)_\w+)' if '\2' in groups else .*")
    groups = [ours.fullmatch(play["hosts"]) for play in plays]
    checked = [re.search(r"\b(__omron_target|omron_hosts \| omron_target)\b", play["hosts"]) for play in plays]
    assert all(one or other for one, other in zip(groups, checked, strict=True))
    if any(groups):
        first = entries[0]
        made_by = {"preflight.yml", "check_variables.yml"}
        assert first["ansible.builtin.import_playbook"] in made_by, "it makes the group"
