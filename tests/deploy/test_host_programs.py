"""The programs that the host's units run: the governor's on a stand-in for sysfs, the firewall's on recorded rules."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
GOVERNOR = ROOT / "roles/cpu_governor/files/omron-cpu-governor"
FIREWALL = ROOT / "roles/firewall/files/omron-firewall"


def cpus(root: Path, *, preference: str = "") -> Path:
    """Two CPUs with a policy each, as sysfs shows them; with an energy preference where one is named."""
    for number in (0, 1):
        policy = root / f"cpufreq/policy{number}"
        policy.mkdir(parents=True)
        (policy / "scaling_governor").write_text("schedutil\n")
        (policy / "scaling_available_governors").write_text("performance schedutil\n")
        if preference:
            (policy / "energy_performance_preference").write_text(f"{preference}\n")
            (policy / "energy_performance_available_preferences").write_text("default performance power\n")
        (root / f"cpu{number}").mkdir()
        (root / f"cpu{number}/cpufreq").symlink_to(policy)
    return root


def governor(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMRON_CPU_DIRECTORY": str(root)}
    return subprocess.run(["sh", GOVERNOR, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_the_governor_and_the_energy_preference_are_set_on_every_cpu(tmp_path: Path) -> None:
    done = governor(cpus(tmp_path, preference="balance_power"), "set", "performance", "0", "performance")
    assert (done.returncode, done.stderr) == (0, "")
    assert governor(tmp_path, "show").stdout.split("\n")[:2] == [
        "policy0 performance performance ",
        "policy1 performance performance ",
    ]


def test_a_driver_without_energy_preference_is_passed_over(tmp_path: Path) -> None:
    assert governor(cpus(tmp_path), "set", "performance", "0", "performance").returncode == 0
    assert not list(tmp_path.rglob("energy_performance_preference"))


def test_without_a_preference_the_hosts_own_stays(tmp_path: Path) -> None:
    assert governor(cpus(tmp_path, preference="power"), "set", "performance", "0").returncode == 0
    assert {file.read_text() for file in tmp_path.rglob("energy_performance_preference")} == {"power\n"}


def test_a_preference_that_cannot_be_set_is_a_failure_that_names_what_can(tmp_path: Path) -> None:
    cpus(tmp_path, preference="power")
    # As the kernel does when it does not take a value: the write fails. A folder cannot be written to, nor read.
    file = tmp_path / "cpufreq/policy1/energy_performance_preference"
    file.unlink()
    file.mkdir()
    done = governor(tmp_path, "set", "performance", "0", "performance")
    assert done.returncode == 1
    assert "policy1/energy_performance_preference: available are default performance power" in done.stderr


def program(name: str, path: Path) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


class Nft:
    """A stand-in for nft, in a folder on PATH: it prints recorded rules, and records what else it is told."""

    def __init__(self, folder: Path) -> None:
        self._ruleset, self._told = folder / "ruleset.json", folder / "told"
        self._told.touch()
        command = folder / "nft"
        command.write_text(
            "#!/bin/sh\n"
            f'[ "$*" != "--json --handle list ruleset" ] || exec cat "{self._ruleset}"\n'
            f'printf "%s\\n" "$@" "" >> "{self._told}"\n'
        )
        command.chmod(0o755)

    def has(self, entries: list[dict[str, Any]]) -> None:
        """`entries` are the live rules."""
        self._ruleset.write_text(json.dumps({"nftables": entries}))

    @property
    def told(self) -> list[tuple[str, ...]]:
        """The arguments of each command that changes something."""
        return [tuple(one.split("\n")) for one in self._told.read_text().split("\n\n") if one]


@pytest.fixture
def nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nft:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return Nft(tmp_path)


firewall = program("omron_firewall", FIREWALL)
TCP = firewall.Port(8091, "tcp")


def accept(right: Any, *, op: str = "==", protocol: str = "tcp") -> list[dict[str, Any]]:
    left = {"payload": {"protocol": protocol, "field": "dport"}}
    return [{"match": {"op": op, "left": left, "right": right}}, {"counter": {"packets": 0}}, {"accept": None}]


def rules(
    *expressions: list[dict[str, Any]], policy: str = "accept", table: str = "filter", name: str = "input"
) -> Any:
    """One chain for what comes in, with its rules, as `nft --json --handle list ruleset` writes them."""
    place = {"family": "inet", "table": table}
    chain = {**place, "name": name, "type": "filter", "hook": "input", "policy": policy}
    numbered = enumerate(expressions, start=2)
    return [{"chain": chain}] + [
        {"rule": {**place, "chain": name, "handle": handle, "expr": expression}} for handle, expression in numbered
    ]


SSH: Any = accept(22)
DROP: Any = [{"counter": {"packets": 0}}, {"drop": None}]
DROP_ONE: Any = [
    {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "10.9.9.9"}},
    *DROP,
]


SADDR: Any = {"payload": {"protocol": "ip", "field": "saddr"}}
CALLERS: Any = [{"match": {"op": "==", "left": SADDR, "right": {"set": ["10.1.0.1", "10.1.0.2"]}}}]
BY_PORT: Any = {"vmap": {"key": {"payload": {"protocol": "tcp", "field": "dport"}},
                         "data": {"set": [[22, {"accept": None}], [8091, {"jump": {"target": "miner"}}]]}}}  # fmt: skip
PORTS: Any = {"set": {"family": "inet", "table": "filter", "name": "ports", "elem": [22, 8091]}}
PAIR: Any = {"concat": [SADDR, {"payload": {"protocol": "tcp", "field": "dport"}}]}


def of_pairs(right: Any) -> Any:
    return [{"match": {"op": "==", "left": PAIR, "right": right}}, {"accept": None}]


def pair(port: Any) -> Any:
    return {"concat": [{"prefix": {"addr": "10.1.0.0", "len": 24}}, port]}


def named(kind: str, *elements: Any) -> Any:
    return {kind: {"family": "inet", "table": "filter", "name": "allow", "elem": list(elements)}}


LIMITED: Any = {
    "pairs of caller and port": rules(of_pairs({"set": [pair(22), pair(8091)]}), policy="drop"),
    "a set of pairs": [
        named("set", pair(22), pair({"range": [8000, 8100]})),
        *rules(of_pairs("@allow"), policy="drop"),
    ],
    "a set of pairs that expire": [
        named("set", {"elem": {"val": pair(8091), "timeout": 3600}}),
        *rules(of_pairs("@allow"), policy="drop"),
    ],
    "a map of pairs": [
        named("map", [pair(8091), {"accept": None}]),
        *rules([{"vmap": {"key": PAIR, "data": "@allow"}}], policy="drop"),
    ],
    "a named map of ports": [
        named("map", [8091, {"jump": {"target": "miner"}}]),
        *rules([{"vmap": {"key": PAIR["concat"][1], "data": "@allow"}}], policy="drop"),
    ],
    "a set of ports with comments": [
        named("set", {"elem": {"val": 8091, "comment": "miner"}}),
        *rules([*CALLERS, *accept("@allow")], policy="drop"),
    ],
    "a range": rules([*CALLERS, *accept({"range": [8000, 8200]})], policy="drop"),
    "only these": rules(SSH, [*CALLERS, *accept(8091)], policy="drop"),
    "a set of ports": [PORTS, *rules([*CALLERS, *accept("@ports")], policy="drop")],
    "a map of ports": rules([BY_PORT], policy="drop"),
    "nobody": rules(SSH, [accept(8091)[0], *DROP], policy="drop"),
}


@pytest.mark.parametrize("kind", LIMITED)
@pytest.mark.parametrize("opened", [False, True], ids=["", "after we had opened it"])
def test_an_operators_list_of_callers_is_told_and_never_widened(nft: Nft, kind: str, opened: bool) -> None:
    place = {"family": "inet", "table": "filter", "chain": "input"}
    ours = [{"rule": {**place, "handle": 99, "comment": "omron-miner", "expr": accept(8091)}}] if opened else []
    nft.has([*LIMITED[kind], *ours])
    found = firewall.show([TCP])
    assert (found["limited"], found["closed"], found["open"]) == (["inet filter input: 8091/tcp"], [], [])
    assert firewall.main(["open", "8091/tcp"]) == 0
    assert nft.told == ([("delete", "rule", "inet", "filter", "input", "handle", "99")] if opened else [])


@pytest.mark.parametrize(
    "entries",
    [
        rules(SSH, policy="drop"),
        rules(SSH, DROP),
        rules(SSH, [{"log": {"prefix": "x"}}, {"reject": None}]),
        rules(accept({"set": [22, 443]}), policy="drop"),
        rules([*CALLERS, *accept({"range": [1024, 65535]})], policy="drop"),  # of the network at home: any service
        rules(accept(8091, op="!="), policy="drop"),
        rules([*CALLERS, accept(8091)[0], *DROP], policy="drop"),  # these are banned
        rules([of_pairs({"set": [pair(8091)]})[0], *DROP], policy="drop"),
        rules([{"vmap": {"key": PAIR, "data": {"set": [[pair(8091), {"drop": None}]]}}}], policy="drop"),
        [named("set", pair(22), pair({"range": [1024, 65535]})), *rules(of_pairs("@allow"), policy="drop")],
    ],
)
def test_a_chain_that_drops_the_port_is_closed(nft: Nft, entries: Any) -> None:
    nft.has(entries)
    assert firewall.show([TCP])["closed"] == ["inet filter input: 8091/tcp"]


@pytest.mark.parametrize(
    "right", [8091, {"set": [22, 8091]}, {"range": [8000, 8100]}, {"set": [22, {"range": [8000, 8100]}]}]
)
def test_a_rule_of_the_hosts_own_that_lets_the_port_through_is_enough(nft: Nft, right: Any) -> None:
    nft.has(rules(SSH, accept(right), policy="drop"))
    assert firewall.show([TCP]) == {
        "open": ["inet filter input: 8091/tcp"],
        "closed": [],
        "limited": [],
        "stale": [],
        "ours": [],
    }


@pytest.mark.parametrize(
    "entries",
    [
        rules(),
        rules(SSH),  # accepts everything else as well
        rules(DROP_ONE),  # a list of those banned
        rules(SSH, policy="drop", name="INPUT"),  # written by iptables
        rules(SSH, policy="drop", table="firewalld"),
    ],
)
def test_a_chain_that_does_not_drop_or_is_anothers_to_tell_is_left_alone(nft: Nft, entries: Any) -> None:
    nft.has(entries)
    assert firewall.main(["open", "8091/tcp"]) == 0
    assert nft.told == []


@pytest.mark.parametrize(
    ("entries", "before"),
    [
        (rules(DROP_ONE, SSH, policy="drop"), ("add", "rule", "inet", "filter", "input")),
        (rules(DROP_ONE, SSH, DROP), ("insert", "rule", "inet", "filter", "input", "handle", "4")),
    ],
)
def test_the_rule_comes_after_all_that_the_host_says_itself(nft: Nft, entries: Any, before: tuple[str, ...]) -> None:
    nft.has(entries)
    assert firewall.main(["open", "8091/tcp"]) == 0
    assert nft.told == [(*before, 'tcp dport 8091 counter accept comment "omron-miner"')]


def test_only_our_own_rules_are_ever_taken_away(nft: Nft) -> None:
    entries = rules(SSH, accept(9000), accept(8091), policy="drop")
    for entry in entries[3:]:
        entry["rule"]["comment"] = "omron-miner"
    nft.has(entries)
    assert firewall.main(["open", "9000/tcp"]) == 0
    assert firewall.main(["close"]) == 0
    assert nft.told == [("delete", "rule", "inet", "filter", "input", "handle", "4")] * 2


def test_a_rule_for_one_protocol_says_nothing_about_the_other(nft: Nft) -> None:
    udp = firewall.Port(8091, "udp")
    entries = rules(accept(8091), [*CALLERS, *accept(9000)], policy="drop")
    nft.has(entries)
    found = firewall.show([TCP, udp, firewall.Port(9000, "udp")])
    assert found["open"] == ["inet filter input: 8091/tcp"]
    assert found["closed"] == ["inet filter input: 8091/udp", "inet filter input: 9000/udp"]
    assert firewall.main(["open", "8091/udp"]) == 0
    assert [one[-1] for one in nft.told] == ['udp dport 8091 counter accept comment "omron-miner"']
    nft.has(rules(accept(8091), accept(8091, protocol="udp"), policy="drop"))
    assert firewall.show([TCP, udp])["closed"] == []
    limited = rules([*CALLERS, *accept(8091, protocol="th")], policy="drop")  # of any protocol
    nft.has(limited)
    assert firewall.show([udp])["limited"] == ["inet filter input: 8091/udp"]


@pytest.mark.parametrize("arguments", [[], ["open", "ssh"], ["open", "8091"], ["open", "8091/sctp"], ["flush"]])
def test_what_is_no_command_changes_nothing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert firewall.main(arguments) == 2
    assert "usage" in capsys.readouterr().err
