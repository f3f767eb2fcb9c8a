"""How much memory a process may use, from the kernel's files as both versions of cgroups write them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from monitor_samples import GIB
from omron_miner.host.memory import CGROUPS, Memory, read_host_memory, read_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 2**20
NO_LIMIT_V1 = 9223372036854771712
HOST = Memory(32 * GIB, 24 * GIB)


def machine(root: Path, cgroup: str, groups: dict[str, dict[str, object]], pid: str = "self") -> Memory:
    """What process `pid` may use on a machine of 32 GiB, 24 of them available, with these files of its cgroups."""
    (root / "proc" / pid).mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {32 * MIB} kB\nMemFree: 5 kB\nMemAvailable: {24 * MIB} kB\n")
    (root / "proc" / pid / "cgroup").write_text(cgroup)
    for group, files in groups.items():
        (root / "cg" / group).mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (root / "cg" / group / name).write_text(f"{value}\n")
    return read_memory(pid, root / "proc", root / "cg")


def test_without_a_limit_it_is_the_hosts(tmp_path: Path) -> None:
    groups: dict[str, dict[str, object]] = {"system.slice/pm2.service": {"memory.max": "max", "memory.high": "max"}}
    assert machine(tmp_path, "0::/system.slice/pm2.service\n", groups) == HOST


def test_v2_the_smallest_limit_of_the_group_and_those_above_it_counts(tmp_path: Path) -> None:
    own = {"memory.max": 8 * GIB, "memory.current": 3 * GIB, "memory.stat": f"anon 5\ninactive_file {GIB}\nfile 7"}
    above = {"memory.max": "max", "memory.high": 6 * GIB, "memory.current": 5 * GIB}
    found = machine(tmp_path, "0::/omron.slice/pm2.service\n", {"omron.slice/pm2.service": own, "omron.slice": above})
    assert found == Memory(6 * GIB, GIB, str(tmp_path / "cg/omron.slice"))


def test_page_cache_is_available_and_files_on_the_ram_disk_are_not(tmp_path: Path) -> None:
    stat = f"file {5 * GIB}\nshmem {2 * GIB}\ninactive_file {GIB}\nactive_file {2 * GIB}\nslab_reclaimable 0"
    group = {"memory.max": 8 * GIB, "memory.current": 7 * GIB, "memory.stat": stat}
    assert machine(tmp_path, "0::/a\n", {"a": group}).available_bytes == 4 * GIB


def test_a_group_above_that_is_nearly_full_leaves_little_though_its_limit_is_larger(tmp_path: Path) -> None:
    groups: dict[str, dict[str, object]] = {
        "a/b": {"memory.max": 4 * GIB, "memory.current": GIB},
        "a": {"memory.max": 8 * GIB, "memory.current": 8 * GIB - 10},
    }
    assert machine(tmp_path, "0::/a/b\n", groups) == Memory(4 * GIB, 10, str(tmp_path / "cg/a/b"))


def test_v1_and_a_hybrid_where_memory_is_v1(tmp_path: Path) -> None:
    groups: dict[str, dict[str, object]] = {
        "memory/docker/x": {
            "memory.limit_in_bytes": 2 * GIB,
            "memory.usage_in_bytes": 1536 * MIB,
            "memory.stat": f"cache 1\ninactive_file 9\ntotal_inactive_file {256 * MIB}\ntotal_active_file {256 * MIB}",
        },
        "memory": {"memory.limit_in_bytes": NO_LIMIT_V1},
    }
    found = machine(tmp_path, "5:cpu,cpuacct:/\n4:memory:/docker/x\n0::/docker/x\n", groups)
    assert found == Memory(2 * GIB, GIB, str(tmp_path / "cg/memory/docker/x"))


@pytest.mark.parametrize("path", ["/", "/docker/of/the/host", "/../../outside"])
def test_in_a_container_the_root_of_what_is_mounted_is_the_containers(tmp_path: Path, path: str) -> None:
    assert machine(tmp_path, f"0::{path}\n", {".": {"memory.max": 400 * MIB}}).total_bytes == 400 * MIB


def test_a_process_that_cannot_be_seen_and_odd_files_leave_what_is_known(tmp_path: Path) -> None:
    machine(tmp_path, "0::/a\n", {"a": {"memory.max": "²", "memory.current": "x"}, ".": {"memory.max": GIB}})
    assert read_memory(1, tmp_path / "proc", tmp_path / "cg").total_bytes == GIB
    assert read_memory("self", tmp_path / "proc", tmp_path / "cg").total_bytes == GIB
    assert read_memory("self", tmp_path / "none", tmp_path / "none") == Memory(0, 0)


def test_the_host_matches_psutil() -> None:
    total, available = read_host_memory()
    assert total == psutil.virtual_memory().total
    assert abs(available - psutil.virtual_memory().available) < GIB


@pytest.fixture
def limited() -> Iterator[Path]:
    """A real control group of 300 MiB below this process's; skips where none can be made."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    v1 = next((path for _, controllers, path in lines if "memory" in controllers.split(",")), None)
    v2 = next((path for number, _, path in lines if number == "0"), "/")
    root, limit = (CGROUPS / "memory", "memory.limit_in_bytes") if v1 else (CGROUPS, "memory.max")
    group = root / (v1 or v2).lstrip("/") / f"omron-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no control group can be made here")
    try:
        try:
            (group / limit).write_text(str(300 * MIB))
        except OSError:
            pytest.skip("the memory controller is not handed on here")
        yield group
    finally:
        group.rmdir()


def test_a_process_in_a_real_group_sees_its_limit(limited: Path) -> None:
    code = (
        "import sys; open(sys.argv[1] + '/cgroup.procs', 'w').write('0')\n"
        "from omron_miner.host.memory import read_memory; found = read_memory()\n"
        "print(found.total_bytes, 0 < found.available_bytes <= found.total_bytes, found.limited_by)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(limited)], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == ([str(300 * MIB), "True", str(limited)], "")
