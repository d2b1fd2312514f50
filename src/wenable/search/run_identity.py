"""What tells one search from another: the header of its journal."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch

from wenable.core.cost_table import CostTable
from wenable.modules.fingerprint import weights_fingerprint
from wenable.network.dynamic_network import DynamicNetwork


def run_identity(
    net: DynamicNetwork,
    splits: Mapping[str, Iterable[Any]],
    cost: Literal["macs"] | CostTable,
    strategy: str,
    min_accuracy: float,
) -> dict[str, Any]:
    """Return what tells one search from another."""
    return {
        "weights": weights_fingerprint(net, with_norms=True),
        "space": net.space.to_json(),
        "calibrated": sorted(map(str, net.calibrated_modes)),
        "cost": cost if isinstance(cost, str) else cost.to_json(),
        "strategy": strategy,
        "threshold": min_accuracy,
        **{name: _identity(batches) for name, batches in splits.items()},
    }


def _identity(batches: Iterable[Any]) -> dict[str, Any]:
    """Return the number of images in each batch, and a checksum over all that is in them."""
    sizes, checksum = list[int](), 0
    for batch in batches:
        parts = batch if isinstance(batch, list | tuple) else [batch]
        sizes.append(len(parts[0][0] if isinstance(parts[0], tuple | list) else parts[0]))
        for part in parts:
            for tensor in part if isinstance(part, tuple | list) else (part,):
                values = torch.as_tensor(tensor).detach().cpu().contiguous().flatten()
                checksum = zlib.crc32(values.view(torch.uint8).numpy().data, checksum)
    return {"images": sum(sizes), "batches": sizes, "crc32": checksum}
