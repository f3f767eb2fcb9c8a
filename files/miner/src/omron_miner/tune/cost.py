"""Estimated cost of proving a circuit, from EZKL's gen_settings: no key is generated.

Proving time follows the size of the proving key (log correlation 0.88 over 13 proofs; 0.020 to 0.069 s per 10^6 bytes
on two cores of 2026), not the rows (0.28).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omron_miner.circuits.fit import MOST_TABLE_COLUMNS, blocks_of, pk_estimate_bytes, table_columns

if TYPE_CHECKING:
    from omron_miner.circuits.run_args import RunArgs


@dataclass(frozen=True)
class Cost:
    """An estimate; `key_bytes` is what candidates are ranked by."""

    blocks: int
    """Sets of columns that the rows are spread over."""
    table_columns: int
    key_bytes: int
    """Of the proving key."""


def cost(run_args: RunArgs, shape: dict[str, Any]) -> Cost | None:
    """What a circuit with `shape` (`ask_ezkl.shapes_of_each`) costs at `run_args`; None when it does not fit."""
    columns = table_columns(run_args, shape)
    instances = sum(math.prod(one) for one in shape["model_instance_shapes"])
    if columns > MOST_TABLE_COLUMNS or instances > run_args.usable_rows:
        return None
    return Cost(blocks_of(run_args, shape), columns, pk_estimate_bytes(run_args, shape))
