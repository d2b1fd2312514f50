"""What the weight-enabled layers share: their option, its packed weight, the shuffle before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wenable.core.knob import Knob, share_text
from wenable.core.views import View
from wenable.layers.blocks import diagonal_blocks
from wenable.layers.implementations import DENSE, GROUPED, merges
from wenable.layers.optimizer_steps import STEPS
from wenable.layers.permutation import is_identity_shuffle, shuffle_permutation


@dataclass(frozen=True, slots=True)
class Packed:
    """The enabled blocks of one option, and which state of the weight they were cut from.

    - `version`, `address`: torch's count of the writes to the weight, and where it lay.
    - `source`: shares the weight's memory; while it is held no other weight can have that address.
    - `step`: the last step of an optimizer before it, since fused ones write unseen by torch's count.
    """

    blocks: torch.Tensor
    source: torch.Tensor
    version: int
    address: int
    step: object


class WeightEnabled(nn.Module):
    """A layer of which only the diagonal blocks of the weight are enabled (WeNet, section III).

    A subclass has `weight` of shape `(out, in, *kernel)`, or says how else its blocks are cut. Setting
    an option costs an attribute assignment. While gradients are wanted the blocks are cut from the one
    weight in every forward pass. Without (`torch.no_grad`, `torch.inference_mode`) they are packed at
    the first use of an option and kept, 1/n of the weight for option 1/n: for 2, 4, 8 and 16 together
    15/16 of it.

    What changes the weight drops what was packed: optimizers, `load_state_dict`, `to`, and `train`
    and `eval` where they change something. Only a write through `.data` or numpy goes unseen, until
    `drop_packed` is called.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    input_order: torch.Tensor | None
    """The order in which the inputs are read, shape `(in,)`; None where it is their own."""

    def _make_switchable(self, knob: Knob, shuffle_groups: int) -> None:
        self.knob = knob
        self.option = 1
        self.shuffle_groups = shuffle_groups
        inputs = self.read_channels
        order = None
        if not is_identity_shuffle(inputs, shuffle_groups):
            order = shuffle_permutation(inputs, shuffle_groups).to(self.weight.device)
        self.reads_shuffled = order is not None
        # Not in the state dict: it follows from `shuffle_groups`, and names must stay as they were.
        self.register_buffer("input_order", order, persistent=False)
        self.packed: dict[int, Packed] = {}
        self.implementations: dict[int, str] = {}

    @property
    def read_channels(self) -> int:
        """How many channels, or neurons, the layer reads."""
        return self.weight.shape[1]

    def switch_to(self, n: int) -> None:
        """Run as `n` independent groups from now on; an option the layer lacks is refused."""
        self.knob.check(n)
        self.set_option(n)

    def set_option(self, n: int) -> None:
        """Set an option that is known to be one of this layer's."""
        # A module's own `__setattr__` looks through its parameters first, fifty times a switch.
        self.__dict__["option"] = n

    def implementations_of(self, n: int) -> tuple[str, ...]:
        """Return the ways in which option `n` can be computed while training, as written first."""
        return (GROUPED,) if n == 1 else (GROUPED, *merges(n, self.knob.options), DENSE)

    def use_implementations(self, implementations: Mapping[int, str]) -> None:
        """Compute these options in these ways while gradients are wanted, the others as written.

        All ways compute the same function, but for rounding. Without gradients a layer is computed
        as written, as `extract` writes it. Raises `ValueError` for a way that an option lacks.
        """
        for n, implementation in implementations.items():
            self.knob.check(n)
            if implementation not in self.implementations_of(n):
                raise ValueError(
                    f"{implementation!r} is no implementation of option {share_text(n)} of"
                    f" {self.knob.name!r}; allowed: {', '.join(self.implementations_of(n))}"
                )
        self.implementations = dict(implementations)

    def present_implementation(self) -> str:
        """Return how the next forward pass is computed."""
        if not self.implementations or not torch.is_grad_enabled():
            return GROUPED
        return self.implementations.get(self.option, GROUPED)

    def enabled_weight(self) -> torch.Tensor:
        """Return the blocks of the present option as this layer multiplies by them."""
        weight = self.weight
        # A compiler must see the blocks being cut.
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._pack(weight)
        kept = self.packed.get(self.option)
        if kept is not None:
            if (
                kept.version == weight._version
                and kept.step is STEPS.last
                and kept.address == weight.data_ptr()
            ):
                return kept.blocks
            self.drop_packed()  # what one option missed, the others missed as well
        # A weight put in for one call (`functional_call`) is not a parameter.
        if type(weight) is not nn.Parameter or weight.is_inference():
            return self._pack(weight)
        # Contiguous, or the kernel would make it so in every pass.
        blocks = self._pack(weight).detach().contiguous(memory_format=_memory_format(weight))
        kept = Packed(blocks, weight.detach(), weight._version, weight.data_ptr(), STEPS.last)
        self.packed[self.option] = kept
        return blocks

    def _cut(self, weight: torch.Tensor) -> torch.Tensor:
        """Cut the blocks of the present option out of the weight, as a grouped layer has them."""
        return diagonal_blocks(weight, self.option, self._present_order)

    def _pack(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the blocks of the present option as this layer multiplies by them."""
        return self._cut(weight)

    def _as_used(self, weight: torch.Tensor, outputs: tuple[int, ...] = (0,)) -> torch.Tensor:
        """Return enabled weights as they are multiplied by; a layer of several precisions rounds them.

        - `outputs`: the dimensions of `weight` that tell outputs apart.
        """
        return weight

    def _plain_product(self, plain: nn.Module) -> nn.Module:
        """Return the standard layer that multiplies, with all that belongs right before it."""
        return plain

    def views(self) -> Mapping[str, View]:
        """Return nothing: blocks follow from the option, and how they are cut is chosen on the device."""
        return {}

    def drop_packed(self) -> None:
        """Give back the memory of the packed blocks; the next forward pass packs anew."""
        self.packed.clear()

    @property
    def packed_bytes(self) -> int:
        """The memory that the packed blocks hold."""
        return sum(
            kept.blocks.numel() * kept.blocks.element_size() for kept in self.packed.values()
        )

    def train(self, mode: bool = True) -> WeightEnabled:
        """Set training or inference, as in torch; a change drops the packed blocks."""
        if mode != self.training:
            self.__dict__.get("packed", {}).clear()
        return super().train(mode)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        self.drop_packed()
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the packed blocks out of copies."""
        return {**self.__dict__, "packed": {}}

    @property
    def shuffles(self) -> bool:
        """Whether the input is shuffled in the present option: never when fully enabled."""
        return self.reads_shuffled and self.option > 1

    @property
    def _present_order(self) -> torch.Tensor | None:
        return self.input_order if self.option > 1 else None

    def to_plain(self) -> nn.Module:
        """Return standard torch layers, with weights of their own, for the present option."""
        raise TypeError("use one of its subclasses, as WeightEnabledConv2d or WeightEnabledLinear")

    def _copy_enabled_weights(self, plain: nn.Module) -> None:
        with torch.no_grad():
            blocks = self._cut(self.weight)
            weight = plain.get_parameter("weight")
            weight.copy_(blocks.view_as(weight))
            weight.requires_grad_(self.weight.requires_grad)
            if self.bias is not None:
                plain.get_parameter("bias").copy_(self.bias)
                plain.get_parameter("bias").requires_grad_(self.bias.requires_grad)
            memory_format = _memory_format(self.weight)
            if memory_format != torch.contiguous_format:
                plain.to(memory_format=memory_format)

    def _in_a_row(self, *parts: nn.Module) -> nn.Module:
        """Return plain parts as one module that shows its weight, as a single layer does.

        Networks look at it: at its type, to bring their input to that.
        """
        row = nn.Sequential(*parts).train(self.training)
        weight = next(parameter for parameter in row.parameters() if parameter.ndim > 1)
        row.__dict__["weight"] = weight  # shown and not registered: it has its name already
        return row

    def _options_repr(self) -> str:
        options = ", ".join(map(share_text, self.knob.options))
        return f"option={share_text(self.option)} of ({options})"


def _memory_format(weight: torch.Tensor) -> torch.memory_format:
    if weight.is_contiguous():
        return torch.contiguous_format
    channels_last = {4: torch.channels_last, 5: torch.channels_last_3d}
    return channels_last.get(weight.ndim, torch.contiguous_format)
