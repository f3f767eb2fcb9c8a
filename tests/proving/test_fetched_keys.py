"""A fetched key serves after a proof with it verified and never before; downloads resume. Real proofs."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from building import constants_below
from file_server import Handler, cut, honest, partial, serving
from omron_miner.building.build import Source
from omron_miner.building.sync import Synced, sync
from omron_miner.circuits.circuit_store import CircuitStore
from omron_miner.circuits.load import load_circuit
from omron_miner.files import sha256
from waiting import wait_until
from wire_miner import to_toml

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.constants import Constants

pytestmark = pytest.mark.slow


@pytest.fixture
def host(tmp_path: Path, proving_constants: Constants) -> Constants:
    """A host with the SRS but no circuit, which may fetch from this machine."""
    constants = constants_below(tmp_path / "host")
    allowed = {
        "srs_directory": proving_constants.circuits.srs_directory,
        "download_plain_http": True,
        "download_hosts": ("127.0.0.1",),
    }
    return constants.model_copy(update={"circuits": constants.circuits.model_copy(update=allowed)})


@pytest.fixture
def ship(host: Constants, tiny_circuit: Circuit) -> Callable[[str], Path]:
    """Puts the tiny circuit on the host as validators ship circuits: without pk.key, whose address is given."""

    def place(url: str) -> Path:
        directory = host.circuits.directory / tiny_circuit.directory.name
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(tiny_circuit.directory, directory)
        for name in ("pk.key", "checksums.json", "build.json", "input.json"):
            (directory / name).unlink()
        metadata = json.loads((directory / "metadata.json").read_text())
        (directory / "metadata.json").write_text(json.dumps({**metadata, "external_files": {"pk.key": url}}))
        return directory

    return place


def synced(host: Constants) -> Synced:
    report = sync(host, (), Source())
    assert report.refused == {}
    [one] = report.circuits
    return one


def refusal(host: Constants) -> str:
    [reason] = sync(host, (), Source()).refused.values()
    return reason


def left(host: Constants) -> list[str]:
    return sorted(path.name for path in host.circuits.directory.glob(".sync-*/*") if path.name != "lock")


def test_a_key_is_downloaded_proved_recorded_and_then_left_alone(
    host: Constants, ship: Callable[[str], Path], tiny_circuit: Circuit
) -> None:
    key = tiny_circuit.pk.read_bytes()
    with serving(key, cut(2_000_000)) as server:
        directory = ship(server.url)
        assert "circuit sync" in CircuitStore(host).refused()[directory.name]
        first = synced(host)
        asked = len(server.requests)
        second = synced(host)
    assert (first.changed, first.received_bytes, first.key_sha256) == (True, len(key), sha256(tiny_circuit.pk))
    assert first.proof["prove_s"] > 0
    assert (second.changed, second.received_bytes, len(server.requests)) == (False, 0, asked)
    recorded = json.loads((directory / "checksums.json").read_text())["pk.key"]
    assert recorded == {"bytes": len(key), "sha256": first.key_sha256}
    assert (directory / "pk.key").read_bytes() == key
    assert CircuitStore(host).ids() == [tiny_circuit.id]
    assert list(host.circuits.directory.glob(".sync-*")) == []


def test_only_the_srs_that_the_circuit_needs_is_made(
    host: Constants, ship: Callable[[str], Path], tiny_circuit: Circuit, tmp_path: Path
) -> None:
    alone = host.circuits.model_copy(update={"srs_directory": tmp_path / "srs"})
    with serving(tiny_circuit.pk.read_bytes()) as server:
        ship(server.url)
        report = sync(host.model_copy(update={"circuits": alone}), (), Source())
    assert {path.name for path in (tmp_path / "srs").glob("kzg*")} == {"kzg11.srs", "kzg11.srs.json"}
    # Keys made with another SRS prove nothing: this one's was made here, so the circuit is refused, and says so.
    assert "could not be proved and verified" in str(report.refused)


def spoilt(key: bytes) -> bytes:
    """Of the same size and beginning: only a proof can detect it."""
    middle = len(key) // 2
    return key[:middle] + bytes(byte ^ 0x55 for byte in key[middle : middle + 4096]) + key[middle + 4096 :]


def test_a_broken_key_is_never_used_and_a_repaired_one_is(
    host: Constants, ship: Callable[[str], Path], tiny_circuit: Circuit
) -> None:
    key = tiny_circuit.pk.read_bytes()
    with serving(spoilt(key)) as server:
        directory = ship(server.url)
        assert "the downloaded pk.key is not used" in refusal(host)
        assert not (directory / "pk.key").exists()
        assert not (directory / "checksums.json").exists()
        assert CircuitStore(host).ids() == []
        server.content, server.etag = key, '"two"'
        assert synced(host).key_sha256 == sha256(tiny_circuit.pk)


def test_a_corrupt_part_is_downloaded_once_more_from_the_first_byte(
    host: Constants, ship: Callable[[str], Path], tiny_circuit: Circuit
) -> None:
    key = tiny_circuit.pk.read_bytes()
    with serving(spoilt(key)) as server:
        ship(server.url)
        refusal(host)
        server.content = key  # the same size and ETag: the server knows of no change
        one = synced(host)
    assert one.received_bytes == len(key)
    assert one.key_sha256 == sha256(tiny_circuit.pk)


def test_another_circuits_key_is_refused_by_its_first_bytes(
    host: Constants, ship: Callable[[str], Path], altered_circuit: Circuit
) -> None:
    with serving(altered_circuit.pk.read_bytes()) as server:
        ship(server.url)
        assert "is not this circuit's pk.key" in refusal(host)
    assert left(host) == []


def test_a_key_cut_short_by_an_earlier_download_is_replaced(
    host: Constants, ship: Callable[[str], Path], tiny_circuit: Circuit
) -> None:
    key = tiny_circuit.pk.read_bytes()
    with serving(key) as server:
        (ship(server.url) / "pk.key").write_bytes(key[: len(key) // 3])
        assert synced(host).received_bytes == len(key)


def test_a_complete_copied_key_is_proved_and_not_downloaded(
    host: Constants, ship: Callable[[str], Path], tiny_circuit: Circuit
) -> None:
    with serving(b"") as server:
        shutil.copy(tiny_circuit.pk, ship(server.url))
        one = synced(host)
    assert (one.changed, one.received_bytes, server.requests) == (True, 0, [])


def test_a_recorded_key_is_proved_again_on_request_and_replaced_if_corrupt(
    host: Constants, ship: Callable[[str], Path], tiny_circuit: Circuit
) -> None:
    key = tiny_circuit.pk.read_bytes()
    with serving(key) as server:
        directory = ship(server.url)
        synced(host)
        [again] = sync(host, (), Source(), prove=True).circuits
        assert (again.changed, again.received_bytes) == (False, 0)
        assert again.proof["prove_s"] > 0
        (directory / "pk.key").write_bytes(spoilt(key))
        [mended] = sync(host, (), Source(), prove=True).circuits
    assert (mended.changed, mended.received_bytes) == (True, len(key))
    assert (directory / "pk.key").read_bytes() == key


def test_a_key_that_is_not_the_one_on_record_is_refused(
    host: Constants, ship: Callable[[str], Path], tiny_circuit: Circuit
) -> None:
    with serving(tiny_circuit.pk.read_bytes()) as server:
        directory = ship(server.url)
        record = json.loads((tiny_circuit.directory / "checksums.json").read_text())
        record["metadata.json"] = {
            "bytes": (directory / "metadata.json").stat().st_size,
            "sha256": sha256(directory / "metadata.json"),
        }
        record["pk.key"]["sha256"] = "0" * 64
        (directory / "checksums.json").write_text(json.dumps(record))
        assert "pk.key is not the file checksums.json was made for" in refusal(host)
        assert not (directory / "pk.key").exists()


def test_without_an_srs_to_prove_with_the_key_waits(
    host: Constants, ship: Callable[[str], Path], tiny_circuit: Circuit
) -> None:
    real = host.model_copy(update={"network": host.network.model_copy(update={"name": "finney"})})
    with serving(tiny_circuit.pk.read_bytes()) as server:
        directory = ship(server.url)
        assert "is not a trusted SRS" in refusal(real)
        assert not (directory / "pk.key").exists()
        assert synced(host).received_bytes == 0, "it was here already, only not proved"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_its_part_to_the_next(
    host: Constants, ship: Callable[[str], Path], tiny_circuit: Circuit, tmp_path: Path, how: signal.Signals
) -> None:
    key = tiny_circuit.pk.read_bytes()
    half, ended = threading.Event(), threading.Event()

    def half_of_it(handler: Handler) -> None:
        partial(handler, len(key) // 2)
        half.set()
        ended.wait(30)

    config = tmp_path / "constants.toml"
    config.write_text(to_toml(host))
    command = [sys.executable, "-m", "omron_miner", "--config", str(config), "circuit", "sync", "--json"]
    with serving(key, half_of_it, honest) as server:
        directory = ship(server.url)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            assert half.wait(30)
            part = host.circuits.directory / f".sync-{directory.name}" / "pk.key"
            wait_until(lambda: part.exists() and part.stat().st_size == len(key) // 2)
            process.send_signal(how)
            assert process.wait(10) != 0
        ended.set()
        assert not (directory / "pk.key").exists()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert server.ranges == [None, f"bytes={len(key) // 2}-"]
    report: dict[str, Any] = json.loads(done.stdout)
    assert [one["key_bytes"] for one in report["circuits"]] == [len(key)]
    assert "MiB downloaded" in done.stderr
    assert load_circuit(directory).id == tiny_circuit.id


def test_the_command_reports_refusals_and_fails(host: Constants, tmp_path: Path) -> None:
    (host.circuits.directory / ("model_" + "0" * 64)).mkdir(parents=True)
    config = tmp_path / "constants.toml"
    config.write_text(to_toml(host))
    command = [sys.executable, "-m", "omron_miner", "--config", str(config), "circuit", "sync"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "REFUSED" in done.stdout
    assert "metadata.json is missing" in done.stdout
