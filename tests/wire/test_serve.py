"""`omron-miner serve` and `omron-miner query` as processes, the way a host runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from omron_miner.events import FailureKind, LifecycleEvent, RequestEvent
from ports import free_port
from waiting import wait_until
from wire_miner import VALIDATOR, constants_in, events_of, serving, session_files, to_toml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.constants import Constants

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny_circuit")]  # built before anything is served


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, proving_constants: Constants) -> Iterator[Constants]:
    constants = constants_in(tmp_path_factory.mktemp("served"), proving_constants.circuits)
    with serving(constants):
        yield constants


def command(constants: Constants, *arguments: str) -> subprocess.CompletedProcess[str]:
    config = constants.log.directory / "asking.toml"
    config.write_text(to_toml(constants))
    whole = [sys.executable, "-m", "omron_miner", "--config", str(config), *arguments]
    return subprocess.run(whole, capture_output=True, text=True, timeout=100, check=False)


def life(constants: Constants) -> list[str]:
    return [event.what for event in events_of(constants) if isinstance(event, LifecycleEvent)]


def refuses_to_serve(constants: Constants) -> str:
    done = command(constants, "serve")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("transport", ["axon", "http"])
def test_the_health_gate_gets_a_verified_proof(served: Constants, tiny_circuit: Circuit, transport: str) -> None:
    done = command(served, "query", "--json", "--transport", transport)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["status"], report["verified"], report["circuit_id"]) == (200, True, tiny_circuit.id)
    assert len(report["outputs"]) == sum(tiny_circuit.settings.output_sizes)
    assert 0 < report["round_trip_s"] < 90


def test_the_text_report_has_the_same_content(served: Constants, tiny_circuit: Circuit, tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_text('{"input_data": [[0.5, -0.5, 0.25, 0.125]]}')
    done = command(served, "query", "--circuit", tiny_circuit.name, "--input", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "VERIFIED" in done.stdout
    assert "round trip" in done.stdout


@pytest.mark.parametrize("transport", ["axon", "http"])
def test_an_unauthorised_hotkey_is_reported(served: Constants, tmp_path: Path, transport: str) -> None:
    stranger = constants_in(tmp_path, served.circuits)
    [hotkey] = [json.loads(command(served, "hotkey", "show", "--json").stdout)["ss58"]]
    port = str(served.axon.port)
    done = command(stranger, "query", "--port", port, "--miner-hotkey", hotkey, "--transport", transport)
    assert done.returncode == 1
    assert "Hotkey is not registered" in done.stdout
    assert "omron_local_validator_hotkeys" in done.stderr


@pytest.mark.parametrize("transport", ["axon", "http"])
def test_a_request_with_another_miners_hotkey_is_reported(served: Constants, transport: str) -> None:
    done = command(served, "query", "--json", "--transport", transport, "--miner-hotkey", VALIDATOR.ss58_address)
    assert (done.returncode, json.loads(done.stdout)["status"]) == (1, 401)
    assert "--miner-hotkey" in done.stderr


@pytest.mark.parametrize("transport", ["axon", "http"])
def test_a_closed_port_is_reported(served: Constants, transport: str) -> None:
    done = command(served, "query", "--json", "--transport", transport, "--port", str(free_port()))
    assert (done.returncode, json.loads(done.stdout)["status"]) == (1, 503)
    assert "is the miner up" in done.stderr


@pytest.mark.parametrize("transport", ["axon", "http"])
def test_a_timeout_is_reported(served: Constants, transport: str) -> None:
    done = command(served, "query", "--json", "--transport", transport, "--timeout", "0.02")
    assert (done.returncode, json.loads(done.stdout)["status"]) == (1, 408)


def test_a_second_miner_on_the_port_fails_and_starts_nothing(served: Constants, tmp_path: Path) -> None:
    second = constants_in(tmp_path, served.circuits).model_copy(update={"axon": served.axon})
    assert "cannot open the axon's port" in refuses_to_serve(second)
    assert life(second) == []


def test_a_miner_without_a_usable_circuit_reports_why(tmp_path: Path, proving_constants: Constants) -> None:
    folder = tmp_path / "circuits" / ("model_" + "0" * 64)
    folder.mkdir(parents=True)
    circuits = proving_constants.circuits.model_copy(update={"directory": folder.parent})
    assert "metadata.json is missing" in refuses_to_serve(constants_in(tmp_path, circuits))


def test_a_miner_without_the_srs_of_its_circuit_reports_it(tmp_path: Path, proving_constants: Constants) -> None:
    circuits = proving_constants.circuits.model_copy(update={"srs_directory": tmp_path})
    assert "SRS" in refuses_to_serve(constants_in(tmp_path, circuits))


def test_a_coldkey_next_to_the_hotkey_is_refused(tmp_path: Path, proving_constants: Constants) -> None:
    constants = constants_in(tmp_path, proving_constants.circuits)
    (constants.wallet.directory / "coldkey").write_text("{}")
    assert "coldkey" in refuses_to_serve(constants)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_quick_honest_and_leaves_nothing(
    tmp_path: Path, proving_constants: Constants, number: signal.Signals
) -> None:
    constants = constants_in(tmp_path, proving_constants.circuits)
    with serving(constants) as process:
        workers = psutil.Process(process.pid).children(recursive=True)
        asking = ask_in_the_background(constants)
        wait_until(lambda: session_files(constants), 30)
        began = time.monotonic()
        for one in (psutil.Process(process.pid), *workers):  # pm2 and a terminal signal the whole tree
            one.send_signal(number)
        assert process.wait(5) == 0
        assert time.monotonic() - began < 3, "pm2 would have killed it"
        assert process.stderr is not None
        assert "leaked" not in process.stderr.read()
        asking.wait(30)
    assert life(constants) == ["started", "stopping", "stopped"]
    [request] = [event for event in events_of(constants) if isinstance(event, RequestEvent)]
    assert request.verified or request.failure is FailureKind.STOPPING
    assert session_files(constants) == []
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)


def ask_in_the_background(constants: Constants) -> subprocess.Popen[bytes]:
    config = constants.log.directory / "constants.toml"
    arguments = [sys.executable, "-m", "omron_miner", "--config", str(config), "query", "--json"]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_killed_miner_takes_its_workers_along_and_the_next_one_sweeps(
    tmp_path: Path, proving_constants: Constants
) -> None:
    constants = constants_in(tmp_path, proving_constants.circuits)
    with serving(constants) as process:
        workers = psutil.Process(process.pid).children(recursive=True)
        asking = ask_in_the_background(constants)
        wait_until(lambda: session_files(constants), 30)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        asking.wait(30)
    wait_until(lambda: not any(worker.is_running() for worker in workers))
    assert session_files(constants), "nothing was left for the next one to sweep"
    with serving(constants) as process:
        assert session_files(constants) == []
        assert process.poll() is None
