"""What a tuning is asked for, and what it comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from omron_miner.building.build import Source
from omron_miner.circuits.run_args import RunArgs
from omron_miner.tune.search import SAMPLED_MARGIN
from omron_miner.tune.trial import TARGETS, Limits

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.building.build import BuildResult
    from omron_miner.competition.score import Standing
    from omron_miner.tune.results import Trial

PUBLIC = RunArgs(input_visibility="Public", param_visibility="Fixed")
"""What is not searched, by default: visibilities as in today's validators' circuits, the rest EZKL's own."""


@dataclass(frozen=True)
class Job:
    """What is asked for: the model `onnx` tuned into the folder `out`; inputs hold numbers within `low` and `high`."""

    onnx: Path
    out: Path
    data: Path | None = None
    base: RunArgs = PUBLIC
    low: float = -1.0
    high: float = 1.0
    seed: int = 0
    floor: float = 0.99
    best: int = 4
    proofs: int = 3
    limits: Limits = field(default_factory=Limits)
    stock: RunArgs = PUBLIC
    """The baseline that is known as stock, whose visibilities and variables become those of `base`."""
    compact: bool = False
    """Whether the compact arithmetic is tried too."""
    calibrations: tuple[str, ...] = TARGETS
    """Targets of EZKL's calibrate_settings to measure as well."""
    baselines: str = "all"
    """What candidates are compared with. all: EZKL's own run args, one logrows less, calibrate_settings' and those
    given; given: the last alone."""
    srs: Source = field(default_factory=Source)
    goal: str = "time"
    """What the winner is best in: time, of a response, or score, a competition's."""
    reference: Standing | None = None
    """The competition's circuit to beat."""
    free_visibilities: bool = False
    """Whether the visibilities of inputs and parameters may be other than those of `base`, where that is cheaper."""
    margin: float = SAMPLED_MARGIN
    """How many times what samples reach tables hold where they are sized by samples."""

    @property
    def work(self) -> Path:
        """The folder of what is removed at the end."""
        return self.out / "work"


@dataclass(frozen=True)
class Tuned:
    """Everything measured, the winner and the circuit built of it; both None when nothing passes."""

    job: Job
    samples: int
    trials: list[Trial]
    winner: Trial | None
    built: BuildResult | None
