"""Molecule's scenarios: the play on systems of its own, a container and a virtual machine (`default`).

With several workers they run at the same time (tests/conftest.py): each waits most of the time, for packages or for one
emulated processor.
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
    pytest.mark.timeout(3400),
    pytest.mark.skipif(os.geteuid() != 0, reason="making these systems takes root: run bin/test with sudo"),
]


@pytest.fixture(scope="module", params=["container", "default"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def scenario(name: str, long_forms: bool) -> Iterator[subprocess.Popen[bytes]]:
    """The scenario, started; its output goes to `.cache/molecule-{name}.log`."""
    settings = {"NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1"} | ({"OMRON_SCENARIO_LONG": "yes"} if long_forms else {})
    CACHE.mkdir(exist_ok=True)
    with log_of(name).open("wb") as log:
        process = subprocess.Popen(
            ["molecule", "test", "--scenario-name", name],
            cwd=CACHE.parent,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | settings,
        )
    yield process
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


def read(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


def end_of(text: str, characters: int) -> str:
    return text if len(text) <= characters else "[...]" + text[-characters:]


def failures(log: str) -> str:
    """The tasks of a play's output that failed, each with its result, but not what it expects to fail."""
    tasks = re.split(r"^(?=TASK \[|RUNNING HANDLER \[|PLAY |[A-Z]+ +\[)", log, flags=re.MULTILINE)
    failed = [task for task in tasks if re.search(r"^(\[ERROR\]|fatal|failed): ", task, re.MULTILINE)]
    return "\n".join(end_of(task.strip(), 3000) for task in failed if "...ignoring" not in task)


def test_the_play_deploys_survives_and_undoes_itself_on(name: str, scenario: subprocess.Popen[bytes]) -> None:
    """Dry run, deploy, second run unchanged, break it (container) or restart (virtual machine), verify, remove."""
    code = scenario.wait()
    log, console = (read(file) for file in (log_of(name), CACHE / "throwaway" / "vm" / "console.log"))
    more = f"The machine's console: {end_of(console, 2000)}\n\n" if name == "default" else ""
    assert code == 0, (
        f"{more}{end_of(log, 1500)}\n\n{log_of(name)} is the whole, this failed:\n{end_of(failures(log), 9000)}"
    )


def test_a_dry_run_tells_what_is_then_changed_on(name: str, scenario: subprocess.Popen[bytes]) -> None:
    """A fresh host. Copies that go with a record have no folder yet; the steps of an installation are told as one."""
    parts = re.compile(
        r"\w+ : Keep a copy"
        r"|pm2 : (Install Node.js|Link Node.js|Remove npm|Create the folder of|Copy the lock files)"
        r"|pm2 : (Link the programs|Render|Mark)"
        r"|miner : (Record that this release|Write the list of circuits)"
        r"|miner : (Copy the locked|Install (uv|the locked|the package)|Create a folder|Send the package|Mark the)"
    )
    scenario.wait()
    told, done = (changed_tasks(name, step) for step in ("check", "converge"))
    assert ("miner : Start the miner" if name == "container" else "swap : Run swapoff") in told
    assert {task for task in done - told if not parts.match(task)} == set()
    assert {task for task in told - done if not task.endswith("folder")} == set()
