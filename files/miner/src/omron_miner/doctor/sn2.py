"""Upstream's `sn2-miner` on this host: whether it answers, is announced correctly, can prove, and has known faults.

Queries the miner over loopback, the chain and the repository of circuits, each once and with a time limit (`Queries`).
Changes nothing. A probe leaves one line in the miner's log.
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omron_miner.addresses import host_and_port
from omron_miner.circuits.circuit import circuit_folder
from omron_miner.doctor import firewall
from omron_miner.doctor.check import Check, Status, check_that, not_read, unseen
from omron_miner.errors import OmronError
from omron_miner.files import folder_bytes
from omron_miner.formatting import GIB, counted, size
from omron_miner.host import is_bound
from omron_miner.live.miner_log import KNOWN_VERSIONS
from omron_miner.untrusted import NOT_OF_ITS_FORM, parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from omron_miner.chain.subnet_list import SubnetList
    from omron_miner.constants import Constants, Monitor, Network
    from omron_miner.engine import Engine
    from omron_miner.host import Machine
    from omron_miner.live.probe import Report
    from omron_miner.live.repository import Lists

OLDEST_SECONDS, AHEAD_SECONDS = 300.0, 60.0
"""Maximum age of a handshake for the miner, and how far ahead (btlightning 0.2.15; as in `live.lightning`)."""
PROBE_SECONDS, CHAIN_SECONDS, LISTS_SECONDS = 8.0, 15.0, 8.0
"""All below `probes.LIMIT_SECONDS`."""
KEEP_FREE_BYTES = 10 * GIB
"""Free space that `omron-miner live circuits sync` keeps by default."""
_START_ADVICE = "see the end of sn2-miner.log; start with: systemctl restart omron-pm2"
_MEASURED = 50
"""Components whose size is sampled."""
FAULTS = (
    ((14, 7, 5), "memory exhaustion from a few packets (RUSTSEC-2026-0185 in quinn-proto, published in June 2026)"),
    ((14, 7, 5), "slices with weights as inputs fail: activation length mismatch (upstream's issue 538, June 2026)"),
)
"""Last release with a fault, judging by upstream's dates, and the fault. None was reproduced."""


def _probe(host: str, port: int, hotkey: str | None) -> Report:
    from omron_miner.live import probe

    return probe.probe(host, port, probe.throwaway_keypair(), hotkey, PROBE_SECONDS)


def _look(network: Network, hotkey: str) -> SubnetList:
    from omron_miner.chain.open import look_at_chain

    limit = min(network.call_seconds, CHAIN_SECONDS)
    return look_at_chain(network.model_copy(update={"call_seconds": limit}), hotkey)


def _lists(url: str) -> Lists:
    from omron_miner.building.downloads import Rules
    from omron_miner.live.repository import DEFAULT_URL, Repository

    rules = Rules((), plain_http=False, total_seconds=LISTS_SECONDS, max_bytes=0, stall_seconds=LISTS_SECONDS, tries=1)
    with tempfile.TemporaryDirectory() as work:
        return Repository(url or DEFAULT_URL, rules).lists(Path(work))


@dataclass(frozen=True)
class Queries:
    """Queries beyond this host's files."""

    probe: Callable[[str, int, str | None], Report] = _probe
    look: Callable[[Network, str], SubnetList] = _look
    lists: Callable[[str], Lists] = _lists


def cache_of(engine: Engine) -> Path:
    """Where the circuits are."""
    from omron_miner.live.cache import DEFAULT

    return engine.circuit_cache or DEFAULT.expanduser()


def answers(engine: Engine, constants: Constants, machine: Machine, queries: Queries) -> Iterator[Check]:
    """Whether the miner receives packets and answers a handshake: locally, and at its public address."""
    port, hotkey = engine.axon_port, engine.hotkey or None
    name, wanted = "axon port", f"UDP {port} takes packets"
    bound = is_bound(port, machine.proc)
    if bound is False:
        yield Check(name, Status.FAIL, wanted, "no program has it open", _START_ADVICE)
        return
    yield (
        Check(name, Status.OK, wanted, "open") if bound else unseen(name, wanted, "the kernel's tables cannot be read")
    )
    filters = firewall.has_allowlist(machine)
    report = queries.probe("127.0.0.1", port, hotkey)
    name, wanted = "probe", f"QUIC, a handshake and an answer{f' from {hotkey[:8]}…' if hotkey else ''}"
    if report.alive:
        yield Check(name, Status.OK, wanted, f"{report.verdict}: {report.meaning}")
    elif report.verdict == "silent" and filters:
        yield unseen(name, wanted, "the miner's allowlist is in force and drops the probe", "")
    else:
        advice = report.advice or _START_ADVICE
        yield Check(name, Status.FAIL, wanted, f"{report.verdict}: {report.meaning}", advice)
    if constants.network.name != "local" and (address := engine.external_ip or constants.axon.external_ip):
        yield _from_outside(address, port, hotkey, queries)


def _from_outside(address: str, port: int, hotkey: str | None, queries: Queries) -> Check:
    """From this host to its own public address: many routers cannot do this (hairpin), so a failure proves nothing."""
    report = queries.probe(address, port, hotkey)
    name, wanted = "from outside", f"{host_and_port(address, port)} answers"
    if report.alive:
        return Check(name, Status.OK, wanted, "answers, tested from this host itself")
    advice = f"from another host: omron-miner live probe {host_and_port(address, port)} --hotkey {hotkey or 'SS58'}"
    if report.verdict in ("wrong_hotkey", "bad_signature", "not_quic", "not_btlightning"):
        return Check(name, Status.FAIL, wanted, f"{report.verdict}: {report.meaning}", report.advice or advice)
    return unseen(name, wanted, f"asked from this host itself: {report.verdict}", advice)


def release(engine: Engine, monitor: Monitor) -> Iterator[Check]:
    """Which release runs, whether it is the installed one, and its known faults."""
    name, wanted = "sn2-miner release", "one whose log format is supported, as installed"
    running = str(_summary(monitor).get("version") or "")
    installed = _installed(engine)
    found = running or installed
    numbers = _numbers(found)
    if numbers is None:
        yield unseen(
            name, wanted, "unknown: neither its log nor its folder names one", "omron-miner monitor --catch-up"
        )
        return
    live = f"{found}{'' if running else ' (installed; the log names none)'}"
    if running and installed and _numbers(installed) not in (None, numbers):
        advice = "run the play: it restarts the miner with one stop"
        yield Check(name, Status.WARN, wanted, f"{running} runs, {installed} is installed", advice)
    else:
        advice = "figures from its log may be incomplete; see docs/live.md, Before first use"
        yield check_that(name, numbers[:2] in KNOWN_VERSIONS, wanted, live, advice)
    faults = [text for last, text in FAULTS if numbers <= last]
    live = "; ".join(faults) or "none known here"
    advice = "look for a newer release, and set sn2_miner_release"
    yield check_that("known faults", not faults, "none", live, advice)


def _installed(engine: Engine) -> str:
    """The release's name, from the program's folder; empty when the folder's name has none."""
    if engine.program is None:
        return ""
    try:
        folders = engine.program.resolve(strict=True).parents
    except OSError:
        return ""
    return next((one.name for one in folders if _numbers(one.name)), "")


def _numbers(version: str) -> tuple[int, ...] | None:
    """``(14, 7, 5)`` for ``v14.7.5``; None for anything else."""
    parts = version.removeprefix("v").split(".")
    is_version = len(parts) == 3 and all(one.isascii() and one.isdigit() for one in parts)
    return tuple(map(int, parts)) if is_version else None


def _summary(monitor: Monitor) -> dict[str, Any]:
    """The monitor's last summary of the miner; empty when there is none."""
    try:
        found = parse_json((monitor.directory / "summary.json").read_text(encoding="utf-8"))["sn2"]
    except (OSError, *NOT_OF_ITS_FORM):
        return {}
    return found if isinstance(found, dict) else {}


def chain_entry(engine: Engine, constants: Constants, queries: Queries) -> Iterator[Check]:
    """Whether the chain has the hotkey, without a permit, with the miner's address. No check on `local`."""
    network = constants.network
    if network.name == "local":
        return
    name, wanted = "chain entry", f"UDP port {engine.axon_port} at this host's public address"
    if not engine.hotkey:
        yield unseen(name, wanted, "the release names no hotkey", "run the play")
        return
    try:
        found = queries.look(network, engine.hotkey)
    except OmronError as error:
        yield unseen(name, wanted, error.message, error.hint or "try again later")
        return
    own = found.validators.get(engine.hotkey)
    registered = f"hotkey {engine.hotkey[:8]}… on netuid {network.netuid}"
    advice = f"register it: btcli subnets register --netuid {network.netuid}; the miner does not start unregistered"
    yield check_that(
        "registered", own is not None, registered, f"uid {own.uid}" if own else "it is not", advice, Status.FAIL
    )
    if own is None:
        return
    advice = "validators send no work to a hotkey that holds a permit: use another one"
    live = "it holds one" if own.permit else "none"
    yield check_that("validator permit", not own.permit, "none", live, advice, Status.FAIL)
    yield _entry(name, engine, constants, found.own_address)


def _entry(name: str, engine: Engine, constants: Constants, there: tuple[str, int] | None) -> Check:
    real_ip = engine.external_ip or constants.axon.external_ip
    wanted = (
        host_and_port(real_ip, engine.axon_port) if real_ip else f"an address of this host, port {engine.axon_port}"
    )
    advice = "the miner announces itself once, at its start: restart it when a restart costs little"
    if there is None or there[0] in ("", "0.0.0.0", "::") or not there[1]:  # noqa: S104  what the chain has for none
        return Check(name, Status.FAIL, wanted, "no address: validators cannot connect", advice)
    is_right = there[1] == engine.axon_port and (not real_ip or there[0] == real_ip)
    live = host_and_port(*there)
    if is_right and not real_ip:
        advice = f"from another host: omron-miner live probe {live} --hotkey {engine.hotkey}"
        return unseen(name, wanted, f"{live}; the release names no external_ip to compare with", advice)
    return check_that(name, is_right, wanted, live, advice, Status.FAIL)


def cached(cache: Path) -> Iterator[Check]:
    """Whether every slice in the cache can be proved, as far as its files show."""
    from omron_miner.live import cache_check

    name, wanted = "circuit cache", "every slice can be proved"
    try:
        report = cache_check.check(cache)
    except OmronError as error:
        yield not_read(name, wanted, error)
        return
    here = len({one.component for one in report.findings if not one.published})
    there = len({one.component for one in report.findings if one.published})
    live = f"{counted(report.circuits, 'circuit', 'circuits')}, {report.provable} of {report.slices} slices"
    live += f"; {there} components are published incomplete" if there else ""
    live += f"; {len(report.unready)} circuits are not ready" if report.unready else ""
    live += f"; {here} components are damaged here" if here else ""
    yield check_that(name, report.ok, wanted, live, "omron-miner live circuits sync; then: live circuits check")


def today(engine: Engine, constants: Constants, machine: Machine, queries: Queries) -> Iterator[Check]:
    """Whether the components that the repository lists are in the cache, and whether there is room for the others.

    No check on `local` without a configured repository.
    """
    from omron_miner.live.cache import SLICES, STAMP, slice_folders, stamp_text

    if constants.network.name == "local" and not engine.circuits_url:
        return
    cache = cache_of(engine)
    name, wanted = "listed circuits", "all listed components are in the cache"
    try:
        lists = queries.lists(engine.circuits_url)
    except OmronError as error:
        yield unseen(name, wanted, error.message, error.hint or "try again later")
        return
    stamps = {stamp_text(one / STAMP) for one in slice_folders(cache)}
    circuits = lists.circuits.values()
    places = [
        (circuit_folder(cache, one.id) / SLICES / part.name / STAMP, part.sha256)
        for one in circuits
        for part in one.components
    ]
    absent = {sha for place, sha in places if stamp_text(place) != sha}
    complete = sum(not any(part.sha256 in absent for part in one.components) for one in circuits)
    live = f"{complete} of {len(lists.circuits)} circuits, {counted(len(absent), 'component', 'components')} missing"
    live += f"; {len(lists.problems)} of the lists cannot be read" if lists.problems else ""
    yield check_that(name, not absent and not lists.problems, wanted, live, "omron-miner live circuits sync")
    to_fetch = absent - stamps  # the rest is linked
    mean = _mean_bytes(cache)
    name = "room for circuits"
    if to_fetch and mean is None:
        yield unseen(name, "room for the listed circuits", "no component in the cache yet to estimate the size from")
        return
    need = KEEP_FREE_BYTES + int(len(to_fetch) * (mean or 0))
    try:
        status = machine.statvfs(cache)
    except OSError as error:
        yield unseen(name, f"{size(need)} free", str(error))
        return
    free = status.f_bavail * status.f_frsize
    advice = "make room, or move the cache to a larger disk: upstream recommends 400 GB"
    about = f" (about {size(need - KEEP_FREE_BYTES)} to fetch)" if to_fetch else ""
    yield check_that(name, free >= need, f"{size(need)} free{about}", f"{size(free)} free", advice, Status.FAIL)


def _mean_bytes(cache: Path) -> float | None:
    """Mean size of a slice's files in the cache, of a sample; None without any."""
    from omron_miner.live.cache import slice_folders

    folders = list(slice_folders(cache))
    some = random.Random(0).sample(folders, min(_MEASURED, len(folders)))  # noqa: S311  a sample, no secret
    sizes = [folder_bytes(folder) for folder in some]
    return sum(sizes) / len(sizes) if sizes else None
