"""constants.toml.j2, the miner role's defaults and the package's model are three views of one set of numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pytest
import yaml
from ansible.plugins.filter.core import FilterModule
from jinja2.nativetypes import NativeEnvironment

from omron_miner.addresses import local_target
from omron_miner.constants import Constants, parse_constants
from omron_miner.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SHARED = yaml.safe_load((ROOT / "roles/omron/defaults/main.yml").read_text())
DEFAULTS = yaml.safe_load((ROOT / "roles/miner/defaults/main.yml").read_text())


def render(**overrides: Any) -> str:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701  TOML, not HTML
    environment.filters |= {"to_json": json.dumps, "bool": bool}
    template = environment.from_string((ROOT / "templates/constants.toml.j2").read_text())
    return template.render({**SHARED, **DEFAULTS, **overrides})


def test_the_roles_defaults_are_the_packages_defaults() -> None:
    assert parse_constants(render()) == Constants()


def test_every_constant_is_in_the_template_with_its_description() -> None:
    text = render()
    for section, field in Constants.model_fields.items():
        assert f"[{section}]" in text
        body = text.split(f"[{section}]\n")[1].split("\n\n")[0]
        model = field.annotation
        assert model is not None
        for key, value in model.model_fields.items():
            assert re.search(rf"^# {re.escape(value.description)}\n{key} = ", body, re.M), f"{section}.{key}"


def test_an_operators_value_reaches_the_package() -> None:
    constants = parse_constants(render(omron_axon_port=9000, miner_deadlines_circuit_timeout_seconds=50))
    assert constants.axon.port == 9000
    assert constants.deadlines.circuit_timeout_seconds == 50.0


def test_a_port_out_of_range_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"axon\.port"):
        parse_constants(render(omron_axon_port=80))


def waits(tasks: Any) -> Iterator[dict[str, Any]]:
    """The tasks that wait for a port, in blocks, too."""
    for task in tasks:
        yield from waits([one for part in ("block", "rescue", "always") for one in task.get(part, [])])
        if "ansible.builtin.wait_for" in task:
            yield task


@pytest.mark.parametrize("bound", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1"])  # noqa: S104
def test_the_deploy_waits_where_the_miner_listens(bound: str) -> None:
    """By the release's constants, as the gate's question does."""
    [task] = waits(yaml.safe_load((ROOT / "roles/miner/tasks/ask_miner.yml").read_text()))
    environment = NativeEnvironment()
    environment.filters |= FilterModule().filters()
    given: dict[str, Any] = {"__miner_target_toml": render(miner_axon_bind_ip=bound)}
    given["__miner_target_bound"] = environment.from_string(task["vars"]["__miner_target_bound"]).render(given)
    host = environment.from_string(task["ansible.builtin.wait_for"]["host"]).render(given)
    assert host == local_target(bound)
