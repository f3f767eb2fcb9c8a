"""What a circuit needs to be proved: memory, room on the RAM disk, room on the disk; and whether a host has it.

The numbers are in needs.json, because Ansible's preflight uses them too, before anything is copied.
They are derived from measurements by ``bench/needs.py`` (EZKL 22.0.1, 2 cores; peak resident memory, MiB):

=======================  =======  ===================  ===================
circuit                  key      a separate process    kept, after proofs
=======================  =======  ===================  ===================
tiny, logrows 11               6                   69                   74
tiny, logrows 14              45                  158                  187
demo, logrows 15             162                  451                  564
demo, logrows 16             216                  568                  694
tiny, logrows 17             360                  875                  957
demo, logrows 17             432                 1036                 1226
demo, logrows 17, inner 2    625                 1547                 1975
demo, logrows 18, inner 2   1248                 3024                 4642
=======================  =======  ===================  ===================

A worker keeps its memory between proofs, hence the last column. All of these, and the one other circuit that was proved
(key 5836, memory 9346: 1.6 times the key), lie between 57 MiB + 1.5 times the key and 57 MiB + 4 times the key. The
lower bound is up to 36 % below what a separate process used, so that what it refuses cannot be proved; the upper one is
6 to 57 % above what a worker kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from omron_miner.circuits.circuit import ProofSystem
from omron_miner.formatting import size

if TYPE_CHECKING:
    from omron_miner.circuits.circuit import Circuit


@dataclass(frozen=True)
class Needs:
    """Bytes. Memory is that of one proof at a time: with less than `memory_low` it is killed, `memory_high` was never
    exceeded where it was measured.
    """

    memory_low: int
    memory_high: int
    ram_disk: int
    """A request's files."""
    disk: int
    """Proving key and SRS, which take nearly all of it."""

    def in_words(self) -> str:
        """``405.0 MiB to 1.1 GiB``."""
        return f"{size(self.memory_low)} to {size(self.memory_high)}"


@lru_cache(maxsize=1)
def _numbers() -> dict[str, Any]:
    text = resources.files("omron_miner").joinpath("circuits/needs.json").read_text(encoding="utf-8")
    numbers: dict[str, Any] = json.loads(text)
    return numbers


def needs(pk_bytes: int, logrows: int, instances: int) -> Needs:
    """What a circuit with these needs. `instances`: numbers among its public inputs and outputs.

    The session's files grow with the instances (24 KiB with 6, 4.4 MiB with 12 309); private inputs are not counted.
    """
    numbers = _numbers()
    memory, session = numbers["proof_memory"], numbers["session"]
    return Needs(
        memory_low=least_memory(pk_bytes),
        memory_high=int(memory["process_bytes"] + memory["high_per_key_byte"] * pk_bytes),
        ram_disk=session["bytes"] + session["bytes_per_instance"] * instances,
        disk=pk_bytes + (numbers["srs_bytes_per_row"] << logrows),
    )


def least_memory(pk_bytes: int) -> int:
    """Bytes without which a proof with an EZKL proving key of `pk_bytes` is killed."""
    memory = _numbers()["proof_memory"]
    return int(memory["process_bytes"] + memory["low_per_key_byte"] * pk_bytes)


def needs_of(circuit: Circuit) -> Needs | None:
    """What `circuit` needs; None unless it is an EZKL circuit. Raises OSError when its key is missing."""
    if circuit.proof_system is not ProofSystem.EZKL:
        return None
    settings = circuit.settings
    instances = sum(settings.input_sizes or ()) + sum(settings.output_sizes)
    return needs(circuit.pk.stat().st_size, settings.logrows, instances)


def memory_problem(label: str, needed: Needs, memory_bytes: int) -> str | None:
    """Why the circuit `label` does not, or may not, fit a host with `memory_bytes`; None when it fits."""
    if memory_bytes >= needed.memory_high:
        return None
    verb = "needs" if memory_bytes < needed.memory_low else "may need"
    return f"{label} {verb} about {needed.in_words()} to prove, this host has {size(memory_bytes)}"


def at_a_time(needed: Needs, memory_bytes: int) -> int:
    """How many proofs fit in `memory_bytes` at a time, by the upper bound."""
    return memory_bytes // needed.memory_high
