"""Layers that run in one of several precisions, on simulated integers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn
from torch.nn.utils import skip_init

from wenable.core.space import Knob
from wenable.core.views import Rounding, View
from wenable.layers.convolution import geometry
from wenable.layers.quantization import (
    FULL_BITS,
    FakeQuantizedInput,
    InputRange,
    input_grid,
    weight_grid,
)


class PrecisionLayer(nn.Module):
    """A layer whose weight and input can be rounded to fewer bits than 32: what all of them share.

    A knob sets the precision: option n leaves 32/n bits. At 32 nothing is rounded. Below, the weight
    is on a symmetric grid for each output channel and the input on an asymmetric one for the whole
    tensor, whose range was learned (`InputRange`). Biases and sums stay floats.

    A subclass keeps the option in `precision`, and says which of `input_ranges` a mode uses.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    knob: Knob
    precision: int
    input_ranges: nn.ModuleDict

    def _make_ranges(self, keys: Iterable[str]) -> None:
        self.input_ranges = nn.ModuleDict({key: InputRange(self.weight) for key in keys})
        self.input_ranges.train(self.training)

    def _range_key(self, mode: Mapping[str, int] | None) -> str | None:
        """Return the key of the range that a mode uses, the present one for None; None at 32 bits."""
        raise NotImplementedError

    @property
    def _known_as(self) -> str:
        """What a refusal calls the layer."""
        return self.knob.name

    @property
    def bits(self) -> int:
        """The bits of weights and inputs in the present option; 32 is floating point."""
        return FULL_BITS // self.precision

    @property
    def input_range(self) -> InputRange | None:
        """The range of the input in the present precision; None in floating point."""
        key = self._range_key(None)
        return None if key is None else self.input_ranges[key]  # pyright: ignore[reportReturnType]

    def knows_its_input(self, mode: Mapping[str, int]) -> bool:
        """Whether a mode can be used as it is: its input's range was seen, or it needs none."""
        key = self._range_key(mode)
        return key is None or self.input_ranges[key].is_known  # pyright: ignore[reportReturnType]

    def input_calibrated_for(self, mode: Mapping[str, int]) -> int | None:
        """Return the fingerprint of the weights that calibration saw a mode's range with, if it did."""
        key = self._range_key(mode)
        return None if key is None else self.input_ranges[key].calibrated_for  # pyright: ignore[reportReturnType]

    def _rounded_input(self, input: torch.Tensor) -> torch.Tensor:
        """Return the input on the grid of the present precision, and let its range look at it."""
        input_range = self.input_range
        assert input_range is not None
        low, high = input_range(input)
        return input_grid(low, high, self.bits).nearest(input)

    def _rounded_weight(
        self, weight: torch.Tensor, outputs: tuple[int, ...] = (0,)
    ) -> torch.Tensor:
        return weight_grid(weight, self.bits, outputs).nearest(weight)

    def views(self) -> Mapping[str, View]:
        """Return the grids of the present precision; nothing in floating point.

        Raises `ValueError` where the range of the input was never seen.
        """
        if self.input_range is None:
            return {}
        grid = input_grid(*self._known_bounds(), self.bits)
        rounding = Rounding(self.bits, float(grid.scale), int(grid.zero_point))
        return {"weight": View(rounding=rounding)}

    def _known_bounds(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the lowest and the highest value of the input; raises where it was never seen."""
        input_range = self.input_range
        assert input_range is not None
        if not input_range.is_known:
            raise ValueError(
                f"the range of the input of {self._known_as!r} at {self.bits} bits was never seen;"
                " train, or call wenable.calibrate(net, modes, batches) first"
            )
        low, high = input_range.running_bounds
        return low, high

    def _behind_rounding(self, plain: nn.Module) -> nn.Module:
        """Return a standard layer in the present precision: its weight rounded, its input before it.

        torch has no standard layer that rounds, so below 32 bits a `FakeQuantizedInput` stands
        before it. Raises `ValueError` where the range of the input was never seen.
        """
        if self.input_range is None:
            return plain
        low, high = self._known_bounds()
        with torch.no_grad():
            weight = plain.get_parameter("weight")
            weight.copy_(self._rounded_weight(weight))
        row = nn.Sequential(FakeQuantizedInput(low, high, self.bits), plain).train(self.training)
        row.__dict__["weight"] = weight  # networks look at its type; it has its name already
        return row

    def to_plain(self) -> nn.Module:
        """Return the layer of the present options, as `_behind_rounding` says."""
        raise NotImplementedError


class PrecisionBesideAnOption(PrecisionLayer):
    """A layer with an option of its own and, besides, a precision that another knob sets.

    It has two options: `option`, of groups or of a width, and `precision`, where n leaves 32/n bits.
    The range of the input is kept for each pair of options: with less of the network enabled before
    this layer, its input is often smaller.
    """

    option: int
    precision_knob: Knob

    def _add_precision(self, precision_knob: Knob) -> None:
        self.precision_knob = precision_knob
        self.precision = 1
        bits = [FULL_BITS // n for n in precision_knob.options if n > 1]
        self._make_ranges(f"{b}_{n}" for b in bits for n in self.knob.options)

    def set_precision(self, n: int) -> None:
        """Run at 32/n bits from now on; a precision the layer lacks is refused."""
        self.precision_knob.check(n)
        self.put_precision(n)

    def put_precision(self, n: int) -> None:
        """Set a precision that is known to be one of this layer's."""
        self.__dict__["precision"] = n

    def _range_key(self, mode: Mapping[str, int] | None) -> str | None:
        n = self.option if mode is None else mode[self.knob.name]
        precision = self.precision if mode is None else mode[self.precision_knob.name]
        return None if precision == 1 else f"{FULL_BITS // precision}_{n}"

    def _precisions_repr(self) -> str:
        every = ", ".join(str(FULL_BITS // n) for n in self.precision_knob.options)
        return f"bits={self.bits} of ({every})"


class SwitchablePrecisionLayer(PrecisionLayer):
    """A layer whose weight and input are rounded to as many bits as its option leaves them.

    Option n leaves 32/n bits. At 32 it is the layer it was made from, to the bit.
    """

    def _make_switchable(self, knob: Knob) -> None:
        self.knob = knob
        self.precision = 1
        self._make_ranges(str(FULL_BITS // n) for n in knob.options if n > 1)

    @property
    def option(self) -> int:
        """The present option: n for 32/n bits."""
        return self.precision

    def switch_to(self, n: int) -> None:
        """Run at 32/n bits from now on; an option the layer lacks is refused."""
        self.knob.check(n)
        self.put_precision(n)

    def put_precision(self, n: int) -> None:
        """Set an option that is known to be one of this layer's."""
        self.__dict__["precision"] = n

    set_option = put_precision

    def _range_key(self, mode: Mapping[str, int] | None) -> str | None:
        n = self.precision if mode is None else mode[self.knob.name]
        return None if n == 1 else str(FULL_BITS // n)

    def _on_grids(self, input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the input and the weight, rounded to the present precision."""
        return self._rounded_input(input), self._rounded_weight(self.weight)

    def to_plain(self) -> nn.Module:
        """Return the layer of the present precision: its weight on the grid, its input rounded.

        The weight is that of a standard torch layer. Raises `ValueError` where the range of the
        input was never seen.
        """
        plain = self._plain()
        with torch.no_grad():
            for name, parameter in plain.named_parameters():
                own = self.get_parameter(name)
                parameter.copy_(own)
                parameter.requires_grad_(own.requires_grad)
        return self._behind_rounding(plain)

    def _plain(self) -> nn.Module:
        raise TypeError("use SwitchablePrecisionConv2d or SwitchablePrecisionLinear")

    def extra_repr(self) -> str:
        """Add the precisions to what a layer tells."""
        every = ", ".join(str(FULL_BITS // n) for n in self.knob.options)
        return f"{super().extra_repr()}, bits={self.bits} of ({every})"


class SwitchablePrecisionConv2d(SwitchablePrecisionLayer, nn.Conv2d):
    """A convolution in one of several precisions; grouped and depthwise ones as well.

    - `convolution`: the layer to take over; its parameters are shared, not copied.
    - `knob`: its name and options; option n leaves 32/n bits.

    Input `(N, in, H, W)`, output `(N, out, H', W')` in every precision.

    >>> layer = SwitchablePrecisionConv2d(nn.Conv2d(4, 8, 3), Knob("conv", (1, 4)))
    >>> layer.switch_to(4)
    >>> layer.bits, layer(torch.ones(1, 4, 5, 5)).shape
    (8, torch.Size([1, 8, 3, 3]))
    """

    def __init__(self, convolution: nn.Conv2d, knob: Knob) -> None:
        super().__init__(**geometry(convolution), groups=convolution.groups, device="meta")
        self.weight, self.bias = convolution.weight, convolution.bias
        self.training = convolution.training
        self._make_switchable(knob)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve in the present precision."""
        if self.option == 1:
            return super().forward(input)
        return self._conv_forward(*self._on_grids(input), self.bias)

    def _plain(self) -> nn.Module:
        place = {"device": self.weight.device, "dtype": self.weight.dtype}
        plain = skip_init(nn.Conv2d, **geometry(self), groups=self.groups, **place)
        if not self.weight.is_contiguous():
            plain.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return plain.train(self.training)


class SwitchablePrecisionLinear(SwitchablePrecisionLayer, nn.Linear):
    """A dense layer in one of several precisions.

    - `linear`: the layer to take over; its parameters are shared, not copied.
    - `knob`: its name and options; option n leaves 32/n bits.

    Input `(*, in)`, output `(*, out)` in every precision.

    >>> layer = SwitchablePrecisionLinear(nn.Linear(6, 4), Knob("fc", (1, 4, 8)))
    >>> layer.switch_to(8)
    >>> layer.bits, layer(torch.ones(3, 6)).shape
    (4, torch.Size([3, 4]))
    """

    def __init__(self, linear: nn.Linear, knob: Knob) -> None:
        sizes = linear.in_features, linear.out_features
        super().__init__(*sizes, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.training = linear.training
        self._make_switchable(knob)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Multiply in the present precision."""
        if self.option == 1:
            return super().forward(input)
        return nn.functional.linear(*self._on_grids(input), self.bias)

    def _plain(self) -> nn.Module:
        sizes = self.in_features, self.out_features
        place = {"device": self.weight.device, "dtype": self.weight.dtype}
        plain = skip_init(nn.Linear, *sizes, bias=self.bias is not None, **place)
        return plain.train(self.training)
