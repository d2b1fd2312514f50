"""Counts what could be switched in a network, without wenable: by watching the calls it makes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_CONVOLUTIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_CONVOLUTIONS |= {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}


class GroupableCounter(TorchFunctionMode):
    """Adds up the MACs of every convolution and dense layer that is called while it is active.

    Groupable are the convolutions with `groups` 1 whose output map is larger than 1x1 and all dense
    layers, where 2 divides the inputs and the outputs. Layers with as many outputs as there are
    `classes` are classifiers and do not count.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.macs = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func is F.linear:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            self._add(output, weight)
        elif func in _CONVOLUTIONS:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
            spatial = output.shape[-_CONVOLUTIONS[func] :]
            if groups == 1 and math.prod(spatial) > 1:
                self._add(output, weight)
        return output

    def _add(self, output: torch.Tensor, weight: torch.Tensor) -> None:
        outputs, inputs = weight.shape[:2]
        if outputs % 2 == 0 and inputs % 2 == 0 and outputs != self.classes:
            self.macs += output.numel() * math.prod(weight.shape[1:])


@contextmanager
def attention_in_steps() -> Iterator[None]:
    """Keep torch's attention from its fused path, which is one call and hides its products."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def groupable_macs(model: nn.Module, batch: torch.Tensor, classes: int) -> int:
    """Return the MACs of one example that an option could divide by two or more."""
    with torch.no_grad(), attention_in_steps(), GroupableCounter(classes) as counter:
        model(batch)
    return counter.macs // len(batch)
