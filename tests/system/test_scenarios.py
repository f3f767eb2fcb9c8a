"""Molecule's scenarios: the play on systems of its own, a container and a virtual machine (`default`).

Those that are wanted run side by side: each waits most of the time, for packages or for one emulated processor.
"""

from __future__ import annotations

import os
import re
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
    tests = [item for item in request.session.items if isinstance(item, pytest.Function)]
    wanted = [str(test.callspec.params["name"]) for test in tests if test.module is request.module]
    processes = {}
    for name in dict.fromkeys(wanted):
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


def changed_tasks(name: str, step: str) -> set[str]:
    """Names of the tasks that changed a host in one of molecule's steps, or in a dry run would have."""
    mark = re.escape(f"[{name} > {step}]")
    (said,) = re.findall(rf"{mark} Executing\n(.*?)\n[A-Z]+ +{mark} Executed", log_of(name).read_text(), re.DOTALL)
    tasks = re.split(r"^(?:TASK|RUNNING HANDLER) \[(.+?)\] \*+$", said, flags=re.MULTILINE)
    named = zip(tasks[1::2], tasks[2::2], strict=True)
    return {
        name.replace(" : Dry run - ", " : ") for name, result in named if re.search("^changed: ", result, re.MULTILINE)
    }


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


@pytest.mark.parametrize("name", ["container", "default"])
def test_a_dry_run_tells_what_is_then_changed_on(name: str, started: dict[str, subprocess.Popen[bytes]]) -> None:
    """A fresh host. Copies that go with a record have no folder yet; the steps of an installation are told as one."""
    parts = re.compile(
        r"\w+ : Keep a copy"
        r"|pm2 : (Install Node.js|Give Node.js|Link Node.js|Remove npm|Remember)"
        r"|miner : (Copy the locked|Install (uv|the locked|the package)|Create a folder|Send the package|Mark the)"
    )
    started[name].wait()
    told, done = (changed_tasks(name, step) for step in ("check", "converge"))
    assert ("miner : Start the miner" if name == "container" else "swap : Stop swapping") in told
    assert {task for task in done - told if not parts.match(task)} == set()
    assert {task for task in told - done if not task.endswith("folder")} == set()
