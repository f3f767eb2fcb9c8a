"""Which installed packages recommend others, for the role packages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def recommended_by(dpkg: str, packages: Sequence[str]) -> dict[str, list[str]]:
    """For each of `packages` the other installed packages that recommend it by name.

    `dpkg` has a line for each package: its status, name and Recommends, separated by tabs.
    """
    found: dict[str, list[str]] = {name: [] for name in packages}
    for line in dpkg.splitlines():
        status, name, recommends = [*line.split("\t"), "", ""][:3]
        if status != "installed" or name in found:
            continue
        # "a (>= 1) | b:any, c": alternatives and versions
        for wanted in {match.split()[0].partition(":")[0] for match in re.split("[,|]", recommends) if match.strip()}:
            if wanted in found:
                found[wanted].append(name)
    return {name: sorted(others) for name, others in found.items()}


def newly_recommended(now: Mapping[str, Sequence[str]], before: Mapping[str, Sequence[str]] | None) -> list[str]:
    """The packages that others recommend `now` and did not `before` they were installed; empty if not recorded."""
    if before is None:
        return []
    return sorted(name for name, others in now.items() if set(others) - set(before.get(name, ())))


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """The filters by name."""
        return {"newly_recommended": newly_recommended, "recommended_by": recommended_by}
