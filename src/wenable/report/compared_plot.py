"""One picture of several fronts: methods, networks or devices in the same axes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from wenable.core.files import write_whole
from wenable.core.readings import Front, Point
from wenable.report.figures import merit_name, shown_accuracy, shown_name, split_of
from wenable.report.front_plot import axis_of_cost, draw_points, plain_words

# Okabe and Ito's colours, which colour-blind readers tell apart; the marks do so in grey.
_COLORS = "#0b62a8", "#d9730d", "#009e73", "#cc79a7", "#7a5c00", "#56b4e9", "#444444"
_MARKS = "o", "s", "^", "D", "v", "P", "X"


@plain_words
def plot_compared(
    series: Mapping[str, Front], path: str | os.PathLike[str], *, title: str = ""
) -> Path:
    """Write a picture of several fronts, accuracy against cost, and return its path.

    - `series`: name -> front; costs and accuracies of one unit.
    - `path`: its ending, `.png` or `.svg`, says the format.

    Raises `ValueError` for fronts of different costs or units, and for one with nothing to draw.
    """
    points = {name: _drawable(name, front) for name, front in series.items()}
    kinds = {
        (front.cost, points[name][0].cost.unit, points[name][0].accuracy.unit)
        for name, front in series.items()
    }
    if len(kinds) > 1:
        listed = " and ".join(
            sorted(f"{cost} in {unit} with {merit}" for cost, unit, merit in kinds)
        )
        raise ValueError(f"`series` mixes {listed}; one picture has one cost and one accuracy")
    ((cost, _, unit),) = kinds
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    scale = axis_of_cost(axis, cost)
    drawn = []
    for place, (name, front) in enumerate(series.items()):
        color, mark = _COLORS[place % len(_COLORS)], _MARKS[place % len(_MARKS)]
        split = split_of(front)
        drawn.append(draw_points(axis, points[name], split, scale, color, mark, name, line=True))
    axis.set_xlim(left=0)
    splits = {split_of(front) for front in series.values()}
    where = f", {splits.pop()}" if len(splits) == 1 else ""
    of_what = "%, 95 % interval" if unit == "top-1" else "95 % interval"
    axis.set_ylabel(f"{merit_name(unit)}{where}\n({of_what})")
    places = [str(place) for place in range(len(drawn))]
    legend = axis.legend(drawn, places, loc="lower right", frameon=False)
    # Set afterwards: a legend leaves out what begins with an underscore.
    for text, (name, front) in zip(legend.get_texts(), series.items(), strict=True):
        text.set_text(shown_name(name, front, series))
    if title:
        figure.suptitle(title, fontsize="medium")
    data = BytesIO()
    figure.savefig(data, format=Path(path).suffix.removeprefix(".") or "png", dpi=150)
    return write_whole(path, data.getvalue())


def _drawable(name: str, front: Front) -> tuple[Point, ...]:
    found = tuple(
        point
        for point in front.points
        if point.cost.value is not None and shown_accuracy(point, split_of(front)).value is not None
    )
    if not found:
        raise ValueError(f"{name!r} has no point with both figures; there is nothing to draw")
    return tuple(sorted(found, key=lambda point: point.cost.known))
