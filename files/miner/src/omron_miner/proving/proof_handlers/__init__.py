"""One file per proof system behind one small interface: witness, prove, verify.

`ezkl_call` is for code that asks EZKL for more than proofs. `ezkl_handler` loads EZKL, so it is exported as a module.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from omron_miner.circuits.circuit import ProofSystem
from omron_miner.proving.proof_handlers.base import Proof, ProofError, ProofHandler, VerificationError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Proof", "ProofError", "ProofHandler", "VerificationError", "ezkl_call", "ezkl_handler", "get_handler"]


@lru_cache(maxsize=len(ProofSystem))
def get_handler(system: ProofSystem, srs_directory: Path) -> ProofHandler:
    """The handler of a proof system, kept for the process. Importing it loads the system's native code.

    `srs_directory` holds ``kzg<logrows>.srs``; CIRCOM needs none.
    """
    if system is ProofSystem.EZKL:
        from omron_miner.proving.proof_handlers.ezkl_handler import EzklHandler

        return EzklHandler(srs_directory)
    from omron_miner.proving.proof_handlers.circom_handler import CircomHandler

    return CircomHandler()
