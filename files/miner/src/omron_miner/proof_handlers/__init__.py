"""One file per proof system behind one small interface: witness, prove, verify."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from omron_miner.circuit import ProofSystem

if TYPE_CHECKING:
    from omron_miner.proof_handlers.base import ProofHandler


@lru_cache(maxsize=len(ProofSystem))
def get_handler(system: ProofSystem) -> ProofHandler:
    """The handler of a proof system, one per process. Importing it loads the system's native code."""
    if system is ProofSystem.EZKL:
        from omron_miner.proof_handlers.ezkl_handler import EzklHandler

        return EzklHandler()
    from omron_miner.proof_handlers.circom_handler import CircomHandler

    return CircomHandler()
