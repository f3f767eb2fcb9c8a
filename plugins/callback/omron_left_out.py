"""At the end of every run, reports the hosts that preflight skipped (``omron_skip_bad_hosts``).

A play could not do this: Ansible starts no play after one in which all hosts of a batch failed. Loaded from next to
the playbooks.
"""

from __future__ import annotations

from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: omron_left_out
type: notification
short_description: Reports the hosts that preflight skipped
description: Prints them as a warning at the end of the run.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible has no types
    """The callback plugin."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "omron_left_out"
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Same arguments as the base class."""
        super().__init__(*arguments, **named)
        self._left_out: list[str] = []

    def v2_runner_on_ok(self, result: Any) -> None:
        """Stores the result of the action omron_preflight."""
        returned = getattr(result, "result", None) or result._result  # ansible-core before 2.20
        if isinstance(returned, dict) and "omron_left_out" in returned:
            self._left_out = [str(name) for name in returned["omron_left_out"]]

    def v2_playbook_on_stats(self, _stats: Any) -> None:
        """The end of the run."""
        if self._left_out:
            self._display.warning(
                f"Skipped and left unchanged: {', '.join(self._left_out)}. The preflight output above gives the reasons"
            )
