"""One step of Algorithm 1: several modes forward and backward, one step of the optimizer."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from wenable.dynamic_network import DynamicNetwork
from wenable.evaluation import check_batch
from wenable.modules import device_of
from wenable.processes import true_anywhere
from wenable.space import Mode
from wenable.training.config import TrainConfig

Batch = tuple[Any, torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def train_step(
    net: DynamicNetwork,
    batch: Batch,
    modes: Sequence[Mode],
    loss_function: Loss,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig | None = None,
    *,
    scaler: torch.amp.GradScaler | None = None,
    parallel: DistributedDataParallel | None = None,
) -> tuple[float, ...]:
    """Make one step of Algorithm 1 (lines 4-20) and return the loss of each mode.

    - `batch`: images, or a tuple of inputs, and labels `(N,)` or class shares `(N, classes)`.
    - `config`: its `distillation`, `accumulate`, `precision` and `clip` are used.
    - `scaler`: of the losses in float16.
    - `parallel`: the same network wrapped for several processes. Gradients of all modes are
      exchanged once, in the last backward pass.

    Gradients of all modes are accumulated, as sums, before one step of the optimizer.

    Raises `ValueError` for labels that do not fit, and `FloatingPointError`, before the weights are
    touched, where a loss is NaN or infinite in any process. The norms' running averages have seen
    the batch by then, as in any training pass; calibration does not use them.
    """
    config = TrainConfig() if config is None else config
    parts = parts_of(batch, config, device_of(net))
    optimizer.zero_grad(set_to_none=True)
    teacher: list[torch.Tensor] = []
    losses = []
    for mode in modes:
        net.set_mode(mode)
        losses.append(0.0)
        for number, (inputs, labels, share) in enumerate(parts):
            last = len(losses) == len(modes) and number == len(parts) - 1
            with _exchange(parallel, last), autocast_of(net, config):
                outputs = (parallel or net)(*inputs)
                if len(losses) == 1 and labels.ndim == 1:
                    check_batch(outputs, labels)
                taught = config.distillation and len(losses) > 1
                loss = loss_function(outputs, teacher[number] if taught else labels) * share
                if config.distillation and len(losses) == 1:
                    teacher.append(outputs.detach().float().softmax(1))
                (scaler.scale(loss) if scaler else loss).backward()
            losses[-1] += float(loss.detach())
        if parallel is None:
            _check_losses(losses, modes)
    if true_anywhere(not all(map(math.isfinite, losses)), device_of(net)):
        _check_losses(losses, modes)
        raise FloatingPointError(
            "a loss is not finite in another process; the weights are as before"
        )
    _step(net, optimizer, config, scaler)
    return tuple(losses)


def parts_of(
    batch: Batch, config: TrainConfig, device: torch.device
) -> list[tuple[tuple[torch.Tensor, ...], torch.Tensor, float]]:
    """Return the parts of a batch on the device: inputs, labels, their share of the batch."""
    images = batch[0] if isinstance(batch[0], tuple) else (batch[0],)
    inputs = [each.to(device) for each in images]
    if config.channels_last:
        inputs = [
            each.to(memory_format=torch.channels_last) if each.ndim == 4 else each
            for each in inputs
        ]
    labels = batch[1].to(device)
    if len(labels) != len(inputs[0]):
        raise ValueError(
            f"`labels` (of shape {tuple(labels.shape)}) must be as many as the images"
            f" (of shape {tuple(inputs[0].shape)})"
        )
    chunks = zip(*(each.chunk(config.accumulate) for each in (*inputs, labels)), strict=True)
    return [(chunk[:-1], chunk[-1], len(chunk[-1]) / len(labels)) for chunk in chunks]


def _exchange(parallel: DistributedDataParallel | None, last: bool) -> Any:
    return contextlib.nullcontext() if parallel is None or last else parallel.no_sync()


def autocast_of(net: nn.Module, config: TrainConfig) -> Any:
    """Return the context that the forward passes of a step run in."""
    kind = getattr(torch, config.precision)
    return torch.autocast(device_of(net).type, kind, enabled=config.precision != "float32")


def _check_losses(losses: Sequence[float], modes: Sequence[Mode]) -> None:
    for mode, loss in zip(modes, losses, strict=False):
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss of mode {mode} is {loss}; the weights are as before this step."
                " Lower `learning_rate`, or look for NaN in the data"
            )


def _step(
    net: DynamicNetwork,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    scaler: torch.amp.GradScaler | None,
) -> None:
    if scaler is not None:  # it leaves out a step whose scaled gradients overflowed
        if config.clip is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(net.parameters(), config.clip)
        scaler.step(optimizer)
        scaler.update()
        return
    norm = nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None])
    # A finite loss can have gradients that are not: of a square root at 0, say.
    if not bool(norm.isfinite()):
        name = next(
            n
            for n, p in net.named_parameters()
            if p.grad is not None and not bool(p.grad.isfinite().all())
        )
        raise FloatingPointError(
            f"the gradient of {name!r} is not finite though the losses are; the weights are as"
            " before this step"
        )
    if config.clip is not None:
        nn.utils.clip_grads_with_norm_(list(net.parameters()), config.clip, norm)
    optimizer.step()
