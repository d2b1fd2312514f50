"""The constraints of `wenable explore`, as they are written on the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from wenable.core.cost_table import CostTable
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.mode_costs import macs_parts, weights_parts
from wenable.runtime import DeviceProfile
from wenable.search.known_costs import Cost, known_costs
from wenable.strategies.constraints import Constraint

_OF_A_DEVICE: dict[str, Cost] = {"latency_ms": "latency", "energy_mj": "energy"}
NAMES = ("macs_m", "memory_kib", *_OF_A_DEVICE)


def parse_constraints(
    texts: Sequence[str], net: DynamicNetwork, profile: DeviceProfile | None
) -> list[Constraint]:
    """Return constraints from texts as `memory_kib=200`, or `table.json=2` by a cost table in a file.

    - `profile`: of the device, for `latency_ms` and `energy_mj`.

    Raises `ValueError` for what is no constraint, with what is allowed; `OSError` without the file.
    """
    return [_parse(text, net, profile) for text in texts]


def _parse(text: str, net: DynamicNetwork, profile: DeviceProfile | None) -> Constraint:
    name, _, figure = text.rpartition("=")
    try:
        most = float(figure)
    except ValueError:
        most = None
    if not name or most is None:
        raise ValueError(
            f"`--constraint` (={text!r}) must be NAME=NUMBER; names: {', '.join(NAMES)}, or the file of a"
            " cost table"
        )
    if not 0 <= most < math.inf:
        raise ValueError(f"`--constraint` (={text!r}) must be a finite number, at least 0")
    if name == "macs_m":
        return Constraint(macs_parts(net), 1e6 * most)
    if name == "memory_kib":
        return Constraint(weights_parts(net), most)
    if name in _OF_A_DEVICE:
        cost = _OF_A_DEVICE[name]
        lacking = "`--profile` was not given" if profile is None else profile.why_no_tables(cost)
        if profile is None or lacking:
            raise ValueError(f"`--constraint` (={text!r}) needs a table of a device: {lacking}")
        known = known_costs(net, cost, profile=profile)
        assert known is not None  # a profile's costs are
        return Constraint(known, most)
    if not Path(name).is_file():
        raise ValueError(
            f"`--constraint` (={text!r}) names neither {', '.join(NAMES)} nor the file of a cost table"
        )
    return Constraint(_table(Path(name)), most)


def _table(path: Path) -> CostTable:
    try:
        return CostTable.from_json(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} is no cost table: {error}") from error
