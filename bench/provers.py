"""Several prover hosts behind one miner: what Dask costs, how many hosts pay, and what is lost when hosts die.

    .venv/bin/python bench/provers.py [--only dask|many|deadline|hosts] [--circuit tiny|demo] [--json FILE|-]

- dask: a request of the demo's 12 288 numbers whose proof takes no time, over Dask with TLS on loopback and to the
  local pool, in turn: how much longer the first takes. Aim: p50 at most 5 ms, p95 at most 10 ms.
- many: 200 simulated hosts, 2 000 requests, at most 256 at a time (a subnet's validators); one host in fifty dies in
  the middle of a proof. Aims: no request without an answer, plans below 5 ms of CPU time (p50), memory flat.
- deadline: 16 requests at once with a 45 s deadline and 10 s proofs on 1, 2 and 4 hosts, and what arithmetic allows.
  Times are multiplied by --scale.
- hosts (root): proofs a minute of a real circuit with 2 prover hosts and with 1, each a network namespace with one core
  of its own, encrypted between them; needs as many cores as hosts and an idle machine. Aim: at least 1.9 times.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import click
import psutil

from bench_circuits import ROOT, bench_circuit
from reporting import (
    Command,
    aim,
    host_facts,
    json_option,
    milliseconds,
    percentile,
    say,
    say_aims,
    say_host,
    say_table,
    summary,
    write_json,
)
from serving import workplace
from sleeping_work import NUMBERS, OneCircuit, sleeping

sys.path[:0] = [str(ROOT / "tests/unit"), str(ROOT / "tests/wire")]

from certificate_samples import Authority  # noqa: E402  the tests' CA
from omron_miner.circuits.circuit import ezkl_version  # noqa: E402
from omron_miner.circuits.examples import example_inputs  # noqa: E402
from omron_miner.circuits.inputs import validate_inputs  # noqa: E402
from omron_miner.constants import Circuits, Constants, Deadlines, Log, Prover, Provers, Sessions  # noqa: E402
from omron_miner.events import Timings  # noqa: E402
from omron_miner.provers.dask_client import DaskConnection  # noqa: E402
from omron_miner.provers.hosts import PROTOCOL, HostReport, release  # noqa: E402
from omron_miner.provers.multi_host_pool import MultiHostPool  # noqa: E402
from omron_miner.provers.prover_service import pool_constants  # noqa: E402
from omron_miner.proving.pacing import CircuitPace  # noqa: E402
from omron_miner.proving.prover import ProverPool  # noqa: E402
from omron_miner.proving.verified_model_session import ProofResult  # noqa: E402
from ports import free_port  # noqa: E402
from simulated_hosts import Door  # noqa: E402
from wire_miner import to_toml  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from omron_miner.proving.prover import Pool

PARTS = ("dask", "many", "deadline", "hosts")
JOIN_SECONDS = 120.0
NETWORK = "10.213.77"
"""Of the bridge and the namespaces, for as long as the bench runs."""


@click.command(cls=Command)
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Parts to run.  [default: all but hosts]")
@click.option("--requests", type=click.IntRange(10), default=200, show_default=True, help="Of the part dask, each way.")
@click.option("--many", type=click.IntRange(10), default=2000, show_default=True, help="Requests of the part many.")
@click.option("--scale", type=click.FloatRange(0.01, 1), default=0.1, show_default=True, help="Of the part deadline.")
@click.option("--circuit", type=click.Choice(["tiny", "demo"]), default="demo", show_default=True, help="Of hosts.")
@click.option("--proofs", type=click.IntRange(2), default=12, show_default=True, help="Of the part hosts, each time.")
@json_option
def main(
    only: tuple[str, ...], requests: int, many: int, scale: float, circuit: str, proofs: int, json_file: str | None
) -> None:
    """Measure several prover hosts behind one miner."""
    facts = host_facts()
    say_host(facts)
    found: dict[str, Any] = {}
    for part in only or PARTS[:-1]:
        with workplace() as place:
            if part == "dask":
                found[part] = over_dask(place, requests)
            elif part == "many":
                found[part] = with_many(place, many)
            elif part == "deadline":
                found[part] = in_time(place, scale)
            else:
                found[part] = one_and_two_hosts(place, circuit, proofs)
        say_aims(found[part].get("aims", []))
    write_json({"bench": "provers", "host": facts, **found}, json_file)


def constants_in(place: Path, circuits: Circuits | None = None, **more: Any) -> Constants:
    """Settings of one host below `place`, patient in its queue."""
    place.mkdir(parents=True, exist_ok=True)
    return Constants(
        prover=Prover(engine="dask", workers=1, local_workers=more.pop("local_workers", 0)),
        provers=Provers(**{"directory": place / "dask", "verify_again": False, **more}),
        deadlines=Deadlines(circuit_timeout_seconds=600.0, external_queue_seconds=590.0),
        sessions=Sessions(directory=place / "ram", fallback_directory=place / "disk", minimum_free_bytes=0),
        log=Log(directory=place),
        circuits=circuits or Circuits(directory=place / "circuits"),
    )


@contextlib.contextmanager
def opened(pool: Any) -> Iterator[Any]:
    """Starts a pool, and closes it at the end."""
    pool.start()
    try:
        yield pool
    finally:
        pool.close(0)


@contextlib.contextmanager
def processes(*commands: list[str]) -> Iterator[None]:
    """Runs commands in the background, and stops them."""
    paths = os.pathsep.join([str(ROOT / "bench"), str(ROOT / "tests"), str(ROOT / "tests/unit")])
    running = [subprocess.Popen(one, env={**os.environ, "PYTHONPATH": paths}, stdout=2) for one in commands]
    try:
        yield
    finally:
        for one in running:
            one.terminate()
        for one in running:
            try:
                one.wait(10)
            except subprocess.TimeoutExpired:
                one.kill()


def wait_for_hosts(pool: MultiHostPool, number: int) -> None:
    """Until so many other hosts may get work. Raises ClickException."""
    until = time.monotonic() + JOIN_SECONDS
    while sum(not one.state and bool(one.address) for one in pool.hosts()) < number:
        if time.monotonic() > until:
            raise click.ClickException(f"not all prover hosts joined: {pool.hosts()}")
        time.sleep(0.05)


# --- what the way over Dask costs -------------------------------------------------------------------------------------


def over_dask(place: Path, requests: int) -> dict[str, Any]:
    """The same requests over Dask and to a local pool, in turn."""
    ca, port = Authority(), free_port()

    def settings(name: str) -> Constants:
        folder = ca.issue(place / name / "certificates")
        more: dict[str, Any] = {
            "scheduler_port": port,
            "port": free_port(),
            "certificate_directory": folder,
            "name": name,
        }
        constants = constants_in(place / name, **more)
        (place / name / "constants.toml").write_text(to_toml(constants), encoding="utf-8")
        return constants

    miner = settings("miner")
    settings("host")
    scheduler = [sys.executable, "-m", "omron_miner", "--config", str(place / "miner/constants.toml"), "provers"]
    host = [sys.executable, str(ROOT / "bench/sleeping_work.py"), str(place / "host/constants.toml")]
    pool = MultiHostPool(miner, connect=DaskConnection(miner).run, work=sleeping(), catalogue=OneCircuit())
    local = ProverPool(pool_constants(miner, 1), None, sleeping())
    source = random.Random(0)  # noqa: S311  samples, not secrets
    rows: Any = [[0.0, *(source.uniform(-1, 1) for _ in range(NUMBERS - 1))]]
    pools: dict[str, Pool] = {"dask": pool, "local": local}
    samples: dict[str, list[float]] = {"dask": [], "local": []}
    with processes([*scheduler, "scheduler"], host), opened(local), opened(pool):
        wait_for_hosts(pool, 1)
        for number in range(requests + 10):  # the first ten warm up
            for name, one in sorted(pools.items(), reverse=bool(number % 2)):
                begun = time.perf_counter()
                result = one.submit("c", rows, time.monotonic() + 60).result()
                seconds = time.perf_counter() - begun
                if not result.verified:
                    raise click.ClickException(f"a request failed: {result.failure} {result.detail}")
                if number >= 10:
                    samples[name].append(seconds)
    added = {share: percentile(samples["dask"], at) - percentile(samples["local"], at)
             for share, at in (("p50", 0.5), ("p95", 0.95))}  # fmt: skip
    say_table(
        ["a request of 12 288 numbers", "p50", "p95"],
        [[name, milliseconds(statistics.median(found)), milliseconds(percentile(found, 0.95))]
         for name, found in samples.items()],
    )  # fmt: skip
    return {
        **{name: {**summary(found), "samples": found} for name, found in samples.items()},
        "added_s": added,
        "ratio_dask_to_local": {"p50": statistics.median(samples["dask"]) / statistics.median(samples["local"])},
        "aims": [
            aim("ms that Dask adds, p50", "≤ 5", 1000 * added["p50"], added["p50"] <= 0.005),
            aim("ms that Dask adds, p95", "≤ 10", 1000 * added["p95"], added["p95"] <= 0.010),
        ],
    }


# --- simulated hosts --------------------------------------------------------------------------------------------------


class SleepingHost:
    """A host in this process whose proofs are sleep; one that dies raises OSError until `back`."""

    is_local = False

    def __init__(self, name: str, seconds: float, dies: bool = False) -> None:
        self.name, self._seconds, self._dies, self._back = name, seconds, dies, 0.0
        pace = {"c": CircuitPace((seconds,), 1, seconds)}
        circuits = OneCircuit().digests()
        self._report = HostReport(name, release(), ezkl_version(), circuits, 1, 1 << 34, pace, protocol=PROTOCOL)

    async def prove(self, _number: int, circuit_id: str, _rows: Any, _within: float) -> ProofResult:
        """See `hosts.ProverHost`."""
        self._alive()
        if self._dies:
            await asyncio.sleep(self._seconds / 2)
            self._dies, self._back = False, time.monotonic() + 2.0
            self._alive()
        await asyncio.sleep(self._seconds)
        return ProofResult(circuit_id, "label", "proof", "[]", [1.0], True, None, "", Timings(), 1)

    async def report(self, _wanted: Any, _last: int) -> HostReport:
        """See `hosts.ProverHost`."""
        self._alive()
        return self._report

    def _alive(self) -> None:
        if time.monotonic() < self._back:
            raise OSError("the host died")


def join(pool: MultiHostPool, door: Door, hosts: list[SleepingHost]) -> None:
    """Has simulated hosts join and waits until all may get work."""
    for host in hosts:
        door.join(host)
    wait_for_hosts(pool, len(hosts))


def with_many(place: Path, requests: int, number: int = 200, at_a_time: int = 256) -> dict[str, Any]:
    """Many requests to many hosts of which some die."""
    door = Door()
    pool = MultiHostPool(constants_in(place / "miner"), connect=door.run, work=sleeping(), catalogue=OneCircuit())
    pool.placement_seconds = []
    hosts = [SleepingHost(f"host {one}", 0.1 + one / 1000, dies=one % 50 == 7) for one in range(number)]
    rows: Any = [[0.2]]
    memory: list[int] = []
    with opened(pool):
        join(pool, door, hosts)
        waiting: set[Any] = set()
        results: list[ProofResult] = []
        begun = time.perf_counter()
        for _ in range(requests):
            while len(waiting) >= at_a_time:
                done = {one for one in waiting if one.done()}
                results += [one.result() for one in done]
                waiting -= done
                time.sleep(0.001)
            waiting.add(pool.submit("c", rows, time.monotonic() + 60))
            memory.append(psutil.Process().memory_info().rss)
        results += [one.result(120) for one in waiting]
        seconds = time.perf_counter() - begun
    verified = sum(one.verified for one in results)
    plans = pool.placement_seconds
    growth = statistics.fmean(memory[-requests // 10 :]) / statistics.fmean(memory[requests // 2 : -requests // 4])
    again = sum(one.tries > 1 for one in results)
    say(f"  {number} hosts, {requests} requests in {seconds:.1f} s: {verified} proofs, {again} made again elsewhere")
    say(f"  a plan takes {milliseconds(statistics.median(plans))} (p50), {milliseconds(percentile(plans, 0.95))} (p95)")
    return {
        "hosts": number, "requests": requests, "answered": len(results), "verified": verified, "made_again": again,
        "seconds": seconds, "plan_s": summary(plans), "memory_growth_ratio": growth,
        "aims": [
            aim("requests with a proof / requests", "= 1", verified / requests, verified == requests),
            aim("ms of a plan, p50", "< 5", 1000 * statistics.median(plans), statistics.median(plans) < 0.005),
            aim("memory, end / middle", "≤ 1.02", growth, growth <= 1.02),
        ],
    }  # fmt: skip


def in_time(place: Path, scale: float) -> dict[str, Any]:
    """Requests at once on 1, 2 and 4 hosts, this one among them."""
    found, rows = [], []
    requests, deadline, seconds = 16, 45.0, 10.0
    for number in (1, 2, 4):
        constants = constants_in(place / str(number), local_workers=1)
        task: Any = [[seconds * scale]]
        door = Door()
        pool = MultiHostPool(constants, connect=door.run, work=sleeping(), catalogue=OneCircuit())
        with opened(pool):
            for _ in range(2):  # so that this host's pace is known
                pool.submit("c", task, time.monotonic() + 600).result()
            join(pool, door, [SleepingHost(f"host {one}", seconds * scale) for one in range(number - 1)])
            asked = [pool.submit("c", task, time.monotonic() + deadline * scale) for _ in range(requests)]
            answered = sum(one.result().verified for one in asked)
        allowed = min(requests, number * int(deadline // seconds))
        found.append({"hosts": number, "answered_in_time": answered, "arithmetic": allowed})
        rows.append([str(number), str(answered), str(allowed)])
    say_table([f"hosts ({requests} requests, {deadline:g} s, {seconds:g} s a proof)", "in time", "arithmetic"], rows)
    ratio = sum(one["answered_in_time"] for one in found) / sum(one["arithmetic"] for one in found)
    return {
        "scale": scale,
        "by_hosts": found,
        "aims": [aim("answers in time / what arithmetic allows", "= 1", ratio, ratio >= 1.0)],
    }


# --- real proofs on hosts of one core ---------------------------------------------------------------------------------


def one_and_two_hosts(place: Path, name: str, proofs: int) -> dict[str, Any]:
    """Proofs a minute with one and with two hosts, in this order and back."""
    if os.geteuid() != 0 or len(os.sched_getaffinity(0)) < 2:
        raise click.ClickException("the part hosts needs root and two cores")
    bench = bench_circuit(name)
    bench.warm_page_cache()
    ca, port, rates = Authority(), free_port(), {1: [], 2: []}  # type: ignore[var-annotated]
    with network(2):
        for number in (1, 2, 2, 1):
            rates[number].append(_proofs_a_minute(place / f"{time.time():.0f}", bench, ca, port, number, proofs))
            say(f"  {number} host(s): {rates[number][-1]:.1f} proofs a minute")
    ratio = statistics.fmean(rates[2]) / statistics.fmean(rates[1])
    return {
        "circuit": bench.facts(),
        "proofs_per_minute": {str(number): found for number, found in rates.items()},
        "ratio_two_to_one": ratio,
        "aims": [aim("proofs a minute, 2 hosts / 1", "≥ 1.9", ratio, ratio >= 1.9)],
    }


def _proofs_a_minute(place: Path, bench: Any, ca: Authority, port: int, number: int, proofs: int) -> float:
    def settings(name: str, address: str) -> Constants:
        folder = ca.issue(place / name / "certificates")
        more = {"bind_ip": address, "scheduler_host": f"{NETWORK}.1", "scheduler_port": port, "name": name}
        constants = constants_in(place / name, bench.circuits, certificate_directory=folder, **more)
        (place / name / "constants.toml").write_text(to_toml(constants), encoding="utf-8")
        return constants

    def command(name: str, role: str) -> list[str]:
        return [sys.executable, "-m", "omron_miner", "--config", str(place / name / "constants.toml"), "provers", role]

    miner = settings("miner", f"{NETWORK}.1")
    cores = sorted(os.sched_getaffinity(0))
    commands = [command("miner", "scheduler")]
    for one in range(number):
        settings(f"host{one}", f"{NETWORK}.{10 + one}")
        inside = ["ip", "netns", "exec", f"omron{one}", "taskset", "-c", str(cores[one])]
        commands.append([*inside, *command(f"host{one}", "worker")])
    rows = validate_inputs(bench.circuit, example_inputs(bench.circuit, seed=1))
    pool = MultiHostPool(miner, connect=DaskConnection(miner).run)
    with processes(*commands), opened(pool):
        wait_for_hosts(pool, number)
        begun = time.perf_counter()
        asked = [pool.submit(bench.circuit.id, rows, time.monotonic() + 600) for _ in range(proofs)]
        if failed := [one.result() for one in asked if not one.result().verified]:
            raise click.ClickException(f"a proof failed: {failed[0]}")
        return 60 * proofs / (time.perf_counter() - begun)


@contextlib.contextmanager
def network(number: int) -> Iterator[None]:
    """A bridge with this host at .1 and so many network namespaces omronN from .10 on."""

    def ip(*arguments: str, check: bool = True) -> None:
        subprocess.run(["ip", *arguments], check=check, capture_output=True)

    try:
        ip("link", "add", "omron-bench", "type", "bridge")
        ip("addr", "add", f"{NETWORK}.1/24", "dev", "omron-bench")
        ip("link", "set", "omron-bench", "up")
        for one in range(number):
            space, inner, outer = f"omron{one}", f"omron-in{one}", f"omron-out{one}"
            ip("netns", "add", space)
            ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", space)
            ip("link", "set", outer, "master", "omron-bench", "up")
            ip("-n", space, "addr", "add", f"{NETWORK}.{10 + one}/24", "dev", inner)
            ip("-n", space, "link", "set", inner, "up")
            ip("-n", space, "link", "set", "lo", "up")
        yield
    finally:
        for one in range(number):
            ip("netns", "del", f"omron{one}", check=False)
        ip("link", "del", "omron-bench", check=False)


if __name__ == "__main__":
    main()
