"""The whole play on a throwaway Debian system: molecule's scenario `container`, described in its molecule.yml."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(os.geteuid() != 0, reason="booting a container takes root: run bin/test with sudo")
def test_the_play_deploys_survives_and_undoes_itself_on_a_system_of_its_own() -> None:
    """Dry run, deploy, second run unchanged, verify, break it, verify, remove."""
    log = ROOT / ".cache" / "molecule-container.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as file:
        command = ["molecule", "test", "--scenario-name", "container"]
        environment = os.environ | {"NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1"}
        result = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)
    text = log.read_text(errors="replace")
    assert result.returncode == 0, f"{log}:\n{text[-6000:]}"
