"""ONNX housekeeping by others' optimizers compared with our own passes: nodes and cells, before the passes that stay.

    .venv/bin/python bench/onnx_tools.py [demo|tiny|mlp|conv-net|gemm-norm|MODEL.onnx ...] [--cells] [--tools FOLDER]

Housekeeping is what `tune.passes` does before its rewrites: constants, attributes, pads, BatchNormalization. Each row
is one way to do it, followed by the same remaining passes. The difference is onnxruntime's, to the model as given, over
the tuner's samples. Cells are EZKL's own count at its own run args, minutes for a large model, so only with --cells and
once for models of the same nodes and shapes. The tools are not among our dependencies: put onnxslim, onnxsim and
onnxscript into a folder (``pip install --target FOLDER``) and name it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench_circuits import ROOT  # first: it leads to the tests' helpers
from building import MODELS
from omron_miner.circuits.run_args import RunArgs
from omron_miner.errors import CircuitError
from omron_miner.tune.ask_ezkl import circuit_size
from omron_miner.tune.graph import Graph, read_graph
from omron_miner.tune.passes import EXACT
from omron_miner.tune.running import difference, run_model
from omron_miner.tune.samples import make_feeds
from reporting import Command, host_facts, json_option, say, say_host, say_table, write_json

sys.path.append(str(ROOT / "tests/unit"))
from tune_models import conv_net, graph, mlp, node, weights

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx


def _gemm_norm(path: Path) -> None:
    """A dense layer that is normalised, and a convolution that leaves its strides to ONNX's default."""
    names = ["factor", "offset", "mean", "variance"]
    nodes = [
        node("Conv", ["x", "w"], ["c"], auto_pad="SAME_UPPER"),
        node("Flatten", ["c"], ["f"]),
        node("Gemm", ["f", "dense"], ["l"], transB=1),
        node("BatchNormalization", ["l", *names], ["y"]),
    ]
    constants = {name: abs(weights(8)) for name in names} | {"w": weights(3, 2, 3, 3), "dense": weights(8, 3 * 6 * 6)}
    path.write_bytes(graph(nodes, constants, (1, 2, 6, 6)).to_model().SerializeToString())


FAMILIES = {"mlp": mlp, "conv-net": conv_net, "gemm-norm": _gemm_norm}
HEAD = ("model", "housekeeping", "nodes", "at the end", "batch norms", "cells", "difference", "seconds", "failure")
RUN_ARGS = RunArgs(input_visibility="Public", param_visibility="Fixed")
HOUSEKEEPING = {"fold-constants", "write-attributes", "fold-pads", "fold-batch-norm"}
STAYING = tuple(one for one in EXACT if one.name not in HOUSEKEEPING)


def _onnxslim(model: onnx.ModelProto) -> Any:
    return importlib.import_module("onnxslim").slim(model)


def _onnxsim(model: onnx.ModelProto) -> Any:
    made, checked = importlib.import_module("onnxsim").simplify(model)
    if not checked:
        raise ValueError("onnxsim's own check fails")
    return made


def _onnxscript(model: onnx.ModelProto) -> Any:
    optimized = importlib.import_module("onnxscript.optimizer").optimize(model)
    return importlib.import_module("onnxscript.rewriter").rewrite(optimized)


TOOLS: dict[str, Callable[[onnx.ModelProto], Any]] = {
    "onnxslim": _onnxslim,
    "onnxsim": _onnxsim,
    "onnxscript": _onnxscript,
}


@click.command(cls=Command)
@click.argument("models", nargs=-1)
@click.option("--cells", is_flag=True, help="Have EZKL count the cells, too.")
@click.option("--tools", type=click.Path(path_type=Path), help="Folder that the tools were installed into.")
@json_option
def main(models: tuple[str, ...], cells: bool, tools: Path | None, json_file: str | None) -> None:
    """Compare others' ONNX optimizers with our own housekeeping passes."""
    if tools:
        sys.path.append(str(tools))
    host, rows = host_facts(), []
    for name in models or ("demo", "tiny", "conv-net", "gemm-norm"):
        rows += _measure(name, cells)
    say_host(host)
    say_table(HEAD, [tuple(str(row[one]) for one in HEAD) for row in rows])
    if json_file:
        write_json({"bench": "onnx_tools", "host": host, "rows": rows}, json_file)


def _measure(name: str, cells: bool) -> list[dict[str, Any]]:
    rows, counts = [], dict[Any, int | str]()
    with tempfile.TemporaryDirectory(prefix="omron-bench-onnx-") as place:
        path = _model(name, Path(place))
        given = read_graph(path, dict(RUN_ARGS.variables))
        feeds = list(make_feeds(given, None, -1.0, 1.0, 0).values())
        expected = run_model(given, feeds)
        for what in ("none", "ours", *TOOLS):
            say(f"{name}: {what} ...")
            row: dict[str, Any] = dict.fromkeys(HEAD, "") | {"model": name, "housekeeping": what}
            begun = time.perf_counter()
            try:
                graph = _by(TOOLS[what], given, Path(place)) if what in TOOLS else given.copy()
                row["nodes"] = len(graph.nodes)
                for one in EXACT if what == "ours" else STAYING:
                    one.run(graph)
                row["seconds"] = f"{time.perf_counter() - begun:.1f}"
                row["at the end"] = len(graph.nodes)
                row["batch norms"] = sum(node.op_type == "BatchNormalization" for node in graph.nodes)
                row["difference"] = f"{difference(run_model(graph, feeds), expected):.1e}"
                if cells:
                    row["cells"] = _count(graph, counts)
            except Exception as error:  # one tool's failure is a result
                row["failure"] = f"{type(error).__name__}: {str(error)[:120]}"
            if what in TOOLS:
                row["housekeeping"] = f"{what} {_version(what)}"
            say(f"  {row}")
            rows.append(row)
    return rows


def _count(graph: Graph, counts: dict[Any, int | str]) -> int | str:
    """EZKL's count of cells; what it says of models of the same nodes and shapes is not asked again."""
    key = tuple(sorted((node.op_type, str([graph.shape(name) for name in node.output])) for node in graph.nodes))
    if key not in counts:
        try:
            counts[key] = circuit_size(graph, RUN_ARGS).cells
        except CircuitError as error:
            counts[key] = f"refused: {error.message[:60]}"
    return counts[key]


def _by(tool: Callable[[onnx.ModelProto], Any], given: Graph, place: Path) -> Graph:
    path = place / "tool.onnx"
    path.write_bytes(tool(given.copy().to_model()).SerializeToString())
    return read_graph(path)


def _model(name: str, place: Path) -> Path:
    if name in FAMILIES:
        FAMILIES[name](place / f"{name}.onnx")
        return place / f"{name}.onnx"
    return MODELS / f"{name}.onnx" if name in ("demo", "tiny") else Path(name)


def _version(tool: str) -> str:
    try:
        return importlib.metadata.version(tool)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    main()
