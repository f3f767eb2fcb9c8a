"""Building blocks of HTML pages and reports: escaped text, tables, plots as inline SVG. Knows nothing of summaries."""

from omron_miner.page.markup import Markup, code, facts, fold, joined, section, table, text
from omron_miner.page.plots import (
    Line,
    Target,
    TimeAxis,
    bullet,
    count_plot,
    histogram_plot,
    line_plot,
    round_ticks,
    swatch,
)

__all__ = [
    "Line",
    "Markup",
    "Target",
    "TimeAxis",
    "bullet",
    "code",
    "count_plot",
    "facts",
    "fold",
    "histogram_plot",
    "joined",
    "line_plot",
    "round_ticks",
    "section",
    "swatch",
    "table",
    "text",
]
