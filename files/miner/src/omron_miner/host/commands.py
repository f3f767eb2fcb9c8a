"""Output of the host's commands, with a time limit."""

from __future__ import annotations

import os
import subprocess

COMMAND_SECONDS = 5.0


def run_command(*command: str, seconds: float = COMMAND_SECONDS) -> str | None:
    """What `command` prints; None when there is no such command or it does not exit within `seconds`.

    The exit code is ignored: ``systemctl is-active`` exits with 3 for "inactive".
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip()
