"""The inventory's variables held against the roles' argument specifications: names that nobody knows, wrong types."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_TEXT_NEVER = {"list": "a list", "dict": "a mapping"}
"""What no text can stand for, although Ansible's own check splits one at its commas."""
_CONSTANT = "it is a constant of the package now, which suits every host"
GONE = {
    "miner_reset_bonds": "validators no longer ask for it",
    "preflight_resets_bonds": "validators no longer ask for it",
    "miner_capacities_compute_units": "each circuit is answered with the number of workers",
    "miner_competition_check_seconds": "miner_competition_settle_seconds is this interval too",
    "miner_prover_compact_proofs": "proofs are always sent without the readable copy, which no verifier reads",
    **dict.fromkeys(
        (
            "miner_network_registration_check_seconds",
            "miner_network_copy_days",
            "miner_access_max_body_depth",
            "miner_access_nonce_back_seconds",
            "miner_access_nonce_ahead_seconds",
            "miner_prover_verify_retries",
            "miner_circuits_cache_size",
            "miner_circuits_download_stall_seconds",
            "miner_circuits_download_tries",
            "miner_circuits_download_keep_free_bytes",
            "miner_competition_url_seconds",
            "miner_monitor_read_bytes_per_run",
            "miner_monitor_alert_clear_seconds",
        ),
        _CONSTANT,
    ),
}
"""Variables that roles took once, and why none does now."""
_BOOLEAN_NEVER = ("int", "float", "str", "path")


@dataclass(frozen=True)
class Known:
    """A variable that a role's specification names."""

    role: str
    option: Mapping[str, Any]


def known_variables(roles: Path) -> dict[str, Known]:
    """Every variable in the argument specifications of the folder `roles`, by name."""
    return {
        name: Known(file.parts[-3], option)
        for file in sorted(roles.glob("*/meta/argument_specs.yml"))
        for spec in yaml.safe_load(file.read_text(encoding="utf-8"))["argument_specs"].values()
        for name, option in spec.get("options", {}).items()
    }


def unknown_problems(names: Iterable[str], known: Mapping[str, Known], foreign: Iterable[str]) -> list[str]:
    """Those of `names` that begin as a role's variables do, but that no role takes; `foreign` are others'."""
    prefixes = tuple(sorted({f"{one.role}_" for one in known.values()}))
    left_alone = set(foreign)
    problems = []
    for name in sorted(names):
        if not name.startswith(prefixes) or name in known or name in left_alone:
            continue
        if name in GONE:
            problems.append(f"{name} is gone ({GONE[name]}): remove it from the inventory; CHANGELOG.md has more")
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        meant = f"write {near[0]} if that is meant" if near else "docs/role-variables.md has those there are"
        problems.append(
            f"{name} is a variable that nothing reads: {meant}, or list it in omron_other_variables if it belongs to "
            "something else"
        )
    return problems


def judged_values(given: Mapping[str, Any], known: Mapping[str, Known]) -> tuple[dict[str, Any], list[str]]:
    """The value of every known variable, as its type has it, and what is wrong with those that are `given`.

    Where a value is of the wrong type the default stands in its place, so that it is told once. Secrets (``no_log``)
    are judged, but not among the values.
    """
    values, problems = {}, []
    for name, one in known.items():
        value = one.option.get("default")
        if name in given:
            said, taken = _judge(name, given[name], one)
            value = value if said else taken
            problems += said
        if not one.option.get("no_log"):
            values[name] = value
    return values, problems


def _judge(name: str, value: Any, known: Known) -> tuple[list[str], Any]:
    kind = known.option.get("type", "str")
    where = f"docs/role-variables.md says what {known.role} takes"
    if kind in _TEXT_NEVER and isinstance(value, str):
        return [
            f"{name} is a text, {_TEXT_NEVER[kind]} is wanted: an inventory in the INI format cannot hold one, write "
            f"it in YAML (group_vars/miners.yml next to the inventory); {where}"
        ], None
    if isinstance(value, bool) and kind in _BOOLEAN_NEVER:
        return [f"{name} is the YAML boolean {str(value).lower()} (on, off, yes and no are), not {kind}: {where}"], None
    if isinstance(value, list | dict) and kind in ("str", "path"):  # which Ansible's own check takes as a text
        return [f"{name} is {'a list' if isinstance(value, list) else 'a mapping'}, not {kind}: {where}"], None
    result = ArgumentSpecValidator({name: dict(known.option)}).validate({name: value})
    if not result.error_messages:
        return [], result.validated_parameters[name]
    if known.option.get("no_log"):
        return [f"{name} is not of the type {kind}: {where}"], None
    return [f"{error}: {where}" for error in result.error_messages], None
