"""The miner role has a host tune a circuit: once, again for another question, and from where an earlier run stopped.

With a stand-in for the tuner; molecule's container tunes for real.
"""

from __future__ import annotations

import getpass
import grp
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from building import FAST_ANSIBLE, MODELS, ROOT
from omron_miner.circuits.accuracy import FLOOR
from omron_miner.tune.samples import _MOST_OWN
from plugin_loading import load_plugin

SHARED: dict[str, Any] = yaml.safe_load((ROOT / "roles/omron/defaults/main.yml").read_text())


plugin = load_plugin("plugins/filter/miner_tune.py")

# --- what is asked for, and what it depends on


def test_options_become_arguments() -> None:
    assert plugin.tune_arguments({"circuit_tune": True}) == []
    options = {"low": -1, "high": 2.5, "floor": 0.9, "best": 1, "proofs": 2, "compact": True, "data": "/photos",
               "baselines": "given", "margin": 1.5}  # fmt: skip
    assert plugin.tune_arguments({"circuit_tune": options}) == [
        "--baselines=given", "--best=1", "--compact", "--floor=0.9", "--high=2.5", "--low=-1", "--margin=1.5",
        "--proofs=2",
    ]  # fmt: skip
    assert plugin.tune_arguments({"circuit_tune": {"compact": False}}) == []


def test_samples_are_those_that_the_tuner_reads(tmp_path: Path) -> None:
    assert plugin._MOST_SAMPLES == _MOST_OWN
    for name in ("b.npy", "a.json", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    given = [str(tmp_path / name) for name in ("a.json", "b.npy")]
    assert plugin.tune_samples({"circuit_tune": {"data": str(tmp_path)}}) == given
    assert plugin.tune_samples({"circuit_tune": {"data": given[0]}}) == given[:1]
    assert plugin.tune_samples({"circuit_tune": True}) == []
    for number in range(40):
        (tmp_path / f"{number:02}.npy").write_bytes(b"x")
    assert len(plugin.tune_samples({"circuit_tune": {"data": str(tmp_path)}})) == _MOST_OWN


def test_the_digest_follows_everything_that_the_result_depends_on(tmp_path: Path) -> None:
    model, other, sample = tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "a.npy"
    for path in (model, other, sample):
        path.write_text(path.name)
    circuit = {"name": "a", "circuit_tune": {"data": str(sample)}}
    asked: list[Any] = [circuit, str(model), {"logrows": 12}, "22.0.1"]
    same = plugin.tune_digest(*asked)
    assert plugin.tune_digest(*asked) == same
    changed: list[Any] = [{**circuit, "circuit_tune": {}}, str(other), {"logrows": 13}, "23.0.5"]
    digests = {plugin.tune_digest(*asked[:at], value, *asked[at + 1 :]) for at, value in enumerate(changed)}
    sample.write_text("another")
    assert len({same, plugin.tune_digest(*asked), *digests}) == 2 + len(changed)


def test_the_digest_of_circuits_follows_the_inventory_and_the_files_it_names(tmp_path: Path) -> None:
    """It is in a release's name: another circuit is another release, which can be gone back from."""
    model, folder = tmp_path / "a.onnx", tmp_path / "model_0"
    folder.mkdir()
    for path in (model, folder / "settings.json"):
        path.write_text("x")
    circuits = [
        {"name": "a", "model": str(model)},
        {"name": "b", "folder": str(folder)},
        {"name": "t", "model": "tiny"},
    ]

    def digest() -> str:
        return str(plugin.circuits_digest(circuits, str(MODELS)))

    seen = [digest()]
    assert digest() == seen[0]
    model.write_text("y")
    seen.append(digest())
    (folder / "settings.json").write_text("y")
    seen.append(digest())
    with (folder / "pk.key").open("wb") as key:
        key.truncate(1 << 24)  # of a large file the size is enough
    seen.append(digest())
    circuits.pop()
    seen.append(digest())
    assert len(set(seen)) == len(seen)


def test_a_model_without_a_file_of_its_answers_needs_onnxruntime_and_a_built_in_one_does_not(tmp_path: Path) -> None:
    own = tmp_path / "own.onnx"
    circuits = [{"name": "a", "model": "demo"}, {"name": "b", "model": "tiny"}, {"name": "c", "folder": "/model_0"}]
    assert plugin.unanswered(circuits, str(MODELS)) == []
    circuits += [{"name": "own", "model": str(own)}]
    assert plugin.unanswered(circuits, str(MODELS)) == ["own"]
    own.with_suffix(".reference.json").write_text("{}")
    assert plugin.unanswered(circuits, str(MODELS)) == []


@pytest.mark.parametrize(
    ("circuit", "floor"),
    [({}, FLOOR), ({"floor": 0}, 0.0), ({"circuit_tune": {"floor": 0.9}}, 0.9), ({"circuit_tune": True}, FLOOR),
     ({"circuit_tune": {"floor": 0.9}, "floor": 0.95}, 0.95)],
)  # fmt: skip
def test_the_floor_is_the_circuits_own_else_the_one_it_is_tuned_to(circuit: dict[str, Any], floor: float) -> None:
    assert plugin.floor({"name": "a", **circuit}) == floor


def test_the_outcome_is_one_line() -> None:
    def one(name: str, seconds: float | None, failure: str = "", *, baseline: bool = True) -> dict[str, Any]:
        return {"name": name, "response_s": seconds, "failure": failure, "baseline": baseline}

    trials = [one("stock", 4.0), one("calibrate accuracy", 3.0, "a sample leaves"), one("stock at logrows 16", None)]
    told = {
        "winner": "candidate 2",
        "trials": [*trials, *(one(f"candidate {n}", n / 4, baseline=False) for n in (1, 2))],
    }
    assert plugin.tune_outcome(told) == "candidate 2 won with 0.50 s for witness and proof (stock 4.00 s)"


# --- the role's tasks, run here

TUNER = """
import json, sys, time
from pathlib import Path

arguments, here = sys.argv[3:], Path(__file__).parent
with (here / "calls.jsonl").open("a") as file:
    file.write(json.dumps(arguments) + "\\n")
behave = json.loads((here / "behave.json").read_text())
if arguments[1] == "build":
    onnx = arguments[arguments.index("--onnx") + 1]
    settings = arguments[arguments.index("--settings") + 1]
    built = here / "built.json"
    what = json.dumps([Path(onnx).read_text(), json.loads(Path(settings).read_text())])
    print(json.dumps({"circuit_id": "ab" * 32, "changed": not built.exists() or built.read_text() != what,
                      "accuracy": 0.999, "compared_samples": 8, "not_compared": ""}))
    built.write_text(what)
else:
    out = Path(arguments[arguments.index("--out") + 1])
    kept = out / "measurements.jsonl"
    behave["kept"] = kept.exists()
    samples = Path(arguments[arguments.index("--data") + 1]) if "--data" in arguments else here
    behave["samples"] = sorted(path.name for path in samples.glob("*.npy"))
    (here / "seen.json").write_text(json.dumps(behave))
    kept.write_text("measured")
    for folder in ("circuits", "work"):
        (out / folder).mkdir(exist_ok=True)
        (out / folder / "pk.key").write_text("large")
    time.sleep(behave.get("seconds", 0))
    if behave.get("error"):
        print("error: there is no room\\n  try: free some", file=sys.stderr)
        sys.exit(behave["error"])
    (out / "model.onnx").write_text("rewritten")
    (out / "run_args.json").write_text(json.dumps({"run_args": {"logrows": 9, "decomp_legs": 3}}))
    for name in ("txt", "json", "svg"):
        (out / f"report.{name}").write_text("report")
    trials = [{"name": "candidate 1", "baseline": False, "failure": "", "response_s": 0.5}]
    print(json.dumps({"winner": "candidate 1", "trials": trials}))
"""
"""Stands in for omron-miner: keeps what it was called with and does what behave.json says."""


class Host:
    """A host below a folder, whose circuits are set up by the role's own tasks."""

    def __init__(self, place: Path) -> None:
        self.place, self.state, self.etc = place, place / "state", place / "etc"
        self.strategy = FAST_ANSIBLE
        for folder in (self.state / "models", self.etc / "circuits", place / "release/etc"):
            folder.mkdir(parents=True)
        (place / "tuner.py").write_text(TUNER)
        self.behave()

    def behave(self, **how: Any) -> None:
        (self.place / "behave.json").write_text(json.dumps(how))

    def seen(self) -> dict[str, Any]:
        """How the stand-in was to behave, and what it found."""
        seen: dict[str, Any] = json.loads((self.place / "seen.json").read_text())
        return seen

    def calls(self) -> list[str]:
        """The stand-in's commands since the last time."""
        path = self.place / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [" ".join(json.loads(line)[:2]) for line in lines]

    def tuned(self) -> list[str]:
        return sorted(path.name for path in (self.state / "tuned/a").iterdir())

    def run(self, circuit_tune: Any, *arguments: str, ok: bool = True, **variables: Any) -> str:
        """What ansible-playbook prints."""
        circuit = {"name": "a", "model": "tiny", "circuit_tune": circuit_tune, **variables.pop("circuit", {})}
        given = SHARED | {
            "omron_etc": str(self.etc),
            "omron_state": str(self.state),
            "omron_user": getpass.getuser(),
            "omron_group": grp.getgrgid(os.getegid()).gr_name,
            "omron_circuits": [circuit],
            "__miner_release": str(self.place / "release"),
            "__miner_command": f"{sys.executable} {self.place / 'tuner.py'} --config none",
            "__miner_shipped_models": str(MODELS),
            "__miner_tune_poll_seconds": 1,
            "miner_python": sys.executable,
            "ansible_python_interpreter": sys.executable,
            "ansible_become": False,
            **variables,
        }
        role = {"ansible.builtin.include_role": {"name": "miner", "tasks_from": "circuits.yml"}}
        done = play(self.place, given, [role], *arguments, strategy=self.strategy)
        text = " ".join((done.stdout + done.stderr).split())
        assert (done.returncode == 0) is ok, done.stdout + done.stderr
        return text


def play(
    place: Path, given: dict[str, Any], tasks: list[dict[str, Any]], *more: str, strategy: dict[str, str] = FAST_ANSIBLE
) -> subprocess.CompletedProcess[str]:
    (place / "given.json").write_text(json.dumps(given))
    playbook = place / "play.yml"
    here = {"hosts": "localhost", "connection": "local", "gather_facts": False}
    playbook.write_text(yaml.safe_dump([{**here, "tasks": tasks}]))
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    config = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_ROLES_PATH": str(ROOT / "roles")}
    environment = {**os.environ, **config, **strategy, "ANSIBLE_PIPELINING": "1"}
    return subprocess.run(
        [program, "-i", "localhost,", str(playbook), "--diff", "-e", f"@{place / 'given.json'}", *more],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="the role becomes the service user: run bin/test with sudo")
OPTIONS = {"best": 1, "proofs": 2}


@as_root
@pytest.mark.slow
def test_a_circuit_is_tuned_once_and_what_wins_is_built(tmp_path: Path) -> None:
    host, data = Host(tmp_path), tmp_path / "data"
    data.mkdir()
    (data / "one.npy").write_text("1")
    options = {**OPTIONS, "data": str(data)}
    said = host.run(options, "--check")
    assert "Tunes a on the host, for at most 14400 s" in said
    assert host.calls() == []
    assert not (host.state / "tuned").exists()

    said = host.run(options, circuit={"run_args": {"logrows": 12}})
    assert host.calls() == ["circuit tune", "circuit build"]
    assert host.seen() == {"kept": False, "samples": ["one.npy"]}
    folder = host.state / "tuned/a"
    assert f"a: candidate 1 won with 0.50 s for witness and proof; the report is {folder}/report.txt" in said
    kept = ["measurements.jsonl", "model.onnx", "report.json", "report.svg", "report.txt", "run_args.json"]
    assert host.tuned() == kept
    assert list((host.state / "supplied/samples").iterdir()) == []
    model, settings = json.loads((tmp_path / "built.json").read_text())
    assert model == "rewritten"
    sources = {name: settings["sources"][name] for name in ("logrows", "decomp_legs", "decomp_base")}
    assert sources == {"logrows": "inventory", "decomp_legs": "tuned profile", "decomp_base": "built-in model"}
    given = json.loads((host.etc / "circuits/a.given.json").read_text())
    assert given["run_args"]["logrows"] == 12
    assert "tuned profile" not in given["sources"].values()

    assert "changed=0" in host.run(options, circuit={"run_args": {"logrows": 12}})
    assert host.calls() == ["circuit build"]


@as_root
@pytest.mark.slow
def test_a_broken_off_tuning_is_continued_and_another_question_starts_over(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.strategy = {}  # Mitogen ends what runs too long in a way of its own
    host.behave(seconds=120)
    said = host.run(OPTIONS, ok=False, miner_circuit_tune_seconds=12)
    assert re.search(r"a was not tuned: [^.]*\(miner_circuit_tune_seconds is 12\)\. The next play resumes", said)
    assert host.calls() == ["circuit tune"]
    subprocess.run(["flock", "--wait", "20", host.state / "tuned", "true"], check=True)  # nothing is left of it
    host.strategy = FAST_ANSIBLE
    host.behave()
    host.run(OPTIONS)
    assert host.seen()["kept"], "measured before it broke off"
    assert host.calls() == ["circuit tune", "circuit build"]
    host.behave(error=3)
    said = host.run(OPTIONS, ok=False, omron_ezkl_version="23.0.5")
    assert "a was not tuned: error: there is no room try: free some. The next play resumes" in said
    assert not host.seen()["kept"], "measured with another EZKL"
    assert host.calls() == ["circuit tune"]
