"""The weight-enabled dense layer."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import skip_init
from torchvision.ops import Permute

from wenable.core.space import Knob
from wenable.layers.implementations import (
    DENSE,
    groups_merged_to,
    in_type_of,
    masked_weight,
    merged_blocks,
)
from wenable.layers.permutation import shuffle_layers
from wenable.layers.weight_enabled import WeightEnabled


class WeightEnabledLinear(WeightEnabled, nn.Linear):
    """A dense layer that runs as `n` independent groups of neurons (WeNet, Fig. 2, eq. 1).

    At option 1 it is the `torch.nn.Linear` it was made from, to the bit. At `1/n` the neurons of
    output group k are connected to those of input group k only; every neuron stays.

    - `linear`: the layer to take over; its parameters are shared, not copied.
    - `knob`: its name and options.
    - `shuffle_groups`: the input is read in the order of a shuffle of that many groups; 1 reads it
      as it stands.
    - `dimensions`: how many the input has, the batch counted; only `to_plain` has to know.

    Input `(*, in)`, output `(*, out)` in every option.

    >>> layer = WeightEnabledLinear(nn.Linear(6, 4), Knob("fc", (1, 2)))
    >>> layer.switch_to(2)
    >>> layer(torch.ones(3, 6)).shape
    torch.Size([3, 4])
    """

    def __init__(
        self, linear: nn.Linear, knob: Knob, shuffle_groups: int = 1, dimensions: int = 2
    ) -> None:
        super().__init__(
            linear.in_features, linear.out_features, linear.bias is not None, device="meta"
        )
        self.weight, self.bias = linear.weight, linear.bias
        self.train(linear.training)
        self.dimensions = dimensions
        self._make_switchable(knob, shuffle_groups)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Multiply by the blocks that the present option enables."""
        if self.option == 1:
            return super().forward(input)
        implementation = self.present_implementation()
        if implementation == DENSE:
            weight = masked_weight(self.weight, self.option, self.input_order)
            return nn.functional.linear(input, self._as_used(weight), self.bias)
        if self.reads_shuffled:
            input = input.unflatten(-1, (self.shuffle_groups, -1)).transpose(-1, -2).flatten(-2)
        merged = groups_merged_to(implementation)
        if merged is None:
            return self._multiply(input, self.enabled_weight())
        blocks = merged_blocks(self.weight, self.option, merged, self.input_order)
        return self._multiply(input, blocks.unflatten(0, (merged, -1)).transpose(1, 2))

    def _multiply(self, input: torch.Tensor, weight_gio: torch.Tensor) -> torch.Tensor:
        # B: all leading dimensions, g: groups, i, o: inputs and outputs of a group
        groups, inputs, _ = weight_gio.shape
        weight_gio = self._as_used(weight_gio, outputs=(0, 2))
        input_gBi = input.reshape(-1, groups, inputs).transpose(0, 1)
        output_gBo = torch.bmm(input_gBi, weight_gio)
        output = output_gBo.transpose(0, 1).reshape(*input.shape[:-1], self.out_features)
        return output if self.bias is None else output + in_type_of(output, self.bias)

    def _pack(self, weight: torch.Tensor) -> torch.Tensor:
        return super()._pack(weight).unflatten(0, (self.option, -1)).transpose(1, 2)

    def to_plain(self) -> nn.Module:
        """Return standard torch layers, with weights of their own, for the present option.

        torch has no grouped dense layer: for `n` above 1 this is a grouped convolution of kernel
        size 1, with the channels moved to where it wants them; `dimensions` must be 2, 3 or 4.
        """
        sizes = (self.in_features, self.out_features)
        place = {"device": self.weight.device, "dtype": self.weight.dtype}
        has_bias = self.bias is not None
        if self.option == 1:
            plain = skip_init(nn.Linear, *sizes, bias=has_bias, **place)
            self._copy_enabled_weights(plain)
            return self._plain_product(plain).train(self.training)
        convolution = nn.Conv2d if self.dimensions == 4 else nn.Conv1d
        grouped = skip_init(convolution, *sizes, 1, groups=self.option, bias=has_bias, **place)
        self._copy_enabled_weights(grouped)
        shuffle = (
            [shuffle_layers(self.in_features, self.shuffle_groups, max(self.dimensions, 3))]
            if self.shuffles
            else []
        )
        before, after = self._channel_moves()
        return self._in_a_row(before, *shuffle, self._plain_product(grouped), after)

    def _channel_moves(self) -> tuple[nn.Module, nn.Module]:
        """Return what moves the last dimension to the second, and what moves it back."""
        if self.dimensions == 2:
            return nn.Unflatten(-1, (self.in_features, 1)), nn.Flatten(1)
        orders = {3: ([0, 2, 1], [0, 2, 1]), 4: ([0, 3, 1, 2], [0, 2, 3, 1])}
        before, after = orders[self.dimensions]
        return Permute(before), Permute(after)

    def extra_repr(self) -> str:
        """Add the options to what a dense layer tells."""
        return f"{super().extra_repr()}, {self._options_repr()}"
