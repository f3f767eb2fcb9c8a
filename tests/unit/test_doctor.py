"""The doctor's checks on hosts made up of folders; what this machine is must not matter."""

from __future__ import annotations

import json
import os
import socket
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from monitor_samples import GIB
from omron_miner import doctor, srs
from omron_miner.circuit import ProofSystem
from omron_miner.circuit_store import CircuitStore
from omron_miner.cli import main
from omron_miner.competition_status import Status as CompetitionStatus
from omron_miner.competition_status import write_status
from omron_miner.doctor import Check, Status, circuits, firewall, machine, probes
from omron_miner.monitor import host, model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOGROWS = 5
HOST = """
[swap]
off = true
[shm]
size = "75%"
[cpu]
governor = "performance"
energy_preference = "performance"
[kernel]
transparent_hugepages = "madvise"
[kernel.sysctl]
"vm.overcommit_memory" = "0"
"net.ipv4.tcp_rmem" = "4096 131072 6291456"
[clock]
synchronised = true
[firewall]
tcp_ports = [8091]
[limits]
nofile = 65536
memlock = "8M"
"""
CHRONY = "7F7F0101,,8,1795540418.838298318,0.000123000,0.0,0.0,0.000,0.000,0.000,0.000000000,0.000000000,0.0,Normal"
LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max open files            65536                65536                files
Max locked memory         8388608              8388608              bytes
"""


@pytest.fixture
def listener() -> Iterator[int]:
    """A port that something listens on."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        opened.listen()
        yield opened.getsockname()[1]


@pytest.fixture
def config(tmp_path: Path, listener: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host on which everything is as it should be; a test then breaks one thing."""
    state, sessions = tmp_path / "state", tmp_path / "sessions"
    hotkey = state / "wallets/miner/hotkeys/default"
    hotkey.parent.mkdir(parents=True)
    hotkey.write_text("{}")
    hotkey.chmod(0o600)
    sessions.mkdir(mode=0o700)
    (state / "srs").mkdir()
    write_srs(state / "srs", LOGROWS)
    write_summary(state, age=30.0)
    config = tmp_path / "constants.toml"
    config.write_text(
        f'axon = {{port = {listener}}}\nwallet = {{path = "{state}/wallets"}}\n'
        f'circuits = {{directory = "{state}/circuits", srs_directory = "{state}/srs"}}\n'
        f'sessions = {{directory = "{sessions}"}}\nlog = {{directory = "{tmp_path}"}}\n'
        f'monitor = {{directory = "{state}"}}\n'
    )
    (tmp_path / "host.toml").write_text(HOST)
    write_kernel(tmp_path, monkeypatch)
    words = {"timedatectl": "yes", "systemctl": "active", "systemd-detect-virt": "none", "firewall-cmd": "not-running"}
    monkeypatch.setattr(probes, "ask_word", lambda command, *_: words[command])
    answers = {"chronyc": CHRONY, "ufw": "Status: active\n\n8091/tcp  ALLOW  Anywhere\n"}
    monkeypatch.setattr(probes, "ask", lambda command, *_: answers.get(command))
    monkeypatch.setattr(probes, "is_rotating", lambda _: False)
    monkeypatch.setattr(machine, "SUPPORTED_OS", {("any", "1")})
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"ID": "any", "VERSION_ID": "1"})
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=64 * GIB))
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr(host, "read_swap", list)
    monkeypatch.setattr(host, "read_governors", lambda: {"0": "performance"})
    monkeypatch.setattr(host, "read_disks", lambda *_: [model.Disk("/", 200 * GIB, 100 * GIB)])
    disk = model.RamDisk("/dev/shm", "tmpfs", ["rw", "nosuid", "nodev"], 4 * GIB, 0, 4 * GIB, "/x", 0, 0, None)
    monkeypatch.setattr(host, "read_ram_disk", lambda _: disk)
    use_circuits(monkeypatch, [LOGROWS])
    return config


def write_kernel(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What /proc and /sys say where all of HOST is as it should be."""
    files = {
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
        "sys/devices/system/cpu/cpufreq/policy0/energy_performance_preference": "performance\n",
        "proc/sys/vm/overcommit_memory": "0\n",
        "proc/sys/net/ipv4/tcp_rmem": "4096\t131072\t6291456\n",
        "proc/77/limits": LIMITS,
    }
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
    monkeypatch.setattr(probes, "SYS", root / "sys")
    monkeypatch.setattr(probes, "PROC", root / "proc")
    monkeypatch.setattr(probes, "file_system_bytes", lambda _: 48 * GIB)
    monkeypatch.setattr(host, "miner_tree", lambda: [host.Process(77, 1, 0.0, 0.0, GIB)])


def write_srs(directory: Path, logrows: int, missing_bytes: int = 0) -> Path:
    file = srs.srs_path(directory, logrows)
    file.write_bytes(logrows.to_bytes(4, "little") + bytes((128 << logrows) + 256 - missing_bytes))
    return file


def write_summary(state: Path, age: float) -> None:
    (state / "summary.json").write_text(json.dumps({"time": time.time() - age}))


def use_circuits(
    monkeypatch: pytest.MonkeyPatch, logrows: list[int], refused: dict[str, str] | None = None, pk_bytes: int = 1 << 20
) -> None:
    """A store of usable circuits with these logrows, and refused ones."""
    found = {
        f"{number}" * 64: SimpleNamespace(
            id=f"{number}" * 64,
            label=f"circuit{number} v1 using EZKL",
            proof_system=ProofSystem.EZKL,
            settings=SimpleNamespace(logrows=rows, version="22.0.1", input_sizes=(4,), output_sizes=(2,)),
            pk=SimpleNamespace(stat=lambda: SimpleNamespace(st_size=pk_bytes)),
        )
        for number, rows in enumerate(logrows)
    }
    store = SimpleNamespace(ids=lambda: list(found), get=found.__getitem__, refused=lambda: refused or {})
    monkeypatch.setattr(circuits, "CircuitStore", lambda _: store)


def check_of(config: Path, name: str) -> Check:
    return next(check for check in doctor.examine(config) if check.name == name)


def test_a_host_as_it_should_be_passes_every_check(config: Path) -> None:
    checks = doctor.examine(config)
    assert [check.name for check in checks if check.status is not Status.OK] == []
    assert [check.name for check in checks if check.advice] == []
    assert len(checks) >= 33


def test_wrong_constants_fail_and_the_host_is_still_checked(config: Path) -> None:
    config.write_text("[axon]\nprot = 1\n")
    checks = doctor.examine(config)
    assert checks[0].status is Status.FAIL
    assert "axon.prot" in checks[0].live
    assert {"memory", "swap", "clock"} <= {check.name for check in checks}


@pytest.mark.parametrize(
    ("patch", "value", "name", "status"),
    [
        ("psutil.virtual_memory", SimpleNamespace(total=16 * GIB), "memory", Status.WARN),
        ("psutil.virtual_memory", SimpleNamespace(total=8 * GIB), "memory", Status.WARN),
        ("os.cpu_count", 4, "cores", Status.WARN),
        ("os.cpu_count", 1, "cores", Status.WARN),
        ("platform.freedesktop_os_release", {"ID": "other"}, "operating system", Status.WARN),
        ("omron_miner.monitor.host.read_swap", [model.SwapDevice("/dev/sda2", GIB, 0)], "swap", Status.FAIL),
        ("omron_miner.monitor.host.read_swap", None, "swap", Status.UNKNOWN),
        ("omron_miner.monitor.host.read_governors", {}, "CPU governor", Status.OK),
        ("omron_miner.monitor.host.read_governors", {"0": "powersave"}, "CPU governor", Status.WARN),
        ("omron_miner.monitor.host.is_listening", False, "axon port", Status.FAIL),
        ("omron_miner.doctor.probes.reach", "Connection refused", "axon port", Status.FAIL),
        ("omron_miner.doctor.probes.is_rotating", True, "SSD", Status.WARN),
        ("omron_miner.doctor.probes.is_rotating", None, "SSD", Status.UNKNOWN),
        ("omron_miner.doctor.probes.clock_offset", (-0.7, "chronyd"), "clock offset", Status.WARN),
        ("omron_miner.doctor.probes.clock_offset", (2.1, "chronyd"), "clock offset", Status.FAIL),
        ("omron_miner.doctor.probes.clock_offset", None, "clock offset", Status.UNKNOWN),
        ("omron_miner.doctor.probes.file_system_bytes", 32 * GIB, "/dev/shm", Status.WARN),
        ("omron_miner.monitor.host.read_disks", [model.Disk("/", 99 * GIB, 10 * GIB)], "disk", Status.WARN),
        ("omron_miner.monitor.host.read_disks", [model.Disk("/", 99 * GIB, GIB)], "disk", Status.FAIL),
    ],
)
def test_a_fault_of_the_host_is_found(
    config: Path, monkeypatch: pytest.MonkeyPatch, patch: str, value: object, name: str, status: Status
) -> None:
    monkeypatch.setattr(patch, lambda *_: value)
    check = check_of(config, name)
    assert check.status is status
    assert (check.advice != "") == (status in (Status.WARN, Status.FAIL))


def test_too_little_memory_fails_on_a_real_network_only(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=8 * GIB))
    assert check_of(config, "memory").status is Status.WARN
    on_a_real_network(config, monkeypatch)
    assert check_of(config, "memory").status is Status.FAIL
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert check_of(config, "cores").status is Status.FAIL


def on_a_real_network(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "reach", lambda *_: None)  # 203.0.113.7 is nobody's
    text = config.read_text().replace("axon = {", 'axon = {external_ip = "203.0.113.7", ')
    config.write_text(f'network = {{name = "finney"}}\n{text}')


@pytest.mark.parametrize(
    ("changes", "name", "status"),
    [
        ({"filesystem": "ext4"}, "RAM disk", Status.WARN),
        ({"free_bytes": 1024}, "RAM disk", Status.WARN),
        ({"size_bytes": 65 * GIB}, "RAM disk", Status.WARN),
        ({"options": ["ro", "nosuid", "nodev"]}, "RAM disk options", Status.FAIL),
        ({"options": ["rw", "nosuid"]}, "RAM disk options", Status.WARN),
    ],
)
def test_a_ram_disk_out_of_order_is_found(
    config: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], name: str, status: Status
) -> None:
    disk = model.RamDisk("/dev/shm", "tmpfs", ["rw", "nosuid", "nodev"], 4 * GIB, 0, 4 * GIB, "/x", 0, 0, None)
    changed = model.RamDisk(**(vars(disk) | changes))
    monkeypatch.setattr(host, "read_ram_disk", lambda _: changed)
    assert check_of(config, name).status is status


@pytest.mark.parametrize(
    ("answer", "clock", "pm2", "timer"),
    [
        ("no", Status.WARN, Status.FAIL, Status.WARN),
        (None, Status.UNKNOWN, Status.UNKNOWN, Status.UNKNOWN),
        ("inactive", Status.UNKNOWN, Status.FAIL, Status.WARN),
    ],
)
def test_systemds_answers(
    config: Path, monkeypatch: pytest.MonkeyPatch, answer: str | None, clock: Status, pm2: Status, timer: Status
) -> None:
    monkeypatch.setattr(probes, "ask_word", lambda *_: answer)
    found = [check_of(config, name).status for name in ("clock", "pm2", "monitor timer")]
    assert found == [clock, pm2, timer]


def test_a_command_that_is_not_there_or_does_not_answer_in_a_word_tells_nothing() -> None:
    assert probes.ask_word("there-is-no-such-command") is None
    assert probes.ask_word("echo", "System has not been booted with systemd") is None
    assert probes.ask_word("sh", "-c", "echo inactive; exit 3") == "inactive"


def test_the_session_directory_must_be_private(config: Path) -> None:
    directory = config.parent / "sessions"
    directory.chmod(0o755)
    check = check_of(config, "session directory")
    assert check.status is Status.FAIL
    assert check.advice == f"chmod 0700 {directory}"
    directory.rmdir()
    assert check_of(config, "session directory").status is Status.OK, "the first request after a boot makes it"


def test_the_hotkey_must_be_there_and_private(config: Path) -> None:
    file = config.parent / "state/wallets/miner/hotkeys/default"
    file.chmod(0o640)
    check = check_of(config, "hotkey")
    assert (check.status, check.advice) == (Status.FAIL, f"chmod 0600 {file}")
    file.unlink()
    assert check_of(config, "hotkey").status is Status.FAIL


def test_the_hotkey_must_be_the_service_users(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs, real = config.parent, os.stat
    other = real(logs).st_uid + 1

    def stat_of(path: Any, **options: Any) -> object:
        status = real(path, **options)
        return SimpleNamespace(st_mode=status.st_mode, st_uid=other) if path == logs else status

    monkeypatch.setattr("os.stat", stat_of)
    check = check_of(config, "hotkey")
    assert check.status is Status.FAIL
    assert check.advice.startswith(f"chown {other} ")


def test_a_coldkey_anywhere_in_the_wallets_fails_and_a_public_one_does_not(config: Path) -> None:
    wallets = config.parent / "state/wallets"
    (wallets / "miner/coldkeypub.txt").write_text("{}")
    assert check_of(config, "coldkey").status is Status.OK
    (wallets / "other").mkdir()
    (wallets / "other/coldkey").write_text("secret")
    check = check_of(config, "coldkey")
    assert check.status is Status.FAIL
    assert check.live == str(wallets / "other/coldkey")


def test_without_circuits_the_host_fails(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_circuits(monkeypatch, [])
    assert check_of(config, "circuits").status is Status.FAIL


def test_a_refused_circuit_fails_with_its_reason(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_circuits(monkeypatch, [LOGROWS], {f"model_{'f' * 64}": "pk.key is missing"})
    assert check_of(config, "circuit 00000000").live == f"circuit0 v1 using EZKL 22.0.1, logrows {LOGROWS}"
    check = check_of(config, "circuit ffffffff")
    assert (check.status, check.live) == (Status.FAIL, "pk.key is missing")


def test_a_folder_that_is_no_circuit_is_refused_by_the_real_store(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuits, "CircuitStore", CircuitStore)
    (config.parent / f"state/circuits/model_{'e' * 64}").mkdir(parents=True)
    check = check_of(config, "circuit eeeeeeee")
    assert check.status is Status.FAIL
    assert "metadata.json" in check.live


def test_every_logrows_needs_a_whole_srs(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_circuits(monkeypatch, [LOGROWS, 6, LOGROWS])
    assert check_of(config, f"SRS {LOGROWS}").status is Status.OK
    assert check_of(config, "SRS 6").status is Status.FAIL
    write_srs(config.parent / "state/srs", 6, missing_bytes=1)
    assert check_of(config, "SRS 6").status is Status.FAIL


def test_a_test_srs_is_told_on_local_and_fails_on_a_real_network(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    srs.test_marker(srs.srs_path(config.parent / "state/srs", LOGROWS)).touch()
    check = check_of(config, f"SRS {LOGROWS}")
    assert check.status is Status.OK
    assert check.live.endswith("for tests only")
    on_a_real_network(config, monkeypatch)
    assert check_of(config, f"SRS {LOGROWS}").status is Status.FAIL


@pytest.mark.parametrize("content", ["", "{", "[]", '{"time": "noon"}'])
def test_a_summary_that_is_old_missing_or_broken_is_a_warning(config: Path, content: str) -> None:
    state = config.parent / "state"
    write_summary(state, age=3600.0)
    assert check_of(config, "summary").live == "1 h old"
    assert check_of(config, "summary").status is Status.WARN
    (state / "summary.json").write_text(content)
    assert check_of(config, "summary").status is Status.WARN
    (state / "summary.json").unlink()
    assert check_of(config, "summary").status is Status.WARN


def test_the_command_ends_with_0_when_nothing_failed_and_1_when_something_did(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--config", str(config), "doctor"]
    assert CliRunner().invoke(main, command).exit_code == 0
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    warned = CliRunner().invoke(main, command)
    assert warned.exit_code == 0
    assert warned.output.splitlines()[-1].startswith("warn: ")
    use_circuits(monkeypatch, [])
    failed = CliRunner().invoke(main, [*command, "--json"])
    assert failed.exit_code == 1
    assert json.loads(failed.output)["status"] == "fail"


def test_text_has_one_line_of_advice_below_what_needs_it_and_colour_on_a_terminal_only(config: Path) -> None:
    (config.parent / "state/summary.json").unlink()
    plain = CliRunner().invoke(main, ["--config", str(config), "doctor"]).output
    assert "\x1b" not in plain
    lines = plain.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("warn     summary"))
    assert lines[at + 1].strip().startswith("try: systemctl start omron-miner-monitor.service")
    assert sum("try: " in line for line in lines) == 1
    coloured = CliRunner().invoke(main, ["--config", str(config), "doctor"], color=True).output
    assert "\x1b[33mwarn" in coloured


# --- the host's knobs against host.toml


@pytest.mark.parametrize(
    ("file", "text", "name", "live"),
    [
        ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never", "huge pages", "always"),
        (
            "sys/devices/system/cpu/cpufreq/policy0/energy_performance_preference",
            "balance_power",
            "energy preference",
            "balance_power",
        ),
        ("proc/sys/vm/overcommit_memory", "2", "vm.overcommit_memory", "2"),
        ("proc/77/limits", LIMITS.replace("65536", "1024"), "open files", "1024"),
        ("proc/77/limits", LIMITS.replace("8388608", "65536"), "locked memory", "65536"),
    ],
)
def test_a_knob_that_is_not_as_wanted_is_amber_with_both_values(
    config: Path, file: str, text: str, name: str, live: str
) -> None:
    wanted = check_of(config, name).wanted
    (config.parent / file).write_text(text)
    check = check_of(config, name)
    assert (check.status, check.live, check.wanted) == (Status.WARN, live, wanted)
    assert check.advice.startswith("run the play with --tags ")


KNOBS = {"swap", "/dev/shm", "CPU governor", "energy preference", "huge pages"}


def detune(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is as HOST wants it."""
    monkeypatch.setattr(host, "read_swap", lambda: [model.SwapDevice("/dev/sda2", GIB, 0)])
    monkeypatch.setattr(host, "read_governors", lambda: {"0": "powersave"})
    monkeypatch.setattr(probes, "file_system_bytes", lambda _: GIB)
    (config.parent / "sys/kernel/mm/transparent_hugepage/enabled").write_text("[always] madvise never")
    (config.parent / "proc/sys/vm/overcommit_memory").write_text("2")
    (config.parent / "sys/devices/system/cpu/cpufreq/policy0/energy_performance_preference").write_text("power")


def test_what_host_toml_does_not_name_is_shown_and_not_judged(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detune(config, monkeypatch)
    (config.parent / "host.toml").write_text("[clock]\nsynchronised = true\n")
    checks = {check.name: check for check in doctor.examine(config)}
    assert {checks[name].status for name in KNOBS} == {Status.OK}
    assert {checks[name].wanted for name in KNOBS} == {"as it is (not in host.toml)"}
    assert (checks["swap"].live, checks["CPU governor"].live) == ("on: /dev/sda2", "powersave on 1 CPU")
    assert not {"vm.overcommit_memory", "open files", "firewall"} & set(checks)


def test_without_host_toml_no_knob_is_red(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detune(config, monkeypatch)
    assert check_of(config, "swap").status is Status.FAIL
    (config.parent / "host.toml").unlink()
    checks = {check.name: check for check in doctor.examine(config)}
    assert checks["host.toml"].status is Status.UNKNOWN
    assert {name for name in KNOBS if checks[name].status is Status.WARN} == {"swap", "CPU governor"}
    assert {name for name in KNOBS if checks[name].status is Status.FAIL} == set()


@pytest.mark.parametrize("text", ["[swap", 'swap = "off"\nshm = 3\n[cpu]\ngovernor = "performance"\n'])
def test_a_host_toml_of_another_form_breaks_nothing(config: Path, text: str) -> None:
    (config.parent / "host.toml").write_text(text)
    checks = {check.name: check for check in doctor.examine(config)}
    assert checks["host.toml"].status is (Status.WARN if text == "[swap" else Status.OK)
    assert checks["swap"].status is Status.OK
    assert "host's knobs" not in checks


def test_in_a_container_swap_is_the_business_of_the_system_below(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detune(config, monkeypatch)
    monkeypatch.setattr(probes, "in_container", lambda: True)
    check = check_of(config, "swap")
    assert check.status is Status.WARN
    assert "container" in check.advice


def test_limits_of_a_miner_that_does_not_run_are_unknown(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "miner_tree", list)
    assert check_of(config, "open files").status is Status.UNKNOWN
    assert check_of(config, "miner").status is Status.UNKNOWN


# --- firewalls, as each of them says it


ACCEPT: dict[str, Any] = {"accept": None}


def chain(policy: str, *rules: list[dict[str, Any]], name: str = "input", hook: str | None = "input") -> list[Any]:
    at = {"family": "inet", "table": "filter"}
    hooked = {"hook": hook, "policy": policy} if hook else {}
    return [
        {"metainfo": {"json_schema_version": 1}},
        {"chain": {**at, "name": name, **hooked}},
        *({"rule": {**at, "chain": name, "expr": rule}} for rule in rules),
    ]


def accepts(right: Any, protocol: str = "tcp") -> list[dict[str, Any]]:
    left = {"payload": {"protocol": protocol, "field": "dport"}}
    return [{"match": {"op": "==", "left": left, "right": right}}, ACCEPT]


@pytest.mark.parametrize(
    ("entries", "is_open"),
    [
        ([], True),
        (chain("accept"), True),
        (chain("drop"), False),
        (chain("drop", accepts(22)), False),
        (chain("drop", accepts(8091)), True),
        (chain("drop", accepts({"set": [22, 8091]})), True),
        (chain("drop", accepts({"set": [22, {"range": [8000, 8100]}]})), True),
        (chain("drop", accepts({"range": [9000, 9100]})), False),
        (chain("drop", accepts(8091, "udp")), False),
        ([*chain("drop", accepts("@ports")), {"set": {"table": "filter", "name": "ports", "elem": [22, 8091]}}], True),
        ([*chain("drop", accepts("@ports")), {"set": {"table": "filter", "name": "ports", "elem": [22]}}], False),
        (chain("drop", [{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["new"]}}, ACCEPT]), None),
        (
            chain("drop", [{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["related"]}}, ACCEPT]),
            False,
        ),
        (chain("drop", [{"match": {"op": "==", "left": {"meta": {"key": "iif"}}, "right": "lo"}}, ACCEPT]), False),
        (chain("drop", [ACCEPT]), None),
        (chain("drop", [{"vmap": {"key": {}, "data": {}}}]), None),
        (chain("accept", accepts(22), [{"drop": None}]), None),
        (chain("drop", [{"jump": {"target": "ours"}}]), None),
        (chain("accept", accepts(8091), [{"reject": None}]), True),
        (chain("drop", name="forward", hook="forward"), True),
        (chain("accept") + chain("drop", name="other"), False),
    ],
)
def test_what_nftables_lists_says_whether_the_port_is_let_in(entries: list[Any], is_open: bool | None) -> None:
    assert firewall.judge_nftables(entries, 8091)[0] is is_open


@pytest.mark.parametrize(
    ("words", "answers", "status"),
    [
        ({"firewall-cmd": ["running", "yes"]}, {}, Status.OK),
        ({"firewall-cmd": ["running", "no"]}, {}, Status.FAIL),
        ({}, {"ufw": "Status: active\n\n8091/tcp  ALLOW  Anywhere\n"}, Status.OK),
        ({}, {"ufw": "Status: active\n\n8091/tcp  DENY  Anywhere\n18091/tcp  ALLOW  Anywhere\n"}, Status.FAIL),
        ({}, {"ufw": "Status: inactive\n", "nft": json.dumps({"nftables": chain("drop")})}, Status.FAIL),
        ({}, {"nft": json.dumps({"nftables": []})}, Status.OK),
        ({}, {}, Status.UNKNOWN),
    ],
)
def test_the_firewall_that_is_active_is_asked(
    monkeypatch: pytest.MonkeyPatch, words: dict[str, list[str]], answers: dict[str, str], status: Status
) -> None:
    monkeypatch.setattr(
        probes, "ask_word", lambda command, *arguments: words[command]["--state" not in arguments] if words else None
    )
    monkeypatch.setattr(probes, "ask", lambda command, *_: answers.get(command))
    [check] = firewall.check([8091])
    assert check.status is status


# --- clock, disks, ports and circuits


@pytest.mark.parametrize(
    ("answers", "measured"),
    [
        ({"chronyc": CHRONY}, (0.000123, "chronyd")),
        ({"chronyc": CHRONY.replace("Normal", "Not synchronised")}, None),
        ({"chronyc": "506 Cannot talk to daemon"}, None),
        ({"ntpq": "offset=-2500.125"}, (-2.500125, "ntpd")),
        (
            {"timedatectl": "       Server: 10.0.0.1\n       Offset: -1min 2.5s\n        Delay: 1ms"},
            (-62.5, "systemd-timesyncd"),
        ),
        ({"timedatectl": "       Offset: +1.166ms"}, (0.001166, "systemd-timesyncd")),
        ({"timedatectl": "       Offset: n/a"}, None),
        ({}, None),
    ],
)
def test_the_clocks_keeper_is_asked_for_the_offset(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, str], measured: tuple[float, str] | None
) -> None:
    monkeypatch.setattr(probes, "ask", lambda command, *_: answers.get(command))
    found = probes.clock_offset()
    assert (found is None) == (measured is None)
    if found and measured:
        assert found[0] == pytest.approx(measured[0])
        assert found[1] == measured[1]


@pytest.mark.parametrize(("flags", "rotates"), [("00", False), ("01", True), ("", None)])
def test_a_disk_is_followed_through_lvm_and_partitions(tmp_path: Path, flags: str, rotates: bool | None) -> None:
    """A logical volume on partitions of two disks: one that rotates makes it rotate."""
    number = os.stat(tmp_path).st_dev
    if not os.major(number):
        pytest.skip("the temporary folder is on no block device")
    mapped = tmp_path / "sys/devices/virtual/block/dm-0"
    (mapped / "slaves").mkdir(parents=True)
    (mapped / "queue").mkdir()
    (mapped / "queue/rotational").write_text("1")  # what a mapper says of itself does not count
    for index, flag in enumerate(flags):
        disk = tmp_path / f"sys/devices/pci/block/sd{index}"
        (disk / "queue").mkdir(parents=True)
        (disk / "queue/rotational").write_text(f"{flag}\n")
        (disk / "part1").mkdir()
        (disk / "part1/partition").write_text("1\n")
        (mapped / f"slaves/part{index}").symlink_to(disk / "part1")
    if not flags:
        (mapped / "queue/rotational").unlink()
    (tmp_path / "sys/dev/block").mkdir(parents=True)
    (tmp_path / f"sys/dev/block/{os.major(number)}:{os.minor(number)}").symlink_to(mapped)
    assert probes.is_rotating(tmp_path / "not/there/yet", tmp_path / "sys") is rotates


def test_the_port_is_tried_and_a_public_address_that_does_not_answer_itself_is_no_fault(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_real_network(config, monkeypatch)
    assert check_of(config, "from outside").status is Status.OK
    monkeypatch.setattr(probes, "reach", lambda address, _: "no answer" if address == "203.0.113.7" else None)
    check = check_of(config, "from outside")
    assert (check.status, "from another one" in check.advice) == (Status.UNKNOWN, True)
    assert check_of(config, "axon port").status is Status.OK


def test_a_port_is_reached_or_the_reason_is_told(listener: int) -> None:
    assert probes.reach("127.0.0.1", listener) is None
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert probes.reach("127.0.0.1", closed.getsockname()[1]) == "Connection refused"


@pytest.mark.parametrize(
    ("pk_gib", "status"), [(1, Status.OK), (30, Status.WARN), (200, Status.FAIL)], ids=["fits", "may not", "cannot"]
)
def test_each_circuit_is_held_against_the_memory(
    config: Path, monkeypatch: pytest.MonkeyPatch, pk_gib: int, status: Status
) -> None:
    use_circuits(monkeypatch, [LOGROWS], pk_bytes=pk_gib * GIB)
    check = check_of(config, "memory of 00000000")
    assert check.status is status
    assert check.wanted.endswith("GB a proof")
    assert ("at a time" in check.live) is (status is Status.OK)


def test_how_many_proofs_fit_is_told_of_as_many_as_there_are_workers(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(f"prover = {{workers = 8}}\n{config.read_text()}")
    use_circuits(monkeypatch, [LOGROWS], pk_bytes=5 * GIB)
    assert check_of(config, "memory of 00000000").live == "64.0 GiB, enough for 3 of 8 at a time"


# --- limits


def test_a_check_that_hangs_or_breaks_is_told_and_the_others_are_made() -> None:
    def breaks() -> Iterator[Check]:
        yield Check("first", Status.OK, "", "")
        raise ValueError("unforeseen")

    def refused() -> Iterator[Check]:
        raise PermissionError(13, "Permission denied", "/secret")
        yield

    def hangs() -> Iterator[Check]:
        time.sleep(60)
        yield Check("never", Status.OK, "", "")

    def works() -> list[Check]:
        return [Check("last", Status.OK, "", "")]

    groups: list[probes.Group] = [("b", breaks), ("r", refused), ("h", hangs), ("w", works)]
    begun = time.monotonic()
    checks = probes.side_by_side(groups, limit_seconds=0.3)
    assert time.monotonic() - begun < 5
    assert [check.name for check in checks] == ["first", "b", "r", "h", "last"]
    told = {check.name: check for check in checks}
    assert "unforeseen" in told["b"].live
    assert told["r"].advice == "run this as root"
    assert told["h"].live == "none within 0.3 s"


def test_a_command_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "COMMAND_SECONDS", 0.2)
    assert probes.ask("sleep", "60") is None


def test_names_that_are_not_ours_cannot_move_the_terminals_cursor() -> None:
    text = doctor.to_text([Check("circuit", Status.OK, "loads", "evil\x1b[2J\nname")])
    assert "\x1b[2J" not in text
    assert "evil?[2J name" in text


def test_the_competition_is_looked_at_only_where_it_is_on(config: Path) -> None:
    def found(section: str) -> dict[str, Check]:
        config.write_text(f"{before}\n[competition]\n{section}\nstatus_file = {json.dumps(str(status_file))}\n")
        return {check.name: check for check in doctor.examine(config) if check.name.startswith("competition")}

    before, status_file = config.read_text(), config.parent / "competition.json"
    assert found("enabled = false") == {}
    on = 'enabled = true\nbucket = "circuits"\nendpoint = "https://minio.example"'
    checks = found(on)
    assert checks["competition"].status is Status.WARN
    assert "minio.example" in checks["competition storage"].live
    write_status(
        status_file, CompetitionStatus(int(time.time()), prepared="ab" * 32, error="No URLs", problem="mend it")
    )
    assert (found(on)["competition"].live, found(on)["competition"].advice) == ("an error: No URLs", "mend it")
    write_status(status_file, CompetitionStatus(int(time.time()), prepared="ab" * 32))
    checks = found(on.replace("minio.example", "a.r2.cloudflarestorage.com"))
    assert [check.status for check in checks.values()] == [Status.OK, Status.OK]
