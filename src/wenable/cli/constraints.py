"""The constraints of `wenable explore`, as they are written on the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from wenable.core.cost_table import CostTable
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.mode_costs import macs_table, weights_table
from wenable.strategies.constraints import Constraint

_OF_A_DEVICE = {"latency_ms": "latency", "energy_mj": "energy"}
NAMES = ("macs_m", "memory_kib", *_OF_A_DEVICE)


def parse_constraints(
    texts: Sequence[str], net: DynamicNetwork, tables: Mapping[str, CostTable | str]
) -> list[Constraint]:
    """Return constraints from texts as `memory_kib=200`, or `table.json=2` by a cost table in a file.

    - `tables`: those of a profile, "latency" and "energy", or why it has none; for `latency_ms` and
      `energy_mj`.

    Raises `ValueError` for what is no constraint, with what is allowed; `OSError` without the file.
    """
    return [_parse(text, net, tables) for text in texts]


def _parse(text: str, net: DynamicNetwork, tables: Mapping[str, CostTable | str]) -> Constraint:
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
        return Constraint(macs_table(net), 1e6 * most)
    if name == "memory_kib":
        return Constraint(weights_table(net), most)
    if name in _OF_A_DEVICE:
        table = tables.get(_OF_A_DEVICE[name], "`--profile` was not given")
        if isinstance(table, str):
            raise ValueError(f"`--constraint` (={text!r}) needs a table of a device: {table}")
        return Constraint(table, most)
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
