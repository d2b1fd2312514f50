"""What the weight-enabled layers share: their pattern, its bounds, the shuffle of their input."""

from __future__ import annotations

import torch
from torch import nn

from wenable.layers.blocks import diagonal_blocks
from wenable.layers.permutation import is_identity_shuffle, shuffle_permutation
from wenable.space import Knob, pattern_text


class WeightEnabled(nn.Module):
    """A layer of which only the diagonal blocks of the weight are enabled (WeNet, section III).

    A subclass has `weight` of shape `(out, in, *kernel)`. Setting a pattern costs an attribute
    assignment; the blocks are cut from the one weight, of which no mode holds a copy.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    input_order: torch.Tensor | None
    """The order in which the inputs are read, shape `(in,)`; None where it is their own."""

    def _make_switchable(self, knob: Knob, shuffle_groups: int) -> None:
        self.knob = knob
        self.pattern = 1
        self.shuffle_groups = shuffle_groups
        inputs = self.weight.shape[1]
        order = None
        if not is_identity_shuffle(inputs, shuffle_groups):
            order = shuffle_permutation(inputs, shuffle_groups).to(self.weight.device)
        # Not in the state dict: it follows from `shuffle_groups`, and names must stay as they were.
        self.register_buffer("input_order", order, persistent=False)

    def set_pattern(self, n: int) -> None:
        """Run as `n` independent groups from now on; a pattern the layer lacks is refused."""
        self.knob.check(n)
        self.pattern = n

    @property
    def shuffles(self) -> bool:
        """Whether the input is shuffled in the present pattern: never when fully enabled."""
        return self.input_order is not None and self.pattern > 1

    def to_plain(self) -> nn.Module:
        """Return standard torch layers, with weights of their own, for the present pattern."""
        raise TypeError("use WeightEnabledConv2d or WeightEnabledLinear")

    def _copy_enabled_weights(self, plain: nn.Module) -> None:
        order = self.input_order if self.pattern > 1 else None
        with torch.no_grad():
            blocks = diagonal_blocks(self.weight, self.pattern, order)
            weight = plain.get_parameter("weight")
            weight.copy_(blocks.view_as(weight))
            weight.requires_grad_(self.weight.requires_grad)
            if self.bias is not None:
                plain.get_parameter("bias").copy_(self.bias)
                plain.get_parameter("bias").requires_grad_(self.bias.requires_grad)
            if weight.ndim == 4 and not self.weight.is_contiguous():
                plain.to(memory_format=torch.channels_last)

    def _patterns_repr(self) -> str:
        patterns = ", ".join(map(pattern_text, self.knob.options))
        return f"pattern={pattern_text(self.pattern)} of ({patterns})"
