"""Which room of the package may import which, and that importing does nothing else."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import omron_miner

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(omron_miner.__file__).parent
ROOMS = (
    *("ground floor", "host", "page", "circuits", "chain", "proving", "provers", "building", "competition", "serving"),
    *("live", "monitor", "tune", "doctor", "cli"),
)
"""Each may import itself and those before it. The ground floor is the modules that are in no folder."""
MONITOR_MAY_IMPORT = {
    *("ground floor", "host", "page", "monitor"),
    *("circuits.circuit", "circuits.needs", "live.miner_log", "provers.status"),
}
NEVER_IMPORTS = {"doctor": "monitor"}
"""What the doctor reads of a host is in `host`."""
EXCEPTIONS = {("__main__", "cli"): "starts the command line"}
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(node: ast.AST) -> Iterator[str]:
    """The modules imported anywhere in `node`, in functions too, but not those only for the type checker."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return
    if isinstance(node, ast.Import):
        yield from (one.name for one in node.names)
    if isinstance(node, ast.ImportFrom) and node.module:
        names = [f"{node.module}.{one.name}" for one in node.names]
        yield from names if node.module.startswith("omron_miner") else [node.module]
    for child in ast.iter_child_nodes(node):
        yield from imports_of(child)


def ours(imported: str) -> str | None:
    """The module of the package that the dotted name is or lies in, without the package's name."""
    name = imported.removeprefix("omron_miner.")
    if name == imported:
        return None
    return next((one for one in (name, f"{name}.__init__", name.rpartition(".")[0]) if one in MODULES), None)


def room_of(module: str) -> str:
    return module.partition(".")[0] if "." in module else "ground floor"


@cache
def imports() -> dict[str, list[str]]:
    """By module. Read by the tests that ask for it: parsing all of the package takes seconds."""
    return {name: sorted(set(imports_of(ast.parse(path.read_text())))) for name, path in MODULES.items()}


@cache
def edges() -> set[tuple[str, str]]:
    """Importer and imported."""
    return {(name, found) for name, imported in imports().items() for one in imported if (found := ours(one))}


def test_every_folder_is_a_room_with_a_place() -> None:
    assert {room_of(name) for name in MODULES} <= set(ROOMS)


def test_no_room_imports_one_above_it() -> None:
    wrong = [
        f"{importer} imports {imported}"
        for importer, imported in sorted(edges())
        if ROOMS.index(room_of(importer)) < ROOMS.index(room_of(imported))
        and (importer, room_of(imported)) not in EXCEPTIONS
    ]
    assert wrong == []


def test_the_doctor_needs_nothing_of_the_monitor() -> None:
    wrong = {edge for edge in edges() if NEVER_IMPORTS.get(room_of(edge[0])) == room_of(edge[1])}
    assert wrong == set()


def test_a_room_is_imported_by_what_its_init_lists_and_by_all_of_it() -> None:
    """`__all__` names what the room hands on, or its public modules where handing on would load EZKL or bittensor."""
    listed, used = set(), set()
    for room in set(ROOMS) - {"ground floor", "cli"}:
        names = importlib.import_module(f"omron_miner.{room}").__all__
        listed |= {
            f"{room}.{name}" for name in names if f"{room}.{name}" in MODULES or (PACKAGE / room / name).is_dir()
        }
    for importer, imported in edges():
        if room_of(imported) not in ("ground floor", "cli", room_of(importer)) and imported.count(".") > 0:
            used.add(".".join(imported.split(".")[:2]))
    assert {one for one in used if not one.endswith(".__init__")} == listed


def test_the_monitor_imports_little_and_neither_bittensor_nor_ezkl() -> None:
    reached = {name for name in MODULES if room_of(name) == "monitor"}
    while more := {imported for importer, imported in edges() if importer in reached} - reached:
        reached |= more
    direct = {imported for importer, imported in edges() if room_of(importer) == "monitor"}
    assert {name for name in direct if not {name, room_of(name)} & MONITOR_MAY_IMPORT} == set()
    imported = {(name, one) for name in reached for one in imports()[name]}
    heavy = {pair for pair in imported if pair[1].startswith(("bittensor", "ezkl", "torch"))}
    assert heavy == set()


def test_only_the_engine_of_the_prover_hosts_imports_dask_and_only_when_it_runs() -> None:
    importers = {
        name for name in MODULES if any(one.split(".")[0] in ("dask", "distributed") for one in imports()[name])
    }
    assert importers == {"provers.dask_client", "provers.dask_server", "provers.dask_setup"}
    for name in importers:
        body = ast.parse(MODULES[name].read_text()).body
        loaded = [found for one in body if isinstance(one, (ast.Import, ast.ImportFrom)) for found in imports_of(one)]
        assert not any(one.startswith(("dask", "distributed")) for one in loaded), name


@pytest.mark.slow
def test_importing_any_module_changes_nothing_that_other_code_sees() -> None:
    """What the SDK itself does when it is imported is not ours: it is imported first.

    `circuits.onnx_runtime` sets one variable, which onnxruntime reads when it is loaded and at no other time.
    """
    names = [f"omron_miner.{name}".removesuffix(".__init__") for name in MODULES if name != "__main__"]
    program = f"""
import importlib, logging, os, signal, sys, threading, warnings
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import bittensor, bittensor.core.axon, bittensor.core.dendrite, bittensor.core.synapse, uvicorn, ezkl, onnxruntime
from async_substrate_interface.sync_substrate import SubstrateInterface
watched = [bittensor.core.axon, bittensor.core.dendrite, bittensor.core.synapse, bittensor.Synapse, bittensor.Axon,
           bittensor.Dendrite, SubstrateInterface, uvicorn.Server, uvicorn.Config]
loggers = lambda: {{name: (one.level, one.handlers, one.disabled) for name, one in
                   [("", logging.root), *list(logging.root.manager.loggerDict.items())]
                   if isinstance(one, logging.Logger)}}
def state():
    return ([dict(vars(one)) for one in watched], dict(os.environ), threading.enumerate(), signal.getsignal(15),
            bittensor.logging.current_state, sys.stdout, sys.stderr, sys.excepthook)
before, known = state(), loggers()
for name in {names!r}:
    importlib.import_module(name)
    after = loggers()
    changed = [one for one in known if after[one] != known[one]]
    assert state() == before and not changed, (name, changed)
    for own in ("omron_miner", "omron_miner.progress"):
        assert not logging.getLogger(own).handlers, (own, name)
    known = after
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
