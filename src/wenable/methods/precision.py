"""Switchable precision (SP-Nets): one set of weights that runs at 32, 8, 4 or 2 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

from torch import nn

from wenable.core.setting_types import as_tuple
from wenable.core.space import Knob, Space
from wenable.graph import LayerCall, TracedGraph
from wenable.layers.precision import SwitchablePrecisionConv2d, SwitchablePrecisionLinear
from wenable.layers.quantization import FULL_BITS
from wenable.methods.norms import switchable_norms
from wenable.methods.own_parts import own_parts
from wenable.methods.plan import LeftAlone, Plan, SwitchableLayer
from wenable.methods.remaining import kind_of, parametrization, remaining, why

ALLOWED_BITS = (32, 16, 8, 4, 2)


@dataclass(frozen=True)
class SwitchablePrecision:
    """Make layers switchable between numbers of bits, with a batch norm for each.

    Modes are written by the bits that a layer's weight and input have: `8-bit`, `4-bit`, `2-bit`; the
    option of b bits is 32/b. The full mode, `32-bit`, is floating point and gives the bits of the
    original network.

    - `bits`: the precisions offered, from 32 down, out of 32, 16, 8, 4 and 2.
    - `tie`: `"network"`, one knob for all layers (SP-Nets); `"none"`, one for each.
    - `first_and_last`: whether the first layer in execution order and those that write the
      network's outputs switch too. They are few of the products and much of the accuracy, so most
      quantised networks keep them (Zhou et al., DoReFa-Net, 2016).
    - `exclude`: layers that stay in floating point: name patterns as `"layer4.*"`.

    The arithmetic is simulated: numbers lie on a grid of 2^bits values, and the products are taken in
    floating point, which is no faster. `wenable.exporting.int8.export_int8` writes the mode of 8 bits
    for an engine that multiplies 8-bit integers; no engine here multiplies fewer bits.

    Raises `ValueError` for other bits or an unknown `tie`; and when it meets a network, for a name
    option that fits none of its layers.

    >>> SwitchablePrecision(bits=(32, 8, 4)).options
    (1, 4, 8)

    Source: Guerra et al., Switchable Precision Neural Networks (2020, arXiv:2002.02815), with the
    grids of Jacob et al. (CVPR 2018) in the place of DoReFa's.
    """

    fits_bundle: ClassVar[bool] = True

    bits: tuple[int, ...] = (32, 8, 4, 2)
    tie: Literal["network", "none"] = "network"
    first_and_last: bool = False
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        one = isinstance(self.exclude, str)
        names = (self.exclude,) if one else as_tuple("exclude", self.exclude, "('stem',)")
        object.__setattr__(self, "bits", as_tuple("bits", self.bits, "(32, 8)"))
        object.__setattr__(self, "exclude", names)
        descending = sorted(set(self.bits), reverse=True)
        known = all(type(b) is int and b in ALLOWED_BITS for b in self.bits)
        if not known or list(self.bits) != descending or self.bits[:1] != (FULL_BITS,):
            raise ValueError(
                f"`bits` (={self.bits}) must start at 32, the full precision, and descend, each once;"
                f" allowed: {', '.join(map(str, ALLOWED_BITS))}"
            )
        if self.tie not in ("network", "none"):
            raise ValueError(f"`tie` (={self.tie!r}) is unknown; allowed: 'network', 'none'")

    @property
    def options(self) -> tuple[int, ...]:
        """The options of a knob: n for 32/n bits."""
        return tuple(FULL_BITS // bits for bits in self.bits)

    def knob(self, name: str) -> Knob:
        """Return a knob of the bits offered, which are written as `8-bit`."""
        return Knob(name, self.options, labels=tuple(f"{bits}-bit" for bits in self.bits))

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {
            "method": "precision",
            "bits": list(self.bits),
            "tie": self.tie,
            "first_and_last": self.first_and_last,
            "exclude": list(self.exclude),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SwitchablePrecision:
        """Return the method written by `to_json`; raises `ValueError` where it is not one."""
        if values.get("method") != "precision":
            raise ValueError(f"`method` (={values.get('method')!r}) is not 'precision'")
        try:
            return cls(
                bits=tuple(int(bits) for bits in values["bits"]),
                tie=values["tie"],
                first_and_last=bool(values["first_and_last"]),
                exclude=tuple(map(str, values["exclude"])),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"`values` is not the JSON form of the method: {error}") from error

    def plan(self, model: nn.Module, graph: TracedGraph) -> Plan:
        """Return which layers of a traced network switch, with their norms.

        Raises `ValueError` where no layer can be switched, for a batch norm of a class that is not
        known, and for a name pattern that fits no layer.
        """
        calls: dict[str, list[LayerCall]] = {}
        for call in graph.layers:
            calls.setdefault(call.module, []).append(call)
        others = remaining(model, graph, calls)
        _check_names(self.exclude, (*calls, *(each.name for each in others)))
        knobs: dict[str, Knob] = {}
        left_alone = []
        for name, own in calls.items():
            layer = model.get_submodule(name)
            reason = self._refusal(name, layer, own, graph)
            if reason:
                left_alone.append(LeftAlone(name, kind_of(layer), graph.macs(name), reason))
            else:
                knobs[name] = self.knob("precision" if self.tie == "network" else name)
        left_alone += others
        if not knobs:
            few = "; ".join(f"{each.name!r} {each.reason}" for each in left_alone[:3])
            raise ValueError(
                f"`model` (={type(model).__name__}) has nothing to switch"
                + (f": {few}" if few else ": nothing in it multiplies with a weight")
            )
        network_knob = next(iter(knobs.values())) if self.tie == "network" else None
        norms, followers = switchable_norms(model, graph, knobs, otherwise=network_knob)
        layers = {name: _switchable(model.get_submodule(name), knobs[name]) for name in knobs}
        return Plan(
            space=Space(tuple(dict.fromkeys(knobs.values()))),
            replacements={**layers, **norms},
            followers=followers,
            layers=tuple(
                _describe(name, layers[name], knob, graph.macs(name))
                for name, knob in knobs.items()
            ),
            left_alone=tuple(left_alone),
            method=self,
        )

    def _refusal(
        self, name: str, layer: nn.Module, calls: Sequence[LayerCall], graph: TracedGraph
    ) -> str:
        """Return why a layer stays in floating point, or an empty text."""
        plain = type(layer) in (nn.Conv2d, nn.Linear) and not parametrization(layer)
        if not plain or name in graph.computed_weights:
            return why(name, layer, graph)
        if not all(call.direct for call in calls):
            return "has its weight used by another module, past its own forward"
        if own_parts(layer):
            return own_parts(layer)
        if any(fnmatchcase(name, glob) for glob in self.exclude):
            return "is among `exclude`"
        if not self.first_and_last and name == graph.layers[0].module:
            return "is the first layer; `first_and_last=True` switches it"
        if not self.first_and_last and name in graph.classifiers:
            return "writes the network's output; `first_and_last=True` switches it"
        return ""


def _check_names(globs: tuple[str, ...], names: tuple[str, ...]) -> None:
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            few = ", ".join(map(repr, names[:4]))
            raise ValueError(
                f"`exclude` names {glob!r}, which fits no layer of the network; its {len(names)}"
                f" layers with weights are {few}, ..."
            )


def _switchable(layer: nn.Module, knob: Knob) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        return SwitchablePrecisionConv2d(layer, knob)
    assert isinstance(layer, nn.Linear)
    return SwitchablePrecisionLinear(layer, knob)


def _describe(name: str, layer: nn.Module, knob: Knob, macs: int) -> SwitchableLayer:
    weight = layer.get_parameter("weight")
    return SwitchableLayer(
        name=name,
        knob=knob.name,
        kind="convolution" if isinstance(layer, nn.Conv2d) else "dense",
        options=knob.options,
        inputs=weight.shape[1],
        outputs=weight.shape[0],
        macs=macs,
        weights=weight.numel(),
        shuffle=None,
        # As many products and weights in every precision; only narrower.
        macs_by_option=(macs,) * len(knob.options),
        weights_by_option=(weight.numel(),) * len(knob.options),
        bits_by_option=tuple(FULL_BITS // n for n in knob.options),
    )
