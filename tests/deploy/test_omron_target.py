"""Whom a play is for: refused at once where Ansible is too old or no host is meant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from plugin_loading import load_plugin

ROOT = Path(__file__).parents[2]


omron_target = load_plugin("plugins/filter/omron_target.py").omron_target


@pytest.mark.parametrize("version", ["2.19.0", "2.19.14", "2.20.0b1", "2.100.1", "3.0"])
def test_a_pattern_that_matches_is_taken_as_it_is(version: str) -> None:
    assert omron_target("miners:!a", ["b"], version=version) == "miners:!a"


@pytest.mark.parametrize("version", ["2.9.27", "2.17.0", "2.18.19"])
def test_an_old_ansible_is_refused(version: str) -> None:
    with pytest.raises(AnsibleFilterError, match=f"this is ansible-core {version}, at least 2.19 is needed"):
        omron_target("miners", ["a"], version=version)


def test_a_pattern_that_matches_no_host_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="put your hosts into a group miners"):
        omron_target("miners", [])
    assert omron_target("miners", [], may_be_empty=True) == "miners"


def test_the_hosts_that_only_prove_come_along() -> None:
    assert omron_target("miners", ["a", "b"], provers=["p", "b"]) == "miners:p"


@pytest.mark.parametrize("file", sorted(ROOT.glob("playbooks/*.yml")), ids=lambda file: file.stem)
def test_every_play_is_for_hosts_that_were_asked_for(file: Path) -> None:
    """The pattern that is checked, or a group that preflight makes of the hosts that will do."""
    plays = [play for play in yaml.safe_load(file.read_text()) if "hosts" in play]
    assert plays or file.stem == "site", "only site.yml consists of other playbooks alone"
    ready = [re.fullmatch(r"omron_ready(_miners)?|.*'omron_ready_provers'.*", play["hosts"]) for play in plays]
    asked = ["omron_hosts | omron_target(" in play["hosts"] for play in plays]
    assert all(one or other for one, other in zip(ready, asked, strict=True))
    if any(ready) and file.stem != "left_out":
        first = yaml.safe_load(file.read_text())[0]
        assert first["ansible.builtin.import_playbook"] == "preflight.yml", "it makes the group"
