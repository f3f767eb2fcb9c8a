"""Circuits that may not serve are refused before a byte of their key is fetched. Real proofs: tests/proving."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from building import constants_below
from circuit_folders import VK, write_circuit
from file_server import Handler, partial, serving, status
from omron_miner.building.build import Source
from omron_miner.building.sync import SyncReport, rules_of, sync, to_text
from omron_miner.circuits.checksums import write_checksums
from omron_miner.circuits.srs import srs_path
from omron_miner.constants import Circuits
from omron_miner.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from file_server import FileServer
    from omron_miner.constants import Constants

A, B = "a" * 64, "b" * 64


@pytest.fixture
def constants(tmp_path: Path) -> Constants:
    plain = constants_below(tmp_path)
    allowed = {
        "download_hosts": ("127.0.0.1",),
        "download_plain_http": True,
    }
    return plain.model_copy(update={"circuits": plain.circuits.model_copy(update=allowed)})


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(VK + b"proving key") as server:
        yield server


def keyless(constants: Constants, url: str, digit: str = "a", **settings: Any) -> Path:
    directory = write_circuit(constants.circuits.directory, digit, {"external_files": {"pk.key": url}}, **settings)
    (directory / "pk.key").unlink()
    return directory


def refusal(constants: Constants, *wanted: str) -> str:
    [reason] = sync(constants, wanted, Source()).refused.values()
    return reason


def with_circuits(constants: Constants, **circuits: Any) -> Constants:
    return constants.model_copy(update={"circuits": constants.circuits.model_copy(update=circuits)})


def write_untrusted_srs(constants: Constants) -> None:
    srs = srs_path(constants.circuits.srs_directory, 11)
    srs.parent.mkdir(parents=True)
    srs.write_bytes((11).to_bytes(4, "little") + bytes(256 + (128 << 11)))


def test_an_ignored_circuit_is_left_alone_and_refused_when_asked_for(constants: Constants, server: FileServer) -> None:
    keyless(constants, server.url)
    ignoring = with_circuits(constants, ignored=(A,))
    assert sync(ignoring, (), Source()) == SyncReport([], [A], {})
    assert "is ignored" in refusal(ignoring, A)
    assert server.requests == []


def test_a_circuit_of_another_ezkl_is_refused_before_its_key_is_downloaded(
    constants: Constants, server: FileServer
) -> None:
    directory = keyless(constants, server.url, version="19.0.7")
    assert "was made by EZKL 19.0.7" in refusal(constants)
    (directory / "settings.json").write_text((keyless(constants, server.url, "b") / "settings.json").read_text())
    (directory / "model.compiled").write_bytes(b"graph" + (6).to_bytes(8, "little") + b"19.0.7\0")
    assert "model.compiled was not made by EZKL" in refusal(constants, A)
    assert server.requests == []


@pytest.mark.parametrize("name", ["../../etc/pk.key", "/etc/passwd", "..", "a\\b", ""])
def test_a_name_with_a_path_in_it_is_refused(constants: Constants, server: FileServer, name: str) -> None:
    files = {"pk.key": server.url, name: server.url}
    (write_circuit(constants.circuits.directory, metadata={"external_files": files}) / "pk.key").unlink()
    assert "which is not a file name" in refusal(constants)
    assert server.requests == []


def test_files_that_only_validators_need_are_not_downloaded(constants: Constants, server: FileServer) -> None:
    directory = keyless(constants, server.url)
    metadata = json.loads((directory / "metadata.json").read_text())
    metadata["external_files"]["circuit.zkey"] = server.url + "?other"
    (directory / "metadata.json").write_text(json.dumps(metadata))
    server.acts.append(status(404))
    assert "answers 404" in refusal(constants)
    assert [one["path"] for one in server.requests] == ["/files/pk.key"]


def test_a_key_without_a_url_is_an_error_with_a_hint(constants: Constants) -> None:
    (write_circuit(constants.circuits.directory, metadata={"external_files": {}}) / "pk.key").unlink()
    assert "copy pk.key into the folder" in refusal(constants)


def test_an_unencrypted_address_is_refused_unless_allowed(constants: Constants, server: FileServer) -> None:
    keyless(constants, server.url)
    assert "is not encrypted" in refusal(with_circuits(constants, download_plain_http=False))
    assert "not in circuits.download_hosts" in refusal(with_circuits(constants, download_hosts=("storage.example",)))
    assert server.requests == []


def test_a_key_whose_size_differs_from_the_folders_checksums_is_not_downloaded(
    constants: Constants, server: FileServer
) -> None:
    directory = keyless(constants, server.url)
    (directory / "checksums.json").write_text(json.dumps({"pk.key": {"bytes": 5, "sha256": "0" * 64}}))
    assert f"has {len(server.content)} bytes, expected 5" in refusal(constants)
    assert not (directory / "pk.key").exists()


def test_one_refused_circuit_does_not_keep_the_others_from_it(constants: Constants, server: FileServer) -> None:
    keyless(constants, server.url, "b", version="19.0.7")
    (write_circuit(constants.circuits.directory) / "checksums.json").write_text("{}")
    report = sync(constants, (), Source())
    assert set(report.refused) == {f"model_{A}", f"model_{B}"}
    assert "checksums.json is unreadable" in report.refused[f"model_{A}"]
    assert to_text(report).count("REFUSED") == 2


def test_a_circuit_is_found_by_its_name_and_a_missing_one_is_named(constants: Constants, server: FileServer) -> None:
    keyless(constants, server.url, version="19.0.7")
    assert "19.0.7" in refusal(constants, "sample")
    with pytest.raises(ConfigError, match="no folder of circuit absent") as caught:
        sync(constants, ("absent",), Source())
    assert caught.value.exit_code == 2


def test_a_circuit_that_is_here_is_refused_where_its_srs_may_not_be_used(constants: Constants) -> None:
    write_checksums(write_circuit(constants.circuits.directory))
    real = constants.model_copy(update={"network": constants.network.model_copy(update={"name": "finney"})})
    write_untrusted_srs(real)
    assert sync(constants, (), Source()).refused == {}
    assert "never compared with a checksum" in refusal(real)


def test_two_syncs_of_one_circuit_do_not_meet(constants: Constants) -> None:
    asked, go = threading.Event(), threading.Event()

    def wait(handler: Handler) -> None:
        asked.set()
        go.wait(10)
        partial(handler, 0)

    with serving(VK, wait) as server:
        keyless(constants, server.url)
        first = threading.Thread(target=sync, args=(constants, (), Source()))
        first.start()
        assert asked.wait(10)
        assert "is being synced by another process" in refusal(constants)
        go.set()
        first.join(10)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be put where it may not read")
def test_a_folder_that_the_user_may_not_read_does_not_keep_the_others_from_it(
    constants: Constants, tmp_path: Path
) -> None:
    (tmp_path / "constants.toml").write_text(f'[circuits]\ndirectory = "{constants.circuits.directory}"\n')
    write_circuit(constants.circuits.directory).chmod(0)
    keyless(constants, "https://storage.example/key", "b", version="19.0.7")
    done = subprocess.run(
        [
            *("setpriv", "--bounding-set=-dac_override,-dac_read_search", sys.executable, "-m", "omron_miner"),
            *("--config", str(tmp_path / "constants.toml"), "circuit", "sync", "--json"),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    refused = json.loads(done.stdout)["refused"]
    assert done.returncode == 1
    assert "Permission denied" in refused[f"model_{A}"]
    assert "19.0.7" in refused[f"model_{B}"]


def test_a_full_disk_says_nothing_against_the_circuit(constants: Constants) -> None:
    write_circuit(constants.circuits.directory)
    write_untrusted_srs(constants)
    constants.sessions.directory.write_text("no folder")
    constants.sessions.fallback_directory.write_text("no folder")
    report = sync(constants, (), Source())
    assert (report.refused, report.ok) == ({}, False)
    assert "check the free space" in report.unchecked[f"model_{A}"]
    assert "NOT CHECKED" in to_text(report)


def test_partial_downloads_of_removed_circuits_are_deleted(constants: Constants) -> None:
    left = constants.circuits.directory / f".sync-model_{A}"
    left.mkdir(parents=True)
    (left / "pk.key").write_bytes(b"part")
    assert to_text(sync(constants, (), Source())) == "no circuits"
    assert not left.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_root_leaves_no_files_that_the_miner_cannot_touch(constants: Constants, server: FileServer) -> None:
    directory = keyless(constants, server.url)
    os.chown(directory, 65534, 65534)
    assert "sudo -u nobody omron-miner circuit sync" in refusal(constants)
    assert server.requests == []


def test_every_limit_is_the_operators() -> None:
    circuits = Circuits(
        download_hosts=("storage.example",), download_plain_http=True, download_seconds=1.0,
        download_max_bytes=4,
    )  # fmt: skip
    rules = rules_of(circuits)
    assert (rules.hosts, rules.plain_http) == (("storage.example",), True)
    assert (rules.total_seconds, rules.max_bytes) == (1.0, 4)
