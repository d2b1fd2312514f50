"""A few modes out of many on a front, whose accuracies are evenly apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from wenable.core.readings import Front, Point


def spread(front: Front, count: int) -> Front:
    """Return the front with `count` of its points at most: those one would give to a device.

    The most accurate and the cheapest point stay. In between, of levels of accuracy evenly apart, the
    cheapest point that reaches each is taken. Neighbours on a whole front differ by less than the
    images can tell; these differ by as much as so many modes can.

    Raises `ValueError` for a count below 2.
    """
    if count < 2:
        raise ValueError(f"`count` (={count}) must be at least 2")
    points = front.points
    high, low = (point.accuracy.known for point in (points[0], points[-1]))
    levels = [low + (high - low) * number / (count - 1) for number in range(count - 2, 0, -1)]
    kept = [points[0], *(_cheapest(points, level) for level in levels), points[-1]]
    distinct = tuple(dict.fromkeys(kept))
    return replace(front, points=distinct, chosen=distinct[-1])


def _cheapest(points: Sequence[Point], level: float) -> Point:
    """Return the last point, from the most costly on, that is at least so accurate."""
    return next(point for point in reversed(points) if point.accuracy.known >= level - 1e-12)
