"""What proving a circuit will cost, from what EZKL's gen_settings says of it: no key is made.

The formulas are fits over circuits that were measured (EZKL 22.0.1 and 23.0.5, 13 proofs): proving time follows the
size of the proving key (log correlation 0.88), not the rows (0.28). The key's size is off by 11 % in the mean, 25 % at
worst; seconds depend on the machine, so they only rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omron_miner.circuit_fit import MOST_TABLE_COLUMNS, extension_of, table_columns

if TYPE_CHECKING:
    from omron_miner.run_args import RunArgs

SECONDS_PER_MB = 0.03
"""Proving, per MB of key, on two cores of 2026: 0.020 to 0.069 was seen."""
_ADVICE_PER_BLOCK = 3
"""Each block has its columns thrice: two operands and the result."""
_EINSUM_PER_BLOCK = 4
"""Freivalds' check has three operands and the result in each inner column, and two columns of challenges."""
_CHALLENGES = 2
_MOST_BLOCKS_CHECKED = 3
"""Of a circuit with such checks: with more its degree, and the key, are twice as large (23.0.5: 3 are not, 6 are)."""


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
    """The cost at `run_args` of a circuit with `shape` (`measure.shapes_of_each`); None when it does not fit logrows.

    pk MB = 2^(logrows−17) · e · (21·advice columns + 16·einsum columns + 16), with three advice columns per block and
    inner column, e = 4 with one table column, 8 with 2-4, 16 with 8; a table takes ⌈rows / (2^logrows − 8)⌉ columns.
    Four inner columns make e twice as large (seen with 23.0.5); up to three do not. So do more than three blocks beside
    checks of products: 3240 MB would be the estimate where 8513 were measured, with six.
    """
    usable = run_args.usable_rows
    columns = table_columns(run_args, shape)
    instances = sum(math.prod(one) for one in shape["model_instance_shapes"])
    if columns > MOST_TABLE_COLUMNS or instances > usable:
        return None
    blocks = math.ceil(int(shape["num_rows"]) / usable)
    advice = _ADVICE_PER_BLOCK * blocks * run_args.num_inner_cols
    checks = math.ceil(int(shape["einsum_cells"]) / (usable * run_args.num_inner_cols))
    einsum = _EINSUM_PER_BLOCK * checks * run_args.num_inner_cols + (_CHALLENGES if checks else 0)
    extension = extension_of(columns) * (2 if checks and blocks > _MOST_BLOCKS_CHECKED else 1)
    key_mb = 2.0 ** (run_args.logrows - 17) * extension * (21 * advice + 16 * einsum + 16)
    return Cost(blocks, columns, key_mb, SECONDS_PER_MB * key_mb)
