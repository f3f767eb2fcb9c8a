"""Reads the state of a machine for the monitor, the doctor and the miner. Changes nothing.

The readers take the folders that hold the kernel's files, by default /proc and /sys. A value that is not available is
None, never 0. Sizes are bytes, durations seconds.
"""

from omron_miner.host.cpu import read_core_count, read_cpu_times, read_governors, read_pressure
from omron_miner.host.disks import Disk, RamDisk, file_system_bytes, is_rotating, read_disks, read_ram_disk
from omron_miner.host.kernel_files import PROC, read_line
from omron_miner.host.machine import Machine
from omron_miner.host.memory import Memory, peak_memory, read_host_memory, read_memory
from omron_miner.host.network import default_interfaces, is_bound, is_listening
from omron_miner.host.processes import Process, miner_tree, read_disk_reads
from omron_miner.host.swap import SwapDevice, read_swap
from omron_miner.host.system import (
    installed_version,
    is_clock_synchronized,
    read_boot_id,
    read_os_release,
    read_uptime,
)

__all__ = [
    "PROC",
    "Disk",
    "Machine",
    "Memory",
    "Process",
    "RamDisk",
    "SwapDevice",
    "default_interfaces",
    "file_system_bytes",
    "installed_version",
    "is_bound",
    "is_clock_synchronized",
    "is_listening",
    "is_rotating",
    "miner_tree",
    "peak_memory",
    "read_boot_id",
    "read_core_count",
    "read_cpu_times",
    "read_disk_reads",
    "read_disks",
    "read_governors",
    "read_host_memory",
    "read_line",
    "read_memory",
    "read_os_release",
    "read_pressure",
    "read_ram_disk",
    "read_swap",
    "read_uptime",
]
