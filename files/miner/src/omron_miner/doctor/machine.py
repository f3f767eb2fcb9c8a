"""The machine: system, memory, cores, disks, clock. What the play can turn is in `knobs`."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

import psutil

from omron_miner.doctor import probes
from omron_miner.doctor.check import Check, Status, judged, unseen
from omron_miner.monitor import host
from omron_miner.monitor.render import size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omron_miner.constants import Access, Constants

SUPPORTED_OS = {("debian", "12"), ("debian", "13"), ("ubuntu", "22.04"), ("ubuntu", "24.04")}
MINIMUM_MEMORY_BYTES, WANTED_MEMORY_BYTES = 16_000_000_000, 32_000_000_000
"""16 and 32 GB as they are sold: what a kernel and a hypervisor keep for themselves must not fail a host."""
MINIMUM_CORES, WANTED_CORES = 2, 8
LOW_DISK_BYTES, NO_DISK_BYTES = 20 * 1024**3, 2 * 1024**3
"""A circuit's proving key may be several GiB; below the second not even logs are safe."""
CLOCK_WARN_SECONDS = 0.5
"""A clock that is kept is off by milliseconds; this much is drift, though nobody refuses it yet."""


def machine(is_real: bool) -> Iterator[Check]:
    """What needs no constants."""
    yield _operating_system()
    yield _memory(is_real)
    yield _cores(is_real)


def _operating_system() -> Check:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    known = (release.get("ID", ""), release.get("VERSION_ID", "")) in SUPPORTED_OS
    live = release.get("PRETTY_NAME", platform.system())
    wanted = "Debian 12 or 13, Ubuntu 22.04 or 24.04"
    return judged("operating system", known, wanted, live, "this system is not tested; use one that is")


def _memory(is_real: bool) -> Check:
    name, wanted, total = "memory", "32 GB, at least 16 GB", psutil.virtual_memory().total
    if total >= MINIMUM_MEMORY_BYTES:
        advice = "enough for small circuits; take a larger machine for the others"
        return judged(name, total >= WANTED_MEMORY_BYTES, wanted, size(total), advice)
    status = Status.FAIL if is_real else Status.WARN
    return Check(name, status, wanted, size(total), "too little for validators' circuits: take a larger machine")


def _cores(is_real: bool) -> Check:
    count = os.cpu_count() or 1
    few = Status.FAIL if is_real and count < MINIMUM_CORES else Status.WARN
    wanted = f"{WANTED_CORES}, at least {MINIMUM_CORES}"
    return judged(
        "cores", count >= WANTED_CORES, wanted, f"{count}", "proofs get faster with cores: 20 to 30 s need 8 to 16", few
    )


def disks(constants: Constants) -> Iterator[Check]:
    """Room, and whether the circuits are on an SSD."""
    for disk in host.read_disks(constants.monitor.directory, constants.log.directory, constants.circuits.directory):
        free = disk.free_bytes
        status = Status.WARN if free >= NO_DISK_BYTES else Status.FAIL
        advice = f"make room: du -xh --max-depth=2 {disk.path}"
        wanted, live = f"{size(LOW_DISK_BYTES)} free", f"{size(free)} free at {disk.path}"
        yield judged("disk", free >= LOW_DISK_BYTES, wanted, live, advice, status)
    name, wanted = "SSD", "not rotating"
    rotates = probes.is_rotating(constants.circuits.directory)
    if rotates is None:
        yield unseen(name, wanted, "the kernel names no disk below the circuits")
    else:
        advice = "keys are read for each proof: put the circuits on an SSD; in a VM the kernel may not know"
        yield judged(name, not rotates, wanted, "rotating" if rotates else "not rotating", advice)


def clock(access: Access | None) -> Iterator[Check]:
    """Whether the clock is kept, and how far it is off."""
    answer = probes.ask_word("timedatectl", "show", "--property=NTPSynchronized", "--value")
    if answer in ("yes", "no"):
        advice = "requests are signed for a few seconds only: timedatectl set-ntp true, or install chrony"
        live = "synchronised" if answer == "yes" else "not synchronised"
        yield judged("clock", answer == "yes", "synchronised", live, advice)
    else:
        yield unseen("clock", "synchronised", "unknown: timedatectl does not tell")
    back, ahead = (access.nonce_back_seconds, access.nonce_ahead_seconds) if access else (4.0, 2.0)
    name, wanted = "clock offset", f"below {CLOCK_WARN_SECONDS:g} s; requests count for {back:g} s, {ahead:g} s ahead"
    measured = probes.clock_offset()
    if measured is None:
        yield unseen(name, wanted, "no program here measures it")
        return
    seconds, source = measured
    status = Status.FAIL if abs(seconds) >= min(back, ahead) else Status.WARN
    advice = f"validators' requests get refused when it grows: see what {source} says of its servers"
    live = f"{abs(seconds):.3f} s ({source})"
    yield judged(name, abs(seconds) < CLOCK_WARN_SECONDS, wanted, live, advice, status)
