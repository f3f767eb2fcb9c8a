"""The documents: their links lead to files and headings that exist, every page can be reached, settings exist."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from omron_miner.constants import Constants

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")
CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def documents() -> list[str]:
    """Ours: not those of virtual environments, caches and installed packages."""
    folders = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    found = [*ROOT.glob("*.md"), *(path for folder in folders for path in folder.rglob("*.md"))]
    return sorted(str(path.relative_to(ROOT)) for path in found if "node_modules" not in path.parts)


DOCUMENTS = documents()


def links(name: str) -> list[str]:
    """The targets of the relative links in a document."""
    text = CODE.sub("", (ROOT / name).read_text(encoding="utf-8"))
    return [target for target in LINK.findall(text) if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of a document's headings: a repeated one gets a number."""
    found: set[str] = set()
    seen: Counter[str] = Counter()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def broken(name: str) -> list[str]:
    """The links of a document that lead nowhere."""
    found = []
    for target in links(name):
        path, _, anchor = target.partition("#")
        file = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        headings = anchors(file.read_text(encoding="utf-8")) if anchor and file.is_file() else set()
        if not file.exists() or (anchor and anchor not in headings):
            found.append(target)
    return found


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files_and_headings_that_exist(name: str) -> None:
    assert broken(name) == []


def test_every_page_is_reachable_from_the_readme_or_the_index() -> None:
    reached, waiting = set(), ["README.md", "docs/README.md"]
    while waiting:
        name = waiting.pop()
        if name in reached or not (ROOT / name).is_file():
            continue
        reached.add(name)
        targets = [((ROOT / name).parent / target.partition("#")[0]).resolve() for target in links(name)]
        waiting += [str(path.relative_to(ROOT)) for path in targets if path.suffix == ".md"]
    assert [name for name in DOCUMENTS if name.startswith("docs/") and name not in reached] == []


def test_anchors_are_those_of_github() -> None:
    text = "# A `code` word, and more\n## Twice\n## Twice\n```\n# no heading\n```\n"
    assert anchors(text) == {"a-code-word-and-more", "twice", "twice-1"}


# --- settings ---------------------------------------------------------------------------------------------------------

ROLES = sorted((path.parent.name for path in ROOT.glob("roles/*/meta")), key=len, reverse=True)
VARIABLE = re.compile(rf"(?<![\w./…-])(?:{'|'.join(ROLES)})_[a-z0-9_]*[a-z0-9]\b(?![./*(-])")
CONSTANT = re.compile(rf"(?<![\w./-])({'|'.join(Constants.model_fields)})\.([a-z_]+)\b(?![./(-])")
ENDINGS = {"py", "service", "sqlite", "timer", "yml"}
"""Of files and units that are called as a section of constants.toml is."""
OTHERS = {
    "omron_miner",  # the package
    "cpu_governor_state",  # a fact on a host
    "clock_off", "clock_seconds", "miner_hotkey",  # of the probe's answer
    "axon.ip", "axon.max_workers",  # the stock miner's options
}  # fmt: skip
SETTINGS_PAGES = [
    name
    for name in DOCUMENTS
    if (name == "README.md" or name.startswith("docs/"))
    and name not in ("docs/summary.md", "docs/role-variables.md")  # generated from what they document
]


@cache
def variables() -> set[str]:
    """All that the roles' argument specs take."""

    def names(options: dict[str, Any]) -> Iterator[str]:
        for name, option in options.items():
            yield name
            yield from names(option.get("options", {}))

    specs = [yaml.safe_load(path.read_text()) for path in ROOT.glob("roles/*/meta/argument_specs.yml")]
    entries = [entry for spec in specs for entry in spec["argument_specs"].values()]
    return {name for entry in entries for name in names(entry.get("options", {}))}


def unknown_settings(text: str, metrics: str = "") -> set[str]:
    """Variables and keys of constants.toml, named as code, that do not exist; `metrics`: where metrics are named."""
    code = "\n".join(CODE.findall(text))
    found = {
        name
        for name in VARIABLE.findall(code)
        if name not in variables() and not (metrics and re.sub(r"^omron_|_(total|count|bucket)$", "", name) in metrics)
    }
    found |= {f"…_{end}" for end in re.findall(r"…_([a-z0-9_]+)", code)
              if not any(name.endswith(f"_{end}") for name in variables())}  # fmt: skip
    for section, key in CONSTANT.findall(code):
        fields: Any = Constants.model_fields[section].annotation
        if key not in fields.model_fields and key not in ENDINGS:
            found.add(f"{section}.{key}")
    return found - OTHERS


@pytest.mark.parametrize("name", SETTINGS_PAGES)
def test_every_setting_that_a_page_names_exists(name: str) -> None:
    sources = (ROOT / "files/miner/src/omron_miner/monitor/prometheus.py", ROOT / "docs/monitoring/alert-rules.yml")
    metrics = "".join(path.read_text() for path in sources) if name.startswith("docs/monitoring/") else ""
    assert unknown_settings((ROOT / name).read_text(encoding="utf-8"), metrics) == set()


def test_settings_that_are_gone_are_found() -> None:
    text = "`miner_circuits_download_seconds`, `…_stall_seconds`, `miner_gone: 1`, `prover.workers`, `prover.gone`"
    assert unknown_settings(text) == {"…_stall_seconds", "miner_gone", "prover.gone"}
