"""A prover host as a separate process: its workers do what a request specifies (`prover_work`) instead of proving.

python prover_host.py CONSTANTS DIGEST       proves circuit "c", whose files have this digest
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import prover_work
from omron_miner.constants import read_constants
from omron_miner.provers.dask_server import run_worker
from omron_miner.proving.worker_process import Work
from simulated_hosts import OneCircuit


def sleeping() -> Work:
    work: Any = prover_work.prove  # takes what the tests submit
    return Work(prover_work.warm_up, work)


if __name__ == "__main__":
    run_worker(read_constants(Path(sys.argv[1])), sleeping(), OneCircuit(*sys.argv[2:]))
