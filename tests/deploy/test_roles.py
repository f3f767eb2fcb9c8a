"""What roles say they take, their defaults, the documentation and the locks cannot drift apart."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tomllib
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from omron_preflight.circuits import EZKL_VERSIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
SHARED: dict[str, Any] = yaml.safe_load((ROOT / "roles/omron/defaults/main.yml").read_text())
TYPES: dict[str, type | tuple[type, ...]] = {
    "bool": bool,
    "int": int,
    "float": (int, float),
    "str": str,
    "path": str,
    "list": list,
    "dict": dict,
    "raw": object,
}


def read(role: str, path: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "roles" / role / path).read_text()) or {}


def options(role: str) -> dict[str, dict[str, Any]]:
    [spec] = read(role, "meta/argument_specs.yml")["argument_specs"].values()
    found: dict[str, dict[str, Any]] = spec["options"]
    return found


def yaml_files(role: str) -> list[Path]:
    return sorted((ROOT / "roles" / role).rglob("*.yml"))


def test_the_roles_of_the_house_are_there() -> None:
    tuned = {"swap", "shm", "cpu_governor", "kernel", "clock", "firewall"}
    assert tuned | {"preflight", "pm2", "miner", "monitor"} <= set(ROLES)


@pytest.mark.parametrize("role", ROLES)
def test_argument_specs_and_defaults_hold_the_same_variables(role: str) -> None:
    required = {name for name, option in options(role).items() if option.get("required")}
    given = {name for name in read(role, "defaults/main.yml") if not name.startswith("ansible_")}
    assert set(options(role)) - required == given


@pytest.mark.parametrize("role", ROLES)
def test_argument_specs_and_defaults_hold_the_same_values(role: str) -> None:
    defaults = read(role, "defaults/main.yml")
    for name, option in options(role).items():
        assert option.get("default") == defaults[name], name


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_is_typed_described_and_of_its_type(role: str) -> None:
    defaults = read(role, "defaults/main.yml")
    for name, option in options(role).items():
        assert option.get("description"), name
        assert option.get("type") in TYPES, name
        if isinstance(value := defaults.get(name), str) and "{{" in value:
            continue  # what it stands for is only known in a play
        assert isinstance(value, TYPES[option["type"]]), name
        assert option["type"] == "bool" or not isinstance(value, bool), name


@pytest.mark.parametrize("role", ROLES)
def test_a_role_has_a_switch_that_is_on_and_prefixes_what_it_takes(role: str) -> None:
    # omron has no task, and omron_engine is the switch of upstream's miner.
    assert role in ("omron", "sn2_miner") or options(role)[f"{role}_enabled"]["default"] is True
    assert all(name.startswith(f"{role}_") for name in options(role))


def expressions(node: Any, key: str = "") -> Iterator[str]:
    """What Ansible evaluates in a task file: every string and key, but of texts for people only what is in braces."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield str(name)
            yield from expressions(value, str(name))
    elif isinstance(node, list):
        for value in node:
            yield from expressions(value, key)
    elif isinstance(node, str) and key in {"name", "msg", "fail_msg", "success_msg"}:
        yield from re.findall(r"\{[{%].*?[%}]\}", node, re.DOTALL)
    else:
        yield str(node)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_uses_no_other_roles_variables(role: str) -> None:
    others = {name for other in ROLES if other not in (role, "omron") for name in options(other)}
    for path in yaml_files(role):
        if path.parent.name != "meta":  # a description may name what another role takes
            used = set(re.findall(r"\b[a-z_0-9]+\b", "\n".join(expressions(yaml.safe_load(path.read_text())))))
            assert not others & used, path


def test_a_text_that_stands_for_a_number_or_a_boolean_is_taken_as_that_wherever_it_is_used() -> None:
    """``-e`` and an inventory in the INI format give texts: ``"false"`` is true to Jinja, ``"30" + 30`` an error."""
    kinds = {name: option["type"] for role in ROLES for name, option in options(role).items()}
    booleans = "|".join(name for name, kind in kinds.items() if kind == "bool")
    numbers = "|".join(name for name, kind in kinds.items() if kind in ("int", "float"))
    raw = re.compile(rf"\b({booleans})\b(?!\W*\| *bool)|\b({numbers}) *[-+*/%<>=]|[-+*/%<>=] *({numbers})\b(?! *\|)")
    tasks = [path for role in ROLES for path in yaml_files(role) if path.parent.name in ("tasks", "vars", "handlers")]
    used = {path: expressions(yaml.safe_load(path.read_text())) for path in (*tasks, *ROOT.glob("playbooks/*.yml"))}
    for path in (*ROOT.glob("templates/**/*.j2"), *ROOT.glob("roles/*/templates/*.j2")):
        used[path] = iter(re.findall(r"\{[{%].*?[%}]\}", path.read_text(), re.DOTALL))
    assert [
        (str(path), found.group())
        for path, texts in used.items()
        for text in texts
        if text not in kinds  # the key of a task's variable
        for found in raw.finditer(text)
    ] == []


@pytest.mark.parametrize("role", ROLES)
def test_a_shared_variable_that_a_role_uses_has_a_default(role: str) -> None:
    for path in yaml_files(role):
        used = set(re.findall(r"\bomron_[a-z0-9_]+\b", path.read_text()))
        plugins = ("preflight", "releases", "variables", "host_record", "target", "asked")
        used -= {"omron_miner", *(f"omron_{name}" for name in plugins)}
        assert used <= set(SHARED), path


def test_a_playbooks_own_variables_have_a_specification_and_are_used() -> None:
    specs = yaml.safe_load((ROOT / "playbooks/meta/argument_specs.yml").read_text())["argument_specs"]
    for playbook, spec in specs.items():
        text = (ROOT / f"playbooks/{playbook}.yml").read_text()
        used = set(re.findall(rf"\b(?<!/)({playbook}_\w+|confirm)\b(?!\.yml)", text))
        assert used == set(spec["options"]), playbook
        assert all(one["description"] and one["type"] in TYPES for one in spec["options"].values())


def test_the_documentation_is_what_the_specs_say() -> None:
    command: list[str | Path] = [sys.executable, ROOT / "docs/generate_role_variables.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_ezkl_that_preflight_lets_through_is_pinned_by_a_lock_and_allowed_by_the_package() -> None:
    package = ROOT / "files/miner"
    default = SHARED["omron_ezkl_version"]
    for lock in (package / "requirements.lock", ROOT / "requirements.lock"):
        assert re.findall(r"^ezkl==(\S+) ", lock.read_text(), re.MULTILINE) == [default], lock
    others = {path.stem.removeprefix("ezkl-"): path.read_text() for path in package.glob("ezkl-*.lock")}
    for version, text in others.items():
        assert re.fullmatch(rf"ezkl=={re.escape(version)}( \\\n    --hash=sha256:[0-9a-f]{{64}})+\n", text), version
    assert {default, *others} == set(EZKL_VERSIONS)
    dependencies = re.findall(r'"(ezkl[^"]+)"', (package / "pyproject.toml").read_text())
    [requirement] = map(Requirement, dependencies)
    published = ["21.0.3", "22.0.1", "22.1.7", "22.2.1", "22.2.4", "22.3.0", "23.0.2", "23.0.3", "23.0.5", "23.0.6"]
    assert set(requirement.specifier.filter(published)) == {default, *others}


def pins(path: Path) -> list[tuple[Requirement, set[str]]]:
    """What a lock of uv's pins, with the checksums; nothing else may stand in it."""
    text = path.read_text().replace("\\\n    ", "")
    assert re.fullmatch(r"(\S+==\S+( ; [^\n]*?)?( --hash=sha256:[0-9a-f]{64})+\n)+", text), path
    parted = [line.split(" --hash=sha256:") for line in text.splitlines()]
    return [(Requirement(pin.strip()), set(hashes)) for pin, *hashes in parted]


DASK = {"cloudpickle", "dask", "distributed", "fsspec", "jinja2", "locket", "markupsafe", "partd", "sortedcontainers"}
EXTRAS = {
    "tune": {"flatbuffers", "ml-dtypes", "onnx", "onnxruntime", "protobuf"},
    "live": {
        *("dnspython", "email-validator", "id", "markdown-it-py", "mdurl", "platformdirs", "pyelftools", "pygments"),
        *("pyjwt", "rfc3161-client", "rfc8785", "rich", "securesystemslib", "sigstore", "sigstore-models"),
        *("sigstore-rekor-types", "tuf"),
    },
    "provers": DASK | {"tblib", "toolz", "tornado", "zict"},
}
ON_OLD_PYTHONS = {
    ("tune", "3.10"): {"coloredlogs", "humanfriendly", "mpmath", "sympy"},  # of the last onnxruntime for Python 3.10
    ("live", "3.10"): {"importlib-resources"},
    ("provers", "3.10"): {"importlib-metadata", "zipp"},
    ("provers", "3.11"): {"importlib-metadata", "zipp"},
}


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extras_lock_goes_on_top_of_the_hosts_and_is_what_the_tests_run_with(extra: str, python: str) -> None:
    """Made of the extra's packages by uv, as the other locks, from 3.10 on and without what the host's lock has."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}

    def on(path: str) -> dict[str, tuple[Requirement, set[str]]]:
        there = [
            (pin, hashes) for pin, hashes in pins(ROOT / path) if not pin.marker or pin.marker.evaluate(environment)
        ]
        found = {pin.name: (pin, hashes) for pin, hashes in there}
        assert len(found) == len(there), "a package is pinned twice"
        return found

    lock, host, control = on(f"files/miner/{extra}.lock"), on("files/miner/requirements.lock"), on("requirements.lock")
    assert set(lock) == EXTRAS[extra] | ON_OLD_PYTHONS.get((extra, python), set())
    assert not set(lock) & set(host)
    if python != "3.10":  # the control node's lock begins with 3.11
        for name, (pin, hashes) in lock.items():
            assert (pin.specifier, hashes) == (control[name][0].specifier, control[name][1]), name


def test_the_control_nodes_lock_pins_everything_that_pyproject_asks_for_in_a_version_it_allows() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = map(Requirement, [*pyproject["project"]["dependencies"], *pyproject["dependency-groups"]["dev"]])
    pinned: dict[str, list[str]] = {}
    for pin, _ in pins(ROOT / "requirements.lock"):
        [version] = pin.specifier
        pinned.setdefault(canonicalize_name(pin.name), []).append(version.version)
    for one in asked:
        if one.name != "omron-miner":  # in this repository
            found = pinned.get(canonicalize_name(one.name), [])
            assert found, one.name
            assert list(one.specifier.filter(found)) == found, one.name


def test_pm2s_locks_pin_every_file_by_checksum_and_name_no_registry() -> None:
    files = ROOT / "roles/pm2/files"
    pins = [line for line in (files / "requirements.lock").read_text().splitlines() if line and line[0] != "#"]
    assert pins
    assert all(re.fullmatch(r"\S+==\S+ --hash=sha256:[0-9a-f]{64}", pin) for pin in pins)
    wanted = json.loads((files / "package.json").read_text())["dependencies"]
    packages: dict[str, dict[str, Any]] = json.loads((files / "package-lock.json").read_text())["packages"]
    assert packages.pop("")["dependencies"] == wanted
    assert packages["node_modules/pm2"]["version"] == wanted["pm2"]
    for name, package in packages.items():
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name


@pytest.mark.slow
def test_the_shm_role_refuses_yamls_traps_before_it_changes_anything(tmp_path: Path) -> None:
    traps = {
        "on": "is the YAML boolean true",
        "no": "is the YAML boolean false",
        '"on"': "is not a size",
        "16GB": "is not a size",
        "1000000T": "more than the",
    }
    inventory, playbook = tmp_path / "inventory.yml", tmp_path / "shm.yml"
    hosts = "".join(f"    host{number}: {{shm_size: {value}}}\n" for number, value in enumerate(traps))
    inventory.write_text(f"all:\n  hosts:\n{hosts}")
    playbook.write_text(
        "- hosts: all\n  connection: local\n  gather_facts: true\n  roles: [shm]\n  vars: {omron_state: /nonexistent}\n"
    )
    command: list[str | Path] = [BIN / "ansible-playbook", "-i", inventory, playbook, "--check"]
    environment = {
        "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(tmp_path),
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "LANG": "C.UTF-8",
    }
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    for number, (value, said) in enumerate(traps.items()):
        [told] = re.findall(
            rf"^\[?(?:fatal|failed): \[host{number}\].*?(?=^\S+: \[|\Z|^\[ERROR\]|^PLAY)", done.stdout, re.M | re.S
        )
        assert said in " ".join(told.split()), value
    assert "shm : Record the original state" not in done.stdout


def test_no_name_in_a_shared_temporary_folder_can_be_known_before() -> None:
    """Who plants a link under it would have root write elsewhere: the module tempfile makes up a name."""
    folders = ("roles", "playbooks", "templates", "plugins", "bin")
    files = [path for name in folders for path in (ROOT / name).rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert len(files) > 100
    shared = re.compile(r"(?<![\w.])/(var/)?tmp\b|TMPDIR")
    assert [(str(path), found.group()) for path in files for found in shared.finditer(path.read_text())] == []
