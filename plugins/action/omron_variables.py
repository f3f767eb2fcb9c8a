"""Checks a host's variables against the argument specifications of roles and playbooks. Runs on the control node.

    - omron_variables:
        roles_directory: "{{ role_path }}/.."
      register: ...

Returns `problems`, a list of texts, and `values`: every specified variable, converted to its type, with its default if
the inventory does not set it. Changes nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars

_UTILS = str(Path(__file__).resolve().parents[1] / "plugin_utils")
if _UTILS not in sys.path:  # found so from a clone and from a collection alike
    sys.path.append(_UTILS)

from omron_preflight.variables import (  # noqa: E402
    checked_values,
    known_variables,
    misplaced_problems,
    serial_problems,
    unknown_problems,
)


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """Ansible's entry point."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result of the task."""
        super().run(tmp, task_vars)
        _, given = self.validate_argument_spec({"roles_directory": {"type": "path", "required": True}})
        everything = task_vars or {}
        known = known_variables(Path(given["roles_directory"]))
        values, problems = {}, []
        for name in sorted(set(known) & set(everything)):
            try:
                values[name] = self._templar.template(everything[name])
            except AnsibleError as error:
                problems.append(f"{name} cannot be evaluated ({error}): check the variables it uses")
        checked, wrong = checked_values(values, known)
        extra = load_extra_vars(self._loader)
        unknown = unknown_problems(everything, known, checked["omron_other_variables"], extra)
        problems += serial_problems(values)
        problems += misplaced_problems(values, known, extra, everything.get("groups", {}))
        return {"changed": False, "problems": unknown + problems + wrong, "values": checked}
