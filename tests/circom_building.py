"""Makes CIRCOM circuits for tests and benches from source of ours: compiled, keyed and proved against by snarkjs.

The keys are throw-away ones: who made them can forge proofs. circom's compiler and snarkjs come
from npm, pinned in tests/circom/package-lock.json, and lie in .cache; the product needs neither, nor Node.js.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "tests/circom"
INPUTS = ("previous_score", "verified", "response_time", "validator_uid", "block_number", "miner_uid")
OUTPUTS = ("new_score", "block_number_out", "miner_uid_out", "validator_uid_out")
SCALARS = ("scaling", "RATE_OF_DECAY", "MAXIMUM_RESPONSE_TIME_DECIMAL")
_SECONDS = 1800


def tools() -> Path:
    """The node_modules with circom2 and snarkjs, installed unless they were."""
    lock = (SOURCE / "package-lock.json").read_bytes()
    place = ROOT / ".cache" / f"circom-{hashlib.sha256(lock).hexdigest()[:12]}"
    modules = place / "node_modules"
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)  # several workers of pytest may want them first
        if not (place / "installed").exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(SOURCE / name, place)
            _run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=place)
            (place / "installed").touch()
    return modules


def snarkjs(*arguments: str | Path, cwd: Path | None = None) -> str:
    """What a snarkjs command prints; it is a new process each time, as the stock miner uses it."""
    return _run("node", str(tools() / "snarkjs/build/cli.cjs"), *map(str, arguments), cwd=cwd)


def build(directory: Path, items: int, bits: int, power: int, work: Path) -> Path:
    """The folder ``model_<id>`` below `directory` of pow.circom for `items` scores with checks of `bits`.

    `power`: of the powers of tau, 2^power being at least its constraints and public signals. `work` keeps those.
    """
    work.mkdir(parents=True, exist_ok=True)
    source = (SOURCE / "pow.circom").read_text(encoding="utf-8")
    public = ", ".join((*INPUTS, *SCALARS))
    (work / "pow.circom").write_text(f"{source}\ncomponent main {{public [{public}]}} = Scores({items}, {bits});\n")
    modules = tools()
    program = compiled(work / "pow.circom")
    _run("node", str(SOURCE / "setup.mjs"), "pow.r1cs", str(power), str(work), str(modules), cwd=work)
    folder = directory / f"model_{hashlib.sha256((work / 'verification_key.json').read_bytes()).hexdigest()}"
    folder.mkdir(parents=True)
    shutil.copy(program, folder / "circuit.wasm")
    for name in ("circuit.zkey", "verification_key.json"):
        shutil.copy(work / name, folder)
    (folder / "metadata.json").write_text(json.dumps(_METADATA))
    (folder / "settings.json").write_text(json.dumps({"public_inputs": _public_inputs(items)}))
    (folder / "input.json").write_text(json.dumps(inputs(items)))
    return folder


def compiled(source: Path) -> Path:
    """The witness program of a .circom file; its constraints are next to the file, as .r1cs."""
    _run("node", str(tools() / "circom2/cli.js"), source.name, "--r1cs", "--wasm", cwd=source.parent)
    return source.parent / f"{source.stem}_js/{source.stem}.wasm"


def inputs(items: int, seed: int = 0) -> dict[str, Any]:
    """Inputs the circuit takes, as a validator writes them: true and false, and −1 for who is not there."""
    scores = [(7919 * (place + 1) + seed) % 10**8 for place in range(items)]
    lists: dict[str, Any] = {
        "previous_score": scores,
        "verified": [place % 3 != 0 for place in range(items)],
        "response_time": [score % 5000 for score in scores],
        "validator_uid": [1] * items,
        "block_number": [4_000_000 + place for place in range(items)],
        "miner_uid": [place if place % 4 else -1 for place in range(items)],
    }
    return {**lists, "scaling": 10**8, "RATE_OF_DECAY": 4 * 10**7, "MAXIMUM_RESPONSE_TIME_DECIMAL": 99_000_000}


def new_scores(asked: dict[str, Any]) -> list[int]:
    """What the circuit computes, in Python."""
    kept = [score * (asked["scaling"] - asked["RATE_OF_DECAY"]) for score in asked["previous_score"]]
    left = [60 * asked["scaling"] - seconds for seconds in asked["response_time"]]
    return [one + (more if proved else 0) for one, more, proved in zip(kept, left, asked["verified"], strict=True)]


def _public_inputs(items: int) -> dict[str, Any]:
    order = [*OUTPUTS, *INPUTS, *SCALARS]
    return {"order": order, "sizes": {name: 1 if name in SCALARS else items for name in order}}


_METADATA = {
    "name": "pow",
    "description": "A circuit for tests; its keys are worthless",
    "author": "omron-miner",
    "version": "0.0.1",
    "proof_system": "CIRCOM",
    "type": "proof_of_weights",
    "external_files": {},
}


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[:3]} ended with {done.returncode}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    return done.stdout
