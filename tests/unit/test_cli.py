"""The command line: exit codes, what goes to which stream, and that the monitor stays light."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from building import MODELS
from circuit_folders import write_circuit, write_srs
from monitor_samples import request, write_events
from omron_miner import __version__
from omron_miner.cli import main
from omron_miner.events import FailureKind, to_json


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "constants.toml"
    file.write_text(f'log = {{directory = "{tmp_path}"}}\nmonitor = {{directory = "{tmp_path}"}}\n')
    return file


def test_the_version_is_the_packages() -> None:
    assert CliRunner().invoke(main, ["--version"]).output == f"omron-miner, version {__version__}\n"


def test_an_unknown_command_is_a_usage_error() -> None:
    assert CliRunner().invoke(main, ["dance"]).exit_code == 2


def test_right_constants_pass(config: Path) -> None:
    done = CliRunner().invoke(main, ["check-constants", str(config)])
    assert (done.exit_code, done.output) == (0, f"{config}: ok\n")


def test_wrong_constants_end_with_2_and_a_message_on_stderr_that_names_the_key(config: Path) -> None:
    config.write_text("[axon]\nprot = 8091\n")
    done = CliRunner().invoke(main, ["check-constants", str(config)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "axon.prot" in done.stderr
    assert "  try: " in done.stderr


def test_missing_constants_end_with_2(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--config", str(tmp_path / "none.toml"), "monitor"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "none.toml" in done.stderr


def test_the_monitor_writes_both_files_and_prints_only_on_request(config: Path) -> None:
    done = CliRunner().invoke(main, ["--config", str(config), "monitor"])
    assert (done.exit_code, done.output) == (0, "")
    assert json.loads((config.parent / "summary.json").read_text())["schema_version"] == 2
    assert (config.parent / "summary.txt").read_text().splitlines()[0]


def test_the_summary_reports_that_the_miner_cannot_write_its_log(config: Path) -> None:
    (config.parent / "miner.log").touch(mode=0o400)
    done = CliRunner().invoke(main, ["--config", str(config), "monitor", "--json"])
    assert "the miner cannot write its log: miner.log" in " ".join(json.loads(done.stdout)["verdict"]["warnings"])


def test_the_monitor_prints_what_it_writes(config: Path) -> None:
    text = CliRunner().invoke(main, ["--config", str(config), "monitor", "--print"])
    assert text.output == (config.parent / "summary.txt").read_text()
    machine = CliRunner().invoke(main, ["--config", str(config), "monitor", "--json"])
    assert machine.output == (config.parent / "summary.json").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_becomes_the_owner_of_the_logs_and_no_child_can_go_back() -> None:
    """Else the service user, in a directory with the sticky bit, could never replace what root wrote."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are root's alone
        folder, user, group = Path(name), 65_533, 65_532
        (folder / "alerts.toml").write_text(f'command = ["/bin/sh", "-c", "cat /proc/self/status > {folder}/status"]\n')
        config = folder / "constants.toml"
        config.write_text(
            f'log = {{directory = "{folder}"}}\n'
            f'monitor = {{directory = "{folder}", alert_file = "{folder}/alerts.toml"}}\n'
        )
        failed = request(time=time.time(), failure=FailureKind.VERIFICATION_FAILED)
        (folder / "events.jsonl").write_text(to_json(failed) + "\n")
        os.chown(folder, user, group)
        # Counter.most_common loads heapq late, when a Python below /root can no longer be read.
        program = "import heapq; from omron_miner.cli import main; main()"
        command = [sys.executable, "-c", program, "--config", str(config), "monitor"]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert (folder / "summary.json").stat().st_uid == user
        lines = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
    assert lines["Uid"].split() == [str(user)] * 4
    assert lines["Gid"].split() == [str(group)] * 4
    assert lines["Groups"].split() == [str(group)]
    assert int(lines["CapPrm"], 16) == int(lines["CapEff"], 16) == 0


def test_text_with_json_is_a_usage_error(config: Path) -> None:
    assert CliRunner().invoke(main, ["--config", str(config), "monitor", "--print", "--json"]).exit_code == 2


def test_missed_targets_do_not_fail_the_monitor_which_did_its_job(config: Path) -> None:
    write_events(config.parent / "events.jsonl", [request(verified=False)])
    assert CliRunner().invoke(main, ["--config", str(config), "monitor"]).exit_code == 0


def test_a_summary_that_cannot_be_written_fails_with_one_message(config: Path) -> None:
    (config.parent / "summary.json").mkdir()
    done = CliRunner().invoke(main, ["--config", str(config), "monitor"])
    assert done.exit_code == 1
    assert done.stderr.splitlines()[0].startswith(f"error: cannot write {config.parent}/summary.json: ")
    assert len(done.stderr.splitlines()) == 2


def test_a_directory_that_is_not_there_fails_with_one_message(config: Path) -> None:
    missing = config.parent / "missing"
    config.write_text(f'monitor = {{directory = "{missing}"}}\n')
    done = CliRunner().invoke(main, ["--config", str(config), "monitor"])
    assert done.exit_code == 1
    assert done.stderr.splitlines()[0].startswith(f"error: cannot use the history {missing}/monitor.sqlite: ")
    assert len(done.stderr.splitlines()) == 2


PROBE = """
import json, re, sys
from omron_miner.cli import main
main(sys.argv[1:], standalone_mode=False)
heavy = sorted({"bittensor", "ezkl", "numpy", "torch"} & set(sys.modules))
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
print(json.dumps({"heavy": heavy, "peak_kib": int(peak)}))
"""


def probe(config: Path, command: str) -> dict[str, Any]:
    """The cost of one run of a command, in a separate process."""
    arguments = [sys.executable, "-c", PROBE, "--config", str(config), command]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    cost: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return cost


@pytest.mark.parametrize("command", ["monitor", "doctor"])
def test_watching_loads_neither_bittensor_nor_ezkl_nor_numpy(config: Path, command: str) -> None:
    assert probe(config, command)["heavy"] == []


def test_a_run_of_the_monitor_needs_little_memory(config: Path) -> None:
    write_events(config.parent / "events.jsonl", [request(request_id=str(number)) for number in range(2000)])
    assert probe(config, "monitor")["peak_kib"] < 60_000  # about 38 000


@pytest.mark.parametrize("command", [("list",), ("list", "--json"), ("sync",), ("check", "--circuit", "any")])
def test_a_folder_of_circuits_that_cannot_be_read_is_not_one_without_circuits(
    config: Path, command: tuple[str, ...]
) -> None:
    directory = config.parent / "circuits"
    config.write_text(f'circuits = {{directory = "{directory}"}}\n')
    missing = CliRunner().invoke(main, ["--config", str(config), "circuit", *command])
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert f"error: {directory} does not exist" in missing.stderr
    directory.touch()
    wrong = CliRunner().invoke(main, ["--config", str(config), "circuit", *command])
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert f"error: cannot read {directory}: Not a directory" in wrong.stderr


@pytest.mark.parametrize("buffering", ["", "1"])
@pytest.mark.parametrize("asked", ["--help", "--version", "circuit --help", "check-constants", "monitor --print"])
def test_a_full_disk_below_stdout_is_one_message(config: Path, asked: str, buffering: str) -> None:
    file = [str(config)] if asked == "check-constants" else []
    command = [sys.executable, "-m", "omron_miner", "--config", str(config), *asked.split(), *file]
    with open("/dev/full", "w", encoding="utf-8") as full:
        environment = {**os.environ, "PYTHONUNBUFFERED": buffering}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (1, "error: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("command", [("rewrite",), ("tune",)])
def test_an_output_that_cannot_be_written_is_a_failure_not_a_wrong_argument(
    config: Path, command: tuple[str, ...]
) -> None:
    asked = ["circuit", *command, str(MODELS / "tiny.onnx"), "--out", str(config / "new")]
    done = CliRunner().invoke(main, ["--config", str(config), *asked])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "error: cannot write" in done.stderr
    assert "free space" in done.stderr


def test_a_file_that_verify_cannot_read_is_named(config: Path) -> None:
    circuit = write_circuit(config.parent)
    srs = write_srs(config.parent / "srs").parent
    config.write_text(f'circuits = {{directory = "{config.parent}", srs_directory = "{srs}"}}\n')
    (config.parent / "proof").write_text("{}")
    asked = ["verify", "--circuit", circuit.name.removeprefix("model_"), "--proof", str(config.parent / "proof")]
    done = CliRunner().invoke(main, ["--config", str(config), *asked, "--public", str(config.parent / "signals")])
    assert done.exit_code == 1
    assert f"error: cannot read the public signals {config.parent / 'signals'}: " in done.stderr


@pytest.mark.parametrize(
    "asked", ["build --name a --onnx b --settings c", "check --circuit a", "sync", "tune a --out b"]
)
def test_a_checksum_of_no_srs_file_is_a_usage_error(config: Path, asked: str) -> None:
    done = CliRunner().invoke(main, ["--config", str(config), "circuit", *asked.split(), "--srs-sha256", "0" * 64])
    assert done.exit_code == 2
    assert "--srs-sha256 is for --srs-file" in done.stderr


@pytest.mark.parametrize(
    "asked",
    [
        "live release install v1 --into releases --url http://[",
        "live release install v1 --into releases --url http://host:port",
        "live circuits sync --cache cache --url http://[",
        "query --transport http --host ..",
        "query --transport axon --host ..",
        "query --miner-hotkey 5abc",
        "query --miner-hotkey \udcff",
    ],
)
def test_an_address_or_hotkey_that_is_none_is_one_message(config: Path, asked: str) -> None:
    done = CliRunner().invoke(main, ["--config", str(config), *asked.split()])
    assert done.exit_code in (1, 2)
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 2


def test_the_monitor_shows_a_file_whose_name_is_not_utf8(config: Path) -> None:
    done = CliRunner().invoke(main, ["--config", str(config), "monitor", "--json", "--sn2-log", "/\udcff"])
    assert done.exit_code == 0
    assert "no log at /\udcff" in json.loads(done.stdout)["verdict"]["text"]
    assert (config.parent / "summary.json").read_text() == done.stdout


@pytest.mark.parametrize("asked", ["evaluate a --model b --count", "tune a --out b --best", "tune a --out b --proofs"])
def test_numbers_that_no_host_can_work_off_are_usage_errors(config: Path, asked: str) -> None:
    done = CliRunner().invoke(main, ["--config", str(config), "circuit", *asked.split(), "99999999999999999999"])
    assert done.exit_code == 2
    assert "is not in the range" in done.stderr


@pytest.mark.slow
def test_a_home_folder_is_not_needed(config: Path) -> None:
    command = [sys.executable, "-m", "omron_miner", "--config", str(config), "query"]
    environment = {**os.environ, "HOME": "/dev/null/home"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot read the hotkey"), done.stderr
