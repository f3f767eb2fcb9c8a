"""The doctor on a host of upstream's sn2-miner: a stand-in answers over QUIC, a stand-in of the repository lists."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from omron_miner.building.downloads import Rules
from omron_miner.chain.bittensor_chain import look
from omron_miner.chain.chain import ChainAwayError
from omron_miner.chain.subnet_list import SubnetList, Validator
from omron_miner.constants import Constants, Network
from omron_miner.doctor import Status, examine, sn2
from omron_miner.engine import SN2, Engine
from omron_miner.host import Machine
from omron_miner.live.circuits import Settings, sync
from omron_miner.live.probe import Report
from omron_miner.live.repository import Repository
from stand_in_miner import running
from stand_in_repository import bundle_files, serving, sha

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from omron_miner.doctor.check import Check
    from stand_in_miner import StandIn

GIB = 1 << 30
HOTKEY = "5F3sa2TJAWMqDhXG6jhV4N8ko9SxwGy8TpaNS1repo5EYjQX"
OTHER = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
RULES = Rules((), plain_http=True, total_seconds=20.0, max_bytes=GIB, stall_seconds=5.0, tries=1, keep_free_bytes=0)
FINNEY = Constants.model_validate_json('{"network": {"name": "finney"}, "axon": {"external_ip": "203.0.113.7"}}')


@pytest.fixture(scope="module")
def miner() -> Iterator[StandIn]:
    with running() as found:
        yield found


def machine(root: Path, port: int, answers: dict[str, str] | None = None, free: int = 500 * GIB) -> Machine:
    """A host on which UDP `port` is bound."""
    (root / "proc/net").mkdir(parents=True, exist_ok=True)
    row = f"  12: 00000000:{port:04X} 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 1 2 0 0\n"
    (root / "proc/net/udp").write_text(f"   sl  local_address rem_address   st\n{row}")
    space = os.statvfs_result((4096, 4096, 10**9, free // 4096, free // 4096, 0, 0, 0, 0, 0))
    return Machine(root, lambda *command: (answers or {}).get(command[0]), statvfs=lambda _: space)


def status(checks: Iterator[Check]) -> dict[str, Status]:
    return {one.name: one.status for one in checks}


def engine(miner: StandIn, **more: Any) -> Engine:
    return Engine(SN2, miner.port, miner.keypair.ss58_address, **more)


# --- the miner itself -----------------------------------------------------------------------------------------------


def test_a_miner_that_refuses_a_stranger_is_well(tmp_path: Path, miner: StandIn) -> None:
    checks = list(sn2.answers(engine(miner), Constants(), machine(tmp_path, miner.port), sn2.Queries()))
    assert [(one.name, one.status) for one in checks] == [("axon port", Status.OK), ("probe", Status.OK)]
    assert "not_permitted" in checks[1].live


def test_another_miner_behind_the_port_is_found(tmp_path: Path, miner: StandIn) -> None:
    wrong = replace(engine(miner), hotkey=HOTKEY)
    *_, check = sn2.answers(wrong, Constants(), machine(tmp_path, miner.port), sn2.Queries())
    assert check.status is Status.FAIL
    assert "wrong_hotkey" in check.live
    assert check.advice


def test_a_port_that_no_program_has_open_is_not_probed(tmp_path: Path, miner: StandIn) -> None:
    def never(*_: Any) -> Report:
        raise AssertionError("it was probed")

    found = sn2.answers(engine(miner), Constants(), machine(tmp_path, miner.port + 1), sn2.Queries(probe=never))
    assert status(found) == {"axon port": Status.FAIL}


def test_silence_is_not_known_while_the_miners_allowlist_is_in_force(tmp_path: Path, miner: StandIn) -> None:
    def silent(host: str, port: int, _: str | None) -> Report:
        return Report(host, port, verdict="silent", meaning="nothing came back over UDP", advice="look")

    table = json.dumps({"nftables": [{"table": {"family": "inet", "name": "sn2_lightning"}}]})
    for answers, expected in (({"nft": table}, Status.UNKNOWN), ({}, Status.FAIL)):
        host = machine(tmp_path, miner.port, answers)
        found = status(sn2.answers(engine(miner), Constants(), host, sn2.Queries(probe=silent)))
        assert found["probe"] is expected


@pytest.mark.parametrize(
    ("verdict", "alive", "expected"),
    [("not_permitted", True, Status.OK), ("silent", False, Status.UNKNOWN), ("wrong_hotkey", False, Status.FAIL)],
)
def test_the_public_address_is_asked_too(
    tmp_path: Path, miner: StandIn, verdict: str, alive: bool, expected: Status
) -> None:
    asked = []

    def answer(host: str, port: int, _: str | None) -> Report:
        asked.append(host)
        return Report(host, port, alive=alive or host == "127.0.0.1", verdict=verdict, meaning="x")

    found = status(sn2.answers(engine(miner), FINNEY, machine(tmp_path, miner.port), sn2.Queries(probe=answer)))
    assert asked == ["127.0.0.1", "203.0.113.7"]
    assert found["from outside"] is expected


# --- the chain ------------------------------------------------------------------------------------------------------


def entry(address: tuple[str, int] | None, permit: bool = False, hotkey: str = HOTKEY) -> sn2.Queries:
    found = SubnetList({hotkey: Validator(hotkey, 7, 1.0, permit)}, 1.0, "", address)
    return sn2.Queries(look=lambda *_: found)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (("203.0.113.7", 8091), Status.OK),
        (("203.0.113.8", 8091), Status.FAIL),
        (("203.0.113.7", 8092), Status.FAIL),
        (("0.0.0.0", 0), Status.FAIL),  # noqa: S104  what the chain has for none
        (None, Status.FAIL),
    ],
)
def test_the_chains_entry_is_compared_with_this_host(address: tuple[str, int] | None, expected: Status) -> None:
    found = status(sn2.chain_entry(Engine(SN2, 8091, HOTKEY), FINNEY, entry(address)))
    assert found == {"registered": Status.OK, "validator permit": Status.OK, "chain entry": expected}


def test_a_permit_and_a_lost_registration_fail_and_a_chain_that_is_away_is_unknown() -> None:
    ours, right = Engine(SN2, 8091, HOTKEY), ("203.0.113.7", 8091)
    assert status(sn2.chain_entry(ours, FINNEY, entry(right, permit=True)))["validator permit"] is Status.FAIL
    assert status(sn2.chain_entry(ours, FINNEY, entry(None, hotkey=OTHER))) == {"registered": Status.FAIL}

    def away(*_: Any) -> SubnetList:
        raise ChainAwayError("could not read the list")

    assert status(sn2.chain_entry(ours, FINNEY, sn2.Queries(look=away))) == {"chain entry": Status.UNKNOWN}
    assert status(sn2.chain_entry(Engine(SN2), FINNEY, entry(right))) == {"chain entry": Status.UNKNOWN}
    assert list(sn2.chain_entry(ours, Constants(), entry(right))) == []


def test_the_chain_is_looked_at_and_nothing_is_kept(tmp_path: Path) -> None:
    class Axon:
        hotkey, coldkey, ip, port = HOTKEY, "5C", "203.0.113.7", 8091

    class Metagraph:
        netuid, axons, S, validator_permit = 2, [Axon()], [1.0], [False]

    class Subtensor:
        def metagraph(self, netuid: int, lite: bool) -> Metagraph:
            return Metagraph()

        def close(self) -> None:
            pass

    network = Network(name="finney", copy_file=tmp_path / "copy.json")
    found = look(network, HOTKEY, Subtensor)
    assert (found.own_address, found.validators[HOTKEY].permit) == (("203.0.113.7", 8091), False)
    assert list(tmp_path.iterdir()) == []


# --- circuits -------------------------------------------------------------------------------------------------------


def test_the_cache_and_todays_circuits(tmp_path: Path, miner: StandIn) -> None:
    cache = tmp_path / "cache"
    with serving() as repository:
        queries = sn2.Queries(lists=lambda url: Repository(url, RULES).lists(tmp_path))
        ours = engine(miner, circuit_cache=cache, circuits_url=repository.url)
        host = machine(tmp_path, miner.port)
        assert status(sn2.cached(cache)) == {"circuit cache": Status.FAIL}
        repository.add_circuit("net", [repository.add_component("one", bundle_files("one"))])
        empty = status(sn2.today(ours, Constants(), host, queries))
        assert empty == {"listed circuits": Status.WARN, "room for circuits": Status.UNKNOWN}
        assert sync(Settings(url=repository.url, cache=cache, keep_free_bytes=0, rules=RULES)).ok
        assert set(status(sn2.cached(cache)).values()) == {Status.OK}
        assert set(status(sn2.today(ours, Constants(), host, queries)).values()) == {Status.OK}
        repository.add_circuit("new", [repository.add_component("two", bundle_files("two" * 5000))])
        [listed, room] = sn2.today(ours, Constants(), host, queries)
        assert (listed.status, room.status) == (Status.WARN, Status.OK)
        assert "1 of 2 circuits, 1 component missing" in listed.live
        small = machine(tmp_path, miner.port, free=10 * GIB)
        assert status(sn2.today(ours, Constants(), small, queries))["room for circuits"] is Status.FAIL
    slices = cache / f"model_{sha('net')}" / "slices"
    (slices / "one/jstprove/circuit.bundle/circuit.bin").write_bytes(b"")
    [check] = sn2.cached(cache)
    assert (check.status, "1 components are damaged here" in check.live) == (Status.WARN, True)
    [check] = sn2.today(ours, Constants(), host, queries)
    assert check.status is Status.UNKNOWN


# --- the release ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("running_one", "installed", "expected"),
    [
        ("14.7.9", "v14.7.9", {"sn2-miner release": Status.OK, "known faults": Status.OK}),
        ("14.7.5", "v14.7.5", {"sn2-miner release": Status.OK, "known faults": Status.WARN}),
        ("14.7.5", "v14.7.9", {"sn2-miner release": Status.WARN, "known faults": Status.WARN}),
        ("15.1.0", "v15.1.0", {"sn2-miner release": Status.WARN, "known faults": Status.OK}),
        ("", "v14.7.9", {"sn2-miner release": Status.OK, "known faults": Status.OK}),
        ("", "local", {"sn2-miner release": Status.UNKNOWN}),
    ],
)
def test_the_release_and_its_known_faults(
    tmp_path: Path, running_one: str, installed: str, expected: dict[str, Status]
) -> None:
    program = tmp_path / "releases" / installed / "sn2-miner"
    program.parent.mkdir(parents=True)
    program.touch()
    (tmp_path / "current").symlink_to(program.parent)
    (tmp_path / "summary.json").write_text(json.dumps({"sn2": {"version": running_one}}))
    monitor = Constants().monitor.model_copy(update={"directory": tmp_path})
    assert status(sn2.release(Engine(SN2, program=tmp_path / "current" / "sn2-miner"), monitor)) == expected


# --- all of it ------------------------------------------------------------------------------------------------------


def test_the_release_chooses_what_is_checked(tmp_path: Path, miner: StandIn) -> None:
    (tmp_path / "constants.toml").write_text(
        f'[log]\ndirectory = "{tmp_path}"\n[monitor]\ndirectory = "{tmp_path}"\n[wallet]\npath = "{tmp_path}"\n'
    )
    of_release = {"port": miner.port, "hotkey": miner.keypair.ss58_address, "circuit_cache": f"{tmp_path}/cache"}
    (tmp_path / "sn2.json").write_text(json.dumps(of_release))
    chrony = "7F7F0101,,8,1795540418.8,{},0,0,0,0,0,0,0,0,Normal"
    host = machine(tmp_path, miner.port, {"chronyc": chrony.format("3.0")})
    found = {one.name: one for one in examine(tmp_path / "constants.toml", host)}
    assert found["probe"].status is Status.OK
    assert "UDP" in found["firewall"].wanted
    assert {"circuit cache", "sn2-miner release"} <= set(found)
    assert not {"RAM disk", "session directory", "circuits", "key files", "competition"} & set(found)
    # A handshake counts for minutes: 3 s are a clock that is not kept, and no failure.
    assert found["clock offset"].status is Status.WARN
    far = machine(tmp_path, miner.port, {"chronyc": chrony.format("61.0")})
    assert (
        next(one for one in examine(tmp_path / "constants.toml", far) if one.name == "clock offset").status
        is Status.FAIL
    )
    (tmp_path / "sn2.json").unlink()
    assert "probe" not in {one.name for one in examine(tmp_path / "constants.toml", host)}
