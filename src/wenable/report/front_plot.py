"""A picture of fronts: accuracy with its interval against a cost."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from wenable.core.files import write_whole
from wenable.core.readings import Point, Reading
from wenable.report.figures import SEARCH, merit_name, shown_accuracy
from wenable.report.point_labels import label_points

# Blue and orange that stay apart for colour-blind readers, and in grey.
_FRONT, _UNIFORM = "#0b62a8", "#d9730d"
_SCALES = {
    "macs": (1e-6, "multiply-accumulates of one image (millions)"),
    "bit_operations": (1e-9, "bit operations of one image (thousand millions)"),
    "energy": (1.0, "energy of one image (mJ)"),
}
_PARTS = 24  # of the line between two points of a front, which no name is to lie on
_LATENCY = (1.0, "latency of one image (ms, median and quartiles)")


@dataclass(frozen=True)
class Panel:
    """What one panel shows: the points of a front, and the uniform modes beside it.

    - `split`: where the accuracies that are drawn were evaluated, `figures.TEST` or
      `figures.SEARCH`; the axis says it.
    """

    front: tuple[Point, ...]
    uniform: tuple[Point, ...]
    split: str = SEARCH

    @property
    def points(self) -> tuple[Point, ...]:
        """All points that are drawn."""
        return (*self.front, *self.uniform)


# A name with two dollar signs is no formula.
plain_words = rc_context({"text.parse_math": False})


@plain_words
def plot_fronts(
    panels: Mapping[str, Panel], path: str | os.PathLike[str], *, title: str = ""
) -> Path:
    """Write a picture with one panel a cost, accuracy upwards, and return its path.

    - `panels`: cost (`"macs"`, `"latency"`) -> what to show.
    - `path`: its ending, `.png` or `.svg`, says the format.

    Raises `ValueError` where there is nothing to show, or a point lacks the reading that is drawn.
    """
    if not any(panel.points for panel in panels.values()):
        raise ValueError("`panels` is empty; there is nothing to plot")
    for panel in panels.values():
        for point in panel.points:
            _ = shown_accuracy(point, panel.split).known, point.cost.known
    units = {shown_accuracy(p, panel.split).unit for panel in panels.values() for p in panel.points}
    if len(units) > 1:
        raise ValueError(f"`panels` mix {' and '.join(sorted(units))}; a picture has one of them")
    figure = Figure(figsize=(4.8 * len(panels), 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    splits = {panel.split for panel in panels.values()}
    for axis, (cost, panel) in zip(axes, panels.items(), strict=True):
        _draw(axis, cost, panel)
        if len(splits) > 1:
            axis.set_title(panel.split, fontsize="medium")
    where = f", {splits.pop()}" if len(splits) == 1 else ""
    unit = units.pop()
    of_what = "%, 95 % interval" if unit == "top-1" else "95 % interval"
    axes[0].set_ylabel(f"{merit_name(unit)}{where}\n({of_what})")
    axes[0].legend(loc="lower right", frameon=False)
    if title:
        figure.suptitle(title, fontsize="medium")
    figure.draw_without_rendering()  # settles the layout that the names are placed in
    for axis, (cost, panel) in zip(axes, panels.items(), strict=True):
        _name_uniform_modes(axis, cost, panel)
    data = BytesIO()
    figure.savefig(data, format=Path(path).suffix.removeprefix(".") or "png", dpi=150)
    return write_whole(path, data.getvalue())


def _draw(axis: Axes, cost: str, panel: Panel) -> None:
    scale = axis_of_cost(axis, cost)
    draw_points(axis, panel.uniform, panel.split, scale, _UNIFORM, "D", "uniform modes")
    front = tuple(sorted(panel.front, key=lambda point: point.cost.known))
    draw_points(axis, front, panel.split, scale, _FRONT, "o", "front of the search", line=True)
    axis.set_xlim(left=0)


def axis_of_cost(axis: Axes, cost: str) -> float:
    """Name the axis of a cost, and return the factor from a reading to what it shows."""
    scale, label = _SCALES.get(cost, _LATENCY)
    axis.set_xlabel(label)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    return scale


def _name_uniform_modes(axis: Axes, cost: str, panel: Panel) -> None:
    scale, _ = _SCALES.get(cost, _LATENCY)

    def place(point: Point) -> tuple[float, float]:
        return point.cost.known * scale, _shown(shown_accuracy(point, panel.split))

    names = {
        place(point): f"{point.mode}{' (full)' if point.mode == point.mode.space.full else ''}"
        for point in panel.uniform
    }
    front = sorted(place(point) for point in panel.front)
    line = [
        (x + (right - x) * part / _PARTS, y + (up - y) * part / _PARTS)
        for (x, y), (right, up) in pairwise(front)
        for part in range(1, _PARTS)
    ]
    bars = [
        (place(point)[0], _factor(reading) * end)
        for point in panel.points
        for reading in [shown_accuracy(point, panel.split)]
        for end in (reading.low, reading.high)
        if end is not None
    ]
    label_points(axis, names, [*front, *line, *bars])


def draw_points(
    axis: Axes,
    points: tuple[Point, ...],
    split: str,
    scale: float,
    color: str,
    marker: str,
    label: str,
    *,
    line: bool = False,
) -> ErrorbarContainer | None:
    """Draw points with their intervals, and return what a legend shows of them; None without points.

    - `line`: joined, from the least costly.
    """
    if not points:
        return None
    accuracies = [shown_accuracy(point, split) for point in points]
    drawn = axis.errorbar(
        [point.cost.known * scale for point in points],
        [_shown(accuracy) for accuracy in accuracies],
        xerr=_whiskers([point.cost for point in points], scale),
        yerr=_whiskers(accuracies, _factor(accuracies[0])),
        fmt=marker,
        color=color,
        elinewidth=0.8,
        alpha=0.85,
        markersize=6,
        label=label,
    )
    if line:
        axis.plot(
            [point.cost.known * scale for point in points],
            [_shown(accuracy) for accuracy in accuracies],
            color=color,
            linewidth=1,
            alpha=0.6,
        )
    return drawn


def _factor(reading: Reading) -> float:
    """Return by what a figure of merit is multiplied: accuracies are shown in per cent."""
    return 100.0 if reading.unit == "top-1" else 1.0


def _shown(reading: Reading) -> float:
    return _factor(reading) * reading.known


def _whiskers(readings: list, scale: float) -> list[list[float]]:
    """Return how far each interval reaches below and above its value; 0 where it does not."""
    below = [scale * (r.known - (r.known if r.low is None else r.low)) for r in readings]
    above = [scale * ((r.known if r.high is None else r.high) - r.known) for r in readings]
    return [[max(each, 0.0) for each in side] for side in (below, above)]
