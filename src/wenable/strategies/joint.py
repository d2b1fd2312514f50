"""The knapsack in a space where a few knobs change what all others cost, as the size of images does."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from wenable.core.cost_table import CostTable
from wenable.core.readings import Front, Point, Reading
from wenable.core.space import Mode, Space
from wenable.strategies.constraints import Constraint, check_constraints
from wenable.strategies.fronts import NotExceededError, check_exceeded, union
from wenable.strategies.greedy import SearchStep
from wenable.strategies.knapsack import (
    check_budgets,
    knapsack,
    least_cost,
    planned_evaluations,
)


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
    - `constraints`: of the whole space; a part that cannot keep them is left out.
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

    evaluated(tables[0], tables[0].space.full)
    check_exceeded(min_accuracy, known[space.full])
    parts = _parts(space, tables, constraints, budgets, count, rounds)
    most, likely = (sum(each) for each in zip(*(part.planned for part in parts), strict=True))
    fronts: list[Front] = []
    refused: list[NotExceededError] = []
    for part in parts:
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
                budgets=part.budgets, count=count, min_accuracy=min_accuracy,
                constraints=part.constraints, cost=cost, rounds=rounds, on_step=told,
            )  # fmt: skip
        except NotExceededError as error:
            refused.append(error)
            continue
        fronts.append(_of_whole(found, space))
    if not fronts:
        raise refused[0]
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
    parts = _parts(space, tables, constraints, budgets, count, rounds)
    return sum(part.planned[0] for part in parts)


@dataclass(frozen=True)
class _Part:
    """A part of the space: what its modes cost, what is asked of them, how many may be evaluated."""

    table: CostTable
    constraints: tuple[Constraint, ...]
    budgets: tuple[float, ...] | None
    planned: tuple[int, int]


def _parts(
    space: Space,
    tables: Sequence[CostTable],
    constraints: Sequence[Constraint],
    budgets: Sequence[float] | None,
    count: int,
    rounds: int,
) -> list[_Part]:
    """Return the parts that can keep the constraints and a budget; refuses what none can."""
    check_constraints(space, constraints)
    check_budgets(min(tables, key=least_cost), budgets, count, rounds)
    parts = []
    for table in tables:
        own = tuple(Constraint(each.table.within(table.space), each.most) for each in constraints)
        within = None if budgets is None else tuple(b for b in budgets if b >= least_cost(table))
        if within == () or not _keeps(table.space, own):
            continue
        a_round = count if within is None else len(within)
        planned = planned_evaluations(table.space, table, own, rounds * a_round)
        parts.append(_Part(table, own, within, planned))
    return parts


def _keeps(part: Space, constraints: Sequence[Constraint]) -> bool:
    try:
        check_constraints(part, constraints)
    except ValueError:  # some other part keeps them, or the whole space would not
        return False
    return True


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
