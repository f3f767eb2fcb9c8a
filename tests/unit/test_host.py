"""Reading a machine: the kernel's files in their real format, and this very machine."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from omron_miner.host import (
    SwapDevice,
    installed_version,
    is_bound,
    is_listening,
    miner_tree,
    read_core_count,
    read_cpu_times,
    read_disks,
    read_governors,
    read_os_release,
    read_pressure,
    read_ram_disk,
    read_swap,
)
from omron_miner.host.cpu import CpuTimes
from omron_miner.host.disks import mount_of
from omron_miner.host.processes import is_miner

SWAPS = """Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority
/dev/sda2                               partition\t2097148\t\t1024\t\t-2
/swap\\040file                           file\t\t1048576\t\t0\t\t-3
"""
TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F9B 00000000:0000 0A 00000000:00000000 00:00000000 00000000   999        0 13205 1
   1: 0100007F:1F9C 0100007F:D431 01 00000000:00000000 00:00000000 00000000   999        0 13206 1
"""


def test_swap_devices_are_read_with_their_sizes(tmp_path: Path) -> None:
    (tmp_path / "swaps").write_text(SWAPS)
    assert read_swap(tmp_path) == [
        SwapDevice("/dev/sda2", 2097148 * 1024, 1024 * 1024),
        SwapDevice("/swap file", 1048576 * 1024, 0),
    ]


def test_no_swap_is_an_empty_list_and_no_answer_is_none(tmp_path: Path) -> None:
    assert read_swap(tmp_path) is None
    (tmp_path / "swaps").write_text(SWAPS.splitlines()[0] + "\n")
    assert read_swap(tmp_path) == []


def test_governors_are_read_per_cpu_in_number_order(tmp_path: Path) -> None:
    for number, governor in ((10, "powersave"), (2, "performance"), (0, "performance")):
        folder = tmp_path / f"devices/system/cpu/cpu{number}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
    (tmp_path / "devices/system/cpu/cpufreq").mkdir()
    governors = read_governors(tmp_path)
    assert list(governors.items()) == [("0", "performance"), ("2", "performance"), ("10", "powersave")]


def test_a_host_without_cpufreq_has_no_governors(tmp_path: Path) -> None:
    assert read_governors(tmp_path) == {}


def test_only_a_listening_socket_counts(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(TCP)
    assert is_listening(8091, tmp_path) is True
    assert is_listening(8092, tmp_path) is False
    assert is_listening(8091, tmp_path / "missing") is None


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_real_listener_is_seen_until_it_is_closed(family: socket.AddressFamily, address: str) -> None:
    with socket.socket(family) as listener:
        try:
            listener.bind((address, 0))
        except OSError:
            pytest.skip(f"no {address} here")
        listener.listen()
        port = listener.getsockname()[1]
        assert is_listening(port)
    assert not is_listening(port)


def test_the_session_directorys_files_are_counted_with_the_oldest_ones_age(tmp_path: Path) -> None:
    sessions = tmp_path / "sessions"
    (sessions / "one").mkdir(parents=True)
    (sessions / "one/witness.json").write_bytes(b"x" * 700)
    (sessions / "proof.json").write_bytes(b"x" * 300)
    (sessions / "link").symlink_to("/etc/passwd")
    os.utime(sessions / "proof.json", (time.time() - 500, time.time() - 500))
    disk = read_ram_disk(sessions)
    assert disk is not None
    assert disk.session_files == 3
    assert disk.session_bytes == 1000 + len("/etc/passwd")
    assert disk.oldest_session_file_seconds == pytest.approx(500, abs=5)
    assert str(tmp_path).startswith(disk.mount_point)


def test_a_missing_session_directory_is_none_files_on_the_file_system_it_would_be_on(tmp_path: Path) -> None:
    disk = read_ram_disk(tmp_path / "not/there")
    assert disk is not None
    assert (disk.session_files, disk.session_bytes, disk.oldest_session_file_seconds) == (None, None, None)
    assert disk.size_bytes > 0


def test_of_two_mounts_on_one_point_the_later_counts(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mounts").write_text(
        "/dev/vda1 / ext4 rw 0 0\ntmpfs /dev/shm tmpfs rw,size=64k 0 0\ntmpfs /dev/shm tmpfs rw,size=8g 0 0\n"
        "tmpfs /dev/shm/other tmpfs rw 0 0\n"
    )
    mount = mount_of(Path("/dev/shm/omron-miner"), tmp_path)
    assert mount == ("/dev/shm", "tmpfs", "rw,size=8g")


def test_a_file_system_is_listed_once_and_a_missing_path_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    disks = read_disks(tmp_path, tmp_path / "a", tmp_path / "missing")
    assert [disk.path for disk in disks] == [str(tmp_path)]
    assert 0 < disks[0].free_bytes <= disks[0].size_bytes


def put_process(
    proc: Path,
    pid: int,
    parent: int = 1,
    command: str = "python",
    started: int = 100,
    ticks: tuple[int, ...] = (0,) * 4,
) -> None:
    """/proc/PID of a process, `started` and `ticks` (user, system, and the same of ended children) in clock ticks."""
    (proc / str(pid)).mkdir(parents=True, exist_ok=True)
    cells = ["S", str(parent), *["0"] * 9, *map(str, ticks), *["0"] * 4, str(started), "0", "2000", *["0"] * 20]
    (proc / str(pid) / "stat").write_text(f"{pid} (a ) name) {' '.join(cells)}\n")
    (proc / str(pid) / "cmdline").write_text(command.replace(" ", "\0") + "\0")


def test_the_oldest_miner_is_found_with_its_workers_and_their_workers(tmp_path: Path) -> None:
    put_process(tmp_path, 10, command="/opt/venv/bin/python /opt/venv/bin/omron-miner --config /c serve", started=500)
    put_process(tmp_path, 9, command="python -m omron_miner serve", started=900)
    put_process(tmp_path, 11, parent=10)
    put_process(tmp_path, 12, parent=11, ticks=(100, 50, 25, 25))
    put_process(tmp_path, 13)
    tree = miner_tree(tmp_path)
    assert [one.pid for one in tree] == [10, 11, 12]
    assert tree[2].cpu_seconds == 200 / os.sysconf("SC_CLK_TCK")
    assert tree[2].resident_bytes == 2000 * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("command", ["python omron-miner query", "vim omron-miner.py serve", "serve", ""])
def test_other_commands_and_editors_are_not_a_miner(tmp_path: Path, command: str) -> None:
    put_process(tmp_path, 10, command=command)
    assert miner_tree(tmp_path) == []


def test_another_program_is_found_by_its_name(tmp_path: Path) -> None:
    put_process(tmp_path, 10, command="/opt/omron-miner/current/sn2-miner/sn2-miner --netuid 2")
    put_process(tmp_path, 11, parent=10)
    put_process(tmp_path, 12, command="tail sn2-miner", started=1)
    put_process(tmp_path, 13, command="python -m omron_miner serve")
    assert [one.pid for one in miner_tree(tmp_path, "sn2-miner")] == [10, 11]
    assert [one.pid for one in miner_tree(tmp_path)] == [13]
    put_process(tmp_path, 10, command="python3 /tmp/sn2-miner --netuid 2")
    assert [one.pid for one in miner_tree(tmp_path, "sn2-miner")] == [10, 11]


def test_a_bound_udp_port_is_seen(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
        assert is_bound(port)
    assert not is_bound(port)
    assert is_bound(8091, tmp_path) is None


def test_a_process_that_exits_while_it_is_read_is_skipped(tmp_path: Path) -> None:
    put_process(tmp_path, 10, command="python -m omron_miner serve")
    (tmp_path / "11").mkdir()
    assert [one.pid for one in miner_tree(tmp_path)] == [10]


def test_a_real_miner_process_is_seen_until_it_exits(tmp_path: Path) -> None:
    script = tmp_path / "omron-miner"
    script.write_text("import time; print('ready', flush=True); time.sleep(600)")
    command = [sys.executable, str(script), "--config", "/etc/x.toml", "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert is_miner(process.pid)
            assert miner_tree()  # this one, or an older one that runs on this machine
        finally:
            process.kill()
    assert not is_miner(process.pid)


def test_pressure_is_the_five_minutes_average_and_none_without_it(tmp_path: Path) -> None:
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure/io").write_text(
        "some avg10=9.00 avg60=8.00 avg300=7.25 total=1\nfull avg10=1.0 avg60=2.0 avg300=3.0 total=2\n"
    )
    assert read_pressure("io", tmp_path) == 7.25
    assert read_pressure("cpu", tmp_path) is None


def test_processor_times_are_seconds_of_all_cores(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu  100 200 300 400 500 600 700 800 9 9\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    ticks = os.sysconf("SC_CLK_TCK")
    assert read_cpu_times(tmp_path) == CpuTimes(3600 / ticks, 400 / ticks, 500 / ticks, 800 / ticks)
    assert read_cpu_times(tmp_path / "missing") == CpuTimes(0, 0, 0, 0)


def test_online_cores_are_counted(tmp_path: Path) -> None:
    assert read_core_count() == os.cpu_count()
    assert read_core_count(tmp_path) == os.cpu_count()
    (tmp_path / "devices/system/cpu").mkdir(parents=True)
    (tmp_path / "devices/system/cpu/online").write_text("0-2,5,8-9\n")
    assert read_core_count(tmp_path) == 6


def test_os_release_is_read_with_and_without_quotes(tmp_path: Path) -> None:
    file = tmp_path / "os-release"
    file.write_text("# a comment\nID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME='Debian 12'\n\nbroken\n")
    assert read_os_release(file) == {"ID": "debian", "VERSION_ID": "12", "PRETTY_NAME": "Debian 12"}
    assert read_os_release(tmp_path / "missing") == {}
    assert read_os_release() == platform.freedesktop_os_release()


def test_an_installed_packages_version_is_the_one_that_python_itself_finds() -> None:
    assert installed_version("ezkl") == metadata.version("ezkl")
    assert installed_version("no-such-distribution") is None
