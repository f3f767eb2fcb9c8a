"""Access to a machine, so that tests can simulate one with files and canned answers."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from omron_miner.host.commands import run_command
from omron_miner.host.disks import device_number
from omron_miner.host.memory import Memory, read_memory
from omron_miner.host.network import try_connection
from omron_miner.host.processes import miner_tree

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Machine:
    """This machine; a test gives another root and other functions."""

    root: Path = Path("/")
    """Where proc, sys, etc and run are."""
    run_command: Callable[..., str | None] = run_command
    """The output of a command; None when it is not installed or does not exit in time."""
    try_connection: Callable[[str, int], str | None] = try_connection
    """Why an address and TCP port take no connection; None when they do."""
    statvfs: Callable[[str | Path], os.statvfs_result] = os.statvfs
    device_number: Callable[[str | Path], int] = device_number

    @property
    def proc(self) -> Path:
        """The proc file system."""
        return self.root / "proc"

    @property
    def sys(self) -> Path:
        """The sys file system."""
        return self.root / "sys"

    def run_for_word(self, *command: str) -> str | None:
        """As `run_command`, for commands that answer in one word; None as well for any other answer."""
        answer = self.run_command(*command)
        return answer if answer and re.fullmatch(r"[a-z-]+", answer) else None

    @cached_property
    def is_container(self) -> bool:
        """Whether this is a container, which shares its host's kernel; systemd detects it at boot."""
        return self.run_for_word("systemd-detect-virt", "--container") not in (None, "none")

    def miner_memory(self, program: str | None = None) -> Memory:
        """What the miner (`program`, as `miner_tree`) may use; before it runs, what process 1 may use."""
        tree = miner_tree(self.proc, program)
        return read_memory(tree[0].pid if tree else 1, self.proc, self.sys / "fs/cgroup")
