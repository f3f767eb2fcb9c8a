"""First step of tuning: samples, the model's answers to them, and the rewritten model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from omron_miner.circuits.constant_output import is_constant
from omron_miner.errors import ConfigError
from omron_miner.files import write_output
from omron_miner.tune.graph import read_graph
from omron_miner.tune.ranges import Magnitudes
from omron_miner.tune.rewrite import rewrite
from omron_miner.tune.running import run_model
from omron_miner.tune.samples import make_feeds

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.tune.graph import Graph
    from omron_miner.tune.job import Job
    from omron_miner.tune.running import Feed

USUAL = ("own", "augmented", "uniform", "normal")
"""Kinds of samples other than extremes, in the order in which they are proved."""


@dataclass(frozen=True)
class Model:
    """A model for trials: its graph, the file it is written to, and the range of its values."""

    graph: Graph
    path: Path
    magnitudes: Magnitudes


@dataclass(frozen=True)
class Prepared:
    """Data shared by all trials. `rows` and `expected` have an entry per sample, in the order of `feeds`."""

    given: Model
    rewritten: Model
    feeds: dict[str, Feed]
    rows: list[list[list[float]]]
    """A list per input of the model."""
    expected: list[list[float]]
    """The given model's outputs, all in one list."""


def prepare(job: Job) -> Prepared:
    """Reads the model, makes samples and rewrites it. Raises ConfigError or OSError."""
    graph = read_graph(job.onnx, dict(job.base.variables))
    feeds = _own_first(make_feeds(graph, job.sampling.data, job.sampling.low, job.sampling.high, job.sampling.seed))
    names = [one.name for one in graph.inputs]
    rows = [[feed[name].ravel().tolist() for name in names] for feed in feeds.values()]
    answers = run_model(graph, list(feeds.values()))
    expected = [[float(number) for output in one for number in output.ravel()] for one in answers]
    if is_constant(expected):
        raise ConfigError(f"{job.onnx} gives the same output for every sample", "train the model, or give other --data")
    rewritten = rewrite(graph, feeds, job.base).graph
    return Prepared(
        given=_write(job, "given", graph, feeds),
        rewritten=_write(job, "rewritten", rewritten, feeds),
        feeds=feeds,
        rows=rows,
        expected=expected,
    )


def _write(job: Job, name: str, graph: Graph, feeds: dict[str, Feed]) -> Model:
    path = job.out / f"{name}.onnx"
    write_output(path, graph.to_model().SerializeToString(deterministic=True))
    return Model(graph, path, Magnitudes(graph, feeds, job.sampling.low, job.sampling.high))


def _own_first(feeds: dict[str, Feed]) -> dict[str, Feed]:
    """The operator's inputs, as given and augmented, then random ones, then extremes: the first ones are proved."""

    def rank(item: tuple[str, Feed]) -> int:
        return next((at for at, kind in enumerate(USUAL) if item[0].startswith(kind)), len(USUAL))

    return dict(sorted(feeds.items(), key=rank))
