"""settings.json.j2, EZKL's run args and the package's model of them agree; look-alikes and unknown keys are refused."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from building import ROOT, render_run_args
from omron_miner.circuits.run_args import RunArgs, logrows_for, parse_run_args, read_run_args
from omron_miner.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE = ROOT / "templates/settings.json.j2"
EZKL_22_0_1 = {
    "bounded_log_lookup", "check_mode", "commitment", "decomp_base", "decomp_legs", "epsilon",
    "ignore_range_check_inputs_outputs", "input_scale", "input_visibility", "logrows", "lookup_range",
    "num_inner_cols", "output_visibility", "param_scale", "param_visibility", "rebase_frac_zero_constants",
    "scale_rebase_multiplier", "variables",
}  # fmt: skip
"""The public attributes of ezkl.PyRunArgs()."""


def test_every_run_arg_of_ezkl_can_be_set_and_is_explained() -> None:
    assert set(RunArgs.model_fields) == EZKL_22_0_1
    explanations = TEMPLATE.read_text().split("{#\nlogrows")[1].join(["logrows", ""]).split("#}")[0]
    headings = re.findall(r"^([a-z]\w+.*)$", explanations, re.M)
    explained = {name for heading in headings for name in re.findall(r"\b[a-z]\w+", re.sub(r"\(.*?\)", "", heading))}
    assert explained == EZKL_22_0_1


def test_the_rendered_defaults_are_accepted_and_say_all_but_epsilon() -> None:
    assert set(json.loads(render_run_args("demo"))["run_args"]) == EZKL_22_0_1 - {"epsilon"}
    run_args = parse_run_args(render_run_args("demo"), "test")
    assert run_args.logrows == 16
    assert (run_args.input_visibility, run_args.output_visibility, run_args.param_visibility) == (
        "Public",
        "Public",
        "Fixed",
    )


@pytest.mark.parametrize("model", ["demo", "tiny"])
def test_every_table_of_the_defaults_fits_in_one_column(model: str) -> None:
    run_args = parse_run_args(render_run_args(model), "test")
    assert run_args.lookup_rows <= run_args.usable_rows
    assert run_args.decomp_base <= run_args.usable_rows


def test_an_operators_run_args_win() -> None:
    run_args = parse_run_args(render_run_args("tiny", logrows=12, lookup_range=[-5, 6], epsilon=1e-3), "test")
    assert (run_args.logrows, run_args.lookup_range, run_args.epsilon) == (12, (-5, 6), 1e-3)
    assert run_args.decomp_base == 1024


def test_a_tuned_profile_comes_before_defaults_and_after_the_inventory() -> None:
    text = render_run_args("tiny", tuned={"logrows": 13, "decomp_legs": 1, "epsilon": None}, logrows=12)
    run_args = parse_run_args(text, "test")
    assert (run_args.logrows, run_args.decomp_legs, run_args.decomp_base) == (12, 1, 1024)
    sources = json.loads(text)["sources"]
    assert [sources[name] for name in ("logrows", "decomp_legs", "decomp_base", "input_scale")] == [
        "inventory",
        "tuned profile",
        "built-in model",
        "default",
    ]
    assert set(sources) == set(json.loads(text)["run_args"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("logrows", "16"),
        ("logrows", 16.5),
        ("logrows", True),
        ("logrows", 5),
        ("logrows", 40),
        ("num_inner_cols", True),
        ("num_inner_cols", 0),
        ("lookup_range", [-10]),
        ("lookup_range", ["-10", 10]),
        ("lookup_range", [10, -10]),
        ("lookup_range", "-10,10"),
        ("bounded_log_lookup", "no"),
        ("ignore_range_check_inputs_outputs", 1),
        ("input_visibility", "public"),
        ("input_visibility", "Fixed"),
        ("output_visibility", "Private"),
        ("commitment", "IPA"),
        ("check_mode", False),
        ("variables", [["batch_size", "1"]]),
        ("logrow", 16),
    ],
)
def test_a_wrong_or_unknown_run_arg_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        parse_run_args(render_run_args("demo", **{key: value}), "test")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run_args": {}, "more": 1}', "run_args: {}"])
def test_a_file_of_another_shape_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"here\.json"):
        parse_run_args(text, "here.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.json"):
        read_run_args(tmp_path / "absent.json")


def test_a_table_fits_one_column_at_its_logrows_and_not_below() -> None:
    for rows in (100, 65_528, 65_529):
        logrows = logrows_for(rows)
        assert rows <= RunArgs(logrows=logrows).usable_rows
        assert rows > RunArgs(logrows=logrows - 1).usable_rows
    assert logrows_for(3) == 6
