"""Problems of several hosts, reported once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

_UTILS = str(Path(__file__).resolve().parents[1] / "plugin_utils")
if _UTILS not in sys.path:  # found so from a clone and from a collection alike
    sys.path.append(_UTILS)

from omron_preflight.fleet import report  # noqa: E402  # after the path is there


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """The filters by name."""
        return {"problems_by_host": report}
