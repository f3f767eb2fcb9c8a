"""One file per proof system behind one small interface: witness, prove, verify."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from omron_miner.circuit import ProofSystem
from omron_miner.errors import CircuitError

if TYPE_CHECKING:
    from omron_miner.proof_handlers.base import ProofHandler


@lru_cache(maxsize=len(ProofSystem))
def get_handler(system: ProofSystem) -> ProofHandler:
    """The handler of a proof system, one per process. Importing it loads the system's native code.

    Raises CircuitError for a system that is not served.
    """
    if system is ProofSystem.EZKL:
        from omron_miner.proof_handlers.ezkl_handler import EzklHandler

        return EzklHandler()
    raise CircuitError(f"{system.value} circuits are not served yet", "remove the folder or ignore its id")
