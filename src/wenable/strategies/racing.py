"""One step of Algorithm 2 as a race: a candidate that cannot win any more is not evaluated further."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from wenable.core.readings import Front, Point, non_dominated
from wenable.core.space import Mode, Space
from wenable.strategies.greedy import SearchStep

Standing = tuple[float, int]
"""A loss and the position of its candidate: of equal losses the layer that runs first wins."""


def loss(cost: float, right: int, total: int) -> float:
    """Return t/acc (Algorithm 2, line 8) of a mode that is right on `right` of `total` images.

    It is computed as `greedy` computes it, so that equal losses are equal here and there. A mode
    that is never right is the worst of all.

    >>> loss(3.0, 75, 100)
    4.0
    """
    return cost / (right / total) if right > 0 else math.inf


def most_errors(cost: float, position: int, total: int, best: Standing) -> int:
    """Return with how many errors in `total` images a candidate still beats `best`; -1 where never.

    - `cost`, `position`: of the candidate; the position decides where losses are equal.
    - `best`: the least loss known for certain, and whose it is.

    Rounded division never falls where the exact one rises. So the losses as computed, and not only
    the exact ones, are ordered by the errors, and the bound holds for the figures that are compared.

    >>> most_errors(0.9, 1, 100, (1.0, 0)), most_errors(0.9, 0, 100, (1.0, 1))
    (9, 10)
    """
    errors = range(total + 1)
    return bisect_left(errors, best, key=lambda e: (loss(cost, total - e, total), position)) - 1


@dataclass(frozen=True, slots=True)
class RaceResult:
    """How a race ended.

    - `winner`: the position of the candidate that the plain algorithm takes.
    - `right`: of every candidate that was evaluated to the end, how many images it had right.
    - `wrong`: of every candidate that was looked at, on how many of the first images it was
      certainly wrong, and how many of them it had seen by then.
    """

    winner: int
    right: Mapping[int, int]
    wrong: Mapping[int, tuple[int, int]]


def race(
    costs: Sequence[float],
    total: int,
    *,
    first: int,
    exact: Callable[[int], int],
    check: Callable[[Sequence[int], int, int], Sequence[int]],
    images: int,
    chunk: int = 1,
) -> RaceResult:
    """Return the candidate with the least cost / accuracy, as if all had been evaluated.

    One candidate is evaluated to the end. Each other can afford so many errors and no more; one
    that cannot win with none is out before it was run. The rest go through images together, the
    hardest first, and each is out as soon as its errors are too many. One that makes errors too
    slowly to be out by the last image is evaluated to the end as well.

    - `costs`: of the candidates in the order in which their layers run; at least 0, and known.
    - `total`: the images of the search split.
    - `first`: the candidate to begin with. A good guess saves work; it does not change the winner.
    - `exact`: candidate -> how many of all images it has right.
    - `check`: candidates, start and count -> for each, how many of the images from `start` on it is
      certain to have wrong. The order of the images is fixed during a race.
    - `images`: how many there are; with 0 all but the hopeless are evaluated to the end.
    - `chunk`: at least so many images are looked at before anyone is dropped.

    Raises `ValueError` where there is no candidate, or `first` is none of them.

    >>> answers = [[0, 1, 1, 1], [0, 0, 0, 1]]
    >>> def wrong(who, start, count):
    ...     return [answers[i][start : start + count].count(0) for i in who]
    >>> race([2, 2], 4, first=0, exact=lambda i: sum(answers[i]), check=wrong, images=4).right
    {0: 3}

    Source: WeNet, Algorithm 2, lines 5 to 9; the race is after Maron and Moore's Hoeffding races,
    with bounds that are exact since the set of images is finite.
    """
    if not 0 <= first < len(costs):
        raise ValueError(f"`first` (={first}) must be one of the {len(costs)} candidates, from 0")
    right = {first: exact(first)}
    best: Standing = (loss(costs[first], right[first], total), first)
    alive = [i for i in range(len(costs)) if i != first]
    wrong, looked, rate, seen = dict.fromkeys(alive, 0), dict[int, int](), dict[int, float](), 0
    while True:
        afford = {i: most_errors(costs[i], i, total, best) for i in alive}
        alive = [i for i in alive if wrong[i] <= afford[i]]
        if not alive:
            break
        left = images - seen
        # At its present rate it would not be out by the end. The hardest half tells no rate.
        likely = [
            i
            for i in alive
            if not left or (seen >= left and wrong[i] + rate[i] * left <= afford[i])
        ]
        if likely:
            _, i = min((loss(costs[i], total - wrong[i], total), i) for i in likely)
            right[i] = exact(i)
            best = min(best, (loss(costs[i], right[i], total), i))
            alive.remove(i)
            continue
        # Fewer images could not show anyone to be out.
        needed = min([afford[i] - wrong[i] for i in alive]) + 1
        count = min(left, max(chunk, needed))
        for i, errors in zip(alive, check(alive, seen, count), strict=True):
            wrong[i] += errors
            rate[i], looked[i] = errors / count, seen + count
        seen += count
    return RaceResult(best[1], right, {i: (wrong[i], looked[i]) for i in looked})


def descend(
    space: Space,
    full: Point,
    min_accuracy: float,
    step: Callable[[Point, Sequence[Mode]], tuple[Point, Sequence[Point]]],
    *,
    cost: str,
    strategy: str,
    on_step: Callable[[SearchStep], None] | None = None,
) -> Front:
    """Go from the full mode down as Algorithm 2 does, whatever way a step is decided.

    - `full`: the full mode with its accuracy and cost.
    - `step`: where the search stands, and the candidates -> the one to take, and all that were
      evaluated for it.
    - `min_accuracy`, `cost`, `strategy`, `on_step`: as in `greedy`.

    The front's `explored` and `evaluations` hold what was evaluated to the end, and no other.

    Raises `ValueError` where the min_accuracy is not in [0, 1) or the full mode does not exceed it.
    """
    check_min_accuracy(min_accuracy)
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
        taken, evaluated = step(path[-1], candidates)
        path.append(taken)
        explored += evaluated
        if on_step is not None:
            on_step(SearchStep(len(path) - 1, most, taken, len(candidates), len(explored)))
    above = [point for point in path if point.accuracy.known > min_accuracy]
    return Front(
        points=non_dominated(tuple(above)),
        chosen=above[-1],
        path=tuple(path),
        evaluations=len(explored),
        min_accuracy=min_accuracy,
        cost=cost,
        strategy=strategy,
        explored=tuple(explored),
    )


def check_min_accuracy(min_accuracy: float) -> None:
    """Raise `ValueError` unless a min_accuracy is an accuracy that a mode can exceed."""
    if not 0 <= min_accuracy < 1:
        raise ValueError(f"`min_accuracy` (={min_accuracy}) must be an accuracy from 0 to below 1")


def most_evaluations(space: Space) -> int:
    """Return how many modes the plain algorithm evaluates at most, when it goes to the smallest.

    Every step evaluates one candidate for each knob that is not at its last option. That is most
    where all knobs stay in play until each has one option left.

    >>> from wenable.core.space import Knob
    >>> most_evaluations(Space((Knob("a", (1, 2, 4)), Knob("b", (1, 2)))))
    6
    """
    further = [len(knob.options) - 1 for knob in space.knobs if len(knob.options) > 1]
    knobs = len(further)
    return 1 + knobs * (sum(further) - knobs) + knobs * (knobs + 1) // 2
