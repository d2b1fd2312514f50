"""Algorithm 2 of the paper: from the full network, one layer one option further at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wenable.core.readings import Front, Point, Reading, non_dominated
from wenable.core.space import Mode, Space


@dataclass(frozen=True, slots=True)
class SearchStep:
    """What one step of a search did.

    - `number`: 1 for the first; `most`: how many there can be at most.
    - `taken`: the candidate that was taken; `candidates`: how many were evaluated for it.
    - `evaluations`: how many modes the search has evaluated so far.
    - `likely`: how many steps there will be if all goes as usual; 0 where nobody can say.
    """

    number: int
    most: int
    taken: Point
    candidates: int
    evaluations: int
    likely: int = 0


def greedy(
    space: Space,
    accuracy: Callable[[Mode], Reading],
    costs: Callable[[Sequence[Mode]], Sequence[Reading]],
    min_accuracy: float,
    *,
    cost: str = "cost",
    on_step: Callable[[SearchStep], None] | None = None,
) -> Front:
    """Search as the paper's Algorithm 2 does, and return its path and the front of that path.

    In each step every mode that is one layer one option further is evaluated, and the one with the
    least t/acc becomes the next; of equal ones the layer that runs first. The search ends when the
    accuracy is at or under the min_accuracy, or nothing is left to cut.

    - `accuracy`: mode -> its top-1, a share between 0 and 1.
    - `costs`: modes -> their cost t, all in one unit; the candidates of a step come together, so
      that a measurement can interleave them.
    - `min_accuracy`: the accuracy delta of the paper, between 0 and 1.
    - `cost`: the name of the cost, for the record.

    Returns a `Front` whose `chosen` is the last mode above the min_accuracy. The paper's text returns
    M' after the loop, which is the first mode at or below it; that one ends the `path` here.

    Raises `ValueError` where the min_accuracy is not in [0, 1) or the full mode does not exceed it.

    >>> from wenable.core.space import Knob
    >>> space = Space((Knob("a", (1, 2)), Knob("b", (1, 2))))
    >>> share = lambda mode: Reading(1 - 0.1 * (mode["a"] - 1) - 0.3 * (mode["b"] - 1), "top-1")
    >>> macs = lambda modes: [Reading(4 / mode["a"] + 4 / mode["b"], "MACs") for mode in modes]
    >>> front = greedy(space, share, macs, min_accuracy=0.65)
    >>> str(front.chosen.mode), [str(point.mode) for point in front.path], front.evaluations
    ('1/2,1', ['1', '1/2,1', '1/2'], 4)
    """
    if not 0 <= min_accuracy < 1:
        raise ValueError(f"`min_accuracy` (={min_accuracy}) must be an accuracy from 0 to below 1")
    full = Point(space.full, accuracy(space.full), costs([space.full])[0])
    if full.accuracy.known <= min_accuracy:
        raise ValueError(
            f"`min_accuracy` (={min_accuracy}) cannot be reached: the full mode has an accuracy of"
            f" {full.accuracy.known:.4f}"
        )
    path, explored = [full], [full]
    most = sum(len(knob.options) - 1 for knob in space.knobs)
    while path[-1].accuracy.known > min_accuracy:
        candidates = space.cheaper(path[-1].mode)
        if not candidates:
            break
        accuracies = [accuracy(mode) for mode in candidates]
        points = [
            Point(mode, share, t)
            for mode, share, t in zip(candidates, accuracies, costs(candidates), strict=True)
        ]
        explored += points
        path.append(min(points, key=_loss))  # `min` keeps the first of equal ones
        if on_step is not None:
            on_step(SearchStep(len(path) - 1, most, path[-1], len(points), len(explored)))
    above = [point for point in path if point.accuracy.known > min_accuracy]
    return Front(
        points=non_dominated(tuple(above)),
        chosen=above[-1],
        path=tuple(path),
        evaluations=len(explored),
        min_accuracy=min_accuracy,
        cost=cost,
        strategy="greedy",
        explored=tuple(explored),
    )


def _loss(point: Point) -> float:
    """Return t/acc (Algorithm 2, line 8); a mode that is never right is the worst of all."""
    share = point.accuracy.known
    return point.cost.known / share if share > 0 else math.inf
