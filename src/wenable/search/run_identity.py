"""What tells one search from another: the header of its journal."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import torch

from wenable.core.cost_parts import CostParts
from wenable.core.cost_table import CostTable
from wenable.modules.batch_parts import examples_of, inputs_alone
from wenable.modules.fingerprint import weights_fingerprint
from wenable.modules.outputs import named_leaves
from wenable.network.dynamic_network import DynamicNetwork


def run_identity(
    net: DynamicNetwork,
    splits: Mapping[str, Iterable[Any]],
    cost: Literal["macs"] | CostTable | CostParts,
    strategy: str,
    limit: float,
    metric: str = "",
) -> dict[str, Any]:
    """Return what tells one search from another.

    - `splits`: batches of any structure, by name; all of them are read once.
    - `limit`: what modes have to be better than; `metric`: what they are judged by, "" for top-1.
    """
    return {
        "weights": weights_fingerprint(net, with_norms=True),
        "space": net.space.to_json(),
        "method": net.conversion_method.to_json(),
        "calibrated": sorted(map(str, net.calibrated_modes)),
        "statistics": _of_statistics(net),
        "cost": cost if isinstance(cost, str) else cost.to_json(),
        "strategy": strategy,
        "threshold": limit,
        **({"metric": metric} if metric else {}),
        **{name: _identity(batches, net) for name, batches in splits.items()},
    }


def _of_statistics(net: DynamicNetwork) -> int:
    """Return a checksum of the statistics that modes were calibrated to before the search."""
    checksum = 0
    for mode in sorted(net.calibrated_modes, key=str):
        calibration = net.calibration(mode)
        kept = None if calibration is None else calibration.statistics
        for name, statistics in sorted((kept or {}).items()):
            checksum = zlib.crc32(f"{mode} {name}".encode(), checksum)
            for each in (statistics.mean, statistics.var):
                checksum = zlib.crc32(_content(each), checksum)
    return checksum


def _identity(batches: Iterable[Any], net: DynamicNetwork) -> dict[str, Any]:
    """Return the number of images in each batch, and a checksum over all that is in them."""
    sizes, checksum = list[int](), 0
    for batch in batches:
        sizes.append(examples_of(inputs_alone(batch, net)))
        for name, value in named_leaves(batch):
            # Places in a list go without saying; names tell an input from another.
            named = "" if name.replace(".", "").isdigit() else name
            checksum = zlib.crc32(_content(value), zlib.crc32(named.encode(), checksum))
    return {"images": sum(sizes), "batches": sizes, "crc32": checksum}


def _content(value: Any) -> bytes:
    """Return the bytes of a tensor or array; of a plain value those of its text."""
    if isinstance(value, torch.Tensor | np.ndarray):
        values = torch.as_tensor(value).detach().cpu().contiguous().flatten()
        return values.view(torch.uint8).numpy().tobytes()
    return repr(value).encode()
