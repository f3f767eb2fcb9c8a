"""The request of a tuning, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from omron_miner.building.build import Source
from omron_miner.circuits.accuracy import FLOOR
from omron_miner.circuits.run_args import RunArgs
from omron_miner.tune.search import SAMPLED_MARGIN
from omron_miner.tune.trial import TARGETS, Limits

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.building.build import BuildResult
    from omron_miner.competition.score import CircuitMetrics
    from omron_miner.tune.results import Trial

PUBLIC = RunArgs(input_visibility="Public", param_visibility="Fixed")
"""Default of run args that are not searched: visibilities as in current validators' circuits, the rest EZKL's own."""


@dataclass(frozen=True)
class Sampling:
    """The inputs that models are run on: those of `data`, or random ones; all hold numbers within `low` and `high`."""

    data: Path | None = None
    low: float = -1.0
    high: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Search:
    """Which candidates are searched for, and how many of them are measured."""

    best: int = 4
    compact: bool = False
    """Whether the compact arithmetic is tried too."""
    free_visibilities: bool = False
    """Whether the visibilities of inputs and parameters may be other than those of `base`, where that is cheaper."""
    margin: float = SAMPLED_MARGIN
    """Where tables are sized by samples: their size as a multiple of what samples reach."""


@dataclass(frozen=True)
class Baselines:
    """The baselines that candidates are compared with."""

    which: str = "all"
    """all: EZKL's own run args, the same at logrows − 1, calibrate_settings' and the given ones; given: only those."""
    stock: RunArgs = PUBLIC
    """The baseline that is known as stock, whose visibilities and variables become those of `base`."""
    calibrations: tuple[str, ...] = TARGETS
    """Targets of EZKL's calibrate_settings to measure as well."""


@dataclass(frozen=True)
class Goal:
    """The requirements for the winner."""

    name: str = "time"
    """The criterion: `time` (of a response) or `score` (of a competition)."""
    floor: float = FLOOR
    """Minimum mean accuracy."""
    reference: CircuitMetrics | None = None
    """The competition's circuit to beat."""


@dataclass(frozen=True)
class Job:
    """A request: the model `onnx` tuned into the folder `out`."""

    onnx: Path
    out: Path
    base: RunArgs = PUBLIC
    sampling: Sampling = field(default_factory=Sampling)
    search: Search = field(default_factory=Search)
    baselines: Baselines = field(default_factory=Baselines)
    goal: Goal = field(default_factory=Goal)
    proofs: int = 3
    limits: Limits = field(default_factory=Limits)
    srs: Source = field(default_factory=Source)

    @property
    def work(self) -> Path:
        """The temporary folder, removed at the end."""
        return self.out / "work"


@dataclass(frozen=True)
class Tuned:
    """Everything measured, the winner and the circuit built from it; both None when no candidate passes."""

    job: Job
    samples: int
    trials: list[Trial]
    winner: Trial | None
    built: BuildResult | None
