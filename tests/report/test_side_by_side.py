"""Several fronts beside each other: the table against a search by hand, the picture with every name."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wenable.cli.report import run_report
from wenable.core.readings import Front, Point, Reading
from wenable.core.space import Knob, Space
from wenable.report.compared_plot import plot_compared
from wenable.report.side_by_side import side_by_side

SPACE = Space((Knob("a", (1, 2, 4, 8)),))


def front(figures: list[tuple[float, float]], cost: str = "latency", unit: str = "ms") -> Front:
    """A front of modes with these costs and accuracies, from the costliest."""
    points = tuple(
        Point(mode, Reading(accuracy, "top-1"), Reading(cost_of, unit))
        for mode, (cost_of, accuracy) in zip(SPACE.uniform_modes(), figures, strict=False)
    )
    return Front(points, points[-1], points, len(points), 0.1, cost, "knapsack")


def cells(row: str) -> list[str]:
    return [each.strip() for each in row.strip("|").split("|")]


falling = st.lists(
    st.tuples(st.integers(1, 4000), st.integers(200, 999)), min_size=1, max_size=4, unique=True
).map(lambda all_: [(cost / 100, merit / 1000) for cost, merit in sorted(all_, reverse=True)])


@given(falling, falling, st.lists(st.integers(1, 5000), min_size=1, max_size=4))
def test_a_cell_is_the_most_accurate_mode_that_keeps_the_budget(one, two, budgets):
    series = {"groups": front(one), "widths": front(two)}
    limits = [each / 100 for each in budgets]
    rows = side_by_side(series, limits).splitlines()[2 : 2 + len(limits)]
    for limit, row in zip(limits, rows, strict=True):
        expected = []
        for figures in (one, two):
            fitting = [merit for cost, merit in figures if cost <= limit]
            expected.append(f"{100 * max(fitting):.1f}" if fitting else "-")
        found = cells(row)[1:]
        assert [each.replace("*", "").partition(" ")[0] for each in found] == expected
        merits = [float(each) for each in expected if each != "-"]
        for text, cell in zip(expected, found, strict=True):
            alone = text != "-" and merits.count(float(text)) == 1 and float(text) == max(merits)
            assert cell.startswith("**") == alone or len(set(merits)) < len(merits)


@given(falling, falling)
def test_budgets_go_from_the_cheapest_mode_of_all_to_the_costliest(one, two):
    table = side_by_side({"groups": front(one), "widths": front(two)})
    rows = [cells(row) for row in table.splitlines()[2:] if row.startswith("|")]
    assert 1 <= len(rows) <= 5
    assert any(cell != "-" for cell in rows[0][1:])
    best = [max(merit for _, merit in figures) for figures in (one, two)]
    last = [cell.replace("*", "").partition(" ")[0] for cell in rows[-1][1:]]
    assert last == [f"{100 * merit:.1f}" for merit in best]


@pytest.mark.parametrize("budget", [0.0, -1.0, math.inf, "3"])
def test_a_budget_that_is_none_is_refused(budget):
    with pytest.raises(ValueError, match="`budgets` holds"):
        side_by_side({"groups": front([(1.0, 0.5)])}, [budget])


def test_one_picture_shows_all_and_fronts_of_other_costs_are_refused(tmp_path: Path):
    series = {"groups": front([(4.0, 0.9), (2.0, 0.8)]), "image size": front([(3.0, 0.9)])}
    text = plot_compared(series, tmp_path / "fronts.svg", title="One network").read_text()
    for words in ("One network", "groups", "image size", "latency of one image (ms"):
        assert words in text
    mixed = {**series, "by MACs": front([(3e6, 0.9)], "macs", "MACs")}
    with pytest.raises(ValueError, match="latency in ms with top-1 and macs in MACs with top-1"):
        plot_compared(mixed, tmp_path / "none.svg")


def test_the_command_writes_both_and_one_front_alone_gets_neither(tmp_path: Path):
    paths = []
    for name, figures in (("groups", [(4.0, 0.9), (2.0, 0.8)]), ("widths", [(3.0, 0.85)])):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(front(figures).to_json()))
        paths.append(path)
    run_report(paths, None, tmp_path / "both" / "report.html", ("svg", "md"))
    names = {each.name for each in (tmp_path / "both").iterdir()}
    assert names == {"front-groups.svg", "front-widths.svg", "fronts.svg", "front.md"}
    table = (tmp_path / "both" / "front.md").read_text()
    assert table.startswith("| latency at most (ms) | groups | widths |")
    assert "| 4.00 | **90.0** (m01) | 85.0 (m01) |" in table
    run_report(paths[:1], None, tmp_path / "one" / "report.html", ("svg", "md"))
    assert {each.name for each in (tmp_path / "one").iterdir()} == {"front.svg", "front.md"}
