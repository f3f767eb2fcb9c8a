"""One rewrite from file to file, with its report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from omron_miner.circuits.circuit import ezkl_version
from omron_miner.errors import CircuitError, OmronError
from omron_miner.files import check_output, write_output
from omron_miner.progress import say
from omron_miner.tune.graph import read_graph
from omron_miner.tune.ranges import find_ranges
from omron_miner.tune.rewrite import rewrite
from omron_miner.tune.rewrite_report import Report
from omron_miner.tune.samples import make_feeds

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.circuits.run_args import RunArgs


@dataclass(frozen=True)
class RewriteJob:
    """A request: the model `onnx` rewritten to `out`, for inputs whose numbers are within `low` and `high`."""

    onnx: Path
    out: Path
    data: Path | None
    run_args: RunArgs
    low: float = -1.0
    high: float = 1.0
    seed: int = 0


def rewrite_file(job: RewriteJob) -> Report:
    """Rewrites the model and writes it.

    Raises ConfigError when the model or the data cannot be used, OmronError when `out` or a temporary file cannot be
    written.
    """
    graph = read_graph(job.onnx, dict(job.run_args.variables))
    feeds = make_feeds(graph, job.data, job.low, job.high, job.seed)
    ranges, failure = None, ""
    try:
        check_output(job.out)  # before the work, not after
        done = rewrite(graph, feeds, job.run_args)
        write_output(job.out, done.graph.to_model().SerializeToString(deterministic=True))
        say("ranges ...")
        try:
            ranges = find_ranges(done.graph, job.run_args, feeds, job.low, job.high)
        except CircuitError as error:
            failure = error.message
    except OSError as error:
        raise OmronError(f"cannot write {job.out}: {error}", "check the folder and the free space") from error
    return Report(str(job.onnx), str(job.out), ezkl_version(), job.run_args, tuple(feeds), done, ranges, failure)
