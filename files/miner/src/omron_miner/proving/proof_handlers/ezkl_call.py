"""How EZKL's functions are called: their coroutines, panics and run args, and checks that EZKL lacks.

Works with 22.0.1, whose calls are coroutines that need a running event loop, and with 23.x, whose calls are plain.
Importing this module does not load EZKL.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import re
import threading
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from omron_miner.circuits.circuit import ezkl_version
from omron_miner.errors import CircuitError
from omron_miner.proving.proof_handlers.base import ProofError, native_errors
from omron_miner.untrusted import read_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from omron_miner.circuits.run_args import RunArgs

INPUT, WITNESS = "input.json", "witness.json"
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How Rust ends the text of a system's error."""
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
_loops = threading.local()


def call(function: Callable[..., Any], *arguments: object, **named: object) -> Any:
    """Calls an EZKL function, waiting for it if it is a coroutine.

    Raises OSError when EZKL reports a full or read-only disk, ProofError for whatever else it raises.
    """

    async def run() -> Any:  # 22.0.1 looks for the running loop when it is called, not when it is awaited
        answer: Awaitable[Any] | Any = function(*arguments, **named)
        return await answer if inspect.isawaitable(answer) else answer

    loop = getattr(_loops, "loop", None)
    if loop is None:
        loop = _loops.loop = asyncio.new_event_loop()
    try:
        with native_errors(ProofError, f"EZKL {function.__name__}"):
            return loop.run_until_complete(run())
    except ProofError as error:
        found = _OS_ERROR.search(error.message)
        if found and int(found[1]) in _DISK_ERRORS:
            raise OSError(int(found[1]), error.message) from error
        raise


def read_written(path: Path) -> dict[str, Any]:
    """The object in a JSON file that EZKL wrote. Raises OSError when it is empty or damaged.

    EZKL reports no error when the disk is full.
    """
    try:
        content = read_json(path)
    except ValueError as error:
        raise OSError(f"{path.name}, which EZKL wrote, is empty or damaged: is the disk full?") from error
    return dict(content)


def bare_witness(compiled: Path, rows: object, place: Path) -> dict[str, Any]:
    """The witness of a compiled model that may have no keys yet; its files are made in `place`. Raises ProofError."""
    import ezkl

    data = place / INPUT
    data.write_bytes(to_json({"input_data": rows}))
    made: dict[str, Any] = call(ezkl.gen_witness, data=str(data), model=str(compiled), output=str(place / WITNESS))
    return made


def output_floats(witness: dict[str, Any], scales: Sequence[int]) -> list[list[float]]:
    """The outputs in a witness, a list for each."""
    import ezkl

    each = zip(witness["outputs"], scales, strict=True)
    return [[float(ezkl.felt_to_float(felt, scale)) for felt in felts] for felts, scale in each]


def check_lookups(settings: dict[str, Any], witness: dict[str, Any]) -> None:
    """Raises ProofError for a value outside the lookup tables: EZKL 22.0.1 would witness it, then hang in prove.

    `settings` is all of settings.json.
    """
    low, high = settings["run_args"]["lookup_range"]
    found = (witness["min_lookup_inputs"], witness["max_lookup_inputs"])
    if settings["required_lookups"] and not (low <= found[0] and found[1] <= high):
        raise ProofError(f"the input leads to values {found[0]}..{found[1]} outside lookup_range {low}..{high}")


def native_run_args(run_args: RunArgs) -> Any:
    """EZKL's own run args object. Raises CircuitError for a run arg the installed EZKL does not know."""
    import ezkl

    native = ezkl.PyRunArgs()
    for key, value in run_args.model_dump(exclude_none=True).items():
        if key == "commitment":  # KZG is the only one that is allowed here, and every version's default
            continue
        if not hasattr(native, key):
            raise CircuitError(f"EZKL {ezkl_version()} has no run arg {key}", "remove it from the circuit's run_args")
        try:
            setattr(native, key, list(value) if key == "variables" else value)
        except (OverflowError, TypeError, ValueError) as error:
            message = f"EZKL {ezkl_version()} does not accept {value!r} as {key}: {error}"
            raise CircuitError(message, "correct the circuit's run_args") from error
    return native
