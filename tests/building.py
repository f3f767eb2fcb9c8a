"""What tests of circuits share: where the models are, the run args the role would render, a host below a directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import jinja2

from omron_miner.constants import Circuits, Constants, Log, Monitor, Network, Sessions, Wallet

ROOT = Path(__file__).parents[1]
NEEDS = ROOT / "files/miner/src/omron_miner/circuits/needs.json"
"""The limits that preflight checks circuits against."""
MODELS = ROOT / "files/miner/models"
FAST_ANSIBLE = {
    "ANSIBLE_STRATEGY": "mitogen_linear",
    "ANSIBLE_STRATEGY_PLUGINS": str(ROOT / "molecule/strategy_plugins"),
}
"""For the environment of ansible-playbook: one process per host runs all modules. Molecule's container does without."""


class RunArgsFile(Protocol):
    """Writes the settings file that the role would render for a circuit; returns its path."""

    def __call__(self, model: str, **run_args: Any) -> Path: ...


def render_run_args(model: str, tuned: dict[str, Any] | None = None, **run_args: Any) -> str:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701  JSON, not HTML
    environment.filters["to_nice_json"] = json.dumps
    template = environment.from_string((ROOT / "templates/settings.json.j2").read_text())
    circuit = {"name": "any", "model": model, "run_args": run_args}
    return template.render(__miner_circuit=circuit, __miner_tuned={"run_args": tuned or {}})


def constants_below(root: Path) -> Constants:
    return Constants(
        network=Network(name="local"),
        wallet=Wallet(path=root / "wallets"),
        circuits=Circuits(directory=root / "circuits", srs_directory=root / "srs", ezkl_directory=root / "ezkl"),
        sessions=Sessions(directory=root / "memory", fallback_directory=root / "sessions", minimum_free_bytes=1 << 20),
        log=Log(directory=root),
        monitor=Monitor(directory=root),
    )
