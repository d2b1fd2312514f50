"""Fronts of two sides beside each other: the share above, the area between, and their intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.equal_cost import count_above, share_interval

RESAMPLES = 1000


@dataclass(frozen=True)
class SideFront:
    """The modes of one side's front, the cheapest first, found on the search split.

    - `costs`: in shares of the full network's multiply-accumulates, or in ms, shape `(modes,)`.
    - `right`: which test images each has right, shape `(modes, images)`.
    """

    modes: tuple[str, ...]
    costs: NDArray[np.float64]
    right: NDArray[np.bool_]

    @property
    def accuracies(self) -> NDArray[np.float64]:
        """The accuracy of each mode on the test split."""
        return self.right.mean(1)


@dataclass(frozen=True, slots=True)
class Gap:
    """How far one front lies above another, in the mean over the range of costs that both cover.

    - `value`: accuracy, 0 to 1; `low`, `high`: 95 % over the test images, drawn anew for both sides.
    - `from_cost`, `to_cost`: the range.
    """

    value: float
    low: float
    high: float
    from_cost: float
    to_cost: float


def gap_between(ours: SideFront, theirs: SideFront, seed: int = 0) -> Gap | None:
    """Return the area between two fronts over the width of the range that both cover.

    Modes are joined by straight lines. None if the ranges do not overlap.
    """
    low, high = max(ours.costs.min(), theirs.costs.min()), min(ours.costs.max(), theirs.costs.max())
    if low >= high:
        return None
    inside = np.concatenate([ours.costs, theirs.costs])
    places = np.unique(np.concatenate([[low, high], inside[(inside > low) & (inside < high)]]))
    # What each mode weighs in the area, so that a resample is one product.
    weights = [_weights_of(side.costs, places) / (high - low) for side in (ours, theirs)]
    of_image = weights[0] @ ours.right - weights[1] @ theirs.right
    images = len(of_image)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(images, np.full(images, 1 / images), RESAMPLES) / images
    ends = np.percentile(drawn @ of_image, (2.5, 97.5))
    return Gap(float(of_image.mean()), float(ends[0]), float(ends[1]), float(low), float(high))


def _weights_of(costs: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much each mode's accuracy adds to the area under the line over `places`."""
    order = np.argsort(costs)
    steps = np.diff(places)
    of_place = np.zeros(len(places))
    of_place[:-1] += steps / 2
    of_place[1:] += steps / 2
    weights = np.zeros(len(costs))
    for position, mode in enumerate(order):
        unit = np.zeros(len(costs))
        unit[position] = 1
        weights[mode] = of_place @ np.interp(places, costs[order], unit)
    return weights


def beside(ours: SideFront, theirs: SideFront) -> dict[str, Any]:
    """Return how one front compares with another's at equal cost."""
    costs, rival_costs = ours.costs.tolist(), theirs.costs.tolist()
    above = count_above(costs, ours.accuracies.tolist(), rival_costs, theirs.accuracies.tolist())
    interval = share_interval(costs, ours.right, rival_costs, theirs.right)
    gap = gap_between(ours, theirs)
    return {
        "above": above.to_json(),
        "interval": None if interval is None else list(interval),
        "gap": None if gap is None else asdict(gap),
    }
