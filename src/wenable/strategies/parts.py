"""The parts of a space in which every cost of a search is a sum: the one searched by, those constrained."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from wenable.core.cost_parts import CostParts
from wenable.core.cost_table import CostTable
from wenable.core.space import Knob, Mode
from wenable.strategies.constraints import Constraint, check_space, kept_in_each


@dataclass(frozen=True)
class Part:
    """A part of a space whose modes can keep the constraints.

    - `table`: what its modes cost; its space is the part.
    - `constraints`: by the part's own tables.
    - `kept`: a mode of the part that keeps them.
    """

    table: CostTable
    constraints: tuple[Constraint, ...]
    kept: Mode


def parts_within(costs: CostParts, constraints: Sequence[Constraint] = ()) -> list[Part]:
    """Return the parts of a space that can keep the constraints, with one table for each cost.

    A knob may change what others cost in one unit and not in another: the precision of a network says
    nothing of its MACs and much of its latency. So the parts are those of all costs together, and there may
    be more of them than `costs` has tables.

    Raises `ValueError` for the constraint of another space, and if no part can keep one.

    >>> from wenable.core.space import Space
    >>> space = Space((Knob("size", (1, 2), labels=("64", "48"), by_name=True), Knob("a", (1, 2))))
    >>> def table(size):
    ...     row = {1: 8.0 / size, 2: 4.0 / size}
    ...     return CostTable(space.fixed({"size": size}), "ms", 1.0, {"size": {size: 0.0}, "a": row})
    >>> costs = CostParts(space, (table(1), table(2)))
    >>> [dict(part.kept) for part in parts_within(costs, [Constraint(costs, 4.0)])]
    [{'size': 2, 'a': 2}]
    """
    for position, constraint in enumerate(constraints):
        check_space(costs.space, constraint.table, f"`constraints[{position}]`")
    known = {knob.name for knob in costs.knobs}
    further = [knob for knob in knobs_of_parts(costs, constraints) if knob.name not in known]
    found: list[tuple[CostTable, tuple[Constraint, ...]]] = []
    for whole in costs.tables:
        for options in itertools.product(*(knob.options for knob in further)):
            fixed = {knob.name: n for knob, n in zip(further, options, strict=True)}
            table = whole.within(whole.space.fixed(fixed))
            found.append((table, tuple(each.within(table.space) for each in constraints)))
    kept = kept_in_each([(table.space, own) for table, own in found])
    return [
        Part(table, own, mode)
        for (table, own), mode in zip(found, kept, strict=True)
        if mode is not None
    ]


def knobs_of_parts(costs: CostParts, constraints: Sequence[Constraint] = ()) -> list[Knob]:
    """Return the knobs that change what others cost, by the cost searched by or by a constraint's.

    >>> from wenable.core.space import Space
    >>> space = Space((Knob("size", (1, 2)), Knob("a", (1, 2))))
    >>> table = CostTable(space, "MACs", 1.0, {"size": {1: 2.0, 2: 1.0}, "a": {1: 2.0, 2: 1.0}})
    >>> knobs_of_parts(CostParts(space, (table,)))
    []
    """
    of_constraints = [c.table for c in constraints if isinstance(c.table, CostParts)]
    names = {knob.name for each in (costs, *of_constraints) for knob in each.knobs}
    return [knob for knob in costs.space.knobs if knob.name in names]
