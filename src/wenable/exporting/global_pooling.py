"""Traces a pooling to one pixel as the mean over all pixels, however memory lies.

Torch takes such a pooling apart by memory format: of features in channels_last, as those of a network that
was trained so or of one that permutes them, it makes steps over memory (`as_strided`), which an exporter
writes as a gathering by computed indices. Engines run that slowly, and our own kernels not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_DIMENSIONS: dict[Callable[..., Any], int] = {
    nn.functional.adaptive_avg_pool2d: 2,
    nn.functional.adaptive_avg_pool3d: 3,
}


class GlobalPoolingAsMean(TorchFunctionMode):
    """While it is on, a pooling to one pixel computes the mean: the same, by another operation.

    >>> x = torch.rand(2, 4, 3, 3).to(memory_format=torch.channels_last)
    >>> with GlobalPoolingAsMean():
    ...     pooled = nn.AdaptiveAvgPool2d(1)(x)
    >>> torch.allclose(pooled, x.mean((2, 3), keepdim=True))
    True
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run one function of torch."""
        given = kwargs or {}
        dimensions = _DIMENSIONS.get(func)
        if dimensions is not None and _is_one_pixel(*args, **given):
            return _pooled(dimensions, *args, **given)
        return func(*args, **given)


def _is_one_pixel(input: torch.Tensor, output_size: Any) -> bool:
    sides = output_size if isinstance(output_size, list | tuple) else [output_size]
    return all(type(side) is int and side == 1 for side in sides)


def _pooled(dimensions: int, input: torch.Tensor, output_size: Any) -> torch.Tensor:
    return input.mean(tuple(range(-dimensions, 0)), keepdim=True)
