"""The real btlightning (MIT) as the other side of our probe, and of the stand-in that all other tests talk to.

Its wheels need Python 3.12 and glibc 2.38. Where the host's glibc is older, Debian 13's is fetched and used for this
one program. Skipped where that cannot be done: no Python 3.12, not x86-64, no apt with Debian's archive.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from omron_miner.live.probe import probe, throwaway_keypair
from ports import free_port
from pythons import find_python
from stand_in_miner import Keypair, running

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE, CACHE = Path(__file__).parent, Path(__file__).parents[2] / ".cache/btlightning"
LOCK, PEER = HERE / "btlightning.lock", HERE / "btlightning_peer.py"
NEEDED_GLIBC = (2, 38)
SEED = "33" * 32
KEYPAIR = Keypair.create_from_seed("0x" + SEED)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def peer() -> list[str]:
    """The command of a Python that can import btlightning."""
    python = find_python("3.12")
    if python is None:
        pytest.skip("no Python 3.12 here, which btlightning's wheels need")
    if platform.machine() != "x86_64":
        pytest.skip("tried on x86-64 only")
    packages = CACHE / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
    if not packages.exists():
        made = CACHE / "packages.partial"
        shutil.rmtree(made, ignore_errors=True)
        target = ["--target", str(made), "--python", python, "--python-platform", "x86_64-manylinux_2_38"]
        subprocess.run(["uv", "pip", "install", "--quiet", *target, "--require-hashes", "-r", LOCK], check=True)
        made.rename(packages)
    return [*_with_new_glibc(python), "-c", f"import runpy, sys; sys.path.insert(0, {str(packages)!r}); "
            f"sys.argv = [{str(PEER)!r}, *sys.argv[1:]]; runpy.run_path({str(PEER)!r})"]  # fmt: skip


def _with_new_glibc(python: str) -> list[str]:
    here = tuple(map(int, (os.confstr("CS_GNU_LIBC_VERSION") or "glibc 0").split()[1].split(".")))
    if here >= NEEDED_GLIBC:
        return [python]
    library = _debian_13s_glibc() / "usr/lib/x86_64-linux-gnu"
    own = f"{library}:/usr/lib/x86_64-linux-gnu:{Path(python).resolve().parents[1] / 'lib'}"
    return [str(library / "ld-linux-x86-64.so.2"), "--library-path", own, python]


def _debian_13s_glibc() -> Path:
    """Unpacked, not installed; fetched by apt, with its signatures, from the archive that this host uses."""
    place = CACHE / "debian-13"
    if place.exists():
        return place
    if shutil.which("apt-get") is None:
        pytest.skip("glibc is older than 2.38, and there is no apt to fetch Debian 13's with")
    asked = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"]
    listed = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    archives = [
        line.removeprefix("Debian ") for line in listed if line.startswith("Debian ") and "security" not in line
    ]
    if not archives:
        pytest.skip("glibc is older than 2.38, and apt knows no archive of Debian's")
    work = CACHE / "apt"
    shutil.rmtree(work, ignore_errors=True)
    (work / "lists/partial").mkdir(parents=True)
    (work / "archives/partial").mkdir(parents=True)
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (work / "sources.list").write_text(f"deb [signed-by={keys}] {archives[0]} trixie main\n")
    options = {
        "Dir::Etc::SourceList": work / "sources.list", "Dir::Etc::SourceParts": "/dev/null", "Dir::Cache": work,
        "Dir::State::Lists": work / "lists", "Dir::State::Status": "/dev/null", "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
    }  # fmt: skip
    apt = ["apt-get", "-qq", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "download", "libc6", "libgcc-s1"], cwd=work, check=True)
    for package in work.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, work / "root"], check=True)
    (work / "root").rename(place)
    shutil.rmtree(work)
    return place


@contextmanager
def serving(peer: list[str], who: str) -> Iterator[int]:
    """A real server on loopback; `who` it takes: open, or those with permits."""
    port = free_port()
    arguments = ["server", str(port), SEED, KEYPAIR.ss58_address, who]
    with subprocess.Popen([*peer, *arguments], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            assert server.stdout.readline() == "listening\n"
            yield port
        finally:
            server.kill()


def test_the_probe_finds_a_real_server_alive_and_knows_its_hotkey(peer: list[str]) -> None:
    with serving(peer, "open") as port:
        report = probe("127.0.0.1", port, throwaway_keypair(), KEYPAIR.ss58_address, 20.0)
        assert (report.verdict, report.alive, report.signed) == ("alive", True, True), report
        assert [step.status for step in report.steps] == ["ok"] * 5
        other = throwaway_keypair().ss58_address
        assert probe("127.0.0.1", port, throwaway_keypair(), other, 20.0).verdict == "wrong_hotkey"


def test_the_probe_takes_a_real_servers_refusal_for_a_sign_of_life(peer: list[str]) -> None:
    with serving(peer, "permits") as port:
        report = probe("127.0.0.1", port, throwaway_keypair(), KEYPAIR.ss58_address, 20.0)
    assert (report.verdict, report.alive, report.signed) == ("not_permitted", True, False), report


def test_a_real_client_takes_the_stand_in_for_a_miner(peer: list[str]) -> None:
    with running(enforce_permits=False) as miner:
        arguments = ["client", str(miner.port), SEED, KEYPAIR.ss58_address, miner.keypair.ss58_address]
        done = subprocess.run([*peer, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "success": True, "error": None, "data": ["computed_outputs", "proof", "witness"],
    }  # fmt: skip
    assert sum("Handshake successful" in line for line in miner.log) == 1
    assert sum("handling DSlice" in line for line in miner.log) == 1
