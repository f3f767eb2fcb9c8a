"""Preflight finds every problem, says what to do about each, and finds nothing where nothing is wrong."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from building import render_run_args
from omron_preflight.all_checks import fleet_problems, host_problems
from omron_preflight.circuits import (
    DEFAULT_LOGROWS,
    HIGHEST,
    LOWEST,
    TUNE_OPTIONS,
    circuit_problems,
    ezkl_problems,
    srs_problems,
)
from omron_preflight.fleet import report, shared_problems
from omron_preflight.host import (
    governor_problems,
    memory_problems,
    own_memory_mb,
    port_problems,
    system_problems,
    usable_memory_mb,
    user_problems,
)
from omron_preflight.provers import FLEET_VALUES, prover_problems
from omron_preflight.settings import axon_problems, network_problems, placeholder_problems, stop_time_problems
from omron_preflight.shm_size import (
    fstab_entry,
    mount_problems,
    shm_size_bytes,
    shm_size_problems,
    sized_options,
    visible_mount,
)
from omron_preflight.storage import PLACES, disk_problems, room_problems
from omron_preflight.tuning import (
    GOVERNOR_PROGRAMS,
    governor_program_problems,
    swap_problems,
    tuning_problems,
)
from omron_preflight.variables import (
    GONE,
    checked_values,
    known_variables,
    misplaced_problems,
    serial_problems,
    unknown_problems,
)
from omron_preflight.wallet import COMPETITION_FILES, competition_problems, wallet_problems
from plugin_loading import load_plugin

ROOT = Path(__file__).parents[2]
KNOWN = known_variables(ROOT / "roles")
DEFAULTS, _ = checked_values({}, KNOWN)
SHARED = {name: value for name, value in DEFAULTS.items() if name.startswith("omron_")}
SUPPORTED = {"Debian": ["12", "13"], "Ubuntu": ["22.04", "24.04"]}
HOTKEY = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"


def settings(**overrides: Any) -> dict[str, Any]:
    assert set(overrides) <= set(SHARED)
    return {**SHARED, **overrides}


def only(problems: list[str]) -> str:
    """The one problem there is: a second one would be noise, none a hole."""
    assert len(problems) == 1, problems
    return problems[0]


def test_the_default_logrows_is_what_the_role_renders() -> None:
    assert json.loads(render_run_args("demo"))["run_args"]["logrows"] == DEFAULT_LOGROWS


# --- the host


def host(**overrides: Any) -> dict[str, Any]:
    facts = {
        "distribution": "Debian",
        "distribution_version": "12.9",
        "service_mgr": "systemd",
        "architecture": "x86_64",
        "memtotal_mb": 4000,
    }
    return {**facts, **overrides}


@pytest.mark.parametrize(
    ("distribution", "version"),
    [("Debian", "12.9"), ("Debian", "13"), ("Ubuntu", "22.04"), ("Ubuntu", "24.04")],
)
def test_a_supported_host_has_no_problem(distribution: str, version: str) -> None:
    facts = host(distribution=distribution, distribution_version=version)
    assert system_problems(facts, SUPPORTED) == []


@pytest.mark.parametrize(
    ("fact", "value", "said"),
    [
        ("distribution_version", "11.8", "Debian 12 or 13, Ubuntu 22.04 or 24.04"),
        ("distribution_version", "120", "is not supported"),
        ("distribution", "Rocky", "Rocky 12.9 is not supported"),
        ("service_mgr", "sysvinit", "PID 1 is sysvinit"),
        ("architecture", "aarch64", "the architecture is aarch64"),
    ],
)
def test_a_host_that_will_not_do_is_refused(fact: str, value: Any, said: str) -> None:
    assert said in only(system_problems(host(**{fact: value}), SUPPORTED))


def test_a_system_that_was_not_tested_may_be_tried_where_it_has_apt() -> None:
    newer = host(distribution="Ubuntu", distribution_version="26.04", pkg_mgr="apt")
    assert "or try it with omron_allow_untested_os: true" in only(system_problems(newer, SUPPORTED))
    assert system_problems(newer, SUPPORTED, allow_untested=True) == []
    other = host(distribution="Rocky", pkg_mgr="dnf")
    assert "omron_allow_untested_os" not in only(system_problems(other, SUPPORTED, allow_untested=True))


def test_every_problem_of_a_host_is_found_at_once() -> None:
    facts = host(distribution="Arch", service_mgr="runit", architecture="riscv64")
    assert len(system_problems(facts, SUPPORTED)) == 3


def test_memory_is_what_a_control_group_leaves_of_the_hosts() -> None:
    facts = host(memtotal_mb=24000)
    unlimited = f"max\n{2**63 - 4096}\n"  # control groups of the second version, and of the first
    assert usable_memory_mb(facts, unlimited) == 24000
    assert usable_memory_mb(facts, f"max\n{400 * 2**20}\n{2**30}\n") == 400
    unit = f"/sys/fs/cgroup/memory.max:{2**32}\n/sys/fs/cgroup/system.slice/omron-pm2.service/memory.max:{2**30}\n"
    assert (usable_memory_mb(facts, unit), own_memory_mb(facts, unit)) == (1024, 4096)
    assert memory_problems(facts, unlimited, 3500) == []
    assert "2000 MiB of RAM, at least 3500 MiB" in only(memory_problems(host(memtotal_mb=2000), "", 3500))
    problem = only(memory_problems(facts, f"{400 * 2**20}", 3500))
    assert "400 MiB of RAM (the host has 24000 MiB, a control group's memory limit allows less)" in problem


def measured(**free: int) -> str:
    """Free bytes on ``/``, and of places that have disks of their own; a place's disk is mounted on ``/PLACE disk``."""
    root = free.pop("root", 10**11)
    lines = [f"1 /dev/vda1 100 50 {root} 50% /"] * len(PLACES)
    for place, size in free.items():
        lines[PLACES.index(place)] = f"{place} /dev/x 100 50 {size} 50% /{place} disk"
    return "\n".join(lines)


def test_a_full_file_system_is_named_once_with_what_is_free() -> None:
    full = measured(root=2**30, logs=9 * 10**9, circuits=1)
    assert only(disk_problems(full, 5120)).startswith("1024 MiB are free on /, at least 5120 MiB")
    assert disk_problems(full, 1024) == []
    assert "free on /state disk" in only(disk_problems(measured(state=1), 1024))


@pytest.mark.parametrize(
    ("required", "policies", "container", "problems"),
    [(True, 2, False, 0), (False, 0, False, 0), (False, 2, True, 0), (True, 0, False, 1), (True, 2, True, 1)],
)
def test_a_required_governor_needs_cpufreq_of_its_own(
    required: bool, policies: int, container: bool, problems: int
) -> None:
    assert len(governor_problems(required, policies, container)) == problems


# --- what tuning would run into

MEMINFO = """MemTotal:        4000000 kB
MemFree:          100000 kB
MemAvailable:    {available} kB
SwapCached:        10000 kB
SwapTotal:       2000000 kB
SwapFree:         990000 kB
"""
MOUNTS = """20 1 0:20 / / rw - ext4 /dev/vda1 rw
25 24 0:23 / /dev/shm rw,nosuid,nodev - tmpfs tmpfs rw,size=2000000k,mode=700
30 25 0:27 / /dev/shm rw,noexec,relatime shared:4 - tmpfs tmpfs rw,seclabel,size=1000000k,mode=1777,inode64
"""
TUNING = {
    "proc": MEMINFO.format(available=3_000_000) + MOUNTS,
    "cpufreq": "",
    "governor_programs": "",
    "shm_remount": "",
    "sandbox": "",
}


def test_what_is_swapped_out_must_fit_into_memory_with_something_to_spare() -> None:
    assert swap_problems(MEMINFO.format(available=1_300_000)) == []
    assert swap_problems("") == []
    problem = only(swap_problems(MEMINFO.format(available=1_100_000)))
    assert problem.startswith("976 MiB are swapped out, but only 818 MiB of memory are free")


def test_of_several_mounts_the_visible_one_counts_and_it_must_be_a_tmpfs() -> None:
    assert visible_mount(MOUNTS)["options"][:2] == ["rw", "noexec"]
    assert mount_problems(MOUNTS) == []
    assert "/dev/shm is not mounted, but must be a tmpfs" in only(mount_problems(MOUNTS.splitlines()[0]))
    covered = MOUNTS + "31 30 0:28 / /dev/shm rw - ext4 /dev/vdb1 rw\n"
    assert "a mount of the type ext4" in only(mount_problems(covered))


def test_a_remount_names_no_owner_whose_id_an_unprivileged_container_does_not_have() -> None:
    live = visible_mount("209 231 0:75 / /dev/shm rw,nosuid,nodev shared:85 - tmpfs tmpfs rw,uid=100000,gid=100000\n")
    assert live["options"] == ["rw", "nosuid", "nodev"]
    assert fstab_entry("", live["options"], 2**30, 65536)["options"] == "nosuid,nodev,size=1073741824"


def test_only_the_size_of_the_mount_and_of_its_line_in_fstab_changes() -> None:
    live = visible_mount(MOUNTS)["options"]
    assert sized_options(live, 2**30) == "rw,noexec,relatime,mode=1777,inode64,size=1073741824"
    new = {"source": "tmpfs", "options": "noexec,mode=1777,size=1073741824", "dump": "0", "pass": "0"}
    assert fstab_entry("", live, 2**30, 65536) == new
    line = "shm /dev/shm tmpfs defaults,noexec,size=75%,uid=5 0 2"
    assert fstab_entry(line, live, 2**30, 65536)["options"] == "noexec,uid=5,size=1073741824"
    # A little more RAM, as another kernel counts it, is no reason to edit the line again.
    line = "tmpfs /dev/shm tmpfs size=1G 0 0"
    assert fstab_entry(line, live, 2**30 + 5000, 65536)["options"] == "size=1073741824"


POLICY = "/sys/devices/system/cpu/cpufreq/policy0/"
FAST = f"{POLICY}scaling_governor:performance\n{POLICY}energy_performance_preference:performance\n"
RIVALS = """Id=tuned.service
ActiveState=inactive
UnitFileState=

Id=tlp.service
ActiveState=inactive
UnitFileState=enabled
"""


@pytest.mark.parametrize(
    ("cpufreq", "named"),
    [(FAST, 0), (FAST.replace("r:performance", "r:powersave"), 1), (FAST.replace("e:performance", "e:power"), 1)],
)
def test_a_program_that_would_take_the_governor_back_is_named(cpufreq: str, named: int) -> None:
    problems = governor_program_problems("performance", "performance", cpufreq, RIVALS)
    assert len(problems) == named
    assert all("tlp.service sets the CPU governor" in one and "/etc/tlp.conf" in one for one in problems)


def test_a_container_that_may_not_do_what_the_play_does_is_told_what_to_change() -> None:
    denied = {"shm_remount": "mount: /dev/shm: permission denied.", "sandbox": "Job for run-u1.service failed"}
    problems = tuning_problems(DEFAULTS, {**TUNING, **denied}, container=True)
    assert ["cannot be remounted" in problems[0], "--features nesting=1" in problems[1]] == [True, True]
    # Switched off, or the host's own business.
    slow = {"cpufreq": FAST.replace("r:performance", "r:x"), "governor_programs": RIVALS, "proc": MEMINFO}
    assert tuning_problems({**DEFAULTS, "shm_enabled": False}, {**TUNING, **slow}, container=True) == []


def test_a_container_is_tried_with_the_sandbox_of_the_miners_unit() -> None:
    asked = yaml.safe_load((ROOT / "roles/preflight/vars/main.yml").read_text())["__preflight_sandbox"]
    unit = (ROOT / "templates/units/omron-pm2.service.j2").read_text().splitlines()
    assert asked == sorted(line for line in unit if line.startswith(("Private", "Protect")))
    programs = yaml.safe_load((ROOT / "roles/preflight/vars/main.yml").read_text())["__preflight_governor_programs"]
    assert programs == list(GOVERNOR_PROGRAMS)


# --- the port

LISTENERS = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F9B 00000000:0000 0A 00000000:00000000 00:00000000 00000000   {uid}        0 12345 1 0 100 0 0 10 0
   1: 0100007F:1F9C 0100007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 12346 1 0 100 0 0 10 0
   0: 00000000000000000000000000000000:1F9D 0000:0000 0A 0:0 0:0 0 33 0 1
"""  # 0x1F9B = 8091 listens, 8092 only has a connection, 8093 listens on IPv6
USERS = {"root": ["x", "0"], "omron": ["x", "998"], "www-data": ["x", "33"]}


@pytest.mark.parametrize("port", [8091, "8091", 8092, 1025, 65534])
def test_a_free_port_and_our_own_are_fine(port: Any) -> None:
    assert port_problems(port, LISTENERS.format(uid=998), USERS, "omron") == []


@pytest.mark.parametrize(("port", "uid", "owner"), [(8091, 0, "root"), (8093, 0, "www-data"), (8091, 4242, "id 4242")])
def test_a_port_that_another_user_holds_is_refused_with_its_name(port: int, uid: int, owner: str) -> None:
    problem = only(port_problems(port, LISTENERS.format(uid=uid), USERS, "omron"))
    assert f"port {port} is taken by a process of user {owner}" in problem


@pytest.mark.parametrize("port", [True, False, 0, 1024, 65535, -1, "on", "80a", 8091.5, None, "", [8091]])
def test_what_is_no_port_is_refused(port: Any) -> None:
    assert "from 1025 to 65534" in only(port_problems(port, "", USERS, "omron"))


# --- the service user

OURS = {"users": ["omron"], "groups": ["omron"]}
NOBODYS: dict[str, list[str]] = {"users": [], "groups": []}
PASSWD = {
    "root": ["x", "0", "0", "root", "/root", "/bin/bash"],
    "toor": ["x", "0", "0", "", "/root", "/bin/bash"],
    "admin": ["x", "1000", "1000", "", "/home/admin", "/bin/bash"],
    "postgres": ["x", "107", "113", "PostgreSQL", "/var/lib/postgresql", "/bin/bash"],
}
GROUPS = {"sudo": ["x", "27", "admin"], "admin": ["x", "1000", ""], "docker": ["x", "998", ""]}
OMRON = ["x", "997", "996", "Omron miner", "/var/lib/omron-miner", "/usr/sbin/nologin"]


def user_problems_of(made: dict[str, list[str]], users: Any = None, groups: Any = None, **values: Any) -> list[str]:
    return user_problems(
        {**SHARED, **values}, {**PASSWD, **(users or {})}, {**GROUPS, **(groups or {})}, ["login"], made
    )


def test_a_user_that_is_not_there_is_made_and_our_own_is_taken_again() -> None:
    there = {"omron": OMRON}, {"omron": ["x", "996", ""]}
    assert user_problems_of(NOBODYS) == []
    assert user_problems_of(OURS, *there) == []
    assert user_problems_of(NOBODYS, *there) == [], "made before there was a record"


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("root", "is root"),
        ("toor", "is root"),
        ("login", "is the user that Ansible logs in as"),
        ("admin", "(id 1000, home /home/admin) and was not created by this play"),
        ("postgres", "(id 107, home /var/lib/postgresql) and was not created by this play"),
        ("Omron Miner", "is not a valid user name"),
        ("-rf", "is not a valid user name"),
    ],
)
def test_somebody_elses_user_is_refused(user: str, said: str) -> None:
    assert said in only(user_problems_of(OURS, omron_user=user))


@pytest.mark.parametrize("group", ["sudo", "docker"])
def test_somebody_elses_group_is_refused(group: str) -> None:
    assert "and was not created by this play" in only(user_problems_of(OURS, omron_group=group))


# --- /dev/shm

GIB = 2**30


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("75%", 12 * GIB),
        ("100%", 16 * GIB),
        ("16G", 16 * GIB),
        ("512M", GIB // 2),
        ("1048576k", GIB),
        (2 * GIB, 2 * GIB),
        (str(GIB), GIB),
    ],
)
def test_a_size_is_a_share_of_ram_or_bytes(value: Any, size: int) -> None:
    assert shm_size_bytes(value, 16 * GIB) == size


@pytest.mark.parametrize("value", [True, False])
def test_a_yaml_boolean_is_no_size(value: bool) -> None:
    assert "is the YAML boolean" in only(shm_size_problems(value, 16 * GIB))


@pytest.mark.parametrize(
    "value", ["on", "off", "yes", "no", "half", "", "16GB", "16GiB", "1.5G", "-1G", "0%", "7 5%", "G", 0.75, None, []]
)
def test_words_and_other_units_are_no_size(value: Any) -> None:
    assert 'write a percentage of RAM like "75%" or bytes like "16G"' in only(shm_size_problems(value, 16 * GIB))


@pytest.mark.parametrize("value", ["101%", "17G", "1T"])
def test_more_than_the_ram_is_refused(value: str) -> None:
    assert "more than the 16.0 GiB of RAM" in only(shm_size_problems(value, 16 * GIB))


@pytest.mark.parametrize("value", [16, "63M"])
def test_a_forgotten_unit_is_noticed(value: Any) -> None:
    assert "too little" in only(shm_size_problems(value, 16 * GIB))


# --- other roles' variables, placeholders and the network


@pytest.mark.parametrize("text", ["CHANGE_ME", "changeme", "<your ip>", "x.x.x.x", "YOUR_HOTKEY", "/path/TODO", "XXXX"])
def test_a_placeholder_is_refused_at_any_depth(text: str) -> None:
    given = settings(omron_circuits=[{"name": "a", "folder": text}])
    problem = only(placeholder_problems(given))
    assert problem.startswith("omron_circuits still holds the placeholder")
    assert text in problem


def test_a_placeholder_is_told_once() -> None:
    given = settings(omron_network="test", omron_external_ip="CHANGE_ME")
    assert network_problems(given) == []
    assert "omron_external_ip still holds" in only(placeholder_problems(given))


def test_the_defaults_hold_no_problem() -> None:
    assert placeholder_problems(SHARED) == []
    assert network_problems(SHARED) == []
    assert wallet_problems(SHARED, []) == []
    assert ezkl_problems(SHARED["omron_ezkl_version"]) == []
    assert circuit_problems(SHARED["omron_circuits"], SHARED["omron_ezkl_version"]) == []
    assert srs_problems(SHARED) == []
    assert competition_problems(SHARED) == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"omron_network": "mainnet"}, "choose one of local, test, finney"),
        ({"omron_network": True}, "omron_network True is unknown"),
        ({"omron_external_ip": "miner.example"}, "omron_external_ip 'miner.example' is not an IP address"),
        ({"omron_netuid": True}, "omron_netuid True is not a subnet"),
        ({"omron_netuid": 70000}, "omron_netuid 70000"),
        ({"omron_local_validator_hotkeys": HOTKEY}, "is not a list"),
        ({"omron_local_validator_hotkeys": ["5abc"]}, "'5abc', which is not an SS58 address"),
        ({"omron_network": "test"}, "omron_external_ip is empty"),
        ({"omron_network": "test", "omron_external_ip": "192.168.1.4"}, "cannot be reached from the internet"),
        ({"omron_network": "test", "omron_external_ip": "203.0.113.7"}, "cannot be reached from the internet"),
        ({"omron_network": "test", "omron_external_ip": "miner.example"}, "is not an IPv4 address"),
        (
            {"omron_network": "test", "omron_external_ip": "8.8.8.8", "omron_local_validator_hotkeys": [HOTKEY]},
            "omron_local_validator_hotkeys is for the local network",
        ),
    ],
)
def test_a_network_that_cannot_work_is_refused(overrides: dict[str, Any], said: str) -> None:
    assert said in only(network_problems(settings(**overrides)))


def test_a_network_that_pays_nothing_is_refused_unless_the_operator_accepts_that() -> None:
    finney = {"omron_network": "finney", "omron_external_ip": "8.8.8.8"}
    assert "does not pay for this miner's proofs" in only(network_problems(settings(**finney)))
    assert network_problems(settings(**finney, omron_accept_unpaid=True)) == []
    assert network_problems(settings(**finney, omron_netuid=7)) == [], "another subnet"


def test_a_complete_real_network_is_fine() -> None:
    assert network_problems(settings(omron_network="test", omron_netuid=118, omron_external_ip="8.8.8.8")) == []
    assert network_problems(settings(omron_local_validator_hotkeys=[HOTKEY])) == []


@pytest.mark.parametrize("bound", ["0.0.0.0", "192.0.2.1", "::", "localhost"])  # noqa: S104
def test_the_axon_listens_on_an_address(bound: str) -> None:
    assert axon_problems({**DEFAULTS, "miner_axon_bind_ip": bound}) == []


@pytest.mark.parametrize("bound", ["", "nope", "192.0.2.1:8091", "127", None])
def test_an_axon_that_cannot_listen_is_refused(bound: Any) -> None:
    problem = only(axon_problems({**DEFAULTS, "miner_axon_bind_ip": bound}))
    assert problem.startswith(f"miner_axon_bind_ip {bound!r} is not an IP address: ")


# --- the wallet


def test_a_hotkey_is_taken_and_its_content_never_told(tmp_path: Path) -> None:
    hotkey = tmp_path / "default"
    hotkey.write_text(json.dumps({"ss58Address": HOTKEY, "secretPhrase": "bottom drive obey"}))
    assert wallet_problems(settings(omron_network="finney", omron_hotkey_file=str(hotkey)), []) == []
    hotkey.write_text('{"secret": "bottom drive obey"}')
    assert "bottom" not in only(wallet_problems(settings(omron_hotkey_file=str(hotkey)), []))


@pytest.mark.parametrize("network", ["test", "finney"])
def test_a_real_network_needs_a_hotkey(network: str) -> None:
    assert "omron_hotkey_file is empty" in only(wallet_problems(settings(omron_network=network), []))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"$NACL\x00\x01", "is encrypted"),
        (b"\x00\xff\xfe", "is not a bittensor key file"),
        (b"[1]", "is not a bittensor key file"),
        (b"", "is not a bittensor key file"),
        (b'{"a": 1}', "is not a bittensor key file"),
    ],
)
def test_what_is_no_hotkey_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    """Also by a reader that takes text only, as Ansible's does."""
    (tmp_path / "default").write_bytes(content)
    given = settings(omron_hotkey_file=str(tmp_path / "default"))
    for read in (Path.read_bytes, lambda path: path.read_text(encoding="utf-8").encode()):
        assert said in only(wallet_problems(given, [], read))


def test_a_hotkey_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    def said(value: Any) -> str:
        return only(wallet_problems(settings(omron_network="finney", omron_hotkey_file=value), []))

    assert "cannot be read on the control node (No such file or directory)" in said(str(tmp_path / "gone"))
    assert "is a folder" in said(str(tmp_path))
    assert "is relative" in said("hotkeys/default")
    assert "is not a path" in said(True)


@pytest.mark.parametrize("name", ["coldkey", "Coldkey.json", "coldkeypub.txt", "coldkeys/default"])
def test_a_coldkey_is_refused_before_it_is_read(tmp_path: Path, name: str) -> None:
    problem = only(wallet_problems(settings(omron_hotkey_file=str(tmp_path / name)), []))
    assert "looks like a coldkey" in problem  # the file is not even there


def test_a_coldkey_in_the_hosts_wallets_is_refused() -> None:
    found = "/var/lib/omron-miner/wallets/miner/coldkey"
    assert only(wallet_problems(SHARED, [found])).startswith(f"{found} on the host is a coldkey")


# --- circuits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A prebuilt circuit's folder as preflight sees it."""
    path = tmp_path / f"model_{'ab' * 32}"
    path.mkdir()
    for name in ("model.compiled", "vk.key", "pk.key"):
        (path / name).write_bytes(b"x")
    (path / "settings.json").write_text(json.dumps({"version": "22.0.1", "run_args": {"logrows": 19}}))
    (path / "metadata.json").write_text(json.dumps({"proof_system": "EZKL"}))
    return path


def circuits(*given: Any) -> list[str]:
    problems: list[str] = circuit_problems(list(given), "22.0.1")
    return problems


def test_built_in_models_onnx_files_and_prebuilt_folders_are_taken(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes(b"x")
    assert not circuits(
        {"name": "demo", "model": "demo"},
        {"name": "mine", "model": str(tmp_path / "mine.onnx"), "run_args": {"logrows": 17}},
        {"name": "theirs", "folder": str(folder)},
    )


def test_a_tuned_profile_counts_unless_the_inventory_says_otherwise(tmp_path: Path) -> None:
    tuned = tmp_path / "run_args.json"
    tuned.write_text(json.dumps({"run_args": {"logrows": 27}}))
    circuit = {"name": "a", "model": "demo", "tuned": str(tuned)}
    assert "logrows 27 is not a whole number" in only(circuits(circuit))
    assert not circuits({**circuit, "run_args": {"logrows": 16}})


@pytest.mark.parametrize(
    ("circuit", "said"),
    [
        ("demo", "number 1 is not a mapping"),
        ({"model": "demo"}, "name None is not a valid name"),
        ({"name": "../x", "model": "demo"}, "name '../x' is not a valid name"),
        ({"name": True, "model": "demo"}, "name True is not a valid name"),
        ({"name": "a"}, "either model (to build it) or folder"),
        ({"name": "a", "model": "demo", "folder": "/x"}, "either model (to build it) or folder"),
        ({"name": "a", "model": "demo", "logrows": 16}, "unknown keys logrows"),
        ({"name": "a", "model": "/nowhere.onnx"}, "cannot be read on the control node"),
        ({"name": "a", "model": "big"}, "model big is relative"),
        ({"name": "a", "model": __file__}, "is not an .onnx file"),
        ({"name": "a", "model": "demo", "run_args": []}, "run_args is not a mapping"),
        ({"name": "a", "model": "demo", "run_args": {"logrows": True}}, "logrows True is not a whole number"),
        ({"name": "a", "model": "demo", "run_args": {"logrows": "sixteen"}}, "logrows 'sixteen'"),
        ({"name": "a", "model": "demo", "run_args": {"logrows": 27}}, "logrows 27 is not a whole number from 1 to 26"),
        ({"name": "a", "model": "demo", "tuned": "/nowhere.json"}, "tuned /nowhere.json cannot be read"),
        ({"name": "a", "model": "demo", "tuned": __file__}, "has no run_args"),
        ({"name": "a", "folder": "model_x"}, "is relative"),
        ({"name": "a", "folder": "/nowhere"}, "folder /nowhere does not exist"),
    ],
)
def test_a_circuit_that_is_not_well_formed_is_refused(circuit: Any, said: str) -> None:
    assert said in only(circuits(circuit))


def tuning(options: Any, **more: Any) -> list[str]:
    return circuits({"name": "a", "model": "demo", "circuit_tune": options, **more})


def test_a_circuit_may_be_tuned_by_its_host(tmp_path: Path) -> None:
    for name in ("a.npy", "b.json"):
        (tmp_path / name).write_bytes(b"x")
    assert not tuning(True)
    assert not tuning(False, tuned=str(run_args_json(tmp_path)))
    options = {"low": 0, "high": 1.5, "floor": 0.9, "best": 1, "proofs": 2, "compact": True, "baselines": "given",
               "margin": 1.5}  # fmt: skip
    for data in (tmp_path, tmp_path / "a.npy", tmp_path / "b.json"):
        assert not tuning({**options, "data": str(data)}, run_args={"logrows": 12})


def run_args_json(place: Path) -> Path:
    path = place / "run_args.json"
    path.write_text(json.dumps({"run_args": {"logrows": 12}}))
    return path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (None, "circuit_tune None is neither true nor a mapping"),
        ("true", "circuit_tune 'true' is neither true nor a mapping"),
        ({}, "circuit_tune {} is neither true nor a mapping"),
        ([{"best": 1}], "is neither true nor a mapping"),
        ({"legs": 1, "bases": 2}, "circuit_tune has no bases, legs: only baselines, best, "),
        ({"best": 0}, "best 0 is not a whole number, at least 1"),
        ({"best": True}, "best True is not a whole number"),
        ({"best": "4"}, "best '4' is not a whole number"),
        ({"proofs": 1}, "proofs 1 is not a whole number, at least 2"),
        ({"proofs": 2.0}, "proofs 2.0 is not a whole number"),
        ({"floor": 99}, "floor 99 is not an accuracy from 0 to 1"),
        ({"margin": 0.9}, "margin 0.9 is not a number, at least 1"),
        ({"margin": "2"}, "margin '2' is not a number"),
        ({"compact": "yes"}, "compact 'yes' is not true or false"),
        ({"baselines": "none"}, "baselines 'none' is not one of all, given"),
        ({"low": "0"}, "low '0' is not a number"),
        ({"high": True}, "high True is not a number"),
        ({"high": math.nan}, "high nan is not a number"),
        ({"low": 2}, "low 2 is not below high 1.0"),
        ({"data": "photos"}, "data photos is relative"),
        ({"data": "/nowhere"}, "data /nowhere cannot be read on the control node"),
        ({"data": 7}, "data 7 is not a path"),
        ({"data": __file__}, "is not a sample: name a file of samples (.json or .npy) or a folder of them"),
        ({"data": str(ROOT / "roles")}, "holds no .json or .npy file"),
    ],
)
def test_a_tuning_that_is_not_well_formed_is_refused(options: Any, said: str) -> None:
    assert said in only(tuning(options))


def test_what_is_tuned_already_or_prebuilt_is_not_tuned(folder: Path, tmp_path: Path) -> None:
    for options in (True, {"best": 1}):
        problem = only(tuning(options, tuned=str(run_args_json(tmp_path))))
        assert "tuned and circuit_tune cannot be combined" in problem
        given = {"name": "a", "folder": str(folder), "circuit_tune": options}
        assert "circuit_tune does nothing for a prebuilt folder" in only(circuits(given))


@pytest.mark.parametrize("floor", [-0.1, 1.5, True, "0.9", None, float("nan")])
def test_a_floor_is_a_number_from_0_to_1(floor: Any) -> None:
    assert "is not a number from 0 to 1" in only(circuits({"name": "a", "model": "demo", "floor": floor}))
    assert circuits({"name": "a", "model": "demo", "floor": 0.5}) == []


def test_the_options_are_the_commands() -> None:
    from omron_miner.cli.tune import circuit_tune_command

    known = {name for one in circuit_tune_command.params for name in one.opts}
    assert {f"--{name}" for name in TUNE_OPTIONS} <= known
    defaults = {one.name: one.default for one in circuit_tune_command.params}
    assert (defaults["low"], defaults["high"]) == (LOWEST, HIGHEST)
    messages = [defaults[name] for name in ("floor", "best", "proofs", "margin")]
    assert messages == [0.99, 4, 3, 2], "what the messages say"


@pytest.mark.parametrize("given", [None, [], "demo", {"name": "demo"}, True])
def test_circuits_are_a_list_with_something_in_it(given: Any) -> None:
    assert "not a list with at least one circuit" in only(circuit_problems(given, "22.0.1"))


def test_one_circuit_cannot_have_two_names() -> None:
    run_args = {"logrows": 14}
    one, other = ({"name": name, "model": "demo", "run_args": run_args} for name in ("one", "other"))
    assert circuit_problems([one, {**other, "run_args": {"logrows": 15}}], "22.0.1") == []
    assert "circuits one and other differ only in" in only(circuit_problems([one, other], "22.0.1"))
    bare = [{"name": "one", "model": "tiny"}, {"name": "other", "model": "tiny", "run_args": {}}]
    assert "circuits one and other differ only in" in only(circuit_problems(bare, "22.0.1"))


def test_two_circuits_cannot_share_a_name() -> None:
    circuit = {"name": "a", "model": "tiny"}
    assert "2 circuits are named a" in only(circuits(circuit, circuit))


@pytest.mark.parametrize("name", ["model.compiled", "settings.json", "vk.key", "pk.key", "metadata.json"])
def test_a_folder_without_all_its_files_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"lacks {name}" in only(circuits({"name": "a", "folder": str(folder)}))
    (folder / name).touch()
    assert f"lacks {name}" in only(circuits({"name": "a", "folder": str(folder)}))


def test_a_key_that_the_host_can_fetch_may_be_missing(folder: Path) -> None:
    def named(**files: Any) -> list[str]:
        (folder / "metadata.json").write_text(json.dumps({"proof_system": "EZKL", "external_files": files}))
        return circuits({"name": "a", "folder": str(folder)})

    (folder / "pk.key").unlink()
    assert named(**{"pk.key": "https://storage.example/pk.key"}) == []
    for other in ({}, {"pk.key": "/elsewhere"}, {"pk.key": 1}, {"vk.key": "https://storage.example/vk.key"}):
        assert "lacks pk.key" in only(named(**other))
    (folder / "vk.key").unlink()
    assert "lacks vk.key, pk.key" in only(named(**{"pk.key": "https://storage.example/pk.key"}))


def test_a_circuit_of_another_ezkl_is_refused(folder: Path) -> None:
    (folder / "settings.json").write_text('{"version": "23.0.5"}')
    problem = only(circuits({"name": "a", "folder": str(folder)}))
    assert "was compiled by EZKL 23.0.5, but 22.0.1 will be installed" in problem
    assert "set omron_ezkl_version to 23.0.5 or use a circuit compiled by 22.0.1" in problem
    assert circuit_problems([{"name": "a", "folder": str(folder)}], "23.0.5") == []
    (folder / "settings.json").write_text('{"version": "21.0.3"}')
    assert "set omron_ezkl_version" not in only(circuits({"name": "a", "folder": str(folder)}))


@pytest.mark.parametrize("version", ["22.0.2", "", None, 23.0, True, ["22.0.1"], {}])
def test_an_ezkl_that_is_not_shipped_is_refused_once(folder: Path, version: Any) -> None:
    assert "is not supported: choose" in only(ezkl_problems(version))
    assert circuit_problems([{"name": "a", "folder": str(folder)}], version) == []


def test_another_proof_system_is_refused_for_that_reason_alone(folder: Path) -> None:
    (folder / "metadata.json").write_text('{"proof_system": "JOLT"}')
    (folder / "pk.key").unlink()
    assert "has the proof system JOLT" in only(circuits({"name": "a", "folder": str(folder)}))


def test_a_circom_folder_is_asked_for_its_own_files(folder: Path) -> None:
    (folder / "metadata.json").write_text('{"proof_system": "CIRCOM"}')
    assert "lacks circuit.wasm, verification_key.json, circuit.zkey" in only(
        circuits({"name": "a", "folder": str(folder)})
    )
    for name in ("circuit.wasm", "verification_key.json", "circuit.zkey"):
        (folder / name).write_bytes(b"x")
    (folder / "settings.json").write_text('{"public_inputs": {}}')
    assert not circuits({"name": "a", "folder": str(folder)})


def test_a_folder_must_bear_its_circuits_id(folder: Path) -> None:
    renamed = folder.rename(folder.with_name("model_lstm"))
    assert "is not named model_<64 hex digits>" in only(circuits({"name": "a", "folder": str(renamed)}))


@pytest.mark.parametrize("name", ["settings.json", "metadata.json"])
def test_broken_json_in_a_folder_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text("{")
    assert f"{name} in {folder} is not a JSON object" in only(circuits({"name": "a", "folder": str(folder)}))


# --- the SRS


def srs(path: Path, **overrides: Any) -> list[str]:
    problems: list[str] = srs_problems(settings(omron_srs_file=str(path), **overrides))
    return problems


def srs_file(path: Path, logrows: int) -> Path:
    with path.open("wb") as file:
        file.truncate(128 * 2**logrows + 260)  # sparse
    return path


def test_without_a_well_formed_circuit_the_srs_is_not_checked_by_its_size(tmp_path: Path) -> None:
    assert srs(srs_file(tmp_path / "kzg1.srs", 1), omron_circuits=[{"name": "a", "folder": "/nowhere"}]) == []


def test_an_srs_must_reach_the_largest_logrows(tmp_path: Path, folder: Path) -> None:
    given = [{"name": "a", "model": "tiny", "run_args": {"logrows": 12}}, {"name": "b", "folder": str(folder)}]
    assert srs(srs_file(tmp_path / "kzg19.srs", 19), omron_circuits=given) == []
    problem = only(srs(srs_file(tmp_path / "kzg18.srs", 18), omron_circuits=given))
    assert "logrows 19 needs 67108864" in problem
    assert "use kzg19.srs or a larger one" in problem


def test_a_model_without_logrows_counts_with_the_default(tmp_path: Path) -> None:
    assert "logrows 16 needs 8388608" in only(srs(srs_file(tmp_path / "kzg15.srs", 15)))


def test_an_srs_may_be_of_any_size_where_tuning_finds_the_logrows(tmp_path: Path) -> None:
    path, circuit = srs_file(tmp_path / "kzg12.srs", 12), {"name": "a", "model": "tiny", "circuit_tune": True}
    assert srs(path, omron_circuits=[circuit]) == []
    assert "logrows 13 needs" in only(srs(path, omron_circuits=[{**circuit, "run_args": {"logrows": 13}}]))


def test_an_srs_of_another_checksum_is_refused(tmp_path: Path) -> None:
    path = srs_file(tmp_path / "kzg16.srs", 16)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert srs(path, omron_srs_sha256=digest.upper()) == []
    assert "has the SHA-256" in only(srs(path, omron_srs_sha256="0" * 64))
    assert "is not 64 hex digits" in only(srs(path, omron_srs_sha256="abc"))
    assert "without omron_srs_file" in only(srs_problems(settings(omron_srs_sha256=digest)))


def test_a_real_network_refuses_a_test_srs(tmp_path: Path) -> None:
    path = srs_file(tmp_path / "kzg16.srs", 16)
    real = {"omron_network": "finney", "omron_srs_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert srs(path, **real) == []
    marker, record = tmp_path / "kzg16.srs.TEST-ONLY", tmp_path / "kzg16.srs.json"
    marker.touch()
    assert srs(path) == []
    assert "is a test SRS" in only(srs(path, **real))
    marker.unlink()
    record.write_text(json.dumps([{"origin": "generated", "sha256": "another file's"}]))
    assert srs(path, **real) == []
    record.write_text(json.dumps([{"origin": "generated", "sha256": real["omron_srs_sha256"]}]))
    assert "is a test SRS" in only(srs(path, **real))


def test_a_real_network_wants_the_srs_compared(tmp_path: Path) -> None:
    assert "set omron_srs_sha256" in only(srs(srs_file(tmp_path / "kzg16.srs", 16), omron_network="finney"))


# --- room for prebuilt circuits


def room(folder: Path, there: list[dict[str, Any]] | None = None, srs: str = "", **free: int) -> list[str]:
    given = [{"name": "a", "folder": str(folder)}, {"name": "b", "model": "demo"}]
    problems: list[str] = room_problems(given, measured(**free), there or [], srs)
    return problems


def test_prebuilt_folders_must_fit_and_are_counted_as_often_as_they_are_there(folder: Path, tmp_path: Path) -> None:
    sizes = [file.stat().st_size for file in folder.iterdir()]
    needed = sum(sizes)
    assert room(folder, root=needed) == [], "a hard link takes no room, and a file on its way is moved"
    assert "are free on /: " in only(room(folder, root=needed - 1))
    assert room(folder, root=needed, circuits=needed) == []
    assert "are free on /circuits disk: " in only(room(folder, root=needed, circuits=needed - 1))
    assert len(room(folder, root=needed - 1, circuits=needed - 1)) == 2
    assert room(folder, root=needed, transfer=max(sizes)) == []
    assert "are free on /transfer disk: " in only(room(folder, root=needed, transfer=max(sizes) - 1))
    big = srs_file(tmp_path / "kzg4.srs", 4)
    assert len(room(folder, srs=str(big), root=needed)) == 1
    assert room(folder, srs=str(big), root=needed + 2 * big.stat().st_size) == []


def test_a_folder_that_was_copied_before_takes_no_more_room(folder: Path) -> None:
    key = {"path": f"/var/lib/omron-miner/supplied/circuits/{folder.name}/pk.key", "size": 1}
    assert room(folder, [key], root=0) == []
    assert len(room(folder, [{**key, "size": 2}], root=0)) == 1, "another key of the same circuit is copied again"


def test_the_key_of_a_circom_circuit_takes_room_too(folder: Path) -> None:
    (folder / "pk.key").rename(folder / "circuit.zkey")
    needed = sum(file.stat().st_size for file in folder.iterdir())
    assert "are free on /: " in only(room(folder, root=needed - 1))
    assert room(folder, [{"path": f"/x/{folder.name}/circuit.zkey", "size": 1}], root=0) == []


def test_a_small_disk_is_no_matter_where_no_miner_is_deployed() -> None:
    for given, for_miner, problems in ((seen(), True, 1), (seen(), False, 0), (seen(miner_enabled=False), True, 0)):
        given["storage"] |= {"measured": measured(root=2**30), "for_miner": for_miner}
        assert len(host_problems(given, NEEDS, SUPPORTED)) == problems


# --- the competition


def competing(folder: Path, **overrides: Any) -> dict[str, Any]:
    """All that a competition needs; its files are in `folder`."""
    keys = folder / "keys"
    keys.write_text("[default]\naws_access_key_id = AKIA\naws_secret_access_key = hush\n")
    for name in COMPETITION_FILES:
        (folder / name).write_text("{}")
    given = {
        "omron_competition_enabled": True,
        "omron_competition_endpoint": "https://0a1b.r2.cloudflarestorage.com",
        "omron_competition_bucket": "circuits",
        "omron_competition_credentials_file": str(keys),
        "omron_competition_circuit": str(folder),
    }
    return settings(**{**given, **overrides})


def test_a_whole_competition_is_fine_and_one_that_is_off_may_be_half_set(tmp_path: Path) -> None:
    assert competition_problems(competing(tmp_path)) == []
    amazon = competing(tmp_path, omron_competition_endpoint="", omron_competition_region="eu-west-1")
    assert competition_problems(amazon) == []
    assert competition_problems(settings(omron_competition_bucket="circuits")) == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"omron_competition_bucket": ""}, "omron_competition_bucket is empty"),
        ({"omron_competition_bucket": "Mine/x"}, "is not a valid bucket name"),
        ({"omron_competition_credentials_file": ""}, "omron_competition_credentials_file is empty"),
        ({"omron_competition_credentials_file": "/nowhere/keys"}, "cannot be read on the control node"),
        ({"omron_competition_endpoint": "r2.example/bucket"}, "is not https://HOST"),
        ({"omron_competition_endpoint": ""}, "omron_competition_region is auto"),
        ({"omron_competition_circuit": "circuits/mine"}, "is relative"),
        ({"omron_competition_circuit": "/nowhere"}, "lacks model.compiled and settings.json"),
    ],
)
def test_a_half_set_competition_is_refused(tmp_path: Path, overrides: dict[str, Any], said: str) -> None:
    assert said in only(competition_problems(competing(tmp_path, **overrides)))


def test_credentials_that_lack_a_key_are_refused_and_their_content_is_not_told(tmp_path: Path) -> None:
    given = competing(tmp_path)
    (tmp_path / "keys").write_text("[default]\naws_access_key_id = hush\n")
    problem = only(competition_problems(given))
    assert "lacks aws_secret_access_key" in problem
    assert "hush" not in problem


# --- encrypted files


def without_password(_: Path) -> bytes:
    raise ValueError("no vault secrets found")


def test_encrypted_files_are_checked_as_they_will_reach_the_host(tmp_path: Path) -> None:
    given = competing(tmp_path, omron_hotkey_file=str(tmp_path / "hotkey"))
    plain = {name: (tmp_path / name).read_bytes() for name in ("keys",)}
    plain["hotkey"] = json.dumps({"ss58Address": HOTKEY}).encode()
    for name in plain:
        (tmp_path / name).write_text("$ANSIBLE_VAULT;1.1;AES256\n00")
    assert competition_problems(given, lambda path: plain[path.name]) == []
    assert "only the public half" in only(wallet_problems(given, [], lambda path: plain[path.name]))
    plain["keys"] = b"[default]\n"
    assert "lacks aws_access_key_id" in only(competition_problems(given, lambda path: plain[path.name]))


def test_an_encrypted_file_without_its_password_is_refused_before_anything_changes(tmp_path: Path) -> None:
    given = competing(tmp_path, omron_hotkey_file=str(tmp_path / "hotkey"))
    for name in ("keys", "hotkey"):
        (tmp_path / name).write_text("$ANSIBLE_VAULT;1.1;AES256\n00")
    for problem in (
        only(wallet_problems(given, [], without_password)),
        only(competition_problems(given, without_password)),
    ):
        assert "is encrypted and cannot be decrypted: pass --ask-vault-pass" in problem


# --- a hotkey that can sign


@pytest.mark.parametrize("more", [{}, {"secretSeed": None, "privateKey": ""}, {"publicKey": "0x12"}])
def test_the_public_half_of_a_hotkey_is_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    hotkey = tmp_path / "defaultpub.txt"
    hotkey.write_text(json.dumps({"ss58Address": HOTKEY, **more}))
    problem = only(wallet_problems(settings(omron_hotkey_file=str(hotkey)), []))
    assert "holds only the public half of a key, which cannot sign" in problem


@pytest.mark.parametrize("name", ["secretPhrase", "secretSeed", "privateKey"])
def test_any_secret_of_a_key_can_sign(tmp_path: Path, name: str) -> None:
    hotkey = tmp_path / "default"
    hotkey.write_text(json.dumps({"ss58Address": HOTKEY, name: "bottom drive obey"}))
    assert wallet_problems(settings(omron_hotkey_file=str(hotkey)), []) == []


# --- the inventory's names and types


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("omron_cirquits", "omron_circuits"),
        ("omron_hotkeyfile", "omron_hotkey_file"),
        ("miner_prover_worker", "miner_prover_workers"),
        ("swap_enable", "swap_enabled"),
        ("cpu_governor", None),  # no prefix of a role's: it may be anybody's
    ],
)
def test_a_misspelt_variable_is_refused_with_the_nearest_name(name: str, meant: str | None) -> None:
    names = [*KNOWN, name, "ansible_host", "inventory_dir", "remove_data", "__miner_release"]
    problems = unknown_problems(names, KNOWN, [])
    if meant is None:
        assert problems == []
    else:
        assert f"{name} is not a known variable: write {meant} if you mean that" in only(problems)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("omron_host", "omron_hosts"),
        ("omorn_hosts", "omron_hosts"),
        ("hosts", "omron_hosts"),
        ("confrm", "confirm"),
        ("rollback_too", "rollback_to"),
        ("remove_everything", None),
        ("report_fail_an", "report_fail_on"),
    ],
)
def test_a_misspelt_variable_of_this_run_is_refused_even_if_no_role_begins_so(name: str, meant: str | None) -> None:
    problem = only(unknown_problems([], KNOWN, [], [name, "confirm", "site", "ansible_user", "__x"]))
    said = f"write {meant} if you mean that" if meant else "docs/role-variables.md lists all variables"
    assert f"{name} is not a known variable: {said}" in problem
    assert unknown_problems([name], KNOWN, [name], [name]) == []


def test_a_playbooks_variables_have_a_type() -> None:
    given = {"confirm": "yes", "remove_data": "maybe", "report_fail_on": ["sad"], "rollback_serial": [1, "50%"]}
    values, problems = checked_values(given, KNOWN)
    assert (values["confirm"], values["rollback_serial"]) == (True, [1, "50%"])
    assert ["see docs/role-variables.md for remove.yml" in one for one in problems] == [True, False]
    assert "report_fail_on" in problems[1]


def test_a_variable_that_is_gone_is_said_to_be() -> None:
    assert not set(GONE) & set(KNOWN)
    problem = only(unknown_problems(["miner_network_copy_days"], KNOWN, []))
    assert problem.startswith("miner_network_copy_days was removed (it is a constant of the package now")


def test_a_variable_of_something_else_may_be_listed() -> None:
    assert "docs/role-variables.md lists all variables" in only(unknown_problems(["pm2_xyzzy_quux"], KNOWN, []))
    assert unknown_problems(["pm2_xyzzy_quux"], KNOWN, ["pm2_xyzzy_quux"]) == []


def test_a_text_that_stands_for_a_value_is_taken_as_that_value() -> None:
    """As ``-e`` and an inventory in the INI format give them."""
    given = {"miner_enabled": "false", "omron_axon_port": "8092", "miner_access_minimum_stake": "10", "shm_size": "1G"}
    values, problems = checked_values(given, KNOWN)
    assert problems == []
    assert [values[name] for name in given] == [False, 8092, 10.0, "1G"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("pm2_log_keep", True, "pm2_log_keep is the YAML boolean true (on, off, yes and no are), not int"),
        ("cpu_governor_name", False, "cpu_governor_name is the YAML boolean false"),
        ("omron_axon_port", "eighty", "see docs/role-variables.md for omron"),
        (
            "omron_circuits",
            '[{"name": "demo"}]',
            "omron_circuits is a string but must be a list: the INI",
        ),
        ("kernel_sysctl", "vm.overcommit_memory=0", "kernel_sysctl is a string but must be a mapping"),
        ("swap_services", {"a": 1}, "see docs/role-variables.md for swap"),
        ("pm2_log_rotate", "never", "see docs/role-variables.md for pm2"),
    ],
)
def test_a_value_of_the_wrong_type_is_told_once_with_the_role_that_takes_it(name: str, value: Any, said: str) -> None:
    values, problems = checked_values({name: value}, KNOWN)
    assert said in only(problems)
    assert values[name] == DEFAULTS[name], "so that no other check reports it"


def test_a_secret_of_the_wrong_type_is_not_shown() -> None:
    values, problems = checked_values({"monitor_alert_webhook_url": {"hush": "hush"}}, KNOWN)
    assert "hush" not in only(problems).replace("monitor_alert_webhook_url", "")
    assert "monitor_alert_webhook_url" not in values


# --- all of it together


NEEDS = json.loads((ROOT / "files/miner/src/omron_miner/circuits/needs.json").read_text())


def seen(**overrides: Any) -> dict[str, Any]:
    """What was read of a host that will do, whose inventory says `overrides`."""
    values, problems = checked_values(overrides, KNOWN)
    return {
        "unreachable": "",
        "variables": {"problems": problems, "values": values},
        "host": {
            "facts": host(virtualization_tech_guest=[]),
            "memory_limits": "",
            "tuning": TUNING,
            "listeners": "",
            "udp_listeners": "",
            "glibc": "glibc 2.36",
            "user_id": "0",
            "become_error": "",
            "missing_programs": [],
            "users": USERS,
            "groups": {},
            "login_users": [],
            "made_here": {"users": ["omron"], "groups": []},
        },
        "wallet": {"coldkeys": []},
        "storage": {"measured": measured(), "for_miner": True, "keys": []},
    }


def test_a_host_that_will_do_has_no_problem_and_every_check_reports_its_problem() -> None:
    assert host_problems(seen(), NEEDS, SUPPORTED) == []
    given = seen(
        omron_network="finney", shm_size="1M", cpu_governor_required=True, omron_ezkl_version="1", pm2_log_keep=[]
    )
    given["host"] |= {
        "facts": host(distribution="Arch"),
        "memory_limits": "1048576",
        "missing_programs": ["sudo"],
        "user_id": "1000",
    }
    given["wallet"]["coldkeys"] = ["/w/coldkey"]
    given["storage"]["measured"] = measured(root=2**30)
    said = "\n".join(host_problems(given, NEEDS, SUPPORTED))
    every = [
        "Arch",
        "apt-get install sudo",
        "the user with ID 1000",
        "1 MiB of RAM",
        "free on /",
        "shm_size 1M",
        "cpu_governor_required",
        "omron_external_ip is empty",
    ]
    every += [
        "does not pay for this miner's proofs",
        "omron_hotkey_file is empty",
        "/w/coldkey",
        "omron_ezkl_version",
        "circuit demo needs",
        "docs/role-variables.md for pm2",
    ]
    for one in every:
        assert one in said


@pytest.mark.parametrize("given", [[0], ["abc"], ["0%"], ["101%"], [1, -1], [1.5], [True], []])
def test_a_batch_that_is_no_number_of_hosts_is_refused(given: list[Any]) -> None:
    assert "numbers of hosts from 1" in only(serial_problems({"omron_serial": given, "rollback_serial": "100%"}))
    assert serial_problems({"omron_serial": [1, "25%", "3"], "rollback_serial": 2}) == []


def test_a_host_whose_tasks_cannot_become_the_service_user_is_refused() -> None:
    given = seen()
    given["host"]["become_error"] = "This account is currently not available."
    assert "ansible_become_flags: -s /bin/sh" in only(host_problems(given, NEEDS, SUPPORTED))


def test_a_variable_that_selects_hosts_is_refused_in_an_inventory() -> None:
    given = {"omron_hosts": "production", "omron_prover_hosts": "helpers", "rollback_serial": "100%"}
    assert "pass -e omron_hosts=" in only(misplaced_problems(given, KNOWN, {}, {"miners": []}))
    assert misplaced_problems(given, KNOWN, {"omron_hosts": "production"}, {}) == []
    assert "no effect" in only(misplaced_problems(given, KNOWN, {"omron_hosts": "production"}, {"helpers": ["p"]}))


def test_a_host_that_does_not_answer_is_checked_by_its_inventory_alone() -> None:
    given = {"unreachable": "no route", "variables": {"problems": ["x is misspelt"], "values": DEFAULTS}}
    assert host_problems(given, NEEDS, SUPPORTED) == ["cannot be reached: no route", "x is misspelt"]


def real(hotkey: Path, **overrides: Any) -> dict[str, Any]:
    given = {"omron_network": "test", "omron_external_ip": "8.8.8.8", "omron_hotkey_file": str(hotkey), **overrides}
    return settings(**given) | {"miner_axon_external_port": 0}


def hotkey_file(path: Path, address: str) -> Path:
    path.write_text(json.dumps({"ss58Address": address, "secretSeed": "0x00"}))
    return path


def test_one_hotkey_on_two_hosts_is_refused(tmp_path: Path) -> None:
    one, copy = hotkey_file(tmp_path / "one", HOTKEY), hotkey_file(tmp_path / "copy", HOTKEY)
    other = hotkey_file(tmp_path / "other", HOTKEY[:-1] + "Z")
    hosts = {
        "a": real(one),
        "b": real(copy, omron_external_ip="8.8.4.4"),
        "c": real(other, omron_external_ip="1.1.1.1"),
    }
    found = shared_problems(hosts)
    assert set(found) == {"a", "b"}
    assert f"the hotkey {HOTKEY} is used on a and b" in only(found["a"])
    assert shared_problems({**hosts, "b": real(copy, omron_external_ip="8.8.4.4", omron_network="finney")}) == {}
    for path in (one, copy):
        path.write_text("$ANSIBLE_VAULT;1.1;AES256\n00")
    assert shared_problems(hosts) == {}, "who can tell"
    assert set(shared_problems({**hosts, "b": real(one, omron_external_ip="8.8.4.4")})) == {"a", "b"}


def test_one_address_and_port_on_two_hosts_is_refused(tmp_path: Path) -> None:
    one, other = hotkey_file(tmp_path / "one", HOTKEY), hotkey_file(tmp_path / "other", HOTKEY[:-1] + "Z")
    found = shared_problems({"a": real(one), "b": real(other, omron_axon_port="8091")})
    assert "8.8.8.8, port 8091, is the address of a and b" in only(found["b"])
    assert shared_problems({"a": real(one), "b": real(other, omron_axon_port=8092)}) == {}
    forwarded = real(other) | {"miner_axon_external_port": 9000}
    assert shared_problems({"a": real(one), "b": forwarded}) == {}


def test_hosts_that_are_not_deployed_to_now_count_too(tmp_path: Path) -> None:
    one = hotkey_file(tmp_path / "one", HOTKEY)
    given = {name: value for name, value in real(one).items() if name != "miner_axon_external_port"}
    others = {"z": real(one, omron_external_ip="8.8.4.4")}
    found = fleet_problems({"a": seen(**given)}, others, NEEDS, SUPPORTED)
    assert "is used on z and a" in only(found["a"])
    assert set(found) == {"a"}


def test_of_hosts_that_may_be_no_miners_only_what_was_given_to_them_counts(tmp_path: Path) -> None:
    others = load_plugin("plugins/action/omron_preflight.py")._others
    one = real(hotkey_file(tmp_path / "one", HOTKEY))
    elsewhere = {"b": {**one, "omron_external_ip": ""}}
    assert others(elsewhere, {"b"}, [one]) == elsewhere, "another miner"
    assert others(elsewhere, set(), [one])["b"]["omron_hotkey_file"] == "", "the group all has it, whatever b is"
    other = {**one, "omron_hotkey_file": "another"}
    assert others(elsewhere, set(), [one, other]) == elsewhere


def test_local_hosts_may_share_everything(tmp_path: Path) -> None:
    one = real(hotkey_file(tmp_path / "one", HOTKEY), omron_network="local")
    assert shared_problems({"a": one, "b": one}) == {}


def test_a_file_is_read_once_however_many_hosts_use_it(tmp_path: Path) -> None:
    path = srs_file(tmp_path / "kzg18.srs", 18)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    given = seen(omron_srs_file=str(path), omron_srs_sha256=digest)
    before = bytes_read()
    found = fleet_problems({f"host-{number}": given for number in range(20)}, {}, NEEDS, SUPPORTED)
    assert not any(found.values()), found
    assert bytes_read() - before < 2 * path.stat().st_size
    with path.open("r+b") as file:  # what was written to meanwhile is read again
        file.write(b"x")
    assert "has the SHA-256" in only(host_problems(given, NEEDS, SUPPORTED))


def bytes_read() -> int:
    [line] = [one for one in Path("/proc/self/io").read_text().splitlines() if one.startswith("rchar")]
    return int(line.split()[1])


def test_the_report_tells_each_problem_once_with_its_hosts() -> None:
    assert report({"a": ["x", "y"], "b": [], "c": ["y", "y"]}) == ["a: x", "a, c: y"]
    everywhere = {f"host-{number}": ["x"] for number in range(50)}
    assert report(everywhere) == ["all 50 hosts: x"]
    assert report({**everywhere, "good": []})[0].startswith("host-0, host-1")
    assert report({}) == []


# --- settings of several roles that must fit each other


def test_each_time_to_stop_is_shorter_than_the_next() -> None:
    assert stop_time_problems(DEFAULTS) == []
    problem = only(stop_time_problems({**DEFAULTS, "miner_deadlines_stop_seconds": 3.5}))
    assert problem.startswith("miner_deadlines_stop_seconds is 3.5 s and miner_kill_timeout_ms 3 s: ")
    assert len(stop_time_problems({**DEFAULTS, "miner_kill_timeout_ms": 1000, "pm2_stop_timeout_seconds": 1})) == 2


MINER = {**FLEET_VALUES, "ansible_host": "10.0.0.1", "miner_prover_engine": "dask"}
PROVER = {**FLEET_VALUES, "ansible_host": "10.0.0.2"}
WRONG_PROVERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a miner that proves alone": ({"miner_prover_engine": "local"}, {}, "set miner_prover_engine to dask for m"),
    "upstream's miner": ({"omron_engine": "sn2"}, {}, "which takes no prover hosts"),
    "no address": ({}, {"ansible_host": "prover.example"}, "set omron_prover_address to one of an interface"),
    "a name for an address": ({}, {"omron_prover_address": "prover.example"}, "is not an IP address"),
    "every address": ({}, {"omron_prover_address": "0.0.0.0"}, "is not a host address"),  # noqa: S104
    "another miner": ({}, {"omron_prover_of": "n"}, "n is not a miner in this inventory: name one of m"),
    "loopback": ({}, {"omron_prover_address": "127.0.0.1"}, "they cannot reach each other"),
    "no circuit": (
        {"omron_circuits": [{"name": "a", "folder": "/x/model_aa"}]},
        {"miner_circuits_ignored": ["aa"]},
        "they have no circuit in common",
    ),
    "clocks": ({}, {"clock": 1_000_400}, "are 400 s apart"),
}


@pytest.mark.parametrize("case", WRONG_PROVERS)
def test_a_prover_host_that_cannot_prove_for_its_miner_is_refused(case: str) -> None:
    its, own, message = WRONG_PROVERS[case]
    clocks = {"m": 1_000_000, "p": own.pop("clock", 1_000_010)}
    found = prover_problems(["p"], ["m"], {"m": {**MINER, **its}, "p": {**PROVER, **own}}, clocks)
    assert list(found) == ["p"]
    assert message in only(found["p"])


def test_prover_hosts_and_miners_that_fit_are_let_through() -> None:
    hosts = {"m": MINER, "n": {**MINER, "ansible_host": "10.0.0.3"}, "p": {**PROVER, "omron_prover_of": "n"}}
    assert prover_problems(["p"], ["m", "n"], hosts, {"p": 10**9}) == {}
    assert prover_problems([], ["m"], {"m": FLEET_VALUES}, {}) == {}, "a miner alone needs no address"
    hosts["p"] = PROVER
    assert "there are several miners: name one of m, n" in only(prover_problems(["p"], ["m", "n"], hosts, {})["p"])


def test_a_host_in_both_groups_and_two_at_one_address_are_refused() -> None:
    found = prover_problems(["m", "p", "q"], ["m"], {"m": MINER, "p": PROVER, "q": PROVER}, {})
    assert "it is in the groups of miners and of prover hosts" in only(found["m"])
    assert found["p"] == found["q"]
    assert "10.0.0.2, port 8785, is the address of p and q" in only(found["p"])


def test_a_prover_host_needs_no_hotkey_and_no_axon_but_what_its_miners_circuits_need() -> None:
    port = f"  0: 0100007F:{8091:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1"
    given = seen(omron_network="finney", omron_hotkey_file="/nowhere")
    given["host"]["listeners"] = port
    miner = {**MINER, "omron_circuits": [{"name": "demo", "model": "demo"}]}

    def problems() -> list[str]:
        return fleet_problems({"p": given}, {}, NEEDS, SUPPORTED, {"p": PROVER}, {"m": miner})["p"]

    assert problems() == []
    given["host"]["listeners"] = port.replace(f"{8091:04X}", f"{8785:04X}")
    assert "or choose another miner_provers_port" in only(problems())
    given["host"]["memory_limits"] = "1048576"
    assert any("circuit demo needs" in one for one in problems())
