"""The hosts of a play, after a check that Ansible is new enough and that the pattern matches.

A filter, because a play's hosts are the first thing that is evaluated of it, before anything is connected to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible import context
from ansible.errors import AnsibleError, AnsibleFilterError
from ansible.release import __version__
from ansible.utils.display import Display

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OLDEST_ANSIBLE = (2, 19)
"""Older versions might evaluate data from a host as a template."""


def omron_target(
    pattern: Any, matched: list[str], may_be_empty: bool = False, version: str = __version__, provers: Any = None
) -> str | list[str]:
    """The hosts that `pattern` `matched`, extended by the other hosts of the group `provers`.

    As names, because a pattern (commas, exclusions, regular expressions) would apply to the provers as well. `pattern`
    itself if it matches no host. Whose provers they are is not known yet: no host's variables are available before the
    first play has its hosts. `omron_asked` then selects those that a play is for.
    Raises AnsibleFilterError for no host, unless it `may_be_empty`, and for an old Ansible.
    """
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_ANSIBLE:
        wanted = ".".join(map(str, OLDEST_ANSIBLE))
        raise AnsibleFilterError(
            f"this is ansible-core {version}, at least {wanted} is needed: run bin/up -i INVENTORY, which installs it "
            "in .venv, or install a newer ansible-core"
        )
    if not matched and not may_be_empty and not context.CLIARGS.get("syntax"):  # whose inventory may be made later
        raise AnsibleFilterError(
            f"omron_hosts {pattern!r} matches no host of the inventory: put your hosts into a group miners, as in "
            "inventory.example, or select others with -e omron_hosts=PATTERN"
        )
    if not matched:
        return str(pattern)
    return [*matched, *(name for name in provers or [] if name not in matched)]


def omron_asked(
    matched: list[str],
    provers: Iterable[str],
    miners: Iterable[str],
    hosts: Mapping[str, Any],
    with_lost: bool = False,
) -> list[str]:
    """The hosts that a play runs on: those `matched` by omron_hosts, and those of `provers` that prove for one of them.

    A prover without omron_prover_of proves for the only miner that uses prover hosts. `miners` are the hosts of the
    inventory's group of that name, `hosts` the variables of all hosts. `with_lost` adds provers whose miner is not in
    the inventory, so that preflight refuses them.
    """
    named = {name: _value(hosts, name, "omron_prover_of") for name in provers if name not in matched}
    takes = set()
    if not all(named.values()):
        takes = {name for name in {*matched, *miners} if _value(hosts, name, "miner_prover_engine") == "dask"}
    any_would_do = bool(takes) and takes <= set(matched)
    own = [
        name
        for name, miner in named.items()
        if (miner in matched or (with_lost and miner not in hosts) if miner else any_would_do)
    ]
    if foreign := [name for name, miner in named.items() if not miner and not any_would_do]:
        Display().warning(
            f"Skipping the prover hosts {', '.join(foreign)}: omron_prover_of is empty, and omron_hosts does not "
            "select the only miner that uses prover hosts (miner_prover_engine: dask)"
        )
    return [*matched, *own]


def _value(hosts: Mapping[str, Any], name: str, variable: str) -> str:
    try:
        return str(hosts[name].get(variable) or "") if name in hosts else ""
    except AnsibleError:  # preflight reports it
        return ""


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """The filters by name."""
        return {"omron_asked": omron_asked, "omron_target": omron_target}
