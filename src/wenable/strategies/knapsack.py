"""Searches by knapsack: what each option of each knob loses is measured, the rest is arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from wenable.core.cost_table import CostTable
from wenable.core.readings import Front, Point, Reading
from wenable.core.space import Mode, Space
from wenable.strategies.constraints import (
    Constraint,
    Losses,
    cheapest_within,
    check_constraints,
    check_space,
    numbers_of,
    worthwhile,
)
from wenable.strategies.fronts import Evaluations, check_exceeded, check_min_accuracy
from wenable.strategies.greedy import SearchStep


def knapsack(
    space: Space,
    accuracy: Callable[[Mode], Reading],
    table: CostTable,
    *,
    budgets: Sequence[float] | None = None,
    count: int = 12,
    min_accuracy: float = 0.0,
    constraints: Sequence[Constraint] = (),
    cost: str = "latency",
    rounds: int = 8,
    on_step: Callable[[SearchStep], None] | None = None,
) -> Front:
    """Measure what each option loses alone, then solve for the best mode within each budget.

    Costs add up over the knobs (`CostTable`). Accuracy is taken to multiply: a mode keeps of the
    full mode's accuracy the product of what each option keeps when it is the only one. Then the
    logarithms add up, and the best mode within a budget is a multiple-choice knapsack, which
    `cheapest_within` solves to the optimum. The accuracy does not in fact multiply: so each solution
    is evaluated for real, and after each round the losses are fitted anew to all that was
    evaluated. Only what was evaluated enters the front.

    - `accuracy`: mode -> its top-1, a share between 0 and 1; called once a mode at most.
    - `table`: the cost of any mode. Options that cost no less than a coarser one are left out, but for
      the uniform modes.
    - `budgets`: what a mode may cost, in the table's unit; by default `count` of them, evenly from
      the cheapest mode to the full one. Rounds after the first spread theirs from a little below the
      cheapest point above the min_accuracy to the full mode, shifted by a part of a step, so that they
      fill the gaps; budgets that were given stay.
    - `min_accuracy`: points at or under this accuracy are left out of the front.
    - `constraints`: what each point keeps besides, as a memory of 2 MB; the full mode need not.
    - `cost`: the name of the cost, for the record.
    - `rounds`: how often the budgets are gone through.
    - `on_step`: called after each evaluation, with `taken` its point.

    It evaluates one mode for each knob and option, the uniform modes that keep the constraints, and at
    most `rounds` times the budgets. The uniform modes are evaluated since sums of losses say least of
    modes that differ from the full one in all knobs: so no front is below them on the images that the
    search sees.

    Returns a `Front` whose `path` is the full mode and then the solutions, from the most to the
    least costly, and whose `chosen` is the cheapest point above the min_accuracy.

    Raises `ValueError` where the min_accuracy is not in [0, 1), or neither the full mode nor a mode
    within the constraints exceeds it; where no mode can keep a constraint or a budget; for the table of
    another space.

    Source: the knapsack over layers is that of integer programmes for mixed precision, as in
    Hubara et al., *Accurate Post Training Quantization With Small Calibration Sets*, 2021.

    >>> from wenable.core.space import Knob
    >>> space = Space((Knob("a", (1, 2)), Knob("b", (1, 2))))
    >>> share = lambda mode: Reading(1 - 0.1 * (mode["a"] - 1) - 0.3 * (mode["b"] - 1), "top-1")
    >>> table = CostTable(space, "ms", 1.0, {"a": {1: 4.0, 2: 2.0}, "b": {1: 4.0, 2: 2.0}})
    >>> front = knapsack(space, share, table, min_accuracy=0.65)
    >>> [(str(point.mode), point.cost.known) for point in front], front.evaluations
    ([('1', 9.0), ('1/2,1', 7.0)], 4)
    """
    budgets = numbers_of(budgets)
    check_min_accuracy(min_accuracy)
    check_space(space, table, "`table`")
    check_constraints(space, constraints)
    check_budgets(table, budgets, count, rounds)
    choices = worthwhile(space, table, constraints)
    a_round = count if budgets is None else len(budgets)
    most, likely = planned_evaluations(space, table, constraints, rounds * a_round)
    evaluate = Evaluations(accuracy, table, most, on_step, likely=likely)
    full = evaluate(space.full)
    check_exceeded(min_accuracy, full)
    alone = {
        name: {n: evaluate(space.full.replace({name: n})).accuracy for n in options[1:]}
        for name, options in choices.items()
    }
    for mode in uniform_within(space, constraints):
        evaluate(mode)
    drawn = first_losses(full.accuracy, alone)
    losses = first = {name: {full.mode[name]: 0.0, **drawn[name]} for name in choices}
    solutions: dict[Mode, Point] = {}
    for number in range(rounds):
        if number > 0:
            telling = _telling(evaluate.points, losses, full, min_accuracy)
            losses = fitted_losses(first, telling, full.accuracy)
        above = [
            point.cost.known
            for point in evaluate.points
            if point.accuracy.known > min_accuracy
            and all(each.allows(point.mode) for each in constraints)
        ]
        for budget in budgets or _sweep(table, count, number, min(above, default=full.cost.known)):
            mode = cheapest_within(space, losses, table, budget, constraints)
            if mode is not None and mode != space.full:
                solutions[mode] = evaluate(mode)
    path = [full, *sorted(solutions.values(), key=lambda point: -point.cost.known)]
    return evaluate.front("knapsack", cost, min_accuracy, constraints, path)


def planned_evaluations(
    space: Space, table: CostTable, constraints: Sequence[Constraint], budgets: int
) -> tuple[int, int]:
    """Return how many modes a search evaluates at most, and how many if all goes as usual.

    - `budgets`: how many are gone through in all rounds together.

    >>> from wenable.core.space import Knob
    >>> space = Space((Knob("a", (1, 2)), Knob("b", (1, 2))))
    >>> table = CostTable(space, "ms", 1.0, {"a": {1: 4.0, 2: 2.0}, "b": {1: 4.0, 2: 2.0}})
    >>> planned_evaluations(space, table, (), budgets=96)
    (4, 4)
    """
    choices = worthwhile(space, table, constraints)
    uniform = uniform_within(space, constraints)
    chosen = [mode for mode in uniform if _is_of(mode, choices)]
    others = len(uniform) - len(chosen)
    first = 1 + sum(len(options) - 1 for options in choices.values())
    first += sum(map(_differs_in_several, chosen))
    there_are = math.prod(len(options) for options in choices.values())
    most = min(first + budgets, there_are)
    # Many budgets have the same solution, the more so the fewer options there are. By 96 budgets
    # networks of 6, 7 and 18 layers had 6, 20 and 68 new modes, where 12, 28 and 72 options were
    # evaluated alone; made-up ones had more. This is within a factor of two of all of them.
    likely = first + min(4 * budgets // 5, 6 * (first - 1) // 5)
    return most + others, min(likely, most) + others


def uniform_within(space: Space, constraints: Sequence[Constraint]) -> list[Mode]:
    """Return the uniform modes but the full one that keep constraints.

    >>> from wenable.core.space import Knob
    >>> space = Space((Knob("a", (1, 2, 4)), Knob("b", (1, 2, 4))))
    >>> [str(mode) for mode in uniform_within(space, ())]
    ['1/2', '1/4']
    """
    return [
        mode
        for mode in space.uniform_modes()
        if mode != space.full and all(each.allows(mode) for each in constraints)
    ]


def _is_of(mode: Mode, options: Mapping[str, Collection[int]]) -> bool:
    """Say whether a mode has none of the options that are left out."""
    return all(n in options[name] for name, n in mode.items())


def _differs_in_several(mode: Mode) -> bool:
    """Say whether more than one knob is not at its finest; the others are evaluated alone anyway."""
    full = mode.space.full
    return sum(n != full[name] for name, n in mode.items()) > 1


def _telling(
    points: Sequence[Point], losses: Losses, full: Point, min_accuracy: float
) -> list[Point]:
    """Return the points that the next losses are to fit.

    A uniform mode with an option that is left out says nothing of those that are not. Losses do not add
    up for ever: a mode with all options at their finest keeps far more than the product. So of those at
    or under the min_accuracy only such count as were taken to exceed it; fitted to the rest as well, fine
    options would seem to lose next to nothing.
    """

    def taken_to_keep(point: Point) -> float:
        return math.exp(-sum(losses[name][n] for name, n in point.mode.items()))

    return [
        point
        for point in points
        if _is_of(point.mode, losses)
        and max(point.accuracy.known, full.accuracy.known * taken_to_keep(point)) > min_accuracy
    ]


def check_budgets(
    table: CostTable, budgets: Sequence[float] | None, count: int, rounds: int
) -> None:
    """Raise `ValueError` for a budget that no mode keeps, and for a number below 1."""
    for name, value in (("count", count), ("rounds", rounds)):
        if value < 1:
            raise ValueError(f"`{name}` (={value}) must be at least 1")
    least = least_cost(table)
    for budget in () if budgets is None else budgets:
        if not least <= budget < math.inf:
            raise ValueError(
                f"`budgets` holds {budget:g} {table.unit}; it must be finite, and the least"
                f" that a mode costs is {least:g} {table.unit}"
            )


def _sweep(table: CostTable, count: int, number: int, cheapest: float) -> list[float]:
    """Return the budgets of a round.

    - `number`: of the round; all from the cheapest mode on in the first, 0.
    - `cheapest`: what the cheapest mode costs that is known to be accurate enough. Later rounds go
      down from it by a step of the first, and by half as much each time.
    """
    least, whole = least_cost(table), table.cost(table.space.full)
    if number > 0:
        first_step = (whole - least) / max(count - 1, 1)
        least = max(least, cheapest - first_step / 2 ** (number - 1))
    step = (whole - least) / max(count - 1, 1)
    shift = _between(number) if count > 1 else 1.0
    return list(dict.fromkeys(min(least + step * (i + shift), whole) for i in range(count)))


def least_cost(table: CostTable) -> float:
    """Return what the cheapest mode costs."""
    return table.rest + sum(min(row.values()) for row in table.costs.values())


def _between(number: int) -> float:
    """Return 0, 1/2, 1/4, 3/4, 1/8, ...: each falls into a widest gap (van der Corput)."""
    value, share = 0.0, 0.5
    while number:
        value, number, share = value + share * (number % 2), number // 2, share / 2
    return value


def first_losses(full: Reading, alone: Mapping[str, Mapping[int, Reading]]) -> Losses:
    """Return each option's loss from the accuracy of the mode that has it in one knob only.

    A loss is the logarithm of full accuracy / accuracy. Each is small against the error of the
    accuracies, so that the raw losses would make the search believe in the luckiest ones. Therefore:

    1. a finer option of a knob is taken to lose no less than a coarser one (isotonic regression),
       and none to lose less than nothing: so small gains in accuracy count as no loss;
    2. each loss is drawn towards the mean of that option over all knobs, by the share that the
       readings' intervals explain of the spread between knobs; all of it, where they explain all.

    - `full`: the accuracy of the full mode.
    - `alone`: knob -> option -> the accuracy with that knob alone in that option, from coarse to
      fine, without the full one. Readings without an interval count as exact: nothing is drawn.

    Source: Efron and Morris, *Stein's Estimation Rule and Its Competitors*, 1973.

    >>> top1 = lambda share: Reading(share, "top-1")
    >>> losses = first_losses(top1(0.8), {"a": {2: top1(0.82), 4: top1(0.4)}, "b": {2: top1(0.8)}})
    >>> {name: {n: round(loss, 3) for n, loss in row.items()} for name, row in losses.items()}
    {'a': {2: 0.0, 4: 0.693}, 'b': {2: 0.0}}
    """
    from scipy.optimize import isotonic_regression  # here: it takes a second to load

    losses: dict[str, dict[int, float]] = {}
    for name, row in alone.items():
        raw = [_loss(full, reading) for reading in row.values()]
        rising = isotonic_regression(raw).x if raw else []
        losses[name] = dict(zip(row, (max(0.0, float(loss)) for loss in rising), strict=True))
    for option in {n for row in losses.values() for n in row}:
        names = [name for name, row in losses.items() if option in row]
        found = np.array([losses[name][option] for name in names])
        noise = np.mean([_relative_error(alone[name][option]) ** 2 for name in names])
        spread = max(found.var() - noise, 0.0)
        kept = spread / (spread + noise) if noise > 0 else 1.0
        for name, loss in zip(names, found.mean() + kept * (found - found.mean()), strict=True):
            losses[name][option] = float(loss)
    return losses


def fitted_losses(first: Losses, points: Sequence[Point], full: Reading) -> Losses:
    """Return the losses that fit all modes evaluated so far, near the first ones, none negative.

    Least squares of the logarithms, with the first losses as further observations (a ridge), each
    weighing as much as one mode. So a mode that loses more than the sum makes its options dearer.

    >>> from wenable.core.space import Knob
    >>> space = Space((Knob("a", (1, 2)), Knob("b", (1, 2))))
    >>> worse = Point(space.smallest, Reading(0.2, "top-1"), Reading(1.0, "ms"))
    >>> first = {"a": {1: 0.0, 2: 0.1}, "b": {1: 0.0, 2: 0.3}}
    >>> losses = fitted_losses(first, [worse], Reading(0.8, "top-1"))
    >>> losses["a"][2] > 0.1, losses["b"][2] > 0.3
    (True, True)
    """
    from scipy.optimize import nnls

    columns = [(name, n) for name, row in first.items() for n in list(row)[1:]]
    if not columns:
        return first
    modes = np.array([[point.mode[name] == n for name, n in columns] for point in points], float)
    found = np.array([_loss(full, point.accuracy) for point in points])
    start = np.array([first[name][n] for name, n in columns])
    fitted, _ = nnls(
        np.vstack([modes, np.eye(len(columns))]),
        np.concatenate([found, start]),
        maxiter=100 * len(columns),
    )
    losses = {name: dict.fromkeys(row, 0.0) for name, row in first.items()}
    for (name, n), loss in zip(columns, fitted, strict=True):
        losses[name][n] = float(loss)
    return losses


def _loss(full: Reading, reading: Reading) -> float:
    """Return by how much less accurate, as a logarithm; never right counts as half an image."""
    least = 0.5 / reading.count if reading.count else 1e-3
    return math.log(full.known / max(reading.known, least))


def _relative_error(reading: Reading) -> float:
    """Return the standard error of an accuracy, as a share of it, from its 95 % interval."""
    if reading.low is None or reading.high is None or reading.known <= 0:
        return 0.0
    return (reading.high - reading.low) / (2 * 1.96) / reading.known
