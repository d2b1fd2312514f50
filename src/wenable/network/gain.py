"""What `convert` warns of: a network of which little switches, and norms that it had to unfreeze."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from torch import nn

from wenable.graph import TracedGraph
from wenable.layers.frozen_norm import SwitchableFrozenBatchNorm2d
from wenable.methods.plan import LeftAlone, Plan
from wenable.network.recounting import Counts

_LEAST_SHARE = 0.25
"""Of the multiply-accumulates, below which modes can gain next to nothing."""
_CHOSEN = ("is among `exclude`",)
"""The reasons of layers that whoever converts left alone by choice."""
_PRODUCTS = "are products of activations, as those of attention, or with parameters of no layer"


class ConversionWarning(UserWarning):
    """A network was converted, and something about the result is worth knowing."""


def warn_of_conversion(model: nn.Module, plan: Plan, counts: Counts) -> None:
    """Warn where little of a network switches, and where norms have more statistics than before.

    - `model`: as it was given.
    """
    text = little_to_gain(plan, counts)
    if text:
        warnings.warn(f"{_named(model)}: {text}", ConversionWarning, stacklevel=3)
    norms = [
        name
        for name, each in plan.replacements.items()
        if isinstance(each, SwitchableFrozenBatchNorm2d)
    ]
    if norms:
        warnings.warn(
            f"{_named(model)}: {len(norms)} frozen batch norms ({norms[0]!r} first) keep their constants"
            " at option 1 only; at every other option of their layer they have statistics and an affine"
            " of their own, which train and are calibrated",
            ConversionWarning,
            stacklevel=3,
        )


def warn_of_strangers(model: nn.Module, graph: TracedGraph) -> None:
    """Warn where a pass reads weights that are not among the network's own.

    A layer in a function, a closure or a plain list is none of its modules: it is not switched, trained
    or saved with it, and a copy may go on with the layer of the original.
    """
    found = [
        weight
        for node in graph.operations.nodes
        if node.op == "get_attr" and node.graph.owning_module is not None
        for weight in [getattr(node.graph.owning_module, str(node.target), None)]
        if isinstance(weight, nn.Parameter)
    ]
    if found:
        shape = tuple(found[0].shape)
        warnings.warn(
            f"{_named(model)}: its forward reads {len(found)} weights (the first of shape {shape}) that are"
            " not among its parameters, as of a layer in a function or a plain list: they are neither"
            " switched nor trained nor saved with it. Make the layer an attribute of its module",
            ConversionWarning,
            stacklevel=3,
        )


def little_to_gain(plan: Plan, counts: Counts) -> str:
    """Return that few of the multiply-accumulates switch, and what holds the others; or nothing.

    Layers that were left alone by `exclude` are not counted, and whoever says by `only` what is to
    switch knows what is not. If the size of the images switches, all does. Nothing is to switch in a
    static network.
    """
    told = getattr(plan.method, "only", None) is not None or plan.space.size == 1
    if told or plan.size_knob is not None:
        return ""
    switched = sum(layer.macs for layer in counts.layers)
    chosen = sum(each.macs for each in counts.left_alone if each.reason in _CHOSEN)
    whole = switched + counts.fixed_macs - chosen
    if whole <= 0 or switched >= _LEAST_SHARE * whole:
        return ""
    names, reason, macs = _main_reason(counts)
    return (
        f"only {_percent(switched, whole)} of its multiply-accumulates switch, so its modes can gain"
        f" little; {_percent(macs, whole)} stay in {names}, since: {reason}"
    )


def _main_reason(counts: Counts) -> tuple[str, str, int]:
    """Return the layers that stay for the reason that holds most, that reason, and their MACs."""
    by_reason: dict[str, list[LeftAlone]] = {}
    for each in counts.left_alone:
        if each.reason not in _CHOSEN:
            by_reason.setdefault(each.reason, []).append(each)
    besides = sum(counts.macs_besides_layers.values())
    most = max(by_reason, key=lambda reason: _macs(by_reason[reason]), default="")
    if not most or besides > _macs(by_reason[most]):
        return "the network's own code", f"they {_PRODUCTS}", besides
    layers = sorted(by_reason[most], key=lambda each: -each.macs)
    more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
    return f"{layers[0].name!r}{more}", f"it {most}", _macs(layers)


def _macs(layers: Iterable[LeftAlone]) -> int:
    return sum(each.macs for each in layers)


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole
    return f"{share:.0f} %" if share >= 1 or not part else f"{share:.2g} %"


def _named(model: nn.Module) -> str:
    return f"`model` (={type(model).__name__})"
