"""A prover host as it is deployed, with a real circuit: it joins after a proof of it, and its proofs verify here."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from certificate_samples import Authority
from omron_miner.circuits.examples import example_inputs
from omron_miner.circuits.inputs import validate_inputs
from omron_miner.constants import Prover, Provers
from omron_miner.provers.dask_client import DaskConnection
from omron_miner.provers.multi_host_pool import MultiHostPool
from omron_miner.proving.verifier import verify_elsewhere
from ports import free_port
from waiting import wait_until
from wire_miner import to_toml

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.constants import Constants

pytestmark = pytest.mark.slow


def test_a_proof_of_another_host_is_verified_there_and_here(
    proving_constants: Constants, tiny_circuit: Circuit, tmp_path: Path
) -> None:
    settings = Provers(
        name="other",
        port=free_port(),
        scheduler_port=free_port(),
        directory=tmp_path / "dask",
        certificate_directory=Authority().issue(tmp_path / "certificates"),
    )
    prover = Prover(engine="dask", workers=1, local_workers=0)
    constants = proving_constants.model_copy(update={"provers": settings, "prover": prover})
    (tmp_path / "constants.toml").write_text(to_toml(constants))
    command = [sys.executable, "-m", "omron_miner", "--config", str(tmp_path / "constants.toml"), "provers"]
    processes = [subprocess.Popen([*command, role]) for role in ("scheduler", "worker")]
    pool = MultiHostPool(constants, connect=DaskConnection(constants).run)
    try:
        pool.start()
        wait_until(lambda: [bool(one.address) for one in pool.hosts() if not one.state] == [False, True], 100)
        inputs = example_inputs(tiny_circuit, seed=7)
        rows = validate_inputs(tiny_circuit, inputs)
        result = pool.submit(tiny_circuit.id, rows, time.monotonic() + 60).result(70)
        assert result.verified, result
        assert [one.proofs for one in pool.hosts()] == [0, 1], "the other host made it"
        verdict = verify_elsewhere(tiny_circuit, inputs, result.proof, constants.circuits)
        assert verdict.verified, verdict
        assert verdict.outputs == result.outputs
    finally:
        pool.close(0)
        for process in processes:
            process.terminate()
            process.wait(20)
