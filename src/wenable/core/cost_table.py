"""What every option of every knob costs on a device, so that any mode's cost is a sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wenable.core.readings import Reading
from wenable.core.space import Knob, Mode, Space

FORMAT, VERSION = "wenable-cost-table", 1
BIT_OPERATIONS = "bit operations"
_COUNTED = ("MACs", BIT_OPERATIONS)


@dataclass(frozen=True)
class CostTable:
    """The cost of a mode as a sum: `rest` plus one entry for each knob.

    - `unit`: `"ms"`, `"mJ"`, `"MACs"` or `"bit operations"`, of all figures.
    - `rest`: what no knob changes.
    - `costs`: knob -> option -> its cost, for every option of every knob.
    - `source`: how the figures were got; `device`: on which machine.

    Raises `ValueError` for a hole, an entry that the space lacks, or a figure that is negative or
    not finite.

    >>> from wenable.core.space import Knob, Space
    >>> space = Space((Knob("a", (1, 2)), Knob("b", (1, 2))))
    >>> table = CostTable(space, "ms", 0.5, {"a": {1: 4.0, 2: 3.0}, "b": {1: 2.0, 2: 1.0}})
    >>> table.cost("full"), table.cost({"a": 2, "b": 1})
    (6.5, 5.5)
    """

    space: Space
    unit: str
    rest: float
    costs: Mapping[str, Mapping[int, float]]
    source: str = ""
    device: str = ""

    def __post_init__(self) -> None:
        _check_cost(self.rest, "`rest`")
        known = set(self.space.names)
        if set(self.costs) != known:
            odd = sorted(set(self.costs) ^ known)[0]
            what = "lacks" if odd in known else "has the unknown knob"
            raise ValueError(f"the cost table {what} {odd!r}")
        for knob in self.space.knobs:
            row = self.costs[knob.name]
            if set(row) != set(knob.options):
                raise ValueError(
                    f"the cost table has options {sorted(row)} of {knob.name!r}; the knob has"
                    f" {list(knob.options)}"
                )
            for option, cost in row.items():
                _check_cost(cost, f"the cost of {knob.name!r} in option {option}")

    def cost(self, mode: Any) -> float:
        """Return the cost of a mode (a `Mode`, its text, or knob -> option), in `unit`."""
        chosen: Mode = self.space.mode(mode)
        return self.rest + sum(self.costs[name][option] for name, option in chosen.items())

    def reading(self, mode: Any) -> Reading:
        """Return the cost of a mode as a reading; its source says if it is a table's sum.

        The table of a single mode adds nothing up: it holds what was measured of that mode.
        """
        as_it_is = self.unit in _COUNTED or self.space.size == 1
        source = self.source if as_it_is else f"predicted by a table: {self.source}"
        return Reading(self.cost(mode), self.unit, source=source, device=self.device)

    def within(self, space: Space) -> CostTable:
        """Return the table of a part of its space (`Space.fixed`).

        Raises `ValueError` where the other space is none.

        >>> from wenable.core.space import Knob, Space
        >>> space = Space((Knob("a", (1, 2)), Knob("b", (1, 2))))
        >>> table = CostTable(space, "ms", 0.5, {"a": {1: 4.0, 2: 3.0}, "b": {1: 2.0, 2: 1.0}})
        >>> table.within(space.fixed({"a": 2})).costs["a"]
        {2: 3.0}
        """
        if space.names != self.space.names:
            raise ValueError("`space` is no part of the table's space: its knobs have other names")
        costs = {
            knob.name: {n: self.costs[knob.name][n] for n in knob.options} for knob in space.knobs
        }
        return CostTable(space, self.unit, self.rest, costs, self.source, self.device)

    def without_slower_options(self) -> dict[str, tuple[int, ...]]:
        """Return for each knob the options that cost less than every coarser one, the full one first.

        A finer option that costs no less than a coarser one is worth nothing: it holds fewer
        weights. A search may leave it out.
        """
        return {knob.name: self._falling(knob) for knob in self.space.knobs}

    def _falling(self, knob: Knob) -> tuple[int, ...]:
        kept: list[int] = []
        for option in sorted(knob.options):
            if not kept or self.costs[knob.name][option] < self.costs[knob.name][kept[-1]]:
                kept.append(option)
        return tuple(kept)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "space": self.space.to_json(),
            "unit": self.unit,
            "rest": self.rest,
            "costs": {
                name: {str(option): cost for option, cost in row.items()}
                for name, row in self.costs.items()
            },
            "source": self.source,
            "device": self.device,
        }

    @classmethod
    def from_json(cls, values: Any) -> CostTable:
        """Return the table that `to_json` wrote; raises `ValueError` where it is not one."""
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            raise ValueError("`values` is not the JSON form of a cost table")
        if values.get("version") != VERSION:
            raise ValueError(f"the cost table has version {values.get('version')!r}; this reads 1")
        try:
            costs = {
                str(name): {int(option): cost for option, cost in row.items()}
                for name, row in values["costs"].items()
            }
            return cls(
                Space.from_json(values["space"]), str(values["unit"]), values["rest"], costs,
                str(values["source"]), str(values["device"]),
            )  # fmt: skip
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"`values` is not the JSON form of a cost table: {error}") from error


def tabulated(
    space: Space, cost: Callable[[Mode], float], unit: str, source: str = ""
) -> CostTable:
    """Return the table of a cost that is a sum over knobs, as that of MACs is.

    - `cost`: mode -> its cost; called for the full mode and for each mode that differs in one knob.

    The costs of the full options cannot be told from the rest. They are taken such that the
    cheapest option of each knob costs nothing.

    Raises `ValueError` where the smallest mode does not cost what the table says: then it is no sum.

    >>> from wenable.core.space import Knob
    >>> space = Space((Knob("a", (1, 2)), Knob("b", (1, 2))))
    >>> table = tabulated(space, lambda mode: 8 / mode["a"] + 4 / mode["b"], "MACs")
    >>> table.rest, table.costs["a"], table.cost("1/2,1")
    (6.0, {1: 4.0, 2: 0.0}, 8.0)
    """
    whole = float(cost(space.full))
    rows = {}
    for knob in space.knobs:
        options = [option for option in knob.options if option != space.full[knob.name]]
        found = {option: float(cost(space.full.replace({knob.name: option}))) for option in options}
        found[space.full[knob.name]] = whole
        least = min(found.values())
        rows[knob.name] = {option: found[option] - least for option in knob.options}
    rest = whole - sum(row[space.full[name]] for name, row in rows.items())
    table = CostTable(space, unit, max(rest, 0.0), rows, source)
    found_smallest, said = float(cost(space.smallest)), table.cost(space.smallest)
    if not math.isclose(found_smallest, said, rel_tol=1e-6, abs_tol=1e-6 * abs(whole)):
        raise ValueError(
            f"`cost` is no sum over knobs: the smallest mode costs {found_smallest}, the sum is {said}"
        )
    return table


def _check_cost(cost: Any, what: str) -> None:
    if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 <= cost < math.inf:
        raise ValueError(f"{what} (={cost!r}) must be a finite number, at least 0")
