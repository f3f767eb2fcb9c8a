#!/usr/bin/python
"""Keeps the circuits of each kept release and removes files that no release uses.

The role miner calls it in the switch to a release and after it. It runs with a host's own Python, 3.10 or newer.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENTATION = r"""
module: omron_releases
short_description: Puts a release in place, with its circuits, and removes what no release uses any more
description:
  - C(enter) has I(release) be the current one, unless it is and passed its health gate with the certificates of prover
    hosts that are in C(provers) below I(etc). C(restart) in the result says
    whether its process must start again; upstream's need not where the release runs the same program in the same way.
    What passed last, with digests of its certificates, and whether a switch is under way, is in C(rollout.json) below
    I(opt), so that a run after an interruption begins here again.
  - C(passed) writes down that I(release) passed, and the release before it as C(previous). C(failed) has the next
    C(enter) begin from the start.
  - A release lists the circuits it serves in C(etc/circuits.json). Those that the running release serves are in
    C(circuits) below I(state); those that only another kept release serves are in C(circuits/kept/RELEASE), on the same
    file system. C(enter) puts the release's own in place, each by one rename; a copy of the same circuit that was there
    moves away. What older releases kept in C(circuits-kept) is brought there.
  - C(prune) removes releases above I(keep), then virtual environments, pm2 versions, programs of upstream's, hotkeys,
    credentials, circuits and broken off tunings that no release needs.
options:
  action: {type: str, choices: [enter, passed, failed, prune], required: true, description: What to do}
  opt: {type: path, required: true, description: The folder of releases, virtual environments and pm2}
  state: {type: path, required: true, description: The folder of circuits, wallets and tunings}
  etc: {type: path, required: true, description: The folder of configuration}
  release: {type: str, required: true, description: The release to enter, or the one that runs}
  always: {type: bool, default: false, description: Whether C(enter) switches to a release that passed, too}
  keep: {type: int, default: 3, description: How many releases to keep, with the running and the previous one}
  tuned: {type: list, elements: str, default: [], description: Names of circuits that the host tunes}
  commands: {type: path, default: /usr/local/bin, description: Where the commands are linked to}
  units: {type: path, default: /etc/systemd/system, description: Where pm2's unit is copied to}
"""

UNIT = "omron-pm2.service"
LIST = "etc/circuits.json"
PLACED = "etc/circuits-placed.json"
"""Inode of each circuit folder when the release was activated: another copy of a circuit has the same name."""
KEPT = "kept"
"""In the folder of circuits: on its file system each step is one rename."""
CREDENTIALS = "competition-credentials"
_COMPETES = re.compile(r"^\[competition\]\n(?:#.*\n)*enabled = true$", re.MULTILINE)
"""A release's constants that name credentials it reads."""
OLD_KEPT = "circuits-kept"
"""In the state folder, where older releases kept them: circuits may be on another file system."""


class Host:
    """The folders of one host."""

    def __init__(self, opt: Path, state: Path, etc: Path, check: bool, done: list[str]) -> None:
        """With `check` nothing is changed; each step is added to `done` first."""
        self.opt = opt
        self.etc = etc
        self.circuits = state / "circuits"
        self.kept = self.circuits / KEPT
        self.old_kept = state / OLD_KEPT
        self.wallets = state / "wallets"
        self.tuned = state / "tuned"
        self.check = check
        self.rollout = opt / "rollout.json"
        self.current = opt / "current"
        self.done = done
        self._removed: set[Path] = set()

    def releases(self) -> list[Path]:
        """The releases, newest first."""
        return sorted(self.folders(self.opt / "releases"), key=lambda one: one.stat().st_mtime_ns, reverse=True)

    def folders(self, parent: Path, pattern: str = "*") -> list[Path]:
        """Folders in `parent`, without links, sorted by name."""
        found = (one for one in parent.glob(pattern) if one.is_dir() and not one.is_symlink())
        return sorted(one for one in found if one not in self._removed)

    def served(self, release: str) -> set[str] | None:
        """Names of the circuit folders that a release serves; None for one that has no list."""
        try:
            listed = json.loads((self.opt / "releases" / release / LIST).read_text())
        except FileNotFoundError:
            return None
        return {f"model_{one}" for one in listed["circuits"]}

    def placed(self, release: str) -> dict[str, int]:
        """Name and inode of the circuit folders that a release was last entered with."""
        try:
            found: dict[str, int] = json.loads((self.opt / "releases" / release / PLACED).read_text())
        except FileNotFoundError:
            return {}
        return found

    def runs(self) -> str:
        """The current release; empty when there is none."""
        return Path(os.readlink(self.current)).name if self.current.is_symlink() else ""

    def last(self) -> dict[str, Any]:
        """The release that `passed` last, and whether the host is `switching`."""
        try:
            found: dict[str, Any] = json.loads(self.rollout.read_text())
        except FileNotFoundError:  # a host that is older than this file runs what passed
            return {"passed": self.runs(), "switching": True}
        return found

    def certificates(self) -> dict[str, str]:
        """A digest of each certificate that a process reads at its start; none on a host without prover hosts."""
        files = [self.etc / "provers" / name for name in ("ca.pem", "cert.pem")]
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}

    def write(self, target: Path, content: str) -> None:
        """Writes a file of root's that everybody may read, atomically."""
        if target.is_file() and not target.is_symlink() and target.read_text() == content:
            return
        self.done.append(f"{target} written")
        if self.check:
            return
        made = target.with_name(f".{target.name}.new")
        with made.open("w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        made.chmod(0o644)
        made.replace(target)

    def link(self, path: Path, target: Path) -> None:
        """Creates a link, replacing what is there."""
        if path.is_symlink() and os.readlink(path) == str(target):
            return
        self.done.append(f"{path} -> {target}")
        if self.check:
            return
        made = path.with_name(f".{path.name}.new")
        made.unlink(missing_ok=True)
        made.symlink_to(target)
        made.replace(path)

    def move(self, source: Path, target: Path) -> None:
        """Renames a folder, replacing what is there."""
        self.done.append(f"{source} -> {target}")
        if self.check:
            return
        for folder in (target.parent.parent, target.parent):
            if not folder.exists():
                folder.mkdir(mode=0o755)
                folder.chmod(0o755)
        if target.exists():
            self.remove(target)
        with _opened(source.parent) as here, _opened(target.parent) as there:
            os.rename(source.name, target.name, src_dir_fd=here, dst_dir_fd=there)

    def copy(self, source: Path, target: Path) -> None:
        """Copies a folder to another file system, as its owner, so that root follows no link in it. Atomic."""
        made = self.circuits / f".{KEPT}-{target.parent.name}-{target.name}"
        if made.exists():
            self.remove(made)
        self.done.append(f"{source} copied to {made}")
        found = source.stat()
        owner: dict[str, Any] = {}
        if os.geteuid() == 0:
            owner = {"user": found.st_uid, "group": found.st_gid, "extra_groups": []}
        for command in (["cp", "--archive", "--no-target-directory", str(source)], ["sync", "--file-system"]):
            done = subprocess.run([*command, str(made)], capture_output=True, text=True, check=False, **owner)
            if done.returncode != 0:
                shutil.rmtree(made, ignore_errors=True)
                raise OSError(done.stderr.strip())
        self.move(made, target)

    def remove(self, path: Path) -> None:
        """Removes a folder or link, following no link in it."""
        self.done.append(f"{path} removed")
        self._removed.add(path)
        if self.check:
            return
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """A folder's descriptor. Raises OSError for a link: the service user could have put one there."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def enter(host: Host, release: str, always: bool, commands: Path, units: Path) -> dict[str, Any]:
    """Makes `release` the current one; returns whether that is a switch (`started`), and which release `passed` last.

    `restart`: whether the process must be restarted.
    """
    adopt_circuits(host)
    last, folder = host.last(), host.opt / "releases" / release
    is_due = always or last["switching"] or last["passed"] != release or host.runs() != release
    is_due = is_due or last.get("certificates", {}) != host.certificates()
    is_settled = not last["switching"] and last["passed"] == host.runs()
    restart = is_due and not (is_settled and _is_the_same_process(host.opt / "releases" / host.runs(), folder))
    if is_due:
        host.write(host.rollout, json.dumps({**last, "switching": True}) + "\n")
        enter_circuits(host, release, host.runs())
        host.link(host.current, folder)
        links = {host.etc / name: f"etc/{name}" for name in ("constants.toml", "ecosystem.config.json")}
        links[commands / "omron-miner"] = "venv/bin/omron-miner"
        if (folder / "pm2").exists():  # none in a release that is older than this
            links[commands / "omron-pm2"] = "pm2/omron-pm2"
            host.write(units / UNIT, (folder / "pm2" / UNIT).read_text())
        for path, target in links.items():
            host.link(path, host.current / target)
    return {"started": is_due, "restart": restart, "passed": last["passed"]}


def _is_the_same_process(one: Path, other: Path) -> bool:
    """Whether both releases run upstream's program in the same way.

    The program reads nothing else of a release, neither the package nor constants.toml, and restarting it is costly.
    """
    links = [one / "sn2-miner", other / "sn2-miner", one / "pm2", other / "pm2"]
    files = [one / "etc/ecosystem.config.json", other / "etc/ecosystem.config.json"]
    if not all(link.is_symlink() for link in links) or not all(file.is_file() for file in files):
        return False
    program, its, pm2, its_pm2 = map(os.readlink, links)
    return program == its and pm2 == its_pm2 and files[0].read_bytes() == files[1].read_bytes()


def passed(host: Host, release: str) -> None:
    """Records that `release` passed its health gate."""
    before = host.last()["passed"]
    if before not in ("", release):
        host.link(host.opt / "previous", host.opt / "releases" / before)
    certificates = {"certificates": found} if (found := host.certificates()) else {}
    host.write(host.rollout, json.dumps({"passed": release, "switching": False, **certificates}) + "\n")


def failed(host: Host) -> None:
    """Makes the next run switch again in any case."""
    host.write(host.rollout, json.dumps({**host.last(), "switching": True}) + "\n")


def adopt_circuits(host: Host) -> None:
    """Moves circuits kept by an older version of the play to their present location."""
    try:
        found = host.old_kept.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return  # the service user's doing: none of ours are in it
    for release in host.folders(host.old_kept):
        for folder in host.folders(release, "model_*"):
            _adopt(host, folder, host.kept / release.name / folder.name)
    host.remove(host.old_kept)


def _adopt(host: Host, folder: Path, target: Path) -> None:
    if not target.exists():
        try:
            host.move(folder, target)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        host.copy(folder, target)
    # Before the original goes: an interrupted run must not forget whose it is.
    inode, copied = folder.stat().st_ino, target.stat().st_ino
    for release in host.releases():
        placed = host.placed(release.name)
        if placed.get(folder.name) == inode:
            host.write(release / PLACED, json.dumps({**placed, folder.name: copied}))
    host.remove(folder)


def enter_circuits(host: Host, release: str, leave: str) -> None:
    """Puts the circuits of `release` in place. Another copy of a circuit is kept for the release it belongs to."""
    own, before = host.kept / release, host.placed(release)
    found = {}
    for name in sorted((host.served(release) or set()) | {folder.name for folder in host.folders(own, "model_*")}):
        folder = own / name if (own / name).is_dir() else _elsewhere(host, name, before.get(name))
        if folder.exists():
            found[name] = folder
    # First: an interrupted run must not forget whose they are.
    placed = {name: folder.stat().st_ino for name, folder in found.items()}
    host.write(host.opt / "releases" / release / PLACED, json.dumps(placed))
    for name, folder in found.items():
        if folder != (place := host.circuits / name):
            owner = _owner(host, place, release, leave) if place.exists() else ""
            if owner:
                host.move(place, host.kept / owner / name)
            host.move(folder, place)


def _owner(host: Host, folder: Path, enters: str, leaves: str) -> str:
    """The release that a served circuit belongs to: one activated with it, else the one being left, or none."""
    inode = folder.stat().st_ino
    names = [one.name for one in host.releases() if one.name != enters]
    owners = [name for name in names if host.placed(name).get(folder.name) == inode]
    return next(iter([leaves] if leaves in owners else owners), leaves if leaves != enters else "")


def _elsewhere(host: Host, name: str, inode: int | None) -> Path:
    """The folder of a circuit for a release that has no copy of its own."""
    place = host.circuits / name
    others = [folder / name for folder in host.folders(host.kept) if (folder / name).is_dir()]
    same = [one for one in (place, *others) if one.exists() and one.stat().st_ino == inode]
    return next(iter((*same, *([place] if place.exists() else others))), place)


def prune(host: Host, running: str, keep: int, tuned: list[str]) -> None:
    """Keeps `running`, the previous and the newest releases, `keep` in total; removes what no kept one uses."""
    previous = host.opt / "previous"
    in_use = {running} | ({Path(os.readlink(previous)).name} if previous.is_symlink() else set())
    others = [one for one in host.releases() if one.name not in in_use]
    for release in others[max(keep - len(in_use), 0) :]:
        host.remove(release)
    kept = host.releases()
    _prune_circuits(host, running, [one.name for one in kept])
    links = [one / name for one in kept for name in ("venv", "pm2", "sn2-miner")]
    targets = {Path(os.readlink(link)).name for link in links if link.is_symlink()}
    for folder in (*host.folders(host.opt / "venvs"), *host.folders(host.opt / "sn2-miner")):
        if folder.name not in targets:
            host.remove(folder)
    _prune_pm2(host, kept, targets)
    _prune_wallets(host, kept)
    _prune_credentials(host, kept)
    for folder in (*host.folders(host.tuned, "*/circuits"), *host.folders(host.tuned, "*/work")):
        if folder.parent.name not in tuned:
            host.remove(folder)


def _prune_circuits(host: Host, running: str, kept: list[str]) -> None:
    served = host.served(running)
    if served is None:
        return
    wanted = {name: host.placed(name) for name in kept if name != running}
    for release in host.folders(host.kept):
        if release.name in wanted:
            continue
        for folder in host.folders(release, "model_*"):  # of a release that goes: another one may need it
            _keep_or_remove(host, folder, wanted)
        host.remove(release)
    for folder in host.folders(host.circuits, "model_*"):
        if folder.name not in served:
            _keep_or_remove(host, folder, wanted)


def _keep_or_remove(host: Host, folder: Path, wanted: dict[str, dict[str, int]]) -> None:
    for release, placed in wanted.items():
        if placed.get(folder.name) == folder.stat().st_ino:
            host.move(folder, host.kept / release / folder.name)
            return
    host.remove(folder)


def _prune_pm2(host: Host, kept: list[Path], targets: set[str]) -> None:
    place = host.opt / "pm2"
    if not all((one / "pm2").is_symlink() for one in kept):
        return  # one of them is older than the folders that a version has
    programs = set()
    for folder in host.folders(place):
        if folder.name in targets:
            programs.add(Path(os.readlink(folder / "program")).name)
        elif folder.name != "programs":
            host.remove(folder)
    for folder in host.folders(place / "programs"):
        if folder.name not in programs:
            host.remove(folder)
    for name in ("installed", "requirements.lock", "package.json", "package-lock.json"):
        if (place / name).exists():
            host.remove(place / name)


def _prune_wallets(host: Host, kept: list[Path]) -> None:
    texts = [path.read_text() for one in kept if (path := one / "etc/constants.toml").exists()]
    for folder in host.folders(host.wallets):
        if re.search("-[0-9a-f]{12}$", folder.name) and not any(f'name = "{folder.name}"' in text for text in texts):
            host.remove(folder)


def _prune_credentials(host: Host, kept: list[Path]) -> None:
    texts = [path.read_text() for one in kept if (path := one / "etc/constants.toml").exists()]
    in_use = [text for text in texts if _COMPETES.search(text)]
    for file in sorted(host.etc.glob(f"{CREDENTIALS}*")):
        if not any(f'credentials_file = "{file}"' in text for text in in_use):
            host.remove(file)


def _host(given: dict[str, Any], check: bool, done: list[str]) -> Host:
    return Host(Path(given["opt"]), Path(given["state"]), Path(given["etc"]), check, done)


def run(given: dict[str, Any], check: bool, done: list[str]) -> dict[str, Any]:
    """Runs the module's action; each step is added to `done` first, with `check` without running it."""
    host, release = _host(given, check, done), given["release"]
    if given["action"] == "enter":
        return enter(host, release, given["always"], Path(given["commands"]), Path(given["units"]))
    if given["action"] == "passed":
        passed(host, release)
    elif given["action"] == "failed":
        failed(host)
    else:
        prune(host, release, given["keep"], given["tuned"])
    return {}


def main() -> None:
    """Module entry point."""
    from ansible.module_utils.basic import AnsibleModule

    path = {"type": "path", "required": True}
    module = AnsibleModule(
        argument_spec={
            "action": {"type": "str", "choices": ["enter", "passed", "failed", "prune"], "required": True},
            "opt": path,
            "state": path,
            "etc": path,
            "release": {"type": "str", "required": True},
            "always": {"type": "bool", "default": False},
            "keep": {"type": "int", "default": 3},
            "tuned": {"type": "list", "elements": "str", "default": []},
            "commands": {"type": "path", "default": "/usr/local/bin"},
            "units": {"type": "path", "default": "/etc/systemd/system"},
        },
        supports_check_mode=True,
    )
    done: list[str] = []
    try:
        result = run(module.params, module.check_mode, done)
    except (OSError, ValueError, KeyError) as error:
        message = f"the releases below {module.params['opt']} cannot be updated: {error}"
        with contextlib.suppress(OSError, ValueError):
            last = _host(module.params, True, []).last()
            module.fail_json(msg=message, done=done, passed=last["passed"])
        module.fail_json(msg=message, done=done)
    after = "".join(f"{one}\n" for one in done)
    module.exit_json(changed=bool(done), done=done, diff={"before": "", "after": after}, **result)


if __name__ == "__main__":
    main()
