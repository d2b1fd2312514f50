"""Transposed convolutions that run with their first channels only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from wenable.core.entries import Entries
from wenable.layers.slimmable import SlimmableConvolution
from wenable.layers.transposed_convolution import output_padding


class SlimmableTransposedConvolution(SlimmableConvolution):
    """What the transposed convolutions in several widths share.

    Their weight is `(inputs, outputs / groups, *kernel)`: a narrower width is its corner as well, with
    inputs and outputs exchanged.
    """

    output_padding: Any

    @property
    def corner(self) -> tuple[Entries, Entries]:
        """Which of the weight's rows and columns the present option uses."""
        return self.width.read_entries, self.width.outputs // self.width.groups

    def forward(
        self, input: torch.Tensor, output_size: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Convolve in the present width."""
        self._check_inputs(input)
        if self.option == self.knob.options[0]:
            return self.plain_class.forward(self, input, output_size)
        weight, bias = self.enabled()
        more = output_padding(self, input, output_size)
        return type(self).convolve(
            input, weight, bias, self.stride, self.padding, more, self.width.groups, self.dilation
        )


class SlimmableConvTranspose1d(SlimmableTransposedConvolution, nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d` in one of several widths: `(N, inputs, L)`."""

    plain_class = nn.ConvTranspose1d
    convolve = staticmethod(F.conv_transpose1d)


class SlimmableConvTranspose2d(SlimmableTransposedConvolution, nn.ConvTranspose2d):
    """A transposed convolution in one of several widths; grouped ones run fewer groups.

    - `convolution`: the layer to take over; its parameters are shared, not copied.
    - `knob`: its options; `widths`: the channels in each; `name`: what a refusal calls the layer.

    Input `(N, inputs, H, W)`, output `(N, outputs, H', W')` of the present width.

    >>> from wenable.core.space import Knob
    >>> from wenable.layers.slimmable import LayerWidth
    >>> widths = {1: LayerWidth(4, 8), 2: LayerWidth(2, 4)}
    >>> plain = nn.ConvTranspose2d(4, 8, 2, stride=2)
    >>> layer = SlimmableConvTranspose2d(plain, Knob("width", (1, 2)), widths)
    >>> layer.switch_to(2)
    >>> layer(torch.ones(1, 2, 5, 5)).shape
    torch.Size([1, 4, 10, 10])
    """

    plain_class = nn.ConvTranspose2d
    convolve = staticmethod(F.conv_transpose2d)


class SlimmableConvTranspose3d(SlimmableTransposedConvolution, nn.ConvTranspose3d):
    """`torch.nn.ConvTranspose3d` in one of several widths: `(N, inputs, D, H, W)`."""

    plain_class = nn.ConvTranspose3d
    convolve = staticmethod(F.conv_transpose3d)
