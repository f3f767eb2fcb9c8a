"""What preflight asks of a host that runs upstream's miner, and what it leaves out there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from omron_preflight.all_checks import host_problems
from omron_preflight.host import port_problems
from omron_preflight.sn2 import RELEASE_FILES, memory_limit_problems, sn2_problems
from test_preflight import DEFAULTS, NEEDS, SUPPORTED, USERS, measured, only, seen

if TYPE_CHECKING:
    from pathlib import Path

ENGINE = {**DEFAULTS, "omron_engine": "sn2", "sn2_miner_release": "v14.7.5"}
REAL = {**ENGINE, "omron_network": "finney", "omron_netuid": 2}
GLIBC = "glibc 2.36"
LARGE = measured().replace(" 100 50 ", f" {200 * 2**30} 50 ")


def problems(glibc: str = GLIBC, disks: str | None = LARGE, base: dict[str, Any] = REAL, **given: Any) -> list[str]:
    assert set(given) <= set(DEFAULTS)
    return sn2_problems({**base, **given}, glibc, disks)


def test_a_complete_host_has_no_problem_and_another_engine_is_not_checked() -> None:
    assert problems() == []
    assert problems(omron_network="test", omron_netuid=118) == []
    assert problems(base=ENGINE, miner_axon_bind_ip="127.0.0.1") == [], "where it listens"
    assert problems(base=ENGINE, disks=measured()) == [], "a local network needs no room for circuits"
    assert problems(base={**DEFAULTS, "omron_engine": "ezkl"}, glibc="", disks="") == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sn2_miner_release": ""}, "sn2_miner_release is empty"),
        ({"sn2_miner_release": "../v1"}, "'../v1' is not the tag"),
        ({"sn2_miner_release_url": "github.com/x"}, "is not an address of releases"),
        ({"sn2_miner_release_folder": "here"}, "is relative"),
        ({"sn2_miner_trusted_root_file": "/nonexistent/root.json"}, "cannot be read on the control node"),
        ({"omron_netuid": 118}, "serves subnet 2 of finney, not 118"),
        ({"miner_axon_external_port": 9000}, "announces the port it listens on"),
        ({"miner_axon_bind_ip": "10.0.0.1"}, "miner_axon_bind_ip is 10.0.0.1, but sn2-miner listens on every"),
        ({"miner_axon_bind_ip": "127.0.0.1"}, "miner_axon_bind_ip is 127.0.0.1, but sn2-miner listens on every"),
        ({"omron_competition_enabled": True}, "has no competitions"),
        ({"sn2_miner_extra_arguments": ["--axon-port=9000"]}, "--axon-port, which the role sets itself"),
        ({"sn2_miner_extra_arguments": ["--loopback"]}, "--loopback, which the role sets itself"),
        ({"sn2_miner_extra_arguments": ["--disable-blacklist"]}, "lets anybody use the miner"),
        ({"sn2_miner_trial_port": 8091}, "sn2_miner_trial_port 8091 is not a port"),
        ({"sn2_miner_trial_port": 80}, "sn2_miner_trial_port 80 is not a port"),
        ({"sn2_miner_threads": -1}, "sn2_miner_threads is -1"),
        ({"sn2_miner_circuits_parallel": 33}, "sn2_miner_circuits_parallel is above 32"),
        ({"sn2_miner_kill_timeout_ms": 30000}, "sn2_miner_kill_timeout_ms is 30 s"),
        ({"sn2_miner_minimum_disk_gib": 400}, "/ has 200 GiB, at least 400 GiB are needed"),
    ],
)
def test_what_cannot_work_is_refused(given: dict[str, Any], said: str) -> None:
    assert said in only(problems(**given))


@pytest.mark.parametrize("said", ["glibc 2.34", "", "musl 1.2"])
def test_an_older_or_another_c_library_is_refused(said: str) -> None:
    assert "needs glibc 2.35 or newer" in only(problems(glibc=said))


def test_a_folder_of_files_must_have_all_of_them(tmp_path: Path) -> None:
    for name in RELEASE_FILES[:2]:
        (tmp_path / name).touch()
    assert "lacks SHA256SUMS.sigstore.json" in only(problems(sn2_miner_release_folder=str(tmp_path)))
    (tmp_path / RELEASE_FILES[2]).touch()
    assert problems(sn2_miner_release_folder=str(tmp_path)) == []


def test_a_memory_limit_is_one_that_systemd_takes() -> None:
    taken = ("", "24G", "85%", "100%", "infinity")
    refused = ("0", "24 GB", "101%", "85", "0%")
    assert [value for value in (*taken, *refused) if not memory_limit_problems(value)] == list(taken)


UDP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer
  100: 00000000:1F9B 00000000:0000 07 00000000:00000000 00:00000000 00000000    33        0 12345 2 0000000000000000
"""


def test_its_port_is_looked_for_among_udp() -> None:
    problem = only(port_problems(8091, UDP, USERS, "omron", "udp"))
    assert "port 8091 is taken by a process of user www-data: stop it (`ss -lunp` names it)" in problem
    assert port_problems(8091, UDP, USERS, "omron") == []


def test_preflight_requires_what_this_engine_needs_and_nothing_of_the_other(tmp_path: Path) -> None:
    hotkey = tmp_path / "hotkey"
    hotkey.write_text(json.dumps({"ss58Address": "5F", "secretSeed": "0x1"}))
    given = {"omron_engine": "sn2", "omron_network": "finney", "omron_circuits": [{"name": "no", "folder": "/none"}]}
    complete = {"sn2_miner_release": "v14.7.5", "omron_external_ip": "8.8.8.8", "omron_hotkey_file": str(hotkey)}
    host = seen(**given, **complete)
    host["storage"]["measured"] = LARGE
    assert host_problems(host, NEEDS, SUPPORTED) == []
    host = seen(**given)
    host["storage"]["measured"] = LARGE
    host["host"]["udp_listeners"] = UDP
    said = "\n".join(host_problems(host, NEEDS, SUPPORTED))
    for one in ("sn2_miner_release is empty", "omron_external_ip is empty", "omron_hotkey_file is empty", "is taken"):
        assert one in said
    assert "does not pay for this miner's proofs" not in said
