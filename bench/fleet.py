"""How long playbooks/report.yml takes for many hosts, against the limit of a minute for 200.

    .venv/bin/python bench/fleet.py [--hosts 200] [--unreachable 5] [--ssh] [--json FILE|-]

The hosts are folders on this machine with a summary each, made from the tests' samples and of every verdict. They are
read over Ansible's local connection or, with --ssh, over SSH from a server that is started here on a loopback port with
its own keys (Debian: openssh-server). So this machine does the hosts' part as well; yours would not. Some hosts have
a closed port. Timed is the whole command, as an operator runs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench_circuits import ROOT
from reporting import Command, aim, host_facts, json_option, say, say_aims, say_host, write_json

sys.path.append(str(ROOT / "tests/unit"))

from omron_miner.monitor import to_json
from ports import free_port
from summary_samples import bad_summary, empty_summary, sample_summary

if TYPE_CHECKING:
    from collections.abc import Iterator

AIMED_SECONDS = 60.0
_CLOSED_PORT = 9
_START_SECONDS = 10


@click.command(cls=Command)
@click.option("--hosts", type=click.IntRange(1), default=200, show_default=True)
@click.option("--unreachable", type=click.IntRange(0), default=5, show_default=True, help="Hosts with a closed port.")
@click.option("--ssh", is_flag=True, help="Over SSH to this machine.")
@json_option
def main(hosts: int, unreachable: int, ssh: bool, json_file: str | None) -> None:
    """How long the fleet report takes."""
    facts = host_facts()
    say_host(facts)
    with tempfile.TemporaryDirectory(prefix="omron-bench-") as folder, contextlib.ExitStack() as stack:
        place = Path(folder)
        reached = stack.enter_context(_ssh_server(place)) if ssh else {"ansible_connection": "local"}
        inventory = _inventory(place, hosts, unreachable, reached)
        seconds, states = _report(place, inventory)
    aims = [aim("the whole command, s", f"< {AIMED_SECONDS:g}", seconds, seconds < AIMED_SECONDS)]
    say(", ".join(f"{count} {state}" for state, count in states.items() if count))
    say_aims(aims)
    found = {"bench": "fleet", "host": facts, "hosts": hosts, "ssh": ssh, "seconds": seconds, "states": states}
    write_json({**found, "aims": aims}, json_file)


def _inventory(place: Path, hosts: int, unreachable: int, reached: dict[str, Any]) -> Path:
    now = time.time()
    texts = [to_json(replace(one, time=now)) for one in (sample_summary(), bad_summary(), empty_summary())]
    named: dict[str, dict[str, Any]] = {}
    for number in range(hosts):
        name = f"host-{number:03d}"
        if number < unreachable:
            named[name] = {"ansible_host": "127.0.0.1", "ansible_port": _CLOSED_PORT}
            continue
        state = place / name
        state.mkdir()
        (state / "summary.json").write_text(texts[number % len(texts)], encoding="utf-8")
        named[name] = {**reached, "omron_state": str(state)}
    file = place / "inventory.yml"
    file.write_text(json.dumps({"miners": {"hosts": named}}), encoding="utf-8")
    return file


def _report(place: Path, inventory: Path) -> tuple[float, dict[str, int]]:
    """Seconds the play took, and how many hosts it found in which state."""
    program = Path(sys.executable).with_name("ansible-playbook")
    command = [str(program), "playbooks/report.yml", "-i", str(inventory), "-e", f"report_directory={place / 'report'}"]
    begun = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "HOME": str(place)}, capture_output=True, check=False)
    seconds = time.perf_counter() - begun
    try:
        report = json.loads((place / "report/report.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise click.ClickException(f"the play wrote no report: {done.stdout.decode()[-2000:]}") from error
    return seconds, report["states"]


@contextlib.contextmanager
def _ssh_server(place: Path) -> Iterator[dict[str, Any]]:
    """An SSH server on a loopback port; what an inventory says to reach it."""
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(program).exists():
        raise click.ClickException("there is no sshd: apt-get install openssh-server")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / name)], check=True)
    port = free_port()
    Path("/run/sshd").mkdir(exist_ok=True)
    options = {
        "Port": port, "ListenAddress": "127.0.0.1", "HostKey": place / "host", "PidFile": "none", "UsePAM": "no",
        "AuthorizedKeysFile": place / "user.pub", "StrictModes": "no", "PermitRootLogin": "yes", "MaxStartups": "1000",
    }  # fmt: skip
    config = place / "sshd_config"
    config.write_text("".join(f"{name} {value}\n" for name, value in options.items()), encoding="utf-8")
    with subprocess.Popen([program, "-D", "-f", config]) as server:
        try:
            _wait_for(port)
            arguments = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
            yield {
                "ansible_host": "127.0.0.1",
                "ansible_port": port,
                "ansible_ssh_private_key_file": str(place / "user"),
                "ansible_ssh_common_args": arguments,
            }
        finally:
            server.terminate()


def _wait_for(port: int) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise click.ClickException("sshd did not start")


if __name__ == "__main__":
    main()
