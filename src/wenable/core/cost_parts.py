"""Costs that add up only within parts of a space: a table for each combination of a few knobs' options."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from wenable.core.cost_table import CostTable
from wenable.core.readings import Reading
from wenable.core.space import Knob, Space


@dataclass(frozen=True)
class CostParts:
    """What any mode of a space costs, by the table of its part.

    The size of images, a width, an exit or the network's precision changes what all other knobs cost.
    With one option for each of those costs are sums, and there a table has them.

    - `space`: the whole one.
    - `tables`: of parts (`Space.fixed`) that differ in the options of the same knobs, all in one unit;
      one of the whole space where all costs are sums.

    Raises `ValueError` for no table, for tables of another space, of parts that overlap, or in unlike
    units.

    >>> from wenable.core.space import Knob, Space
    >>> space = Space((Knob("size", (1, 2), labels=("64", "48"), by_name=True), Knob("a", (1, 2))))
    >>> def table(size):
    ...     row = {1: 8.0 / size, 2: 4.0 / size}
    ...     return CostTable(space.fixed({"size": size}), "ms", 1.0, {"size": {size: 0.0}, "a": row})
    >>> costs = CostParts(space, (table(1), table(2)))
    >>> costs.cost("1/2"), costs.cost("1/2,size=48"), costs.missing(3)
    (5.0, 3.0, [])
    """

    space: Space
    tables: tuple[CostTable, ...]

    def __post_init__(self) -> None:
        if not self.tables:
            raise ValueError("`tables` is empty; costs need at least one")
        for table in self.tables:
            if not _is_part(table.space, self.space):
                raise ValueError(
                    f"`tables` holds one of another network: {_difference(table.space, self.space)}"
                )
            if table.unit != self.unit:
                raise ValueError(
                    f"`tables` are in {self.unit} and in {table.unit}; one unit for all"
                )
            fixed = {
                knob.name: table.space.knobs[self._place(knob)].options[0] for knob in self.knobs
            }
            if table.space != self.space.fixed(fixed):
                raise ValueError(
                    f"`tables` are of parts that differ in {self._names}; one of them holds several"
                    " options of these, or lacks some of another knob"
                )
        if len(self._by_options) < len(self.tables):
            raise ValueError(f"`tables` has two for the same option of {self._names}")

    @property
    def unit(self) -> str:
        """The unit of all costs."""
        return self.tables[0].unit

    @cached_property
    def knobs(self) -> tuple[Knob, ...]:
        """The knobs whose options tell parts from each other; none if all costs are sums."""
        return tuple(
            knob
            for place, knob in enumerate(self.space.knobs)
            if any(table.space.knobs[place] != knob for table in self.tables)
        )

    def table_of(self, mode: Mapping[str, int]) -> CostTable:
        """Return the table of the part that a mode is in; raises `ValueError` if there is none."""
        options = tuple(mode[knob.name] for knob in self.knobs)
        if options not in self._by_options:
            raise ValueError(
                f"no table has the cost of mode {self.space.mode(dict(mode))}: none was measured with"
                f" {self._words(options)}, and those of other options say nothing of it"
            )
        return self._by_options[options]

    def cost(self, mode: Any) -> float:
        """Return the cost of a mode (a `Mode`, its text, or knob -> option), in `unit`."""
        chosen = dict(self.space.mode(mode))
        return self.table_of(chosen).cost(chosen)

    def reading(self, mode: Any) -> Reading:
        """Return the cost of a mode as a reading; see `CostTable.reading`."""
        chosen = dict(self.space.mode(mode))
        return self.table_of(chosen).reading(chosen)

    def costliest_first(self) -> CostParts:
        """Return the same with the tables in the order of their options: that of the full mode first."""
        order = sorted(self.tables, key=lambda table: places(self.space, table.space.full.options))
        return CostParts(self.space, tuple(order))

    def missing(self, most: int) -> list[str]:
        """Return the full modes, as text, of the first parts that have no table; at most so many."""
        names = [knob.name for knob in self.knobs]
        return missing_parts(self.space, names, [table.space.full for table in self.tables], most)

    @property
    def missing_count(self) -> int:
        """How many parts have no table."""
        return math.prod(len(knob.options) for knob in self.knobs) - len(self.tables)

    def to_json(self) -> Any:
        """Return plain values that tell these costs from others."""
        if not self.knobs:
            return self.tables[0].to_json()
        return [table.to_json() for table in self.tables]

    @cached_property
    def _by_options(self) -> dict[tuple[int, ...], CostTable]:
        places = [self._place(knob) for knob in self.knobs]
        return {
            tuple(table.space.knobs[place].options[0] for place in places): table
            for table in self.tables
        }

    def _place(self, knob: Knob) -> int:
        return self.space.position(knob.name)

    @property
    def _names(self) -> str:
        return " and ".join(repr(knob.name) for knob in self.knobs)

    def _words(self, options: Sequence[int]) -> str:
        pairs = zip(self.knobs, options, strict=True)
        return " and ".join(f"{knob.name}={knob.text(option)}" for knob, option in pairs)


Costs: TypeAlias = CostTable | CostParts
"""The cost of any mode of a space: one table, or one for each of its parts."""


def places(space: Space, options: Sequence[int]) -> list[int]:
    """Return where the options of a mode stand among those of its knobs: the full mode comes first."""
    return [knob.options.index(option) for knob, option in zip(space.knobs, options, strict=True)]


def missing_parts(
    space: Space, names: Sequence[str], held: Iterable[Mapping[str, int]], most: int
) -> list[str]:
    """Return the full modes, as text, of the first parts of a space that are not held.

    - `names`: of the knobs whose options tell parts from each other; `held`: a mode of each part that is.
    - `most`: how many are named.
    """
    known = {tuple(mode[name] for name in names) for mode in held}
    rows = [space.knobs[space.position(name)].options for name in names]
    lacking = (options for options in itertools.product(*rows) if options not in known)
    return [
        str(space.full.replace(dict(zip(names, options, strict=True))))
        for options in itertools.islice(lacking, most)
    ]


def _difference(part: Space, whole: Space) -> str:
    """Return the first knob that keeps one space from being a part of another, in words."""
    theirs = {knob.name: knob for knob in part.knobs}
    ours = {knob.name: knob for knob in whole.knobs}
    for name in (*ours, *theirs):
        if name not in theirs:
            return f"it has no knob {name!r}"
        if name not in ours:
            return f"its knob {name!r} is none of this one's; a layer that was left whole has none"
        more = [each for each in theirs[name].options if each not in ours[name].options]
        if more:
            return (
                f"its knob {name!r} has options that this one lacks ({', '.join(map(str, more))}); they may"
                " have been left out of it since they did not pay: profile a bundle of this one"
            )
    return "its knobs come in another order"


def _is_part(part: Space, whole: Space) -> bool:
    """Say whether a space has the knobs of another, each with some of its options."""
    return part.names == whole.names and all(
        set(one.options) <= set(other.options)
        for one, other in zip(part.knobs, whole.knobs, strict=True)
    )
