"""Which modes are more accurate than a rival's at equal cost; the rival's are joined by lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Above:
    """How many modes lie above the line through a rival's modes.

    - `modes`: the denominator: those whose cost lies within a range, ends included.
    - `above`: of these, those that are strictly more accurate than the line at their cost.
    - `cheaper`, `dearer`: those outside the range; they count nowhere.
    """

    modes: int
    above: int
    cheaper: int
    dearer: int

    @property
    def share(self) -> float | None:
        """The share above, None where no mode lies within the range."""
        return self.above / self.modes if self.modes else None

    def to_json(self) -> dict[str, float | int | None]:
        """Return plain values."""
        return asdict(self) | {"share": self.share}


def count_above(
    costs: Sequence[float],
    accuracies: Sequence[float],
    rival_costs: Sequence[float],
    rival_accuracies: Sequence[float],
    within: tuple[float, float] | None = None,
) -> Above:
    """Count the modes above the line.

    - `within`: the range of costs in which modes count; that of the rival's modes where nothing is
      said. Where it goes further than these, the line goes on level.

    >>> count_above([1, 2, 3], [0.5, 0.7, 0.7], [1, 3], [0.5, 0.9])
    Above(modes=3, above=0, cheaper=0, dearer=0)
    >>> count_above([2, 5], [0.8, 0.9], [1, 3], [0.5, 0.9])
    Above(modes=1, above=1, cheaper=0, dearer=1)
    """
    low, high = within or (min(rival_costs), max(rival_costs))
    inside, where = _inside(costs, low, high)
    line = _line(rival_costs, np.asarray(rival_accuracies)[None], where)[0]
    above = np.asarray(accuracies, float)[inside] > line
    cheaper = sum(cost < low for cost in costs)
    return Above(len(where), int(above.sum()), cheaper, len(costs) - len(where) - cheaper)


def share_interval(
    costs: Sequence[float],
    right: NDArray[np.bool_],
    rival_costs: Sequence[float],
    rival_right: NDArray[np.bool_],
    within: tuple[float, float] | None = None,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return a 95 % interval of the share above: the test images are drawn anew, for both sides.

    - `right`, `rival_right`: whether a mode is right, shape `(modes, images)`, of the same images.

    None where no mode lies within the range. The interval is of the images only: networks
    trained from other seeds differ besides.
    """
    low, high = within or (min(rival_costs), max(rival_costs))
    inside, where = _inside(costs, low, high)
    if not inside.any():
        return None
    images = right.shape[1]
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(images, np.full(images, 1 / images), RESAMPLES) / images
    ours = drawn @ right[inside].T.astype(float)
    lines = _line(rival_costs, drawn @ rival_right.T.astype(float), where)
    ends = np.percentile((ours > lines).mean(1), (2.5, 97.5))
    return float(ends[0]), float(ends[1])


def undominated(costs: Sequence[float], accuracies: Sequence[float]) -> list[int]:
    """Return the places of the modes that no other beats in both, the cheapest first.

    >>> undominated([3.0, 1.0, 2.0], [0.9, 0.5, 0.4])
    [1, 0]
    """
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -accuracies[i]))
    kept, best = [], -1.0
    for i in order:
        if accuracies[i] > best:
            kept.append(i)
            best = accuracies[i]
    return kept


def _inside(
    costs: Sequence[float], low: float, high: float
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    found = np.asarray(costs, float)
    inside = (found >= low) & (found <= high)
    return inside, found[inside]


def _line(
    rival_costs: Sequence[float], rival_accuracies: NDArray[np.float64], where: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the line's accuracy at some costs, shape `(rows, costs)`.

    Of modes that cost the same the mean counts: widths that round to the same channels are one
    network.
    """
    places, of_each = np.unique(np.asarray(rival_costs, float), return_inverse=True)
    counts = np.bincount(of_each)
    rows = [np.bincount(of_each, weights=row) / counts for row in rival_accuracies]
    return np.stack([np.interp(where, places, row) for row in rows])
