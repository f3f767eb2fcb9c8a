"""A circuit that comes, changes or goes while the miner runs is served, read again or refused, without a restart."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from file_server import cut, serving
from omron_miner.building.build import Source
from omron_miner.building.sync import sync
from omron_miner.events import FailureKind
from wire_miner import constants_in, row_of, running

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.constants import Constants

pytestmark = pytest.mark.slow


@pytest.fixture
def constants(tmp_path: Path, proving_constants: Constants, tiny_circuit: Circuit) -> Constants:
    """A miner that has the tiny circuit alone, in a folder of its own."""
    circuits = proving_constants.circuits.model_copy(
        update={
            "directory": tmp_path / "circuits",
            "download_plain_http": True,
            "download_hosts": ("127.0.0.1",),
        }
    )
    shutil.copytree(tiny_circuit.directory, circuits.directory / tiny_circuit.directory.name)
    return constants_in(tmp_path, circuits)


def ship(circuit: Circuit, directory: Path, url: str) -> Path:
    """The circuit as validators ship it: its key elsewhere."""
    folder = directory / circuit.directory.name
    shutil.copytree(circuit.directory, folder, ignore=shutil.ignore_patterns("pk.key", "checksums.json"))
    metadata = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps({**metadata, "external_files": {"pk.key": url}}))
    return folder


def test_a_synced_circuit_is_served_immediately_and_a_removed_one_refused(
    constants: Constants, tiny_circuit: Circuit, altered_circuit: Circuit
) -> None:
    key = altered_circuit.pk.read_bytes()
    with running(constants, altered_circuit) as miner, serving(key, cut(len(key) // 2)) as server:
        row = row_of(tiny_circuit, 1)

        def ask(circuit: Circuit) -> str:
            [answer] = miner.ask_for_proof(row, model_id=circuit.id, timeout=60.0)
            miner.settle()
            return str(answer.query_output)

        assert ask(altered_circuit) == "Circuit not found"
        folder = ship(altered_circuit, constants.circuits.directory, server.url)
        assert ask(altered_circuit) == "Circuit not found"
        assert "pk.key is missing" in miner.requests()[-1].detail

        assert sync(constants, (), Source()).refused == {}
        output = ask(altered_circuit)
        assert miner.verified(row, output)

        shutil.rmtree(folder)
        assert ask(altered_circuit) == "Circuit not found"
        assert miner.requests()[-1].failure is FailureKind.UNKNOWN_CIRCUIT
        assert json.loads(ask(tiny_circuit))["proof"], "the others are served on"
