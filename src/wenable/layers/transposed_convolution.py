"""The weight-enabled transposed convolutions, over one, two or three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from wenable.core.space import Knob
from wenable.layers.blocks import transposed_blocks
from wenable.layers.convolution import Convolve, geometry
from wenable.layers.implementations import DENSE, GROUPED, masked_weight
from wenable.layers.permutation import shuffle_layers
from wenable.layers.weight_enabled import WeightEnabled


class WeightEnabledTransposedConvolution(WeightEnabled):
    """What the weight-enabled transposed convolutions share.

    A convolution maps x to y by y_o = sum_i W_oi * x_i; a transposed one goes the other way, with a
    weight `(in, out, *kernel)`: y_o = sum_i W_io *^T x_i, each value of x spread over the kernel. Its
    option 1/n is that of the convolution it is the transpose of: of W only the n blocks on the
    diagonal are enabled, with inputs and outputs exchanged,

        y_o = sum of W_io *^T x_i over those i with  i // (in / n) = o // (out / n),

    which is torch's transposed convolution in n groups with the blocks stacked as a weight
    `(in, out / n, *kernel)`. Behind a shuffle, i is the place in the shuffled order. Every value of
    the input goes to out / n channels instead of out, so the layer costs 1/n.
    """

    plain_class: ClassVar[Any]
    convolve: ClassVar[Convolve]
    in_channels: int
    stride: Any
    padding: Any
    output_padding: Any
    dilation: Any

    def __init__(self, convolution: Any, knob: Knob, shuffle_groups: int = 1) -> None:
        if convolution.groups != 1:
            raise ValueError(
                f"{knob.name!r} already has `groups` (={convolution.groups}); only 1 can be switched"
            )
        super().__init__(**geometry(convolution), device="meta")
        self.weight, self.bias = convolution.weight, convolution.bias
        self.train(convolution.training)
        self._make_switchable(knob, shuffle_groups)

    @property
    def read_channels(self) -> int:
        """How many channels the layer reads."""
        return self.weight.shape[0]

    def forward(
        self, input: torch.Tensor, output_size: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Convolve with the blocks that the present option enables."""
        if output_size is not None and self.reads_shuffled:
            raise ValueError(
                f"{self.knob.name!r} is called with `output_size` (={list(output_size)}) and would read"
                " a shuffled input, which standard layers do not do in one call; exclude it, or use"
                " shuffle='none'"
            )
        if self.option == 1:
            return super().forward(input, output_size)
        more = output_padding(self, input, output_size)
        if self.present_implementation() == DENSE:
            weight = masked_weight(self.weight.transpose(0, 1), self.option, self.input_order)
            return self._convolve(input, self._as_used(weight.transpose(0, 1)), more, 1)
        if self.shuffles:
            input = F.channel_shuffle(input, self.shuffle_groups)
        return self._convolve(input, self._as_used(self.enabled_weight()), more, self.option)

    def _convolve(
        self, input: torch.Tensor, weight: torch.Tensor, more: Any, groups: int
    ) -> torch.Tensor:
        return type(self).convolve(
            input, weight, self.bias, self.stride, self.padding, more, groups, self.dilation
        )

    def implementations_of(self, n: int) -> tuple[str, ...]:
        """Return the ways in which option `n` can be computed while training, as written first."""
        return (GROUPED,) if n == 1 else (GROUPED, DENSE)

    def _cut(self, weight: torch.Tensor) -> torch.Tensor:
        return transposed_blocks(weight, self.option, self._present_order)

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
        if not self.shuffles:
            return plain.train(self.training)
        shuffle = shuffle_layers(self.in_channels, self.shuffle_groups, self.weight.ndim)
        return self._in_a_row(shuffle, plain)

    def extra_repr(self) -> str:
        """Add the options to what a transposed convolution tells."""
        return f"{super().extra_repr()}, {self._options_repr()}"


class WeightEnabledConvTranspose1d(WeightEnabledTransposedConvolution, nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d` that runs as `n` independent groups of channels.

    Input `(N, in, L)`, output `(N, out, L')` in every option.
    """

    plain_class = nn.ConvTranspose1d
    convolve = staticmethod(F.conv_transpose1d)


class WeightEnabledConvTranspose2d(WeightEnabledTransposedConvolution, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` that runs as `n` independent groups of channels.

    - `convolution`: the layer to take over, with `groups` 1; its parameters are shared, not copied.
    - `knob`: its name and options.
    - `shuffle_groups`: the input is read in the order of a channel shuffle of that many groups.

    Input `(N, in, H, W)`, output `(N, out, H', W')` in every option. With `output_size` it can be
    called unless it reads its input shuffled.

    Raises `ValueError` where the convolution is already grouped.

    >>> layer = WeightEnabledConvTranspose2d(nn.ConvTranspose2d(8, 4, 2, 2), Knob("up", (1, 2, 4)))
    >>> layer.switch_to(4)
    >>> layer(torch.ones(1, 8, 3, 3)).shape
    torch.Size([1, 4, 6, 6])
    """

    plain_class = nn.ConvTranspose2d
    convolve = staticmethod(F.conv_transpose2d)


class WeightEnabledConvTranspose3d(WeightEnabledTransposedConvolution, nn.ConvTranspose3d):
    """`torch.nn.ConvTranspose3d` that runs as `n` independent groups of channels.

    Input `(N, in, D, H, W)`, output `(N, out, D', H', W')` in every option.
    """

    plain_class = nn.ConvTranspose3d
    convolve = staticmethod(F.conv_transpose3d)


def output_padding(layer: Any, input: torch.Tensor, output_size: Sequence[int] | None) -> Any:
    """Return by how much a transposed convolution pads its output, where a call may name its size."""
    if output_size is None:
        return layer.output_padding
    return layer._output_padding(  # torch's own, which says how much an output size adds
        input, output_size, layer.stride, layer.padding, layer.kernel_size,
        len(layer.stride), layer.dilation,
    )  # fmt: skip
