"""A Groth16 proof of a CIRCOM circuit: ours, with the keys in memory, against one `snarkjs g16f` process per request.

    .venv/bin/python bench/groth16.py [--items 256] [--bits 190] [--power 16] [--rounds 5] [--json FILE|-]

The circuit is tests/circom/pow.circom with 256 scores, some 50 000 constraints; it is compiled and keyed here at first
use (minutes: snarkjs' powers of tau) and kept in .cache/bench. Both take turns with the same fresh inputs, in one run;
who is first changes. Ours is all that a warm worker does for a request: input, witness, proof and its verification.
Stock is what upstream's miner does, which does not verify. After the clock has stopped, each one's proof is verified by
the other. Both may use all cores.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench_circuits import CACHE, ROOT
from reporting import Command, aim, host_facts, json_option, say, say_aims, say_host, say_table, summary, write_json

sys.path.append(str(ROOT / "tests"))

import circom_building
from omron_miner.circuits.circuit import circuit_folders
from omron_miner.circuits.inputs import validate_inputs
from omron_miner.circuits.load import load_circuit
from omron_miner.constants import Sessions
from omron_miner.errors import OmronError
from omron_miner.proving.proof_handlers import get_handler
from omron_miner.proving.session_storage import Session, SessionStorage
from omron_miner.proving.verified_model_session import prove_verified

if TYPE_CHECKING:
    from omron_miner.circuits.circuit import Circuit

AIMED_RATIO = 2.0
OURS, STOCK = "ours", "stock"


@dataclass(frozen=True)
class Proved:
    """A proof, its public signals, and the seconds until both were there."""

    proof: str
    signals: str
    seconds: float


@click.command(cls=Command)
@click.option("--items", type=click.IntRange(1), default=256, show_default=True, help="Scores.")
@click.option("--bits", type=click.IntRange(33, 250), default=190, show_default=True, help="Constraints a score.")
@click.option("--power", type=click.IntRange(4, 22), default=16, show_default=True, help="2^power holds them all.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Proofs of each.")
@json_option
def main(items: int, bits: int, power: int, rounds: int, json_file: str | None) -> None:
    """Measure a Groth16 proof, ours against a snarkjs process for each."""
    host = host_facts()
    say_host(host)
    circuit = built(items, bits, power)
    found = measure(circuit, items, rounds)
    tell(found)
    settings = {"items": items, "bits": bits, "power": power, "rounds": rounds}
    write_json({"bench": "groth16", "host": host, "settings": settings, **found}, json_file)


def built(items: int, bits: int, power: int) -> Circuit:
    """The circuit, made now unless it was before."""
    place = CACHE / "groth16" / f"{items}-{bits}"
    folders = circuit_folders(place)
    if not folders:
        say("compiling the circuit and making its keys ...")
        folders = [circom_building.build(place, items, bits, power, CACHE / "groth16/work")]
    return load_circuit(folders[0])


def measure(circuit: Circuit, items: int, rounds: int) -> dict[str, Any]:
    """Everything measured. Raises OmronError when a proof does not verify."""
    samples: dict[str, list[float]] = {OURS: [], STOCK: []}
    phases: list[dict[str, float]] = []
    began = time.perf_counter()
    get_handler(circuit.proof_system, circuit.directory).load(circuit)
    load_s = time.perf_counter() - began
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        place = Path(name)
        for turn in range(rounds + 1):  # the first is not counted: it reads files that others find in memory
            asked = circom_building.inputs(items, seed=turn)
            made: dict[str, Proved] = {}
            for who in sorted(samples, reverse=bool(turn % 2)):
                made[who] = _ours(circuit, asked, place, phases) if who == OURS else _stock(circuit, asked, place)
            _cross_check(circuit, asked, made, place)
            if turn:
                for who, one in made.items():
                    samples[who].append(round(one.seconds, 6))
    pairs = [stock / ours for ours, stock in zip(samples[OURS], samples[STOCK], strict=True)]
    ratio = statistics.median(pairs)
    return {
        "circuit": {"wires": circuit.circom.wires if circuit.circom else 0, "rows": circuit.rows,
                    "zkey_bytes": circuit.pk.stat().st_size},
        "load_s": round(load_s, 6),
        **{who: {"samples": taken, "seconds": summary(taken)} for who, taken in samples.items()},
        "ours_phases_s": {key: round(statistics.median(one[key] for one in phases[1:]), 6) for key in phases[0]},
        "ratio_stock_to_ours": round(ratio, 4),
        "aims": [aim("seconds, stock / ours, median of rounds", f"≥ {AIMED_RATIO}", ratio, ratio >= AIMED_RATIO)],
    }  # fmt: skip


def _ours(circuit: Circuit, asked: dict[str, Any], place: Path, phases: list[dict[str, float]]) -> Proved:
    storage = SessionStorage(Sessions(directory=place, fallback_directory=place, minimum_free_bytes=0))
    began = time.perf_counter()
    result = prove_verified(circuit, validate_inputs(circuit, asked), storage, place)
    seconds = time.perf_counter() - began
    if not result.verified:
        raise OmronError(f"ours did not prove: {result.detail}", "see the circuit's inputs")
    timings = result.timings
    phases.append({"witness": timings.witness_s, "prove": timings.prove_s, "verify": timings.verify_s})
    return Proved(result.proof, result.public_signals, seconds)


def _stock(circuit: Circuit, asked: dict[str, Any], place: Path) -> Proved:
    files = {name: place / name for name in ("input.json", "proof.json", "public.json")}
    circom_building.tools()
    began = time.perf_counter()
    files["input.json"].write_text(json.dumps(asked))
    keys = (circuit.model_compiled, circuit.pk)
    circom_building.snarkjs("g16f", files["input.json"], *keys, files["proof.json"], files["public.json"])
    proof, signals = files["proof.json"].read_text(), files["public.json"].read_text()
    return Proved(proof, signals, time.perf_counter() - began)


def _cross_check(circuit: Circuit, asked: dict[str, Any], made: dict[str, Proved], place: Path) -> None:
    """Each one's proof is verified by the other's verifier. Raises OmronError."""
    rows, stock, ours = validate_inputs(circuit, asked), made[STOCK], made[OURS]
    handler = get_handler(circuit.proof_system, place)
    handler.verify(circuit, rows, stock.proof, Session(place), stock.signals)
    (place / "proof.json").write_text(ours.proof)
    (place / "public.json").write_text(ours.signals)
    said = circom_building.snarkjs("g16v", circuit.vk, place / "public.json", place / "proof.json")
    if "OK!" not in said or json.loads(ours.signals) != json.loads(stock.signals):
        raise OmronError("snarkjs does not verify our proof", "do not use this version of groth16py")


def tell(found: dict[str, Any]) -> None:
    """The table."""
    circuit = found["circuit"]
    size = (
        f"{circuit['zkey_bytes'] / 2**20:.0f} MiB key, {circuit['wires']} wires, "
        f"2^{circuit['rows'].bit_length() - 1} rows"
    )
    say(f"\n{size}; loaded once in {found['load_s']:.2f} s")
    rows = [[who, *(f"{found[who]['seconds'][key]:.2f} s" for key in ("p50", "min", "max"))] for who in (OURS, STOCK)]
    say_table(("", "p50", "min", "max"), rows)
    say("  ours: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in found["ours_phases_s"].items()))
    say_aims(found["aims"])


if __name__ == "__main__":
    main()
