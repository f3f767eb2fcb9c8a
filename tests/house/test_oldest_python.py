"""The package's unit tests on the oldest Python that a supported host has: 3.10, Ubuntu 22.04's.

``tests/unit`` tests the package alone; what runs on the control node, which needs Python 3.11, has ``tests/deploy``.
By default those of its tests run that are not marked slow, but for the files in `SLOWEST`; with ``--long`` all of them.
Without a Python 3.10 on PATH or of pyenv's none do, which the end of the run says.
``tests/python-3.10.lock`` pins what they need besides the package: pytest, pytest-timeout, pytest-xdist, hypothesis,
jsonschema, boto3, jinja2, pyyaml, moto[s3], flask and flask-cors. It is made by ``uv pip compile --python-version 3.10
--generate-hashes --no-header --no-annotate --no-emit-index-url`` with ``-c`` for each of the package's two locks.
"""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pythons import find_python

ROOT = Path(__file__).parents[2]
VERSION = "3.10"
LOCKS = [ROOT / "files/miner/requirements.lock", ROOT / "files/miner/tune.lock", ROOT / "tests/python-3.10.lock"]
SLOWEST = ["test_tune_compact.py"]
"""A minute of arithmetic in numpy and onnxruntime, in which no two Pythons differ."""


def environment_of(python: str) -> Path:
    """A virtual environment with the package's pinned dependencies; kept until a lock or the Python changes."""
    digest = hashlib.sha256(b"".join([lock.read_bytes() for lock in LOCKS] + [python.encode()])).hexdigest()
    place = ROOT / ".cache" / f"python-{VERSION}"
    if not (place / digest).exists():
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run(["uv", "venv", "--quiet", "--python", python, place], check=True)
        named = [argument for lock in LOCKS for argument in ("-r", str(lock))]
        target = ["--quiet", "--python", str(place / "bin/python")]
        subprocess.run(["uv", "pip", "install", *target, "--require-hashes", *named], check=True)
        (place / digest).touch()
    return place / "bin/python"


def test_the_packages_unit_tests_import_nothing_of_the_control_nodes() -> None:
    names = {
        name.partition(".")[0]
        for file in (ROOT / "tests/unit").glob("*.py")
        for node in ast.walk(ast.parse(file.read_bytes()))
        for name in ([one.name for one in node.names] if isinstance(node, ast.Import)
                     else [node.module or ""] if isinstance(node, ast.ImportFrom) else [])
    }  # fmt: skip
    assert "pytest" in names
    assert names.isdisjoint({"ansible", "molecule"})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_packages_unit_tests_pass_on_the_oldest_python(long_forms: bool) -> None:
    python = find_python(VERSION)
    if python is None:
        pytest.skip(f"NOT TESTED on Python {VERSION}, which the package promises: there is none here; install one")
    chosen = [] if long_forms else ["--fast", *(f"--ignore-glob=*/{name}" for name in SLOWEST)]
    result = subprocess.run(
        [environment_of(python), "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *chosen,
         "--hypothesis-profile=shortest", "tests/unit"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "files/miner/src")},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
