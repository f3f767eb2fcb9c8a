"""Checks this host: everything the miner needs, each with what is wanted, what is there, and one line of advice.

Looks only; changes nothing, opens no circuit with EZKL and asks no chain. Best run as root or as the service user,
because others cannot see into the wallet and the session directory: what cannot be seen is "unknown", not "ok".
Every look has a limit, so that a doctor on a sick host still ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from omron_miner.constants import read_constants
from omron_miner.doctor import circuits, competition, knobs, machine, probes, service
from omron_miner.doctor.check import Check, Status, worst
from omron_miner.doctor.report import to_json, to_text
from omron_miner.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.constants import Constants

__all__ = ["HOST_FILE", "Check", "Status", "examine", "to_json", "to_text", "worst"]

HOST_FILE = "host.toml"
"""Beside constants.toml: what the play was asked to make of the host."""


def examine(config: Path) -> list[Check]:
    """All checks of this host against the constants.toml at `config`; without a valid one those that need none."""
    wanted, host_file = knobs.read_wanted(config.parent / HOST_FILE)
    try:
        constants = read_constants(config)
    except ConfigError as error:
        wrong = Check("constants", Status.FAIL, "a valid file", error.message, error.hint or "")
        return [wrong, host_file, *probes.side_by_side(_of_host(wanted, None))]
    right = Check("constants", Status.OK, "a valid file", str(config))
    return [right, host_file, *probes.side_by_side([*_of_host(wanted, constants), *_of_miner(constants)])]


def _of_host(wanted: knobs.Wanted, constants: Constants | None) -> list[probes.Group]:
    is_real = constants is not None and constants.network.name != "local"
    return [
        ("machine", lambda: machine.machine(is_real)),
        ("host's knobs", lambda: knobs.knobs(wanted)),
        ("clock", lambda: machine.clock(constants.access if constants else None)),
    ]


def _of_miner(constants: Constants) -> list[probes.Group]:
    return [
        ("disks", lambda: machine.disks(constants)),
        ("RAM disk", lambda: circuits.ram_disk(constants)),
        ("circuits", lambda: circuits.circuits(constants)),
        ("files", lambda: service.files(constants)),
        ("axon port", lambda: service.port(constants.axon)),
        ("competition", lambda: competition.offered(constants.competition)),
        ("service", lambda: service.units(constants.monitor)),
    ]
