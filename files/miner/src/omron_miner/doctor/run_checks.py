"""Selects a host's checks and runs them concurrently."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from omron_miner.constants import read_constants
from omron_miner.doctor import circuits, competition, host_settings, key_files, machine, probes, provers, service, sn2
from omron_miner.doctor.check import Check, Status
from omron_miner.engine import OWN_MINER, SN2_PROGRAM, read_engine
from omron_miner.errors import ConfigError
from omron_miner.host import Machine

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.constants import Constants
    from omron_miner.engine import Engine


def examine(config: Path, host: Machine | None = None, queries: sn2.Queries | None = None) -> list[Check]:
    """All checks of `host`, by default this one, against the constants.toml at `config`.

    `queries`: how `sn2-miner`, the chain and the repository are queried, for tests.

    Without a valid constants.toml it runs the checks that need none.
    """
    host = host or Machine()
    wanted, host_file = host_settings.read_wanted(config.parent / host_settings.HOST_FILE, read_engine(config))
    try:
        constants = read_constants(config)
    except ConfigError as error:
        wrong = Check("constants", Status.FAIL, "a valid file", error.message, error.hint or "")
        return [wrong, host_file, *probes.side_by_side(_of_host(wanted, None, host))]
    right = Check("constants", Status.OK, "a valid file", str(config))
    if constants.provers.miner:
        of_service = _of_prover(constants, host)
    elif wanted.engine.is_sn2:
        of_service = _of_sn2(wanted.engine, constants, host, queries or sn2.Queries())
    else:
        of_service = _of_miner(constants, host)
    groups = [*_of_host(wanted, constants, host), *of_service]
    return [right, host_file, *probes.side_by_side(groups)]


def _as_owner(constants: Constants, *groups: probes.Group) -> list[probes.Group]:
    """`groups` that read what the service user may write, with that user's rights even if root asks.

    The user is the owner of the logs.
    """
    directory = constants.log.directory
    return [(name, partial(probes.as_owner_of, directory, checks)) for name, checks in groups]


def _of_host(wanted: host_settings.WantedSettings, constants: Constants | None, host: Machine) -> list[probes.Group]:
    is_real = constants is not None and constants.network.name != "local"
    program = SN2_PROGRAM if wanted.engine.is_sn2 else None
    window = (sn2.OLDEST_SECONDS, sn2.AHEAD_SECONDS) if wanted.engine.is_sn2 else ()
    return [
        ("machine", lambda: machine.machine(is_real, host, program)),
        ("host settings", lambda: host_settings.host_settings(wanted, host)),
        ("clock", lambda: machine.clock(host, *window)),
    ]


def _of_proving(constants: Constants, host: Machine) -> list[probes.Group]:
    """Checks of every host that proves EZKL circuits."""
    return [
        ("disks", lambda: machine.disks(constants, host)),
        *_as_owner(
            constants,
            ("RAM disk", lambda: circuits.ram_disk(constants, host)),
            ("circuits", lambda: circuits.circuits(constants, host)),
            ("key files", lambda: key_files.key_files(constants.circuits.directory)),
        ),
    ]


def _of_miner(constants: Constants, host: Machine) -> list[probes.Group]:
    return [
        *_of_proving(constants, host),
        ("files", lambda: service.files(constants, OWN_MINER)),
        ("axon port", lambda: service.port(constants.axon, host)),
        *_as_owner(constants, ("competition", lambda: competition.offered(constants.competition))),
        ("prover certificates", lambda: provers.certificates(constants)),
        ("scheduler port", lambda: provers.port(constants, host)),
        *_as_owner(constants, ("prover hosts", lambda: provers.hosts(constants))),
        *_as_owner(constants, ("service", lambda: service.units(constants.monitor, host, OWN_MINER))),
        ("boot", lambda: service.at_boot(host)),
    ]


def _of_sn2(engine: Engine, constants: Constants, host: Machine, queries: sn2.Queries) -> list[probes.Group]:
    cache = sn2.cache_of(engine)
    where = constants.circuits.model_copy(update={"directory": cache})
    return [
        ("disks", lambda: machine.disks(constants.model_copy(update={"circuits": where}), host)),
        ("files", lambda: service.files(constants, engine)),
        ("sn2-miner", lambda: sn2.answers(engine, constants, host, queries)),
        ("release", lambda: sn2.release(engine, constants.monitor)),
        ("chain", lambda: sn2.chain_entry(engine, constants, queries)),
        *_as_owner(constants, ("circuit cache", lambda: sn2.cached(cache))),
        *_as_owner(constants, ("listed circuits", lambda: sn2.today(engine, constants, host, queries))),
        *_as_owner(constants, ("service", lambda: service.units(constants.monitor, host, engine))),
        ("boot", lambda: service.at_boot(host)),
    ]


def _of_prover(constants: Constants, host: Machine) -> list[probes.Group]:
    """Checks of a prover host: no axon, no wallet, no monitor."""
    return [
        *_of_proving(constants, host),
        ("files", lambda: service.prover_files(constants)),
        ("prover certificates", lambda: provers.certificates(constants)),
        ("prover port", lambda: provers.port(constants, host)),
        ("service", lambda: service.prover_units(host)),
        ("boot", lambda: service.at_boot(host)),
    ]
