"""summary.json's schema: what is shipped and documented is what the model says, and every summary is valid."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema  # type: ignore[import-untyped]
import pytest

from omron_miner.monitor import schema
from summary_samples import bad_summary, empty_summary, sample_summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from omron_miner.monitor.model import Summary

DOCUMENT = Path(__file__).parents[2] / "docs/summary.md"
RENEW = "run: python -m omron_miner.monitor.schema --write"


def test_the_shipped_schema_is_that_of_the_model() -> None:
    assert schema.SCHEMA_FILE.read_text(encoding="utf-8") == schema.schema_text(), RENEW


def test_the_documented_keys_are_those_of_the_model() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == schema.documented(text), RENEW


@pytest.mark.parametrize("make", [sample_summary, bad_summary, empty_summary])
def test_a_summary_is_valid_and_one_without_a_key_is_not(make: Callable[[], Summary]) -> None:
    shipped = json.loads(schema.SCHEMA_FILE.read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(shipped)
    body = json.loads(json.dumps(asdict(make())))
    validator.validate(body)
    del body["periods"]["hour"]["points"]["waiting"]
    with pytest.raises(jsonschema.ValidationError, match="waiting"):
        validator.validate(body)
