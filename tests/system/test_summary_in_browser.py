"""summary.html in a real browser: on a phone and a desk, in light and dark, and on paper.

    OMRON_WRITE_PICTURE=yes .venv/bin/pytest -n0 tests/system/test_summary_in_browser.py -k picture

also writes docs/images/summary.png, the picture in the README.
"""

from __future__ import annotations

import base64
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from browser import Page, browser
from omron_miner.monitor.html import to_html
from summary_samples import bad_summary, empty_summary, sample_summary

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

PHONE, DESK = (390, 844), (1280, 900)
SIZES = pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
LIGHT_AND_DARK = pytest.mark.parametrize("scheme", ["light", "dark"])
ALL = ("hour", "day", "week")
PICTURE = Path(__file__).parents[2] / "docs/images/summary.png"
PICTURE_WIDTH, PICTURE_BYTES = 1200, 200_000


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each kind of summary."""
    directory, found = tmp_path_factory.mktemp("pages"), {}
    for make in (sample_summary, bad_summary, empty_summary):
        found[make.__name__] = directory / f"{make.__name__}.html"
        found[make.__name__].write_text(to_html(make()), encoding="utf-8")
    return found


def luminance(colour: str) -> float:
    """0 is black and 1 white, of ``#rrggbb``."""
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def commonest(colours: dict[str, int]) -> str:
    return max(colours, key=colours.__getitem__)


def colour_of(page: Page, selector: str, name: str) -> str:
    """The computed colour of the first element that matches, as ``#rrggbb``."""
    found = page.value(f"getComputedStyle(document.querySelector({selector!r})).{name}")
    return "#" + "".join(f"{int(part):02x}" for part in found.removeprefix("rgb(").removesuffix(")").split(","))


def shown(page: Page, section: str) -> list[str]:
    """The periods of which `section` has plots on view."""
    periods = f"[...document.querySelectorAll('#{section} .period')]"
    found: list[str] = page.value(
        f"{periods}.filter(one => one.offsetHeight > 0).map(one => one.className.split(' ')[1])"
    )
    return found


@pytest.mark.parametrize("name", ["sample_summary", "bad_summary", "empty_summary"])
@SIZES
def test_the_page_fits_its_window_and_asks_for_nothing(
    page: Page, files: dict[str, Path], name: str, size: tuple[int, int]
) -> None:
    page.open(files[name], *size)
    assert page.value("document.documentElement.scrollWidth") <= size[0]
    assert (
        page.value("Math.max(...[...document.querySelectorAll('.plot')].map(one => one.getBoundingClientRect().right))")
        <= size[0]
    )
    assert page.console == []
    assert page.requested == [files[name].as_uri()]


@SIZES
@LIGHT_AND_DARK
def test_the_verdict_and_the_plots_are_seen_in_light_and_dark(
    page: Page, files: dict[str, Path], size: tuple[int, int], scheme: str
) -> None:
    page.open(files["bad_summary"], *size, scheme)
    page_colours = page.colours("header")
    ground = commonest(page_colours)
    assert luminance(ground) > 0.85 if scheme == "light" else luminance(ground) < 0.15
    verdict = colour_of(page, "h1", "color")
    assert page_colours[verdict] > 200
    assert abs(luminance(verdict) - luminance(ground)) > 0.3
    for section in ("times", "host-over-time"):
        plot = f"#{section} .hour .plot"
        painted = page.colours(plot)
        assert painted.get(colour_of(page, f"{plot} .line.strong", "stroke"), 0) > 50, section
    assert painted[colour_of(page, "#host-over-time .hour .shade", "fill")] > 5000
    plot = "#times .hour figure:nth-child(3) .plot"
    assert page.colours(plot).get(colour_of(page, f"{plot} path.target", "stroke"), 0) > 50


@SIZES
def test_hour_day_and_week_are_switched_without_a_script(
    page: Page, files: dict[str, Path], size: tuple[int, int]
) -> None:
    page.open(files["sample_summary"], *size)
    for section in ("times", "requests", "host-over-time"):
        assert shown(page, section) == ["hour"]
    page.value("document.getElementById('show-hour').focus()")
    for name, code in (("ArrowRight", "day"), ("ArrowRight", "week")):
        page.call("Input.dispatchKeyEvent", type="keyDown", key=name, code=name, windowsVirtualKeyCode=39)
        page.call("Input.dispatchKeyEvent", type="keyUp", key=name, code=name, windowsVirtualKeyCode=39)
        assert shown(page, "times") == shown(page, "host-over-time") == [code]


def test_paper_is_light_and_holds_all_periods_uncut(page: Page, files: dict[str, Path]) -> None:
    """Printed by somebody whose screen is dark."""
    page.open(files["bad_summary"], *DESK, "dark")
    printed = page.pdf()
    assert printed.startswith(b"%PDF-")
    assert 3 <= printed.count(b"/Type /Page\n") <= 12
    page.emulate("print", "dark")
    for section in ("times", "requests", "host-over-time"):
        assert shown(page, section) == list(ALL)
    assert page.value("getComputedStyle(document.querySelector('.switch')).display") == "none"
    assert page.value("document.querySelector('details table').offsetHeight") > 0
    figures = "[...document.querySelectorAll('figure')]"
    assert page.value(f"{figures}.every(one => getComputedStyle(one).breakInside === 'avoid')")
    assert luminance(commonest(page.colours("header"))) > 0.85


def test_the_picture_in_the_readme_shows_the_page_down_to_its_times(page: Page, files: dict[str, Path]) -> None:
    page.open(files["sample_summary"], PICTURE_WIDTH, 900)
    height = int(page.value("document.getElementById('times').getBoundingClientRect().bottom")) + 16
    clip = {"x": 0, "y": 0, "width": PICTURE_WIDTH, "height": height, "scale": 1}
    shot = page.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
    picture = base64.b64decode(shot["data"])
    if os.environ.get("OMRON_WRITE_PICTURE"):
        PICTURE.parent.mkdir(exist_ok=True)
        PICTURE.write_bytes(picture)
    committed = PICTURE.read_bytes()
    assert committed.startswith(b"\x89PNG")
    assert len(committed) < PICTURE_BYTES
    assert struct.unpack(">I", committed[16:20]) == (PICTURE_WIDTH,)
