"""The order in which hosts are deployed, and in which batches. Pure functions of the inventory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean

if TYPE_CHECKING:
    from collections.abc import Mapping


def rollout_order(names: list[str], hosts: Mapping[str, Any]) -> list[str]:
    """`names` in the order of the rollout; `hosts` has the variables of every host.

    First one host of each engine, the canaries, then the others, all in the order of `names`. Hosts without a miner
    (``miner_enabled: false``) come last: they are no test of a release.
    """
    deployed = [name for name in names if _deploys(hosts[name])]
    canaries = list({_engine(hosts[name]): name for name in reversed(deployed)}.values())
    first = [name for name in deployed if name in canaries]
    return [
        *first,
        *(name for name in deployed if name not in first),
        *(name for name in names if name not in deployed),
    ]


def rollout_serial(serial: Any, names: list[str], hosts: Mapping[str, Any]) -> Any:
    """`serial` with a first batch for each engine's canary if its first batch is a single host."""
    steps = serial if isinstance(serial, list) else [serial]
    engines = {_engine(hosts[name]) for name in names if _deploys(hosts[name])}
    if str(steps[0]) != "1" or len(engines) < 2:
        return serial
    return [steps[0]] * (len(engines) - 1) + steps


def _deploys(host: Mapping[str, Any]) -> bool:
    return bool(boolean(_value(host, "miner_enabled", True), strict=False))


def _engine(host: Mapping[str, Any]) -> str:
    return str(_value(host, "omron_engine", "ezkl"))


def _value(host: Mapping[str, Any], name: str, default: Any) -> Any:
    try:
        return host.get(name, default)
    except AnsibleError:  # preflight reports it
        return default


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """The filters by name."""
        return {"rollout_order": rollout_order, "rollout_serial": rollout_serial}
