"""What goes wrong on a host, done to a real miner: the request it hits may fail, all others are served."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bittensor
import psutil
import pytest

from isolated_work import FULL_SHM
from omron_miner.chain.wallet import read_address
from omron_miner.events import FailureKind, LifecycleEvent
from omron_miner.serving.protocol import QueryForCapacities, QueryZkProof
from waiting import wait_until
from wire_miner import (
    OMRON_MINER,
    OTHER_VALIDATOR,
    VALIDATOR,
    Caller,
    Miner,
    constants_in,
    events_of,
    row_of,
    running,
    serving,
    session_files,
    workers_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.constants import Circuits, Constants

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PATIENCE = 300.0
"""Seconds a caller waits who wants to see every answer, on a machine that is slow and shared."""


@pytest.fixture(scope="module")
def own_circuits(
    tmp_path_factory: pytest.TempPathFactory, proving_constants: Constants, tiny_circuit: Circuit
) -> Circuits:
    """The tiny circuit in a folder of circuits that a test may corrupt."""
    directory = tmp_path_factory.mktemp("circuits")
    shutil.copytree(tiny_circuit.directory, directory / tiny_circuit.directory.name)
    return proving_constants.circuits.model_copy(update={"directory": directory})


@pytest.fixture(scope="module")
def shared_miner(
    tmp_path_factory: pytest.TempPathFactory, own_circuits: Circuits, tiny_circuit: Circuit
) -> Iterator[Miner]:
    constants = constants_in(
        tmp_path_factory.mktemp("faults"), own_circuits, circuit_timeout_seconds=PATIENCE, external_queue_seconds=250.0
    )
    with running(constants, tiny_circuit) as made:
        yield made


@pytest.fixture
def miner(shared_miner: Miner) -> Iterator[Miner]:
    """The shared miner, which must be as good as new after each test."""
    yield shared_miner
    shared_miner.settle()
    wait_until(lambda: shared_miner.pool.capacity()["ready"] == 1, 60)
    row = row_of(shared_miner.circuit, 99)
    [answer] = shared_miner.ask_for_proof(row, timeout=PATIENCE)
    assert shared_miner.verified(row, answer.query_output), "the next request after the fault"
    wait_until(lambda: session_files(shared_miner.constants) == [])


def caller_of(constants: Constants, circuit: Circuit) -> Caller:
    """Sends requests to a miner in a separate process."""
    return Caller(constants, read_address(constants.wallet), circuit)


def query(circuit_id: str, row: list[Any]) -> QueryZkProof:
    return QueryZkProof(query_input={"public_inputs": {"x": row}, "model_id": circuit_id}, query_output="")


def lives(constants: Constants) -> list[str]:
    return [event.what for event in events_of(constants) if isinstance(event, LifecycleEvent)]


# --- circuits gone bad ------------------------------------------------------------------------------------------------


def truncate(folder: Path, _twin: Path) -> None:
    """As a disk that was full while the key was copied."""
    with (folder / "pk.key").open("r+b") as key:
        key.truncate((folder / "pk.key").stat().st_size // 2)


def truncate_unrecorded(folder: Path, twin: Path) -> None:
    """The same to a circuit without checksums, as validators ship it: only EZKL notices."""
    (folder / "checksums.json").unlink()
    truncate(folder, twin)


def break_a_length(folder: Path, _twin: Path) -> None:
    """A text in the compiled model claims to be 2^62 bytes long: EZKL aborts its process."""
    (folder / "checksums.json").unlink()
    content = bytearray((folder / "model.compiled").read_bytes())
    at = content.index(b"k,nk->mn")
    content[at - 8 : at] = (1 << 62).to_bytes(8, "little")
    (folder / "model.compiled").write_bytes(content)


def swap_vk(folder: Path, twin: Path) -> None:
    (folder / "checksums.json").unlink()
    shutil.copyfile(twin / "vk.key", folder / "vk.key")


def swap_vk_and_hide_it(folder: Path, twin: Path) -> None:
    """The other key also at the head of pk.key, so that the two seem to belong together."""
    own = (folder / "vk.key").read_bytes()
    swap_vk(folder, twin)
    key = (folder / "pk.key").read_bytes()
    (folder / "pk.key").write_bytes((twin / "vk.key").read_bytes() + key[len(own) :])


def change_version(folder: Path, _twin: Path) -> None:
    settings = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps({**settings, "version": "23.0.5"}))


@pytest.mark.parametrize(
    ("spoil", "failure", "reply", "tries", "logged"),
    [
        (truncate, FailureKind.UNKNOWN_CIRCUIT, "Circuit not found", 0, "pk.key has"),
        (swap_vk, FailureKind.UNKNOWN_CIRCUIT, "Circuit not found", 0, "do not belong together"),
        (change_version, FailureKind.UNKNOWN_CIRCUIT, "Circuit not found", 0, "was made by EZKL 23.0.5"),
        (truncate_unrecorded, FailureKind.PROVING_FAILED, "An error occurred", 1, "failed to load pk"),
        (break_a_length, FailureKind.WORKER_CRASHED, "An error occurred", 2, "model.compiled"),
        (swap_vk_and_hide_it, FailureKind.VERIFICATION_FAILED, "An error occurred", 2, "Proof verification failed"),
    ],
)
def test_a_corrupt_circuit_fails_only_its_own_requests(
    miner: Miner,
    altered_circuit: Circuit,
    spoil: Callable[[Path, Path], None],
    failure: FailureKind,
    reply: str,
    tries: int,
    logged: str,
) -> None:
    before, said, lost = len(miner.requests()), len(log_of(miner)), lives(miner.constants).count("worker_lost")
    row, spoilt_id = row_of(miner.circuit, 1), "bad" * 21 + "0"
    folder = miner.constants.circuits.directory / f"model_{spoilt_id}"
    shutil.copytree(miner.circuit.directory, folder)
    try:
        spoil(folder, altered_circuit.directory)
        asked = [query(spoilt_id, row), query(miner.circuit.id, row)]
        spoilt, good = miner.ask(*asked, by=[OTHER_VALIDATOR, VALIDATOR], timeout=PATIENCE)
        miner.settle()
    finally:
        shutil.rmtree(folder)
    assert (spoilt.dendrite.status_code, spoilt.query_output) == (200, reply), "nothing unverified, nothing secret"
    assert miner.verified(row, good.query_output)
    events = {event.circuit_id: event for event in miner.requests()[before:]}
    assert (events[spoilt_id].failure, events[spoilt_id].tries) == (failure, tries)
    assert logged in log_of(miner)[said:]
    crashes = 2 * int(failure is FailureKind.WORKER_CRASHED)  # each request is tried twice
    assert lives(miner.constants).count("worker_lost") == lost + crashes


def log_of(miner: Caller) -> str:
    return miner.constants.log.miner_log.read_text(encoding="utf-8")


def test_a_worker_killed_while_proving_costs_neither_its_request_nor_the_waiting_one(miner: Miner) -> None:
    before, rows = len(miner.requests()), [row_of(miner.circuit, seed) for seed in (7, 8)]
    said = len(log_of(miner))
    with ThreadPoolExecutor() as threads:
        asking = threads.submit(miner.ask_for_proof, *rows, by=[VALIDATOR, OTHER_VALIDATOR], timeout=PATIENCE)
        ram = miner.constants.sessions.directory
        wait_until(lambda: list(ram.glob("session-*/step")) and miner.pool.capacity()["queued"] == 1, 60)
        [session] = session_files(miner.constants)
        os.kill(int(session.name.split("-")[1]), signal.SIGKILL)  # the process that made it
        answers = asking.result()
    miner.settle()
    events = miner.requests()[before:]
    assert sorted(event.tries for event in events) == [1, 2]
    [line] = [line for line in log_of(miner)[said:].splitlines() if "Retrying a proof of" in line]
    assert str(miner.constants.circuits.directory) in line, "the log does not name the files it had open"
    assert all(miner.verified(row, answer.query_output) for row, answer in zip(rows, answers, strict=True))


# --- too much at once -------------------------------------------------------------------------------------------------


def test_many_concurrent_requests_are_all_answered_and_the_axon_keeps_serving(miner: Miner, long_forms: bool) -> None:
    count = 50 if long_forms else 20
    before, rows = len(miner.requests()), [row_of(miner.circuit, seed) for seed in range(count)]
    with ThreadPoolExecutor() as threads:
        asking = threads.submit(miner.ask_for_proof, *rows, timeout=PATIENCE)
        wait_until(lambda: miner.pool.capacity()["queued"] > 0.8 * count, 60)
        capacities = miner.ask(QueryForCapacities())[0].capacities
        assert miner.pool.capacity()["queued"] > 0, "they were not waiting while we asked"
        answers = asking.result()
    assert capacities == {miner.circuit.id: 1}
    assert [answer.dendrite.status_code for answer in answers] == [200] * count
    replies = [json.loads(answer.query_output) for answer in answers]
    assert len({reply["public_signals"] for reply in replies}) == count, "each has its own inputs in it"
    for index in (0, count // 2, count - 1):
        assert miner.verified(rows[index], answers[index].query_output)
    miner.settle()
    assert [event.verified for event in miner.requests()[before:]] == [True] * count


def test_four_concurrent_requests_are_all_proved_though_none_may_wait(
    tmp_path: Path, proving_constants: Constants, tiny_circuit: Circuit
) -> None:
    """Rather than refuse the later ones the miner proves them next to the first, since there is time for all."""
    constants = constants_in(
        tmp_path, proving_constants.circuits, circuit_timeout_seconds=PATIENCE, external_queue_seconds=0.1
    )
    constants = constants.model_copy(update={"prover": constants.prover.model_copy(update={"workers": 4})})
    rows = [row_of(tiny_circuit, seed) for seed in range(4)]
    with running(constants, tiny_circuit) as miner:
        [first] = miner.ask_for_proof(row_of(tiny_circuit, 9), timeout=PATIENCE)  # it is known now what a proof takes
        assert first.dendrite.status_code == 200
        answers = miner.ask_for_proof(*rows, timeout=PATIENCE)
        assert all(miner.verified(row, answer.query_output) for row, answer in zip(rows, answers, strict=True))


def test_small_requests_are_answered_while_proofs_run(miner: Miner) -> None:
    """They do not wait for a proof: of each kind more are answered while the four proofs run than there are proofs."""
    rows = [row_of(miner.circuit, seed) for seed in range(4)]
    answered = {"Synapse": 0, "QueryForCapacities": 0}
    with ThreadPoolExecutor() as threads:
        asking = threads.submit(miner.ask_for_proof, *rows, by=[VALIDATOR, OTHER_VALIDATOR] * 2, timeout=PATIENCE)
        while not asking.done():
            for synapse in (bittensor.Synapse(), QueryForCapacities()):
                [answer] = miner.ask(synapse)
                assert answer.dendrite.status_code == 200
                answered[type(synapse).__name__] += miner.pool.capacity()["proving"] > 0
        for row, answer in zip(rows, asking.result(), strict=True):
            assert miner.verified(row, answer.query_output)
    assert min(answered.values()) > len(rows), answered


# --- the RAM disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_ram_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 16 MiB, apart from the host's own."""
    if os.geteuid() != 0:
        pytest.skip("mounting a RAM disk takes root: run bin/test with sudo")
    place = tmp_path / "small"
    place.mkdir()
    command: list[str | Path] = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=0700", "tmpfs", place]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a RAM disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@contextmanager
def watching(*directories: Path) -> Iterator[set[Path]]:
    """The directories in which sessions appear within the context."""
    seen: set[Path] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.005):
            seen.update(directory for directory in directories if any(directory.glob("session-*")))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def prove_and_watch(miner: Caller, seeds: range) -> set[Path]:
    sessions = miner.constants.sessions
    with watching(sessions.directory, sessions.fallback_directory) as seen:
        for seed in seeds:
            row = row_of(miner.circuit, seed)
            [answer] = miner.ask_for_proof(row, timeout=PATIENCE)
            assert miner.verified(row, answer.query_output)
    return seen


def with_ram_disk(constants: Constants, directory: Path, minimum_free_bytes: int) -> Constants:
    update = {"directory": directory, "minimum_free_bytes": minimum_free_bytes}
    return constants.model_copy(update={"sessions": constants.sessions.model_copy(update=update)})


def fill_up(filler: Path) -> None:
    """Writes until nothing more fits."""
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1 << 20)):
            pass
    assert shutil.disk_usage(filler.parent).free < 1 << 20


def test_a_full_ram_disk_moves_sessions_to_the_disk_and_back(
    tmp_path: Path, proving_constants: Constants, tiny_circuit: Circuit, small_ram_disk: Path
) -> None:
    constants = with_ram_disk(constants_in(tmp_path, proving_constants.circuits), small_ram_disk / "ram", 1 << 20)
    sessions, line = constants.sessions, f"RAM disk {small_ram_disk / 'ram'} cannot be used"
    with running(constants, tiny_circuit) as miner:
        assert prove_and_watch(miner, range(1)) == {sessions.directory}
        filler = small_ram_disk / "filler"
        fill_up(filler)
        assert prove_and_watch(miner, range(1, 4)) == {sessions.fallback_directory}
        assert log_of(miner).count(line) == 1
        filler.unlink()
        assert prove_and_watch(miner, range(4, 6)) == {sessions.directory}
        assert log_of(miner).count(line) == 1
        wait_until(lambda: session_files(constants) == [])


@pytest.mark.parametrize("left", [0, 8192, *(pytest.param(left, marks=pytest.mark.long) for left in (4096, 16384))])
def test_a_ram_disk_that_fills_up_during_a_request_costs_no_request(
    tmp_path: Path, proving_constants: Constants, tiny_circuit: Circuit, small_ram_disk: Path, left: int
) -> None:
    constants = with_ram_disk(constants_in(tmp_path, proving_constants.circuits), small_ram_disk / "ram", 0)
    with running(constants, tiny_circuit) as miner:
        fill_up(small_ram_disk / "filler")
        with (small_ram_disk / "filler").open("r+b") as filler:
            filler.truncate(filler.seek(0, os.SEEK_END) - left)
        row = row_of(tiny_circuit, 1)
        [answer] = miner.ask_for_proof(row, timeout=PATIENCE)
        assert miner.verified(row, answer.query_output)
        assert log_of(miner).count(f"RAM disk {small_ram_disk / 'ram'} cannot be used") == 1


def test_without_a_ram_disk_sessions_go_to_the_disk(
    tmp_path: Path, proving_constants: Constants, tiny_circuit: Circuit
) -> None:
    (tmp_path / "no-directory").touch()
    directory = tmp_path / "no-directory" / "ram"
    constants = with_ram_disk(constants_in(tmp_path, proving_constants.circuits), directory, 1 << 20)
    with serving(constants):
        caller = caller_of(constants, tiny_circuit)
        assert prove_and_watch(caller, range(2)) == {constants.sessions.fallback_directory}
        assert log_of(caller).count(f"RAM disk {directory} cannot be used") == 1
    assert list(constants.sessions.fallback_directory.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a RAM disk takes root")
def test_a_miner_starts_proves_and_replaces_its_worker_while_others_fill_dev_shm(
    tmp_path: Path, proving_constants: Constants, tiny_circuit: Circuit
) -> None:
    constants = constants_in(tmp_path, proving_constants.circuits)
    constants = with_ram_disk(constants, Path("/dev/shm/omron-miner"), 0)
    update = constants.prover.model_copy(update={"recycle_after_tasks": 1})
    constants = constants.model_copy(update={"prover": update})
    with serving(constants, [*FULL_SHM, *OMRON_MINER]) as process:
        caller, first = caller_of(constants, tiny_circuit), workers_of(psutil.Process(process.pid))
        wait_until(lambda: caller_proves(caller) and workers_of(psutil.Process(process.pid)) not in (first, []), 60)
    assert "Traceback" not in log_of(caller)
    assert log_of(caller).count("RAM disk /dev/shm/omron-miner cannot be used") >= 1


def caller_proves(caller: Caller) -> bool:
    row = row_of(caller.circuit, 3)
    [answer] = caller.ask_for_proof(row, timeout=PATIENCE)
    return caller.verified(row, answer.query_output)


# --- stopping ---------------------------------------------------------------------------------------------------------


def connections(process: psutil.Process, port: int) -> int:
    """How many callers it has taken in."""
    return sum(
        one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port for one in process.net_connections("tcp")
    )


@pytest.mark.parametrize(("stop_seconds", "requests"), [(120.0, 12), (4.0, 60)])
def test_a_stop_while_proofs_run_answers_every_caller(
    tmp_path: Path, proving_constants: Constants, tiny_circuit: Circuit, stop_seconds: float, requests: int
) -> None:
    """Time for all: all are served. Time for some: the rest are told. Nobody new is let in, and it ends with 0."""
    constants = constants_in(tmp_path, proving_constants.circuits, stop_seconds=stop_seconds)
    rows = [row_of(tiny_circuit, seed) for seed in range(requests)]
    with serving(constants) as process, ThreadPoolExecutor() as threads:
        caller = caller_of(constants, tiny_circuit)
        parent = psutil.Process(process.pid)
        asking = threads.submit(caller.ask_for_proof, *rows, timeout=PATIENCE)
        wait_until(lambda: connections(parent, constants.axon.port) == requests, 60)
        wait_until(caller.requests, 60)  # the first was proved; the others were sent together with it
        for one in (parent, *parent.children(recursive=True)):  # pm2 signals the whole tree
            one.terminate()
        wait_until(lambda: "stopping" in lives(constants), 60)
        [late] = caller.ask_for_proof(rows[0])
        answers = asking.result()
        assert process.wait(stop_seconds + 30) == 0
    refused = late.dendrite.status_code == 503  # the port was closed by then
    assert refused or late.query_output == "The miner is stopping"
    assert {answer.dendrite.status_code for answer in answers} == {200}
    told = [answer.query_output == "The miner is stopping" for answer in answers]
    proved = [(row, answer) for row, answer, stopped in zip(rows, answers, told, strict=True) if not stopped]
    assert any(told) == (requests == 60)
    assert proved
    assert caller.verified(proved[0][0], proved[0][1].query_output)
    counted = [not stopped for stopped in told] + ([] if refused else [False])
    assert sorted(event.verified for event in caller.requests()) == sorted(counted)
    assert lives(constants) == ["started", "stopping", "stopped"]
    assert session_files(constants) == []


# --- the long run -----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(1200)
def test_memory_is_flat_over_many_proofs(
    tmp_path: Path, proving_constants: Constants, tiny_circuit: Circuit, long_forms: bool
) -> None:
    """Resident memory of the miner and its worker: the median of the last 20 proofs within 5 % of that of 21 to 40.

    60 proofs, with --long 200.

    A worker is replaced every 10 proofs, and grows from its first proof to its last: medians over two such cycles
    compare like with like. While the next worker warms up there are two; those samples are left out.
    """
    constants = constants_in(tmp_path, proving_constants.circuits)
    resident: list[int | None] = []
    count = 200 if long_forms else 60
    with serving(constants) as process:
        caller, parent = caller_of(constants, tiny_circuit), psutil.Process(process.pid)
        for seed in range(count):
            [answer] = caller.ask_for_proof(row_of(tiny_circuit, seed), timeout=PATIENCE)
            assert "proof" in json.loads(answer.query_output)
            resident.append(_resident_with_one_worker(parent))
    early, late = (sorted(filter(None, part)) for part in (resident[20:40], resident[-20:]))
    assert min(len(early), len(late)) >= 8, "too few samples with one worker to compare"
    first, last = statistics.median(early), statistics.median(late)
    print(f"resident memory {first / 2**20:.1f} MiB after 20 proofs, {last / 2**20:.1f} MiB after {count}")
    assert last <= 1.05 * first, f"{first / 2**20:.1f} MiB after 20 proofs, {last / 2**20:.1f} MiB after {count}"


def _resident_with_one_worker(miner: psutil.Process) -> int | None:
    """Bytes; None when there is more than one worker, or the one goes just now."""
    workers = workers_of(miner)
    with suppress(psutil.NoSuchProcess):
        if len(workers) == 1:
            return int(miner.memory_info().rss) + int(workers[0].memory_info().rss)
    return None
