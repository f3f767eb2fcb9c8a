"""Workers that sleep instead of proving, and a prover host of such: what is left is what placing and sending cost.

python bench/sleeping_work.py CONSTANTS     a prover host, for bench/provers.py
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from omron_miner.constants import Constants, read_constants
from omron_miner.events import Timings
from omron_miner.provers.dask_server import run_worker
from omron_miner.proving.verified_model_session import ProofResult
from omron_miner.proving.worker_process import Work

NUMBERS = 12_288
"""The demo's inputs."""
PROOF = "0" * 70_000
"""As long as the demo's proof."""


class OneCircuit:
    """The circuits of a host that sleeps."""

    def digests(self) -> dict[str, str]:
        """See `hosts.Catalogue`."""
        return {"c": "the same everywhere"}

    def example(self, _circuit_id: str) -> Any:
        """See `hosts.Catalogue`."""
        return [[0.0]]


def warm_up(_constants: Constants) -> None:
    """Ready immediately."""


def prove(circuit_id: str, rows: Any, _deadline: float) -> ProofResult:
    """Sleeps for the first number's seconds."""
    time.sleep(float(rows[0][0]))
    return ProofResult(circuit_id, "label", PROOF, "[]", [1.0], True, None, "", Timings(), 1)


def sleeping() -> Work:
    """What the workers do. By the module's own name: started as a script it has another."""
    import sleeping_work

    return Work(sleeping_work.warm_up, sleeping_work.prove)


if __name__ == "__main__":
    run_worker(read_constants(Path(sys.argv[1])), sleeping(), OneCircuit())
