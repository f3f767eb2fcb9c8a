"""The doctor's checks on hosts made up of folders; what this machine is must not matter."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner

from circuit_folders import SETTINGS, VK, write_circuit, write_srs
from monitor_samples import GIB
from omron_miner import doctor
from omron_miner.circuits import srs
from omron_miner.circuits.checksums import write_checksums
from omron_miner.circuits.circuit import ezkl_version
from omron_miner.cli import main
from omron_miner.competition.status import Status as CompetitionStatus
from omron_miner.competition.status import write_status
from omron_miner.constants import Circuits, Constants
from omron_miner.doctor import Status, circuits, examine, probes, service
from omron_miner.doctor.check import Check
from omron_miner.doctor.key_files import key_files
from omron_miner.host import Machine, is_rotating
from omron_miner.host.commands import run_command
from omron_miner.host.network import try_connection
from ports import free_port
from users import without_roots_rights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOGROWS = 11
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
"""
UNIT = "[Service]\nLimitNOFILE=65536\nLimitMEMLOCK=8M\n"
HOTKEY = {
    "ss58Address": "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY",
    "cryptoType": 1,
    "privateKey": "0x33a6f3093f158a7109f679410bef1a0c54168145e0cecb4df006c1c2fffb1f09"
    "925a225d97aa00682d6a59b95b18780c10d7032336e88f3442b42361f4a66011",
}
"""A test key everybody knows (//Alice)."""
CHRONY = "7F7F0101,,8,1795540418.838298318,0.000123000,0.0,0.0,0.000,0.000,0.000,0.000000000,0.000000000,0.0,Normal"
LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max open files            65536                65536                files
Max locked memory         8388608              8388608              bytes
"""


class Host:
    """A host on which everything is as it should be, made of files and answers; a test then breaks one thing."""

    def __init__(self, root: Path, port: int) -> None:
        self.root, self.state, self.config = root, root / "state", root / "constants.toml"
        self.answers: dict[str, str] = {
            "timedatectl show": "yes",
            "systemctl is-active": "active",
            "systemctl is-enabled": "enabled",
            "systemd-detect-virt": "none",
            "firewall-cmd": "not-running",
            "chronyc": CHRONY,
            "ufw": "Status: active\n\n8091/tcp  ALLOW  Anywhere\n",
        }
        """What commands print, by their first two words or the first alone; others are not installed."""
        self.connection_faults: dict[str, str | None] = {"203.0.113.7": None}  # nobody's address
        """By address; other addresses are really tried."""
        sessions = root / "sessions"
        self.file_systems = {
            "/": (200 * GIB, 100 * GIB),
            "/dev/shm": (48 * GIB, 48 * GIB),
            str(sessions): (4 * GIB, 4 * GIB),
        }
        """Total and free bytes by path."""
        self.write_files(
            {
                "constants.toml": f'axon = {{port = {port}}}\nwallet = {{path = "{self.state}/wallets"}}\n'
                f'circuits = {{directory = "{self.state}/circuits", srs_directory = "{self.state}/srs"}}\n'
                f'sessions = {{directory = "{sessions}"}}\nlog = {{directory = "{root}"}}\n'
                f'monitor = {{directory = "{self.state}"}}\n',
                "host.toml": HOST,
                "state/wallets/miner/hotkeys/default": json.dumps(HOTKEY),
                "etc/os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
                "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
                "sys/devices/system/cpu/online": "0-15\n",
                "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
                "sys/devices/system/cpu/cpufreq/policy0/energy_performance_preference": "performance\n",
                "sys/dev/block/8:1/queue/rotational": "0\n",
                "proc/sys/vm/overcommit_memory": "0\n",
                "proc/sys/net/ipv4/tcp_rmem": "4096\t131072\t6291456\n",
                "etc/systemd/system/omron-pm2.service": UNIT,
                "proc/77/limits": LIMITS,
                "proc/77/cgroup": "0::/system.slice/omron-pm2.service\n",
                "proc/77/cmdline": "omron-miner\0serve\0",
                "proc/77/stat": f"77 (omron-miner) S 1 {'0 ' * 17}100 0 2000 {'0 ' * 20}\n",
                "proc/meminfo": f"MemTotal: {64 << 20} kB\nMemAvailable: {60 << 20} kB\n",
                "proc/swaps": "Filename Type Size Used Priority\n",
                "proc/net/tcp": f"head\n0: 0100007F:{port:04X} 00000000:0000 0A 0 0 0 0\n",
                "proc/self/mounts": f"/dev/sda1 / ext4 rw 0 0\ntmpfs {sessions} tmpfs rw,nosuid,nodev 0 0\n",
            }
        )
        (self.state / "wallets/miner/hotkeys/default").chmod(0o600)
        sessions.mkdir(mode=0o700)
        write_srs(self.state / "srs")
        self.write_summary(age=30.0)
        self.circuit = circuit_with_checksums(self.state / "circuits", "0")

    def write_files(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            file = self.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def write_summary(self, age: float) -> None:
        (self.state / "summary.json").write_text(json.dumps({"time": time.time() - age}))

    def use_real_network(self) -> None:
        text = self.config.read_text().replace("axon = {", 'axon = {external_ip = "203.0.113.7", ')
        self.config.write_text(f'network = {{name = "finney"}}\n{text}')

    def set_key_size(self, size: int) -> None:
        """Of its circuit; the file is sparse."""
        (self.circuit / "checksums.json").unlink()
        os.truncate(self.circuit / "pk.key", size)

    def checks(self) -> list[Check]:
        return examine(self.config, self.machine())

    def check(self, name: str) -> Check:
        return next(check for check in self.checks() if check.name == name)

    def machine(self) -> Machine:
        def try_connection(address: str, port: int) -> str | None:
            faults = self.connection_faults
            return faults[address] if address in faults else Machine().try_connection(address, port)

        def statvfs(path: str | Path) -> os.statvfs_result:
            total, free = self.file_systems.get(str(path), self.file_systems["/"])
            return os.statvfs_result((4096, 4096, total // 4096, free // 4096, free // 4096, 0, 0, 0, 0, 255))

        return Machine(self.root, self._run, try_connection, statvfs, lambda _: os.makedev(8, 1))

    def _run(self, *command: str) -> str | None:
        return self.answers.get(" ".join(command[:2]), self.answers.get(command[0]))


@pytest.fixture
def listener() -> Iterator[int]:
    """A port that something listens on."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        opened.listen()
        yield opened.getsockname()[1]


@pytest.fixture
def host(tmp_path: Path, listener: int) -> Host:
    return Host(tmp_path, listener)


def test_a_host_as_it_should_be_passes_every_check(host: Host) -> None:
    checks = host.checks()
    assert [check.name for check in checks if check.status is not Status.OK] == []
    assert [check.name for check in checks if check.advice] == []
    assert len(checks) >= 33


def test_wrong_constants_fail_and_the_host_is_still_checked(host: Host) -> None:
    host.config.write_text("[axon]\nprot = 1\n")
    checks = host.checks()
    assert checks[0].status is Status.FAIL
    assert "axon.prot" in checks[0].live
    assert {"memory", "swap", "clock"} <= {check.name for check in checks}


SWAP_ON = "Filename Type Size Used Priority\n/dev/sda2 partition 1048576 0 -2\n"
CLOCK_OFF_BY = f"{CHRONY.partition('0.000123')[0]}{{}}{CHRONY.partition('0.000123000')[2]}"


@pytest.mark.parametrize(
    ("name", "status", "files"),
    [
        ("memory", Status.WARN, {"proc/meminfo": f"MemTotal: {16 << 20} kB\n"}),
        ("memory", Status.WARN, {"proc/meminfo": f"MemTotal: {8 << 20} kB\n"}),
        ("cores", Status.WARN, {"sys/devices/system/cpu/online": "0-3"}),
        ("cores", Status.WARN, {"sys/devices/system/cpu/online": "0"}),
        ("operating system", Status.WARN, {"etc/os-release": "ID=other\n"}),
        ("operating system", Status.OK, {"etc/os-release": "ID='ubuntu'\nVERSION_ID=24.04\n"}),
        ("swap", Status.FAIL, {"proc/swaps": SWAP_ON}),
        ("CPU governor", Status.WARN, {"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave"}),
        ("axon port", Status.FAIL, {"proc/net/tcp": "head\n"}),
        ("SSD", Status.WARN, {"sys/dev/block/8:1/queue/rotational": "1"}),
        ("SSD", Status.UNKNOWN, {"sys/dev/block/8:1/queue/rotational": ""}),
    ],
)
def test_a_fault_of_the_host_is_found(host: Host, name: str, status: Status, files: dict[str, str]) -> None:
    host.write_files(files)
    check = host.check(name)
    assert check.status is status
    assert (check.advice != "") == (status in (Status.WARN, Status.FAIL))


@pytest.mark.parametrize(
    ("name", "status", "change"),
    [
        ("swap", Status.UNKNOWN, lambda host: (host.root / "proc/swaps").unlink()),
        ("CPU governor", Status.OK, lambda host: shutil.rmtree(host.root / "sys/devices/system/cpu/cpu0")),
        ("axon port", Status.FAIL, lambda host: host.connection_faults.update({"127.0.0.1": "Connection refused"})),
        ("clock offset", Status.WARN, lambda host: host.answers.update(chronyc=CLOCK_OFF_BY.format("-0.700000000"))),
        ("clock offset", Status.FAIL, lambda host: host.answers.update(chronyc=CLOCK_OFF_BY.format("2.100000000"))),
        ("clock offset", Status.UNKNOWN, lambda host: host.answers.pop("chronyc")),
        ("/dev/shm", Status.WARN, lambda host: host.file_systems.update({"/dev/shm": (32 * GIB, 32 * GIB)})),
        ("disk", Status.WARN, lambda host: host.file_systems.update({"/": (99 * GIB, 10 * GIB)})),
        ("disk", Status.FAIL, lambda host: host.file_systems.update({"/": (99 * GIB, GIB)})),
    ],
)
def test_another_fault_of_the_host_is_found(
    host: Host, name: str, status: Status, change: Callable[[Host], Any]
) -> None:
    change(host)
    check = host.check(name)
    assert check.status is status
    assert (check.advice != "") == (status in (Status.WARN, Status.FAIL))


def test_too_little_memory_fails_on_a_real_network_only(host: Host) -> None:
    host.write_files({"proc/meminfo": f"MemTotal: {8 << 20} kB\n"})
    assert host.check("memory").status is Status.WARN
    host.use_real_network()
    assert host.check("memory").status is Status.FAIL
    host.write_files({"sys/devices/system/cpu/online": "0"})
    assert host.check("cores").status is Status.FAIL


@pytest.mark.parametrize(
    ("mount", "total", "free", "name", "status"),
    [
        ("ext4 rw,nosuid,nodev", 4 * GIB, 4 * GIB, "RAM disk", Status.WARN),
        ("tmpfs rw,nosuid,nodev", 4 * GIB, 4096, "RAM disk", Status.FAIL),
        ("tmpfs rw,nosuid,nodev", 65 * GIB, 65 * GIB, "RAM disk", Status.WARN),
        ("tmpfs ro,nosuid,nodev", 4 * GIB, 4 * GIB, "RAM disk options", Status.FAIL),
        ("tmpfs rw,nosuid", 4 * GIB, 4 * GIB, "RAM disk options", Status.WARN),
    ],
)
def test_a_ram_disk_out_of_order_is_found(
    host: Host, mount: str, total: int, free: int, name: str, status: Status
) -> None:
    sessions = host.root / "sessions"
    host.write_files({"proc/self/mounts": f"tmpfs {sessions} {mount} 0 0\n"})
    host.file_systems[str(sessions)] = (total, free)
    assert host.check(name).status is status


@pytest.mark.parametrize(
    ("answer", "clock", "pm2", "timer"),
    [
        ("no", Status.WARN, Status.FAIL, Status.WARN),
        (None, Status.UNKNOWN, Status.UNKNOWN, Status.UNKNOWN),
        ("inactive", Status.UNKNOWN, Status.FAIL, Status.WARN),
    ],
)
def test_systemds_answers(host: Host, answer: str | None, clock: Status, pm2: Status, timer: Status) -> None:
    host.answers = {"timedatectl": answer, "systemctl": answer} if answer else {}
    found = [host.check(name).status for name in ("clock", "pm2", "monitor timer")]
    assert found == [clock, pm2, timer]


@pytest.mark.parametrize(
    ("unit", "state", "status"),
    [
        ("omron-pm2.service", "disabled", Status.FAIL),
        ("omron-pm2.service", "enabled-runtime", Status.FAIL),
        ("omron-miner-monitor.timer", "disabled", Status.WARN),
        ("omron-miner-monitor.timer", "masked", Status.WARN),
        ("omron-cpu-governor.service", "not-found", Status.OK),
        ("logrotate.timer", "static", Status.OK),
    ],
)
def test_a_unit_that_does_not_start_at_boot_is_found_though_it_runs(unit: str, state: str, status: Status) -> None:
    [check] = service.at_boot(Machine(run_command=lambda *command: state if command[2] == unit else "enabled"))
    assert check.status is status
    assert (unit in check.wanted and unit in check.advice) is (status is not Status.OK)


def circuit_with_checksums(directory: Path, name: str) -> Path:
    """A circuit's folder, and the checksums of its files."""
    folder = write_circuit(directory, name)
    write_checksums(folder)
    return folder


def test_a_key_with_a_corrupt_byte_is_found(tmp_path: Path) -> None:
    key = circuit_with_checksums(tmp_path, "a") / "pk.key"
    [check] = key_files(tmp_path)
    assert (check.status, "every byte" in check.live) == (Status.OK, True)
    key.write_bytes(b"!" + key.read_bytes()[1:])
    [check] = key_files(tmp_path)
    assert check.status is Status.FAIL
    assert "pk.key is not the file" in check.live


def test_what_was_not_hashed_is_not_called_well(tmp_path: Path) -> None:
    folder = circuit_with_checksums(tmp_path, "a")
    [check] = key_files(tmp_path, seconds=0.0)
    assert (check.status, "only sizes" in check.live) == (Status.UNKNOWN, True)
    (folder / "pk.key").write_bytes(b"short")
    assert [one.status for one in key_files(tmp_path, seconds=0.0)] == [Status.FAIL]
    (folder / "checksums.json").unlink()
    [check] = key_files(tmp_path)
    assert (check.status, "nothing was compared" in check.live) == (Status.UNKNOWN, True)
    assert check.advice == f"omron-miner circuit check {'a' * 64}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("closed", ["state/circuits", f"state/circuits/model_{'a' * 64}"])
def test_another_user_is_not_reported_to_remove_a_circuit_that_only_others_may_read(closed: str) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are root's alone
        root = Path(name)
        root.chmod(0o755)
        circuit_with_checksums(root / "state/circuits", "a")
        (root / closed).chmod(0o700)
        constants = Constants(circuits=Circuits(directory=root / "state/circuits"))
        with without_roots_rights():
            checks = [*circuits.circuits(constants, Machine()), *key_files(constants.circuits.directory)]
    [found] = [one for one in checks if one.name in ("circuits", "circuit aaaaaaaa")]
    assert (found.status, found.advice) == (Status.UNKNOWN, "run this as root")
    assert not [one for one in checks if "remove" in one.advice]


def test_only_an_answer_of_one_word_from_an_installed_command_counts() -> None:
    this = Machine()
    assert this.run_for_word("there-is-no-such-command") is None
    assert this.run_for_word("echo", "System has not been booted with systemd") is None
    assert this.run_for_word("sh", "-c", "echo inactive; exit 3") == "inactive"


def test_the_session_directory_must_be_private(host: Host) -> None:
    directory = host.root / "sessions"
    directory.chmod(0o755)
    check = host.check("session directory")
    assert check.status is Status.FAIL
    assert check.advice == f"chmod 0700 {directory}"
    directory.rmdir()
    assert host.check("session directory").status is Status.OK, "the first request after a boot makes it"


def test_the_hotkey_must_be_there_and_private(host: Host) -> None:
    file = host.root / "state/wallets/miner/hotkeys/default"
    file.chmod(0o640)
    check = host.check("hotkey")
    assert (check.status, check.advice) == (Status.FAIL, f"chmod 0600 {file}")
    file.unlink()
    assert host.check("hotkey").status is Status.FAIL


def test_the_hotkey_must_be_able_to_sign(host: Host) -> None:
    file = host.root / "state/wallets/miner/hotkeys/default"
    file.write_text(json.dumps({name: value for name, value in HOTKEY.items() if name != "privateKey"}))
    check = host.check("hotkey")
    assert (check.status, "cannot sign" in check.live) == (Status.FAIL, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory to another user takes root")
def test_the_hotkey_must_be_the_service_users(host: Host) -> None:
    other = os.getuid() + 1
    os.chown(host.root, other, -1)  # the log directory's owner is the service user
    check = host.check("hotkey")
    assert check.status is Status.FAIL
    assert check.advice.startswith(f"chown {other} ")


def test_a_coldkey_anywhere_in_the_wallets_fails_and_a_public_one_does_not(host: Host) -> None:
    wallets = host.root / "state/wallets"
    (wallets / "miner/coldkeypub.txt").write_text("{}")
    assert host.check("coldkey").status is Status.OK
    (wallets / "other").mkdir()
    (wallets / "other/coldkey.old").write_text("secret")
    check = host.check("coldkey")
    assert check.status is Status.FAIL
    assert check.live == str(wallets / "other/coldkey.old")


def test_without_circuits_the_host_fails(host: Host) -> None:
    shutil.rmtree(host.circuit)
    assert host.check("circuits").status is Status.FAIL


def test_a_refused_circuit_fails_with_its_reason(host: Host) -> None:
    refused = write_circuit(host.state / "circuits", "f")
    (refused / "pk.key").unlink()
    (host.state / f"circuits/model_{'e' * 64}").mkdir()
    loads = host.check("circuit 00000000")
    assert (loads.status, loads.live.endswith(f"{ezkl_version()}, logrows {LOGROWS}")) == (Status.OK, True)
    check = host.check("circuit ffffffff")
    assert (check.status, "pk.key" in check.live, "remove" in check.advice) == (Status.FAIL, True, True)
    check = host.check("circuit eeeeeeee")
    assert (check.status, "metadata.json" in check.live) == (Status.FAIL, True)


def test_a_good_circuit_without_its_srs_fails_without_the_advice_to_remove_it(host: Host) -> None:
    srs.srs_path(host.state / "srs", LOGROWS).unlink()
    check = host.check("circuit 00000000")
    assert (check.status, check.advice) == (Status.FAIL, "see its SRS below")
    assert "there is no SRS for logrows 11" in check.live
    assert host.check("SRS 11").status is Status.FAIL


def test_every_logrows_needs_a_whole_srs(host: Host) -> None:
    folder = write_circuit(host.state / "circuits", "a", run_args=SETTINGS["run_args"] | {"logrows": 12})
    for key in ("vk.key", "pk.key"):
        (folder / key).write_bytes((folder / key).read_bytes().replace(VK, bytes([3, 12]) + VK[2:]))
    assert host.check("SRS 11").status is Status.OK
    assert host.check("SRS 12").status is Status.FAIL
    path = write_srs(host.state / "srs", 12)
    assert host.check("SRS 12").status is Status.OK
    os.truncate(path, path.stat().st_size - 1)
    assert host.check("SRS 12").status is Status.FAIL


def test_a_test_srs_is_named_on_local_and_fails_on_a_real_network(host: Host) -> None:
    write_srs(host.state / "srs", trusted=False)
    check = host.check(f"SRS {LOGROWS}")
    assert check.status is Status.OK
    assert check.live.endswith("for tests only")
    host.use_real_network()
    assert host.check(f"SRS {LOGROWS}").status is Status.FAIL


@pytest.mark.parametrize("content", ["", "{", "[]", '{"time": "noon"}'])
def test_a_summary_that_is_old_missing_or_broken_is_a_warning(host: Host, content: str) -> None:
    state = host.state
    host.write_summary(age=3600.0)
    assert host.check("summary").live == "1 h old"
    assert host.check("summary").status is Status.WARN
    (state / "summary.json").write_text(content)
    assert host.check("summary").status is Status.WARN
    (state / "summary.json").unlink()
    assert host.check("summary").status is Status.WARN


def test_the_command_ends_with_0_when_nothing_failed_and_1_when_something_did(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--config", str(host.config), "doctor"]
    monkeypatch.setattr(doctor, "examine", lambda config: host.checks() if config == host.config else [])
    assert CliRunner().invoke(main, command).exit_code == 0
    (host.state / "summary.json").unlink()
    warned = CliRunner().invoke(main, command)
    assert (warned.exit_code, "\x1b" in warned.output) == (0, False)
    assert warned.output.splitlines()[-1].startswith("warn: ")
    assert "\x1b[33mwarn" in CliRunner().invoke(main, command, color=True).output
    shutil.rmtree(host.circuit)
    failed = CliRunner().invoke(main, [*command, "--json"])
    assert failed.exit_code == 1
    assert json.loads(failed.output)["status"] == "fail"


def test_text_has_one_line_of_advice_below_what_needs_it(host: Host) -> None:
    (host.state / "summary.json").unlink()
    lines = click.unstyle(doctor.to_text(host.checks())).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("warn     summary"))
    assert lines[at + 1].strip().startswith("try: systemctl start omron-miner-monitor.service")
    assert sum("try: " in line for line in lines) == 1


# --- the host's settings against host.toml


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
def test_a_setting_that_is_not_as_wanted_is_amber_with_both_values(
    host: Host, file: str, text: str, name: str, live: str
) -> None:
    wanted = host.check(name).wanted
    (host.root / file).write_text(text)
    check = host.check(name)
    assert (check.status, check.live, check.wanted) == (Status.WARN, live, wanted)
    assert check.advice.startswith("systemctl restart omron-pm2" if "limits" in file else "run the play with --tags ")


HOST_SETTINGS = {"swap", "/dev/shm", "CPU governor", "energy preference", "huge pages"}


def detune(host: Host) -> None:
    """Nothing is as HOST wants it."""
    host.file_systems["/dev/shm"] = (GIB, GIB)
    host.write_files(
        {
            "proc/swaps": SWAP_ON,
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave",
            "sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never",
            "proc/sys/vm/overcommit_memory": "2",
            "sys/devices/system/cpu/cpufreq/policy0/energy_performance_preference": "power",
        }
    )


def test_a_setting_not_in_host_toml_is_shown_and_not_checked(host: Host) -> None:
    detune(host)
    (host.root / "host.toml").write_text("[clock]\nsynchronised = true\n")
    checks = {check.name: check for check in host.checks()}
    assert {checks[name].status for name in HOST_SETTINGS} == {Status.OK}
    assert {checks[name].wanted for name in HOST_SETTINGS} == {"any (not in host.toml)"}
    assert (checks["swap"].live, checks["CPU governor"].live) == ("on: /dev/sda2", "powersave on 1 CPU")
    assert "firewall" not in checks
    assert checks["vm.overcommit_memory"].status is Status.WARN, "2 refuses proofs"
    (host.root / "proc/sys/vm/overcommit_memory").write_text("1\n")
    check = host.check("vm.overcommit_memory")
    assert (check.status, check.live[:1]) == (Status.OK, "1")
    assert "Redis" in check.live


def test_without_host_toml_no_setting_is_red(host: Host) -> None:
    detune(host)
    assert host.check("swap").status is Status.FAIL
    (host.root / "host.toml").unlink()
    checks = {check.name: check for check in host.checks()}
    assert checks["host.toml"].status is Status.UNKNOWN
    assert {name for name in HOST_SETTINGS if checks[name].status is Status.WARN} == {"swap", "CPU governor"}
    assert {name for name in HOST_SETTINGS if checks[name].status is Status.FAIL} == set()


@pytest.mark.parametrize("text", ["[swap", 'swap = "off"\nshm = 3\n[cpu]\ngovernor = "performance"\n'])
def test_a_host_toml_of_another_form_breaks_nothing(host: Host, text: str) -> None:
    (host.root / "host.toml").write_text(text)
    checks = {check.name: check for check in host.checks()}
    assert checks["host.toml"].status is (Status.WARN if text == "[swap" else Status.OK)
    assert checks["swap"].status is Status.OK
    assert "host settings" not in checks


def test_in_a_container_swap_is_the_business_of_the_system_below(host: Host) -> None:
    detune(host)
    host.answers["systemd-detect-virt"] = "lxc"
    check = host.check("swap")
    assert check.status is Status.WARN
    assert "container" in check.advice


def test_limits_of_a_miner_that_does_not_run_are_unknown(host: Host) -> None:
    (host.root / "proc/77/cmdline").unlink()
    assert host.check("open files").status is Status.UNKNOWN
    assert host.check("miner").status is Status.UNKNOWN
    (host.root / "etc/systemd/system/omron-pm2.service").unlink()
    assert "open files" not in {check.name for check in host.checks()}


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
def test_the_offset_is_read_from_the_program_that_keeps_the_clock(
    answers: dict[str, str], measured: tuple[float, str] | None
) -> None:
    found = probes.clock_offset(Machine(run_command=lambda command, *_: answers.get(command)))
    assert (found is None) == (measured is None)
    if found and measured:
        assert found[0] == pytest.approx(measured[0])
        assert found[1] == measured[1]


@pytest.mark.parametrize(("flags", "rotates"), [("00", False), ("01", True), ("", None)])
def test_a_disk_is_followed_through_lvm_and_partitions(tmp_path: Path, flags: str, rotates: bool | None) -> None:
    """A logical volume on partitions of two disks: one that rotates makes it rotate."""
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
    (tmp_path / "sys/dev/block/253:0").symlink_to(mapped)
    assert is_rotating(tmp_path / "not/there/yet", tmp_path / "sys", device_of=lambda _: os.makedev(253, 0)) is rotates


def test_the_port_is_tried_and_a_public_address_that_does_not_answer_itself_is_no_fault(host: Host) -> None:
    host.use_real_network()
    assert host.check("from outside").status is Status.OK
    host.connection_faults["203.0.113.7"] = "no answer"
    check = host.check("from outside")
    assert (check.status, "from another one" in check.advice) == (Status.UNKNOWN, True)
    assert host.check("axon port").status is Status.OK


def test_a_connection_is_made_or_the_reason_is_given(listener: int) -> None:
    assert try_connection("127.0.0.1", listener) is None
    assert try_connection("127.0.0.1", free_port()) == "Connection refused"


@pytest.mark.parametrize(
    ("pk_gib", "status"), [(1, Status.OK), (30, Status.WARN), (200, Status.FAIL)], ids=["fits", "may not", "cannot"]
)
def test_each_circuit_is_held_against_the_memory(host: Host, pk_gib: int, status: Status) -> None:
    host.set_key_size(pk_gib * GIB)
    check = host.check("memory of 00000000")
    assert check.status is status
    assert check.wanted.endswith("GiB per proof")
    assert ("at a time" in check.live) is (status is Status.OK)


def test_how_many_proofs_fit_is_reported_of_as_many_as_there_are_workers(host: Host) -> None:
    host.config.write_text(f"prover = {{workers = 8}}\n{host.config.read_text()}")
    host.set_key_size(5 * GIB)
    assert host.check("memory of 00000000").live == "64.0 GiB, enough for 3 of 8 at a time"


def test_a_host_that_only_proves_needs_its_circuits_and_its_certificate_but_no_hotkey_and_no_axon(host: Host) -> None:
    prover = 'provers = {miner = "m", certificate_directory = "/nowhere"}\nprover = {engine = "dask"}\n'
    host.config.write_text(prover + host.config.read_text())
    found = {check.name: check for check in host.checks()}
    assert {"prover port", "prover certificates", "pm2", "memory of 00000000"} <= found.keys()
    assert not {"hotkey", "coldkey", "axon port", "summary", "scheduler port"} & found.keys()
    assert found["prover certificates"].status is Status.FAIL


def test_memory_is_what_the_miners_unit_may_use(host: Host) -> None:
    """Not what the shell that runs the doctor may use."""
    host.set_key_size(5 * GIB)
    group = host.root / "sys/fs/cgroup/system.slice/omron-pm2.service"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{GIB}\n")
    for name in ("memory", "memory of 00000000"):
        check = host.check(name)
        assert check.status is not Status.OK
        assert check.live == f"1.0 GiB, limited by {group}"
        assert "raise that limit" in check.advice
    assert host.check("/dev/shm").live == "48.0 GiB, 75 % of memory"


def test_the_ram_disk_is_a_share_of_what_a_container_may_use(host: Host) -> None:
    (host.root / "sys/fs/cgroup").mkdir(parents=True, exist_ok=True)
    (host.root / "sys/fs/cgroup/memory.max").write_text(f"{32 * GIB}\n")
    check = host.check("/dev/shm")
    assert (check.status, check.live) == (Status.WARN, "48.0 GiB, 150 % of memory")
    host.file_systems["/dev/shm"] = (24 * GIB, 24 * GIB)
    assert host.check("/dev/shm").status is Status.OK


# --- limits


def test_a_check_that_hangs_or_breaks_is_reported_and_the_others_are_made() -> None:
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
    by_name = {check.name: check for check in checks}
    assert "unforeseen" in by_name["b"].live
    assert by_name["r"].advice
    assert by_name["h"].live == "none within 0.3 s"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read what others may not: run bin/test with sudo")
def test_root_follows_no_link_of_the_service_user_to_a_file_that_this_user_may_not_read(tmp_path: Path) -> None:
    secret, logs = tmp_path / "secret", tmp_path / "logs"
    secret.write_text("root's")
    secret.chmod(0o600)
    logs.mkdir()
    (logs / "link").symlink_to(secret)
    os.chown(logs, 54321, 54321)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o001 == 0:
            folder.chmod(folder.stat().st_mode | 0o011)

    def reads() -> Iterator[Check]:
        yield Check("read", Status.OK, "", (logs / "link").read_text())

    owner = partial(probes.as_owner_of, logs, reads)
    as_owner, as_root = probes.side_by_side([("owner", owner), ("root", reads)])
    assert (as_owner.status, as_root.live) == (Status.UNKNOWN, "root's")
    assert "whether a link leads to it" in as_owner.advice
    assert secret.read_text() == "root's", "the process keeps root's rights"


def test_a_command_that_does_not_end_is_given_up() -> None:
    assert run_command("sleep", "60", seconds=0.2) is None


def test_names_that_are_not_ours_cannot_move_the_terminals_cursor() -> None:
    text = doctor.to_text([Check("circuit", Status.OK, "loads", "evil\x1b[2J\nname")])
    assert "\x1b[2J" not in text
    assert "evil?[2J name" in text


def test_the_competition_is_checked_only_where_it_is_enabled(host: Host) -> None:
    def found(section: str) -> dict[str, Check]:
        host.config.write_text(f"{before}\n[competition]\n{section}\nstatus_file = {json.dumps(str(status_file))}\n")
        return {check.name: check for check in host.checks() if check.name.startswith("competition")}

    before, status_file = host.config.read_text(), host.root / "competition.json"
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
