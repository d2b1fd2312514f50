"""Batch norm with private statistics and affine per option, and statistics calibrated per mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import nn
from torch.nn import functional as F

from wenable.core.entries import Entries, count_of
from wenable.layers.enabled import enabled
from wenable.layers.optimizer_steps import STEPS


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean and variance of each channel over a calibration set, both of shape `(channels,)`."""

    mean: torch.Tensor
    var: torch.Tensor


@dataclass(slots=True)
class Moments:
    """Sums over the batches seen so far, in float64, from which `Statistics` follow."""

    count: int = 0
    total: torch.Tensor | None = None
    total_of_squares: torch.Tensor | None = None

    def add(self, x: torch.Tensor) -> None:
        """Add a batch, shape `(N, channels, *)`."""
        # Sums of a few hundred thousand float32 squares lose digits; in float64 they do not.
        x_CB = x.detach().transpose(0, 1).flatten(1).double()
        total, squares = x_CB.sum(1), x_CB.square().sum(1)
        self.total = total if self.total is None else self.total + total
        self.total_of_squares = (
            squares if self.total_of_squares is None else self.total_of_squares + squares
        )
        self.count += x_CB.shape[1]

    def sums(self, channels: int, device: torch.device) -> torch.Tensor:
        """Return all sums as one tensor, shape `(2 * channels + 1,)`: what processes exchange."""
        zeros = torch.zeros(channels, dtype=torch.float64, device=device)
        parts = [zeros if part is None else part for part in (self.total, self.total_of_squares)]
        return torch.cat([*parts, zeros.new_tensor([self.count])])

    def set_sums(self, sums: torch.Tensor) -> None:
        """Take what `sums` returned, added up over processes."""
        self.total, self.total_of_squares = sums[:-1].chunk(2)
        self.count = int(sums[-1])

    def statistics(self, dtype: torch.dtype) -> Statistics:
        """Return the mean and the unbiased variance of all that was added, as batch norm keeps.

        Raises `ValueError` where fewer than two values a channel were added.
        """
        if self.total is None or self.total_of_squares is None or self.count < 2:
            raise ValueError(f"statistics need at least 2 values a channel, not {self.count}")
        mean = self.total / self.count
        variance = (self.total_of_squares / self.count - mean.square()).clamp_min(0)
        unbiased = variance * (self.count / (self.count - 1))
        return Statistics(mean.to(dtype), unbiased.to(dtype))


class SwitchableBatchNorm(nn.modules.batchnorm._BatchNorm):
    """What the switchable batch norms share; WeNet section III-C, S-BN of slimmable networks.

    Option 1 is the batch norm it was made from, with its parameter names. Every other option has
    a batch norm of its own in `by_pattern`, which starts as a copy. A norm that follows no
    switchable layer has option 1 only.

    - `norm`: the batch norm to take over; its parameters are shared, not copied.
    - `options`: those of the layers whose outputs it normalises, ascending from 1.
    - `widths`: behind a concatenation, how many channels come from each of its inputs. Each of
      these slices has an option of its own; together they take the place of all channels.

    The statistics of an option are averages over whatever the rest of the network did while
    training; those of one mode come from calibration and are put in with `use_statistics`.
    """

    name_in_plain: ClassVar[str] = ""
    """Where the norm lies in what `to_plain` returns."""
    by_pattern: nn.ModuleDict
    calibrated: Statistics | None
    """The statistics that eval mode normalises with, or None for the option's own."""

    def __init__(
        self,
        norm: nn.modules.batchnorm._BatchNorm,
        options: tuple[int, ...] = (1,),
        widths: tuple[int, ...] = (),
    ) -> None:
        affine, tracks = norm.weight is not None, norm.running_mean is not None
        super().__init__(norm.num_features, norm.eps, norm.momentum, affine, tracks, device="meta")
        if not tracks:
            raise ValueError("a batch norm without running statistics cannot be switched")
        self._take_over(norm)
        self.options = options
        self.widths = widths or (norm.num_features,)
        if sum(self.widths) != norm.num_features:
            raise ValueError(
                f"`widths` (={widths}) must add up to the channels (={norm.num_features}) of the norm"
            )
        self.slice_options = [1] * len(self.widths)
        self.by_pattern = nn.ModuleDict({str(n): self._copy() for n in options if n != 1})
        self.calibrated = None
        self._joined: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
        self._joined_state: Any = None
        self._joined_sources: list[torch.Tensor] = []
        self.collecting: Moments | None = None
        self.train(norm.training)

    def _take_over(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked

    def _plain_class(self) -> type[nn.modules.batchnorm._BatchNorm]:
        raise TypeError("use SwitchableBatchNorm1d or SwitchableBatchNorm2d")

    @property
    def present_features(self) -> int:
        """How many channels the input has in the present option."""
        return self.num_features

    def _copy(
        self, option: int = 1, features: Entries | None = None
    ) -> nn.modules.batchnorm._BatchNorm:
        """Return a plain copy of an option's batch norm, of all its channels or of some."""
        source = self.of_option(option)
        features = self.num_features if features is None else features
        plain = self._plain_class()(
            count_of(features),
            self.eps,
            self.momentum,
            self.affine,
            device=source.running_mean.device if source.running_mean is not None else None,
            dtype=source.running_mean.dtype if source.running_mean is not None else None,
        )
        own = {
            name: enabled(tensor, 0, features) if tensor.ndim else tensor
            for name, tensor in source.state_dict().items()
            if "." not in name
        }
        plain.load_state_dict(own)
        for name, parameter in plain.named_parameters():
            parameter.requires_grad_(source.get_parameter(name).requires_grad)
        return plain.train(self.training)

    def of_option(self, n: int) -> nn.modules.batchnorm._BatchNorm:
        """Return the batch norm whose parameters option `n` uses: this one for 1."""
        if n == 1:
            return self
        # Not through `nn.ModuleDict`, which looks a name up four times slower.
        return cast(nn.modules.batchnorm._BatchNorm, self.by_pattern._modules[str(n)])

    def switch_to(self, n: int, part: int | None = None) -> None:
        """Normalise as option `n` from now on: one slice of the channels, or all of them.

        Raises `ValueError` for an option it lacks.
        """
        if n not in self.options:
            raise ValueError(f"`n` (={n}) is no option of this batch norm; allowed: {self.options}")
        for each in range(len(self.widths)) if part is None else (part,):
            self.set_option(n, each)

    def set_option(self, n: int, part: int = 0) -> None:
        """Set the option of one slice to one that is known to be allowed."""
        self.slice_options[part] = n

    def use_statistics(self, statistics: Statistics | None) -> None:
        """In eval mode, normalise with these statistics; None returns to the option's own.

        They must be of the type and on the device of this norm (`in_place_of_its_own`).
        """
        # A module's own `__setattr__` looks through its parameters first, fifty times a switch.
        self.__dict__["calibrated"] = statistics

    def in_place_of_its_own(self, statistics: Statistics) -> Statistics:
        """Return statistics in the type and on the device of this norm."""
        place = self.running_mean
        assert place is not None
        return Statistics(statistics.mean.to(place), statistics.var.to(place))

    def present_statistics(self) -> Statistics:
        """Return a copy of the statistics that eval mode normalises with now."""
        if self.calibrated is not None:
            return Statistics(self.calibrated.mean.clone(), self.calibrated.var.clone())
        mean, var = self._present("running_mean"), self._present("running_var")
        assert mean is not None
        assert var is not None
        return Statistics(mean.clone(), var.clone())

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise a batch of shape `(N, channels, *)` in the present option."""
        if self.collecting is not None:
            self.collecting.add(x)
            return self._batch_norm(x, None, None, 0.0)
        if not self.training and self.calibrated is not None:
            return self._normalise_calibrated(x, self.calibrated)
        if self._is_mixed:
            return self._normalise_slices(x)
        norm = self.of_option(self.slice_options[0])
        return super().forward(x) if norm is self else norm(x)

    def _normalise_calibrated(self, x: torch.Tensor, kept: Statistics) -> torch.Tensor:
        weight, bias = self._mixed_affine() if self._is_mixed else self._affine()
        return F.batch_norm(x, kept.mean, kept.var, weight, bias, False, 0.0, self.eps)

    def _affine(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return the weight and bias of the option that all slices are in."""
        parameters = self.of_option(self.slice_options[0])._parameters
        return parameters["weight"], parameters["bias"]

    def _mixed_affine(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return weight and bias joined from the slices; without gradients they are joined once."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or not self.affine:
            return self._present("weight"), self._present("bias")
        sources = [
            (parameter, parameter._version)
            for n in set(self.slice_options)
            for parameter in self.of_option(n).parameters(recurse=False)
        ]
        # Fused optimizers write without counting it in the version.
        written = [(p.data_ptr(), version) for p, version in sources]
        state = (tuple(self.slice_options), STEPS.last, written)
        if self._joined_state != state:
            # The sources are held: no other parameter can come to lie where they lie.
            self._joined_sources = [parameter.detach() for parameter, _ in sources]
            self._joined = (self._present("weight"), self._present("bias"))
            self._joined_state = state
        return self._joined

    def _batch_norm(
        self, x: torch.Tensor, mean: torch.Tensor | None, var: torch.Tensor | None, momentum: float
    ) -> torch.Tensor:
        by_batch = mean is None or self.training
        weight, bias = self._present("weight"), self._present("bias")
        return F.batch_norm(x, mean, var, weight, bias, by_batch, momentum, self.eps)

    def _normalise_slices(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise slices in different options at once; in training, write their averages back."""
        mean, var = self._present("running_mean"), self._present("running_var")
        assert mean is not None
        assert var is not None
        assert self.momentum is not None
        y = self._batch_norm(x, mean, var, self.momentum)
        if self.training:
            for name, averages in (("running_mean", mean), ("running_var", var)):
                for part, updated in zip(
                    self._parts(name), averages.split(self.widths), strict=True
                ):
                    part.copy_(updated)
            for n in set(self.slice_options):
                tracked = self.of_option(n).num_batches_tracked
                assert tracked is not None
                tracked.add_(1)
        return y

    @property
    def _is_mixed(self) -> bool:
        """Whether slices of the channels are in different options."""
        return self.slice_options.count(self.slice_options[0]) != len(self.slice_options)

    def _parts(self, name: str) -> list[torch.Tensor]:
        """Return views of a parameter or buffer, for each slice that of its present option."""
        starts = [sum(self.widths[:i]) for i in range(len(self.widths))]
        return [
            getattr(self.of_option(n), name)[start : start + width]
            for n, start, width in zip(self.slice_options, starts, self.widths, strict=True)
        ]

    def _present(self, name: str) -> torch.Tensor | None:
        """Return a parameter or buffer in the present options, shape `(channels,)`, or None."""
        first = getattr(self.of_option(self.slice_options[0]), name)
        if first is None or not self._is_mixed:
            return first
        return torch.cat(self._parts(name))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise a batch of shape `(N, channels, *)` in the present option."""
        return self.normalise(input)

    def to_plain(self) -> nn.Module:
        """Return the module that computes the present option without wenable."""
        return self.plain_norm()

    def plain_norm(self) -> nn.modules.batchnorm._BatchNorm:
        """Return the standard batch norm of the present option, with its present statistics."""
        plain = self._copy(self.slice_options[0])
        if plain.affine:
            for name in ("weight", "bias"):
                present = self._present(name)
                assert present is not None
                plain.get_parameter(name).data.copy_(present.detach())
        statistics = self.present_statistics()
        plain.running_mean, plain.running_var = statistics.mean, statistics.var
        return plain

    def extra_repr(self) -> str:
        """Add the options to what a batch norm tells."""
        return f"{super().extra_repr()}, options={self.options}"


class SwitchableBatchNorm1d(SwitchableBatchNorm, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` with private statistics and affine per option.

    Input and output `(N, channels)` or `(N, channels, L)`.
    """

    def _plain_class(self) -> type[nn.modules.batchnorm._BatchNorm]:
        return nn.BatchNorm1d


class SwitchableBatchNorm2d(SwitchableBatchNorm, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` with private statistics and affine per option.

    Input and output `(N, channels, H, W)`.

    - `norm`: the batch norm to take over; its parameters are shared, not copied.
    - `options`: those of the layer whose output it normalises.

    Source: WeNet, section III-C (switchable batch normalisation, one for every option of a layer).

    >>> norm = SwitchableBatchNorm2d(nn.BatchNorm2d(8), (1, 2, 4))
    >>> norm.switch_to(4)
    >>> sorted(name for name, _ in norm.named_parameters())[:3]
    ['bias', 'by_pattern.2.bias', 'by_pattern.2.weight']
    """

    def _plain_class(self) -> type[nn.modules.batchnorm._BatchNorm]:
        return nn.BatchNorm2d


class SwitchableBatchNorm3d(SwitchableBatchNorm, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` with private statistics and affine per option.

    Input and output `(N, channels, D, H, W)`.
    """

    def _plain_class(self) -> type[nn.modules.batchnorm._BatchNorm]:
        return nn.BatchNorm3d


class SwitchableSyncBatchNorm(SwitchableBatchNorm, nn.SyncBatchNorm):
    """`torch.nn.SyncBatchNorm` with private statistics and affine per option.

    While training in several processes each option's statistics are over the batches of all of
    them, as torch's are. Input and output `(N, channels, *)`.
    """

    def _take_over(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super()._take_over(norm)
        self.process_group = cast(nn.SyncBatchNorm, norm).process_group

    def _copy(
        self, option: int = 1, features: Entries | None = None
    ) -> nn.modules.batchnorm._BatchNorm:
        plain = super()._copy(option, features)
        cast(nn.SyncBatchNorm, plain).process_group = self.process_group
        return plain

    def _plain_class(self) -> type[nn.modules.batchnorm._BatchNorm]:
        return nn.SyncBatchNorm


class SwitchableBatchNormAct2d(SwitchableBatchNorm2d):
    """The same for timm's `BatchNormAct2d`: a batch norm, then `drop`, then the activation `act`."""

    name_in_plain = "0"
    drop: nn.Module
    act: nn.Module

    def __init__(
        self,
        norm: nn.modules.batchnorm._BatchNorm,
        options: tuple[int, ...] = (1,),
        widths: tuple[int, ...] = (),
    ) -> None:
        super().__init__(norm, options, widths)
        self.drop, self.act = norm.get_submodule("drop"), norm.get_submodule("act")

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise, drop and activate a batch of shape `(N, channels, H, W)`."""
        return self.act(self.drop(self.normalise(input)))

    def to_plain(self) -> nn.Module:
        """Return the batch norm, the drop and the activation in a row."""
        return nn.Sequential(self.plain_norm(), self.drop, self.act).train(self.training)
