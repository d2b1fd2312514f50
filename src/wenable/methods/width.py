"""Flexible width: one global multiplier on the channels (slimmable and universally slimmable)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

from torch import nn

from wenable.core.setting_types import as_tuple
from wenable.core.space import Knob, Space
from wenable.graph import LayerCall, TracedGraph
from wenable.graph.narrowed import Counts, NarrowedLayer, Narrowing, counts_of
from wenable.graph.narrowing import narrow
from wenable.layers.slimmable import (
    LayerWidth,
    SlimmableConv1d,
    SlimmableConv2d,
    SlimmableConv3d,
    SlimmableLinear,
    SlimmablePadding,
)
from wenable.layers.slimmable_transposed import (
    SlimmableConvTranspose1d,
    SlimmableConvTranspose2d,
    SlimmableConvTranspose3d,
)
from wenable.methods.norms import known_norms, slimmable_norm
from wenable.methods.own_parts import own_parts
from wenable.methods.plan import KnobTarget, LeftAlone, Method, Plan, SwitchableLayer
from wenable.methods.remaining import kind_of, parametrization, remaining

KNOB = "width"
_FINEST_STEP = 0.001
_CONVOLUTIONS: Mapping[type[nn.Module], Any] = {
    nn.Conv1d: SlimmableConv1d,
    nn.Conv2d: SlimmableConv2d,
    nn.Conv3d: SlimmableConv3d,
    nn.ConvTranspose1d: SlimmableConvTranspose1d,
    nn.ConvTranspose2d: SlimmableConvTranspose2d,
    nn.ConvTranspose3d: SlimmableConvTranspose3d,
}
_KNOWN = "plain torch.nn.Conv1d to Conv3d, ConvTranspose1d to ConvTranspose3d or Linear"


def active_channels(channels: int, width: float, divisor: int) -> int:
    """Return how many of `channels` are enabled at a width multiplier, at most all of them.

    The nearest multiple of `divisor`, at least one, and the next larger one where that would be more
    than 10 % below the product.

    >>> active_channels(64, 0.25, 8), active_channels(24, 0.4, 8), active_channels(20, 1.0, 8)
    (16, 16, 20)

    Source: the rounding of MobileNet-V2 and of US-Nets.
    """
    if width >= 1:
        return channels
    wanted = round(channels * width, 6)  # 0.35 * 40 is 14, and a little more in floating point
    rounded = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
    if rounded < 0.9 * wanted:
        rounded += divisor
    return min(rounded, channels)


@dataclass(frozen=True)
class Slimmable:
    """Let a network run at a few widths, with a batch norm of its own for each (SNN, S-BN).

    There is one knob, `width`. Its options are written as multipliers, `"0.75"`; option n is the
    n-th width from the widest. A layer of C channels runs with its first `active_channels(C, width,
    divisor)`, so that the widths nest. Behind a concatenation it reads the first of each part. The
    network's inputs and outputs keep all their channels.

    - `widths`: the multipliers, from 1.0 down. Widths at which every layer has the same channels
      are one.
    - `divisor`: channels are rounded to multiples of it.

    Raises `ValueError` for other widths or divisors; and when it meets a network, where channels are
    split, mixed or counted otherwise, with the module that does it.

    Source: Yu et al., Slimmable Neural Networks (ICLR 2019).

    >>> Slimmable(widths=(1.0, 0.5)).widths
    (1.0, 0.5)
    """

    fits_bundle: ClassVar[bool] = True

    widths: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    divisor: int = 8

    def __post_init__(self) -> None:
        try:
            widths = tuple(map(float, as_tuple("widths", self.widths, "(1.0, 0.5)")))
        except (TypeError, ValueError):
            raise ValueError(
                f"`widths` (={self.widths!r:.100}) must be a sequence of numbers, as (1.0, 0.5)"
            ) from None
        object.__setattr__(self, "widths", widths)
        descending = list(self.widths) == sorted(set(self.widths), reverse=True)
        if not descending or self.widths[:1] != (1.0,) or not self.widths[-1] > 0:
            raise ValueError(
                f"`widths` (={self.widths}) must start at 1.0, the full width, and descend, each once"
                " and above 0"
            )
        _check_divisor(self.divisor)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {"method": "slimmable", "widths": list(self.widths), "divisor": self.divisor}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Slimmable:
        """Return the method written by `to_json`; raises `ValueError` where it is not one."""
        if values.get("method") != "slimmable":
            raise ValueError(f"`method` (={values.get('method')!r}) is not 'slimmable'")
        try:
            return cls(tuple(float(width) for width in values["widths"]), values["divisor"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"`values` is not the JSON form of the method: {error}") from error

    def plan(self, model: nn.Module, graph: TracedGraph) -> Plan:
        """Return the widths of a traced network.

        Raises `ValueError` where it cannot run narrower, and for a batch norm of a class that is
        not known.
        """
        return _plan(self, self.widths, self.divisor, private_norms=True, model=model, graph=graph)


@dataclass(frozen=True)
class UniversallySlimmable:
    """Let a network run at any width, with one affine for each norm (US-Nets).

    As `Slimmable`, with widths from 1.0 down to `lowest` in steps of `step`. The statistics of a width
    come from calibration. `train` follows the sandwich rule (the full width, the smallest and random
    ones); for in-place distillation say `TrainConfig(distillation=True)`.

    - `lowest`: the narrowest width, above 0 and below 1. `step`: between two widths, at least 0.001.
    - `divisor`: channels are rounded to multiples of it. Widths at which every layer has the same
      channels are one.

    Raises `ValueError` for settings outside these; and when it meets a network as `Slimmable` does.

    Source: Yu and Huang, Universally Slimmable Networks and Improved Training Techniques (ICCV 2019).

    >>> UniversallySlimmable(lowest=0.5, step=0.25).widths
    (1.0, 0.75, 0.5)
    """

    fits_bundle: ClassVar[bool] = True

    lowest: float = 0.25
    step: float = 0.025
    divisor: int = 8

    def __post_init__(self) -> None:
        for name in ("lowest", "step"):
            if not isinstance(getattr(self, name), Real):
                raise ValueError(f"`{name}` (={getattr(self, name)!r:.100}) must be a number")
        if not 0 < self.lowest < 1:
            raise ValueError(f"`lowest` (={self.lowest}) must be above 0 and below 1")
        if not _FINEST_STEP <= self.step <= 1 - self.lowest + 1e-9:
            raise ValueError(
                f"`step` (={self.step}) must be at least {_FINEST_STEP} and at most 1 - `lowest`"
                f" (={1 - self.lowest:g})"
            )
        _check_divisor(self.divisor)

    @property
    def widths(self) -> tuple[float, ...]:
        """The multipliers, from 1.0 down; the last is `lowest`, however far it is from the others."""
        count = int(round((1 - self.lowest) / self.step, 6))
        evenly = [round(1 - i * self.step, 6) for i in range(count + 1)]
        last = [self.lowest] if evenly[-1] - self.lowest > 1e-6 else []
        return (*evenly, *last)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {
            "method": "universally-slimmable",
            "lowest": self.lowest,
            "step": self.step,
            "divisor": self.divisor,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> UniversallySlimmable:
        """Return the method written by `to_json`; raises `ValueError` where it is not one."""
        if values.get("method") != "universally-slimmable":
            raise ValueError(f"`method` (={values.get('method')!r}) is not 'universally-slimmable'")
        try:
            return cls(float(values["lowest"]), float(values["step"]), values["divisor"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"`values` is not the JSON form of the method: {error}") from error

    def plan(self, model: nn.Module, graph: TracedGraph) -> Plan:
        """Return the widths of a traced network.

        Raises `ValueError` where it cannot run narrower, and for a batch norm of a class that is
        not known.
        """
        return _plan(self, self.widths, self.divisor, private_norms=False, model=model, graph=graph)


def _check_divisor(divisor: int) -> None:
    if type(divisor) is not int or divisor < 1:
        raise ValueError(f"`divisor` (={divisor!r}) must be a whole number above 0")


# --- the plan -------------------------------------------------------------------------------------


def _plan(
    method: Method,
    widths: tuple[float, ...],
    divisor: int,
    *,
    private_norms: bool,
    model: nn.Module,
    graph: TracedGraph,
) -> Plan:
    norms = known_norms(model, graph)
    rigid = _rigid_layers(model, graph)
    widths = _different(widths, divisor, graph, rigid)
    narrowing = _narrow(widths, divisor, graph, rigid)
    knob = Knob(
        KNOB, tuple(range(1, len(widths) + 1)), labels=tuple(f"{width:g}" for width in widths)
    )
    replacements: dict[str, nn.Module] = {}
    described: list[SwitchableLayer] = []
    left_alone: list[LeftAlone] = []
    for name, narrowed in narrowing.layers.items():
        layer = model.get_submodule(name)
        macs = _macs(name, narrowed, layer, graph)
        if len({*narrowed.inputs}) == len({*narrowed.outputs}) == 1:
            reason = rigid.get(name, "reads and writes all its channels at every width")
            if name in narrowing.kept:
                reason = f"keeps its channels, since {narrowing.kept[name]}"
            left_alone.append(LeftAlone(name, kind_of(layer), macs[0], reason))
            continue
        replacements[name] = _slimmable(name, layer, knob, narrowed)
        described.append(_describe(name, layer, knob, narrowed, macs))
    for name, norm in norms.items():
        kept = narrowing.norms.get(name, (norm.num_features,) * len(widths))
        counts = counts_of(kept)
        features = dict(zip(knob.options, kept, strict=True))
        replacements[name] = slimmable_norm(norm, features, private_norms, name)
        if norm.affine and counts[0] != counts[-1]:
            described.append(_describe_norm(name, norm, knob, counts))
    for name, padding in narrowing.paddings.items():
        pairs = zip(padding.before, padding.behind, strict=True)
        cuts = dict(zip(knob.options, pairs, strict=True))
        module = model.get_submodule(name)
        if module.state_dict():
            raise ValueError(
                f"{name!r} cannot run narrower: it pads channels by number, beside weights of its own;"
                " put the padding into a module without weights"
            )
        replacements[name] = SlimmablePadding(module, cuts, padding.axis)
    return Plan(
        space=Space((knob,)),
        replacements=replacements,
        followers={KNOB: tuple(map(KnobTarget, replacements))},
        layers=tuple(described),
        left_alone=(*left_alone, *remaining(model, graph, narrowing.layers, _KNOWN)),
        method=method,
        written=narrowing.ends,
    )


def _narrow(
    widths: tuple[float, ...], divisor: int, graph: TracedGraph, rigid: Mapping[str, str]
) -> Narrowing:
    def active(channels: int) -> Counts:
        return tuple(active_channels(channels, width, divisor) for width in widths)

    return narrow(graph, active, rigid)


def _different(
    widths: tuple[float, ...], divisor: int, graph: TracedGraph, rigid: Mapping[str, str]
) -> tuple[float, ...]:
    """Return the widths without those that change no layer from the one before."""
    columns = _channels(widths, divisor, graph, rigid)
    found = [w for i, w in enumerate(widths) if i == 0 or columns[i] != columns[i - 1]]
    if len(found) < 2:
        raise ValueError(
            f"the network has nothing to switch: {_why_none(widths, divisor, graph, rigid)}"
        )
    return tuple(found)


def _channels(
    widths: tuple[float, ...], divisor: int, graph: TracedGraph, rigid: Mapping[str, str]
) -> list[Counts]:
    """Return what every layer reads and writes, for each width."""
    narrowing = _narrow(widths, divisor, graph, rigid)
    rows = [each.inputs for each in narrowing.layers.values()]
    rows += [each.outputs for each in narrowing.layers.values()]
    return list(zip(*rows, strict=True)) or [()] * len(widths)


def _why_none(
    widths: tuple[float, ...], divisor: int, graph: TracedGraph, rigid: Mapping[str, str]
) -> str:
    """Return why no layer has fewer channels at any width."""
    if not graph.layers:
        return "it has no convolution and no dense layer that is used as one"
    if len({*_channels(widths, 1, graph, rigid)}) > 1:
        return (
            f"at every width of {widths}, rounded to multiples of `divisor` (={divisor}), all its layers"
            " keep their channels; allowed: a smaller `divisor`"
        )
    if not rigid:
        return "its layers only read the network's input or write its output, which keep their channels"
    name, reason = next(iter(rigid.items()))
    more = f" (and {len(rigid) - 1} layers more are alike)" if len(rigid) > 1 else ""
    return f"{name!r} keeps its channels, since {reason}{more}"


def _rigid_layers(model: nn.Module, graph: TracedGraph) -> dict[str, str]:
    """Return the layers that cannot run with their first channels only, and why."""
    owners: dict[int, set[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(name)
    shared = {name for names in owners.values() if len(names) > 1 for name in names}
    rigid = {}
    for call in graph.layers:
        reason = _rigidity(model.get_submodule(call.module), call, graph, shared)
        if reason:
            rigid[call.module] = reason
    return rigid


def _rigidity(layer: nn.Module, call: LayerCall, graph: TracedGraph, shared: set[str]) -> str:
    if parametrization(layer):
        return f"it {parametrization(layer)}"
    if type(layer) is not nn.Linear and type(layer) not in _CONVOLUTIONS:
        return f"it is a {type(layer).__name__}, not a {_KNOWN}"
    if call.module in graph.computed_weights:
        return "its weight is computed before its use, or used in another way besides"
    if not call.direct:
        return "its weight is used by another module, past its own forward"
    if call.module in shared:
        return "it shares its weight with another layer"
    if own_parts(layer):
        return f"it {own_parts(layer)}"
    return ""


def _slimmable(name: str, layer: nn.Module, knob: Knob, narrowed: NarrowedLayer) -> nn.Module:
    sizes = zip(
        narrowed.inputs, narrowed.outputs, narrowed.groups, narrowed.read, narrowed.written,
        strict=True,
    )  # fmt: skip
    widths = {n: LayerWidth(*each) for n, each in zip(knob.options, sizes, strict=True)}
    if isinstance(layer, nn.Linear):
        return SlimmableLinear(layer, knob, widths, name)
    return _CONVOLUTIONS[type(layer)](layer, knob, widths, name)


def _weights(layer: nn.Module, narrowed: NarrowedLayer) -> Counts:
    """Return how many weights a layer has at each width, without the bias."""
    kernel = math.prod(layer.get_parameter("weight").shape[2:])
    sizes = zip(narrowed.inputs, narrowed.outputs, narrowed.groups, strict=True)
    return tuple(ci // groups * co * kernel for ci, co, groups in sizes)


def _macs(name: str, narrowed: NarrowedLayer, layer: nn.Module, graph: TracedGraph) -> Counts:
    """Return the multiply-accumulates for one example at each width, of all calls of a layer."""
    weights = _weights(layer, narrowed)
    return tuple(each * graph.macs(name) // weights[0] for each in weights)


def _describe(
    name: str, layer: nn.Module, knob: Knob, narrowed: NarrowedLayer, macs: Counts
) -> SwitchableLayer:
    bias = narrowed.outputs if getattr(layer, "bias", None) is not None else (0,) * len(macs)
    weights = tuple(a + b for a, b in zip(_weights(layer, narrowed), bias, strict=True))
    return SwitchableLayer(
        name=name,
        knob=knob.name,
        kind=kind_of(layer),
        options=knob.options,
        inputs=narrowed.inputs[0],
        outputs=narrowed.outputs[0],
        macs=macs[0],
        weights=weights[0],
        shuffle=None,
        macs_by_option=macs,
        weights_by_option=weights,
    )


def _describe_norm(
    name: str, norm: nn.modules.batchnorm._BatchNorm, knob: Knob, counts: Counts
) -> SwitchableLayer:
    weights = tuple(2 * count for count in counts)
    return SwitchableLayer(
        name=name,
        knob=knob.name,
        kind=type(norm).__name__,
        options=knob.options,
        inputs=counts[0],
        outputs=counts[0],
        macs=0,
        weights=weights[0],
        shuffle=None,
        macs_by_option=(0,) * len(counts),
        weights_by_option=weights,
    )
