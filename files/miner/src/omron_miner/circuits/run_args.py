"""EZKL's run args as an operator writes them: all run args of EZKL 22.0.1, typed, with their limits.

Ansible renders them from ``templates/settings.json.j2`` (where each is explained) as ``{"run_args": {...}}``;
`building.build` hands them to EZKL. Unknown keys and look-alike types ("16", yes, 16.0) are refused here, before
anything is built.
"""

from __future__ import annotations

import math
from pathlib import Path  # noqa: TC003  read_run_args' signature is part of the face
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from omron_miner.errors import ConfigError, problems_in_words

SMALLEST_LOGROWS = 6
"""EZKL's own limit (`MIN_LOGROWS`)."""
USABLE_ROWS_LESS = 8
"""Of the 2^logrows rows EZKL keeps this many: 5 for blinding, 3 to spare (its `RESERVED_BLINDING_ROWS`)."""

Scale = Annotated[int, Field(ge=-30, le=30)]


class RunArgs(BaseModel):
    """Run args. Missing ones get EZKL 22.0.1's default; files that the role renders contain all that have one."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    input_scale: Scale = 7
    param_scale: Scale = 7
    scale_rebase_multiplier: int = Field(1, ge=1, le=64)
    lookup_range: tuple[int, int] = (-32768, 32768)
    logrows: int = Field(17, ge=SMALLEST_LOGROWS, le=26)
    num_inner_cols: int = Field(2, ge=1, le=64)
    variables: tuple[tuple[str, Annotated[int, Field(ge=1)]], ...] = (("batch_size", 1),)
    input_visibility: Literal["Public", "Private"] = "Private"
    output_visibility: Literal["Public"] = "Public"
    param_visibility: Literal["Private", "Fixed"] = "Private"
    rebase_frac_zero_constants: bool = False
    check_mode: Literal["SAFE", "UNSAFE"] = "UNSAFE"
    commitment: Literal["KZG"] = "KZG"
    decomp_base: int = Field(16384, ge=2, le=1 << 26)
    decomp_legs: int = Field(2, ge=1, le=16)
    bounded_log_lookup: bool = False
    ignore_range_check_inputs_outputs: bool = False
    epsilon: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _range_is_one(self) -> RunArgs:
        if not self.lookup_range[0] < 0 < self.lookup_range[1]:
            raise ValueError("lookup_range must go from a negative to a positive number")
        return self

    @property
    def usable_rows(self) -> int:
        """Rows of a column that tables and instances may fill."""
        return (1 << self.logrows) - USABLE_ROWS_LESS

    @property
    def lookup_rows(self) -> int:
        """Rows of each activation's lookup table."""
        return self.lookup_range[1] - self.lookup_range[0] + 1


def logrows_for(rows: int) -> int:
    """The smallest logrows that EZKL takes and at which a column has `rows` usable rows; see `USABLE_ROWS_LESS`."""
    return max(SMALLEST_LOGROWS, math.ceil(math.log2(rows + USABLE_ROWS_LESS)))


def parse_run_args(text: str, origin: str) -> RunArgs:
    """Run args from JSON ``{"run_args": {...}}``; `origin` names it in errors. Raises ConfigError."""
    try:
        return _File.model_validate_json(text).run_args
    except ValidationError as error:
        hint = "correct the circuit's run_args in the inventory; templates/settings.json.j2 explains each"
        raise ConfigError(f"{origin}: {problems_in_words(error)}", hint) from error


def read_run_args(path: Path) -> RunArgs:
    """Run args from the file at `path`. Raises ConfigError when it is missing, unreadable or wrong."""
    try:
        return parse_run_args(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}", "run the play, or name a file with --settings") from error


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    run_args: RunArgs
    sources: dict[str, str] = {}
    """The source of each, for the reader: a default, the built-in model, a tuned profile, the inventory."""
