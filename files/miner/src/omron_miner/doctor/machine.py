"""The machine: system, memory, cores, disks, clock. Settings that the play can change are in `host_settings`."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from omron_miner.constants import NONCE_AHEAD_SECONDS, NONCE_BACK_SECONDS
from omron_miner.doctor import probes
from omron_miner.doctor.check import Check, Status, check_that, unseen
from omron_miner.formatting import GIB, size
from omron_miner.host import is_rotating, read_core_count, read_disks, read_os_release

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omron_miner.constants import Constants
    from omron_miner.host import Machine

SUPPORTED_OS = {("debian", "12"), ("debian", "13"), ("ubuntu", "22.04"), ("ubuntu", "24.04")}
MINIMUM_MEMORY_BYTES, WANTED_MEMORY_BYTES = 15 * GIB, 30 * GIB
"""Machines of 16 and 32 GiB pass: the kernel and the hypervisor reserve a part."""
MINIMUM_CORES, WANTED_CORES = 2, 8
LOW_DISK_BYTES, NO_DISK_BYTES = 20 * GIB, 2 * GIB
"""A circuit's proving key may be several GiB; below the second not even logs are safe."""
CLOCK_WARN_SECONDS = 0.5
"""A synchronised clock is off by milliseconds; this much is drift, though no request is refused yet."""


def machine(is_real: bool, machine: Machine, program: str | None = None) -> Iterator[Check]:
    """Checks that need no constants; `program` is the miner's, as for `miner_tree`."""
    yield _operating_system(machine)
    yield _memory(is_real, machine, program)
    yield _cores(is_real, machine)


def _operating_system(machine: Machine) -> Check:
    release = read_os_release(machine.root / "etc/os-release")
    known = (release.get("ID", ""), release.get("VERSION_ID", "")) in SUPPORTED_OS
    live = release.get("PRETTY_NAME", platform.system())
    wanted = "Debian 12 or 13, Ubuntu 22.04 or 24.04"
    return check_that("operating system", known, wanted, live, "this system is not tested; use one that is")


def _memory(is_real: bool, machine: Machine, program: str | None) -> Check:
    memory = machine.miner_memory(program)
    name, wanted, total = "memory", "32 GiB, at least 16 GiB", memory.total_bytes
    live = f"{size(total)}{memory.limit_in_words()}"
    if total >= MINIMUM_MEMORY_BYTES:
        advice = "enough for small circuits; use a larger machine for the others"
        return check_that(name, total >= WANTED_MEMORY_BYTES, wanted, live, advice)
    status = Status.FAIL if is_real else Status.WARN
    larger = "raise that limit" if memory.limited_by else "use a larger machine"
    return Check(name, status, wanted, live, f"too little for validators' circuits: {larger}")


def _cores(is_real: bool, machine: Machine) -> Check:
    count = read_core_count(machine.sys)
    few = Status.FAIL if is_real and count < MINIMUM_CORES else Status.WARN
    wanted = f"{WANTED_CORES}, at least {MINIMUM_CORES}"
    return check_that(
        "cores", count >= WANTED_CORES, wanted, f"{count}", "proofs get faster with cores: 20 to 30 s need 8 to 16", few
    )


def disks(constants: Constants, machine: Machine) -> Iterator[Check]:
    """Free space, and whether the circuits are on an SSD."""
    directories = (constants.monitor.directory, constants.log.directory, constants.circuits.directory)
    for disk in read_disks(*directories, statvfs=machine.statvfs):
        free = disk.free_bytes
        status = Status.WARN if free >= NO_DISK_BYTES else Status.FAIL
        advice = f"make room: du -xh --max-depth=2 {disk.path}"
        wanted, live = f"{size(LOW_DISK_BYTES)} free", f"{size(free)} free at {disk.path}"
        yield check_that("disk", free >= LOW_DISK_BYTES, wanted, live, advice, status)
    name, wanted = "SSD", "not rotating"
    rotates = is_rotating(constants.circuits.directory, machine.sys, machine.proc, machine.device_number)
    if rotates is None:
        yield unseen(name, wanted, "the kernel names no disk below the circuits")
    else:
        advice = "keys are read for each proof: put the circuits on an SSD; in a VM the kernel may not know"
        yield check_that(name, not rotates, wanted, "rotating" if rotates else "not rotating", advice)


def clock(machine: Machine, back: float = NONCE_BACK_SECONDS, ahead: float = NONCE_AHEAD_SECONDS) -> Iterator[Check]:
    """Whether the clock is synchronised, and its offset.

    Signatures are valid for `back` seconds, and at most `ahead` seconds ahead.
    """
    answer = machine.run_for_word("timedatectl", "show", "--property=NTPSynchronized", "--value")
    if answer in ("yes", "no"):
        advice = f"signatures are valid for only {back:g} s: timedatectl set-ntp true, or install chrony"
        live = "synchronised" if answer == "yes" else "not synchronised"
        yield check_that("clock", answer == "yes", "synchronised", live, advice)
    else:
        yield unseen("clock", "synchronised", "unknown: timedatectl does not answer")
    name, wanted = "clock offset", f"below {CLOCK_WARN_SECONDS:g} s; requests stay valid {back:g} s, {ahead:g} s ahead"
    measured = probes.clock_offset(machine)
    if measured is None:
        yield unseen(name, wanted, "no program on this host measures it")
        return
    seconds, source = measured
    status = Status.FAIL if abs(seconds) >= min(back, ahead) else Status.WARN
    advice = f"if it grows, validators' requests are refused: check the servers of {source}"
    live = f"{abs(seconds):.3f} s ({source})"
    yield check_that(name, abs(seconds) < CLOCK_WARN_SECONDS, wanted, live, advice, status)
