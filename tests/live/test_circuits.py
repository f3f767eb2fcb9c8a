"""`omron-miner live circuits sync`: the cache is filled as the miner wants it, whatever the repository does."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from omron_miner.building.downloads import Rules
from omron_miner.cli import main
from omron_miner.errors import OmronError
from omron_miner.files import PARKED
from omron_miner.live.cache import BUNDLE, STAMP, LinkIndex
from omron_miner.live.cache_check import check
from omron_miner.live.circuits import Settings, SyncReport, sync
from stand_in_repository import Repository, bundle_files, circuit, cut, other, serving, sha, status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stand_in_repository import Act, Handler

RULES = Rules(
    hosts=(), plain_http=True, total_seconds=20.0, stall_seconds=5.0, tries=2, max_bytes=1 << 30, keep_free_bytes=0,
    pause_seconds=0.0,
)  # fmt: skip


@pytest.fixture
def repository() -> Iterator[Repository]:
    """One circuit of three slices, two of which are one component, and an artifact."""
    with serving() as served:
        one, two = bundle_files("one"), bundle_files("two")
        components = [
            served.add_component("slice_0", one),
            served.add_component("slice_1", one),
            served.add_component("slice_2", two),
        ]
        served.add_circuit("net", components, [served.add_blob("metadata.msgpack", b"artifact" * 99)])
        yield served


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def run(repository: Repository, cache: Path, **options: Any) -> SyncReport:
    settings = Settings(url=repository.url, cache=cache, keep_free_bytes=0, rules=RULES)
    return sync(replace(settings, **options))


def tree(folder: Path) -> set[str]:
    return {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()}


def path_of(repository: Repository, slice_name: str, filename: str) -> str:
    """Where a slice's file is in the repository."""
    for one in repository.circuits[0]["composition"]["components"]:
        if one["name"] == slice_name:
            return f"/components/{one['sha256']}/files/{filename}"
    raise KeyError(slice_name)


def test_the_cache_is_laid_out_as_the_miner_reads_it(repository: Repository, cache: Path) -> None:
    report = run(repository, cache)
    assert report.ok, report
    folder = cache / f"model_{sha('net')}"
    bundle = ["circuit.bin", "manifest.msgpack", "witness_solver.bin"]
    wanted = {".dslice_ready", "circuit_metadata.json", "component_shas.json", "slices/metadata.msgpack"}
    for name in ("slice_0", "slice_1", "slice_2"):
        wanted |= {f"slices/{name}/component.sha"} | {f"slices/{name}/jstprove/circuit.bundle/{one}" for one in bundle}
        wanted |= {f"slices/{name}/payload/{name}.onnx", f"slices/{name}/payload/{name}.onnx.sha"}
    assert tree(folder) == wanted
    entry = repository.circuits[0]
    components = entry["composition"]["components"]
    assert json.loads((folder / "component_shas.json").read_text()) == [[x["name"], x["sha256"]] for x in components]
    assert json.loads((folder / "circuit_metadata.json").read_text()) == entry["metadata"]
    for one in components:
        slice_folder = folder / "slices" / one["name"]
        assert (slice_folder / "component.sha").read_text() == one["sha256"]
        [weights] = one["weights"]
        assert (slice_folder / "payload" / (weights["filename"] + ".sha")).read_text() == weights["sha256"]
        assert sha((slice_folder / "payload" / weights["filename"]).read_bytes()) == weights["sha256"]
    assert (report.circuits[0].fetched, report.linked_files, report.unchecked_files) == (4, 3, 0)
    assert len(repository.gets("/components/")) == 6, "the shared component came once"
    assert tree(cache / ".omron-sync") == {"lock", "published.json"}
    assert check(cache, hashes=True).ok


def test_a_second_run_fetches_nothing_and_touches_nothing(repository: Repository, cache: Path) -> None:
    run(repository, cache)
    repository.asked.clear()
    folder = cache / f"model_{sha('net')}"
    before = {name: (folder / name).stat().st_mtime_ns for name in tree(folder)}
    report = run(repository, cache)
    assert (report.ok, report.files, report.circuits[0].ready) == (True, 0, True)
    assert repository.gets() == ["/circuits", "/models"]
    assert {name: (folder / name).stat().st_mtime_ns for name in tree(folder)} == before


def test_weights_of_many_circuits_are_downloaded_once_by_parallel_workers(repository: Repository, cache: Path) -> None:
    for number in range(12):
        repository.add_circuit(f"c{number}", [repository.add_component("slice_0", bundle_files(str(number)))], [])
    assert run(repository, cache, parallel=8).ok
    downloads = repository.gets("/models/wb/")
    assert len(downloads) == len(set(downloads))


def test_a_replaced_slice_no_longer_provides_files_of_its_old_component(tmp_path: Path) -> None:
    folder = tmp_path / "model_a/slices/slice_0"
    (folder / BUNDLE).mkdir(parents=True)
    (folder / BUNDLE / "circuit.bin").write_text("old")
    (folder / STAMP).write_text("c" * 64)
    index = LinkIndex(tmp_path / "none")
    index.add_slice(folder)
    assert index.link(f"{'c' * 64}/circuit.bin", tmp_path / "before")
    index.forget_slice(folder)
    assert not index.link(f"{'c' * 64}/circuit.bin", tmp_path / "after")


def test_a_model_of_the_second_list_becomes_a_circuit(repository: Repository, cache: Path) -> None:
    model = circuit("model", [repository.add_component("slice_0", bundle_files("m"))], [])
    model["metadata"] = {"name": "model", "version": "7"}
    repository.models.append(model)
    assert run(repository, cache).ok
    metadata = json.loads((cache / f"model_{sha('model')}" / "circuit_metadata.json").read_text())
    assert metadata["type"] == "DSPERSE_PROOF_GENERATION"
    assert (metadata["proof_system"], metadata["timeout"], metadata["version"]) == ("JSTPROVE", 3600, "7")


def test_a_component_without_a_circuit_gets_its_weights_only_and_is_counted(
    repository: Repository, cache: Path
) -> None:
    bare = repository.add_component("bare", {"notes.txt": b"x"})
    repository.add_circuit("other", [bare])
    report = run(repository, cache)
    assert report.ok, "it was published like that"
    assert [one.unprovable for one in report.circuits] == [0, 1]
    found = tree(cache / f"model_{sha('other')}" / "slices" / "bare")
    assert found == {"component.sha", "payload/bare.onnx", "payload/bare.onnx.sha"}


def test_what_another_circuit_has_is_linked(repository: Repository, cache: Path) -> None:
    run(repository, cache)
    repository.add_circuit("twin", repository.circuits[0]["composition"]["components"])
    repository.asked.clear()
    assert run(repository, cache).ok
    assert repository.gets() == ["/circuits", "/models"]
    name = "slices/slice_0/jstprove/circuit.bundle/circuit.bin"
    assert os.path.samefile(cache / f"model_{sha('net')}" / name, cache / f"model_{sha('twin')}" / name)


def test_a_changed_component_replaces_the_old_one_whole(repository: Repository, cache: Path) -> None:
    run(repository, cache)
    new = bundle_files("new")
    del new["manifest.msgpack"]
    components = repository.circuits[0]["composition"]["components"]
    components[2] = repository.add_component("slice_2", new)
    report = run(repository, cache)
    assert (report.ok, report.circuits[0].fetched) == (True, 1)
    folder = cache / f"model_{sha('net')}"
    assert (folder / "slices/slice_2/component.sha").read_text() == components[2]["sha256"]
    assert not (folder / "slices/slice_2/jstprove/circuit.bundle/manifest.msgpack").exists()
    assert json.loads((folder / "component_shas.json").read_text())[2][1] == components[2]["sha256"]


def test_a_slice_that_a_killed_run_had_put_aside_is_back(repository: Repository, cache: Path) -> None:
    run(repository, cache)
    place = cache / f"model_{sha('net')}" / "slices/slice_0"
    before = tree(place)
    place.rename(place.with_name(f"{PARKED}slice_0"))
    repository.asked.clear()
    assert run(repository, cache).ok
    assert repository.gets() == ["/circuits", "/models"]
    assert tree(place) == before


def test_what_is_lost_or_foreign_in_a_slice_is_mended(repository: Repository, cache: Path) -> None:
    run(repository, cache)
    slices = cache / f"model_{sha('net')}" / "slices"
    (slices / "slice_2/jstprove/circuit.bundle/witness_solver.bin").unlink()
    (slices / "slice_1/payload/stray.onnx").write_bytes(b"of an older version")
    (slices / "slice_0/payload/slice_0.onnx").write_bytes(b"")
    (slices / "metadata.msgpack").unlink()
    assert not check(cache).ok
    report = run(repository, cache)
    assert (report.ok, report.circuits[0].fetched) == (True, 4)
    assert check(cache, hashes=True).ok


def test_a_broken_download_is_gone_on_with_in_the_same_run_and_in_the_next(repository: Repository, cache: Path) -> None:
    path = path_of(repository, "slice_2", "circuit.bin")
    repository.acts[path] = [cut(1000), cut(500), status(503), status(503), status(503)]
    report = run(repository, cache)
    assert not report.ok
    assert list(report.circuits[0].failed) == ["slice_2"]
    assert not (cache / f"model_{sha('net')}" / ".dslice_ready").exists()
    assert not (cache / f"model_{sha('net')}" / "slices" / "slice_2").exists(), "whole or not at all"
    repository.acts.clear()
    repository.asked.clear()
    assert run(repository, cache).ok
    assert [one for one in repository.asked if one[0] == "GET"][2:][0] == ("GET", path, "bytes=1500-")
    assert check(cache, hashes=True).ok


@pytest.mark.parametrize("kind", ["component", "weights", "artifact"])
def test_a_wrong_checksum_is_refused_and_nothing_of_it_stays(repository: Repository, cache: Path, kind: str) -> None:
    entry = repository.circuits[0]["composition"]
    path = {
        "component": path_of(repository, "slice_2", "circuit.bin"),
        "weights": f"/models/wb/{entry['components'][2]['weights'][0]['sha256']}",
        "artifact": f"/models/wb/{entry['artifacts'][0]['sha256']}",
    }[kind]
    repository.acts[path] = [other(b"something else")] * 2
    report = run(repository, cache)
    assert not report.ok
    [reason] = report.circuits[0].failed.values()
    assert "SHA-256" in reason
    assert not any(one.endswith(".partial") and path[-32:] in one for one in tree(cache))
    repository.acts.clear()
    assert run(repository, cache).ok


def test_a_part_of_an_older_file_does_not_spoil_the_new_one(repository: Repository, cache: Path) -> None:
    """The server takes the range for one of its new file: only the checksum shows that the parts do not fit."""
    path = path_of(repository, "slice_2", "circuit.bin")
    repository.acts[path] = [cut(1000), status(503), status(503)]
    assert not run(repository, cache).ok
    [part] = (cache / ".omron-sync" / "parts").glob("*-circuit.bin.partial")
    part.write_bytes(b"?" * 1000)
    repository.acts.clear()
    assert run(repository, cache).ok
    assert check(cache, hashes=True).ok


def test_without_a_checksum_a_file_is_taken_and_counted(repository: Repository, cache: Path) -> None:
    repository.checksums = False
    report = run(repository, cache)
    assert (report.ok, report.unchecked_files) == (True, 6)
    (cache / f"model_{sha('net')}/slices/slice_2/jstprove/circuit.bundle/circuit.bin").write_bytes(b"bit rot")
    found = check(cache, hashes=True)
    assert [one.text for one in found.findings] == ["circuit.bin has changed since its download"]


def says(**headers: Any) -> Act:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, _: handler.answer(200, b"", **named)


def garbage(handler: Handler, _: bytes) -> None:
    handler.wfile.write(b"\x00\xff nonsense\r\n\r\n")


@pytest.mark.parametrize(
    "on_head",
    [
        status(405), status(302), garbage, says(Content_Length=0), says(Content_Length="\xb2"),
        says(Content_Length="-1"), says(Content_Length="9" * 5000), says(x_checksum_sha256="none"),
    ],
)  # fmt: skip
def test_a_server_that_has_no_use_for_head_still_gives_its_files(
    repository: Repository, cache: Path, on_head: Act
) -> None:
    repository.on_head = on_head
    report = run(repository, cache)
    assert (report.ok, report.unchecked_files) == (True, 6)


def test_a_length_beyond_the_disk_fails_that_slice_only(repository: Repository, cache: Path) -> None:
    def lie(handler: Handler, content: bytes) -> None:
        length = 10**17 if handler.path == path_of(repository, "slice_0", "circuit.bin") else len(content)
        handler.answer(200, b"", **{"Content-Length": length})

    repository.on_head = lie
    components = repository.circuits[0]["composition"]["components"]
    del components[1]
    report = run(repository, cache, parallel=1)
    assert list(report.circuits[0].failed) == ["slice_0"]
    assert "full" in report.problems[0]
    assert report.circuits[0].fetched == 2


def longer(handler: Handler, content: bytes) -> None:
    handler.honest(content, None, **{"Content-Length": len(content) + 10})


def shorter(handler: Handler, content: bytes) -> None:
    handler.honest(content, None, **{"Content-Length": 10})


def endless(handler: Handler, _: bytes) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(bytes(1 << 16))
    except OSError:
        pass


def huge(handler: Handler, _: bytes) -> None:
    handler.answer(200, b"", **{"Content-Length": 1 << 50})


@pytest.mark.parametrize("act", [longer, shorter, huge, endless, other(b""), status(404)])
def test_a_server_that_lies_about_length_fails_that_slice_only(repository: Repository, cache: Path, act: Any) -> None:
    path = path_of(repository, "slice_2", "circuit.bin")
    repository.acts[path] = [act] * 10_000
    report = run(repository, cache, rules=replace(RULES, max_bytes=1 << 22, total_seconds=2.0))
    assert not report.ok
    assert list(report.circuits[0].failed) == ["slice_2"]
    assert (cache / f"model_{sha('net')}/slices/slice_0/component.sha").exists()


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"[]", b'{"circuits": {}}', b"[" * 100_000, b"\xff\xfe", b'{"circuits": null}']
)
def test_lists_that_are_none_leave_the_cache_as_it_is(repository: Repository, cache: Path, content: bytes) -> None:
    run(repository, cache)
    folder = cache / f"model_{sha('net')}"
    before = tree(folder)
    repository.acts = {"/circuits": [other(content)] * 3, "/models": [other(content)] * 3}
    with pytest.raises(OmronError, match="/circuits"):
        run(repository, cache)
    assert tree(folder) == before


def test_one_list_that_cannot_be_read_is_a_problem_but_stops_nothing(repository: Repository, cache: Path) -> None:
    repository.acts["/models"] = [status(500)] * 9
    report = run(repository, cache)
    assert not report.ok
    assert report.circuits[0].ready
    assert "/models" in report.problems[0]
    assert report.inactive == [], "nothing is known of what the other list has"


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../../escaped"},
        {"name": ".."},
        {"name": "a/b"},
        {"name": "nul\0"},
        {"name": 7},
        {"name": "x" * 300},
        {"name": "slice_0"},
        {"sha256": "../../x"},
        {"sha256": None},
        {"files": ["../circuit.bin"]},
        {"files": ["circuit.bin", "circuit.bin"]},
        {"files": "circuit.bin"},
        {"weights": [{"sha256": "0" * 64, "filename": "/etc/passwd"}]},
        {"weights": [{"sha256": "0" * 64, "filename": "a"}, {"sha256": "1" * 64, "filename": "a.sha"}]},
        {"weights": [None]},
    ],
)
def test_a_circuit_with_odd_names_is_refused_and_the_others_come(
    repository: Repository, cache: Path, change: dict[str, Any]
) -> None:
    good = repository.add_component("slice_0", bundle_files("x"))
    repository.add_circuit("odd", [good, {**repository.add_component("slice_9", bundle_files("y")), **change}])
    report = run(repository, cache)
    assert not report.ok
    assert list(report.refused) == [sha("odd")]
    assert report.circuits[0].ready
    assert sorted(one.name for one in cache.iterdir()) == [".omron-sync", f"model_{sha('net')}"]
    assert sorted(one.name for one in cache.parent.iterdir()) == ["cache"]


@pytest.mark.parametrize("entry", [None, 7, {}, {"id": "../x"}, {"id": sha("a"), "composition": 1}])
def test_an_entry_that_is_no_circuit_is_refused(repository: Repository, cache: Path, entry: Any) -> None:
    repository.circuits.append(entry)
    repository.models.append(entry)
    report = run(repository, cache)
    assert (report.ok, report.circuits[0].ready, len(report.refused)) == (False, True, 1)


def test_a_circuit_without_components_is_no_concern_of_ours(repository: Repository, cache: Path) -> None:
    repository.circuits.append({"id": sha("old"), "metadata": {}, "composition": {"components": []}})
    assert run(repository, cache).ok
    assert not (cache / f"model_{sha('old')}").exists()


def test_a_circuit_that_is_not_listed_can_be_asked_for_and_a_listed_one_ignored(
    repository: Repository, cache: Path
) -> None:
    pinned = circuit("pinned", [repository.add_component("slice_0", bundle_files("p"))], [])
    repository.files[f"/models/{sha('pinned')}"] = json.dumps(pinned).encode()
    report = run(repository, cache, additional=(sha("pinned"),), ignored=(sha("net"),))
    assert [one.id for one in report.circuits] == [sha("pinned")]
    assert report.ok


def test_a_circuit_that_is_no_longer_listed_is_reported_and_kept(repository: Repository, cache: Path) -> None:
    run(repository, cache)
    repository.circuits.clear()
    report = run(repository, cache)
    assert (report.ok, report.inactive) == (True, [sha("net")])
    assert (cache / f"model_{sha('net')}" / ".dslice_ready").exists()


def test_no_more_is_fetched_than_the_disk_may_take(repository: Repository, cache: Path) -> None:
    cache.mkdir()
    report = run(repository, cache, keep_free_bytes=shutil.disk_usage(cache).total)
    assert not report.ok
    assert "full" in report.problems[0]
    assert len(report.circuits[0].failed) == 4
    assert not repository.gets("/components/")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_full_disk_ends_the_run_and_the_next_goes_on(repository: Repository, cache: Path) -> None:
    for number in range(3):
        component = repository.add_component(f"slice_{number}", bundle_files("b", circuit=os.urandom(700_000 + number)))
        repository.add_circuit(f"big {number}", [component])
    repository.checksums = False
    cache.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(cache)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no mounts here")
    try:
        report = run(repository, cache, parallel=1)
        assert not report.ok
        assert "full" in report.problems[0]
        assert not (cache / f"model_{sha('big 2')}" / ".dslice_ready").exists()
        subprocess.run(["mount", "-o", "remount,size=9m", str(cache)], check=True)
        assert run(repository, cache).ok
        assert check(cache, hashes=True).ok
    finally:
        subprocess.run(["umount", str(cache)], check=True)


def test_two_at_once_are_distinguished(repository: Repository, cache: Path) -> None:
    (cache / ".omron-sync").mkdir(parents=True)
    with (cache / ".omron-sync" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OmronError, match="another sync"):
            run(repository, cache)
    assert run(repository, cache).ok


def test_several_come_at_the_same_time(repository: Repository, cache: Path) -> None:
    """Each answer waits until three are being given at once."""
    together = threading.Barrier(3, timeout=20)

    def wait(handler: Handler, content: bytes) -> None:
        together.wait()
        handler.honest(content)

    components = [repository.add_component(f"slice_{n}", bundle_files(f"many {n}")) for n in range(3)]
    repository.circuits.clear()
    repository.add_circuit("many", components)
    for one in components:
        repository.acts[f"/components/{one['sha256']}/files/circuit.bin"] = [wait]
    assert run(repository, cache, parallel=3).ok


@pytest.mark.slow
def test_a_signal_ends_the_command_at_once_and_the_next_run_goes_on(repository: Repository, cache: Path) -> None:
    path, asked = path_of(repository, "slice_2", "circuit.bin"), threading.Event()

    def hang(handler: Handler, content: bytes) -> None:
        handler.honest(content[:600], None, **{"Content-Length": len(content)})
        handler.wfile.flush()
        asked.set()
        time.sleep(30)

    repository.acts[path] = [hang]
    command = [
        sys.executable, "-m", "omron_miner", "live", "circuits", "sync", "--url", repository.url, "--cache", str(cache),
        "--keep-free-gib", "0",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert asked.wait(30)
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
    assert not (cache / f"model_{sha('net')}" / ".dslice_ready").exists()
    assert run(repository, cache).ok
    assert check(cache, hashes=True).ok


def test_the_commands_exit_codes_and_json(repository: Repository, cache: Path) -> None:
    def invoke(*arguments: str) -> Any:
        return CliRunner().invoke(main, ["live", "circuits", *arguments, "--cache", str(cache)])

    assert invoke("check").exit_code == 1
    done = invoke("sync", "--url", repository.url, "--keep-free-gib", "0", "--json")
    assert (done.exit_code, json.loads(done.stdout)["ok"]) == (0, True)
    done = invoke("check", "--hashes")
    assert (done.exit_code, done.stdout.splitlines()[-1][:40]) == (0, "1 circuits, 3 of 3 slices can be proved,")
    assert invoke("sync", "--url", "file:///etc/passwd").exit_code == 1
