"""Pieces of HTML: escaped text, tables, sections. Everything that is not `Markup` is escaped where it is inserted.

Texts may come from outside (labels, messages, hotkeys), so a piece of HTML has to be marked as one.
The output is well-formed XML too: every element is closed, every attribute quoted. Knows nothing of summaries.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Markup(str):
    """HTML that goes into the page as it is."""

    __slots__ = ()


def text(value: str) -> Markup:
    """`value`, harmless as an element's text and within a quoted attribute; `Markup` as it is.

    Line ends become spaces. Characters that cannot be seen, those that turn the direction of writing around among them,
    become question marks: they hide what a label says, and a lone surrogate could not be written to a file at all.
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
    """A section with a heading of the second level and what it covers; nothing when the body is empty."""
    if not body:
        return Markup()
    aside = f" <small>{text(note)}</small>" if note else ""
    return Markup(f'<section id="{name}"><h2>{text(heading)}{aside}</h2>{body}</section>\n')


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> Markup:
    """A table in its own box, which scrolls where the page is too narrow; nothing without rows.

    A column is one of numbers, and aligned as such, when its name in `header` begins with ``#``. The first column names
    its row. `kind` is a class of the style sheet.
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
    """A list of names and what there is to say of each; nothing without rows."""
    body = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in rows)
    return Markup(f'<dl aria-label="{text(caption)}">{body}</dl>') if body else Markup()


def fold(heading: str, body: Markup) -> Markup:
    """`body` behind its heading, closed on the screen and open in print; nothing when it is empty."""
    return Markup(f"<details><summary>{text(heading)}</summary>{body}</details>") if body else Markup()


def code(command: str) -> Markup:
    """A command to copy."""
    return Markup(f"<code>{text(command)}</code>")


_NUMBER = ' class="number"'
