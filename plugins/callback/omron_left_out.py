"""At the very end of a run, however it ended, names the hosts that preflight left out (``omron_skip_bad_hosts``).

A play could not: Ansible begins none after one in which all hosts of a batch failed. Loaded from next to the playbooks.
"""

from __future__ import annotations

from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: omron_left_out
type: notification
short_description: Names the hosts that preflight left out
description: Writes them as a warning after everything else.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible has no types
    """What Ansible looks for."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "omron_left_out"
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Takes what the base does."""
        super().__init__(*arguments, **named)
        self._left_out: list[str] = []

    def v2_runner_on_ok(self, result: Any) -> None:
        """Remembers what the action omron_preflight returned."""
        returned = getattr(result, "result", None) or result._result  # ansible-core before 2.20
        if isinstance(returned, dict) and "omron_left_out" in returned:
            self._left_out = [str(name) for name in returned["omron_left_out"]]

    def v2_playbook_on_stats(self, _stats: Any) -> None:
        """The end of the run."""
        if self._left_out:
            self._display.warning(
                f"Left out, nothing was changed on them: {', '.join(self._left_out)}. Preflight, at the beginning, has "
                "the reasons"
            )
