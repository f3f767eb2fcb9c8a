"""Pieces of HTML: escaped text, tables, sections. Everything that is not `Markup` is escaped where it is inserted.

Texts may come from outside (labels, messages, hotkeys), so HTML must be marked explicitly.
The output is well-formed XML too: every element is closed, every attribute quoted. Knows nothing of summaries.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Markup(str):
    """HTML that is inserted unescaped."""

    __slots__ = ()


def text(value: str) -> Markup:
    """`value` escaped for an element's text or a quoted attribute; `Markup` is returned unchanged.

    Line ends become spaces. Invisible characters, including those that change the text direction, become question
    marks: they can disguise a label, and a lone surrogate cannot be written to a file.
    """
    if isinstance(value, Markup):
        return value
    if not value.isprintable():
        value = "".join(one if one.isprintable() else "?" for one in " ".join(value.split()))
    return Markup(escape(value))


def joined(parts: Iterable[Markup]) -> Markup:
    """The parts one after the other."""
    return Markup("".join(parts))


def section(name: str, heading: str, body: Markup, note: str = "") -> Markup:
    """A section with a second-level heading and a note; empty if the body is empty."""
    if not body:
        return Markup()
    aside = f" <small>{text(note)}</small>" if note else ""
    return Markup(f'<section id="{name}"><h2>{text(heading)}{aside}</h2>{body}</section>\n')


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> Markup:
    """A table in a box that scrolls if the page is too narrow; empty without rows.

    A column whose name in `header` begins with ``#`` is aligned as numbers. The first column is the row's heading.
    `kind` is a class of the style sheet.
    """
    rows = list(rows)
    if not rows:
        return Markup()
    numeric = [name.startswith("#") for name in header]
    head = "".join(
        f'<th scope="col"{_NUMBER if number else ""}>{text(name.lstrip("#"))}</th>'
        for name, number in zip(header, numeric, strict=True)
    )
    body = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>'
        + "".join(
            f"<td{_NUMBER if number else ''}>{text(cell)}</td>"
            for cell, number in zip(row[1:], numeric[1:], strict=True)
        )
        + "</tr>"
        for row in rows
    )
    name = text(caption)
    return Markup(
        f'<div class="scroll {kind}" role="region" aria-label="{name}" tabindex="0"><table><caption>{name}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def facts(caption: str, rows: Iterable[tuple[str, str]]) -> Markup:
    """A list of names and values; empty without rows."""
    body = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in rows)
    return Markup(f'<dl aria-label="{text(caption)}">{body}</dl>') if body else Markup()


def fold(heading: str, body: Markup) -> Markup:
    """`body` folded under its heading, open in print; empty if `body` is empty."""
    return Markup(f"<details><summary>{text(heading)}</summary>{body}</details>") if body else Markup()


def code(command: str) -> Markup:
    """A command to copy."""
    return Markup(f"<code>{text(command)}</code>")


_NUMBER = ' class="number"'
