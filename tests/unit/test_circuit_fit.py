"""A circuit that cannot be built here is refused in words before EZKL starts; the numbers are of measured circuits."""

from __future__ import annotations

from typing import Any

import pytest

from omron_miner.circuits.fit import check_fit, pk_estimate_bytes
from omron_miner.circuits.run_args import RunArgs
from omron_miner.errors import CircuitError

MB = 1_000_000
PLENTY = 1 << 40
RUN_ARGS = RunArgs(logrows=16, lookup_range=(-32760, 32760), num_inner_cols=1, input_visibility="Public")
DEMO: dict[str, Any] = {
    "num_rows": 61728,
    "model_instance_shapes": [[1, 3, 64, 64], [1, 21]],
    "required_lookups": [{"Tanh": {"scale": 128.0}}],
    "required_range_checks": [[-1, 1], [0, 16383]],
}


def changed(**run_args: Any) -> RunArgs:
    return RUN_ARGS.model_copy(update=run_args)


def test_a_circuit_that_fits_gives_no_warning() -> None:
    assert check_fit("demo", RUN_ARGS, DEMO, PLENTY, PLENTY) == []


def test_more_instances_than_rows_do_not_fit_and_the_right_logrows_is_named() -> None:
    small = changed(logrows=13, lookup_range=(-1000, 1000), decomp_base=1024)
    with pytest.raises(CircuitError, match="does not fit in logrows 13: its 12309 public inputs and outputs") as caught:
        check_fit("demo", small, DEMO, PLENTY, PLENTY)
    assert caught.value.hint == "set logrows to 14 or more"


def test_tables_of_many_columns_are_warned_about_and_of_too_many_refused() -> None:
    settings = {**DEMO, "model_instance_shapes": [[1, 4], [1, 2]], "num_rows": 500}
    (warning,) = check_fit("demo", changed(logrows=14), settings, PLENTY, PLENTY)
    assert "65521 rows needs 5 columns" in warning
    assert "logrows 16 would hold it in one" in warning
    with pytest.raises(CircuitError, match="65521 rows needs 65 columns"):
        check_fit("demo", changed(logrows=10), settings, PLENTY, PLENTY)


def test_the_lookup_range_does_not_matter_to_a_model_without_lookups() -> None:
    settings = {**DEMO, "model_instance_shapes": [[1, 4], [1, 2]], "num_rows": 500, "required_lookups": []}
    assert check_fit("tiny", changed(logrows=15), settings, PLENTY, PLENTY) == []


def test_more_rows_than_one_block_are_warned_about() -> None:
    (warning,) = check_fit("demo", RUN_ARGS, {**DEMO, "num_rows": 111645}, PLENTY, PLENTY)
    assert "111645 rows need 2 blocks" in warning
    assert "logrows 17" in warning


@pytest.mark.parametrize(("rows", "measured_mb"), [(61728, 226.6), (111645, 339.9)])
def test_the_keys_size_is_estimated_within_a_tenth(rows: int, measured_mb: float) -> None:
    estimate = pk_estimate_bytes(RUN_ARGS, {**DEMO, "num_rows": rows})
    assert estimate == pytest.approx(measured_mb * MB, rel=0.1)


def test_what_exceeds_memory_or_disk_is_refused_before_it_is_killed_for_it() -> None:
    huge = {**DEMO, "num_rows": 24_343_506}  # the stock age model
    with pytest.raises(CircuitError, match=r"does not fit this host: 24343506 rows .* memory is 24\.0 GiB"):
        check_fit("age", RUN_ARGS, huge, 24 << 30, PLENTY)
    with pytest.raises(CircuitError, match=r"does not fit the disk: .* 95\.4 MiB are free"):
        check_fit("demo", RUN_ARGS, DEMO, PLENTY, 100 * MB)


@pytest.mark.parametrize(("logrows", "columns", "measured_mb"), [(10, 17, 33.2), (9, 33, 49.6)])
def test_many_columns_are_slow_but_prove_and_make_the_key_large(logrows: int, columns: int, measured_mb: float) -> None:
    """tiny.onnx at decomp_base 16384; both proofs verified."""
    tiny = {**DEMO, "num_rows": 300, "model_instance_shapes": [[1, 4], [1, 2]], "required_lookups": []}
    run_args = changed(logrows=logrows)
    assert any(f"needs {columns} columns" in one for one in check_fit("tiny", run_args, tiny, PLENTY, PLENTY))
    assert pk_estimate_bytes(run_args, tiny) == pytest.approx(measured_mb * MB, rel=0.1)
