"""Only a program that upstream's workflow signed for this very tag, and that runs here, becomes executable."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from omron_miner.cli import main
from omron_miner.live import release
from omron_miner.live.release import BUNDLE, DEFAULT_IDENTITY, PROGRAM, SUMS, ReleaseError, Source
from release_building import ASSET, Sigstore, program, publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the tests' programs are x86-64's")
TAG = "v14.7.5"
OTHER_REPOSITORY = DEFAULT_IDENTITY.replace("inference-labs-inc", "somebody")


@pytest.fixture(scope="module")
def sigstore() -> Sigstore:
    return Sigstore()


@pytest.fixture
def source(sigstore: Sigstore, tmp_path: Path) -> Source:
    """Of a release that is as it should be; tests damage its folder."""
    root = tmp_path / "root.json"
    root.write_text(sigstore.trusted_root())
    folder = publish(sigstore, tmp_path / "published", TAG, program())
    return Source(folder=folder, trusted_root=root)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def executables(folder: Path) -> list[Path]:
    return [one for one in folder.rglob("*") if one.is_file() and one.stat().st_mode & 0o111]


def with_newer_glibc() -> bytes:
    """A real program of this host, that needs a version of glibc that does not exist."""
    real = Path(shutil.which("true") or "/bin/true").read_bytes()
    assert b"GLIBC_2.34\0" in real or b"GLIBC_2.4\0" in real
    return real.replace(b"GLIBC_2.34\0", b"GLIBC_9.34\0").replace(b"GLIBC_2.4\0", b"GLIBC_9.4\0")


def test_a_signed_release_is_installed_and_runs_and_a_second_install_only_verifies(
    source: Source, tmp_path: Path
) -> None:
    releases = tmp_path / "releases"
    first = release.install(TAG, releases, source)
    assert (first.fetched, first.program) == (True, str(releases / TAG / PROGRAM))
    assert subprocess.run([first.program], check=False).returncode == 0
    assert sorted(one.name for one in (releases / TAG).iterdir()) == sorted([PROGRAM, SUMS, BUNDLE])
    shutil.rmtree(source.folder or "")
    again = release.install(TAG, releases, source)
    assert (again.fetched, again.sha256) == (False, first.sha256)
    assert sorted(one.name for one in releases.iterdir()) == [TAG]


def test_other_users_may_run_it_whatever_the_umask_is(source: Source, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        release.install(TAG, tmp_path / "releases", source)
    finally:
        os.umask(before)
    place = tmp_path / "releases" / TAG
    assert {one.name: one.stat().st_mode & 0o777 for one in (place, *place.iterdir())} == {
        TAG: 0o755, PROGRAM: 0o755, SUMS: 0o644, BUNDLE: 0o644
    }  # fmt: skip


def _other_program(folder: Path, _: Sigstore) -> None:
    (folder / ASSET).write_bytes(program(comment="x"))


def _truncated(folder: Path, _: Sigstore) -> None:
    (folder / ASSET).write_bytes(program()[:-3])


def _other_sums(folder: Path, _: Sigstore) -> None:
    (folder / SUMS).write_text((folder / SUMS).read_text().replace("0" * 64, "1" * 64))


def _no_bundle(folder: Path, _: Sigstore) -> None:
    (folder / BUNDLE).unlink()


def _no_json(folder: Path, _: Sigstore) -> None:
    (folder / BUNDLE).write_text("[" * 100_000)


def _republished(content: bytes = b"", **signed: Any) -> Callable[[Path, Sigstore], None]:
    def act(folder: Path, sigstore: Sigstore) -> None:
        shutil.rmtree(folder)
        publish(sigstore, folder.parent, TAG, content or program(), **signed)

    return act


def _other_tag(folder: Path, sigstore: Sigstore) -> None:
    shutil.rmtree(folder)
    publish(sigstore, folder.parent, "v14.7.4", program()).rename(folder)


def _other_authority(folder: Path, _: Sigstore) -> None:
    shutil.rmtree(folder)
    publish(Sigstore(), folder.parent, TAG, program())


def _not_in_the_log(folder: Path, _: Sigstore) -> None:
    bundle = json.loads((folder / BUNDLE).read_text())
    del bundle["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]
    (folder / BUNDLE).write_text(json.dumps(bundle))


def _twice_in_the_sums(folder: Path, sigstore: Sigstore) -> None:
    sums = ((folder / SUMS).read_text() + f"{'2' * 64}  {ASSET}\n").encode()
    (folder / SUMS).write_bytes(sums)
    identity = DEFAULT_IDENTITY.replace("{tag}", TAG)
    (folder / BUNDLE).write_text(json.dumps(sigstore.bundle(sums, identity)))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_other_program, f"{SUMS} says"),
        (_truncated, f"{SUMS} says"),
        (_other_sums, "does not prove"),
        (_no_bundle, f"has no {BUNDLE}"),
        (_no_json, "does not prove"),
        (_republished(identity=OTHER_REPOSITORY), "does not prove"),
        (_republished(issuer="https://accounts.example"), "does not prove"),
        (_other_tag, "does not prove"),
        (_other_authority, "does not prove"),
        (_not_in_the_log, "does not prove"),
        (_twice_in_the_sums, "has 2 checksums"),
        (_republished(program(machine=183)), "a program for EM_AARCH64"),
        (_republished(b"#!/bin/sh\n"), "not a Linux program"),
        (_republished(with_newer_glibc()), "it needs glibc 9"),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_a_release_that_is_not_upstreams_is_refused_and_nothing_of_it_is_executable(
    damage: Callable[[Path, Sigstore], None], said: str, source: Source, sigstore: Sigstore, tmp_path: Path
) -> None:
    assert source.folder
    damage(source.folder, sigstore)
    releases = tmp_path / "releases"
    running = releases / "v14.7.4"
    running.mkdir(parents=True)
    (running / PROGRAM).write_bytes(b"runs")
    with pytest.raises(ReleaseError, match=said) as caught:
        release.install(TAG, releases, source)
    assert caught.value.hint
    assert not (releases / TAG).exists()
    assert executables(releases) == []
    assert (running / PROGRAM).read_bytes() == b"runs"


def test_the_public_trusted_root_is_used_unless_another_is_named(source: Source, tmp_path: Path) -> None:
    """The package holds it, so nothing is asked and no home folder is read; our own authority is none of its."""
    with pytest.raises(ReleaseError, match="does not prove"):
        release.install(TAG, tmp_path / "releases", Source(folder=source.folder))
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(ReleaseError, match="trusted root"):
        release.install(TAG, tmp_path / "releases", Source(folder=source.folder, trusted_root=tmp_path / "broken.json"))


def test_a_source_that_cannot_be_read_is_named(source: Source, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ReleaseError, match=f"cannot read {file}/SHA256SUMS: Not a directory"):
        release.install(TAG, tmp_path / "releases", replace(source, folder=file))


@pytest.mark.parametrize("tag", ["../v1", "", "a/b", "v1 ", "-v1", "v" * 65])
def test_an_invalid_tag_is_refused_before_any_request(tag: str, source: Source, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="not the tag"):
        release.install(tag, tmp_path / "releases", source)
    assert not (tmp_path / "releases").exists()


def test_a_release_is_downloaded_and_what_an_interrupted_download_left_is_used(
    source: Source, tmp_path: Path, progress: list[str]
) -> None:
    assert source.folder
    releases = tmp_path / "releases"
    whole = (source.folder / ASSET).read_bytes()
    with served(source.folder.parent) as url:
        (source.folder / ASSET).unlink()
        at = release.source_at(url, trusted_root=source.trusted_root)
        with pytest.raises(ReleaseError, match=r"404.*check the tag"):
            release.install(TAG, releases, at)
        assert [one.name for one in releases.iterdir()] == [f".{TAG}.partial"]
        (source.folder / ASSET).write_bytes(whole)
        (source.folder / SUMS).rename(source.folder / "not-asked-again")
        assert release.install(TAG, releases, at).fetched
    assert any(line.startswith(f"{PROGRAM}.part: fetching {url}/") for line in progress)
    assert [one.name for one in releases.iterdir()] == [TAG]


def test_the_command_installs_and_verifies_and_reports_refusals(source: Source, tmp_path: Path) -> None:
    releases = tmp_path / "releases"
    trust = ["--trusted-root", str(source.trusted_root)]
    arguments = ["live", "release", "install", TAG, "--into", str(releases), "--from", str(source.folder), *trust]
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["tag"] == TAG
    done = CliRunner().invoke(main, ["live", "release", "verify", TAG, str(releases / TAG), *trust])
    assert (done.exit_code, "verified" in done.output) == (0, True)
    with (releases / TAG / PROGRAM).open("ab") as file:
        file.write(b"!")
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert f"release {TAG} of sn2-miner is refused" in done.output
