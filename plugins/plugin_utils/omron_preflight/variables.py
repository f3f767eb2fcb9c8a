"""Checks variables against the argument specifications of roles and playbooks: unknown names, wrong types."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.yaml import yaml_load

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping
    from pathlib import Path

_TEXT_NEVER = {"list": "a list", "dict": "a mapping"}
"""Types that a string cannot represent, although Ansible's own validation splits strings at commas."""
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
"""Removed variables, with the reason."""
_BOOLEAN_NEVER = ("int", "float", "str", "path")


_SELECT_HOSTS = ("omron_hosts", "omron_prover_hosts", "rollback_serial")
"""Evaluated before any host's variables are there."""
_BATCH = re.compile(r"0*[1-9]\d*|0*([1-9]\d?|100)%")
"""A batch of Ansible's ``serial``: hosts, or a share of them. 0 would be all hosts."""
_NEVER_OURS = ("_", "ansible_")
_MEANT_BY_HOSTS = ("host", "hosts")
"""Names that other playbooks use for omron_hosts."""
_NEAR = 0.8
"""Similarity from which on a name without our prefix counts as a misspelling of one of ours."""


@dataclass(frozen=True)
class Known:
    """A variable that the specification of a role, or of a playbook such as ``remove.yml``, names."""

    role: str
    option: Mapping[str, Any]

    @property
    def is_of_role(self) -> bool:
        """Whether it belongs to a role."""
        return not self.role.endswith(".yml")


def known_variables(roles: Path) -> dict[str, Known]:
    """Every variable in the argument specifications of the folder `roles` and of the playbooks next to it, by name."""
    found: dict[str, Known] = {}
    for file in sorted(roles.glob("*/meta/argument_specs.yml")):
        for spec in _specifications(file).values():
            found |= {name: Known(file.parts[-3], option) for name, option in spec.get("options", {}).items()}
    playbooks = roles.resolve().parent / "playbooks/meta/argument_specs.yml"
    for playbook, spec in _specifications(playbooks).items() if playbooks.is_file() else ():
        found |= {name: Known(f"{playbook}.yml", option) for name, option in spec["options"].items()}
    return found


def _specifications(file: Path) -> dict[str, Any]:
    specifications: dict[str, Any] = yaml_load(file.read_text(encoding="utf-8"))["argument_specs"]
    return specifications


def unknown_problems(
    names: Iterable[str], known: Mapping[str, Known], foreign: Iterable[str], extra: Iterable[str] = ()
) -> list[str]:
    """Unknown variables among `names` that look like ours; `foreign` lists variables of something else.

    A variable looks like ours if it has the prefix of a role. One that is set with -e (`extra`) is meant for this run:
    it also looks like ours if it has the prefix of a playbook, or if its name is almost one of ours.
    """
    roles = tuple(sorted({f"{one.role}_" for one in known.values() if one.is_of_role}))
    playbooks = tuple(sorted({f"{one.role[:-4]}_" for one in known.values() if not one.is_of_role}))
    left_alone, given = set(foreign), set(extra)
    problems = []
    for name in sorted({*names, *given}):
        if name in known or name in left_alone or name.startswith(_NEVER_OURS):
            continue
        ours = name.startswith(roles) or (name in given and name.startswith(playbooks))
        near = ["omron_hosts"] if name in given and name in _MEANT_BY_HOSTS else _nearest(name, known, ours)
        if not ours and not (name in given and near):
            continue
        if name in GONE:
            problems.append(f"{name} was removed ({GONE[name]}): delete it from the inventory; see CHANGELOG.md")
            continue
        meant = f"write {near[0]} if you mean that" if near else "docs/role-variables.md lists all variables"
        problems.append(
            f"{name} is not a known variable: {meant}, or list it in omron_other_variables if it belongs to "
            "something else"
        )
    return problems


def misplaced_problems(
    values: Mapping[str, Any], known: Mapping[str, Known], extra: Mapping[str, Any], groups: Container[str]
) -> list[str]:
    """Variables that select a play's hosts and that the inventory sets: no host's variables are known by then.

    `values` are those of a host, `extra` those given with -e, `groups` the inventory's. What the play used does no
    harm, nor does an omron_prover_hosts that is no group: it says that there are none.
    """
    return [
        f"{name} is {values[name]!r} in the inventory, where it has no effect on the hosts of a play, which used "
        f"{used!r}: delete it from the inventory and pass -e {name}=..."
        for name in _SELECT_HOSTS
        if name in values and values[name] != (used := extra.get(name, known[name].option.get("default")))
        if name != "omron_prover_hosts" or values[name] in groups
    ]


def serial_problems(values: Mapping[str, Any]) -> list[str]:
    """Batch sizes that Ansible would take for all hosts, or would fail with after the first hosts were changed."""
    problems = []
    for name in sorted({"omron_serial", "rollback_serial"} & set(values)):
        steps = values[name] if isinstance(values[name], list) else [values[name]]
        wrong = [step for step in steps if isinstance(step, bool) or not _BATCH.fullmatch(str(step).strip())]
        if wrong or not steps:
            problems.append(
                f"{name} has {', '.join(map(repr, wrong)) or 'no batch'}: write numbers of hosts from 1, or "
                "percentages from 1% to 100%"
            )
    return problems


def _nearest(name: str, known: Mapping[str, Known], ours: bool) -> list[str]:
    return difflib.get_close_matches(name, known, n=1, cutoff=0.6 if ours else _NEAR)


def checked_values(given: Mapping[str, Any], known: Mapping[str, Known]) -> tuple[dict[str, Any], list[str]]:
    """The value of every known variable, converted to its type, and the problems of those that are `given`.

    A value of the wrong type is replaced by the default, so that it is reported once. Secrets (``no_log``)
    are checked, but not returned.
    """
    values, problems = {}, []
    for name, one in known.items():
        value = one.option.get("default")
        if name in given:
            said, taken = _check_type(name, given[name], one)
            value = value if said else taken
            problems += said
        if not one.option.get("no_log"):
            values[name] = value
    return values, problems


def _check_type(name: str, value: Any, known: Known) -> tuple[list[str], Any]:
    kind = known.option.get("type", "str")
    where = f"see docs/role-variables.md for {known.role}"
    if kind in _TEXT_NEVER and isinstance(value, str):
        return [
            f"{name} is a string but must be {_TEXT_NEVER[kind]}: the INI inventory format has none, write "
            f"it in YAML (group_vars/miners.yml next to the inventory, or -e '{{\"{name}\": ...}}'); {where}"
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
