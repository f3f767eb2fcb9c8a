"""Molecule's scenarios: the play on systems of its own, a container and a virtual machine (`default`).

Those that are wanted run side by side: each waits most of the time, for packages or for one emulated processor.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHE = Path(__file__).parents[2] / ".cache"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2700),
    pytest.mark.skipif(os.geteuid() != 0, reason="making these systems takes root: run bin/test with sudo"),
]


@pytest.fixture(scope="module")
def started(request: pytest.FixtureRequest) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """A process for each scenario that is tested; what it says goes to `.cache/molecule-{name}.log`."""
    CACHE.mkdir(exist_ok=True)
    processes = {}
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.module is request.module:
            name = str(item.callspec.params["name"])
            with log_of(name).open("wb") as log:
                processes[name] = subprocess.Popen(
                    ["molecule", "test", "--scenario-name", name],
                    cwd=CACHE.parent,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=os.environ | {"NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1"},
                )
    yield processes
    for process in processes.values():
        process.terminate()
        process.wait()


def log_of(name: str) -> Path:
    return CACHE / f"molecule-{name}.log"


def end_of(file: Path, characters: int) -> str:
    return f"{file}:\n" + (file.read_text(errors="replace")[-characters:] if file.exists() else "there is none")


@pytest.mark.parametrize("name", ["container", "default"])
def test_the_play_deploys_survives_and_undoes_itself_on(name: str, started: dict[str, subprocess.Popen[bytes]]) -> None:
    """Dry run, deploy, second run unchanged, break it (container) or restart (virtual machine), verify, remove."""
    code = started[name].wait()
    more = end_of(CACHE / "throwaway" / "vm" / "console.log", 3000) if name == "default" else ""
    assert code == 0, f"{end_of(log_of(name), 6000)}\n{more}"
