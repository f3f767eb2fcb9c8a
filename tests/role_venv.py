"""Builds a virtual environment the way roles/miner does: its own tasks are read and their commands run here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jinja2.nativetypes import NativeEnvironment

from building import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

TASKS = ROOT / "roles/miner/tasks/build_venv.yml"
PACKAGE = ROOT / "files/miner"
DOWNLOADS = ROOT / ".cache/role-venv"
"""Stands in for omron_opt, so that uv keeps what it downloaded."""
_DONE_HERE = {"pip", "tempfile", "archive", "unarchive", "file", "stat"}
"""Modules that fetch uv and carry the package's source to a host."""


def build_venv(place: Path, ezkl_version: str) -> Path:
    """A venv in `place` with the package and that EZKL, as a host has it that does not tune; its ``bin``.

    Raises CalledProcessError when a command fails.
    """
    source = place / "source"
    shutil.copytree(PACKAGE / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(PACKAGE / "pyproject.toml", source)
    tools = DOWNLOADS / "tools/bin"
    tools.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        (tools / "uv").symlink_to(Path(sys.executable).with_name("uv"))
    variables: dict[str, Any] = {
        "omron_opt": str(DOWNLOADS),
        "omron_environment": {},
        "omron_ezkl_version": ezkl_version,
        "miner_source": str(PACKAGE),
        "miner_python": sys.executable,
        "__miner_venv": str(place / "venv"),
        "__miner_extras": [],
        "__miner_ezkl_lock": str(PACKAGE / f"ezkl-{ezkl_version}.lock"),
        "__miner_unpacked": {"path": str(source)},
    }
    conditions = {
        "__miner_ezkl_lock is file": Path(variables["__miner_ezkl_lock"]).is_file(),
        "__miner_tools.stat.exists": False,
    }
    for task in _tasks(yaml.safe_load(TASKS.read_text()), conditions):
        _run(task, variables, place)
    return place / "venv/bin"


def _tasks(given: list[dict[str, Any]], conditions: dict[str, bool]) -> Iterator[dict[str, Any]]:
    for task in given:
        if "block" not in task:
            yield task
        elif "when" not in task or conditions[task["when"]]:
            yield from _tasks(task["block"], conditions)


def _run(task: dict[str, Any], variables: dict[str, Any], place: Path) -> None:
    [module] = [key.rpartition(".")[2] for key in task if "." in key]
    arguments = next(value for key, value in task.items() if "." in key)
    if module == "copy" and "src" in arguments:
        for item in _rendered(task.get("loop", [None]), variables):
            copied = _rendered(arguments, variables | {"item": item})
            shutil.copy(copied["src"], copied["dest"])
    elif module == "command":
        assert "when" not in task, task["name"]
        if task.get("loop"):
            assert _rendered(task["loop"], variables) == [], "extras are not installed here"
            return
        environment = _rendered(task.get("environment", {}), variables)
        # Not here: where uv runs on a host there is no pyproject.toml for it to read.
        subprocess.run(
            _rendered(arguments, variables)["argv"], env={**os.environ, **environment}, cwd=place, check=True
        )
    else:
        assert module in _DONE_HERE or "content" in arguments, task["name"]


def _rendered(node: Any, variables: dict[str, Any]) -> Any:
    if isinstance(node, dict):
        return {key: _rendered(value, variables) for key, value in node.items()}
    if isinstance(node, list):
        return [_rendered(value, variables) for value in node]
    if not isinstance(node, str) or "{{" not in node:
        return node
    environment = NativeEnvironment()
    environment.filters["combine"] = lambda first, second: {**first, **second}
    return environment.from_string(node).render(variables)
