"""Keeps counts true where layers of a converted network are replaced: notices it, and counts again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from wenable.graph import TracedGraph
from wenable.methods.plan import LeftAlone, Plan, SwitchableLayer
from wenable.methods.remaining import kind_of

Structure = tuple[tuple[nn.Module, tuple[Any, ...], tuple[Any, ...]], ...]


def structure_of(net: nn.Module) -> Structure:
    """Return what a network is made of: every module, its children, and the sizes of its weights."""
    return tuple(
        (
            module,
            tuple(module._modules.items()),
            tuple(each if each is None else each.shape for each in module._parameters.values()),
        )
        for module in net.modules()
    )


@dataclass(frozen=True)
class Counts:
    """What a network costs at one size of its inputs.

    - `layers`, `left_alone`: as in a `Plan`, with the figures of this size.
    - `fixed_macs`: what no knob changes.
    - `macs_besides_layers`: module -> what it multiplies besides layers, attention's products, say.
    """

    layers: tuple[SwitchableLayer, ...]
    left_alone: tuple[LeftAlone, ...]
    fixed_macs: int
    macs_besides_layers: Mapping[str, int]


def counted(plan: Plan, graph: TracedGraph, whole: int) -> Counts:
    """Return the counts of a network as it was traced: those of its plan.

    - `whole`: the multiply-accumulates of one example.
    """
    fixed = whole - sum(layer.macs for layer in plan.layers)
    return Counts(plan.layers, plan.left_alone, fixed, graph.macs_besides_layers())


def recount(net: nn.Module, before: Structure, plan: Plan, graph: TracedGraph) -> Counts:
    """Return the counts of a network at another size, or with layers replaced, added or taken out.

    - `before`: its structure when `plan` was made; `graph`: its trace now, with every knob of its
      layers at the full option.

    Raises `ValueError` if a layer with a knob is no longer the one that the knob sets.
    """
    _check_switched(net, before, plan)
    layers = tuple(_of_switched(layer, graph) for layer in plan.layers)
    full = sum(product.macs for product in graph.products) // graph.examples
    fixed = full - sum(layer.macs for layer in layers)
    return Counts(layers, _left_alone(net, before, plan, graph), fixed, graph.macs_besides_layers())


def more_weights(before: Structure, after: Structure) -> int:
    """Return how many weights a network has more than it had."""
    return _weights(after) - _weights(before)


def replaced_said(name: str) -> str:
    """Return what is said of a module with a knob that is no longer the one that the knob sets."""
    return (
        f"{name!r} was replaced after `convert`, and the knob that set it sets nothing that"
        " runs; replace it in the network before `convert`"
    )


def _check_switched(net: nn.Module, before: Structure, plan: Plan) -> None:
    """Raise `ValueError` if a module with a knob is no longer the one that the knob sets."""
    known = {id(module) for module, _, _ in before}
    modules = dict(net.named_modules())
    names = {*plan.replacements, *(layer.name for layer in plan.layers if layer.weights)}
    for name in sorted(names):
        own = plan.replacements.get(name)
        found = modules.get(name)
        if found is None and name not in plan.replacements:
            continue  # the branch of an exit is no module
        if found is None or id(found) not in known or (own is not None and found is not own):
            raise ValueError(replaced_said(name))


def _of_switched(layer: SwitchableLayer, graph: TracedGraph) -> SwitchableLayer:
    macs = graph.macs(layer.name)
    if macs == layer.macs:
        return layer
    if not macs or not layer.macs:
        raise ValueError(
            f"the network was changed after `convert`, and what {layer.name!r} costs in each mode can"
            " no longer be told; change the network before `convert`"
        )
    by_pattern = tuple(each * macs // layer.macs for each in layer.macs_by_option)
    return replace(layer, macs=macs, macs_by_option=by_pattern)


def _left_alone(
    net: nn.Module, before: Structure, plan: Plan, graph: TracedGraph
) -> tuple[LeftAlone, ...]:
    """Return what does not switch: what stayed with its reason, and what came with its own."""
    known = {id(module) for module, _, _ in before}
    modules = dict(net.named_modules())
    kept = {
        each.name: replace(each, macs=graph.macs(each.name))
        for each in plan.left_alone
        if each.name not in modules or id(modules[each.name]) in known
    }
    kept = {name: each for name, each in kept.items() if name in modules or each.macs}
    switched = {layer.name for layer in plan.layers}
    for product in graph.products:
        name = product.owner
        if name and name not in switched and name not in kept:
            module = modules.get(name, net)
            kept[name] = LeftAlone(
                name, kind_of(module), graph.macs(name), "was put in after `convert`"
            )
    return tuple(kept.values())


def _weights(structure: Structure) -> int:
    shapes = (shape for _, _, own in structure for shape in own if shape is not None)
    return sum(torch.Size(shape).numel() for shape in shapes)
