"""Plans of several methods for one network, laid over each other: one plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from wenable.core.space import Knob, Space
from wenable.graph import TracedGraph
from wenable.layers.batch_norm import SwitchableBatchNorm
from wenable.layers.precision import (
    SwitchablePrecisionConv2d,
    SwitchablePrecisionLayer,
    SwitchablePrecisionLinear,
)
from wenable.layers.slimmable import SlimmableLayer
from wenable.layers.slimmable_with_precision import slimmable_with_precision
from wenable.layers.weight_enabled import WeightEnabled
from wenable.layers.weight_enabled_with_precision import with_precision
from wenable.methods.depth import read_by_width
from wenable.methods.plan import KnobTarget, LeftAlone, Method, Plan, SwitchableLayer

Plans = Mapping[str, Plan]
"""The plans for one network, by the kind of their method; norms are those of the first that has any."""


def laid_over(plans: Plans, graph: TracedGraph, method: Method) -> Plan:
    """Return one plan of several.

    - `plans`: with the kinds `groups`, `widths`, `precision`, `sizes` and `exits` in this order, as far
      as they are there; others before them.
    - `method`: whose plan it is.

    Raises `ValueError` if two plans set the same module, and no layer does both.
    """
    if "precision" in plans:
        plans = {**plans, "precision": _with_own_knobs(plans["precision"])}
    if "widths" in plans and "exits" in plans:
        plans = {**plans, "exits": read_by_width(plans["exits"], plans["widths"])}
    owners: dict[str, set[str]] = {}
    replacements: dict[str, nn.Module] = {}
    for kind, plan in plans.items():
        for name, module in plan.replacements.items():
            below = replacements.setdefault(name, module)
            owners.setdefault(name, {kind})
            if below is module or (
                isinstance(below, SwitchableBatchNorm) and isinstance(module, SwitchableBatchNorm)
            ):
                continue
            replacements[name] = _both(name, below, module, kind, owners[name])
            owners[name].add(kind)
    layers = _layers(plans, graph)
    finish = [each.finish_extraction for each in plans.values() if each.finish_extraction]
    sizes = [each.image_sizes for each in plans.values() if each.image_sizes]
    return Plan(
        space=Space(_knobs(plans, layers)),
        replacements=replacements,
        followers=_followers(plans, owners),
        layers=layers,
        left_alone=_left_alone(plans, layers),
        method=method,
        finish_extraction=finish[0] if finish else None,
        image_sizes=sizes[0] if sizes else None,
    )


def _with_own_knobs(plan: Plan) -> Plan:
    """Return a plan of precision whose knobs have names that are no layer's.

    So an option as "layer1.*" in a mode's text means groups, and no precision.
    """
    names = {
        name: name if name == "precision" else f"precision.{name}" for name in plan.space.names
    }
    knobs = {knob.name: replace(knob, name=names[knob.name]) for knob in plan.space.knobs}
    made = {
        layer.name: _rounding(plan.replacements[layer.name], knobs[layer.knob])
        for layer in plan.layers
    }
    return replace(
        plan,
        space=Space(tuple(knobs.values())),
        replacements={**plan.replacements, **made},
        followers={
            names[knob]: tuple(
                replace(each, setter="put_precision") if each.module in made else each
                for each in targets
            )
            for knob, targets in plan.followers.items()
        },
        layers=tuple(replace(layer, knob=names[layer.knob]) for layer in plan.layers),
    )


def _rounding(layer: nn.Module, knob: Knob) -> nn.Module:
    if isinstance(layer, SwitchablePrecisionConv2d):
        return SwitchablePrecisionConv2d(layer, knob)
    assert isinstance(layer, SwitchablePrecisionLinear)
    return SwitchablePrecisionLinear(layer, knob)


def _both(name: str, below: nn.Module, above: nn.Module, kind: str, owners: set[str]) -> nn.Module:
    """Return the module that two knobs set; refuses what no layer can do."""
    if isinstance(above, SwitchablePrecisionLayer):
        if isinstance(below, WeightEnabled):
            return with_precision(below, above.knob)
        if isinstance(below, SlimmableLayer):
            return slimmable_with_precision(below, above.knob)
    raise ValueError(
        f"{name!r} would be switched by {' and '.join(sorted(owners))} and by {kind} at once, which no"
        " layer can; exclude it in one of the methods, or put an exit at the block that holds it"
    )


def _followers(plans: Plans, owners: Mapping[str, set[str]]) -> dict[str, tuple[KnobTarget, ...]]:
    """Return what each knob sets: the modules of its own plan that are in the network."""
    followers: dict[str, tuple[KnobTarget, ...]] = {}
    for kind, plan in plans.items():
        for knob, targets in plan.followers.items():
            own = (each for each in targets if kind in owners.get(each.module, {kind}))
            followers[knob] = (*followers.get(knob, ()), *own)
    return followers


def _layers(plans: Plans, graph: TracedGraph) -> tuple[SwitchableLayer, ...]:
    """Return all layers that switch, in execution order, each with the knobs that set it."""
    found: dict[str, SwitchableLayer] = {}
    for kind, plan in plans.items():
        for layer in plan.layers:
            below = found.get(layer.name)
            found[layer.name] = layer if below is None else _merged(below, layer, kind)
    order = dict.fromkeys((*(call.module for call in graph.layers), *found))
    return tuple(found[name] for name in order if name in found)


def _merged(below: SwitchableLayer, above: SwitchableLayer, kind: str) -> SwitchableLayer:
    """Return a layer that two knobs set."""
    if kind == "precision":
        return replace(below, precision_knob=above.knob)
    assert kind == "exits"
    if below.bits_by_option:  # of precision alone: the exit says what runs, the other knob the bits
        return replace(above, precision_knob=below.knob)
    besides = above.weights - below.weights  # its bias, which an exit leaves out too
    return replace(
        below,
        weights=above.weights,
        weights_by_option=tuple(below.weights_at(n) + besides for n in below.options),
        exit_knob=above.knob,
        runs_until=max(n for n in above.options if above.weights_at(n)),
    )


def _knobs(plans: Plans, layers: tuple[SwitchableLayer, ...]) -> tuple[Knob, ...]:
    """Return all knobs: those of the whole network first, the others as their layers run.

    Of one layer the precision first: that of the network acts from its first layer on.
    """
    every = {knob.name: knob for plan in plans.values() for knob in plan.space.knobs}
    if set(plans) - {"sizes", "exits"} and "exits" in plans:
        # "8-bit" or "1/4" is no exit: beside other knobs one is written as an exception.
        every |= {knob.name: replace(knob, by_name=True) for knob in plans["exits"].space.knobs}
    if "widths" in plans and "precision" in plans:
        # The numbers of a width's options are places in a list: no number is meant for both.
        every |= {k.name: replace(k, by_name=True) for k in plans["precision"].space.knobs}
    whole = [
        knob.name
        for kind in ("sizes", "exits")
        if kind in plans
        for knob in plans[kind].space.knobs
    ]
    of_layers = [name for layer in layers for name in reversed(layer.knobs)]
    return tuple(every[name] for name in dict.fromkeys((*whole, *of_layers, *every)))


def _left_alone(plans: Plans, layers: tuple[SwitchableLayer, ...]) -> tuple[LeftAlone, ...]:
    """Return what no method switches, with the reason of the first that says one."""
    switched = {layer.name for layer in layers}
    if "exits" in plans:
        return ()  # an exit leaves out everything behind it
    first = next(iter(plans.values()))
    return tuple(each for each in first.left_alone if each.name not in switched)
