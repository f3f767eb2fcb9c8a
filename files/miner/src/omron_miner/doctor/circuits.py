"""EZKL, the circuits and their SRS, and whether this host has what the circuits need. Opens none with EZKL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omron_miner.circuits import needs as circuit_needs
from omron_miner.circuits.circuit import ProofSystem, bare_name
from omron_miner.circuits.circuit_store import CircuitStore
from omron_miner.circuits.srs import check_srs, is_test_only
from omron_miner.doctor import probes
from omron_miner.doctor.check import Check, Status, check_that, unreadable_advice, unseen
from omron_miner.errors import SrsError
from omron_miner.formatting import size
from omron_miner.host import installed_version, read_ram_disk
from omron_miner.proving.prover import worker_count

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.constants import Constants
    from omron_miner.host import Machine


def circuits(constants: Constants, machine: Machine) -> Iterator[Check]:
    """Each circuit: whether it loads, what it needs; then each SRS they use."""
    if fault := probes.unreadable(constants.circuits.directory):
        yield unseen("circuits", "at least one", fault, unreadable_advice())
        return
    store = CircuitStore(constants)
    usable, whole, refused = store.usable(), store.complete(), store.refused()
    yield _ezkl(whole)
    for circuit in usable:
        yield Check(_short(circuit.id), Status.OK, "loads", _in_words(circuit))
    for folder, reason in refused.items():
        if fault := probes.unreadable(constants.circuits.directory / folder):  # this says nothing about the circuit
            yield unseen(_short(bare_name(folder)), "loads", fault, unreadable_advice())
            continue
        wants_srs = any(circuit.directory.name == folder for circuit in whole)
        advice = (
            "see its SRS below" if wants_srs else f"build it again or remove {constants.circuits.directory / folder}"
        )
        yield Check(_short(bare_name(folder)), Status.FAIL, "loads", reason, advice)
    if not usable and not refused:
        live = f"none in {constants.circuits.directory}"
        yield Check("circuits", Status.FAIL, "at least one", live, "set omron_circuits and deploy again")
    for circuit in usable:
        yield from _memory(circuit, worker_count(constants), machine)
    for logrows in sorted({circuit.settings.logrows for circuit in whole if circuit.proof_system is ProofSystem.EZKL}):
        yield _srs(logrows, constants.circuits.srs_directory, constants.network.name)


def ram_disk(constants: Constants, machine: Machine) -> Iterator[Check]:
    """The file system of requests' temporary files."""
    disk = read_ram_disk(constants.sessions.directory, machine.proc, machine.statvfs)
    if disk is None:
        yield unseen("RAM disk", "tmpfs", "cannot be seen")
        return
    largest, memory = _largest_session(constants), machine.miner_memory().total_bytes
    needed = constants.sessions.minimum_free_bytes + largest
    is_ram = disk.filesystem in ("tmpfs", "ramfs")
    yield check_that(
        "RAM disk",
        disk.free_bytes >= needed and disk.size_bytes <= memory and is_ram,
        f"tmpfs, {size(needed)} free, at most {size(memory)}",
        f"{disk.mount_point}: {disk.filesystem}, {size(disk.free_bytes)} free of {size(disk.size_bytes)}",
        "run the play with --tags shm, and look for files left behind there",
        Status.FAIL if disk.free_bytes < needed else Status.WARN,
    )
    missing = [option for option in ("rw", "nosuid", "nodev") if option not in disk.options]
    advice = f"mount -o remount,{','.join(missing)} {disk.mount_point}"
    live = ",".join(option for option in disk.options if not option.startswith(("size=", "inode")))
    status = Status.FAIL if "rw" in missing else Status.WARN
    yield check_that("RAM disk options", not missing, "rw,nosuid,nodev", live, advice, status)


def _ezkl(usable: list[Circuit]) -> Check:
    wanted = ", ".join(sorted({one.settings.version for one in usable if one.proof_system is ProofSystem.EZKL}))
    wanted = wanted or "the circuits' version"
    version = installed_version("ezkl")
    if version is None:
        return Check("EZKL", Status.FAIL, wanted, "not installed", "deploy again")
    return Check("EZKL", Status.OK, wanted, version)  # circuits of another version are refused by their own checks


def _in_words(circuit: Circuit) -> str:
    if circuit.proof_system is not ProofSystem.EZKL:
        return circuit.label
    return f"{circuit.label} {circuit.settings.version}, logrows {circuit.settings.logrows}"


def _memory(circuit: Circuit, workers: int, machine: Machine) -> Iterator[Check]:
    """Whether one proof fits, and how many at a time; the miner starts no more than fit."""
    name, memory = f"memory of {circuit.id[:8]}", machine.miner_memory()
    total = memory.total_bytes
    live = f"{size(total)}{memory.limit_in_words()}"
    try:
        needed = circuit_needs.needs_of(circuit)
    except OSError as error:
        yield unseen(name, "its key", str(error), unreadable_advice())
        return
    if needed is None:
        return
    wanted = f"{needed.in_words()} per proof"
    memory_problem = circuit_needs.memory_problem(_short(circuit.id), needed, total)
    if memory_problem is None:
        at_a_time = min(workers, circuit_needs.at_a_time(needed, total))
        yield Check(name, Status.OK, wanted, f"{live}, enough for {at_a_time} of {workers} at a time")
        return
    status = Status.FAIL if total < needed.memory_low else Status.WARN
    larger = "raise that limit" if memory.limited_by else "use a larger machine"
    yield Check(name, status, wanted, live, f"{larger}, or add the circuit to circuits.ignored")


def _largest_session(constants: Constants) -> int:
    """Bytes of the RAM disk that one request's files need, for the largest circuit; 0 without any."""
    found = [circuit_needs.needs_of(circuit) for circuit in CircuitStore(constants).usable()]
    return max((one.ram_disk for one in found if one), default=0)


def _srs(logrows: int, directory: Path, network: str) -> Check:
    name = f"SRS {logrows}"
    wanted = "complete" if network == "local" else "complete and from the public ceremony"
    try:
        path = check_srs(logrows, directory, network)
        live = size(path.stat().st_size) + (", for tests only" if is_test_only(path) else "")
    except SrsError as error:
        return Check(name, Status.FAIL, wanted, error.message, error.hint or "")
    except OSError as error:
        return unseen(name, wanted, str(error), unreadable_advice())
    return Check(name, Status.OK, wanted, live)


def _short(circuit_id: str) -> str:
    return f"circuit {circuit_id[:8]}"
