"""Independent, slow references: written from the paper with loops, sharing no code with `src`."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


def shuffled_order(channels: int, groups: int) -> list[int]:
    """Fig. 4: split into groups, take the first of each, then the second of each, ..."""
    size = channels // groups
    split = [list(range(g * size, (g + 1) * size)) for g in range(groups)]
    return [group[i] for i in range(size) for group in split]


def mask(outputs: int, inputs: int, groups: int, order: list[int] | None = None) -> torch.Tensor:
    """1 where output row and input column are in the same group, shape `(outputs, inputs)`."""
    order = list(range(inputs)) if order is None else order
    allowed = torch.zeros(outputs, inputs)
    for row in range(outputs):
        group = row * groups // outputs
        enabled = [c for position, c in enumerate(order) if position * groups // inputs == group]
        allowed[row, enabled] = 1
    return allowed


def masked_weight(
    weight: torch.Tensor, groups: int, order: list[int] | None = None
) -> torch.Tensor:
    allowed = mask(weight.shape[0], weight.shape[1], groups, order)
    return weight * allowed.reshape(*allowed.shape, *([1] * (weight.ndim - 2)))


def batch_norm(x: np.ndarray, mean, var, weight, bias, eps: float) -> np.ndarray:
    """Eq. 4 in float64, channels in dimension 1."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    mean, var, weight, bias = (
        np.asarray(v, dtype=np.float64).reshape(shape) for v in (mean, var, weight, bias)
    )
    return weight * (x.astype(np.float64) - mean) / np.sqrt(var + eps) + bias


def convolution_macs(conv: nn.Conv2d, height: int, width: int, groups: int) -> int:
    """Eq. 2 and 3 at the output size, for an input of `height x width`."""

    def out(size: int, i: int) -> int:
        reach = conv.dilation[i] * (conv.kernel_size[i] - 1) + 1
        return (size + 2 * conv.padding[i] - reach) // conv.stride[i] + 1

    kernel = conv.kernel_size[0] * conv.kernel_size[1]
    full = out(height, 0) * out(width, 1) * conv.in_channels * conv.out_channels * kernel
    assert full % groups == 0
    return full // groups
