"""summary.json's JSON Schema and its table of keys, both from `model`; used for documentation and tests.

python -m omron_miner.monitor.schema --write    renews summary.schema.json and docs/summary.md below this folder
"""

from __future__ import annotations

import json
import sys
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ConfigDict, TypeAdapter

from omron_miner.monitor import model

SCHEMA_FILE = Path(__file__).with_name("summary.schema.json")
"""Shipped with the package."""
BEGIN, END = "<!-- keys: generated, do not edit below -->", "<!-- end of keys -->"


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) that every summary.json of `model.SCHEMA_VERSION` is valid against.

    Keys that a later version of the package adds are allowed; those that are there now are required.
    """
    for value in vars(model).values():
        if is_dataclass(value):
            cast("Any", value).__pydantic_config__ = ConfigDict(use_attribute_docstrings=True)
    schema = TypeAdapter(model.Summary).json_schema(mode="serialization")
    for part in (schema, *schema["$defs"].values()):
        if part.get("type") == "object" and "properties" in part:
            part["required"] = list(part["properties"])
            for key in part["properties"].values():
                key.pop("default", None)
                key.pop("title", None)
    schema["properties"]["schema_version"]["const"] = model.SCHEMA_VERSION
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"omron-miner summary.json, version {model.SCHEMA_VERSION}",
    } | {name: value for name, value in schema.items() if name != "title"}


def schema_text() -> str:
    """What `SCHEMA_FILE` holds."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def key_tables() -> str:
    """One table of keys for every object of the schema, in Markdown, the whole first."""
    schema = json_schema()
    parts = {"Summary": schema, **schema["$defs"]}
    lines = []
    for name, part in parts.items():
        lines += ["", f"### {name}", "", " ".join(part.get("description", "").split()), ""]
        if "enum" in part:
            lines += [", ".join(f"`{value}`" for value in part["enum"])]
            continue
        lines += ["| key | type | meaning |", "| --- | --- | --- |"]
        for key, what in part["properties"].items():
            meaning = " ".join(what.get("description", "").split()).replace("|", "\\|")
            lines.append(f"| `{key}` | {_type(what)} | {meaning} |")
    return "\n".join(lines) + "\n"


def documented(text: str) -> str:
    """docs/summary.md's `text` with the tables between its two marks renewed."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n{key_tables()}\n{END}{rest.partition(END)[2]}"


def _type(what: dict[str, Any]) -> str:
    if "$ref" in what:
        name = what["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in what:
        return " or ".join(_type(one) for one in what["anyOf"])
    if what.get("type") == "array":
        return f"list of {_type(what['items'])}"
    if isinstance(what.get("additionalProperties"), dict):
        return f"object of {_type(what['additionalProperties'])}"
    return str(what.get("type", "anything"))


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
    document = Path("docs/summary.md")
    document.write_text(documented(document.read_text(encoding="utf-8")), encoding="utf-8")
