"""Which prover hosts belong to which miner, and where they reach each other. Pure functions of the hosts' variables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

_UTILS = str(Path(__file__).resolve().parents[1] / "plugin_utils")
if _UTILS not in sys.path:  # found so from a clone and from a collection alike
    sys.path.append(_UTILS)

from omron_preflight.provers import address_of  # noqa: E402  # after the path is there

if TYPE_CHECKING:
    from collections.abc import Mapping


def provers_of(provers: list[str], hosts: Mapping[str, Mapping[str, Any]], miner: str, first: str) -> list[str]:
    """Those of `provers` that prove for `miner`; one that names no miner proves for the `first`."""
    return sorted(name for name in provers if (hosts[name].get("omron_prover_of") or first) == miner)


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """The filters by name."""
        return {"prover_address": address_of, "provers_of": provers_of}
