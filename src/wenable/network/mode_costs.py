"""What a mode costs that can be counted without running it, as tables: its MACs, its weights."""

from __future__ import annotations

from wenable.core.cost_table import CostTable, tabulated
from wenable.core.space import Mode
from wenable.network.dynamic_network import DynamicNetwork


def macs_table(net: DynamicNetwork) -> CostTable:
    """Return the multiply-accumulates of any mode for one example."""
    return tabulated(net.space, net.macs, "MACs", "counted")


def weights_table(net: DynamicNetwork) -> CostTable:
    """Return the memory in KiB that the parameters of any mode take, those of its plain network.

    What a pass keeps besides, activations and the engine's own copies, is not in it.

    >>> import torch
    >>> import wenable as we
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 8))
    >>> net = we.convert(model, torch.ones(1, 64), method=we.WeightEnabling((1, 2)))
    >>> table = weights_table(net)
    >>> table.unit, table.cost("full"), 4 * net.parameter_count("full") / 1024
    ('KiB', 18.28125, 18.28125)
    """
    size = next(net.parameters()).element_size()

    def kib(mode: Mode) -> float:
        return size * net.parameter_count(mode) / 1024

    return tabulated(net.space, kib, "KiB", "parameters, counted")
