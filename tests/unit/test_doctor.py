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
from omron_miner.circuit_store import CircuitStore
from omron_miner.cli import main
from omron_miner.doctor import Check, Status
from omron_miner.monitor import host, model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOGROWS = 5


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
    answers = {"timedatectl": "yes", "systemctl": "active"}
    monkeypatch.setattr(doctor, "_run", lambda command, *_: answers[command])
    monkeypatch.setattr(doctor, "SUPPORTED_OS", {("any", "1")})
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


def write_srs(directory: Path, logrows: int, missing_bytes: int = 0) -> Path:
    file = srs.srs_path(directory, logrows)
    file.write_bytes(logrows.to_bytes(4, "little") + bytes((128 << logrows) + 256 - missing_bytes))
    return file


def write_summary(state: Path, age: float) -> None:
    (state / "summary.json").write_text(json.dumps({"time": time.time() - age}))


def use_circuits(monkeypatch: pytest.MonkeyPatch, logrows: list[int], refused: dict[str, str] | None = None) -> None:
    """A store of usable circuits with these logrows, and refused ones."""
    circuits = {
        f"{number}" * 64: SimpleNamespace(
            id=f"{number}" * 64, label=f"circuit{number} v1 using EZKL", settings=SimpleNamespace(logrows=rows)
        )
        for number, rows in enumerate(logrows)
    }
    store = SimpleNamespace(ids=lambda: list(circuits), get=circuits.__getitem__, refused=lambda: refused or {})
    monkeypatch.setattr(doctor, "CircuitStore", lambda _: store)


def check_of(config: Path, name: str) -> Check:
    return next(check for check in doctor.examine(config) if check.name == name)


def test_a_host_as_it_should_be_passes_every_check(config: Path) -> None:
    checks = doctor.examine(config)
    assert [check.name for check in checks if check.status is not Status.OK] == []
    assert [check.name for check in checks if check.advice] == []
    assert len(checks) >= 19


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
        ("os.cpu_count", 1, "cores", Status.FAIL),
        ("platform.freedesktop_os_release", {"ID": "other"}, "operating system", Status.WARN),
        ("omron_miner.monitor.host.read_swap", [model.SwapDevice("/dev/sda2", GIB, 0)], "swap", Status.FAIL),
        ("omron_miner.monitor.host.read_swap", None, "swap", Status.UNKNOWN),
        ("omron_miner.monitor.host.read_governors", {}, "CPU governor", Status.OK),
        ("omron_miner.monitor.host.read_governors", {"0": "powersave"}, "CPU governor", Status.WARN),
        ("omron_miner.monitor.host.is_listening", False, "axon port", Status.FAIL),
        ("omron_miner.monitor.host.is_listening", None, "axon port", Status.UNKNOWN),
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
    on_a_real_network(config)
    assert check_of(config, "memory").status is Status.FAIL


def on_a_real_network(config: Path) -> None:
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
    monkeypatch.setattr(doctor, "_run", lambda *_: answer)
    found = [check_of(config, name).status for name in ("clock", "pm2", "monitor timer")]
    assert found == [clock, pm2, timer]


def test_a_command_that_is_not_there_or_does_not_answer_in_a_word_tells_nothing() -> None:
    assert doctor._run("there-is-no-such-command") is None
    assert doctor._run("echo", "System has not been booted with systemd") is None
    assert doctor._run("sh", "-c", "echo inactive; exit 3") == "inactive"


def test_the_session_directory_must_be_private(config: Path) -> None:
    directory = config.parent / "sessions"
    directory.chmod(0o755)
    check = check_of(config, "session directory")
    assert check.status is Status.FAIL
    assert check.advice == f"chmod 0700 {directory}"
    directory.rmdir()
    assert check_of(config, "session directory").status is Status.WARN


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
    assert check_of(config, "circuit 00000000").live == f"circuit0 v1 using EZKL, logrows {LOGROWS}"
    check = check_of(config, "circuit ffffffff")
    assert (check.status, check.live) == (Status.FAIL, "pk.key is missing")


def test_a_folder_that_is_no_circuit_is_refused_by_the_real_store(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CircuitStore", CircuitStore)
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


def test_a_test_srs_is_told_on_local_and_fails_on_a_real_network(config: Path) -> None:
    srs.test_marker(srs.srs_path(config.parent / "state/srs", LOGROWS)).touch()
    check = check_of(config, f"SRS {LOGROWS}")
    assert check.status is Status.OK
    assert check.live.endswith("for tests only")
    on_a_real_network(config)
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
