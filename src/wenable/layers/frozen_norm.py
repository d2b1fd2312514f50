"""The frozen batch norm of pretrained detectors, with statistics for each option but the first."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from wenable.core.entries import Entries
from wenable.layers.batch_norm import Statistics, SwitchableBatchNorm2d

_BUFFERS = ("weight", "bias", "running_mean", "running_var")


class SwitchableFrozenBatchNorm2d(SwitchableBatchNorm2d):
    """`torchvision.ops.FrozenBatchNorm2d` at option 1, and an ordinary batch norm at each other one.

    The constants of a frozen norm are the statistics of its layer as it was: at option 1 they stay
    what they are, in training and in inference, and calibration does not touch them. With fewer
    weights enabled the layer's outputs have other statistics. So every other option has a batch norm
    of its own, which starts from the constants, trains, and is calibrated as any.

    - `norm`: the norm to take over; its buffers are shared, not copied.
    - `options`: those of the layer whose output it normalises, ascending from 1.

    Input and output `(N, channels, H, W)`.

    >>> norm = SwitchableFrozenBatchNorm2d(FrozenBatchNorm2d(8), (1, 2, 4))
    >>> type(norm.to_plain()).__name__
    'FrozenBatchNorm2d'
    >>> norm.switch_to(4)
    >>> type(norm.to_plain()).__name__
    'BatchNorm2d'
    """

    def __init__(self, norm: FrozenBatchNorm2d, options: tuple[int, ...] = (1,)) -> None:
        super().__init__(as_batch_norm(norm), options)
        self._parameters.clear()
        self._buffers.clear()
        for name in _BUFFERS:
            self.register_buffer(name, norm.get_buffer(name))
        self.train(norm.training)

    @property
    def is_frozen(self) -> bool:
        """Whether the present option is the one with constants."""
        return self.slice_options[0] == 1

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise a batch of shape `(N, channels, H, W)` in the present option."""
        if not self.is_frozen:
            return super().normalise(x)
        if self.collecting is not None:
            self.collecting.add(x)
        # The operations of torchvision's norm in their order, for the same bits.
        frozen: Any = FrozenBatchNorm2d.forward
        return frozen(self, x)

    def present_statistics(self) -> Statistics:
        """Return a copy of the statistics that eval mode normalises with now."""
        if not self.is_frozen:
            return super().present_statistics()
        mean, var = self.get_buffer("running_mean"), self.get_buffer("running_var")
        return Statistics(mean.clone(), var.clone())

    def _copy(
        self, option: int = 1, features: Entries | None = None
    ) -> nn.modules.batchnorm._BatchNorm:
        # While the norm is made it has the parameters of an ordinary one.
        own = option == 1 and "weight" in self._buffers
        return as_batch_norm(self) if own else super()._copy(option, features)

    def plain_norm(self) -> nn.modules.batchnorm._BatchNorm:
        """Return the standard batch norm of the present option, with its present statistics."""
        return self._copy().train(self.training) if self.is_frozen else super().plain_norm()

    def to_plain(self) -> nn.Module:
        """Return the norm of the present option: frozen at option 1."""
        if not self.is_frozen:
            return self.plain_norm()
        plain = FrozenBatchNorm2d(self.num_features, self.eps)
        for name in _BUFFERS:
            setattr(plain, name, self.get_buffer(name).clone())
        return plain.train(self.training)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)  # of a checkpoint that was not frozen
        nn.Module._load_from_state_dict(self, state_dict, prefix, *args, **kwargs)


def as_batch_norm(norm: Any) -> nn.BatchNorm2d:
    """Return an ordinary batch norm that, in eval mode, computes what a frozen one does."""
    values = {name: norm.get_buffer(name) for name in _BUFFERS}
    like = values["weight"]
    plain = nn.BatchNorm2d(len(like), norm.eps, device=like.device, dtype=like.dtype)
    plain.load_state_dict(values, strict=False)
    return plain.eval() if not norm.training else plain
