"""Where the costs of a search come from: counted, from the tables of a device, or measured in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from wenable.core.cost_parts import CostParts
from wenable.core.cost_table import BIT_OPERATIONS, CostTable
from wenable.core.space import Space
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.mode_costs import knobs_of_products, tables_of_each
from wenable.network.profile_of import check_profile_of

Cost = Literal["macs", "bit_operations", "latency", "energy"]
UNITS: dict[str, str] = {
    "macs": "MACs", "bit_operations": BIT_OPERATIONS, "latency": "ms", "energy": "mJ",
}  # fmt: skip
_COUNTED = ("macs", "bit_operations")
_NAMED = 4


class HasTables(Protocol):
    """What was measured on a device: a `wenable.runtime.DeviceProfile`."""

    def tables(self, cost: str) -> tuple[CostTable, ...]:
        """Return the tables of `"latency"` or `"energy"`, one or one for each part of the space."""
        ...

    def why_no_tables(self, cost: str) -> str:
        """Return why there are none; "" if there are."""
        ...


def known_costs(
    net: DynamicNetwork,
    cost: Cost,
    table: CostTable | Sequence[CostTable] | None = None,
    profile: HasTables | None = None,
) -> CostParts | None:
    """Return the costs of all modes, if they are known before the search; None if each is measured.

    - `table`, `profile`: as in `explore`.

    Raises `ValueError` for tables of another network or unit, for what a profile has not measured, and
    for latencies or energies that eager PyTorch on this machine cannot tell.
    """
    if profile is not None:
        table = _of_profile(cost, table, profile)
        check_profile_of(net, profile)
    if table is None:
        if cost in _COUNTED:
            tables = tables_of_each(net, cost)
            return CostParts(net.space, tables) if tables else None
        _check_can_be_measured(net, cost)
        return None
    tables = (table,) if isinstance(table, CostTable) else tuple(table)
    name = "`profile`" if profile is not None else "`table`"
    costs = _parts(net.space, tables, name)
    if costs.unit != UNITS[cost]:
        raise ValueError(f"`table` is in {costs.unit}; `cost` (={cost!r}) needs {UNITS[cost]}")
    _check_whole(costs, name)
    if not costs.knobs:
        _check_sums(net, cost)
    return costs


def _of_profile(
    cost: Cost, table: CostTable | Sequence[CostTable] | None, profile: HasTables
) -> tuple[CostTable, ...]:
    if table is not None:
        raise ValueError("`table` and `profile` were both given; a profile has its own tables")
    if cost in _COUNTED:
        raise ValueError(
            f"`profile` holds latencies and energies, and `cost` (={cost!r}) is counted without it; allowed"
            " with it: 'latency', 'energy'"
        )
    reason = profile.why_no_tables(cost)
    if reason:
        raise ValueError(f"`profile` has no table of {cost}: {reason}")
    return profile.tables(cost)


def _parts(space: Space, tables: tuple[CostTable, ...], name: str) -> CostParts:
    try:
        return CostParts(space, tables).costliest_first()
    except ValueError as error:
        raise ValueError(f"{name} does not fit this network: {error}") from error


def _check_whole(costs: CostParts, name: str) -> None:
    """Refuse costs that lack a part of the space: other parts say nothing of it."""
    count = costs.missing_count
    if not count:
        return
    lacking = costs.missing(_NAMED)
    more = f" and {count - len(lacking)} more" if count > len(lacking) else ""
    raise ValueError(
        f"{name} has no cost of {', '.join(lacking)}{more}, and what others take says nothing of these:"
        " export them too (`--modes`, with semicolons), and profile that bundle"
    )


def _check_sums(net: DynamicNetwork, cost: Cost) -> None:
    """Refuse one table for all modes of a network where a knob changes what others cost."""
    several = knobs_of_products(net, "macs" if cost == "macs" else "bit_operations")
    if several:
        raise ValueError(
            f"`table` is a sum over knobs, and what a layer costs here depends on {several[0].name!r} too;"
            " leave it out, or give the `profile` of a device, which has a table for each of its options"
        )


def _check_can_be_measured(net: DynamicNetwork, cost: Cost) -> None:
    """Refuse to time modes of few bits in eager PyTorch, where they are rounded floats, and slower."""
    fewest = min(
        (layer.bits_in(mode) for layer in net.switchable_layers for mode in _ends(net)), default=32
    )
    if fewest < 32:
        raise ValueError(
            f"`cost` (={cost!r}) without a `profile` is measured in eager PyTorch, where layers of {fewest}"
            " bits are rounded floats and take longer than whole ones; give the `profile` of a device"
        )


def _ends(net: DynamicNetwork) -> tuple[dict[str, int], ...]:
    return dict(net.space.full), dict(net.space.smallest)
