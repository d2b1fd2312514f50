"""Several fronts beside each other: what each has to offer within the same budgets, as a small table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from wenable.core.readings import Front, Point
from wenable.report.figures import merit_name, shown_accuracy, shown_name, split_of
from wenable.report.markdown_table import line, plain_text
from wenable.report.page_data import cost_name, shown_unit, table_points

_BUDGETS = 5


def side_by_side(series: Mapping[str, Front], budgets: Sequence[float] | None = None) -> str:
    """Return a Markdown table: for each budget the most accurate mode of each front that keeps it.

    A cell is an accuracy and the short name of its mode; `-` where no mode of the front costs so little.
    The best of a row is in bold, if it is alone.

    - `series`: name -> front, all in the same units: methods, networks or devices.
    - `budgets`: in the unit of the cost; without them five, in equal ratios from what the cheapest mode
      of all takes to what the costliest takes.

    Raises `ValueError` where no mode has a cost that is known and above 0, or for a budget that is not.

    >>> from wenable.core.space import Knob, Space
    >>> from wenable.core.readings import Reading
    >>> mode = Space((Knob("a", (1, 2)),)).full
    >>> point = Point(mode, Reading(0.9, "top-1"), Reading(3.0, "ms"))
    >>> front = Front((point,), point, (point,), 1, 0.5, "latency", "greedy")
    >>> side_by_side({"groups": front}, [2.0, 4.0]).splitlines()[2:4]
    ['| 2.00 | - |', '| 4.00 | **90.0** (m01) |']
    """
    points = {name: _known(front) for name, front in series.items()}
    costs = [each.cost.known for found in points.values() for each in found]
    if not costs:
        raise ValueError("`series` has no mode whose cost is known and above 0; there is no budget")
    wanted = _budgets(min(costs), max(costs)) if budgets is None else list(budgets)
    for each in wanted:
        if not (isinstance(each, int | float) and 0 < each < math.inf):
            raise ValueError(f"`budgets` holds {each!r}; allowed: numbers above 0")
    known = next(each for found in points.values() for each in found)
    unit, accuracy = shown_unit(known.cost.unit), known.accuracy.unit
    names = [plain_text(shown_name(name, front, series)) for name, front in series.items()]
    kinds = " or ".join(dict.fromkeys(cost_name(front.cost) for front in series.values()))
    heads = [f"{kinds} at most ({plain_text(unit['shown'])})", *names]
    rows = [
        [_digits(budget * unit["scale"]), *_cells(series, points, budget, accuracy)]
        for budget in wanted
    ]
    table = [line(heads), line(["--:"] * len(heads)), *map(line, rows)]
    what = f"{merit_name(accuracy)} ({shown_unit(accuracy)['shown']})"
    return (
        "\n".join([*table, "", f"The most accurate mode within each budget: {what}, and its id."])
        + "\n"
    )


def _known(front: Front) -> list[Point]:
    """Return the points of a front whose cost and shown accuracy are known."""
    split = split_of(front)
    return [
        point
        for point in table_points(front)
        if (point.cost.value or 0.0) > 0 and shown_accuracy(point, split).value is not None
    ]


def _budgets(least: float, most: float) -> list[float]:
    """Return budgets in equal ratios, rounded up to three digits, so that the ends themselves fit."""
    ratios = (part / (_BUDGETS - 1) for part in range(_BUDGETS))
    return list(dict.fromkeys(_rounded_up(least * (most / least) ** part) for part in ratios))


def _rounded_up(value: float) -> float:
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    rounded = math.ceil(value / step - 1e-9) * step
    return max(float(f"{rounded:.6g}"), value)


def _cells(
    series: Mapping[str, Front], points: Mapping[str, list[Point]], budget: float, unit: str
) -> list[str]:
    best = {name: _best(series[name], found, budget) for name, found in points.items()}
    shown = {
        name: shown_accuracy(point, split_of(series[name])) for name, point in best.items() if point
    }
    merits = {
        name: -each.known if each.lower_is_better else each.known for name, each in shown.items()
    }
    winners = [name for name, merit in merits.items() if merit == max(merits.values())]
    return [
        "-" if point is None else _cell(series[name], point, unit, bold=winners == [name])
        for name, point in best.items()
    ]


def _best(front: Front, points: list[Point], budget: float) -> Point | None:
    def merit(point: Point) -> tuple[float, float]:
        reading = shown_accuracy(point, split_of(front))
        value = -reading.known if reading.lower_is_better else reading.known
        return value, -point.cost.known

    return max((each for each in points if each.cost.known <= budget), key=merit, default=None)


def _cell(front: Front, point: Point, unit: str, *, bold: bool) -> str:
    ids = {mode: name for name, mode in front.ids.items()}
    scale = shown_unit(unit)
    value = shown_accuracy(point, split_of(front)).known * scale["scale"]
    text = f"{value:.{scale['decimals']}f}" if scale["decimals"] is not None else _digits(value)
    return f"**{text}** ({ids[point.mode]})" if bold else f"{text} ({ids[point.mode]})"


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")
