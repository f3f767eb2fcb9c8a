"""What a proof needs, over circuits with small and large keys: memory, the RAM disk, disk.

    .venv/bin/python bench/needs.py [--circuit NAME ...] [--proofs 5] [--json FILE|-]

Each circuit is built first (reported too), then proved in two separate processes: one as EZKL
leaves it, once, and one that keeps its memory as the miner's workers do, `--proofs` times. Told are the most resident
memory of each, and the bytes of a request's session files. `omron_miner/circuits/needs.json` holds what was made of it.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from bench_circuits import CACHE, RECIPES, Recipe, bench_circuit
from omron_miner.circuits.circuit import BUILD, Circuit
from omron_miner.circuits.examples import example_inputs
from omron_miner.circuits.inputs import validate_inputs
from omron_miner.circuits.load import load_circuit
from omron_miner.constants import Sessions
from omron_miner.host import peak_memory
from omron_miner.proving.proof_handlers import get_handler
from omron_miner.proving.session_storage import SessionStorage
from omron_miner.proving.steps import Stopwatch, make_witness, prove_witness
from omron_miner.proving.warm_up import keep_memory
from reporting import Command, host_facts, json_option, say, say_table, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from omron_miner.proving.proof_handlers import ProofHandler

CIRCUITS = RECIPES | {
    "tiny14": Recipe("tiny", {"logrows": 14}, "few cells, more rows"),
    "tiny17": Recipe("tiny", {"logrows": 17}, "few cells, many rows"),
    "demo15": Recipe("demo", {"logrows": 15, "lookup_range": [-16000, 16000]}, "two blocks of columns"),
    "demo17": Recipe("demo", {"logrows": 17}, "one block, half of it empty"),
    "demo18": Recipe("demo", {"logrows": 18, "num_inner_cols": 2}, "the largest key, some 1.2 GiB"),
}


@dataclass(frozen=True)
class Need:
    """What one circuit was seen to take, bytes."""

    logrows: int
    rows: int
    instances: int
    pk_bytes: int
    folder_bytes: int
    build_peak_bytes: int
    peak_bytes: int
    """Memory of a process that proved once, with glibc's default memory handling."""
    kept_first_bytes: int
    """Of one that keeps its memory, after the first proof."""
    kept_peak_bytes: int
    """Of the same after all proofs."""
    session_bytes: int


def _prove(directory: Path, srs_directory: Path, times: int, keep: bool) -> tuple[list[int], int]:
    """Resident memory at most after each of `times` proofs in this process, and the bytes of a session's files."""
    if keep:
        keep_memory()
    circuit = load_circuit(directory)
    handler, peaks, session_bytes = get_handler(circuit.proof_system, srs_directory), [], 0
    place = CACHE / "needs-sessions"
    storage = SessionStorage(Sessions(directory=place, fallback_directory=place, minimum_free_bytes=0))
    for seed in range(times):
        session_bytes = max(session_bytes, _prove_once(circuit, handler, storage, seed))
        peaks.append(peak_memory())
    return peaks, session_bytes


def _prove_once(circuit: Circuit, handler: ProofHandler, storage: SessionStorage, seed: int) -> int:
    rows = validate_inputs(circuit, example_inputs(circuit, seed))
    with storage.session() as session:
        watch = Stopwatch()
        make_witness(handler, circuit, rows, session, watch.phase)
        prove_witness(handler, circuit, rows, session, watch.phase)
        return sum(file.stat().st_size for file in session.directory.iterdir())


def _elsewhere(directory: Path, srs_directory: Path, times: int, keep: bool) -> tuple[list[int], int]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_prove, directory, srs_directory, times, keep).result()


def _measure(name: str, proofs: int) -> Need:
    bench = bench_circuit(name, CIRCUITS[name])
    circuit, srs = bench.circuit, bench.circuits.srs_directory
    [alone], session_bytes = _elsewhere(circuit.directory, srs, 1, keep=False)
    kept, _ = _elsewhere(circuit.directory, srs, proofs, keep=True)
    settings = circuit.settings
    built = json.loads((circuit.directory / BUILD).read_text(encoding="utf-8"))
    return Need(
        settings.logrows,
        settings.num_rows,
        sum(settings.input_sizes or ()) + sum(settings.output_sizes),
        bench.pk_bytes,
        sum(file.stat().st_size for file in circuit.directory.iterdir()),
        built["peak_memory_bytes"],
        alone,
        kept[0],
        max(kept),
        session_bytes,
    )


@click.command(cls=Command, help=__doc__.partition("\n")[0])
@click.option("--circuit", "names", type=click.Choice(list(CIRCUITS)), multiple=True, help="All if not given.")
@click.option("--proofs", type=click.IntRange(min=1), default=5, show_default=True, help="In one process.")
@json_option
def main(names: tuple[str, ...], proofs: int, json_file: str | None) -> None:
    """Measures one circuit after another and reports each immediately."""
    found: dict[str, Need] = {}
    for name in names or CIRCUITS:
        found[name] = _measure(name, proofs)
        say(f"{name}: {asdict(found[name])}")
    head = ["circuit", "logrows", "key", "build", "proof", "kept, first", "kept", "kept/key", "session"]
    rows = [
        [
            name,
            f"{one.logrows}",
            *(
                f"{value / 2**20:.0f} MiB"
                for value in (one.pk_bytes, one.build_peak_bytes, one.peak_bytes, one.kept_first_bytes)
            ),
            f"{one.kept_peak_bytes / 2**20:.0f} MiB",
            f"{one.kept_peak_bytes / one.pk_bytes:.2f}",
            f"{one.session_bytes / 2**20:.2f} MiB",
        ]
        for name, one in found.items()
    ]
    say_table(head, rows)
    circuits = {name: asdict(one) for name, one in found.items()}
    write_json({"bench": "needs", "host": host_facts(), "proofs": proofs, "circuits": circuits}, json_file)


if __name__ == "__main__":
    sys.exit(main())
