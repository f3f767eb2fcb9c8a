"""Judges what was read of every host, together with the inventory's values. Runs on the control node, changes nothing.

Once for all hosts, so that a file of the operator's is hashed once, and what two hosts must not share is seen:

    - omron_preflight:
        hosts: {NAME: {unreachable: "", variables: {...}, host: {...}, wallet: {...}, storage: {...}}}
        others: [NAME]    # deployed at another time, but with the same inventory
        provers: [NAME]   # of all, those that only prove
        needs: {...}      # the package's needs.json
        supported_systems: {Debian: ["12"]}
      run_once: true
      register: ...

Returns `problems`, a list for each host by its name, and `report`, each problem once with its hosts.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase

_UTILS = str(Path(__file__).resolve().parents[1] / "plugin_utils")
if _UTILS not in sys.path:  # found so from a clone and from a collection alike
    sys.path.append(_UTILS)

from omron_preflight.fleet import SHARED_BY_NONE, report  # noqa: E402
from omron_preflight.judge import fleet_problems  # noqa: E402
from omron_preflight.provers import FLEET_VALUES  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping

ARGUMENTS = {
    "hosts": {"type": "dict", "required": True},
    "others": {"type": "list", "elements": "str", "default": []},
    "provers": {"type": "list", "elements": "str", "default": []},
    "needs": {"type": "dict", "required": True},
    "supported_systems": {"type": "dict", "required": True},
}
HOST_ARGUMENTS = {
    "unreachable": {"type": "str", "default": ""},
    "variables": {
        "type": "dict",
        "required": True,
        "options": {
            "problems": {"type": "list", "elements": "str", "required": True},
            "values": {"type": "dict", "required": True},
        },
    },
    "host": {
        "type": "dict",
        "options": {
            "facts": {"type": "dict", "required": True},
            "memory_limits": {"type": "str", "required": True},
            "tuning": {
                "type": "dict",
                "required": True,
                "options": {
                    "proc": {"type": "str", "required": True},
                    "cpufreq": {"type": "str", "required": True},
                    "governor_programs": {"type": "str", "required": True},
                    "shm_remount": {"type": "str", "required": True},
                    "sandbox": {"type": "str", "required": True},
                },
            },
            "listeners": {"type": "str", "required": True},
            "udp_listeners": {"type": "str", "required": True},
            "glibc": {"type": "str", "required": True},
            "missing_programs": {"type": "list", "elements": "str", "default": []},
            "users": {"type": "dict", "required": True},
            "groups": {"type": "dict", "required": True},
            "login_users": {"type": "list", "elements": "str", "required": True},
            "made_here": {
                "type": "dict",
                "required": True,
                "options": {
                    "users": {"type": "list", "elements": "str", "required": True},
                    "groups": {"type": "list", "elements": "str", "required": True},
                },
            },
        },
    },
    "wallet": {"type": "dict", "options": {"coldkeys": {"type": "list", "elements": "str", "required": True}}},
    "storage": {
        "type": "dict",
        "options": {
            "measured": {"type": "str", "required": True},
            "for_miner": {"type": "bool", "required": True},
            "keys": {"type": "list", "elements": "dict", "required": True},
        },
    },
}
"""Of one host; only `unreachable` and `variables` are known of one that does not answer."""


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """What Ansible looks for."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result of the task."""
        super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(ARGUMENTS)
        hosts = {name: _of_host(name, seen) for name, seen in given["hosts"].items()}
        hostvars = (task_vars or {})["hostvars"]
        miners, provers = given["others"], given["provers"]
        others = {name: _values(hostvars[name], SHARED_BY_NONE) for name in miners if name not in hosts}
        problems = fleet_problems(
            hosts,
            others,
            given["needs"],
            given["supported_systems"],
            {name: _values(hostvars[name], FLEET_VALUES) for name in provers},
            {name: _values(hostvars[name], FLEET_VALUES) for name in miners},
        )
        return {"changed": False, "problems": problems, "report": report(problems)}


def _of_host(name: str, seen: Any) -> dict[str, Any]:
    result = ArgumentSpecValidator(HOST_ARGUMENTS).validate(seen)
    if result.error_messages:
        raise AnsibleActionFail(f"what was read of {name} cannot be judged: {'; '.join(result.error_messages)}")
    validated: dict[str, Any] = result.validated_parameters
    return validated


def _values(variables: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What another host has of the variables in `defaults`, or their default."""
    values = {}
    for name, default in defaults.items():
        try:
            values[name] = variables.get(name, default)
        except AnsibleError:  # it is told when that host is deployed to
            values[name] = default
    return values
