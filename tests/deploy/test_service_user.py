"""What is done as the service user is done as that user, whatever the inventory says of becoming another user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from building import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BECOMES = [file for file in sorted(ROOT.glob("roles/*/tasks/*.yml")) if "become_user:" in file.read_text()]


def tasks_of(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for entry in entries:
        yield entry
        for part in ("block", "rescue", "always"):
            yield from tasks_of(entry.get(part, []))


@pytest.mark.parametrize("file", BECOMES, ids=lambda file: f"{file.parts[-3]}/{file.stem}")
def test_an_inventorys_ansible_become_user_does_not_make_root_of_the_service_user(file: Path) -> None:
    """Ansible's variables win over the keywords of the same purpose, and a task's variables over the inventory's."""
    for task in tasks_of(yaml.safe_load(file.read_text())):
        if user := task.get("become_user"):
            assert task["vars"]["ansible_become_user"] == user, task["name"]
            assert file.parts[-3] == "preflight" or task["vars"]["ansible_become"] is True, task["name"]
