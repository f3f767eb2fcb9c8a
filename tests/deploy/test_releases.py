"""Circuits of releases that are kept: what was served comes back with its release, and nothing else is left over."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import traceback
from pathlib import Path
from typing import Any

import pytest

from plugin_loading import load_plugin

ROOT = Path(__file__).parents[2]


releases = load_plugin("plugins/modules/omron_releases.py")


class Host:
    """A host's folders, and the steps of a deploy on them."""

    def __init__(self, place: Path) -> None:
        self.opt, self.state = place / "opt", place / "state"
        for folder in (self.state / "circuits", self.state / "circuits/kept", self.opt / "pm2/programs"):
            folder.mkdir(parents=True)
        for name in ("etc", "commands", "units"):
            (place / name).mkdir()
        self.result: dict[str, Any] = {}

    def run(self, action: str, check: bool = False, stop: list[str] | None = None, **more: Any) -> list[str]:
        given = {"opt": self.opt, "state": self.state, "keep": 3, "tuned": [], "always": False, **more}
        places = {name: self.opt.parent / name for name in ("etc", "commands", "units")}
        done: list[str] = []
        self.result = releases.run({"action": action, **places, **given}, check, done if stop is None else stop)
        return done

    def build(self, release: str, circuits: dict[str, str], key: str = "0" * 12) -> None:
        """A release whose circuits have this content; those that differ from what is served are staged."""
        folder = self.opt / "releases" / release
        (folder / "etc").mkdir(parents=True)
        (folder / "etc/circuits.json").write_text(json.dumps({"circuits": sorted(circuits)}))
        (self.state / "wallets" / f"miner-{key}").mkdir(parents=True, exist_ok=True)
        (folder / "etc/constants.toml").write_text(f'[wallet]\nname = "miner-{key}"\n')
        for kind in ("venv", "pm2"):
            target = self.opt / f"{kind}s" / f"of-{release}" if kind == "venv" else self.opt / "pm2" / f"of-{release}"
            target.mkdir(parents=True)
            (folder / kind).symlink_to(target)
        (folder / "pm2" / releases.UNIT).write_text(release)
        program = self.opt / "pm2/programs" / f"for-{release}"
        program.mkdir()
        (self.opt / "pm2" / f"of-{release}" / "program").symlink_to(program)
        for name, content in circuits.items():
            if self.served().get(name) != content:
                staged = self.state / "circuits/kept" / release / f"model_{name}"
                staged.mkdir(parents=True)
                (staged / "vk.key").write_text(content)

    def switch(self, release: str) -> None:
        self.run("enter", release=release)

    def deploy(self, release: str, circuits: dict[str, str], **more: Any) -> None:
        """All of it; the gate is passed."""
        self.build(release, circuits, **more)
        self.switch(release)
        self.run("passed", release=release)
        self.run("prune", release=release)

    def served(self) -> dict[str, str]:
        return {path.parent.name[6:]: path.read_text() for path in self.state.glob("circuits/model_*/vk.key")}

    def names(self, pattern: str) -> set[str]:
        return {path.name for path in (*self.opt.glob(pattern), *self.state.glob(pattern))}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_going_back_brings_back_what_was_served_then(host: Host) -> None:
    served = {"r1": {"a": "a1", "b": "b"}, "r2": {"a": "a2", "c": "c"}, "r3": {"a": "a2", "b": "b"}}
    for release, circuits in served.items():
        host.deploy(release, circuits)
        assert host.served() == circuits
    for release in ("r2", "r1", "r3", "r1", "r2"):
        host.switch(release)
        assert {name: host.served().get(name) for name in served[release]} == served[release]
        host.run("prune", release=release)
        assert host.served() == served[release]


def test_a_release_that_fails_its_gate_leaves_what_was_served(host: Host) -> None:
    host.deploy("good", {"a": "a1", "b": "b"})
    host.build("bad", {"a": "a2", "c": "c"})
    host.switch("bad")
    assert host.served() == {"a": "a2", "b": "b", "c": "c"}
    host.switch("good")
    assert {name: host.served()[name] for name in "ab"} == {"a": "a1", "b": "b"}
    host.switch("bad")  # mended: nothing has to be made again
    host.run("prune", release="bad")
    assert host.served() == {"a": "a2", "c": "c"}


def test_what_no_release_uses_any_more_goes(host: Host) -> None:
    host.opt.joinpath("pm2/node_modules").mkdir()  # of a version before folders
    tuning = host.state / "tuned/a/work"
    tuning.mkdir(parents=True)
    (host.state / "wallets/miner").mkdir(parents=True)  # not ours to remove
    for number in range(1, 6):
        host.deploy(f"r{number}", {"a": "a", f"only-{number}": "x"}, key=str(number) * 12)
    kept = {"r3", "r4", "r5"}
    assert host.names("releases/*") == kept
    assert host.names("venvs/*") == {f"of-{one}" for one in kept}
    assert host.names("pm2/*") == {f"of-{one}" for one in kept} | {"programs"}
    assert host.names("pm2/programs/*") == {f"for-{one}" for one in kept}
    assert host.names("wallets/*") == {"miner", *(f"miner-{str(number) * 12}" for number in (3, 4, 5))}
    assert host.names("circuits/**/model_*") == {"model_a", "model_only-3", "model_only-4", "model_only-5"}
    assert not tuning.exists()
    assert host.run("prune", release="r5") == []


@pytest.mark.parametrize("differs", ["nothing", "program", "pm2", "ecosystem", "interrupted"])
def test_upstreams_program_is_restarted_only_when_something_of_it_changes(host: Host, differs: str) -> None:
    for release in ("old", "new"):
        host.build(release, {})
        folder = host.opt / "releases" / release
        (folder / "sn2-miner").symlink_to(host.opt / "sn2-miner" / (release if differs == "program" else "v1"))
        (folder / "etc/ecosystem.config.json").write_text(release if differs == "ecosystem" else "{}")
        if differs != "pm2":
            (folder / "pm2").unlink()
            (folder / "pm2").symlink_to(host.opt / "pm2/of-old")
    host.switch("old")
    host.run("passed", release="old")
    if differs == "interrupted":
        host.run("enter", release="new")
    host.run("enter", release="new")
    assert host.result["started"]
    assert host.result["restart"] is (differs != "nothing")
    host.run("passed", release="new")
    host.run("enter", release="new")
    assert (host.result["started"], host.result["restart"]) == (False, False)


def test_programs_of_upstreams_that_no_kept_release_runs_go(host: Host) -> None:
    programs = host.opt / "sn2-miner"
    for number in range(1, 5):
        host.build(f"r{number}", {})
        tag = programs / f"v{number}"
        tag.mkdir(parents=True)
        (host.opt / "releases" / f"r{number}" / "sn2-miner").symlink_to(tag)
        host.switch(f"r{number}")
    (programs / ".v9.partial").mkdir()
    host.run("prune", release="r4", keep=2)
    assert sorted(one.name for one in programs.iterdir()) == ["v3", "v4"]


def test_a_circuit_that_another_kept_release_needs_outlives_the_release_it_was_kept_for(host: Host) -> None:
    host.deploy("r1", {"a": "a"})
    host.deploy("r2", {"a": "a"})
    host.deploy("r3", {"b": "b"})
    assert host.served() == {"b": "b"}
    host.run("prune", release="r3", keep=2)  # r1 goes
    host.switch("r2")
    assert host.served()["a"] == "a"


def test_credentials_stay_as_long_as_a_kept_release_reads_them(host: Host) -> None:
    etc = host.opt.parent / "etc"
    names = ["competition-credentials", *(f"competition-credentials-{str(one) * 12}" for one in (2, 3)), ""]
    for number, name in enumerate(names, 1):
        file, release = etc / (name or names[0]), f"r{number}"
        host.build(release, {})
        with (host.opt / "releases" / release / "etc/constants.toml").open("a") as constants:
            is_on = "true" if name else "false"
            constants.write(f'[competition]\n# Offer\nenabled = {is_on}\ncredentials_file = "{file}"\n')
        if name:
            file.touch()
        host.switch(release)
        host.run("failed", release=release)
        assert {one.name for one in etc.glob("competition*")} == set(names[:number]) - {""}, "whichever it goes back to"
        host.run("passed", release=release)
        host.run("prune", release=release, keep=3)
    assert host.names("releases/*") == {"r2", "r3", "r4"}
    assert {one.name for one in etc.glob("competition*")} == set(names[1:3])
    host.run("prune", release="r4", keep=1)
    assert {one.name for one in etc.glob("competition*")} == {names[2]}, "of the release before it"


class Interruption(list[str]):
    """Ends the module before the step `number`."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._left = number

    def append(self, step: str) -> None:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt(step)


def is_on(host: Host, release: str, circuits: dict[str, str]) -> bool:
    links = {"etc/constants.toml", "etc/ecosystem.config.json", "commands/omron-miner", "commands/omron-pm2"}
    place = host.opt.parent
    return (
        host.opt.joinpath("current").readlink().name == release
        and all((place / link).is_symlink() for link in links)
        and (place / "units" / releases.UNIT).read_text() == release
        and {name: host.served().get(name) for name in circuits} == circuits
    )


def test_a_switch_that_is_interrupted_before_any_of_its_steps_is_done_again(host: Host) -> None:
    old, new = {"a": "a1", "b": "b1"}, {"a": "a2", "b": "b2"}
    host.deploy("old", old)
    host.build("new", new)
    step, interrupted = 0, True
    while interrupted:
        stop = Interruption(step)
        try:
            host.run("enter", stop=stop, release="new")
            host.run("passed", stop=stop, release="new")
            interrupted = False
        except KeyboardInterrupt:
            step += 1
        last = json.loads((host.opt / "rollout.json").read_text())
        for wanted, circuits in (("new", new), ("old", old)) if step % 2 else (("old", old),):
            host.run("enter", release=wanted)
            assert host.result["started"] or last == {"passed": wanted, "switching": False}, step
            assert is_on(host, wanted, circuits), step
            host.run("passed", release=wanted)
            host.run("enter", release=wanted)
            assert not host.result["started"]
    assert step > 8


def test_what_passed_last_is_gone_back_to_and_what_failed_is_started_again(host: Host) -> None:
    host.build("r1", {"a": "a"})
    host.run("enter", release="r1")
    assert host.result == {"started": True, "restart": True, "passed": ""}
    host.run("failed", release="r1")
    host.run("passed", release="r1")
    host.run("enter", release="r1")
    assert host.result == {"started": False, "restart": False, "passed": "r1"}
    host.run("enter", release="r1", always=True)
    assert host.result["started"]
    host.run("passed", release="r1")
    assert not (host.opt / "previous").exists()
    host.build("r2", {"a": "a"})
    for _ in range(2):  # the second after an interruption: the link is r2's already
        host.run("enter", release="r2")
        assert host.result == {"started": True, "restart": True, "passed": "r1"}
    host.run("passed", release="r2")
    assert (host.opt / "previous").readlink().name == "r1"
    (host.opt / "rollout.json").unlink()  # a host that is older than it
    host.run("enter", release="r2")
    assert host.result == {"started": True, "restart": True, "passed": "r2"}


def test_a_process_that_has_other_certificates_is_started_again_however_often_a_run_was_interrupted(host: Host) -> None:
    folder = host.opt.parent / "etc/provers"
    host.deploy("r1", {"a": "a"})
    folder.mkdir()
    for name in ("ca.pem", "cert.pem"):
        (folder / name).write_text("renewed, and then the run ended before the switch")
        for _ in range(2):  # the second was interrupted after the restart, before the gate
            host.run("enter", release="r1")
            assert host.result == {"started": True, "restart": True, "passed": "r1"}
        host.run("passed", release="r1")
        host.run("enter", release="r1")
        assert host.result == {"started": False, "restart": False, "passed": "r1"}


def test_a_dry_run_changes_nothing(host: Host) -> None:
    host.deploy("r1", {"a": "a"})
    host.build("r2", {"b": "b"})
    before = sorted(host.state.rglob("*"))
    assert host.run("enter", check=True, release="r2") != []
    assert host.run("prune", check=True, release="r2") != []
    assert sorted(host.state.rglob("*")) == before


def test_a_link_that_the_service_user_put_in_the_way_is_not_followed(host: Host, tmp_path: Path) -> None:
    host.build("r1", {"a": "a"})
    elsewhere = tmp_path / "elsewhere"
    (host.state / "circuits").rename(elsewhere)
    (host.state / "circuits").symlink_to(elsewhere)
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        host.switch("r1")
    assert [one.name for one in elsewhere.iterdir()] == ["kept"]


def older(host: Host) -> None:
    """Moves what is kept to where older releases of the play kept it, which may be another file system."""
    for folder in host.state.glob("circuits/kept/*/model_*"):
        target = host.state / "circuits-kept" / folder.parent.name / folder.name
        target.parent.mkdir(parents=True, exist_ok=True)
        inode = folder.stat().st_ino
        shutil.move(folder, target)
        for file in host.opt.glob(f"releases/*/{releases.PLACED}"):
            placed = json.loads(file.read_text())
            if placed.get(folder.name) == inode:
                file.write_text(json.dumps({**placed, folder.name: target.stat().st_ino}))
    shutil.rmtree(host.state / "circuits/kept")


def adopt_at_any_interruption(place: Path, mounted: bool) -> None:
    """Goes back to releases whose circuits an older release of the play kept, interrupted before each step."""
    served = {"r1": {"a": "a", "b": "b1"}, "r2": {"a": "a", "b": "b2"}, "r3": {"c": "c"}}
    step, interrupted = 0, True
    while interrupted:
        host = Host(place / str(step))
        if mounted:
            subprocess.run(["mount", "-t", "tmpfs", "none", host.state / "circuits"], check=True)
        for release, circuits in served.items():
            host.deploy(release, circuits)
            assert host.served() == circuits
        older(host)
        assert (host.state.stat().st_dev != (host.state / "circuits").stat().st_dev) is mounted
        stop = Interruption(step)
        try:
            host.run("enter", stop=stop, release="r2")
            interrupted = False
        except KeyboardInterrupt:
            step += 1
        for release in ("r2", "r1", "r3", "r1"):
            host.switch(release)
            assert {name: host.served().get(name) for name in served[release]} == served[release], step
            host.run("passed", release=release)
            host.run("prune", release=release)
            assert host.served() == served[release]
        assert not (host.state / "circuits-kept").exists()
        assert {one.name for one in (host.state / "circuits").iterdir()} == {"model_a", "model_b", "kept"}
    assert step > (12 if mounted else 8)


@pytest.mark.slow
def test_circuits_that_an_older_play_kept_come_back(tmp_path: Path) -> None:
    adopt_at_any_interruption(tmp_path, mounted=False)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_circuits_may_be_on_a_file_system_of_their_own(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:  # in mounts of its own
        try:
            assert ctypes.CDLL(None).unshare(0x20000) == 0
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            adopt_at_any_interruption(tmp_path, mounted=True)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's folder takes root")
def test_a_folder_that_the_service_user_put_where_an_older_play_kept_circuits_is_left(host: Host) -> None:
    host.deploy("r1", {"a": "a"})
    planted = host.state / "circuits-kept/r1/model_b"
    planted.mkdir(parents=True)
    os.chown(host.state / "circuits-kept", 1, 1)
    host.run("enter", release="r1", always=True)
    assert planted.exists()
    assert host.served() == {"a": "a"}
