"""What a mode costs that can be counted without running it, as tables: its MACs, its weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

from wenable.core.cost_parts import CostParts
from wenable.core.cost_table import BIT_OPERATIONS, CostTable, tabulated
from wenable.core.space import Knob, Mode
from wenable.network.dynamic_network import DynamicNetwork


def macs_parts(net: DynamicNetwork) -> CostParts:
    """Return the multiply-accumulates of any mode for one example, by one table or one for each part.

    >>> import torch
    >>> import wenable as we
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3), torch.nn.Conv2d(4, 4, 3))
    >>> method = [we.WeightEnabling((1, 2), classifier=True), we.ImageSize((8, 6))]
    >>> net = we.convert(model, torch.ones(1, 4, 8, 8), method=method)
    >>> macs = macs_parts(net)
    >>> len(macs.tables), macs.cost("1/2,size=6") == net.macs("1/2,size=6")
    (2, True)
    """
    return CostParts(net.space, tables_of_each(net, "macs"))


def macs_table(net: DynamicNetwork) -> CostTable:
    """Return the multiply-accumulates of any mode for one example.

    Raises `ValueError` if they are no sum over knobs; `macs_parts` has a table for each part then.
    """
    several = knobs_of_products(net, "macs")
    if several:
        raise ValueError(
            f"MACs are no sum over the knobs of this network: what a layer costs depends on"
            f" {_names(several)} too; `macs_parts` has a table for each option"
        )
    return tabulated(net.space, net.macs, "MACs", "counted")


def knobs_of_products(
    net: DynamicNetwork, cost: Literal["macs", "bit_operations"]
) -> tuple[Knob, ...]:
    """Return the knobs that change what the options of others cost: with them costs are no sum.

    The size of images is one, an exit beside groups, and for bit operations the precision of the
    network beside groups or a width. Where each layer has a precision of its own, no table holds bit
    operations.

    >>> import torch
    >>> import wenable as we
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3), torch.nn.Conv2d(4, 4, 3))
    >>> method = [we.WeightEnabling((1, 2), classifier=True), we.ImageSize((8, 6))]
    >>> net = we.convert(model, torch.ones(1, 4, 8, 8), method=method)
    >>> [knob.name for knob in knobs_of_products(net, "macs")]
    ['size']
    """
    layers, size = net.switchable_layers, net._wenable.plan.size_knob
    found = {layer.exit_knob for layer in layers}
    if cost == "bit_operations":
        found |= {layer.precision_knob for layer in layers}
    if size is not None and len(net.space.knobs) > 1:
        found.add(size)
    return tuple(knob for knob in net.space.knobs if knob.name in found)


def tables_of_each(
    net: DynamicNetwork, cost: Literal["macs", "bit_operations"]
) -> tuple[CostTable, ...]:
    """Return the tables of a counted cost: one for each combination of `knobs_of_products`.

    Each is of the part of the space (`Space.fixed`) where these knobs have one option; where costs are
    sums there is one, of the whole space. The combination of full options comes first. Empty if in the
    parts costs are no sums either, as bit operations are if each layer has a precision of its own.
    """
    several = knobs_of_products(net, cost)
    precisions = {layer.precision_knob for layer in net.switchable_layers} - {""}
    if cost == "bit_operations" and len(precisions) > 1:
        return ()
    count = net.macs if cost == "macs" else net.bit_operations
    unit = "MACs" if cost == "macs" else BIT_OPERATIONS
    tables = []
    for options in itertools.product(*(knob.options for knob in several)):
        part = net.space.fixed({k.name: n for k, n in zip(several, options, strict=True)})
        tables.append(
            tabulated(part, lambda mode: count(net.space.mode(dict(mode))), unit, "counted")
        )
    return tuple(tables)


def _names(knobs: Sequence[Knob]) -> str:
    return " and ".join(repr(knob.name) for knob in knobs)


def weights_parts(net: DynamicNetwork) -> CostParts:
    """Return the memory in KiB that the parameters of any mode take, by one table or one for each exit.

    Those are the parameters of its plain network; what a pass keeps besides, activations and the engine's
    own copies, is not in it. The size of images changes nothing, and beside groups an exit does: layers
    behind it are not held.

    >>> import torch
    >>> import wenable as we
    >>> layers = [torch.nn.Conv2d(4, 4, 3), torch.nn.Conv2d(4, 4, 3), torch.nn.Conv2d(4, 4, 3)]
    >>> head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2)]
    >>> method = [we.WeightEnabling((1, 2), only="[12]"), we.EarlyExits(("0",))]
    >>> net = we.convert(torch.nn.Sequential(*layers, *head), torch.ones(1, 4, 8, 8), method=method)
    >>> weights = weights_parts(net)
    >>> len(weights.tables), weights.cost("1/2,exit=0") == 4 * net.parameter_count("1/2,exit=0") / 1024
    (2, True)
    """
    exits = {layer.exit_knob for layer in net.switchable_layers} - {""}
    several = [knob for knob in net.space.knobs if knob.name in exits]
    tables = []
    for options in itertools.product(*(knob.options for knob in several)):
        part = net.space.fixed({k.name: n for k, n in zip(several, options, strict=True)})
        tables.append(tabulated(part, _kib_of(net), "KiB", "parameters, counted"))
    return CostParts(net.space, tuple(tables))


def _kib_of(net: DynamicNetwork) -> Callable[[Mode], float]:
    size = next(net.parameters()).element_size()
    return lambda mode: size * net.parameter_count(net.space.mode(dict(mode))) / 1024
