"""How a layer in an option is computed while training: one function, several speeds.

At 1/16 a layer has a sixteenth of the multiply-accumulates, and PyTorch's grouped convolution often
takes longer over them than over all. Which other way is fast depends on sizes and device, so the
ways stand here side by side, and `wenable.training` times them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from wenable.layers.blocks import diagonal_blocks

GROUPED = "grouped"
"""As written: the shuffle, then a grouped convolution, or a product for each group."""
DENSE = "dense"
"""The whole layer with zeros where the weight is not enabled; the shuffle is in its columns."""
MATMUL = "matmul"
"""A convolution of kernel size 1 as one batched matrix product."""
SPLIT = "split"
"""A convolution for each group, their outputs put side by side."""
_MERGED = "merged to "


def merged_to(groups: int) -> str:
    """Return the implementation with fewer groups than the option has, and zeros inside of them.

    >>> merged_to(4)
    'merged to 4'
    """
    return f"{_MERGED}{groups}"


def groups_merged_to(implementation: str) -> int | None:
    """Return how many groups an implementation merges to, or None where it merges none."""
    groups = implementation.removeprefix(_MERGED)
    return int(groups) if groups != implementation and groups.isdecimal() else None


def merges(option: int, options: tuple[int, ...]) -> tuple[str, ...]:
    """Return the implementations of an option that merge its groups to a coarser option's.

    >>> merges(8, (1, 2, 4, 8, 16))
    ('merged to 2', 'merged to 4')
    """
    return tuple(merged_to(n) for n in options if 1 < n < option)


def merged_blocks(
    weight: torch.Tensor, option: int, groups: int, order: torch.Tensor | None
) -> torch.Tensor:
    """Return the weight of option `1/option` as that of a layer with fewer `groups`.

    - `weight`: shape `(out, in, *kernel)`.
    - `order`: in which the inputs are read, as of `diagonal_blocks`.

    Returns shape `(out, in / groups, *kernel)`, zero where the option enables nothing; what is
    zero gets a zero gradient.
    """
    blocks = diagonal_blocks(weight, groups, order)
    # o: outputs, i: inputs of one of the `groups`, which holds option / groups finer ones
    finer = torch.arange(option, device=weight.device) % (option // groups)
    row_o = finer.repeat_interleave(weight.shape[0] // option)
    column_i = torch.arange(blocks.shape[1], device=weight.device) // (weight.shape[1] // option)
    enabled_oi = row_o[:, None] == column_i
    return torch.where(enabled_oi.view(*enabled_oi.shape, *[1] * (weight.ndim - 2)), blocks, 0)


def masked_weight(weight: torch.Tensor, option: int, order: torch.Tensor | None) -> torch.Tensor:
    """Return the whole weight, shape `(out, in, *kernel)`, with zeros outside the enabled blocks.

    Its columns are in their own order: a layer with this weight reads its input unshuffled.
    """
    row_o = torch.arange(option, device=weight.device).repeat_interleave(weight.shape[0] // option)
    column_i = torch.arange(option, device=weight.device).repeat_interleave(
        weight.shape[1] // option
    )
    if order is not None:
        column_i = torch.empty_like(column_i).index_copy(0, order, column_i)
    enabled_oi = row_o[:, None] == column_i
    return torch.where(enabled_oi.view(*enabled_oi.shape, *[1] * (weight.ndim - 2)), weight, 0)


def is_pointwise(convolution: Any) -> bool:
    """Say whether a convolution, of any dimensions, is a matrix product at every position."""
    unpadded = convolution.padding == "valid" or not any(convolution.padding)
    return math.prod(convolution.kernel_size) == 1 and unpadded


def pointwise_product(
    x: torch.Tensor,
    blocks: torch.Tensor,
    bias: torch.Tensor | None,
    groups: int,
    stride: tuple[int, ...],
) -> torch.Tensor:
    """Return a grouped convolution of kernel size 1 as a batched matrix product.

    - `x`: shape `(N, in, *sizes)`; of images in either memory format, which the output has too.
    - `blocks`: shape `(out, in / groups, *ones)`.
    """
    # Before it is cut: what a stride leaves is contiguous in neither format.
    channels_last = (
        x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    )
    if any(step != 1 for step in stride):
        x = x[(slice(None), slice(None), *(slice(None, None, step) for step in stride))]
    sizes = x.shape[2:]
    blocks_goi = blocks.flatten(1).unflatten(0, (groups, -1))
    if channels_last:
        # p: all positions of all images
        x_gpi = x.permute(0, 2, 3, 1).reshape(-1, groups, blocks.shape[1]).transpose(0, 1)
        y_gpo = torch.bmm(x_gpi, blocks_goi.transpose(1, 2))
        y = y_gpo.transpose(0, 1).reshape(-1, *sizes, len(blocks)).permute(0, 3, 1, 2)
    else:
        x_Ngip = x.flatten(2).unflatten(1, (groups, -1))
        y = torch.matmul(blocks_goi, x_Ngip).view(-1, len(blocks), *sizes)
    return y if bias is None else y + in_type_of(y, bias).view(1, -1, *[1] * len(sizes))


def in_type_of(output: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return a bias in the type of a product: in autocast a sum would be of the wider one."""
    return bias if bias.dtype == output.dtype else bias.to(output.dtype)


def split_convolution(
    convolve: Callable[..., torch.Tensor],
    x: torch.Tensor,
    blocks: torch.Tensor,
    bias: torch.Tensor | None,
    groups: int,
    stride: tuple[int, ...],
    padding: str | tuple[int, ...],
    dilation: tuple[int, ...],
) -> torch.Tensor:
    """Return a grouped convolution as one convolution a group.

    - `convolve`: torch's function for a convolution of these dimensions.
    """
    biases = [None] * groups if bias is None else bias.chunk(groups)
    parts = zip(x.chunk(groups, 1), blocks.chunk(groups), biases, strict=True)
    return torch.cat([convolve(*part, stride, padding, dilation) for part in parts], 1)
