"""Layers that run with their first channels only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.utils import skip_init

from wenable.core.entries import Entries
from wenable.core.space import Knob
from wenable.core.views import View
from wenable.layers.convolution import geometry
from wenable.layers.enabled import enabled, mark


@dataclass(frozen=True, slots=True)
class LayerWidth:
    """How many channels a layer reads and writes, and in how many groups.

    - `read`, `written`: which of all channels these are; None for the first ones. Behind a
      concatenation they are the first of each part.
    """

    inputs: int
    outputs: int
    groups: int = 1
    read: Entries | None = None
    written: Entries | None = None

    @property
    def read_entries(self) -> Entries:
        """Which of all the inputs are read."""
        return self.inputs if self.read is None else self.read

    @property
    def written_entries(self) -> Entries:
        """Which of all the outputs are written."""
        return self.outputs if self.written is None else self.written


class SlimmableLayer(nn.Module):
    """A layer of which the first inputs and outputs alone are enabled (Yu et al., 2019).

    The widest option is the layer it was made from, to the bit. A narrower one multiplies by the
    corner `weight[:outputs, :inputs]` of the same weight, so that the widths nest. Behind a
    concatenation the inputs are the first of each of its parts.
    """

    inputs_axis: ClassVar[int] = 1
    """Which dimension of the input holds what the width cuts."""
    weight: torch.Tensor
    bias: torch.Tensor | None

    def _make_switchable(self, knob: Knob, widths: Mapping[int, LayerWidth], name: str) -> None:
        self.knob, self.name = knob, name
        self.option = knob.options[0]
        self.widths = dict(widths)

    @property
    def width(self) -> LayerWidth:
        """The channels of the present option."""
        return self.widths[self.option]

    def switch_to(self, n: int) -> None:
        """Run at the `n`-th width from now on; an option the layer lacks is refused."""
        self.knob.check(n)
        self.set_option(n)

    def set_option(self, n: int) -> None:
        """Set an option that is known to be one of this layer's."""
        self.__dict__["option"] = n

    @property
    def corner(self) -> tuple[Entries, Entries]:
        """Which of the weight's rows and columns the present option uses."""
        width = self.width
        if self._is_grouped:
            return width.written_entries, width.inputs // width.groups
        return width.written_entries, width.read_entries

    @property
    def _is_grouped(self) -> bool:
        return self.widths[self.knob.options[0]].groups > 1

    def enabled(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the weight and the bias of the present option: views, or copies of several ranges."""
        rows, columns = self.corner
        bias = None if self.bias is None else enabled(self.bias, 0, self.width.written_entries)
        return enabled(enabled(self.weight, 0, rows), 1, columns), bias

    def enabled_entries(self) -> dict[str, torch.Tensor]:
        """Return for each parameter which of its entries the present option uses."""
        masks = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in self.named_parameters()}
        mark(masks["weight"], *self.corner)
        if self.bias is not None:
            mark(masks["bias"], self.width.written_entries)
        return masks

    def views(self) -> Mapping[str, View]:
        """Return the part of weight and bias that the present option uses; nothing for the widest."""
        if self.option == self.knob.options[0]:
            return {}
        width = self.width
        whole = self.widths[self.knob.options[0]]
        groups = None if width.groups == whole.groups else width.groups
        found = {"weight": View(*self.corner, groups)}
        if self.bias is not None:
            found["bias"] = View(width.written_entries)
        return found

    def _check_inputs(self, input: torch.Tensor) -> None:
        inputs = input.shape[self.inputs_axis]
        if inputs != self.width.inputs:
            raise ValueError(
                f"{self.name!r} reads {self.width.inputs} channels at {self.knob.name}"
                f" {self.knob.text(self.option)}, and was given {inputs}: the network fixes a number"
                " of channels in its own code"
            )

    def _copied_to(self, plain: nn.Module) -> nn.Module:
        with torch.no_grad():
            for name, enabled in zip(("weight", "bias"), self.enabled(), strict=True):
                if enabled is not None:
                    parameter = plain.get_parameter(name)
                    parameter.copy_(enabled)
                    parameter.requires_grad_(self.get_parameter(name).requires_grad)
        return plain.train(self.training)

    def _product(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the output for the weight and the bias of the present width."""
        raise TypeError("use one of its subclasses, as SlimmableConv2d or SlimmableLinear")

    def extra_repr(self) -> str:
        """Add the present width to what a layer tells."""
        return f"{super().extra_repr()}, {self.knob.name}={self.knob.text(self.option)}"


class SlimmableConvolution(SlimmableLayer):
    """What the convolutions in several widths share, whatever the dimensions of their maps."""

    plain_class: ClassVar[Any]
    convolve: ClassVar[Callable[..., torch.Tensor]]
    stride: Any
    padding: Any
    dilation: Any
    padding_mode: Any
    _reversed_padding_repeated_twice: list[int]

    def __init__(
        self,
        convolution: nn.modules.conv._ConvNd,
        knob: Knob,
        widths: Mapping[int, LayerWidth],
        name: str = "a convolution",
    ) -> None:
        super().__init__(**geometry(convolution), groups=convolution.groups, device="meta")
        self.weight, self.bias = convolution.weight, convolution.bias
        self.training = convolution.training
        self._make_switchable(knob, widths, name)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve in the present width."""
        self._check_inputs(input)
        if self.option == self.knob.options[0]:
            return super().forward(input)
        return self._product(input, *self.enabled())

    def _product(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        padding = self.padding  # a size, or "same" or "valid"
        if self.padding_mode != "zeros":
            sides = self._reversed_padding_repeated_twice
            input, padding = nn.functional.pad(input, sides, mode=self.padding_mode), 0
        return type(self).convolve(
            input, weight, bias, self.stride, padding, self.dilation, self.width.groups
        )

    def to_plain(self) -> nn.Module:
        """Return the standard convolution of the present width, with weights of its own."""
        width = self.width
        sizes = {"in_channels": width.inputs, "out_channels": width.outputs}
        place = {"device": self.weight.device, "dtype": self.weight.dtype}
        plain = skip_init(
            self.plain_class, **(geometry(self) | sizes), groups=width.groups, **place
        )
        if self.weight.ndim == 4 and not self.weight.is_contiguous():
            plain.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return self._copied_to(plain)


class SlimmableConv1d(SlimmableConvolution, nn.Conv1d):
    """`torch.nn.Conv1d` in one of several widths, as `SlimmableConv2d`: `(N, inputs, L)`."""

    plain_class = nn.Conv1d
    convolve = staticmethod(nn.functional.conv1d)


class SlimmableConv2d(SlimmableConvolution, nn.Conv2d):
    """A convolution in one of several widths; depthwise and grouped ones run fewer groups.

    - `convolution`: the layer to take over; its parameters are shared, not copied.
    - `knob`: its options; `widths`: the channels in each; `name`: what a refusal calls the layer.

    Input `(N, inputs, H, W)`, output `(N, outputs, H', W')` of the present width.

    >>> widths = {1: LayerWidth(4, 8), 2: LayerWidth(2, 4)}
    >>> layer = SlimmableConv2d(nn.Conv2d(4, 8, 3), Knob("width", (1, 2)), widths)
    >>> layer.switch_to(2)
    >>> layer(torch.ones(1, 2, 5, 5)).shape
    torch.Size([1, 4, 3, 3])
    """

    plain_class = nn.Conv2d
    convolve = staticmethod(nn.functional.conv2d)


class SlimmableConv3d(SlimmableConvolution, nn.Conv3d):
    """`torch.nn.Conv3d` in one of several widths, as `SlimmableConv2d`: `(N, inputs, D, H, W)`."""

    plain_class = nn.Conv3d
    convolve = staticmethod(nn.functional.conv3d)


class SlimmableLinear(SlimmableLayer, nn.Linear):
    """A dense layer in one of several widths.

    - `linear`: the layer to take over; its parameters are shared, not copied.
    - `knob`: its options; `widths`: the features in each; `name`: what a refusal calls the layer.

    Input `(*, inputs)`, output `(*, outputs)` of the present width.

    >>> widths = {1: LayerWidth(6, 5), 2: LayerWidth(3, 5)}
    >>> layer = SlimmableLinear(nn.Linear(6, 5), Knob("width", (1, 2)), widths)
    >>> layer.switch_to(2)
    >>> layer(torch.ones(2, 3)).shape
    torch.Size([2, 5])
    """

    inputs_axis = -1

    def __init__(
        self,
        linear: nn.Linear,
        knob: Knob,
        widths: Mapping[int, LayerWidth],
        name: str = "a dense layer",
    ) -> None:
        sizes = linear.in_features, linear.out_features
        super().__init__(*sizes, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.training = linear.training
        self._make_switchable(knob, widths, name)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Multiply in the present width."""
        self._check_inputs(input)
        if self.option == self.knob.options[0]:
            return super().forward(input)
        return self._product(input, *self.enabled())

    def _product(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return nn.functional.linear(input, weight, bias)

    def to_plain(self) -> nn.Module:
        """Return the standard dense layer of the present width, with weights of its own."""
        sizes = self.width.inputs, self.width.outputs
        place = {"device": self.weight.device, "dtype": self.weight.dtype}
        plain = skip_init(nn.Linear, *sizes, bias=self.bias is not None, **place)
        return self._copied_to(plain)


class SlimmablePadding(nn.Module):
    """A module that ends by padding channels, of which a narrower network has fewer.

    - `module`: it has no weights. `cuts`: for each option, how many channels are too many before
      and behind. `axis`: the padded dimension, -1 to -3.
    """

    def __init__(self, module: nn.Module, cuts: Mapping[int, tuple[int, int]], axis: int) -> None:
        super().__init__()
        self.module, self.cuts, self.axis = module, dict(cuts), axis
        self.option = next(iter(self.cuts))
        self.training = module.training

    def set_option(self, n: int) -> None:
        """Set an option that is known to be one of this module's."""
        self.__dict__["option"] = n

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Run the module, and cut off what is too many."""
        output = self.module(input)
        before, behind = self.cuts[self.option]
        size = output.shape[self.axis] - before - behind
        return output.narrow(self.axis, before, size) if before or behind else output

    def to_plain(self) -> nn.Module:
        """Return the module, and behind it the standard layer that pads by less than nothing."""
        before, behind = self.cuts[self.option]
        if not before and not behind:
            return self.module
        # torch's layer for volumes pads the last three dimensions: of maps the channels as well.
        layers: dict[int, Any] = {-1: nn.ZeroPad1d, -2: nn.ZeroPad2d, -3: nn.ZeroPad3d}
        cut = layers[self.axis]((0, 0) * (-self.axis - 1) + (-before, -behind))
        return nn.Sequential(self.module, cut).train(self.training)
