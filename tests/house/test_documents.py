"""The documents: every relative link leads to a file and a heading that exist, and every page can be reached."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

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
