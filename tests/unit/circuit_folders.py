"""Circuit folders that look right from outside: what load_circuit checks is all there, EZKL could not open them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from omron_miner.circuits.circuit import ezkl_version
from omron_miner.circuits.srs import ensure_srs, srs_path

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS: dict[str, Any] = {
    "run_args": {
        "logrows": 11,
        "input_visibility": "Public",
        "output_visibility": "Public",
        "param_visibility": "Fixed",
    },
    "num_rows": 476,
    "model_instance_shapes": [[1, 4], [1, 2]],
    "model_output_scales": [7],
    "model_input_scales": [7],
    "version": ezkl_version(),
    "input_types": ["F32"],
}
METADATA = {
    "name": "sample",
    "description": "",
    "author": "",
    "version": "0.0.1",
    "proof_system": "EZKL",
    "type": "proof_of_weights",
    "external_files": {"pk.key": "elsewhere"},
}
VK = bytes([3, 11]) + b"verification key"


def write_srs(directory: Path, logrows: int = 11, *, trusted: bool = True) -> Path:
    """Writes an SRS that looks like one from outside, of the ceremony if `trusted`, generated for tests otherwise."""

    def make(path: Path, logrows: int, _for_tests: bool) -> None:
        with path.open("wb") as file:
            file.write(logrows.to_bytes(4, "little"))
            file.truncate(260 + (128 << logrows))

    for old in (path := srs_path(directory, logrows), path.with_name(f"{path.name}.json")):
        old.unlink(missing_ok=True)
    return ensure_srs(logrows, directory, "finney" if trusted else "local", make=make)


def write_circuit(parent: Path, digit: str = "a", metadata: dict[str, Any] | None = None, **settings: Any) -> Path:
    """Writes ``model_<digit × 64>`` below `parent`."""
    directory = parent / f"model_{digit * 64}"
    directory.mkdir(parents=True)
    version = ezkl_version().encode()
    (directory / "metadata.json").write_text(json.dumps({**METADATA, **(metadata or {})}))
    (directory / "settings.json").write_text(json.dumps({**SETTINGS, **settings}))
    (directory / "model.compiled").write_bytes(b"graph" + len(version).to_bytes(8, "little") + version + b"\0")
    (directory / "vk.key").write_bytes(VK)
    (directory / "pk.key").write_bytes(VK + b"proving key")
    return directory
