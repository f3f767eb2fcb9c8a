"""Makes an SRS when the operator provides none: EZKL generates it, or downloads the ceremony's.

The requirements for an SRS are in `circuits.srs`. EZKL is loaded only when one has to be made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from omron_miner.circuits import srs
from omron_miner.proving.proof_handlers.ezkl_call import call

if TYPE_CHECKING:
    from pathlib import Path


def ensure_srs(
    logrows: int, directory: Path, network: str, source_file: Path | None = None, sha256: str | None = None
) -> Path:
    """`srs.ensure_srs` with EZKL as the source. May load EZKL: call it in a process that may crash. Raises SrsError."""
    return srs.ensure_srs(logrows, directory, network, source_file, sha256, make=make_srs)


def make_srs(path: Path, logrows: int, for_tests: bool) -> None:
    """Generates an SRS of 2^`logrows` rows for tests, or downloads the ceremony's, to `path`. Raises ProofError.

    EZKL checks a download against the hashes it was built with.
    """
    import ezkl

    if for_tests:
        call(ezkl.gen_srs, str(path), logrows)
        return
    # 22.0.1 asks for the commitment as well; 23.x has no such class.
    commitment = {"commitment": ezkl.PyCommitments.KZG} if hasattr(ezkl, "PyCommitments") else {}
    call(ezkl.get_srs, logrows=logrows, srs_path=str(path), **commitment)
