"""Pictures of fronts: drawn, in the right format, with everything a reader needs."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from wenable.core.readings import Point, Reading
from wenable.core.space import Knob, Space
from wenable.report.figures import TEST
from wenable.report.front_plot import Panel, plot_fronts

SPACE = Space((Knob("a", (1, 2, 4)),))


def points(unit: str) -> tuple[Point, ...]:
    return tuple(
        Point(
            SPACE.uniform(n),
            Reading(1 - 0.1 * n, "top-1", 0.95 - 0.1 * n, 1 - 0.08 * n, count=10),
            Reading(5 / n, unit, 4.5 / n, None),
        )
        for n in (1, 2, 4)
    )


def test_an_svg_holds_the_words_a_reader_needs(tmp_path: Path):
    panels = {"macs": Panel(points("MACs"), ()), "latency": Panel((), points("ms"))}
    text = plot_fronts(panels, tmp_path / "front.svg", title="A title").read_text()
    # matplotlib writes the text of an SVG as comments beside the outlines
    for words in (
        "A title",
        "top-1 accuracy, search split, chosen on it",
        "(%, 95 % interval)",
        "multiply-accumulates of one image (millions)",
        "latency of one image (ms, median and quartiles)",
        "front of the search",
        "1/4",
    ):
        assert words in text


def test_modes_judged_by_an_error_are_drawn_in_its_own_figures(tmp_path: Path):
    errors = tuple(
        replace(each, accuracy=Reading(0.25 * i, "RMSE", lower_is_better=True))
        for i, each in enumerate(points("ms"), 1)
    )
    text = plot_fronts({"latency": Panel(errors, ())}, tmp_path / "front.svg").read_text()
    assert "RMSE, search split" in text
    assert "(95 % interval)" in text
    assert "0.6" in re.findall(r"<!-- (.*?) -->", text)  # and not 75 %
    assert errors[0].beats(replace(errors[1], cost=errors[0].cost))
    mixed = {"latency": Panel(errors, points("ms"))}
    with pytest.raises(ValueError, match="`panels` mix RMSE and top-1"):
        plot_fronts(mixed, tmp_path / "none.svg")


def test_an_interval_beside_its_value_is_drawn_as_far_as_it_reaches(tmp_path: Path):
    """As files hold it that were written when a resampled interval could lie there."""
    beside = tuple(
        replace(each, accuracy=Reading(30.0, "PSNR", 30.2, 31.0), cost=Reading(5.0, "ms", 4.0, 4.5))
        for each in points("ms")
    )
    text = plot_fronts({"latency": Panel(beside, ())}, tmp_path / "front.svg").read_text()
    assert "PSNR, search split" in text


def test_a_picture_draws_the_test_split_where_it_is_told_to_and_nothing_else(tmp_path: Path):
    tested = tuple(replace(each, test=Reading(0.123, "top-1", 0.1, 0.2)) for each in points("ms"))
    text = plot_fronts({"latency": Panel(tested, (), TEST)}, tmp_path / "front.svg").read_text()
    assert "top-1 accuracy, test split" in text
    # All three points are on one height; on the search split they are not.
    drawn = r'<use xlink:href="#\w+" x="[\d.]+" y="([\d.]+)" style="fill: #0b62a8'
    heights = re.findall(drawn, text)[:3]  # the fourth is in the legend
    assert len(set(heights)) == 1
    with pytest.raises(ValueError, match="evaluated on the search split only"):
        plot_fronts({"latency": Panel(points("ms"), (), TEST)}, tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()


def test_a_png_is_a_png_and_nothing_is_refused(tmp_path: Path):
    path = plot_fronts({"macs": Panel(points("MACs"), points("MACs"))}, tmp_path / "front.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="`panels` is empty"):
        plot_fronts({"macs": Panel((), ())}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_a_picture_of_energies_says_millijoules(tmp_path: Path):
    space = Space((Knob("a", (1, 2)),))
    points = tuple(
        Point(space.mode(mode), Reading(share, "top-1"), Reading(mj, "mJ"))
        for mode, share, mj in (("1", 0.9, 8.0), ("1/2", 0.8, 5.0))
    )
    text = plot_fronts({"energy": Panel(points, ())}, tmp_path / "front.svg").read_text()
    assert "energy of one image (mJ)" in text
    assert "latency" not in text
