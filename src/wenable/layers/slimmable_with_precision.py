"""Slimmable layers that also run in several precisions, on simulated integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from wenable.core.space import Knob
from wenable.core.views import View
from wenable.layers.precision import PrecisionBesideAnOption
from wenable.layers.slimmable import LayerWidth, SlimmableConv2d, SlimmableLayer, SlimmableLinear


class SlimmableWithPrecision(SlimmableLayer, PrecisionBesideAnOption):
    """A slimmable layer whose enabled weight and input are rounded to fewer bits.

    The scale of an output is that of the weights that its width leaves: the others take no part.
    """

    def __init__(
        self,
        layer: Any,
        knob: Knob,
        widths: Mapping[int, LayerWidth],
        precision_knob: Knob,
        name: str = "a layer",
    ) -> None:
        super().__init__(layer, knob, widths, name)
        self._add_precision(precision_knob)

    @property
    def _known_as(self) -> str:
        return self.name

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Multiply by the enabled weight, in the present precision."""
        if self.precision == 1:
            return super().forward(input)
        self._check_inputs(input)
        weight, bias = self.enabled()
        return self._product(self._rounded_input(input), self._rounded_weight(weight), bias)

    def views(self) -> Mapping[str, View]:
        """Return the part of weight and bias that the present width uses, and the weight's grid."""
        found = dict(super().views())
        for name, grid in PrecisionBesideAnOption.views(self).items():
            found[name] = replace(found.get(name, View()), rounding=grid.rounding)
        return found

    def to_plain(self) -> nn.Module:
        """Return the standard layer of the present width and precision, as `_behind_rounding` says."""
        return self._behind_rounding(super().to_plain())

    def extra_repr(self) -> str:
        """Add the precisions to what a slimmable layer tells."""
        return f"{super().extra_repr()}, {self._precisions_repr()}"


class SlimmableConv2dWithPrecision(SlimmableWithPrecision, SlimmableConv2d):
    """A convolution in one of several widths and precisions; depthwise and grouped ones as well.

    - `layer`, `knob`, `widths`, `name`: as of `SlimmableConv2d`.
    - `precision_knob`: its name and options; option n leaves 32/n bits.

    Input `(N, inputs, H, W)`, output `(N, outputs, H', W')` of the present width.

    >>> widths = {1: LayerWidth(4, 8), 2: LayerWidth(2, 4)}
    >>> width, precision = Knob("width", (1, 2)), Knob("precision", (1, 4))
    >>> layer = SlimmableConv2dWithPrecision(nn.Conv2d(4, 8, 3), width, widths, precision)
    >>> layer.switch_to(2)
    >>> layer.set_precision(4)
    >>> layer.bits, layer(torch.ones(1, 2, 5, 5)).shape
    (8, torch.Size([1, 4, 3, 3]))
    """


class SlimmableLinearWithPrecision(SlimmableWithPrecision, SlimmableLinear):
    """A dense layer in one of several widths and precisions.

    - `layer`, `knob`, `widths`, `name`: as of `SlimmableLinear`.
    - `precision_knob`: its name and options; option n leaves 32/n bits.

    Input `(*, inputs)`, output `(*, outputs)` of the present width.

    >>> widths = {1: LayerWidth(6, 5), 2: LayerWidth(3, 5)}
    >>> width, precision = Knob("width", (1, 2)), Knob("precision", (1, 4))
    >>> layer = SlimmableLinearWithPrecision(nn.Linear(6, 5), width, widths, precision)
    >>> layer.switch_to(2)
    >>> layer.set_precision(4)
    >>> layer.bits, layer(torch.ones(2, 3)).shape
    (8, torch.Size([2, 5]))
    """


def slimmable_with_precision(layer: SlimmableLayer, precision_knob: Knob) -> SlimmableWithPrecision:
    """Return a slimmable layer with a precision besides; its parameters are shared."""
    own = layer.knob, layer.widths, precision_knob, layer.name
    if isinstance(layer, SlimmableConv2d):
        return SlimmableConv2dWithPrecision(layer, *own)
    assert isinstance(layer, SlimmableLinear)
    return SlimmableLinearWithPrecision(layer, *own)
