"""Whom a play is for: its pattern of hosts, once it is known that Ansible is new enough and that there are such hosts.

A filter, because a play's hosts are the first thing that is evaluated of it, before anything is connected to.
"""

from __future__ import annotations

from typing import Any

from ansible import context
from ansible.errors import AnsibleFilterError
from ansible.release import __version__

OLDEST_ANSIBLE = (2, 19)
"""Before it, what a host sends could be evaluated as a template."""


def omron_target(
    pattern: Any, matched: list[str], may_be_empty: bool = False, version: str = __version__, provers: Any = None
) -> str:
    """`pattern` itself, which has `matched` these hosts, and the hosts of the group `provers` that are none of them.

    Raises AnsibleFilterError for none, unless it `may_be_empty`, and for an old Ansible.
    """
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_ANSIBLE:
        wanted = ".".join(map(str, OLDEST_ANSIBLE))
        raise AnsibleFilterError(
            f"this is ansible-core {version}, at least {wanted} is needed: run bin/up -i INVENTORY, which installs it "
            "in .venv, or install a newer ansible-core"
        )
    if not matched and not may_be_empty and not context.CLIARGS.get("syntax"):  # whose inventory may be made later
        raise AnsibleFilterError(
            f"no host of the inventory is matched by omron_hosts {pattern!r}: put your hosts into a group miners, as "
            "inventory.example does, or name another with -e omron_hosts=PATTERN"
        )
    more = [name for name in provers or [] if name not in matched]
    return ":".join([str(pattern), *more])


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """The filters by name."""
        return {"omron_target": omron_target}
