"""constants.toml.j2, the miner role's defaults and the package's model are three views of one set of numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from omron_miner.constants import Constants, parse_constants
from omron_miner.errors import ConfigError

ROOT = Path(__file__).parents[2]
SHARED = yaml.safe_load((ROOT / "playbooks/group_vars/all.yml").read_text())
DEFAULTS = yaml.safe_load((ROOT / "roles/miner/defaults/main.yml").read_text())


def render(**overrides: Any) -> str:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701  TOML, not HTML
    environment.filters |= {"to_json": json.dumps, "bool": bool}
    template = environment.from_string((ROOT / "templates/constants.toml.j2").read_text())
    return template.render({"ansible_managed": "Ansible managed", **SHARED, **DEFAULTS, **overrides})


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


def test_capacities_and_the_reset_can_be_set() -> None:
    circuits = {"b" * 64: 2, "a" * 64: 400}
    constants = parse_constants(
        render(
            miner_capacities_compute_units=circuits,
            miner_reset_bonds=True,
            omron_network="finney",
            omron_external_ip="192.0.2.1",
        )
    )
    assert dict(constants.capacities.compute_units) == circuits
    assert constants.reset.bonds
    with pytest.raises(ConfigError, match=r"reset\.bonds"):
        parse_constants(render(miner_reset_bonds=True))


def test_a_port_out_of_range_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"axon\.port"):
        parse_constants(render(omron_axon_port=80))
