"""Batch norms of layers that run with some of their channels only."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from wenable.core.entries import Entries, count_of
from wenable.layers.batch_norm import (
    SwitchableBatchNorm,
    SwitchableBatchNorm1d,
    SwitchableBatchNorm2d,
    SwitchableBatchNorm3d,
    SwitchableBatchNormAct2d,
    SwitchableSyncBatchNorm,
)
from wenable.layers.enabled import enabled, mark


class SlimmableBatchNorm(SwitchableBatchNorm):
    """A batch norm over the channels that the option leaves: the first, or the first of several parts.

    - `norm`: the batch norm to take over; its parameters are shared, not copied.
    - `features`: option -> how many channels, or which, the widest option 1 first.
    - `private`: whether every option has an affine and running averages of its own (switchable
      batch norm, Yu et al., 2019). Otherwise all share one affine, of which they use the first
      part; the running averages are those of the widest, and any other has its statistics from
      calibration (Yu and Huang, 2019, section 3.2).
    - `name`: what a refusal calls it.
    """

    def __init__(
        self,
        norm: nn.modules.batchnorm._BatchNorm,
        features: Mapping[int, Entries],
        private: bool,
        name: str = "a batch norm",
    ) -> None:
        super().__init__(norm)
        self.name = name
        self.options = tuple(features)
        self.features = dict(features)
        if private:
            self.by_pattern = nn.ModuleDict(
                {str(n): self._copy(1, kept) for n, kept in features.items() if n != 1}
            )

    @property
    def present_features(self) -> int:
        """How many channels the present option has."""
        return count_of(self._present_entries)

    @property
    def _present_entries(self) -> Entries:
        return self.features[self.slice_options[0]]

    def _copy(
        self, option: int = 1, features: Entries | None = None
    ) -> nn.modules.batchnorm._BatchNorm:
        kept = self.features[option] if features is None else features
        if self.of_option(option) is not self:  # an option's own tensors are cut already
            kept = count_of(kept)
        return super()._copy(option, kept)

    def of_option(self, n: int) -> nn.modules.batchnorm._BatchNorm:
        """Return the batch norm whose parameters option `n` uses: this one where all share them."""
        return super().of_option(n) if str(n) in self.by_pattern._modules else self

    def _present(self, name: str) -> torch.Tensor | None:
        tensor = super()._present(name)
        if tensor is None or len(tensor) == self.present_features:
            return tensor
        return enabled(tensor, 0, self._present_entries)

    def enabled_entries(self) -> dict[str, torch.Tensor]:
        """Return for each parameter which of its entries the present option uses."""
        n = self.slice_options[0]
        own = "" if self.of_option(n) is self else f"by_pattern.{n}."
        masks = {}
        for name, parameter in self.named_parameters():
            masks[name] = torch.zeros_like(parameter, dtype=torch.bool)
            if name.rpartition(".")[0] == own.removesuffix("."):
                mark(masks[name], self.present_features if own else self._present_entries)
        return masks

    def _affine(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        return self._present("weight"), self._present("bias")

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise a batch of shape `(N, present_features, *)` in the present option."""
        n = self.slice_options[0]
        if x.shape[1] != self.present_features:
            raise ValueError(
                f"{self.name!r} normalises {self.present_features} of its {self.num_features}"
                f" channels in the present mode, and was given {x.shape[1]}: the network fixes a"
                " number of channels in its own code"
            )
        own = n == 1 or self.of_option(n) is not self
        if (
            own
            or self.collecting is not None
            or (self.calibrated is not None and not self.training)
        ):
            return super().normalise(x)
        if self.training:
            return self._batch_norm(x, None, None, 0.0)
        return self._batch_norm(x, self._present("running_mean"), self._present("running_var"), 0.0)


class SlimmableBatchNorm1d(SlimmableBatchNorm, SwitchableBatchNorm1d):
    """`torch.nn.BatchNorm1d` in several widths: `(N, features)` or `(N, features, L)`."""


class SlimmableBatchNorm2d(SlimmableBatchNorm, SwitchableBatchNorm2d):
    """`torch.nn.BatchNorm2d` in several widths: `(N, features, H, W)`.

    >>> norm = SlimmableBatchNorm2d(nn.BatchNorm2d(8), {1: 8, 2: 4}, private=True)
    >>> norm.switch_to(2)
    >>> norm(torch.ones(2, 4, 3, 3)).shape, norm.to_plain().num_features
    (torch.Size([2, 4, 3, 3]), 4)
    """


class SlimmableBatchNorm3d(SlimmableBatchNorm, SwitchableBatchNorm3d):
    """`torch.nn.BatchNorm3d` in several widths: `(N, features, D, H, W)`."""


class SlimmableSyncBatchNorm(SlimmableBatchNorm, SwitchableSyncBatchNorm):
    """`torch.nn.SyncBatchNorm` in several widths: `(N, features, *)`."""


class SlimmableBatchNormAct2d(SlimmableBatchNorm, SwitchableBatchNormAct2d):
    """The same for timm's `BatchNormAct2d`: a batch norm, then a drop and an activation."""
