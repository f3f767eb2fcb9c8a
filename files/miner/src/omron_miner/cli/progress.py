"""Progress on stderr: lines, and on a terminal a bar for counted steps."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from omron_miner.progress import LineHandler, show, step_of

if TYPE_CHECKING:
    import logging


def show_progress() -> None:
    """Shows progress on stderr until the current command exits."""
    handler = BarHandler() if sys.stderr.isatty() else LineHandler(_echo)
    click.get_current_context().with_resource(show(handler))


class BarHandler(LineHandler):
    """Prints lines, and draws a bar with the time left for counted steps."""

    def __init__(self) -> None:
        super().__init__(_echo)
        self.setLevel("DEBUG")  # every step moves the bar
        self._bar: click._termui_impl.ProgressBar[int] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """A bar starts at step 0."""
        step = step_of(record)
        if step is None:
            super().emit(record)
        elif step.done == 0 < step.total:
            self._bar = click.progressbar(length=step.total, label=step.what, file=sys.stderr, show_pos=True)
            self._bar.render_progress()
        elif self._bar:
            self._bar.update(1)
            if step.done == step.total:
                self._bar.render_finish()
                self._bar = None


def _echo(line: str) -> None:
    click.echo(line, err=True)
