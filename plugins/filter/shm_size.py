"""The size of /dev/shm for the role shm: `omron_preflight.shm_size` as filters."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

_UTILS = str(Path(__file__).resolve().parents[1] / "plugin_utils")
if _UTILS not in sys.path:  # found so from a clone and from a collection alike
    sys.path.append(_UTILS)

from omron_preflight import shm_size  # noqa: E402  # after the path is there
from omron_preflight.host import own_memory_mb  # noqa: E402


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """The filters by name."""
        return {
            "fstab_entry": shm_size.fstab_entry,
            "mount_problems": shm_size.mount_problems,
            "own_memory_mb": own_memory_mb,
            "shm_size_bytes": shm_size.shm_size_bytes,
            "shm_size_problems": shm_size.shm_size_problems,
            "shm_tolerance_bytes": shm_size.shm_tolerance_bytes,
            "sized_options": shm_size.sized_options,
            "visible_mount": shm_size.visible_mount,
        }
