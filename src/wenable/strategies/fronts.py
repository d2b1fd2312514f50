"""Fronts: made of what a search evaluated, joined, and compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from wenable.core.accuracy_comparison import compare_accuracies
from wenable.core.cost_parts import Costs
from wenable.core.readings import Front, Point, Reading, non_dominated
from wenable.core.space import Mode
from wenable.strategies.constraints import Constraint
from wenable.strategies.greedy import SearchStep


class NotExceededError(ValueError):
    """No mode that a search evaluated, within its constraints, is accurate enough."""


class Evaluations:
    """What a search has evaluated: each mode once, with the cost that a table gives it.

    - `accuracy`: mode -> its accuracy; called once a mode at most.
    - `table`: the cost of any mode.
    - `most`: how many modes the search will ask for at most.
    - `on_step`: called after each evaluation; a mode that is known already makes no step.
    - `likely`: how many it will ask for if all goes as usual.

    >>> from wenable.core.cost_table import CostTable
    >>> from wenable.core.space import Knob, Space
    >>> space = Space((Knob("a", (1, 2)),))
    >>> table = CostTable(space, "ms", 0.5, {"a": {1: 4.0, 2: 3.0}})
    >>> seen = Evaluations(lambda mode: Reading(0.9 / mode["a"], "top-1"), table, most=2)
    >>> print(seen(space.smallest).accuracy, seen(space.smallest).cost, len(seen.points))
    45.0 % 3.5 ms 1
    """

    def __init__(
        self,
        accuracy: Callable[[Mode], Reading],
        table: Costs,
        most: int,
        on_step: Callable[[SearchStep], None] | None = None,
        *,
        likely: int = 0,
    ) -> None:
        self._accuracy, self._table, self._most, self._on_step = accuracy, table, most, on_step
        self._likely = likely
        self._points: dict[Mode, Point] = {}

    def __call__(self, mode: Mode) -> Point:
        """Return the mode's point, evaluated where it is not known."""
        if mode not in self._points:
            point = self._points[mode] = Point(
                mode, self._accuracy(mode), self._table.reading(mode)
            )
            if self._on_step is not None:
                known = len(self._points)
                self._on_step(SearchStep(known, self._most, point, 1, known, self._likely))
        return self._points[mode]

    @property
    def points(self) -> tuple[Point, ...]:
        """Every mode that was evaluated, in that order."""
        return tuple(self._points.values())

    def front(
        self,
        strategy: str,
        cost: str,
        min_accuracy: float,
        constraints: Sequence[Constraint] = (),
        path: Sequence[Point] = (),
    ) -> Front:
        """Return the front of what was evaluated, above the min_accuracy and within the constraints.

        Its `chosen` is the cheapest of its points. Raises `ValueError` where there is none.
        """
        within = [
            point
            for point in self.points
            if all(constraint.allows(point.mode) for constraint in constraints)
        ]
        above = tuple(point for point in within if point.accuracy.known > min_accuracy)
        if not above:
            best = max((point.accuracy.known for point in within), default=None)
            found = "none was found" if best is None else f"the best has an accuracy of {best:.4f}"
            raise NotExceededError(
                f"`min_accuracy` (={min_accuracy}) is not exceeded by any mode that was evaluated within"
                f" `constraints` ({', '.join(map(str, constraints)) or 'none'}): {found}"
            )
        points = non_dominated(above)
        return Front(
            points=points,
            chosen=points[-1],
            path=tuple(path),
            evaluations=len(self.points),
            min_accuracy=min_accuracy,
            cost=cost,
            strategy=strategy,
            explored=self.points,
        )


def check_min_accuracy(min_accuracy: float) -> None:
    """Raise `ValueError` unless the min_accuracy is an accuracy from 0 to below 1."""
    if not 0 <= min_accuracy < 1:
        raise ValueError(f"`min_accuracy` (={min_accuracy}) must be an accuracy from 0 to below 1")


def check_exceeded(min_accuracy: float, full: Point) -> None:
    """Raise `ValueError` unless the full mode's accuracy exceeds the min_accuracy."""
    if full.accuracy.known <= min_accuracy:
        raise ValueError(
            f"`min_accuracy` (={min_accuracy}) cannot be reached: the full mode has an accuracy of"
            f" {full.accuracy.known:.4f}"
        )


def union(*fronts: Front) -> Front:
    """Return one front of all points that none of any other front beats.

    Its strategy is those of the fronts, joined with `+`, and its min_accuracy the least of theirs (of
    errors the greatest).
    `explored` holds every mode once, and `evaluations` counts them. Where two fronts hold a mode, the
    readings of the first one count. The paths, one behind the other, are its path. `chosen` is the
    last of the points.

    A front without `explored` counts with its path, its points and `chosen`.

    Raises `ValueError` where there is no front, or two have other spaces, costs or units.

    >>> from wenable.core.space import Knob, Space
    >>> from wenable.core.readings import Reading
    >>> space = Space((Knob("a", (1, 2)), Knob("b", (1, 2))))
    >>> def front(text, share, macs, strategy):
    ...     point = Point(space.mode(text), Reading(share, "top-1"), Reading(macs, "MACs"))
    ...     return Front((point,), point, (point,), 1, 0.0, "macs", strategy)
    >>> both = union(front("1", 0.9, 4.0, "greedy"), front("1/2", 0.8, 2.0, "knapsack"))
    >>> [str(mode) for mode in both.modes], both.strategy, both.evaluations
    (['1', '1/2'], 'greedy+knapsack', 2)
    """
    if not fronts:
        raise ValueError("`fronts` is empty; a union needs at least one")
    for front in fronts[1:]:
        _check_alike(fronts[0], front)
    points = non_dominated(_each_mode_once(point for front in fronts for point in front.points))
    explored = _each_mode_once(point for front in fronts for point in _seen(front))
    return Front(
        points=points,
        chosen=points[-1] if points else fronts[0].chosen,
        path=tuple(point for front in fronts for point in front.path),
        evaluations=len(explored),
        min_accuracy=(max if fronts[0].chosen.accuracy.lower_is_better else min)(
            front.min_accuracy for front in fronts
        ),
        cost=fronts[0].cost,
        strategy="+".join(dict.fromkeys(front.strategy for front in fronts)),
        explored=explored,
    )


def _check_alike(one: Front, other: Front) -> None:
    if one.chosen.mode.space != other.chosen.mode.space:
        raise ValueError("`fronts` holds fronts of different networks: their spaces differ")
    if one.cost != other.cost:
        raise ValueError(
            f"`fronts` holds costs {one.cost!r} and {other.cost!r}, which cannot be compared"
        )
    for name in ("cost", "accuracy"):
        units = [getattr(front.chosen, name).unit for front in (one, other)]
        if units[0] != units[1]:
            what = "costs in" if name == "cost" else "modes judged by"
            raise ValueError(
                f"`fronts` holds {what} {units[0]!r} and {units[1]!r}, which cannot be compared"
            )


def _seen(front: Front) -> tuple[Point, ...]:
    return (*front.explored, *front.path, *front.points, front.chosen)


def _each_mode_once(points: Iterable[Point]) -> tuple[Point, ...]:
    kept: dict[Mode, Point] = {}
    for point in points:
        kept.setdefault(point.mode, point)
    return tuple(kept.values())


def hypervolume(
    points: Iterable[Point], reference_cost: float, reference_accuracy: float = 0.0
) -> float:
    """Return the area that the points dominate: larger is better, in accuracy times cost.

    It is the area between a corner and the points, of every (cost, accuracy) that is no better than
    some point and no worse than the corner. Points beyond the corner add nothing. To compare
    fronts, take one corner for all: the cost of the full mode, and the accuracy of guessing.

    - `points`: a `Front` or any points; those that others beat do no harm.
    - `reference_cost`, `reference_accuracy`: the corner.

    Raises `ValueError` where the corner is not finite, and for errors, of which less is better.

    Source: Zitzler and Thiele, *Multiobjective evolutionary algorithms*, 1999.

    >>> from wenable.core.space import Knob, Space
    >>> from wenable.core.readings import Reading
    >>> space = Space((Knob("a", (1, 2)),))
    >>> points = [
    ...     Point(space.full, Reading(0.75, "top-1"), Reading(4.0, "ms")),
    ...     Point(space.smallest, Reading(0.5, "top-1"), Reading(2.0, "ms")),
    ... ]
    >>> hypervolume(points, reference_cost=5.0, reference_accuracy=0.25)
    1.0
    """
    for name, value in (
        ("reference_cost", reference_cost),
        ("reference_accuracy", reference_accuracy),
    ):
        if not math.isfinite(value):
            raise ValueError(f"`{name}` (={value}) must be finite")
    points = list(points)
    if any(point.accuracy.lower_is_better for point in points):
        raise ValueError(
            f"`points` are judged by {points[0].accuracy.unit}, of which less is better; the area is of"
            " what is better if there is more"
        )
    area, covered = 0.0, reference_accuracy
    for point in sorted(points, key=lambda point: point.cost.known):
        width = reference_cost - point.cost.known
        height = point.accuracy.known - covered
        if width > 0 and height > 0:
            area += width * height
            covered = point.accuracy.known
    return area


def indistinguishable(front: Front) -> list[tuple[Point, Point]]:
    """Return the neighbours on a front whose accuracies cannot be told apart.

    The data do not show which is better: the cheaper one may be as accurate. `compare_accuracies`
    decides, by McNemar's test where it is known which examples were right. A pair of which nothing
    is known, no example and no interval, is left out.

    Returns pairs, the more costly point first, from the most to the least costly.

    >>> from wenable.core.space import Knob, Space
    >>> from wenable.core.readings import Reading
    >>> space = Space((Knob("a", (1, 2, 4)),))
    >>> points = tuple(
    ...     Point(space.uniform(n), Reading(a, "top-1", low=a - 0.03, high=a + 0.03), Reading(4 / n, "ms"))
    ...     for n, a in ((1, 0.9), (2, 0.86), (4, 0.7))
    ... )
    >>> front = Front(points, points[-1], points, 3, 0.0, "latency", "greedy")
    >>> [(str(a.mode), str(b.mode)) for a, b in indistinguishable(front)]
    [('1', '1/2')]
    """
    return [
        (one, other)
        for one, other in pairwise(front.points)
        if compare_accuracies(one, other).told_apart is False
    ]
