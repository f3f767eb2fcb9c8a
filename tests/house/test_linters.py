"""The house rules that programs check: format, lint, types, dependencies, Ansible and YAML style, every playbook."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PLAYBOOKS = sorted(str(path.relative_to(ROOT)) for path in [ROOT / "site.yml", *ROOT.glob("playbooks/*.yml")])
PLUGINS = ["plugins", "plugins/plugin_utils"]
DEVELOPMENT = [
    *("bench", "docs", "tests"),
    *(f"tests/{one}" for one in ("deploy", "house", "live", "proving", "system", "unit", "wire")),
]

CHECKS = {
    "ruff lint": ["ruff", "check"],
    "ruff format": ["ruff", "format", "--check"],
    "types": ["mypy"],
    "types on the oldest Python": ["mypy", "--python-version", "3.10", "files/miner/src"],
    "declared dependencies": ["deptry", "files/miner/src", "--config", "files/miner/pyproject.toml"],
    # The modules directly in a folder given here count as ours. What only develops may use the group `dev` (DEP004).
    "declared dependencies of the control node": ["deptry", *PLUGINS, *DEVELOPMENT, "--ignore", "DEP004"],
    "plugins use nothing of the group dev": ["deptry", *PLUGINS, "--ignore", "DEP002"],
    "yaml style": ["yamllint", "--strict", "."],
    "shell syntax": ["bash", "-n", "bin/lib.sh", "bin/up", "bin/down", "bin/test", ".ci/run"],
}


ANSIBLE_LINT = ["ansible-lint", "--offline", "--profile", "production"]


@pytest.fixture(scope="module", autouse=True)
def ansible_lint(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str] | None]:
    """Starts the slowest check before the others, which run in the meantime, if its test was selected."""
    wanted = any(item.name == test_ansible_follows_the_production_profile.__name__ for item in request.session.items)
    if not wanted:
        yield None
        return
    output = subprocess.PIPE
    with subprocess.Popen(ANSIBLE_LINT, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, text=True) as process:
        yield process
        process.kill()


def run(command: list[str]) -> None:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}:\n{result.stdout}{result.stderr}"


@pytest.mark.parametrize("name", CHECKS)
def test_house_rule_holds(name: str) -> None:
    run(CHECKS[name])


def test_every_playbook_parses() -> None:
    run(["ansible-playbook", "--syntax-check", "-i", "localhost,", *PLAYBOOKS])


@pytest.mark.slow
def test_ansible_follows_the_production_profile(ansible_lint: subprocess.Popen[str]) -> None:
    said, _ = ansible_lint.communicate()
    assert ansible_lint.returncode == 0, f"{' '.join(ANSIBLE_LINT)}:\n{said}"
