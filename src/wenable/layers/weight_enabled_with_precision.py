"""Weight-enabled layers that also run in several precisions, on simulated integers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from wenable.core.space import Knob
from wenable.core.views import View
from wenable.layers.convolution import WeightEnabledConv2d
from wenable.layers.linear import WeightEnabledLinear
from wenable.layers.precision import PrecisionBesideAnOption
from wenable.layers.weight_enabled import WeightEnabled


class WeightEnabledWithPrecision(WeightEnabled, PrecisionBesideAnOption):
    """A weight-enabled layer whose enabled blocks and input are rounded to fewer bits.

    The scale of an output is that of the weights it has enabled: what an option leaves out takes no
    part.
    """

    def _as_used(self, weight: torch.Tensor, outputs: tuple[int, ...] = (0,)) -> torch.Tensor:
        # Zeros stay zero on the grid: it does not matter whether they were cut off before.
        return weight if self.precision == 1 else self._rounded_weight(weight, outputs)

    def views(self) -> Mapping[str, View]:
        """Return the grids of the present precision; the blocks follow from the option."""
        return PrecisionBesideAnOption.views(self)

    def _plain_product(self, plain: nn.Module) -> nn.Module:
        return self._behind_rounding(plain)

    def extra_repr(self) -> str:
        """Add the precisions to what a weight-enabled layer tells."""
        return f"{super().extra_repr()}, {self._precisions_repr()}"


class WeightEnabledConv2dWithPrecision(WeightEnabledWithPrecision, WeightEnabledConv2d):
    """A convolution that runs as `n` groups of channels, in one of several precisions.

    - `convolution`, `knob`, `shuffle_groups`: as of `WeightEnabledConv2d`.
    - `precision_knob`: its name and options; option n leaves 32/n bits.

    Input `(N, in, H, W)`, output `(N, out, H', W')` in every option.

    >>> groups, precision = Knob("conv", (1, 2, 4)), Knob("precision", (1, 4))
    >>> layer = WeightEnabledConv2dWithPrecision(nn.Conv2d(4, 8, 3), groups, 1, precision)
    >>> layer.switch_to(2)
    >>> layer.set_precision(4)
    >>> layer.bits, layer(torch.ones(1, 4, 5, 5)).shape
    (8, torch.Size([1, 8, 3, 3]))
    """

    def __init__(
        self, convolution: nn.Conv2d, knob: Knob, shuffle_groups: int, precision_knob: Knob
    ) -> None:
        super().__init__(convolution, knob, shuffle_groups)
        self._add_precision(precision_knob)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve with the enabled blocks, in the present precision."""
        if self.precision == 1:
            return super().forward(input)
        input = self._rounded_input(input)
        if self.option == 1:
            return self._convolve(input, self._as_used(self.weight), 1)
        return super().forward(input)


class WeightEnabledLinearWithPrecision(WeightEnabledWithPrecision, WeightEnabledLinear):
    """A dense layer that runs as `n` groups of neurons, in one of several precisions.

    - `linear`, `knob`, `shuffle_groups`, `dimensions`: as of `WeightEnabledLinear`.
    - `precision_knob`: its name and options; option n leaves 32/n bits.

    Input `(*, in)`, output `(*, out)` in every option.

    >>> groups, precision = Knob("fc", (1, 2)), Knob("precision", (1, 4))
    >>> layer = WeightEnabledLinearWithPrecision(nn.Linear(6, 4), groups, 1, 2, precision)
    >>> layer.set_precision(4)
    >>> layer.bits, layer(torch.ones(3, 6)).shape
    (8, torch.Size([3, 4]))
    """

    def __init__(
        self,
        linear: nn.Linear,
        knob: Knob,
        shuffle_groups: int,
        dimensions: int,
        precision_knob: Knob,
    ) -> None:
        super().__init__(linear, knob, shuffle_groups, dimensions)
        self._add_precision(precision_knob)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Multiply by the enabled blocks, in the present precision."""
        if self.precision == 1:
            return super().forward(input)
        input = self._rounded_input(input)
        if self.option == 1:
            return nn.functional.linear(input, self._as_used(self.weight), self.bias)
        return super().forward(input)


def with_precision(layer: WeightEnabled, precision_knob: Knob) -> WeightEnabledWithPrecision:
    """Return a weight-enabled layer with a precision besides; its parameters are shared."""
    if isinstance(layer, WeightEnabledConv2d):
        return WeightEnabledConv2dWithPrecision(
            layer, layer.knob, layer.shuffle_groups, precision_knob
        )
    assert isinstance(layer, WeightEnabledLinear)
    return WeightEnabledLinearWithPrecision(
        layer, layer.knob, layer.shuffle_groups, layer.dimensions, precision_knob
    )
