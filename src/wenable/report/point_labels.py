"""Writes names beside points of a plot where they hide neither points nor each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.transforms import Bbox

Place = tuple[float, float]

# Right or left of the point, below or above it, then further away, where a line leads to the point.
_OFFSETS = [
    (sign * away, up * away, "left" if sign > 0 else "right", "bottom" if up > 0 else "top")
    for away in (6, 16, 28)
    for up in (-1, 1)
    for sign in (1, -1)
]
_LED = 10  # points away from which a line is needed to see what a name belongs to
_MARKER = 5.0  # half a marker's side, in pixels at 100 dots an inch


def label_points(axis: Axes, names: Mapping[Place, str], others: Sequence[Place] = ()) -> None:
    """Write the name of each point at the first place around it that is free, or at the least crowded.

    Limits and layout of the figure must be final.

    - `names`: place of a point in data coordinates -> its name; `others`: points without one.
    """
    size = _MARKER * axis.figure.dpi / 100
    taken = [_around(axis, place, size) for place in dict.fromkeys([*names, *others])]
    for place, name in names.items():
        written = [_write(axis, place, name, *offset) for offset in _OFFSETS]
        boxes = [_letters(text) for text in written]
        crowding = [_crowding(axis, box, taken) for box in boxes]
        best = crowding.index(min(crowding))
        for number, text in enumerate(written):
            if number != best:
                text.remove()
        taken.append(boxes[best])


def _write(
    axis: Axes, place: Place, name: str, right: float, up: float, horizontal: str, vertical: str
):
    line = {"arrowstyle": "-", "linewidth": 0.6, "color": "0.5", "shrinkA": 0, "shrinkB": 3}
    return axis.annotate(
        name, place, xytext=(right, up), textcoords="offset points", horizontalalignment=horizontal,
        verticalalignment=vertical, arrowprops=line if abs(right) > _LED else None,
    )  # fmt: skip


def _letters(text: Text) -> Bbox:
    """Return what the letters cover: an annotation's own extent has the line to its point in it."""
    text.get_window_extent()  # puts it in its place
    return Text.get_window_extent(text)


def _around(axis: Axes, place: Place, size: float) -> Bbox:
    x, y = axis.transData.transform(place)
    return Bbox([[x - size, y - size], [x + size, y + size]])


def _crowding(axis: Axes, box: Bbox, taken: Sequence[Bbox]) -> float:
    """Return how much of what is taken, and of the panel's outside, the box covers, in pixels squared."""
    inside = Bbox.intersection(box, axis.bbox)
    outside = _area(box) - (_area(inside) if inside else 0.0)
    shared = [Bbox.intersection(box, each) for each in taken]
    return round(outside + sum(_area(each) for each in shared if each), 3)


def _area(box: Bbox) -> float:
    return box.width * box.height
