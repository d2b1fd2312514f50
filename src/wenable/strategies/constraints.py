"""Constraints on what a mode may cost, and the mode of least loss that keeps them all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from wenable.core.cost_parts import CostParts, Costs
from wenable.core.cost_table import CostTable
from wenable.core.space import Knob, Mode, Space

Losses: TypeAlias = Mapping[str, Mapping[int, float]]
"""Knob -> option -> its loss; an option without one is not to be chosen."""

ROUNDING = 1e-6  # how far a sum may exceed a constraint, as a share of it: sums and solvers round
TIE = 1e-6  # losses that differ by less are equal: no test set has a million images

LONGEST_S = 5.0  # of one knapsack; those with losses proportional to costs may take for ever


@dataclass(frozen=True)
class Constraint:
    """The most that a mode may cost, by a table: 5 ms, or 2 MB, or 1 mJ.

    - `table`: the cost of any mode, or a `CostParts`, if it adds up in parts of the space only, as the
      latency does if the size of images is a knob.
    - `most`: the constraint, in the table's unit.

    Raises `ValueError` where `most` is no finite number of at least 0, and for parts without a table.

    >>> space = Space((Knob("a", (1, 2)), Knob("b", (1, 2))))
    >>> table = CostTable(space, "ms", 0.5, {"a": {1: 4.0, 2: 3.0}, "b": {1: 2.0, 2: 1.0}})
    >>> Constraint(table, 5.5).allows(space.mode("1/2,1")), Constraint(table, 5.5).allows(space.full)
    (True, False)
    """

    table: Costs
    most: float

    def __post_init__(self) -> None:
        if not 0 <= self.most < math.inf:
            raise ValueError(
                f"`most` (={self.most}) of a constraint must be a finite number, at least 0"
            )
        if isinstance(self.table, CostParts) and self.table.missing_count:
            lacking = ", ".join(self.table.missing(4))
            raise ValueError(
                f"`table` has no cost of {lacking}; a constraint needs that of any mode"
            )
        if isinstance(self.table, CostParts) and not self.table.knobs:
            object.__setattr__(self, "table", self.table.tables[0])

    @property
    def sums(self) -> CostTable:
        """The table of all modes; raises `ValueError` if there is one for each part of the space."""
        if isinstance(self.table, CostParts):
            names = " and ".join(repr(knob.name) for knob in self.table.knobs)
            raise ValueError(
                f"a constraint ({self}) has a table for each option of {names}; here it needs one for all"
            )
        return self.table

    def within(self, part: Space) -> Constraint:
        """Return the constraint in a part of the space (`Space.fixed`), where its cost is a sum.

        >>> space = Space((Knob("a", (1, 2)), Knob("b", (1, 2))))
        >>> table = CostTable(space, "ms", 0.5, {"a": {1: 4.0, 2: 3.0}, "b": {1: 2.0, 2: 1.0}})
        >>> Constraint(table, 5.5).within(space.fixed({"a": 2})).allows({"a": 2, "b": 1})
        True
        """
        table = self.table
        if isinstance(table, CostParts):
            table = table.table_of(part.full)
        return Constraint(table.within(part), self.most)

    def allows(self, mode: Mapping[str, int]) -> bool:
        """Say whether the mode costs no more than the constraint, up to a millionth of it."""
        return self.violation(mode) <= 0

    def violation(self, mode: Mapping[str, int]) -> float:
        """Return by how much the mode exceeds the constraint, as a share of it; 0 where it does not."""
        over = self.table.cost(mode) - self.most
        return over / (self.most or 1.0) if over > ROUNDING * self.most else 0.0

    def __str__(self) -> str:
        return f"at most {self.most:g} {self.table.unit}"


def numbers_of(budgets: Iterable[float] | None) -> tuple[float, ...] | None:
    """Return budgets as numbers, which may be an array, or come from what can be gone through once.

    Raises `ValueError` where they are no numbers, and for a text, whose digits would be one each.
    """
    if budgets is None:
        return None
    try:
        found = tuple(budgets)
        if isinstance(budgets, bytes) or any(isinstance(each, str) for each in found):
            raise TypeError("a text")
        return tuple(map(float, found))
    except (TypeError, ValueError) as error:
        raise ValueError(f"`budgets` (={budgets!r}) must be numbers, one or several") from error


def check_constraints(space: Space, constraints: Sequence[Constraint]) -> Mode:
    """Return a mode that keeps all constraints, coarse where it can be; refuse what none can keep.

    Raises `ValueError` if a constraint's table is of another space, or no mode keeps a constraint,
    alone or together with those before it; the error names the least that is possible.

    >>> space = Space((Knob("a", (1, 2)), Knob("b", (1, 2))))
    >>> table = CostTable(space, "ms", 0.5, {"a": {1: 4.0, 2: 3.0}, "b": {1: 2.0, 2: 1.0}})
    >>> print(check_constraints(space, [Constraint(table, 5.5)]))
    1,1/2
    """
    for position, constraint in enumerate(constraints):
        check_space(space, constraint.table, f"`constraints[{position}]`")
    (mode,) = kept_in_each([(space, constraints)])
    assert mode is not None  # or it had been refused
    return mode


def kept_in_each(
    parts: Sequence[tuple[Space, Sequence[Constraint]]],
) -> list[Mode | None]:
    """Return for each part a mode that keeps its constraints, coarse where it can be; None if none does.

    - `parts`: the parts of a space, each with the same constraints, by its own tables.

    Raises `ValueError` if no part keeps a constraint, alone or together with those before it; the error
    names the least that is possible in any.

    >>> space = Space((Knob("a", (1, 2)), Knob("b", (1, 2))))
    >>> table = CostTable(space, "ms", 0.5, {"a": {1: 4.0, 2: 3.0}, "b": {1: 2.0, 2: 1.0}})
    >>> part = space.fixed({"a": 1})
    >>> kept = kept_in_each([(each, [Constraint(table, 5.5).within(each)]) for each in (space, part)])
    >>> [dict(mode) for mode in kept]
    [{'a': 1, 'b': 2}, {'a': 1, 'b': 2}]
    """
    modes: list[Mode | None] = [space.full for space, _ in parts]
    for position in range(len(parts[0][1])):
        for place, (space, constraints) in enumerate(parts):
            if modes[place] is not None:
                table = constraints[position].sums
                modes[place] = _solve(space, _steps(space), table, constraints[: position + 1])
        if all(mode is None for mode in modes):
            raise ValueError(_not_kept(parts, position))
    return modes


def _not_kept(parts: Sequence[tuple[Space, Sequence[Constraint]]], position: int) -> str:
    """Say that no part keeps a constraint together with those before it, and the least of its cost."""

    def least(before: int) -> float:
        found = (_least(space, own[position].sums, own[:before]) for space, own in parts)
        return min((cost for cost in found if not math.isnan(cost)), default=math.nan)

    constraint, alone = parts[0][1][position], least(0)
    possible = alone <= constraint.most
    together = " together with those before it" if possible else ""
    return (
        f"`constraints[{position}]` (={constraint}) cannot be kept{together}: the least that a mode"
        f" costs is {least(position) if possible else alone:g} {constraint.table.unit}"
    )


def _steps(space: Space) -> Losses:
    """Return losses that make coarse options the better ones."""
    return {knob.name: {n: float(i) for i, n in enumerate(knob.options)} for knob in space.knobs}


def check_space(space: Space, table: Costs, what: str) -> None:
    """Raise `ValueError`, naming `what`, where the table is of another space."""
    if table.space != space:
        raise ValueError(
            f"{what} is the cost table of another network: it has {len(table.space.knobs)} knobs,"
            f" from {table.space.names[0]!r} on, and the space {len(space.knobs)}, from"
            f" {space.names[0]!r} on; allowed: a table of the same knobs and options"
        )


def _least(space: Space, table: CostTable, constraints: Sequence[Constraint]) -> float:
    span = max(max(row.values()) for row in table.costs.values()) or 1.0
    costs = {name: {n: cost / span for n, cost in row.items()} for name, row in table.costs.items()}
    mode = _solve(space, costs, table, constraints)
    return table.cost(mode) if mode is not None else math.nan


def worthwhile(
    space: Space, table: CostTable, constraints: Sequence[Constraint] = ()
) -> dict[str, tuple[int, ...]]:
    """Return for each knob the options that no coarser one matches in all costs at once.

    Without constraints these are `CostTable.without_slower_options`. An option that is slower than a
    coarser one but smaller may be what keeps a constraint on memory; so it stays where there is one.

    >>> space = Space((Knob("a", (1, 2, 4)),))
    >>> table = CostTable(space, "ms", 0.0, {"a": {1: 4.0, 2: 2.0, 4: 3.0}})
    >>> memory = CostTable(space, "MB", 0.0, {"a": {1: 4.0, 2: 2.0, 4: 1.0}})
    >>> worthwhile(space, table), worthwhile(space, table, [Constraint(memory, 3.0)])
    ({'a': (1, 2)}, {'a': (1, 2, 4)})
    """
    tables = [table, *(constraint.sums for constraint in constraints)]

    def kept(knob: Knob) -> tuple[int, ...]:
        chosen: list[int] = []
        for option in knob.options:
            rows = [each.costs[knob.name] for each in tables]
            if not any(all(row[option] >= row[one] for row in rows) for one in chosen):
                chosen.append(option)
        return tuple(chosen)

    return {knob.name: kept(knob) for knob in space.knobs}


def cheapest_within(
    space: Space,
    losses: Losses,
    table: CostTable,
    budget: float,
    constraints: Sequence[Constraint] = (),
) -> Mode | None:
    """Return the mode of least loss within the budget and the constraints; of equal ones the cheapest.

    A multiple-choice knapsack: one option for each knob, whose losses add up, as the costs do. It
    is solved to the optimum as a mixed-integer programme (`scipy.optimize.milp`, HiGHS), as a rule
    in a fraction of a second; after 5 s the best so far is returned. HiGHS 1.12 (scipy 1.17) may
    print lines with `transformNewIntegerFeasibleSolution`, a leftover of theirs that means nothing.

    - `losses`: knob -> option -> its loss, a share of the accuracy. An option that is left out is
      not chosen. Sums that differ by less than 1e-6 count as equal.
    - `budget`: the most by `table`; it and the constraints may be exceeded by a millionth of them.
    - `table`: what `budget` is compared with, and what decides among equal losses.
    - `constraints`: further costs that are kept at the same time.

    Returns None where no mode keeps them all. Raises `ValueError` where a knob has no losses, or
    one is not finite, or a table is of another space; `RuntimeError` where 5 s yield no mode.

    Source: Kellerer, Pferschy and Pisinger, *Knapsack Problems*, 2004, chapter 11.

    >>> space = Space((Knob("a", (1, 2)), Knob("b", (1, 2))))
    >>> table = CostTable(space, "ms", 0.5, {"a": {1: 4.0, 2: 3.0}, "b": {1: 2.0, 2: 1.0}})
    >>> losses = {"a": {1: 0.0, 2: 0.1}, "b": {1: 0.0, 2: 0.3}}
    >>> print(cheapest_within(space, losses, table, 5.5), cheapest_within(space, losses, table, 4.0))
    1/2,1 None
    """
    check_space(space, table, "`table`")
    for position, constraint in enumerate(constraints):
        check_space(space, constraint.table, f"`constraints[{position}]`")
    _check_losses(space, losses)
    return (
        _solve(space, losses, table, [Constraint(table, budget), *constraints])
        if budget >= 0
        else None
    )


def _check_losses(space: Space, losses: Losses) -> None:
    for knob in space.knobs:
        if not losses.get(knob.name):
            raise ValueError(
                f"`losses` has no option of {knob.name!r}; every knob needs at least one"
            )
        for option, loss in losses[knob.name].items():
            knob.check(option)
            if not math.isfinite(loss):
                raise ValueError(
                    f"`losses` of {knob.name!r} in option {option} (={loss}) must be finite"
                )


def _solve(
    space: Space, losses: Losses, table: CostTable, constraints: Sequence[Constraint]
) -> Mode | None:
    """Return the best mode, or None where there is none; a knob's options are those in `losses`."""
    from scipy.optimize import Bounds, LinearConstraint, milp  # here: it takes a second to load

    choices = [(name, option) for name in space.names for option in losses[name]]
    knob_of = np.array([space.position(name) for name, _ in choices])
    one_each = (knob_of == np.arange(len(space.knobs))[:, None]).astype(float)
    rows = [LinearConstraint(one_each, 1, 1)]
    allowed = np.ones(len(choices))
    for constraint in constraints:
        above, least = _above_least(constraint.sums, losses)
        room = constraint.most * (1 + ROUNDING / 2) - least
        if room < 0:
            return None
        allowed[above > room] = 0
        above[above > room] = 0
        # HiGHS bears errors of 1e-6 in each row: scaled so that this is a hundredth of `ROUNDING`.
        scale = 100 / (above.max() or 1.0)
        rows.append(LinearConstraint(above * scale, -np.inf, room * scale))
    loss = np.array([losses[name][option] for name, option in choices])
    above, _ = _above_least(table, losses)
    tie = TIE * above / ((one_each * above).max(axis=1).sum() or 1.0)
    found = milp(
        1e4 * (loss + tie),  # 1e-6 of this is borne too
        integrality=np.ones(len(choices)),
        bounds=Bounds(np.zeros(len(choices)), allowed),  # type: ignore[arg-type]
        constraints=rows,
        options={"mip_rel_gap": 0.0, "time_limit": LONGEST_S},
    )
    if found.x is None:
        if found.status == 2:  # proven infeasible
            return None
        raise RuntimeError(f"the knapsack was not solved within {LONGEST_S:g} s: {found.message}")
    chosen = (choice for choice, x in zip(choices, found.x, strict=True) if x > 0.5)
    return space.mode(dict(chosen))


def _above_least(table: CostTable, losses: Losses) -> tuple[np.ndarray, float]:
    """Return each choice's cost above its knob's cheapest, and what the cheapest mode costs."""
    least = {name: min(table.costs[name][n] for n in losses[name]) for name in table.space.names}
    above = [table.costs[name][n] - low for name, low in least.items() for n in losses[name]]
    return np.array(above), table.rest + sum(least.values())
