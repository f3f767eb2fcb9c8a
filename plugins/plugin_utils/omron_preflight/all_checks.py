"""Runs all checks on one host and on all hosts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omron_preflight import circuits, fleet, host, provers, settings, sn2, storage, tuning, wallet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from omron_preflight.files import Reader


def host_problems(
    seen: Mapping[str, Any],
    needs: Mapping[str, Any],
    supported: Mapping[str, list[str]],
    proves: Sequence[Any] | None = None,
    read: Reader = Path.read_bytes,
) -> list[str]:
    """All problems that prevent a deploy to one host.

    `seen` is what the role read from the host, as in the action plugin's argument specification; `needs` is the
    package's needs.json; `supported` maps distributions to versions. `proves`: for a prover host the circuits of its
    miner, for a miner None. `read` reads a file with secrets, decrypted.
    """
    problems = list(seen["variables"]["problems"])
    if seen["unreachable"]:
        return [f"cannot be reached: {seen['unreachable']}", *problems]
    values, machine, disks = seen["variables"]["values"], seen["host"], seen["storage"]
    facts = machine["facts"]
    memory_mb = host.usable_memory_mb(facts, machine["memory_limits"])
    shm_bytes, shm_problems = storage.shm(values, host.own_memory_mb(facts, machine["memory_limits"]) * 2**20)
    is_ezkl = values["omron_engine"] == "ezkl"
    container = "container" in facts.get("virtualization_tech_guest", ())
    problems += host.system_problems(facts, supported, values["omron_allow_untested_os"])
    problems += host.program_problems(machine["missing_programs"])
    problems += host.become_problems(machine["user_id"], "" if machine["missing_programs"] else machine["become_error"])
    problems += host.memory_problems(facts, machine["memory_limits"], values["preflight_minimum_memory_mb"])
    if deploys_miner := values["miner_enabled"] and disks["for_miner"]:
        problems += storage.disk_problems(disks["measured"], values["preflight_minimum_disk_mb"])
    problems += shm_problems
    problems += host.governor_problems(
        values["cpu_governor_enabled"] and values["cpu_governor_required"],
        tuning.policies(machine["tuning"]["cpufreq"]),
        container,
    )
    problems += tuning.tuning_problems(values, machine["tuning"], container)
    ports = {"miner_provers_port": "tcp"} if proves is not None else {"omron_axon_port": "tcp" if is_ezkl else "udp"}
    if proves is None and values["miner_prover_engine"] == "dask":
        ports["miner_provers_scheduler_port"] = "tcp"
    for port, protocol in ports.items():
        listeners = machine["listeners"] if protocol == "tcp" else machine["udp_listeners"]
        problems += host.port_problems(values[port], listeners, machine["users"], values["omron_user"], protocol, port)
    problems += host.user_problems(
        values, machine["users"], machine["groups"], machine["login_users"], machine["made_here"]
    )
    problems += settings.placeholder_problems(
        {name: value for name, value in values.items() if name.startswith("omron_")}
    )
    if proves is not None:
        return problems + circuits.needs_problems(proves, needs, memory_mb, shm_bytes)
    problems += settings.network_problems(values)
    problems += settings.stop_time_problems(values)
    problems += wallet.wallet_problems(values, seen["wallet"]["coldkeys"], read)
    problems += sn2.memory_limit_problems(values["pm2_memory_max"])
    problems += sn2.sn2_problems(values, machine["glibc"], disks["measured"] if deploys_miner else None)
    if is_ezkl:
        problems += settings.axon_problems(values)
        problems += circuits.ezkl_problems(values["omron_ezkl_version"])
        problems += circuits.circuit_problems(values["omron_circuits"], values["omron_ezkl_version"])
        problems += circuits.srs_problems(values)
        problems += circuits.needs_problems(values["omron_circuits"], needs, memory_mb, shm_bytes)
    if is_ezkl and deploys_miner:
        problems += storage.room_problems(
            values["omron_circuits"], disks["measured"], disks["keys"], values["omron_srs_file"]
        )
    problems += wallet.competition_problems(values, read) if is_ezkl else []
    return problems


def fleet_problems(
    hosts: Mapping[str, Mapping[str, Any]],
    others: Mapping[str, Mapping[str, Any]],
    needs: Mapping[str, Any],
    supported: Mapping[str, list[str]],
    prover_hosts: Mapping[str, Mapping[str, Any]] | None = None,
    miners: Mapping[str, Mapping[str, Any]] | None = None,
    read: Reader = Path.read_bytes,
) -> dict[str, list[str]]:
    """The problems of each of `hosts` (name to what was read from it), of its own and in conflict with other hosts.

    `others` are the values of miners outside this deploy, which may conflict with these hosts.
    `prover_hosts` and `miners` have the FLEET_VALUES of the whole inventory. `read` reads a hotkey's file, decrypted.
    """
    prover_hosts, miners = prover_hosts or {}, miners or {}
    values = {name: seen["variables"]["values"] for name, seen in hosts.items() if name not in prover_hosts}
    shared = fleet.shared_problems({**others, **values}, read)
    both = {**prover_hosts, **miners}
    clocks = {name: time for name, seen in hosts.items() if (time := host.clock(seen.get("host")))}
    fitting = provers.prover_problems(list(prover_hosts), list(miners), both, clocks)
    found = {}
    for name, seen in hosts.items():
        proves = None
        if name in prover_hosts:
            miner = provers.miner_of(name, both, list(miners))
            proves = both[miner]["omron_circuits"] if miner else []
        own = host_problems(seen, needs, supported, proves, read)
        found[name] = own + shared.get(name, []) + fitting.get(name, [])
    return found
