"""The knapsack in a space where a few knobs change what all others cost, as the size of images does."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from wenable.core.cost_parts import CostParts
from wenable.core.cost_table import CostTable
from wenable.core.readings import Front, Point, Reading
from wenable.core.space import Mode, Space
from wenable.strategies.constraints import Constraint
from wenable.strategies.fronts import NotExceededError, check_exceeded, union
from wenable.strategies.greedy import SearchStep
from wenable.strategies.knapsack import (
    check_budgets,
    knapsack,
    least_cost,
    planned_evaluations,
)
from wenable.strategies.parts import Part, parts_within


def knapsack_of_each(
    space: Space,
    accuracy: Callable[[Mode], Reading],
    tables: Sequence[CostTable],
    *,
    budgets: Sequence[float] | None = None,
    count: int = 12,
    min_accuracy: float = 0.0,
    constraints: Sequence[Constraint] = (),
    cost: str = "latency",
    rounds: int = 8,
    on_step: Callable[[SearchStep], None] | None = None,
) -> Front:
    """Run `knapsack` in each part of a space, and return the front of all that was found.

    In a part some knobs have one option, and costs are sums over the others: they are those of its own
    table, and losses are measured from the part's own full mode. A part whose full mode is not above
    `min_accuracy` is left at that: its cheaper modes would hardly be.

    - `tables`: one for each part, whose space is that part (`Space.fixed`); the first holds the full
      mode of `space`.
    - `budgets`: those that no mode of a part can keep are left out there.
    - `constraints`: of the whole space, or of parts of it, which need not be the same ones
      (`strategies.parts`); a part that cannot keep them is left out.
    - the others as in `knapsack`. `on_step` is told how many evaluations all parts take at most.

    Raises `ValueError` as `knapsack` does: for the constraints and budgets where every part does.

    >>> from wenable.core.space import Knob
    >>> space = Space((Knob("size", (1, 2), labels=("64", "48"), by_name=True), Knob("a", (1, 2))))
    >>> share = lambda mode: Reading(1 - 0.1 * (mode["a"] - 1) - 0.05 * (mode["size"] - 1), "top-1")
    >>> def table(size):
    ...     row = {1: 8.0 / size, 2: 4.0 / size}
    ...     return CostTable(space.fixed({"size": size}), "MACs", 0.0, {"size": {size: 0.0}, "a": row})
    >>> front = knapsack_of_each(space, share, [table(1), table(2)])
    >>> [(str(point.mode), point.cost.known) for point in front], front.evaluations
    ([('1', 8.0), ('1,size=48', 4.0), ('1/2,size=48', 2.0)], 4)
    """
    known: dict[Mode, Point] = {}

    def evaluated(table: CostTable, mode: Mode) -> Reading:
        whole = space.mode(dict(mode))
        if whole not in known:
            known[whole] = Point(whole, accuracy(whole), table.reading(mode))
        return known[whole].accuracy

    searches = _searches(space, tables, constraints, budgets, count, rounds)
    evaluated(tables[0], tables[0].space.full)
    check_exceeded(min_accuracy, known[space.full])
    most, likely = (sum(each) for each in zip(*(each.planned for each in searches), strict=True))
    fronts: list[Front] = []
    refused: list[NotExceededError] = []
    for search in searches:
        part = search.part
        if evaluated(part.table, part.table.space.full).known <= min_accuracy:
            continue
        done = len(known) - 1

        def told(step: SearchStep, done: int = done) -> None:
            if on_step is not None:
                taken = replace(step.taken, mode=space.mode(dict(step.taken.mode)))
                number = done + step.number
                on_step(SearchStep(number, most, taken, 1, number, likely))

        try:
            found = knapsack(
                part.table.space, functools.partial(evaluated, part.table), part.table,
                budgets=search.budgets, count=count, min_accuracy=min_accuracy,
                constraints=part.constraints, cost=cost, rounds=rounds, on_step=told,
            )  # fmt: skip
        except NotExceededError as error:
            refused.append(error)
            continue
        fronts.append(_of_whole(found, space))
    if not fronts:
        raise refused[0] if refused else _none_is_enough(searches, known, min_accuracy)
    front = union(*fronts)
    path = (known[space.full], *(point for point in front.path if point.mode != space.full))
    return replace(front, path=path, explored=tuple(known.values()), evaluations=len(known))


def planned_evaluations_of_each(
    space: Space,
    tables: Sequence[CostTable],
    *,
    budgets: Sequence[float] | None = None,
    count: int = 12,
    constraints: Sequence[Constraint] = (),
    rounds: int = 8,
) -> int:
    """Return how many modes `knapsack_of_each` evaluates at most.

    >>> from wenable.core.space import Knob
    >>> space = Space((Knob("size", (1, 2), labels=("64", "48"), by_name=True), Knob("a", (1, 2))))
    >>> def table(size):
    ...     row = {1: 8.0 / size, 2: 4.0 / size}
    ...     return CostTable(space.fixed({"size": size}), "MACs", 0.0, {"size": {size: 0.0}, "a": row})
    >>> planned_evaluations_of_each(space, [table(1), table(2)])
    4
    """
    searches = _searches(space, tables, constraints, budgets, count, rounds)
    return sum(search.planned[0] for search in searches)


@dataclass(frozen=True)
class _Search:
    """What is searched in a part of the space: within which budgets, by how many evaluations."""

    part: Part
    budgets: tuple[float, ...] | None
    planned: tuple[int, int]


def _searches(
    space: Space,
    tables: Sequence[CostTable],
    constraints: Sequence[Constraint],
    budgets: Sequence[float] | None,
    count: int,
    rounds: int,
) -> list[_Search]:
    """Return what is searched in the parts that can keep the constraints and a budget; at least one can."""
    parts = parts_within(CostParts(space, tuple(tables)), constraints)
    check_budgets(min(tables, key=least_cost), budgets, count, rounds)
    searches = []
    for part in parts:
        within = None
        if budgets is not None:
            within = tuple(budget for budget in budgets if budget >= least_cost(part.table))
        if within == ():
            continue
        a_round = count if within is None else len(within)
        planned = planned_evaluations(
            part.table.space, part.table, part.constraints, rounds * a_round
        )
        searches.append(_Search(part, within, planned))
    if not searches:
        least = min((part.table for part in parts), key=least_cost)
        raise ValueError(
            f"`budgets` holds none that a mode within `constraints` keeps: the least that one costs is"
            f" {least_cost(least):g} {least.unit}"
        )
    return searches


def _none_is_enough(
    searches: Sequence[_Search], known: Mapping[Mode, Point], min_accuracy: float
) -> NotExceededError:
    """Return the error for parts within the constraints whose own full modes are not accurate enough."""
    fulls = [search.part.table.space.full for search in searches]
    best = max(
        (point for mode, point in known.items() if any(dict(mode) == dict(full) for full in fulls)),
        key=lambda point: point.accuracy.known,
    )
    return NotExceededError(
        f"`min_accuracy` (={min_accuracy}) is not exceeded within `constraints`: the best of the full modes"
        f" of the parts that keep them, {best.mode}, has an accuracy of {best.accuracy.known:.4f}"
    )


def _of_whole(front: Front, space: Space) -> Front:
    """Return the front of a part with modes of the whole space."""

    def moved(point: Point) -> Point:
        return replace(point, mode=space.mode(dict(point.mode)))

    return replace(
        front,
        points=tuple(map(moved, front.points)),
        chosen=moved(front.chosen),
        path=tuple(map(moved, front.path)),
        explored=tuple(map(moved, front.explored)),
    )
