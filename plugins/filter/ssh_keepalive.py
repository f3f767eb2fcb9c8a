"""Options of ssh that keep a connection open, added to those of the operator."""

from __future__ import annotations

from typing import Any

from ansible import constants
from ansible.plugins.loader import connection_loader

_OPTION = "ssh_extra_args"


def ssh_keepalive(keepalive: str) -> str:
    """`keepalive` and what ``--ssh-extra-args``, the environment or ``ansible.cfg`` has for the same purpose.

    A role's default is a variable, and a variable would replace those. An inventory's ``ansible_ssh_extra_args``
    replaces both. The operator's options come first: ssh takes the first value of each.
    """
    connection_loader.get("ssh", class_only=True)  # so that its options are known
    given = constants.config.get_config_value(_OPTION, plugin_type="connection", plugin_name="ssh")
    return " ".join(filter(None, [given, keepalive]))


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """The filters by name."""
        return {"ssh_keepalive": ssh_keepalive}
