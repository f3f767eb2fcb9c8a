"""What is read of the host: the kernel's files in their real format, and this very machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from monitor_samples import constants
from omron_miner.monitor import host, model

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
    assert host.read_swap(tmp_path) == [
        model.SwapDevice("/dev/sda2", 2097148 * 1024, 1024 * 1024),
        model.SwapDevice("/swap file", 1048576 * 1024, 0),
    ]


def test_no_swap_is_an_empty_list_and_no_answer_is_none(tmp_path: Path) -> None:
    assert host.read_swap(tmp_path) is None
    (tmp_path / "swaps").write_text(SWAPS.splitlines()[0] + "\n")
    assert host.read_swap(tmp_path) == []


def test_governors_are_read_per_cpu_in_number_order(tmp_path: Path) -> None:
    for number, governor in ((10, "powersave"), (2, "performance"), (0, "performance")):
        folder = tmp_path / f"devices/system/cpu/cpu{number}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
    (tmp_path / "devices/system/cpu/cpufreq").mkdir()
    governors = host.read_governors(tmp_path)
    assert list(governors.items()) == [("0", "performance"), ("2", "performance"), ("10", "powersave")]


def test_a_host_without_cpufreq_has_no_governors(tmp_path: Path) -> None:
    assert host.read_governors(tmp_path) == {}


def test_only_a_listening_socket_counts(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(TCP)
    assert host.is_listening(8091, tmp_path) is True
    assert host.is_listening(8092, tmp_path) is False
    assert host.is_listening(8091, tmp_path / "missing") is None


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_real_listener_is_seen_until_it_is_closed(family: socket.AddressFamily, address: str) -> None:
    with socket.socket(family) as listener:
        try:
            listener.bind((address, 0))
        except OSError:
            pytest.skip(f"no {address} here")
        listener.listen()
        port = listener.getsockname()[1]
        assert host.is_listening(port)
    assert not host.is_listening(port)


def test_the_session_directorys_files_are_counted_with_the_oldest_ones_age(tmp_path: Path) -> None:
    sessions = tmp_path / "sessions"
    (sessions / "one").mkdir(parents=True)
    (sessions / "one/witness.json").write_bytes(b"x" * 700)
    (sessions / "proof.json").write_bytes(b"x" * 300)
    (sessions / "link").symlink_to("/etc/passwd")
    os.utime(sessions / "proof.json", (time.time() - 500, time.time() - 500))
    disk = host.read_ram_disk(sessions)
    assert disk is not None
    assert disk.session_files == 3
    assert disk.session_bytes == 1000 + len("/etc/passwd")
    assert disk.oldest_session_file_seconds == pytest.approx(500, abs=5)
    assert str(tmp_path).startswith(disk.mount_point)


def test_a_missing_session_directory_is_none_files_on_the_file_system_it_would_be_on(tmp_path: Path) -> None:
    disk = host.read_ram_disk(tmp_path / "not/there")
    assert disk is not None
    assert (disk.session_files, disk.session_bytes, disk.oldest_session_file_seconds) == (None, None, None)
    assert disk.size_bytes > 0


def test_of_two_mounts_on_one_point_the_later_counts(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mounts").write_text(
        "/dev/vda1 / ext4 rw 0 0\ntmpfs /dev/shm tmpfs rw,size=64k 0 0\ntmpfs /dev/shm tmpfs rw,size=8g 0 0\n"
        "tmpfs /dev/shm/other tmpfs rw 0 0\n"
    )
    mount = host._mount_of(Path("/dev/shm/omron-miner"), tmp_path)
    assert mount == ("/dev/shm", "tmpfs", "rw,size=8g")


def test_a_file_system_is_listed_once_and_a_missing_path_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    disks = host.read_disks(tmp_path, tmp_path / "a", tmp_path / "missing")
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
    tree = host.miner_tree(tmp_path)
    assert [one.pid for one in tree] == [10, 11, 12]
    assert tree[2].cpu_seconds == 200 / os.sysconf("SC_CLK_TCK")
    assert tree[2].resident_bytes == 2000 * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("command", ["python omron-miner query", "vim omron-miner.py serve", "serve", ""])
def test_other_commands_of_ours_and_editors_are_no_miner(tmp_path: Path, command: str) -> None:
    put_process(tmp_path, 10, command=command)
    assert host.miner_tree(tmp_path) == []


def test_a_process_that_ends_while_it_is_looked_at_is_left_out(tmp_path: Path) -> None:
    put_process(tmp_path, 10, command="python -m omron_miner serve")
    (tmp_path / "11").mkdir()
    assert [one.pid for one in host.miner_tree(tmp_path)] == [10]


def test_a_real_miner_process_is_seen_until_it_ends(tmp_path: Path) -> None:
    script = tmp_path / "omron-miner"
    script.write_text("import time; print('ready', flush=True); time.sleep(600)")
    command = [sys.executable, str(script), "--config", "/etc/x.toml", "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert host._is_miner(process.pid, host.PROC)
            assert host.miner_tree()  # this one, or an older one that runs on this machine
        finally:
            process.kill()
    assert not host._is_miner(process.pid, host.PROC)


def counters(**changes: object) -> host.Counters:
    at = host.Counters("boot", 1000.0, 1_700_000_000.0, [800.0, 400.0, 10.0, 0.0], "10 5.00", 50.0, 1000)
    return replace(at, **changes)  # type: ignore[arg-type]


def test_processors_are_measured_since_the_last_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = counters()
    # 60 s on 2 cores: 120 s, of them 30 idle, 6 waiting, 12 stolen; the miner used 60 of them
    now = counters(since_boot=1060.0, cpu=[920.0, 430.0, 16.0, 12.0], miner_cpu=110.0, miner_read_bytes=601_000)
    found = collected(tmp_path, monkeypatch, last, now, wall=last.wall + 60)
    assert (found.cpu.percent, found.cpu.iowait_percent, found.cpu.steal_percent) == (70.0, 5.0, 10.0)
    assert (found.cpu.miner_percent, found.cpu.measured_seconds) == (50.0, 60.0)
    assert found.miner is not None
    assert (found.miner.cpu_cores, found.miner.read_bytes_per_second) == (1.0, 10_000.0)
    assert found.clock.step_seconds == 0.0


def test_a_miner_that_started_since_the_last_run_began_at_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = counters(
        since_boot=1060.0, miner="99 1010.00", miner_cpu=30.0, miner_read_bytes=60, cpu=[920.0, 430.0, 10, 0]
    )
    found = collected(tmp_path, monkeypatch, counters(), now, wall=counters().wall + 60)
    assert found.miner is not None
    assert (found.miner.cpu_cores, found.miner.read_bytes_per_second) == (0.5, 1.0)


@pytest.mark.parametrize(("step", "told"), [(0.0, 0.0), (0.5, 0.0), (-3600.0, -3600.0), (90.0, 90.0)])
def test_a_clock_that_was_set_is_told_and_one_kept_right_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float, told: float
) -> None:
    now = counters(since_boot=1060.0, cpu=[920.0, 430.0, 16.0, 12.0])
    found = collected(tmp_path, monkeypatch, counters(), now, wall=counters().wall + 60 + step)
    assert found.clock.step_seconds == pytest.approx(told)


def collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: host.Counters, now: host.Counters, wall: float
) -> model.Host:
    """The host as of `now`, on a machine whose boot is `last`'s and whose clock says `wall`."""
    tree = [host.Process(10, 1, now.miner_cpu, 5.0, 1000)]
    read = host._read
    monkeypatch.setattr(host, "_read", lambda file: "boot\n" if file.name == "boot_id" else read(file))
    monkeypatch.setattr(host, "miner_tree", lambda: tree)
    monkeypatch.setattr(host, "count_now", lambda _tree: now)
    monkeypatch.setattr("time.clock_gettime", lambda _clock: now.since_boot)
    monkeypatch.setattr("time.time", lambda: wall)
    return host.collect_host(constants(tmp_path), last)[0]


def test_counters_survive_being_kept() -> None:
    assert host.Counters.load(counters().dump()) == counters()
    assert host.Counters.load(None) is None


def test_pressure_is_the_five_minutes_average_and_none_without_it(tmp_path: Path) -> None:
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure/io").write_text(
        "some avg10=9.00 avg60=8.00 avg300=7.25 total=1\nfull avg10=1.0 avg60=2.0 avg300=3.0 total=2\n"
    )
    assert host.read_pressure("io", tmp_path) == 7.25
    assert host.read_pressure("cpu", tmp_path) is None


def test_a_circuits_files_are_told_by_size_and_time_and_its_key_by_size(tmp_path: Path) -> None:
    folder = tmp_path / "model_abc"
    folder.mkdir()
    for name, size in (("pk.key", 900), ("settings.json", 100)):
        (folder / name).write_bytes(b"x" * size)
        os.utime(folder / name, (1_767_614_400 + size, 1_767_614_400 + size))
    said = "2 files, 1000 bytes, last changed 2026-01-05 12:15:00 UTC"
    assert host.circuit_files(tmp_path) == {"abc": said}
    assert host.read_key_sizes(tmp_path) == {"abc": 900}
    assert host.circuit_files(tmp_path / "missing") == {}


def test_versions_are_those_that_python_itself_finds() -> None:
    versions = host.read_versions()
    assert (versions.ezkl, versions.bittensor) == (metadata.version("ezkl"), metadata.version("bittensor"))
    assert host._installed("no-such-distribution") is None


def test_this_machine_is_described(tmp_path: Path) -> None:
    now, _ = host.collect_host(constants(tmp_path))
    assert now.cpu.count == os.cpu_count()
    assert 0 <= now.cpu.percent <= 100
    assert 0 < now.memory.available_bytes < now.memory.total_bytes
    assert now.uptime_seconds is not None
    assert now.uptime_seconds > 0
    assert now.disks
