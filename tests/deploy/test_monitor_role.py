"""What the monitor's role renders: whom to tell reaches the package as it was given, and the network stays closed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from omron_miner.monitor.alerts import Receivers, read_receivers

ROOT = Path(__file__).parents[2]
UNIT = "omron-miner-monitor.service"


def render(template: str, **variables: Any) -> str:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True)  # noqa: S701
    environment.filters |= {"to_json": json.dumps}
    defaults = yaml.safe_load((ROOT / "roles/monitor/defaults/main.yml").read_text())
    shared = yaml.safe_load((ROOT / "roles/omron/defaults/main.yml").read_text())
    text = (ROOT / "templates" / template).read_text()
    return environment.from_string(text).render({"__monitor_tells": False, **shared, **defaults, **variables})


@pytest.mark.parametrize("url", ["", "https://hooks.example.org/T0/B1?a=b&c='d'#\\u"])
@pytest.mark.parametrize("command", [[], ["/usr/local/bin/page", "--text", 'with "quotes", \\ and ünïcode']])
def test_whom_to_tell_reaches_the_package_as_it_was_given(tmp_path: Path, url: str, command: list[str]) -> None:
    file = tmp_path / "alerts.toml"
    variables = {"monitor_alert_webhook_url": url, "monitor_alert_command": command}
    file.write_text(render("alerts.toml.j2", **variables))
    assert read_receivers(file) == Receivers(url, tuple(command))


def test_the_monitor_has_the_network_only_to_tell_of_alerts() -> None:
    assert "\nRestrictAddressFamilies=none\n" in render(f"units/{UNIT}.j2")
    assert "\nRestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\n" in render(f"units/{UNIT}.j2", __monitor_tells=True)


def test_the_file_of_secrets_is_shown_nowhere_and_read_by_the_service_user_only() -> None:
    (wanted, _) = yaml.safe_load((ROOT / "roles/monitor/tasks/alerts.yml").read_text())
    (task,) = wanted["block"]
    assert (task["no_log"], task["diff"]) == (True, False)
    assert (task["ansible.builtin.template"]["mode"], task["ansible.builtin.template"]["owner"]) == ("0640", "root")
    spec = yaml.safe_load((ROOT / "roles/monitor/meta/argument_specs.yml").read_text())
    assert spec["argument_specs"]["main"]["options"]["monitor_alert_webhook_url"]["no_log"] is True


@pytest.mark.slow
def test_a_wrong_address_is_refused_without_being_shown(tmp_path: Path) -> None:
    urls = {
        "": True,
        "https://hooks.example.org/s3cr3t?x=1": True,
        "http://127.0.0.1:9000/s3cr3t": True,
        "http://localhost/s3cr3t": True,
        "http://hooks.example.org/s3cr3t": False,
        "http://localhost.example.org/s3cr3t": False,
        "https://": False,
        "ftp://example.org/s3cr3t": False,
    }
    hosts = {f"host{number}": {"monitor_alert_webhook_url": url} for number, url in enumerate(urls)}
    inventory, playbook = tmp_path / "inventory.yml", tmp_path / "play.yml"
    inventory.write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    defaults = yaml.safe_load((ROOT / "roles/monitor/defaults/main.yml").read_text())
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/all.yml").write_text(yaml.safe_dump(defaults))
    tasks = ROOT / "roles/monitor/tasks/check_variables.yml"
    play = {
        "hosts": "all",
        "connection": "local",
        "gather_facts": False,
        "tasks": [{"ansible.builtin.import_tasks": str(tasks)}],
    }
    playbook.write_text(yaml.safe_dump([play]))
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-vv", "-i", str(inventory), str(playbook)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    recap = said[said.index("PLAY RECAP") :]
    failed = {name: failed != "0" for name, failed in re.findall(r"^(host\d+) .* failed=(\d+)", recap, re.MULTILINE)}
    assert failed == {f"host{number}": not is_fine for number, is_fine in enumerate(urls.values())}, said
    assert "s3cr3t" not in said
    assert said.count("must begin with https://") >= list(urls.values()).count(False)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize(("tells", "most"), [(False, 20), (True, 25)])
def test_the_units_exposure_stays_low(tmp_path: Path, tells: bool, most: int) -> None:
    """systemd-analyze's score, in tenths."""
    unit = tmp_path / UNIT
    unit.write_text(render(f"units/{UNIT}.j2", __monitor_tells=tells))
    command = ["systemd-analyze", "security", "--offline=yes", f"--threshold={most}", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
