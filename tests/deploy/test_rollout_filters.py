"""The canary of a rollout is a host that deploys a miner, and there is one for each engine."""

from __future__ import annotations

from typing import Any

import pytest

from plugin_loading import load_plugin

PLUGIN = load_plugin("plugins/filter/rollout.py")
OFF, SN2 = {"miner_enabled": "no"}, {"omron_engine": "sn2"}


@pytest.mark.parametrize(
    ("hosts", "order"),
    [
        ({"a": {}, "b": {}, "c": {}}, ["a", "b", "c"]),
        ({"a": OFF, "b": {}, "c": {}}, ["b", "c", "a"]),
        ({"a": {}, "b": {}, "c": SN2, "d": SN2}, ["a", "c", "b", "d"]),
        ({"a": {**SN2, **OFF}, "b": {}, "c": SN2}, ["b", "c", "a"]),
        ({"a": OFF}, ["a"]),
    ],
)
def test_hosts_without_a_miner_come_last_and_one_of_each_engine_first(hosts: dict[str, Any], order: list[str]) -> None:
    assert PLUGIN.rollout_order(list(hosts), hosts) == order


@pytest.mark.parametrize(
    ("serial", "batches"),
    [([1, "25%"], [1, 1, "25%"]), (["1", 2], ["1", "1", 2]), (1, [1, 1]), ([2, "25%"], [2, "25%"]), ("100%", "100%")],
)
def test_each_engine_has_a_batch_for_its_canary(serial: Any, batches: Any) -> None:
    hosts: dict[str, dict[str, str]] = {"a": {}, "b": SN2, "c": {**OFF, "omron_engine": "other"}}
    assert PLUGIN.rollout_serial(serial, list(hosts), hosts) == batches
    assert PLUGIN.rollout_serial(serial, ["a", "c"], hosts) == serial
