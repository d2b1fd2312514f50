"""Simulated integer arithmetic: numbers are rounded to a grid of 2^bits values, and stay floats.

A layer that computes with such numbers gives what integer arithmetic would give, but for rounding of
the sums. It is no faster: the products are taken in floating point. `wenable.exporting.int8` writes
the integers for an engine that does multiply them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

FULL_BITS = 32
FEWEST_BITS = 2


class _RoundStraightThrough(torch.autograd.Function):
    """Round half to even; the gradient passes as if nothing had been rounded."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad


class _ClipInclusive(torch.autograd.Function):
    """Clip; the gradient passes inside the bounds and on them.

    That of `torch.clamp` stops on the bounds in some versions of torch. On them lie the largest weight
    of every output, always, and half of all weights at 2 bits: they would never learn.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, lowest: int, highest: int) -> torch.Tensor:
        ctx.save_for_backward((x >= lowest) & (x <= highest))
        return x.clamp(lowest, highest)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (inside,) = ctx.saved_tensors
        return grad * inside, None, None


def _clip(x: torch.Tensor, lowest: int, highest: int) -> torch.Tensor:
    if not torch.is_grad_enabled():
        return x.clamp(lowest, highest)
    return _ClipInclusive.apply(x, lowest, highest)  # pyright: ignore[reportReturnType]


def _round(x: torch.Tensor) -> torch.Tensor:
    # A tracer sees a plain operation where no gradient is wanted.
    return _RoundStraightThrough.apply(x) if torch.is_grad_enabled() else torch.round(x)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True, slots=True)
class Grid:
    """The numbers that quantised values can take: `scale * (q - zero_point)`, `lowest <= q <= highest`.

    `scale` and `zero_point` are tensors that broadcast over what is quantised; `zero_point` holds a
    whole number. Zero is always on the grid.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    lowest: int
    highest: int

    def integers(self, x: torch.Tensor) -> torch.Tensor:
        """Return the number `q` nearest to each value, as a float; halves go to the even one.

        The gradient is that of a clip to the grid's range, its ends included: rounding is passed over
        (straight-through estimator, Bengio et al., 2013).
        """
        q = _round(x / self.scale) + self.zero_point
        return _clip(q, self.lowest, self.highest)

    def values(self, integers: torch.Tensor) -> torch.Tensor:
        """Return the numbers that integers stand for."""
        return (integers - self.zero_point) * self.scale

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """Return the nearest number on the grid, of the type of `x`."""
        # The grid of 8 bits is finer than what half precision tells apart.
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        return self.values(self.integers(wide)).to(x.dtype)


def weight_grid(weight: torch.Tensor, bits: int, outputs: tuple[int, ...] = (0,)) -> Grid:
    """Return the grid of a weight: symmetric, one scale for each output channel.

    - `weight`: shape `(out, ...)`; the largest magnitude of each output is on the grid.
    - `outputs`: the dimensions that tell outputs apart, where it is not the first alone.
    - `bits`: 2 or more; integers from `-(2^(bits-1) - 1)` to `2^(bits-1) - 1`, so that 2 bits are
      the three values -1, 0 and 1.

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference (CVPR 2018), section 3; a scale per channel after Krishnamoorthi
    (2018, arXiv:1806.08342).

    >>> grid = weight_grid(torch.tensor([[0.5, -1.0], [0.0, 0.0]]), 8)
    >>> grid.integers(torch.tensor([[0.5, -1.0], [0.0, 0.0]])).tolist()
    [[64.0, -127.0], [0.0, 0.0]]
    """
    highest = 2 ** (bits - 1) - 1
    others = tuple(dim for dim in range(weight.ndim) if dim not in outputs)
    largest = weight.detach().abs().amax(dim=others, keepdim=True)
    scale = largest / highest
    # An output without weights: any scale represents its zeros.
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return Grid(scale, torch.zeros_like(scale), -highest, highest)


def input_grid(low: torch.Tensor, high: torch.Tensor, bits: int) -> Grid:
    """Return the grid of activations: asymmetric, one scale for the whole tensor.

    - `low`, `high`: the range that is represented, widened to hold 0, both of shape `()`.
    - `bits`: 2 or more; integers from 0 to `2^bits - 1`.

    Source: Jacob et al. (CVPR 2018), section 2.1.

    >>> grid = input_grid(torch.tensor(0.0), torch.tensor(25.5), 8)
    >>> grid.integers(torch.tensor([-1.0, 0.0, 1.0, 99.0])).tolist()
    [0.0, 0.0, 10.0, 255.0]
    """
    highest = 2**bits - 1
    low, high = low.clamp_max(0), high.clamp_min(0)
    scale = (high - low) / highest
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero_point = torch.round(-low / scale).clamp(0, highest)
    return Grid(scale, zero_point, 0, highest)


class InputRange(nn.Module):
    """The range of a layer's input in one precision, as training and calibration saw it.

    `running_bounds` holds the lowest and the highest value, shape `(2,)`; infinity the wrong way
    round where nothing was seen yet. In training it is a moving average over batches (Jacob et al., 2018,
    section 3.1). Where training saw nothing, calibration takes the extremes of its images.

    - `calibrated_for`: a fingerprint of the weights that calibration saw it with; None where training
      did, or nobody knows.
    """

    running_bounds: torch.Tensor

    def __init__(self, like: torch.Tensor, momentum: float = 0.1) -> None:
        super().__init__()
        bounds = torch.tensor([torch.inf, -torch.inf], dtype=like.dtype, device=like.device)
        self.register_buffer("running_bounds", bounds)
        self.momentum = momentum
        self.collecting = False
        self.calibrated_for: int | None = None

    @property
    def is_known(self) -> bool:
        """Whether anything was seen."""
        return bool(self.running_bounds.isfinite().all())

    def forward(self, input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the lowest and the highest value to represent, and look at the input if asked to.

        Where nothing was ever seen, they are those of this input.
        """
        if self.training or self.collecting:
            self._look_at(input.detach())
        if torch.compiler.is_compiling() or self.is_known:
            return self.running_bounds[0], self.running_bounds[1]
        low, high = input.detach().aminmax()
        return low.to(self.running_bounds), high.to(self.running_bounds)

    def _look_at(self, input: torch.Tensor) -> None:
        low, high = (each.to(self.running_bounds) for each in input.aminmax())
        if not self.is_known:
            seen = torch.stack([low, high])
        elif self.collecting:
            seen = torch.stack(
                [self.running_bounds[0].minimum(low), self.running_bounds[1].maximum(high)]
            )
        else:
            seen = self.running_bounds.lerp(torch.stack([low, high]), self.momentum)
        self.running_bounds.copy_(seen)
        self.calibrated_for = None

    def forget(self) -> None:
        """Be as if nothing had been seen."""
        self.running_bounds.copy_(self.running_bounds.new_tensor([torch.inf, -torch.inf]))
        self.calibrated_for = None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        before = self.running_bounds.tolist()
        super()._load_from_state_dict(*args, **kwargs)
        if self.running_bounds.tolist() != before:  # on whichever device they lie now
            self.calibrated_for = None


class FakeQuantizedInput(nn.Module):
    """Rounds its input to a grid: what torch has no standard layer for.

    - `low`, `high`, `bits`: as in `input_grid`.

    Input and output of any one shape.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, low: torch.Tensor, high: torch.Tensor, bits: int) -> None:
        super().__init__()
        grid = input_grid(low, high, bits)
        self.bits = bits
        self.register_buffer("scale", grid.scale.clone())
        self.register_buffer("zero_point", grid.zero_point.clone())

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the nearest numbers on the grid."""
        return Grid(self.scale, self.zero_point, 0, 2**self.bits - 1).nearest(input)

    def extra_repr(self) -> str:
        """Tell the grid."""
        return f"bits={self.bits}, scale={float(self.scale):.3g}, zero_point={int(self.zero_point)}"
