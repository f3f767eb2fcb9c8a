"""Preflight finds every problem, says what to do about each, and finds nothing where nothing is wrong."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
SHARED: dict[str, Any] = yaml.safe_load((ROOT / "playbooks/group_vars/all.yml").read_text())
SUPPORTED = {"Debian": ["12", "13"], "Ubuntu": ["22.04", "24.04"]}
HOTKEY = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


preflight = load("roles/preflight/filter_plugins/preflight_problems.py")
shm = load("playbooks/filter_plugins/shm_size.py")


def settings(**overrides: Any) -> dict[str, Any]:
    assert set(overrides) <= set(SHARED)
    return {**SHARED, **overrides}


def only(problems: list[str]) -> str:
    """The one problem there is: a second one would be noise, none a hole."""
    assert len(problems) == 1, problems
    return problems[0]


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
    assert preflight.system_problems(facts, SUPPORTED, 3500) == []


@pytest.mark.parametrize(
    ("fact", "value", "said"),
    [
        ("distribution_version", "11.8", "Debian 12 or 13, Ubuntu 22.04 or 24.04"),
        ("distribution_version", "120", "is not supported"),
        ("distribution", "Rocky", "Rocky 12.9 is not supported"),
        ("service_mgr", "sysvinit", "PID 1 is sysvinit"),
        ("architecture", "aarch64", "the architecture is aarch64"),
        ("memtotal_mb", 2000, "2000 MiB of RAM, at least 3500 MiB"),
    ],
)
def test_a_host_that_will_not_do_is_refused(fact: str, value: Any, said: str) -> None:
    assert said in only(preflight.system_problems(host(**{fact: value}), SUPPORTED, 3500))


def test_every_problem_of_a_host_is_found_at_once() -> None:
    facts = host(distribution="Arch", service_mgr="runit", architecture="riscv64", memtotal_mb=1)
    assert len(preflight.system_problems(facts, SUPPORTED, 3500)) == 4


DF = """Filesystem 1-blocks Used Available Capacity Mounted on
/dev/vda1 100 50 1073741824 50% /
/dev/vda1 100 50 1073741824 50% /
/dev/vdb1 100 50 9999999999 50% /var/my logs
"""


def test_a_full_file_system_is_named_once_with_what_is_free() -> None:
    assert only(preflight.disk_problems(DF, 5120)).startswith("1024 MiB are free on /, at least 5120 MiB")
    assert preflight.disk_problems(DF, 1024) == []


@pytest.mark.parametrize(
    ("required", "policies", "container", "problems"),
    [(True, 2, False, 0), (False, 0, False, 0), (False, 2, True, 0), (True, 0, False, 1), (True, 2, True, 1)],
)
def test_a_required_governor_needs_cpufreq_of_its_own(
    required: bool, policies: int, container: bool, problems: int
) -> None:
    assert len(preflight.governor_problems(required, policies, container)) == problems


# --- the port

LISTENERS = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F9B 00000000:0000 0A 00000000:00000000 00:00000000 00000000   {uid}        0 12345 1 0 100 0 0 10 0
   1: 0100007F:1F9C 0100007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 12346 1 0 100 0 0 10 0
   0: 00000000000000000000000000000000:1F9D 0000:0000 0A 0:0 0:0 0 33 0 1
"""  # 0x1F9B = 8091 listens, 8092 only has a connection, 8093 listens on IPv6
USERS = {"root": ["x", "0"], "omron": ["x", "998"], "www-data": ["x", "33"]}


@pytest.mark.parametrize("port", [8091, "8091", 8092, 1025, 65534])
def test_a_free_port_and_our_own_are_fine(port: Any) -> None:
    assert preflight.port_problems(port, LISTENERS.format(uid=998), USERS, "omron") == []


@pytest.mark.parametrize(("port", "uid", "owner"), [(8091, 0, "root"), (8093, 0, "www-data"), (8091, 4242, "id 4242")])
def test_a_port_that_another_user_holds_is_refused_with_its_name(port: int, uid: int, owner: str) -> None:
    problem = only(preflight.port_problems(port, LISTENERS.format(uid=uid), USERS, "omron"))
    assert f"port {port} is taken by a process of user {owner}" in problem


@pytest.mark.parametrize("port", [True, False, 0, 1024, 65535, -1, "on", "80a", 8091.5, None, "", [8091]])
def test_what_is_no_port_is_refused(port: Any) -> None:
    assert "from 1025 to 65534" in only(preflight.port_problems(port, "", USERS, "omron"))


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
    assert shm.shm_size_bytes(value, 16 * GIB) == size


@pytest.mark.parametrize("value", [True, False])
def test_a_yaml_boolean_is_no_size(value: bool) -> None:
    assert "is the YAML boolean" in only(shm.shm_size_problems(value, 16 * GIB))


@pytest.mark.parametrize(
    "value", ["on", "off", "yes", "no", "half", "", "16GB", "16GiB", "1.5G", "-1G", "0%", "7 5%", "G", 0.75, None, []]
)
def test_words_and_other_units_are_no_size(value: Any) -> None:
    assert 'write a percentage of RAM like "75%" or bytes like "16G"' in only(shm.shm_size_problems(value, 16 * GIB))


@pytest.mark.parametrize("value", ["101%", "17G", "1T"])
def test_more_than_the_ram_is_refused(value: str) -> None:
    assert "more than the 16.0 GiB of RAM" in only(shm.shm_size_problems(value, 16 * GIB))


@pytest.mark.parametrize("value", [16, "63M"])
def test_a_forgotten_unit_is_noticed(value: Any) -> None:
    assert "too little" in only(shm.shm_size_problems(value, 16 * GIB))


# --- other roles' variables, placeholders and the network


def test_wrong_types_are_told_with_the_role_that_takes_them() -> None:
    results = [{"item": "shm"}, {"item": "pm2", "argument_errors": ["value of a must be b", "c is not d"]}]
    assert preflight.argument_problems(results) == [
        "value of a must be b: docs/role-variables.md says what pm2 takes",
        "c is not d: docs/role-variables.md says what pm2 takes",
    ]


@pytest.mark.parametrize("text", ["CHANGE_ME", "changeme", "<your ip>", "x.x.x.x", "YOUR_HOTKEY", "/path/TODO", "XXXX"])
def test_a_placeholder_is_refused_at_any_depth(text: str) -> None:
    given = settings(omron_circuits=[{"name": "a", "folder": text}])
    problem = only(preflight.placeholder_problems(given))
    assert problem.startswith("omron_circuits still holds the placeholder")
    assert text in problem


def test_a_placeholder_is_told_once() -> None:
    given = settings(omron_network="finney", omron_external_ip="CHANGE_ME")
    assert preflight.network_problems(given) == []
    assert "omron_external_ip still holds" in only(preflight.placeholder_problems(given))


def test_the_defaults_hold_no_problem() -> None:
    assert preflight.placeholder_problems(SHARED) == []
    assert preflight.network_problems(SHARED) == []
    assert preflight.wallet_problems(SHARED, []) == []
    assert preflight.ezkl_problems(SHARED["omron_ezkl_version"]) == []
    assert preflight.circuit_problems(SHARED["omron_circuits"], SHARED["omron_ezkl_version"]) == []
    assert preflight.srs_problems(SHARED) == []
    assert preflight.competition_problems(SHARED) == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"omron_network": "mainnet"}, "choose one of local, test, finney"),
        ({"omron_network": True}, "omron_network True is unknown"),
        ({"omron_netuid": True}, "omron_netuid True is not a subnet"),
        ({"omron_netuid": 70000}, "omron_netuid 70000"),
        ({"omron_local_validator_hotkeys": HOTKEY}, "is not a list"),
        ({"omron_local_validator_hotkeys": ["5abc"]}, "'5abc', which is no SS58 address"),
        ({"omron_network": "finney"}, "omron_external_ip is empty"),
        ({"omron_network": "finney", "omron_external_ip": "192.168.1.4"}, "cannot be reached from the internet"),
        ({"omron_network": "test", "omron_external_ip": "203.0.113.7"}, "cannot be reached from the internet"),
        ({"omron_network": "test", "omron_external_ip": "miner.example"}, "is not an IPv4 address"),
        (
            {"omron_network": "finney", "omron_external_ip": "8.8.8.8", "omron_local_validator_hotkeys": [HOTKEY]},
            "omron_local_validator_hotkeys is for the local network",
        ),
    ],
)
def test_a_network_that_cannot_work_is_refused(overrides: dict[str, Any], said: str) -> None:
    assert said in only(preflight.network_problems(settings(**overrides)))


def test_a_complete_real_network_is_fine() -> None:
    given = settings(omron_network="finney", omron_external_ip="8.8.8.8")
    assert preflight.network_problems(given) == []
    assert preflight.network_problems(settings(omron_local_validator_hotkeys=[HOTKEY])) == []


# --- the wallet


def test_a_hotkey_is_taken_and_its_content_never_told(tmp_path: Path) -> None:
    hotkey = tmp_path / "default"
    hotkey.write_text(json.dumps({"ss58Address": HOTKEY, "secretPhrase": "bottom drive obey"}))
    assert preflight.wallet_problems(settings(omron_network="finney", omron_hotkey_file=str(hotkey)), []) == []
    hotkey.write_text('{"secret": "bottom drive obey"}')
    assert "bottom" not in only(preflight.wallet_problems(settings(omron_hotkey_file=str(hotkey)), []))


@pytest.mark.parametrize("network", ["test", "finney"])
def test_a_real_network_needs_a_hotkey(network: str) -> None:
    assert "omron_hotkey_file is empty" in only(preflight.wallet_problems(settings(omron_network=network), []))


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
    (tmp_path / "default").write_bytes(content)
    assert said in only(preflight.wallet_problems(settings(omron_hotkey_file=str(tmp_path / "default")), []))


def test_a_hotkey_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    def said(value: Any) -> str:
        return only(preflight.wallet_problems(settings(omron_network="finney", omron_hotkey_file=value), []))

    assert "cannot be read on the control node (No such file or directory)" in said(str(tmp_path / "gone"))
    assert "is a folder" in said(str(tmp_path))
    assert "is relative" in said("hotkeys/default")
    assert "is not a path" in said(True)


@pytest.mark.parametrize("name", ["coldkey", "Coldkey.json", "coldkeypub.txt", "coldkeys/default"])
def test_a_coldkey_is_refused_before_it_is_read(tmp_path: Path, name: str) -> None:
    problem = only(preflight.wallet_problems(settings(omron_hotkey_file=str(tmp_path / name)), []))
    assert "looks like a coldkey" in problem  # the file is not even there


def test_a_coldkey_in_the_hosts_wallets_is_refused() -> None:
    found = "/var/lib/omron-miner/wallets/miner/coldkey"
    assert only(preflight.wallet_problems(SHARED, [found])).startswith(f"{found} on the host is a coldkey")


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
    problems: list[str] = preflight.circuit_problems(list(given), "22.0.1")
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
        ({"model": "demo"}, "name None is no name"),
        ({"name": "../x", "model": "demo"}, "name '../x' is no name"),
        ({"name": True, "model": "demo"}, "name True is no name"),
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
        ({"name": "a", "folder": "/nowhere"}, "there is no folder /nowhere"),
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
        (None, "circuit_tune None is neither true nor options"),
        ("true", "circuit_tune 'true' is neither true nor options"),
        ({}, "circuit_tune {} is neither true nor options"),
        ([{"best": 1}], "is neither true nor options"),
        ({"legs": 1, "bases": 2}, "circuit_tune has no bases, legs: only baselines, best, "),
        ({"best": 0}, "best 0 is not a whole number from 1 on"),
        ({"best": True}, "best True is not a whole number"),
        ({"best": "4"}, "best '4' is not a whole number"),
        ({"proofs": 1}, "proofs 1 is not a whole number from 2 on"),
        ({"proofs": 2.0}, "proofs 2.0 is not a whole number"),
        ({"floor": 99}, "floor 99 is not an accuracy from 0 to 1"),
        ({"margin": 0.9}, "margin 0.9 is not a number from 1 on"),
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
        ({"data": __file__}, "is no sample: name a file of samples (.json or .npy) or a folder of them"),
        ({"data": str(ROOT / "roles")}, "holds no .json or .npy file"),
    ],
)
def test_a_tuning_that_is_not_well_formed_is_refused(options: Any, said: str) -> None:
    assert said in only(tuning(options))


def test_what_is_tuned_already_or_prebuilt_is_not_tuned(folder: Path, tmp_path: Path) -> None:
    for options in (True, {"best": 1}):
        problem = only(tuning(options, tuned=str(run_args_json(tmp_path))))
        assert "tuned names a result and circuit_tune has the host find one" in problem
        given = {"name": "a", "folder": str(folder), "circuit_tune": options}
        assert "circuit_tune does nothing for a prebuilt folder" in only(circuits(given))


def test_the_options_are_the_commands() -> None:
    from omron_miner.cli import circuit_tune_command

    known = {name for one in circuit_tune_command.params for name in one.opts}
    assert {f"--{name}" for name in preflight.TUNE_OPTIONS} <= known
    defaults = {one.name: one.default for one in circuit_tune_command.params}
    assert (defaults["low"], defaults["high"]) == (preflight.LOWEST, preflight.HIGHEST)
    messages = [defaults[name] for name in ("floor", "best", "proofs", "margin")]
    assert messages == [0.99, 4, 3, 2], "what the messages say"


@pytest.mark.parametrize("given", [None, [], "demo", {"name": "demo"}, True])
def test_circuits_are_a_list_with_something_in_it(given: Any) -> None:
    assert "not a list with at least one circuit" in only(preflight.circuit_problems(given, "22.0.1"))


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
    assert "was compiled by EZKL 23.0.5, 22.0.1 is to be installed" in problem
    assert "set omron_ezkl_version to 23.0.5 or use a circuit compiled by 22.0.1" in problem
    assert preflight.circuit_problems([{"name": "a", "folder": str(folder)}], "23.0.5") == []
    (folder / "settings.json").write_text('{"version": "21.0.3"}')
    assert "set omron_ezkl_version" not in only(circuits({"name": "a", "folder": str(folder)}))


@pytest.mark.parametrize("version", ["22.0.2", "", None, 23.0, True, ["22.0.1"], {}])
def test_an_ezkl_that_is_not_shipped_is_refused_once(folder: Path, version: Any) -> None:
    assert "is not shipped: choose" in only(preflight.ezkl_problems(version))
    assert preflight.circuit_problems([{"name": "a", "folder": str(folder)}], version) == []


def test_another_proof_system_is_refused_for_that_reason_alone(folder: Path) -> None:
    (folder / "metadata.json").write_text('{"proof_system": "JOLT"}')
    (folder / "pk.key").unlink()
    assert "is a JOLT circuit" in only(circuits({"name": "a", "folder": str(folder)}))


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
    problems: list[str] = preflight.srs_problems(settings(omron_srs_file=str(path), **overrides))
    return problems


def srs_file(path: Path, logrows: int) -> Path:
    with path.open("wb") as file:
        file.truncate(128 * 2**logrows + 260)  # sparse
    return path


def test_without_a_well_formed_circuit_the_srs_is_not_judged_by_its_size(tmp_path: Path) -> None:
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
    assert "without omron_srs_file" in only(preflight.srs_problems(settings(omron_srs_sha256=digest)))


def test_a_real_network_refuses_a_test_srs(tmp_path: Path) -> None:
    path = srs_file(tmp_path / "kzg16.srs", 16)
    real = {"omron_network": "finney", "omron_srs_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert srs(path, **real) == []
    (tmp_path / "kzg16.srs.TEST-ONLY").touch()
    assert srs(path) == []
    assert "is a test SRS" in only(srs(path, **real))


def test_a_real_network_wants_the_srs_compared(tmp_path: Path) -> None:
    assert "set omron_srs_sha256" in only(srs(srs_file(tmp_path / "kzg16.srs", 16), omron_network="finney"))


# --- room for prebuilt circuits

ROOM = """Filesystem 1-blocks Used Available Capacity Mounted on
/dev/vda1 100 50 1 50% /
/dev/vdb1 100 50 {free} 50% /var/lib
/dev/vda1 100 50 1 50% /
"""


def room(folder: Path, free: int, there: list[dict[str, Any]] | None = None, srs: str = "") -> list[str]:
    given = [{"name": "a", "folder": str(folder)}, {"name": "b", "model": "demo"}]
    problems: list[str] = preflight.room_problems(given, ROOM.format(free=free), there or [], srs)
    return problems


def test_prebuilt_folders_must_fit_on_the_states_file_system(folder: Path, tmp_path: Path) -> None:
    needed = sum(file.stat().st_size for file in folder.iterdir())
    assert room(folder, needed) == []
    assert "are free on /var/lib" in only(room(folder, needed - 1))
    big = srs_file(tmp_path / "kzg4.srs", 4)
    assert len(room(folder, needed, srs=str(big))) == 1
    assert room(folder, needed + 2 * big.stat().st_size, srs=str(big)) == []


def test_a_folder_that_was_copied_before_takes_no_more_room(folder: Path) -> None:
    key = {"path": f"/var/lib/omron-miner/circuits/{folder.name}/pk.key", "size": 1}
    assert room(folder, 0, [key]) == []
    assert len(room(folder, 0, [{**key, "size": 2}])) == 1, "another key of the same circuit is copied anew"


# --- the competition


def competing(folder: Path, **overrides: Any) -> dict[str, Any]:
    """All that a competition needs; its files are in `folder`."""
    keys = folder / "keys"
    keys.write_text("[default]\naws_access_key_id = AKIA\naws_secret_access_key = hush\n")
    for name in preflight.COMPETITION_FILES:
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
    assert preflight.competition_problems(competing(tmp_path)) == []
    amazon = competing(tmp_path, omron_competition_endpoint="", omron_competition_region="eu-west-1")
    assert preflight.competition_problems(amazon) == []
    (tmp_path / "keys").write_text("$ANSIBLE_VAULT;1.1;AES256\n00")
    assert preflight.competition_problems(amazon) == []
    assert preflight.competition_problems(settings(omron_competition_bucket="circuits")) == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"omron_competition_bucket": ""}, "omron_competition_bucket is empty"),
        ({"omron_competition_bucket": "Mine/x"}, "is no name of a bucket"),
        ({"omron_competition_credentials_file": ""}, "omron_competition_credentials_file is empty"),
        ({"omron_competition_credentials_file": "/nowhere/keys"}, "cannot be read on the control node"),
        ({"omron_competition_endpoint": "r2.example/bucket"}, "is no https://HOST"),
        ({"omron_competition_endpoint": ""}, "omron_competition_region is auto"),
        ({"omron_competition_circuit": "circuits/mine"}, "is relative"),
        ({"omron_competition_circuit": "/nowhere"}, "lacks model.compiled and settings.json"),
    ],
)
def test_a_half_set_competition_is_refused(tmp_path: Path, overrides: dict[str, Any], said: str) -> None:
    assert said in only(preflight.competition_problems(competing(tmp_path, **overrides)))


def test_credentials_that_lack_a_key_are_refused_and_their_content_is_not_told(tmp_path: Path) -> None:
    given = competing(tmp_path)
    (tmp_path / "keys").write_text("[default]\naws_access_key_id = hush\n")
    problem = only(preflight.competition_problems(given))
    assert "lacks aws_secret_access_key" in problem
    assert "hush" not in problem
