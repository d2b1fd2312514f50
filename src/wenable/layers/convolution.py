"""The weight-enabled convolutions, over one, two or three dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from wenable.core.space import Knob
from wenable.layers.implementations import (
    DENSE,
    GROUPED,
    MATMUL,
    SPLIT,
    groups_merged_to,
    is_pointwise,
    masked_weight,
    merged_blocks,
    pointwise_product,
    split_convolution,
)
from wenable.layers.permutation import shuffle_layers
from wenable.layers.weight_enabled import WeightEnabled

Convolve = Callable[..., torch.Tensor]


class WeightEnabledConvolution(WeightEnabled):
    """What the weight-enabled convolutions share, whatever the dimensions of their maps.

    A subclass says which layer of torch it is (`plain_class`) and which function computes it.
    """

    plain_class: ClassVar[Any]
    convolve: ClassVar[Convolve]
    kernel_size: Any
    in_channels: int
    stride: Any
    padding: Any
    dilation: Any
    padding_mode: Any
    _reversed_padding_repeated_twice: list[int]

    def __init__(
        self, convolution: nn.modules.conv._ConvNd, knob: Knob, shuffle_groups: int = 1
    ) -> None:
        if convolution.groups != 1:
            raise ValueError(
                f"{knob.name!r} already has `groups` (={convolution.groups}); only 1 can be switched"
            )
        super().__init__(**geometry(convolution), device="meta")
        self.weight, self.bias = convolution.weight, convolution.bias
        self.train(convolution.training)
        self._make_switchable(knob, shuffle_groups)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve with the blocks that the present option enables."""
        implementation = self.present_implementation()
        if implementation == GROUPED:
            if self.option == 1:
                return super().forward(input)
            blocks = self._as_used(self.enabled_weight())
            return self._convolve(self._shuffled(input), blocks, self.option)
        if implementation == DENSE:
            weight = masked_weight(self.weight, self.option, self.input_order)
            return self._convolve(input, self._as_used(weight), 1)
        input, merged = self._shuffled(input), groups_merged_to(implementation)
        if merged is not None:
            blocks = merged_blocks(self.weight, self.option, merged, self.input_order)
            return self._convolve(input, self._as_used(blocks), merged)
        blocks = self._as_used(self._pack(self.weight))
        if implementation == MATMUL:
            return pointwise_product(input, blocks, self.bias, self.option, self.stride)
        input, padding = self._padded(input)
        return split_convolution(
            type(self).convolve, input, blocks, self.bias, self.option, self.stride, padding,
            self.dilation,
        )  # fmt: skip

    def implementations_of(self, n: int) -> tuple[str, ...]:
        """Return the ways in which option `n` can be computed while training, as written first."""
        products = (MATMUL,) if is_pointwise(self) else ()
        # Beyond a few groups, one call for each costs more than it can save.
        return super().implementations_of(n) + products + ((SPLIT,) if 1 < n <= 4 else ())

    def _shuffled(self, input: torch.Tensor) -> torch.Tensor:
        if not self.shuffles:
            return input
        return F.channel_shuffle(input, self.shuffle_groups)

    def _padded(self, input: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Return the input as torch's function takes it, and the padding left for that to do."""
        if self.padding_mode == "zeros":
            return input, self.padding
        sides = self._reversed_padding_repeated_twice
        return F.pad(input, sides, mode=self.padding_mode), 0

    def _convolve(self, input: torch.Tensor, weight: torch.Tensor, groups: int) -> torch.Tensor:
        input, padding = self._padded(input)
        return type(self).convolve(
            input, weight, self.bias, self.stride, padding, self.dilation, groups
        )

    def to_plain(self) -> nn.Module:
        """Return standard torch layers, with weights of their own, for the present option."""
        plain = skip_init(
            self.plain_class,
            **geometry(self),
            groups=self.option,
            device=self.weight.device,
            dtype=self.weight.dtype,
        )
        self._copy_enabled_weights(plain)
        product = self._plain_product(plain)
        if not self.shuffles:
            return product.train(self.training)
        shuffle = shuffle_layers(self.in_channels, self.shuffle_groups, self.weight.ndim)
        return self._in_a_row(shuffle, product)

    def extra_repr(self) -> str:
        """Add the options to what a convolution tells."""
        return f"{super().extra_repr()}, {self._options_repr()}"


class WeightEnabledConv1d(WeightEnabledConvolution, nn.Conv1d):
    """`torch.nn.Conv1d` that runs as `n` independent groups of channels, as `WeightEnabledConv2d`.

    Input `(N, in, L)`, output `(N, out, L')` in every option.

    >>> layer = WeightEnabledConv1d(nn.Conv1d(4, 8, 3, dilation=2), Knob("conv", (1, 2, 4)))
    >>> layer.switch_to(4)
    >>> layer(torch.ones(1, 4, 9)).shape
    torch.Size([1, 8, 5])
    """

    plain_class = nn.Conv1d
    convolve = staticmethod(F.conv1d)


class WeightEnabledConv2d(WeightEnabledConvolution, nn.Conv2d):
    """A convolution that runs as `n` independent groups of channels (WeNet, Fig. 3, eq. 2-3).

    At option 1 it is the `torch.nn.Conv2d` it was made from, to the bit. At `1/n` only the
    kernels between group k of the inputs and group k of the outputs are enabled, so the layer
    costs 1/n of the multiply-accumulates.

    - `convolution`: the layer to take over, with `groups` 1; its parameters are shared, not copied.
    - `knob`: its name and options.
    - `shuffle_groups`: the input is read in the order of a channel shuffle of that many groups; 1
      reads it as it stands.

    Input `(N, in, H, W)`, output `(N, out, H', W')` in every option.

    Raises `ValueError` where the convolution is already grouped.

    >>> layer = WeightEnabledConv2d(nn.Conv2d(4, 8, 3), Knob("conv", (1, 2, 4)))
    >>> layer.switch_to(2)
    >>> layer(torch.ones(1, 4, 5, 5)).shape
    torch.Size([1, 8, 3, 3])
    """

    plain_class = nn.Conv2d
    convolve = staticmethod(F.conv2d)


class WeightEnabledConv3d(WeightEnabledConvolution, nn.Conv3d):
    """`torch.nn.Conv3d` that runs as `n` independent groups of channels, as `WeightEnabledConv2d`.

    Input `(N, in, D, H, W)`, output `(N, out, D', H', W')` in every option.

    >>> layer = WeightEnabledConv3d(nn.Conv3d(4, 8, 3), Knob("conv", (1, 2, 4)))
    >>> layer.switch_to(4)
    >>> layer(torch.ones(1, 4, 3, 5, 5)).shape
    torch.Size([1, 8, 1, 3, 3])
    """

    plain_class = nn.Conv3d
    convolve = staticmethod(F.conv3d)


def geometry(convolution: Any) -> dict[str, Any]:
    """Return the arguments that a convolution was made with, but for its groups and its place."""
    more = {"output_padding": convolution.output_padding} if convolution.transposed else {}
    return more | {
        "in_channels": convolution.in_channels,
        "out_channels": convolution.out_channels,
        "kernel_size": convolution.kernel_size,
        "stride": convolution.stride,
        "padding": convolution.padding,
        "dilation": convolution.dilation,
        "bias": convolution.bias is not None,
        "padding_mode": convolution.padding_mode,
    }
