"""How far a long step is: a line now and then, or a bar where somebody watches."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    Say = Callable[[str], None]


class Watched:
    """Says lines on a terminal, and draws a bar with the time left for what is counted."""

    def __call__(self, line: str) -> None:
        """Says a line."""
        click.echo(line, err=True)

    def bar(self, what: str, count: int) -> Callable[[], None]:
        """A bar of `count` steps; what is returned is called after each."""
        bar = click.progressbar(length=count, label=what, file=sys.stderr, show_pos=True)
        bar.render_progress()

        def tell() -> None:
            bar.update(1)
            if bar.pos == count:
                bar.render_finish()

        return tell


def counter(what: str, count: int, say: Say) -> Callable[[], None]:
    """What is called after each of `count` steps: it draws a bar, or says each quarter."""
    if isinstance(say, Watched):
        return say.bar(what, count)
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        if done % max(1, count // 4) == 0 or done == count:
            say(f"{what} {done} of {count}")

    return tell
