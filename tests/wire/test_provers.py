"""A miner's pool and two prover hosts, real processes, over real Dask with TLS on loopback. The proofs are sleep."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import omron_miner
import prover_work
from certificate_samples import Authority
from circuit_folders import VK, write_circuit, write_srs
from omron_miner.circuits.circuit_store import CircuitStore
from omron_miner.constants import Circuits, Constants, Deadlines, Log, Prover, Provers, Sessions
from omron_miner.errors import ConfigError, OmronError
from omron_miner.events import FailureKind
from omron_miner.provers.dask_client import DaskConnection, own_report
from omron_miner.provers.dask_server import run_scheduler, run_worker
from omron_miner.provers.multi_host_pool import MultiHostPool
from omron_miner.proving.worker_process import Work
from ports import free_port
from prover_host import sleeping
from simulated_hosts import OneCircuit
from waiting import wait_until
from wire_miner import OMRON_MINER, to_toml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from omron_miner.proving.verified_model_session import ProofResult

pytestmark = pytest.mark.slow
HOST_PROGRAM = Path(__file__).with_name("prover_host.py")
PROVERS = ("p1", "p2")
LOST_SECONDS = 1.5


@dataclass
class Fleet:
    """The processes of a fleet below a folder, each with its own settings and certificate."""

    place: Path
    ca: Authority = field(default_factory=Authority)
    scheduler_port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    known: dict[str, Constants] = field(default_factory=dict)

    def constants(self, name: str) -> Constants:
        if name not in self.known:
            place = self.place / name
            self.ca.issue(place / "certificates")
            provers = Provers(
                name=name,
                port=free_port(),
                scheduler_port=self.scheduler_port,
                directory=place / "dask",
                certificate_directory=place / "certificates",
                heartbeat_seconds=0.2,
                lost_seconds=LOST_SECONDS,
                verify_again=False,
            )
            self.known[name] = Constants(
                prover=Prover(engine="dask", workers=1, local_workers=0),
                provers=provers,
                deadlines=Deadlines(external_queue_seconds=20),
                sessions=Sessions(directory=place / "ram", fallback_directory=place / "disk"),
                log=Log(directory=place),
                circuits=Circuits(directory=place / "circuits", srs_directory=place / "srs"),
            )
            (place / "constants.toml").write_text(to_toml(self.known[name]))
        return self.known[name]

    def start(self, name: str, package: Path | None = None) -> None:
        """`package` is the folder of another copy of omron_miner that the process is to run."""
        self.constants(name)
        settings = str(self.place / name / "constants.toml")
        command = [sys.executable, str(HOST_PROGRAM), settings]
        if name == "scheduler":
            command = [*OMRON_MINER, "--config", settings, "provers", "scheduler"]
        paths = [*([str(package)] if package else []), str(Path(__file__).parents[1] / "unit")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        output = (self.place / f"{name}.log").open("wb")
        self.processes[name] = subprocess.Popen(command, env=environment, stdout=output, stderr=output)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        self.processes[name].send_signal(number)
        if number == signal.SIGKILL:
            self.processes.pop(name).wait()

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    for name in ("scheduler", *PROVERS):
        fleet.start(name)
    yield fleet
    fleet.stop()


@pytest.fixture(scope="module")
def lost() -> list[str]:
    return []


@pytest.fixture(scope="module")
def miner(fleet: Fleet, lost: list[str]) -> Iterator[MultiHostPool]:
    constants = fleet.constants("miner")
    connect = DaskConnection(constants).run
    pool = MultiHostPool(constants, lost.append, connect, work=sleeping(), catalogue=OneCircuit())
    pool.start()
    yield pool
    pool.close(0)


@pytest.fixture
def pool(fleet: Fleet, miner: MultiHostPool) -> MultiHostPool:
    """The miner's pool with all hosts in it, whatever the test before did to them."""
    for name in ("scheduler", *PROVERS):
        if name not in fleet.processes:
            fleet.start(name)
    wait_for_hosts(miner, *PROVERS)
    return miner


def usable(pool: MultiHostPool) -> set[str]:
    return {one.name for one in pool.hosts() if not one.state and one.address}


def wait_for_hosts(pool: MultiHostPool, *names: str) -> None:
    wait_until(lambda: usable(pool) == set(names), 100)  # two seconds; a busy machine takes its time to load Dask


def wait_for_state(pool: MultiHostPool, begins: str) -> None:
    wait_until(lambda: any(one.state.startswith(begins) for one in pool.hosts()), 100)


def submit(pool: MultiHostPool, seconds: float, within: float = 30.0) -> Future[ProofResult]:
    rows: Any = {"seconds": seconds}  # the pool only passes them on
    return pool.submit("c", rows, time.monotonic() + within)


def busy(pool: MultiHostPool) -> str:
    """The one host that proves."""
    wait_until(lambda: any(one.running for one in pool.hosts()))
    [name] = [one.name for one in pool.hosts() if one.running]
    return name


def prover_of(result: ProofResult) -> int:
    """The pid of the process that made the proof."""
    assert result.verified, result
    return int(result.detail)


def parents_of(*results: ProofResult) -> set[int]:
    return {psutil.Process(prover_of(one)).ppid() for one in results}


def test_both_hosts_prove_and_the_miners_own_does_not(pool: MultiHostPool, fleet: Fleet) -> None:
    answers = [submit(pool, 0.3) for _ in range(4)]
    hosts = parents_of(*(one.result(20) for one in answers))
    assert hosts == {fleet.processes[name].pid for name in PROVERS}
    assert pool.capacity()["workers"] == 1 + len(PROVERS)


def test_a_disconnected_caller_cancels_the_proof_on_the_host(pool: MultiHostPool, fleet: Fleet) -> None:
    answer = submit(pool, 60.0, within=100.0)
    host = psutil.Process(fleet.processes[busy(pool)].pid)
    provers = host.children()
    pool.cancel(answer)
    assert answer.result(5).failure is FailureKind.CANCELLED
    wait_until(lambda: not any(one.is_running() for one in provers))


def test_a_proof_of_a_killed_host_is_made_by_the_other(pool: MultiHostPool, fleet: Fleet, lost: list[str]) -> None:
    answer = submit(pool, 1.0)
    killed = busy(pool)
    [other] = set(PROVERS) - {killed}
    fleet.kill(killed)
    result = answer.result(20)
    assert parents_of(result) == {fleet.processes[other].pid}
    assert result.tries == 2
    assert usable(pool) == {other}
    fleet.start(killed)
    wait_for_hosts(pool, *PROVERS)


def test_a_paused_host_gets_no_work_until_it_answers_again(pool: MultiHostPool, fleet: Fleet, lost: list[str]) -> None:
    answer = submit(pool, 1.0)
    paused = busy(pool)
    [other] = set(PROVERS) - {paused}
    fleet.kill(paused, signal.SIGSTOP)
    try:
        assert parents_of(answer.result(20)) == {fleet.processes[other].pid}
        assert usable(pool) == {other}
        assert any(one.startswith(f"prover host {paused} (") and "did not answer" in one for one in lost)
    finally:
        fleet.kill(paused, signal.SIGCONT)
    wait_for_hosts(pool, *PROVERS)


def test_a_proof_that_cannot_be_made_again_in_time_fails_with_its_reason(pool: MultiHostPool, fleet: Fleet) -> None:
    answer = submit(pool, 60.0, within=LOST_SECONDS + 1.5)
    paused = busy(pool)
    fleet.kill(paused, signal.SIGSTOP)
    try:
        result = answer.result(20)
    finally:
        fleet.kill(paused, signal.SIGCONT)
    assert result.failure is FailureKind.WORKER_CRASHED
    assert f"prover host {paused} (" in result.detail


def test_without_the_scheduler_the_miner_proves_alone_until_it_is_back(pool: MultiHostPool, fleet: Fleet) -> None:
    in_progress = submit(pool, 0.5)
    busy(pool)
    workers = {one.pid for name in PROVERS for one in psutil.Process(fleet.processes[name].pid).children()}
    fleet.kill("scheduler")
    wait_until(lambda: all(one.left for one in pool.hosts() if one.address))
    assert parents_of(submit(pool, 0.0).result(10), in_progress.result(10)) == {os.getpid()}
    fleet.start("scheduler")
    wait_for_hosts(pool, *PROVERS)
    still = {one.pid for name in PROVERS for one in psutil.Process(fleet.processes[name].pid).children()}
    assert len(still & workers) >= 1, "the hosts' pools stayed warm"
    assert parents_of(submit(pool, 0.0).result(10)) <= {fleet.processes[name].pid for name in PROVERS}


def test_a_host_that_is_stopped_finishes_its_proofs(pool: MultiHostPool, fleet: Fleet) -> None:
    answer = submit(pool, 1.5)
    stopped = busy(pool)
    process = fleet.processes.pop(stopped)
    process.terminate()
    wait_until(lambda: stopped not in usable(pool))
    result = answer.result(10)
    assert (result.verified, result.tries) == (True, 1)
    assert process.wait(20) == 0


def test_a_certificate_of_the_fleets_ca_is_required(pool: MultiHostPool, fleet: Fleet) -> None:
    """Neither to the scheduler nor to a prover host; both listen on what they were told alone, and nothing else."""
    stranger = Authority().issue(fleet.place / "stranger")
    addresses = [fleet.scheduler_port, *(fleet.constants(name).provers.port for name in PROVERS)]
    for port in addresses:
        for certificate in (None, stranger):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if certificate:
                context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
            assert not answers(port, context), f"port {port} answered with {certificate}"
        assert not answers(port, None), f"port {port} answered unencrypted"
    ours = ssl.create_default_context(cafile=str(fleet.place / "p1/certificates/ca.pem"))
    ours.check_hostname = False
    ours.load_cert_chain(fleet.place / "p1/certificates/cert.pem", fleet.place / "p1/certificates/key.pem")
    assert all(answers(port, ours) for port in addresses), "the attempts above fail for their certificates alone"
    for name in ("scheduler", *PROVERS):
        sockets = psutil.Process(fleet.processes[name].pid).net_connections("tcp")
        listening = {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}, name


def answers(port: int, context: ssl.SSLContext | None) -> bool:
    """Whether a Dask server says anything to us: it greets every client that it lets in."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as plain:
        plain.settimeout(5 if context else 0.5)
        with context.wrap_socket(plain) if context else plain as connection:
            return bool(connection.recv(1))
    return False


def test_what_keeps_a_process_from_starting_is_one_clear_message(tmp_path: Path) -> None:
    """Told before Dask is loaded. The settings themselves refuse addresses off loopback without TLS."""
    fleet = Fleet(tmp_path)
    constants = fleet.constants("host")
    taken = socket.create_server(("127.0.0.1", fleet.scheduler_port))
    with taken, pytest.raises(OmronError, match=rf"cannot listen on 127\.0\.0\.1:{fleet.scheduler_port}: Address al"):
        run_scheduler(constants)
    without = constants.provers.model_copy(update={"certificate_directory": tmp_path / "none"})
    for run in (run_scheduler, run_worker):
        with pytest.raises(ConfigError, match=r"cannot read .*none/ca\.pem: No such file"):
            run(constants.model_copy(update={"provers": without}))


def test_a_host_of_another_release_works_for_a_miner_that_verifies_its_proofs_alone(tmp_path: Path) -> None:
    fleet, earlier = Fleet(tmp_path), tmp_path / "earlier"
    shutil.copytree(Path(omron_miner.__file__).parent, earlier / "omron_miner")
    with (earlier / "omron_miner/monitor/totals.py").open("a") as file:
        file.write("# as it was before\n")
    fleet.start("scheduler")
    fleet.start("p1", earlier)
    verify: Any = prover_work.verify
    try:
        for verifies in (False, True):
            constants = fleet.constants("miner")
            settings = constants.provers.model_copy(update={"verify_again": verifies})
            constants = constants.model_copy(update={"provers": settings})
            pool = MultiHostPool(
                constants,
                connect=DaskConnection(constants).run,
                work=sleeping(),
                verification=Work(prover_work.warm_up, verify),
                catalogue=OneCircuit(),
            )
            pool.start()
            try:
                if verifies:
                    wait_for_hosts(pool, "p1")
                    result = submit(pool, 0.1).result(20)
                    assert parents_of(result) == {fleet.processes["p1"].pid}
                    assert result.outputs == [2.0], "the outputs are what was verified here"
                else:
                    wait_for_state(pool, "it runs release")
            finally:
                pool.close(0)
    finally:
        fleet.stop()


def command(fleet: Fleet, name: str, *arguments: str) -> Any:
    """What `omron-miner provers` prints with the settings of a host of the fleet."""
    fleet.constants(name)
    settings = str(fleet.place / name / "constants.toml")
    done = subprocess.run(
        [*OMRON_MINER, "--config", settings, "provers", *arguments, "--json", "--timeout", "15"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_prover_host_copies_the_circuits_of_its_miner(fleet: Fleet, pool: MultiHostPool) -> None:
    """Whole, with their SRS, only what differs; what the miner has no more goes."""
    miners, own = fleet.known["scheduler"].circuits, fleet.constants("copier").circuits
    write_srs(miners.srs_directory)
    first, second = (write_circuit(miners.directory, digit) for digit in "ab")
    (first / "pk.key").write_bytes(VK + os.urandom(40 * 2**20))  # more than one part
    (own.directory / "model_left").mkdir(parents=True)
    found = command(fleet, "copier", "circuits")
    assert found == {"circuits": ["a" * 64, "b" * 64], "changed": True}
    assert contents(own.directory) == contents(miners.directory)
    assert [circuit.id for circuit in CircuitStore(fleet.constants("copier")).usable()] == found["circuits"]
    assert command(fleet, "copier", "circuits") == {**found, "changed": False}
    kept = (own.directory / first.name / "pk.key").stat().st_ino
    (first / "metadata.json").write_text((first / "metadata.json").read_text().replace("0.0.1", "0.0.2"))
    shutil.rmtree(second)
    assert command(fleet, "copier", "circuits") == {"circuits": ["a" * 64], "changed": True}
    assert contents(own.directory) == contents(miners.directory)
    assert (own.directory / first.name / "pk.key").stat().st_ino == kept, "what is the same is not sent again"


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.glob("model_*/*")}


def test_a_prover_host_reports_whether_it_proves(fleet: Fleet, pool: MultiHostPool) -> None:
    assert command(fleet, "p1", "check")["name"] == "p1"
    with pytest.raises(OmronError, match="is not connected to the scheduler"):
        own_report(fleet.constants("nobody"), 1.5)
