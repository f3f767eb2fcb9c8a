"""Selects and orders the tests, and provides circuits that many of them use, each built once per session."""

from __future__ import annotations

import logging
import re
import shutil
from collections import defaultdict
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

import circom_building
from building import MODELS, RunArgsFile, constants_below, render_run_args
from omron_miner.building.build import build_circuit
from omron_miner.circuits.load import load_circuit
from omron_miner.events import LOGGER_NAME
from omron_miner.progress import LineHandler, show

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from omron_miner.circuits.circuit import Circuit
    from omron_miner.constants import Constants

_WORTH_TELLING_SECONDS = 30.0
_SCENARIOS = "tests/system/test_scenarios.py"
_CLOCK = "clock"
_CLOCKED = ("tests/wire/", "tests/unit/test_prover.py")
"""Tests with deadlines of seconds."""
_LONGEST_FIRST = (
    "tests/house/test_oldest_python.py",
    "tests/proving/test_rewrite_soundness.py",
    "tests/house/test_linters.py",
    "tests/proving/test_tune.py",
    "tests/proving/",
    "tests/deploy/",
    "tests/live/",
)
"""Files and folders in this order, before all others. `bin/test` prints the slowest files."""
_ALL_SLOW = re.compile(r"^pytestmark = (?:\[[^\]]*?)?pytest\.mark\.slow\b", re.MULTILINE)

settings.register_profile("short", max_examples=30, deadline=None)
settings.register_profile("shortest", max_examples=5, deadline=None)
settings.register_profile("long", max_examples=200, deadline=None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="skip the tests marked slow")
    parser.addoption("--long", action="store_true", help="run the long versions: soak, fuzz, benchmarks, more examples")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("hypothesis_profile", None):
        settings.load_profile("long" if config.getoption("long") else "short")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --fast a file whose every test is slow is not even imported."""
    whole = config.getoption("fast") and collection_path.suffix == ".py"
    return True if whole and _ALL_SLOW.search(collection_path.read_text(encoding="utf-8")) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = {"slow"} if config.getoption("fast") else set()
    left_out |= set() if config.getoption("long") else {"long"}
    kept = [item for item in items if not any(item.get_closest_marker(name) for name in left_out)]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept


@pytest.fixture(scope="session")
def long_forms(pytestconfig: pytest.Config) -> bool:
    """Whether --long was given."""
    return bool(pytestconfig.getoption("long"))


class _Queues(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Hands the tests to the workers file by file, the longest first.

    `bin/test` starts three workers for two cores, since the two scenarios mostly wait. The virtual machine (one
    emulated processor) and the container (packages, SSH) each have a worker from the first second; the third worker
    runs the other files meanwhile. Tests with deadlines are one queue, so that no two of them run at the same time. The
    worker whose scenario ends first takes this queue; without scenarios it is the first to begin.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file == _SCENARIOS:
            return nodeid.rpartition("[")[2]
        return _CLOCK if file.startswith(_CLOCKED) else file

    def _assign_work_unit(self, node: Any) -> None:
        """Hands out the next in order. The queue of deadlines is kept for a worker that has finished a scenario."""
        may_be_timed = not self._scenarios or bool(self._scenarios & self.assigned_work[node].keys())
        chosen = min(self.workqueue, key=lambda scope: self._rank(scope, may_be_timed))
        self.workqueue.move_to_end(chosen, last=False)
        super()._assign_work_unit(node)

    @cached_property
    def _scenarios(self) -> set[str]:
        return {self._split_scope(nodeid) for nodeid in self.collection or () if nodeid.startswith(_SCENARIOS)}

    def _rank(self, scope: str, may_be_timed: bool) -> tuple[int, int]:
        tests = len(self.workqueue[scope])
        if scope in self._scenarios:
            return -2, tests if scope.startswith("default") else tests + 1
        if scope == _CLOCK:
            return -1 if may_be_timed else len(_LONGEST_FIRST) + 1, 0
        places = [place for place, start in enumerate(_LONGEST_FIRST) if scope.startswith(start)]
        return min(places, default=len(_LONGEST_FIRST)), -tests

    def _reschedule(self, node: Any) -> None:
        """A worker starts its last test only once it has another; what it got earlier would wait behind a long test."""
        if not self.workqueue or self._pending_of(self.assigned_work[node]) < 2:
            super()._reschedule(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Queues:
    """pytest-xdist's own way to groups, a mark, is without effect with pytest 9.2."""
    return _Queues(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """pytest-xdist sends reports as UTF-8, which the half characters that some tests let a caller send are not."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints where the time went. Files of different queues run at the same time, so the sum is more than the whole."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for report in chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            seconds[report.nodeid.partition("::")[0]] += report.duration
    if sum(seconds.values()) < _WORTH_TELLING_SECONDS:
        return
    terminalreporter.section("slowest ten files")
    for name, spent in sorted(seconds.items(), key=lambda one: -one[1])[:10]:
        terminalreporter.write_line(f"{spent:8.1f} s  {name}")


@pytest.fixture(autouse=True)
def _our_log_is_heard() -> None:
    """Importing bittensor sets every logger that exists by then to CRITICAL, whichever test it is that imports it."""
    log = logging.getLogger(LOGGER_NAME)
    if log.level > logging.ERROR:
        log.setLevel(logging.NOTSET)


@pytest.fixture
def progress() -> Iterator[list[str]]:
    """The lines of progress during the test."""
    lines: list[str] = []
    with show(LineHandler(lines.append)):
        yield lines


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
