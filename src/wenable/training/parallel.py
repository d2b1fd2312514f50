"""One network trained by several processes."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from wenable.modules.passes import device_of
from wenable.modules.processes import several_processes, sum_over_processes, world_size
from wenable.network.dynamic_network import DynamicNetwork


def in_parallel(net: DynamicNetwork) -> DistributedDataParallel | None:
    """Return the network wrapped for several processes, or None where there is one.

    A pass uses the norms of its own options only, and the last pass exchanges the gradients of all:
    so parameters that it did not use have to be looked for, which `find_unused_parameters` does.
    Buffers are not sent about in every pass; `agree_on_statistics` does it once.
    """
    if not several_processes():
        return None
    device = device_of(net)
    # The older name is deprecated in newer releases of torch, which older ones do not know.
    known = inspect.signature(DistributedDataParallel).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    settings: dict[str, Any] = {buffers: False, "find_unused_parameters": True}
    if device.type == "cuda":
        settings["device_ids"] = [device]
    return DistributedDataParallel(net, **settings)


@torch.no_grad()
def agree_on_statistics(net: DynamicNetwork) -> None:
    """Give all processes the mean of their norms' running averages."""
    if not several_processes():
        return
    for name, buffer in net.named_buffers():
        if name.endswith(("running_mean", "running_var", "running_bounds")):
            buffer.copy_(sum_over_processes(buffer) / world_size())
