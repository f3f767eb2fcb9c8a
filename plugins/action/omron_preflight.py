"""Evaluates the state of every host together with the inventory's values. Runs on the control node, changes nothing.

Once for all hosts, so that each of the operator's files is hashed once, and conflicts between hosts are found:

    - omron_preflight:
        hosts: {NAME: {unreachable: "", variables: {...}, host: {...}, wallet: {...}, storage: {...}}}
        others: [NAME]    # deployed at another time, but with the same inventory
        miners: [NAME]    # of the group of that name
        inventory: [NAME] # all of it
        provers: [NAME]   # of all, those that only prove
        needs: {...}      # the package's needs.json
        supported_systems: {Debian: ["12"]}
        skip_bad_hosts: false
      run_once: true
      register: ...

Returns `problems`, a list for each host by its name, `report`, each problem once with its hosts, and `omron_left_out`,
the hosts that the run skips.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase

_UTILS = str(Path(__file__).resolve().parents[1] / "plugin_utils")
if _UTILS not in sys.path:  # found in this way in a clone and in a collection
    sys.path.append(_UTILS)

from omron_preflight.all_checks import fleet_problems  # noqa: E402
from omron_preflight.fleet import SHARED_BY_NONE, report  # noqa: E402
from omron_preflight.provers import FLEET_VALUES  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping

ARGUMENTS = {
    "hosts": {"type": "dict", "required": True},
    "others": {"type": "list", "elements": "str", "default": []},
    "miners": {"type": "list", "elements": "str", "default": []},
    "inventory": {"type": "list", "elements": "str", "default": []},
    "provers": {"type": "list", "elements": "str", "default": []},
    "needs": {"type": "dict", "required": True},
    "supported_systems": {"type": "dict", "required": True},
    "skip_bad_hosts": {"type": "bool", "default": False},
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
            "user_id": {"type": "str", "default": "0"},
            "become_error": {"type": "str", "default": ""},
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
"""Arguments for one host; for an unreachable one only `unreachable` and `variables` are known."""


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """Ansible's entry point."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result of the task."""
        super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(ARGUMENTS)
        hosts = {name: _of_host(name, seen) for name, seen in given["hosts"].items()}
        hostvars = (task_vars or {})["hostvars"]
        miners, provers = given["others"], given["provers"]
        elsewhere = [name for name in dict.fromkeys([*miners, *given["inventory"]]) if name not in hosts]
        others = _others(
            {name: _values(hostvars[name], SHARED_BY_NONE) for name in elsewhere if name not in provers},
            {*miners, *(given["miners"] or elsewhere)},
            [seen["variables"]["values"] for seen in hosts.values()],
        )
        problems = fleet_problems(
            hosts,
            others,
            given["needs"],
            given["supported_systems"],
            {name: _values(hostvars[name], FLEET_VALUES) for name in provers},
            {name: _values(hostvars[name], FLEET_VALUES) for name in miners},
            self._read_decrypted,
        )
        left_out = [name for name, found in problems.items() if found and given["skip_bad_hosts"]]
        return {"changed": False, "problems": problems, "report": report(problems), "omron_left_out": left_out}

    def _read_decrypted(self, path: Path) -> bytes:
        """The content of a file on the control node, as `copy` would send it. It is shown nowhere."""
        try:
            return str(self._loader.get_text_file_contents(str(path))).encode()
        except AnsibleError as error:  # no password for it, or not readable
            raise ValueError(type(error).__name__) from None


def _others(
    values: dict[str, dict[str, Any]], miners: set[str], deployed_to: list[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The `values` of miners that are not part of this deploy.

    If a host is not one of `miners`, a hotkey or address that all hosts share is ignored: it was set for the whole
    inventory.
    """
    both = [*values.values(), *deployed_to]
    to_all = {name for name in ("omron_hotkey_file", "omron_external_ip") if len({str(one[name]) for one in both}) == 1}
    of_none = dict.fromkeys(to_all, "")
    return {name: one if name in miners else {**one, **of_none} for name, one in values.items()}


def _of_host(name: str, seen: Any) -> dict[str, Any]:
    result = ArgumentSpecValidator(HOST_ARGUMENTS).validate(seen)
    if result.error_messages:
        raise AnsibleActionFail(f"the data read from {name} are invalid: {'; '.join(result.error_messages)}")
    validated: dict[str, Any] = result.validated_parameters
    return validated


def _values(variables: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Another host's values of the variables in `defaults`, or their defaults."""
    values = {}
    for name, default in defaults.items():
        try:
            values[name] = variables.get(name, default)
        except AnsibleError:  # reported when that host is deployed
            values[name] = default
    return values
