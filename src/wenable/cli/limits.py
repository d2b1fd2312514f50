"""The limits of `wenable explore`, as they are written on the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from wenable.cost_table import CostTable
from wenable.dynamic_network import DynamicNetwork
from wenable.exploration.limits import Limit
from wenable.mode_costs import macs_table, weights_table

NAMES = ("macs_m", "memory_kib", "latency_ms")


def parse_limits(
    texts: Sequence[str], net: DynamicNetwork, latencies: CostTable | None
) -> list[Limit]:
    """Return limits from texts as `memory_kib=200`, or `table.json=2` by a cost table in a file.

    - `latencies`: the table of a profile, for `latency_ms`.

    Raises `ValueError` for what is no limit, with what is allowed; `OSError` without the file.
    """
    return [_parse(text, net, latencies) for text in texts]


def _parse(text: str, net: DynamicNetwork, latencies: CostTable | None) -> Limit:
    name, _, figure = text.rpartition("=")
    try:
        most = float(figure)
    except ValueError:
        most = None
    if not name or most is None:
        raise ValueError(
            f"`--limit` (={text!r}) must be NAME=NUMBER; names: {', '.join(NAMES)}, or the file of a"
            " cost table"
        )
    if name == "macs_m":
        return Limit(macs_table(net), 1e6 * most)
    if name == "memory_kib":
        return Limit(weights_table(net), most)
    if name == "latency_ms":
        if latencies is None:
            raise ValueError(f"`--limit` (={text!r}) needs the latencies of a device: `--profile`")
        return Limit(latencies, most)
    if not Path(name).is_file():
        raise ValueError(
            f"`--limit` (={text!r}) names neither {', '.join(NAMES)} nor the file of a cost table"
        )
    return Limit(_table(Path(name)), most)


def _table(path: Path) -> CostTable:
    try:
        return CostTable.from_json(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} is no cost table: {error}") from error
