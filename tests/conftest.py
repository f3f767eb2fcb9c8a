"""Fixtures that need real EZKL work: a tiny circuit and its twin with another weight, each built once a session."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from xdist.scheduler import LoadScopeScheduling

import circom_building
from building import MODELS, RunArgsFile, constants_below, render_run_args
from omron_miner.circuit import load_circuit
from omron_miner.circuit_build import build_circuit
from omron_miner.events import LOGGER_NAME

if TYPE_CHECKING:
    from collections.abc import Generator

    from omron_miner.circuit import Circuit
    from omron_miner.constants import Constants

_BESIDE = ("house", "unit")
"""Folders whose tests use one core or less."""


class _TwoQueues(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """What uses all cores, or looks at the clock, stays one after another; the rest runs beside it, file by file."""

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0])
        return file.name if file.parent.name in _BESIDE else "proofs and systems"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _TwoQueues:
    """pytest-xdist's own way to groups, a mark, is without effect with pytest 9.2."""
    return _TwoQueues(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """pytest-xdist sends reports as UTF-8, which the half characters that some tests let a caller send are not."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def _our_log_is_heard() -> None:
    """Importing bittensor sets every logger that exists by then to CRITICAL, whichever test it is that imports it."""
    log = logging.getLogger(LOGGER_NAME)
    if log.level > logging.ERROR:
        log.setLevel(logging.NOTSET)


@pytest.fixture
def run_args_file(tmp_path: Path) -> RunArgsFile:
    """Writes a settings file as the role would; one per test."""

    def write(model: str, **run_args: Any) -> Path:
        path = tmp_path / "run.settings.json"
        path.write_text(render_run_args(model, **run_args))
        return path

    return write


@pytest.fixture(scope="session")
def proving_constants(tmp_path_factory: pytest.TempPathFactory) -> Constants:
    """Constants whose every directory is a temporary one; network local."""
    return constants_below(tmp_path_factory.mktemp("miner"))


@pytest.fixture(scope="session")
def tiny_circuit(proving_constants: Constants, tmp_path_factory: pytest.TempPathFactory) -> Circuit:
    """tiny.onnx, built, proved and verified (a few seconds); its proofs take under a second."""
    settings = tmp_path_factory.mktemp("settings") / "tiny.settings.json"
    settings.write_text(render_run_args("tiny"))
    built = build_circuit("tiny", MODELS / "tiny.onnx", settings, proving_constants)
    return load_circuit(Path(built.directory))


@pytest.fixture(scope="session")
def altered_circuit(proving_constants: Constants, tmp_path_factory: pytest.TempPathFactory) -> Circuit:
    """The tiny model with one number changed, built with the same run args and the same SRS.

    It is a bias of an output: a weight after a Relu changes nothing where that is 0.
    """
    import onnx  # here: most tests need neither it nor this
    from onnx import numpy_helper

    place = tmp_path_factory.mktemp("altered")
    model = onnx.load(MODELS / "tiny.onnx")
    (bias,) = [one for one in model.graph.initializer if one.name == "output.dense.bias"]
    values = numpy_helper.to_array(bias).copy()
    values[0] += 0.5
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    onnx.save(model, place / "altered.onnx")
    settings = place / "altered.settings.json"
    settings.write_text(render_run_args("tiny"))
    constants = constants_below(place)
    shutil.copytree(proving_constants.circuits.srs_directory, constants.circuits.srs_directory)
    return load_circuit(Path(build_circuit("altered", place / "altered.onnx", settings, constants).directory))


@pytest.fixture(scope="session")
def circom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CIRCOM circuit's folder, compiled and keyed for tests (some seconds); copy it to change it."""
    place = tmp_path_factory.mktemp("circom_circuit")
    return circom_building.build(place / "circuits", items=4, bits=36, power=9, work=place / "work")
