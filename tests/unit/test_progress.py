"""Progress reaches only attached handlers, as lines or as a bar."""

from __future__ import annotations

import logging
import os
import sys
from functools import partial

import click
import pytest
from click.testing import CliRunner

from omron_miner.cli.progress import show_progress
from omron_miner.events import LOGGER_NAME
from omron_miner.progress import LineHandler, count, say, show


@click.command()
def long_work() -> None:
    show_progress()
    say("it begins")
    step = count("proof", 5)
    for _ in range(5):
        step()
    count("nothing", 0)
    say("it ends")


def test_lines_go_to_the_handler_alone_and_only_while_it_is_shown() -> None:
    lines: list[str] = []
    log_file: list[str] = []
    ours, miners = LineHandler(lines.append), LineHandler(log_file.append)
    logging.getLogger(LOGGER_NAME).addHandler(miners)
    try:
        say("before")
        with show(ours):
            say("100 % {inside}")
        say("after")
    finally:
        logging.getLogger(LOGGER_NAME).removeHandler(miners)
    assert lines == ["100 % {inside}"]
    assert log_file == []


def test_progress_is_shown_although_bittensor_has_turned_other_loggers_off(progress: list[str]) -> None:
    lines: list[str] = []
    logger = logging.getLogger("omron_miner.progress")
    logger.setLevel(logging.CRITICAL)
    say("off")
    with show(LineHandler(lines.append)):
        say("on")
    assert lines == progress == ["on"]
    assert logger.level == logging.CRITICAL


@pytest.mark.parametrize(
    ("total", "told"), [(0, []), (1, [1]), (3, [1, 2, 3]), (10, [2, 4, 6, 8, 10]), (9, [2, 4, 6, 8, 9])]
)
def test_counted_steps_are_a_line_each_quarter_and_at_the_end(progress: list[str], total: int, told: list[int]) -> None:
    step = count("layout", total)
    for _ in range(total):
        step()
    assert progress == [f"layout {done} of {total}" for done in told]


def test_a_handler_that_fails_stops_the_work() -> None:
    def fail(_line: str) -> None:
        raise BrokenPipeError

    with show(LineHandler(fail)), pytest.raises(BrokenPipeError):
        say("a line")


def test_a_command_shows_its_progress_on_stderr_until_it_ends() -> None:
    for _ in range(2):  # the first run's handler is gone
        done = CliRunner().invoke(long_work)
        lines = [f"proof {number} of 5" for number in range(1, 6)]
        assert done.stderr.splitlines() == ["it begins", *lines, "it ends"]
        assert done.stdout == ""


def read_some(reader: int) -> bytes:
    """What a terminal shows next; a read may return any part of it. Empty once it is closed: Linux reports EIO then."""
    try:
        return os.read(reader, 65_536)
    except OSError:
        return b""


def test_a_command_on_a_terminal_draws_a_bar_for_counted_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, terminal = os.openpty()
    try:
        with open(terminal, "w") as stderr:
            monkeypatch.setattr(sys, "stderr", stderr)
            long_work.main([], standalone_mode=False)
            monkeypatch.undo()
        shown = b"".join(iter(partial(read_some, reader), b"")).decode()
    finally:
        os.close(reader)
    first, *bar, last = shown.split("\r\n")[:-1]
    assert (first, last) == ("it begins", "it ends")
    (drawn,) = bar
    assert drawn.index("0/5") < drawn.index("5/5")
    assert "proof 1 of 5" not in shown
    assert "nothing" not in shown
