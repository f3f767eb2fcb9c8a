"""What a circuit's `circuit_tune` asks `omron-miner circuit tune` for, what its result depends on, and what it was.

Pure functions of the inventory and of files on the control node; preflight has judged both before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SUFFIXES = (".json", ".npy")
_MOST_SAMPLES = 32
"""The tuner reads no more, in the order of their names."""
_DIGEST_VERSION = 1


def tune_options(circuit: Mapping[str, Any]) -> dict[str, Any]:
    """The options in the circuit's `circuit_tune`, which may be true in their place."""
    asked = circuit.get("circuit_tune")
    return dict(asked) if isinstance(asked, Mapping) else {}


def tune_arguments(circuit: Mapping[str, Any]) -> list[str]:
    """Arguments of the command for all options but `data`, whose files are elsewhere on the host."""
    arguments = []
    for name, value in sorted(tune_options(circuit).items()):
        if name == "compact":
            arguments += ["--compact"] if value else []
        elif name != "data":
            arguments.append(f"--{name}={value}")  # of one piece: a number below zero begins like an option
    return arguments


def tune_samples(circuit: Mapping[str, Any]) -> list[str]:
    """The files of samples that the tuner will read; none without `data`."""
    if "data" not in (options := tune_options(circuit)):
        return []
    path = Path(options["data"]).expanduser()
    files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES) if path.is_dir() else [path]
    return [str(file) for file in files[:_MOST_SAMPLES]]


def tune_digest(circuit: Mapping[str, Any], model: str, given: Any, ezkl_version: str) -> str:
    """A digest of what tuning depends on: the file `model`, the run args `given`, options, samples, EZKL."""
    samples = [[Path(file).name, _sha256(file)] for file in tune_samples(circuit)]
    parts = [_DIGEST_VERSION, _sha256(model), given, tune_arguments(circuit), samples, ezkl_version]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def tune_outcome(report: Mapping[str, Any]) -> str:
    """What won and how much faster it is than the baselines, in a line; `report` is the command's JSON."""
    passed = {one["name"]: one for one in report["trials"] if not one["failure"] and one["response_s"] is not None}
    winner = passed.pop(report["winner"])
    others = [f"{one['name']} {one['response_s']:.2f} s" for one in passed.values() if one["baseline"]]
    beside = f" ({', '.join(others)})" if others else ""
    return f"{winner['name']} won with {winner['response_s']:.2f} s for witness and proof{beside}"


def _sha256(path: str) -> str:
    with Path(path).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """The filters by name."""
        functions = (tune_arguments, tune_samples, tune_digest, tune_outcome)
        return {f"miner_{function.__name__}": function for function in functions}
