"""summary.html: complete, safe against what strangers put into a summary, and in need of nothing but itself."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from base64 import b64encode
from dataclasses import fields, is_dataclass, replace
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from omron_miner.monitor.html import to_html
from omron_miner.monitor.model import Verdict
from omron_miner.monitor.render import measured
from omron_miner.page import Markup, text
from omron_miner.page.plots import RIGHT, Line, Target, TimeAxis, histogram_plot, line_plot, round_ticks
from summary_samples import NOW, bad_summary, empty_summary, prover_summary, sample_summary, sn2_summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from omron_miner.monitor.model import Summary

HOSTILE = "\"'></title></style><script>alert(1)</script><img src=x onerror=alert(1)>&amp;\u202e\x00\ud800]]>"
SAMPLES = [sample_summary, bad_summary, empty_summary, sn2_summary, prover_summary]


def parsed(page: str) -> ElementTree.Element:
    """The page, which is XML as well; an unclosed element or an unescaped sign raises."""
    return ElementTree.fromstring(page)  # noqa: S314


def words(element: ElementTree.Element | None) -> str:
    assert element is not None
    return " ".join("".join(element.itertext()).split())


def part(page: str, name: str) -> ElementTree.Element:
    found = parsed(page).find(f".//section[@id='{name}']")
    assert found is not None
    return found


def with_hostile_texts(value: Any) -> Any:
    """`value` with `HOSTILE` in place of every text it holds, keys too."""
    if isinstance(value, Verdict):
        return value
    if isinstance(value, str):
        return HOSTILE
    if is_dataclass(value):
        # Names of targets are ours: plots find theirs by them.
        kept = {"name"} if type(value).__name__ == "Target" else set()
        changed = {
            one.name: with_hostile_texts(getattr(value, one.name)) for one in fields(value) if one.name not in kept
        }
        return replace(value, **changed)  # type: ignore[type-var]
    if isinstance(value, list):
        return [with_hostile_texts(one) for one in value]
    if isinstance(value, dict):
        return {with_hostile_texts(name): with_hostile_texts(one) for name, one in value.items()}
    return value


@pytest.mark.parametrize("make", SAMPLES)
def test_no_text_of_a_summary_becomes_markup(make: Callable[[], Summary]) -> None:
    """Whichever field a stranger gets hold of: the page has the same elements, and the text is only shown."""
    honest, hostile = parsed(to_html(make())), parsed(to_html(with_hostile_texts(make())))
    assert {one.tag for one in hostile.iter()} <= {one.tag for one in honest.iter()}
    assert not any(name.startswith("on") for one in hostile.iter() for name in one.attrib)
    assert "<script>alert(1)</script>" in words(hostile.find(".//title"))
    to_html(with_hostile_texts(make())).encode()


def test_what_cannot_be_seen_is_not_kept() -> None:
    assert text("a\u202eb\x00c\ud800") == "a?b?c?"
    assert text("two\nlines\t<") == "two lines &lt;"
    assert text(Markup("<b>")) == "<b>"


@pytest.mark.parametrize("make", SAMPLES)
def test_the_page_asks_for_nothing_and_runs_nothing(make: Callable[[], Summary]) -> None:
    page = to_html(make())
    root = parsed(page)
    assert not {"script", "iframe", "object", "embed", "base", "form", "img"} & {one.tag for one in root.iter()}
    assert not [one.attrib for one in root.iter() if "style" in one.attrib or "src" in one.attrib]
    assert [one.get("href", "")[:5] for one in root.iter() if "href" in one.attrib] == ["data:"]
    style = root.findtext(".//style") or ""
    assert not re.search(r"url\(|@import|expression\(", style)
    policy = root.find(".//meta[@http-equiv='Content-Security-Policy']")
    digest = b64encode(sha256(style.encode()).digest()).decode()
    assert policy is not None
    assert policy.get("content", "").startswith(f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:;")


@pytest.mark.parametrize("make", SAMPLES)
def test_every_target_shows_what_was_wanted_and_what_was_measured(make: Callable[[], Summary]) -> None:
    summary = make()
    tiles = [words(one) for one in part(to_html(summary), "targets").iter("li")]
    assert len(tiles) == len(summary.verdict.targets)
    for tile, target in zip(tiles, summary.verdict.targets, strict=True):
        assert tile.startswith(target.name)
        assert measured(target) in tile
        assert f"wanted {target.comparison} {target.wanted:g}" in tile
        assert tile.endswith(
            {Verdict.MET: "✓ met", Verdict.MISSED: "✕ missed", Verdict.NO_DATA: "– no data"}[target.verdict]
        )


def test_the_parts_are_in_the_order_in_which_an_operator_asks() -> None:
    root = parsed(to_html(bad_summary()))
    assert [one.get("id") for one in root.iter("section")] == [
        "alerts", "targets", "answers", "times", "spread", "requests", "host-over-time", "host", "versions", "changes",
        "errors",
    ]  # fmt: skip
    levels = [int(one.tag[1]) for one in root.iter() if re.fullmatch(r"h[1-6]", one.tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert words(root.find(".//h1")) == "✕ Targets missed"


def test_trouble_is_reported_with_its_cause_and_the_next_command() -> None:
    page = to_html(bad_summary())
    assert words(part(page, "alerts").find(".//ul")).startswith(
        "▲ swap_on swap is on: /dev/sda2since 2026-01-05 09:00:00 UTC"
    )
    assert "The message about p95_over_target could not be delivered: timed out" in words(part(page, "alerts"))
    answers = words(part(page, "answers"))
    assert "Likely: other processes use the CPU99 % of 8 cores busy" in answers
    assert [one.text for one in part(page, "answers").iter("code")] == [
        "top -o %CPU",
        "ansible-playbook site.yml --tags cpu_governor",
        "omron-miner circuit check --circuit lstm",
    ]
    assert "No measured cause found." in answers
    assert "verification_failed 15 1.04 %" in " ".join(
        one for one in map(str.strip, part(page, "requests").itertext()) if one
    )
    assert "<b>EZKL</b> said" in words(part(page, "errors"))


def test_every_period_has_its_plots_with_the_targets_drawn_in() -> None:
    page = parsed(to_html(sample_summary()))
    for name in ("hour", "day", "week"):
        blocks = page.findall(f".//div[@class='period {name}']")
        titles = [title.text or "" for block in blocks for title in block.iter("title")]
        assert len(titles) == 3 + 1 + 6
        assert titles[0].startswith(f"Proof time over the last {name}: max from ")
        assert titles[0].endswith(", target ≤ 30 s")
        assert titles[2].endswith(", target < 45 s")
        for figure in list(blocks[0].iter("figure")):
            assert len(figure.findall(".//path[@class='target']")) == 1
            assert len([one for one in figure.iter("path") if one.get("class", "").startswith("line")]) == 3
    assert len(page.findall(".//path[@class='shade']")) >= 6 * 3


def test_without_a_request_the_page_shows_no_data_and_no_number() -> None:
    page = to_html(empty_summary())
    assert words(parsed(page).find(".//h1")) == "– No data yet"
    times = part(page, "times")
    assert [one.text for one in times.iter("text") if one.get("class") == "none"] == ["no data"] * 9
    assert not [one for one in times.iter("path") if one.get("class", "").startswith("line")]
    assert "no request" in words(times)
    assert "0.00 s" not in page


def test_a_line_breaks_where_there_is_no_value_and_a_lone_value_is_a_dot() -> None:
    axis = TimeAxis([int(NOW) + 60 * number for number in range(5)], 60)
    plot = parsed(line_plot("x", axis, [Line("p95", [1.0, 2.0, None, None, 4.0])], "s"))
    (line,) = [one.get("d", "") for one in plot.iter("path") if one.get("class") == "line strong"]
    assert re.fullmatch(r"M\S+ \S+h0L\S+ \S+M\S+ 16\.0h0", line)
    assert plot.findtext("title") == "x: p95 from 1 s to 4 s"


def test_midnight_is_a_date_and_times_are_utc() -> None:
    day = TimeAxis([int(NOW) - 86_400 + 600 * number for number in range(1, 145)], 600)
    assert re.findall(r">([^<>]+)</text>", day.drawn) == ["16:00", "20:00", "5 Jan", "04:00", "08:00", "12:00"]
    hour = TimeAxis([int(NOW) + 60 * number for number in range(60)], 60)
    assert re.findall(r">([^<>]+)</text>", hour.drawn)[:2] == ["12:00", "12:10"]


@pytest.mark.parametrize(
    ("top", "ticks"),
    [(0, [0, 0.5, 1]), (31.2, [0, 10, 20, 30, 40]), (5, [0, 2, 4, 6]), (0.07, [0, 0.02, 0.04, 0.06, 0.08])],
)
def test_ticks_are_round_numbers_up_to_the_largest_value(top: float, ticks: list[float]) -> None:
    assert round_ticks(top) == ticks


def test_a_histogram_parts_at_its_target_and_points_to_one_out_of_sight() -> None:
    inside = parsed(histogram_plot("x", [10, 20, 30, 40], [1, 5, 2], Target(30, "target ≤ 30 s")))
    over = [one.get("d", "") for one in inside.iter("path") if one.get("class") == "bar over"]
    assert [one.count("M") for one in over] == [1]
    assert inside.findtext("title") == "x of 8 requests, from 10 to 40 s, the most between 20 and 30 s, target ≤ 30 s"
    beyond = parsed(histogram_plot("x", [1, 2, 3], [1, 5], Target(30, "target ≤ 30 s")))
    (label,) = [one for one in beyond.iter("text") if one.get("class") == "target"]
    assert (label.text, label.get("x")) == ("target ≤ 30 s →", str(RIGHT))


def test_the_page_of_a_full_week_is_small_enough_for_a_phone() -> None:
    assert len(to_html(bad_summary()).encode()) < 400_000


def test_the_page_opens_on_the_shortest_period_with_a_request() -> None:
    summary, none = sample_summary(), empty_summary().periods
    periods = summary.periods
    for given, opens in (
        (periods, "hour"),
        (replace(periods, hour=none.hour), "day"),
        (replace(periods, hour=none.hour, day=none.day), "week"),
        (none, "hour"),
    ):
        page = to_html(replace(summary, periods=given))
        assert re.findall(r'id="show-(\w+)" checked', page) == [opens]
