"""What proving a circuit will cost, from what EZKL's gen_settings says of it: no key is made.

Proving time follows the size of the proving key (log correlation 0.88 over 13 proofs), not the rows (0.28); seconds
depend on the machine, so they only rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omron_miner.circuits.fit import MOST_TABLE_COLUMNS, blocks_of, pk_estimate_bytes, table_columns

if TYPE_CHECKING:
    from omron_miner.circuits.run_args import RunArgs

SECONDS_PER_MB = 0.03
"""Proving, per 10^6 bytes of key, on two cores of 2026: 0.020 to 0.069 was seen."""


@dataclass(frozen=True)
class Cost:
    """An estimate; `key_mb` is what candidates are ranked by."""

    blocks: int
    """Sets of columns that the rows are spread over."""
    table_columns: int
    key_mb: float
    """Of the proving key, in 10^6 bytes."""
    prove_s: float


def cost(run_args: RunArgs, shape: dict[str, Any]) -> Cost | None:
    """What a circuit with `shape` (`ask_ezkl.shapes_of_each`) costs at `run_args`; None when it does not fit."""
    columns = table_columns(run_args, shape)
    instances = sum(math.prod(one) for one in shape["model_instance_shapes"])
    if columns > MOST_TABLE_COLUMNS or instances > run_args.usable_rows:
        return None
    key_mb = pk_estimate_bytes(run_args, shape) / 1e6
    return Cost(blocks_of(run_args, shape), columns, key_mb, SECONDS_PER_MB * key_mb)
