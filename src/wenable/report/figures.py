"""Which accuracy of a front is shown: that on the test split, or plainly that on the search split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from wenable.core.readings import Front, Point, Reading

TEST = "test split"
SEARCH = "search split, chosen on it"
UNTESTED = "evaluated on the search split only"


def split_of(front: Front) -> str:
    """Return the split whose accuracies are shown of a front: the test split where it has them.

    A mode of a front was chosen for its luck on the search split, so that figure is shown only where
    there is no other, and then it says so.
    """
    return TEST if front.is_tested else SEARCH


def common_split(fronts: Iterable[Front]) -> str:
    """Return the split that all fronts show; nothing where they differ."""
    found = {split_of(front) for front in fronts}
    return found.pop() if len(found) == 1 else ""


def shown_accuracy(point: Point, split: str) -> Reading:
    """Return the accuracy of a point on a split; a missing one with its reason."""
    if split != TEST:
        return point.accuracy
    return point.test or Reading(None, point.accuracy.unit, reason=UNTESTED)


def shown_name(name: str, front: Front, series: Mapping[str, Front]) -> str:
    """Return the name of a series, with its split where the others show another."""
    return name if common_split(series.values()) else f"{name} ({split_of(front)})"


def merit_name(unit: str) -> str:
    """Return what the figures are called that modes are judged by.

    >>> merit_name("top-1"), merit_name("mIoU")
    ('top-1 accuracy', 'mIoU')
    """
    return f"{unit} accuracy" if unit == "top-1" else unit
