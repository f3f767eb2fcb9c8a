"""Tuning by the role: arguments of `omron-miner circuit tune`, a digest of its inputs, and its result in one line.

Pure functions of the inventory and of files on the control node, both already checked by preflight.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_UTILS = str(Path(__file__).resolve().parents[1] / "plugin_utils")
if _UTILS not in sys.path:  # found so from a clone and from a collection alike
    sys.path.append(_UTILS)

from omron_preflight.circuits import BUILT_IN_MODELS, SAMPLE_SUFFIXES  # noqa: E402  # after the path is there
from omron_preflight.files import sha256  # noqa: E402

_MOST_SAMPLES = 32
"""The tuner reads at most this many, in the order of their names."""
_DIGEST_VERSION = 1
_LARGE = 1 << 24
_FLOOR = 0.99
"""The default of `omron-miner circuit build`."""


def tune_options(circuit: Mapping[str, Any]) -> dict[str, Any]:
    """The options in the circuit's `circuit_tune`; empty if it is just true."""
    asked = circuit.get("circuit_tune")
    return dict(asked) if isinstance(asked, Mapping) else {}


def tune_arguments(circuit: Mapping[str, Any]) -> list[str]:
    """Arguments of the command for all options but `data`, whose files are elsewhere on the host."""
    arguments = []
    for name, value in sorted(tune_options(circuit).items()):
        if name == "compact":
            arguments += ["--compact"] if value else []
        elif name != "data":
            arguments.append(f"--{name}={value}")  # as one argument: a negative number looks like an option
    return arguments


def tune_samples(circuit: Mapping[str, Any]) -> list[str]:
    """The files of samples that the tuner will read; none without `data`."""
    if "data" not in (options := tune_options(circuit)):
        return []
    path = Path(options["data"]).expanduser()
    files = sorted(file for file in path.iterdir() if file.suffix in SAMPLE_SUFFIXES) if path.is_dir() else [path]
    return [str(file) for file in files[:_MOST_SAMPLES]]


def tune_digest(circuit: Mapping[str, Any], model: str, given: Any, ezkl_version: str) -> str:
    """A digest of everything that tuning depends on: model, given run args, options, samples, EZKL version."""
    samples = [[Path(file).name, sha256(Path(file))] for file in tune_samples(circuit)]
    parts = [_DIGEST_VERSION, sha256(Path(model).expanduser()), given, tune_arguments(circuit), samples, ezkl_version]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def floor(circuit: Mapping[str, Any]) -> float:
    """The minimum accuracy of the built circuit: its own `floor`, else that of `circuit_tune`, else 0.99."""
    return float(circuit.get("floor", tune_options(circuit).get("floor", _FLOOR)))


def unanswered(circuits: list[Mapping[str, Any]], shipped: str) -> list[str]:
    """Names of circuits whose models have no reference file, so that onnxruntime must compute their outputs.

    `shipped` is the folder of the built-in models.
    """
    names = []
    for circuit in circuits:
        if "model" not in circuit:
            continue
        given = Path(str(circuit["model"])).expanduser()
        path = Path(shipped) / f"{given}.onnx" if str(given) in BUILT_IN_MODELS else given
        if not path.with_suffix(".reference.json").is_file():
            names.append(str(circuit["name"]))
    return names


def circuits_digest(circuits: list[Mapping[str, Any]], shipped: str) -> str:
    """A digest of the circuits that a release serves: what the inventory says, and the files it names.

    Of a prebuilt folder's large files, keys, only the size. `shipped` is the folder of the built-in models.
    """
    parts: list[Any] = [list(circuits)]
    for circuit in circuits:
        names = [str(circuit[key]) for key in ("model", "tuned") if key in circuit]
        paths = [Path(shipped) / f"{name}.onnx" if name in BUILT_IN_MODELS else Path(name) for name in names]
        parts += [sha256(path) for path in paths]
        if "folder" in circuit:
            files = sorted(path for path in Path(circuit["folder"]).expanduser().rglob("*") if path.is_file())
            parts += [[path.name, sha256(path) if (size := path.stat().st_size) < _LARGE else size] for path in files]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def tune_outcome(report: Mapping[str, Any]) -> str:
    """The winner and the times of the baselines, in one line; `report` is the command's JSON."""
    passed = {one["name"]: one for one in report["trials"] if not one["failure"] and one["response_s"] is not None}
    winner = passed.pop(report["winner"])
    others = [f"{one['name']} {one['response_s']:.2f} s" for one in passed.values() if one["baseline"]]
    compared_with = f" ({', '.join(others)})" if others else ""
    return f"{winner['name']} won with {winner['response_s']:.2f} s for witness and proof{compared_with}"


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """The filters by name."""
        functions = (tune_arguments, tune_samples, tune_digest, tune_outcome, floor, unanswered, circuits_digest)
        return {f"miner_{function.__name__}": function for function in functions}
