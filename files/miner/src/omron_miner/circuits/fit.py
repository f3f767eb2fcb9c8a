"""Does a circuit fit its logrows, this host's memory and its disk? Checked before EZKL spends minutes.

Everything is read from the settings.json that EZKL generates quickly from a model.

EZKL's own errors say little: too few rows for the instances are a "General synthesis error" while keys are generated,
tables far too large for the rows run for hours, and too little memory is a SIGKILL.
The estimate of the proving key is a fit over the keys of 216 circuits (EZKL 22.0.1 and 23.0.5, logrows 9 to 12, up to 9
blocks of columns): off by 4 % on average, 15 % for one in twenty, 31 % at worst. `bench/keys.py` makes others like
them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from omron_miner.circuits.needs import needs
from omron_miner.circuits.run_args import logrows_for
from omron_miner.errors import CircuitError
from omron_miner.formatting import size

if TYPE_CHECKING:
    from omron_miner.circuits.run_args import RunArgs

MOST_TABLE_COLUMNS = 33
"""The largest number tried: on 22.0.1 tiny.onnx at decomp_base 16384 proves and verifies with 17 (logrows 10, a key of
32 MiB) and with 33 (logrows 9, a key of 47 MiB), both far slower than with one."""
_FIELD_BYTES = 32


def check_fit(
    name: str, run_args: RunArgs, settings: dict[str, Any], memory_bytes: int, free_disk_bytes: int
) -> list[str]:
    """Warnings about what makes these run args slow. `settings` is EZKL's settings.json of the model.

    Raises CircuitError when the circuit does not fit in its logrows, in `memory_bytes` or in `free_disk_bytes`.
    """
    _check_instances(name, run_args, settings)
    warnings = _check_tables(name, run_args, settings)
    rows, blocks = int(settings["num_rows"]), blocks_of(run_args, settings)
    if blocks > 1:
        warnings.append(
            f"{rows} rows need {blocks} blocks of columns at logrows {run_args.logrows}; "
            f"logrows {logrows_for(rows)} would hold them in one"
        )
    key = pk_estimate_bytes(run_args, settings)
    said = f"{rows} rows at logrows {run_args.logrows} make a proving key of about {size(key)}"
    hint = "make the model smaller, or use a larger host"
    if needs(key, run_args.logrows, 0).memory_low > memory_bytes:
        raise CircuitError(f"circuit {name} does not fit this host: {said}; memory is {size(memory_bytes)}", hint)
    if key > free_disk_bytes:
        raise CircuitError(f"circuit {name} does not fit the disk: {said}; {size(free_disk_bytes)} are free", hint)
    return warnings


def pk_estimate_bytes(run_args: RunArgs, settings: dict[str, Any]) -> int:
    """Estimated size of the proving key: 32 bytes × 2^logrows × (extension + 2) × columns.

    With i inner columns, b blocks, t tables and c blocks of checks of products, of columns that are fixed or may be
    copied there are some 4 + 4.2·i·b + 2·b + 1.1·i·b·t + columns of tables + 8·i·c + 6·c². Each is kept as values, as
    a polynomial, and evaluated over the extension. The last term is why a second block of checks costs so much.
    """
    blocks, inner = blocks_of(run_args, settings), run_args.num_inner_cols
    tables = [math.ceil(rows / run_args.usable_rows) for rows in _tables(run_args, settings)]
    checks = blocks_of_checks(run_args, settings)
    columns = 4 + (4.2 * inner + 2) * blocks + 1.1 * inner * blocks * len(tables) + sum(tables)
    columns += 8 * inner * checks + 6 * checks**2
    return int((_FIELD_BYTES << run_args.logrows) * (_extension(inner, max(tables, default=0)) + 2) * columns)


def blocks_of(run_args: RunArgs, settings: dict[str, Any]) -> int:
    """Number of column blocks that hold the rows."""
    return math.ceil(int(settings["num_rows"]) / run_args.usable_rows)


def blocks_of_checks(run_args: RunArgs, settings: dict[str, Any]) -> int:
    """Number of column blocks that hold the checks of products."""
    return math.ceil(einsum_cells(settings) / (run_args.usable_rows * run_args.num_inner_cols))


def einsum_cells(settings: dict[str, Any]) -> int:
    """Cells of the checks of products, in separate columns; 22.0.1 has none."""
    return int((settings.get("einsum_params") or {}).get("total_einsum_col_size", 0))


def _extension(inner: int, table_columns: int) -> int:
    """The extension factor of column evaluations: the power of two that covers the circuit's degree.

    4, 8, 16 with 1, 2-4, 8 table columns, 32 with 17, 64 with 33; 4 inner columns make it 8.
    """
    return 1 << math.ceil(math.log2(max(4, table_columns + 3, inner + 1)))


def _check_instances(name: str, run_args: RunArgs, settings: dict[str, Any]) -> None:
    instances = sum(math.prod(shape) for shape in settings["model_instance_shapes"])
    if instances > run_args.usable_rows:
        raise CircuitError(
            f"circuit {name} does not fit in logrows {run_args.logrows}: its {instances} public inputs and outputs "
            f"need a row each, but there are only {run_args.usable_rows}",
            f"set logrows to {logrows_for(instances)} or more",
        )


def _check_tables(name: str, run_args: RunArgs, settings: dict[str, Any]) -> list[str]:
    columns = table_columns(run_args, settings)
    if columns <= 1:
        return []
    rows = max(_tables(run_args, settings))
    needed = f"its largest table of {rows} rows needs {columns} columns"
    hint = f"logrows {logrows_for(rows)} would hold it in one, as would a smaller lookup_range or decomp_base"
    if columns > MOST_TABLE_COLUMNS:
        raise CircuitError(f"circuit {name} does not fit in logrows {run_args.logrows}: {needed}", hint)
    return [f"{needed}, which makes proving slow; {hint}"]


def _tables(run_args: RunArgs, settings: dict[str, Any]) -> list[int]:
    """Rows of each."""
    lookups = [run_args.lookup_rows] * len(settings["required_lookups"])
    return lookups + [high - low + 1 for low, high in settings["required_range_checks"]]


def table_columns(run_args: RunArgs, settings: dict[str, Any]) -> int:
    """Columns that the largest table of a circuit needs; 0 without tables. `settings` is EZKL's settings.json."""
    return math.ceil(max(_tables(run_args, settings), default=0) / run_args.usable_rows)
