"""The circuits to measure: built once, by the product's own builder, and kept in ``.cache/bench``.

They use an SRS generated here (the local network's), so their proofs are invalid elsewhere; their cost is the same.
Each has a separate folder, because a miner serves every circuit of its folder.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

from building import MODELS, render_run_args  # noqa: E402  the tests' way to the run args that the role renders
from omron_miner.building.build import build_circuit  # noqa: E402
from omron_miner.circuits.circuit import ezkl_version  # noqa: E402
from omron_miner.circuits.load import load_circuit  # noqa: E402
from omron_miner.circuits.srs import srs_path  # noqa: E402
from omron_miner.constants import Circuits, Constants, Log, Sessions  # noqa: E402

if TYPE_CHECKING:
    from omron_miner.circuits.circuit import Circuit

CACHE = ROOT / ".cache" / "bench"


@dataclass(frozen=True)
class Recipe:
    """A model of ours and how its run args differ from what the role renders for it."""

    model: str
    run_args: dict[str, Any]
    about: str


RECIPES = {
    "tiny": Recipe("tiny", {}, "a perceptron: proofs under a second, so milliseconds show"),
    "demo": Recipe("demo", {}, "the circuit a new host proves"),
    "large": Recipe(
        "demo", {"logrows": 17, "num_inner_cols": 2}, "the demo's model with a proving key over 500 MiB (625 MiB)"
    ),
}


@dataclass(frozen=True)
class BenchCircuit:
    """A circuit that is on disk, and the constants that lead to it."""

    name: str
    circuit: Circuit
    circuits: Circuits
    pk_bytes: int

    def facts(self) -> dict[str, Any]:
        """Facts about it that a reader of the results should know."""
        return {
            "id": self.circuit.id,
            "logrows": self.circuit.settings.logrows,
            "rows": self.circuit.settings.num_rows,
            "pk_bytes": self.pk_bytes,
            "about": RECIPES[self.name].about,
        }

    def warm_page_cache(self) -> None:
        """Reads everything a proof reads, so that the first request does not pay for the disk."""
        srs = srs_path(self.circuits.srs_directory, self.circuit.settings.logrows)
        for path in (srs, *self.circuit.directory.iterdir()):
            with path.open("rb") as file:
                while file.read(1 << 22):
                    pass


def bench_circuit(name: str, recipe: Recipe | None = None) -> BenchCircuit:
    """The circuit `name` of `RECIPES`, or of `recipe`, built now unless it was before (`large`: some minutes).

    Raises OmronError when it cannot be built.
    """
    recipe = recipe or RECIPES[name]
    place = CACHE / f"{name}-ezkl-{ezkl_version()}"
    place.mkdir(parents=True, exist_ok=True)
    run_args = place / "run_args.json"
    run_args.write_text(render_run_args(recipe.model, **recipe.run_args), encoding="utf-8")
    constants = Constants(
        circuits=Circuits(directory=place / "circuits", srs_directory=CACHE / "srs", ezkl_directory=CACHE / "ezkl"),
        sessions=Sessions(
            directory=place / "sessions", fallback_directory=place / "sessions-on-disk", minimum_free_bytes=0
        ),
        log=Log(directory=place),
    )
    built = build_circuit(name, MODELS / f"{recipe.model}.onnx", run_args, constants)
    circuit = load_circuit(Path(built.directory))
    return BenchCircuit(name, circuit, constants.circuits, circuit.pk.stat().st_size)
