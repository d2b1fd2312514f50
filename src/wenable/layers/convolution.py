"""The weight-enabled convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import skip_init

from wenable.layers.weight_enabled import WeightEnabled
from wenable.space import Knob


class WeightEnabledConv2d(WeightEnabled, nn.Conv2d):
    """A convolution that runs as `n` independent groups of channels (WeNet, Fig. 3, eq. 2-3).

    At pattern 1 it is the `torch.nn.Conv2d` it was made from, to the bit. At `1/n` only the
    kernels between group k of the inputs and group k of the outputs are enabled, so the layer
    costs 1/n of the multiply-accumulates.

    - `convolution`: the layer to take over, with `groups` 1; its parameters are shared, not copied.
    - `knob`: its name and patterns.
    - `shuffle_groups`: the input is read in the order of a channel shuffle of that many groups; 1
      reads it as it stands.

    Input `(N, in, H, W)`, output `(N, out, H', W')` in every pattern.

    Raises `ValueError` where the convolution is already grouped.

    >>> layer = WeightEnabledConv2d(nn.Conv2d(4, 8, 3), Knob("conv", (1, 2, 4)))
    >>> layer.set_pattern(2)
    >>> layer(torch.ones(1, 4, 5, 5)).shape
    torch.Size([1, 8, 3, 3])
    """

    def __init__(self, convolution: nn.Conv2d, knob: Knob, shuffle_groups: int = 1) -> None:
        if convolution.groups != 1:
            raise ValueError(
                f"{knob.name!r} already has `groups` (={convolution.groups}); only 1 can be switched"
            )
        super().__init__(**_geometry(convolution), device="meta")
        self.weight, self.bias = convolution.weight, convolution.bias
        self.train(convolution.training)
        self._make_switchable(knob, shuffle_groups)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve with the blocks that the present pattern enables."""
        if self.pattern == 1:
            return super().forward(input)
        if self.reads_shuffled:
            input = nn.functional.channel_shuffle(input, self.shuffle_groups)
        padding = self.padding
        if self.padding_mode != "zeros":
            sides = self._reversed_padding_repeated_twice
            input = nn.functional.pad(input, sides, mode=self.padding_mode)
            padding = 0
        return nn.functional.conv2d(
            input,
            self.enabled_weight(),
            self.bias,
            self.stride,
            padding,
            self.dilation,
            self.pattern,
        )

    def to_plain(self) -> nn.Module:
        """Return standard torch layers, with weights of their own, for the present pattern."""
        plain = skip_init(
            nn.Conv2d,
            **_geometry(self),
            groups=self.pattern,
            device=self.weight.device,
            dtype=self.weight.dtype,
        )
        self._copy_enabled_weights(plain)
        if not self.shuffles:
            return plain.train(self.training)
        return self._in_a_row(nn.ChannelShuffle(self.shuffle_groups), plain)

    def extra_repr(self) -> str:
        """Add the patterns to what a convolution tells."""
        return f"{super().extra_repr()}, {self._patterns_repr()}"


def _geometry(convolution: nn.Conv2d) -> dict[str, Any]:
    return {
        "in_channels": convolution.in_channels,
        "out_channels": convolution.out_channels,
        "kernel_size": convolution.kernel_size,
        "stride": convolution.stride,
        "padding": convolution.padding,
        "dilation": convolution.dilation,
        "bias": convolution.bias is not None,
        "padding_mode": convolution.padding_mode,
    }
