"""Which layer of the package may import which, and that importing does nothing else."""

from __future__ import annotations

import ast
import importlib
import os
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
LAYERS = (
    *("ground floor", "host", "page", "circuits", "chain", "proving", "provers", "building", "competition", "serving"),
    *("live", "monitor", "tune", "doctor", "cli"),
)
"""Each may import itself and those before it. The ground floor is the modules that are in no folder."""
MONITOR_MAY_IMPORT = {
    *("ground floor", "host", "page", "monitor"),
    *("circuits.circuit", "circuits.folders", "circuits.needs", "live.miner_log", "provers.status"),
}
NEVER_IMPORTS = {"doctor": "monitor"}
"""What the doctor reads of a host is in `host`."""
MEASURED_PARTS = {
    *(
        ("keys", "tune.ask_ezkl"),
        ("live", "live.lightning"),
        ("needs", "proving.warm_up"),
        ("serving", "serving.protocol"),
    ),
    *(("onnx_tools", f"tune.{one}") for one in ("ask_ezkl", "graph", "passes", "running", "samples")),
    *(("provers", f"provers.{one}") for one in ("hosts", "multi_host_pool", "prover_service")),
    ("settings", "proving.warm_up"),
}
"""What a bench takes from inside a layer, because it measures it."""
EXCEPTIONS = {("__main__", "cli"): "starts the command line"}
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(node: ast.AST, for_types: bool = False) -> Iterator[str]:
    """What is imported anywhere in `node`, in functions too; `for_types`: also what only the type checker reads.

    Of our own modules as ``module.name``, of others the module.
    """
    if isinstance(node, ast.If) and not for_types and "TYPE_CHECKING" in ast.dump(node.test):
        return
    if isinstance(node, ast.Import):
        yield from (one.name for one in node.names)
    if isinstance(node, ast.ImportFrom) and node.module:
        names = [f"{node.module}.{one.name}" for one in node.names]
        yield from names if node.module.startswith("omron_miner") else [node.module]
    for child in ast.iter_child_nodes(node):
        yield from imports_of(child, for_types)


def ours(imported: str) -> str | None:
    """The module of the package that the dotted name is or lies in, without the package's name."""
    name = imported.removeprefix("omron_miner.")
    if name == imported:
        return None
    folder = name.rpartition(".")[0]
    return next((one for one in (name, f"{name}.__init__", folder, f"{folder}.__init__") if one in MODULES), None)


def layer_of(module: str) -> str:
    return module.partition(".")[0] if "." in module else "ground floor"


@cache
def imports(for_types: bool = False) -> dict[str, list[str]]:
    """By module. Read by the tests that ask for it: parsing all of the package takes seconds."""
    return {name: sorted(set(imports_of(ast.parse(path.read_text()), for_types))) for name, path in MODULES.items()}


@cache
def edges(for_types: bool = True) -> set[tuple[str, str]]:
    """Importer and imported."""
    return {(name, found) for name, imported in imports(for_types).items() for one in imported if (found := ours(one))}


def faces_passed(importer: str, imported: str) -> Iterator[str]:
    """For each folder that the importer enters by importing the name: the folder's part of it, e.g. ``proving.prover``.

    `importer` is a module, or empty for what lies in no layer; `imported` is without the package's name.
    """
    parts = imported.split(".")
    for depth in range(1, len(parts)):
        folder = ".".join(parts[:depth])
        if f"{folder}.__init__" in MODULES and not f"{importer}.".startswith(f"{folder}."):
            yield ".".join(parts[: depth + 1])


@cache
def face() -> set[str]:
    """All names in `__all__` of layers and of folders in layers; not the commands, which are never imported."""
    folders = {name.removesuffix(".__init__") for name in MODULES if name.endswith(".__init__")} - {"cli"}
    return {f"{one}.{name}" for one in folders for name in importlib.import_module(f"omron_miner.{one}").__all__}


def test_every_folder_is_a_layer_with_a_place() -> None:
    assert {layer_of(name) for name in MODULES} <= set(LAYERS)


def test_no_layer_imports_one_above_it() -> None:
    wrong = [
        f"{importer} imports {imported}"
        for importer, imported in sorted(edges())
        if LAYERS.index(layer_of(importer)) < LAYERS.index(layer_of(imported))
        and (importer, layer_of(imported)) not in EXCEPTIONS
    ]
    assert wrong == []


def test_the_doctor_needs_nothing_of_the_monitor() -> None:
    wrong = {edge for edge in edges() if NEVER_IMPORTS.get(layer_of(edge[0])) == layer_of(edge[1])}
    assert wrong == set()


def test_modules_do_not_import_each_other_in_circles() -> None:
    imported_by: dict[str, set[str]] = {}
    for importer, imported in edges():
        imported_by.setdefault(importer, set()).add(imported)
    left = set(imported_by)
    while free := {one for one in left if not imported_by[one] & left}:
        left -= free
    assert left == set(), "these are in circles or above one"


def test_a_folder_is_imported_by_what_its_init_lists_and_by_all_of_it() -> None:
    """`__all__` names what the folder hands on, or its modules where handing on would load what few need."""
    used = {
        passed
        for importer, imported in imports(for_types=True).items()
        for one in imported
        if ours(one) and layer_of(ours(one) or "") not in ("ground floor", "cli")
        for passed in faces_passed(importer, one.removeprefix("omron_miner."))
    }
    assert used == face()


def test_no_module_imports_what_another_layer_keeps_to_itself() -> None:
    wrong = [
        (importer, one)
        for importer, imported in imports(for_types=True).items()
        for one in imported
        if ours(one) and layer_of(ours(one) or "") != layer_of(importer) and one.rpartition(".")[2].startswith("_")
    ]
    assert wrong == []


def test_benches_pass_faces_only_where_they_measure_a_part() -> None:
    benches = PACKAGE.parents[3] / "bench"
    passed = {
        (path.stem, past)
        for path in benches.glob("*.py")
        for one in imports_of(ast.parse(path.read_text()), for_types=True)
        if ours(one) and layer_of(ours(one) or "") not in ("ground floor", "cli")
        for past in faces_passed("", one.removeprefix("omron_miner."))
        if past not in face()
    }
    assert passed == MEASURED_PARTS


def test_the_architecture_lists_the_layers_in_their_order() -> None:
    text = (PACKAGE.parents[3] / "docs/architecture.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    layers = [row.strip().strip("`/") for row in rows if row.strip().endswith("/`")]
    assert tuple(one for one in layers if one in LAYERS) == LAYERS[1:]


def test_the_monitor_imports_little_and_neither_bittensor_nor_ezkl() -> None:
    reached = {name for name in MODULES if layer_of(name) == "monitor"}
    while more := {imported for importer, imported in edges(for_types=False) if importer in reached} - reached:
        reached |= more
    direct = {imported for importer, imported in edges(for_types=False) if layer_of(importer) == "monitor"}
    assert {name for name in direct if not {name, layer_of(name)} & MONITOR_MAY_IMPORT} == set()
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


def loaded_from_outside() -> list[str]:
    """The modules of others that ours import at their top."""
    body = [one for path in MODULES.values() for one in ast.parse(path.read_text()).body]
    found = {name for one in body if isinstance(one, (ast.Import, ast.ImportFrom)) for name in imports_of(one)}
    return sorted(name for name in found if not name.startswith(("omron_miner", "__future__")))


@pytest.mark.slow
def test_importing_any_module_changes_nothing_that_other_code_sees(tmp_path: Path) -> None:
    """What others' modules do when they are imported is not ours: they are imported first.

    The environment is not the one of the tests, which import our modules, too.
    """
    names = [f"omron_miner.{name}".removesuffix(".__init__") for name in MODULES if name != "__main__"]
    program = f"""
import importlib, logging, multiprocessing, os, signal, sys, threading, warnings
queue = multiprocessing.Queue
from omron_miner.chain.sdk import bittensor
assert multiprocessing.Queue == queue
import bittensor.core.axon, bittensor.core.dendrite, bittensor.core.synapse, ezkl
for name in {loaded_from_outside()!r}:
    importlib.import_module(name)
import uvicorn
from async_substrate_interface.sync_substrate import SubstrateInterface
watched = [bittensor.core.axon, bittensor.core.dendrite, bittensor.core.synapse, bittensor.Synapse, bittensor.Axon,
           bittensor.Dendrite, SubstrateInterface, uvicorn.Server, uvicorn.Config, multiprocessing]
loggers = lambda: {{name: (one.level, tuple(one.handlers), tuple(one.filters), one.disabled, one.propagate)
                   for name, one in [("", logging.root), *list(logging.root.manager.loggerDict.items())]
                   if isinstance(one, logging.Logger)}}
def state():
    return ([dict(vars(one)) for one in watched], dict(os.environ), threading.enumerate(), signal.getsignal(15),
            bittensor.logging.current_state, sys.stdout, sys.stderr, sys.excepthook, list(warnings.filters))
before, known = state(), loggers()
for name in {names!r}:
    importlib.import_module(name)
    after = loggers()
    changed = [one for one in known if after[one] != known[one] and not one.startswith("omron_miner")]
    assert state() == before and not changed, (name, changed)
    for own in ("omron_miner", "omron_miner.progress"):
        assert not logging.getLogger(own).handlers, (own, name)
    known = after
"""
    bare = {"PATH": os.defpath, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=bare, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_the_sdk_gets_a_queue_without_semaphores_and_other_threads_their_own() -> None:
    program = """
import multiprocessing, queue, threading
from concurrent.futures import ThreadPoolExecutor
from omron_miner.chain.sdk import bittensor, thread_queues
assert isinstance(bittensor.logging.get_queue(), queue.Queue)
real = type(multiprocessing.Queue())
with thread_queues(), ThreadPoolExecutor(1) as other:
    assert type(multiprocessing.Queue()) is queue.Queue
    assert type(other.submit(lambda: multiprocessing.Queue()).result()) is real
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
