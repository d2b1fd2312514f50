"""One step of Algorithm 1: several modes forward and backward, one step of the optimizer."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from wenable.core.space import Mode
from wenable.modules.batch_parts import Inputs, check_labels, examples_of, inputs_and_targets
from wenable.modules.passes import device_of
from wenable.modules.processes import failing_together
from wenable.modules.structures import moved, same_names, some_examples
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.net_checks import check_dynamic
from wenable.training.config import TrainConfig
from wenable.training.loading import Batch
from wenable.training.losses import (
    Loss,
    check_for,
    check_loss,
    is_cross_entropy,
    loss_of,
    shares_of_parts,
)
from wenable.training.projection import Gradients, add_without_conflict, take_gradients
from wenable.training.teaching import Teaching

Parts = list[tuple[Inputs, Any, float]]
"""Of a batch: inputs, targets, and the share of the batch."""


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
    weights: Sequence[float] | None = None,
) -> tuple[float, ...]:
    """Make one step of Algorithm 1 (lines 4-20) and return the loss of each mode.

    - `batch`: inputs and targets, as `train` takes them.
    - `loss_function`: of outputs and targets, the mean over the examples. Labels are compared with the
      outputs where it is PyTorch's cross-entropy; another is given both as they are, whatever their
      structure.
    - `config`: its `distillation`, `grad_accum_steps`, `precision` and `clip_grad` are used, and of its
      `sharing` `project`, `divergence` and `teacher`. With `distillation` all modes but the first learn its
      answers, as shares of classes, without label smoothing.
    - `scaler`: of the losses in float16, which needs one.
    - `parallel`: the same network wrapped for several processes. Gradients of all modes are
      exchanged once, in the last backward pass.
    - `weights`: of each mode's loss in the sum (`Sharing.loss_weights`); None for 1 each. What is
      returned is without them.

    Gradients of all modes are accumulated, as sums, before one step of the optimizer.

    Raises `ValueError` for targets that do not fit, for a loss that is not one number with a gradient,
    for modes whose outputs have different structures, and for settings that do not go together, and
    `FloatingPointError`, before the weights are touched, where a loss is NaN or infinite in any
    process. The norms' running averages have seen the batch by then, as in any training pass;
    calibration does not use them.
    """
    config = TrainConfig() if config is None else config
    check_dynamic(net)
    check_loss(loss_function, config)
    if config.precision == "float16" and (scaler is None or not scaler.is_enabled()):
        raise ValueError(
            "`precision` (='float16') needs a `scaler` that is enabled, or small gradients are lost:"
            f" torch.amp.GradScaler({device_of(net).type!r})"
        )
    if config.sharing.project and parallel is not None:
        raise ValueError(
            "`sharing.project` compares gradients within one process; with `parallel` they are exchanged"
        )
    inputs, targets = inputs_and_targets(batch, net)
    if is_cross_entropy(loss_function):
        check_labels(inputs, targets)
    parts = parts_of(inputs, targets, config, device_of(net))
    counted = shares_of_parts(loss_function, [part[1:] for part in parts])
    optimizer.zero_grad(set_to_none=True)
    teaching, full = Teaching(config.sharing), Gradients()
    losses = []
    names: tuple[str, ...] | None = None
    for mode, weight in zip(modes, weights or (1.0,) * len(modes), strict=True):
        net.set_mode(mode)
        losses.append(0.0)
        for number, (given, labels, share) in enumerate(parts):
            last = len(losses) == len(modes) and number == len(parts) - 1
            with _exchange(parallel, last), autocast_of(net, config):
                with _too_small_said(examples_of(given), config):
                    outputs = (parallel or net)(*given)
                names = same_names(names, outputs, modes[0], mode)
                if len(losses) == 1 and number == 0:
                    check_for(loss_function, outputs, targets)
                if config.distillation and len(losses) > 1:
                    loss = teaching.loss(number, outputs) * share
                elif counted[number]:
                    loss = loss_of(loss_function, outputs, labels) * counted[number]
                else:  # all labels of the part are ignored; a mean over none is NaN
                    loss = outputs.sum() * 0.0
                if config.distillation:
                    teaching.hear(number, outputs)
                (scaler.scale(loss * weight) if scaler else loss * weight).backward()
            losses[-1] += float(loss.detach())
        if config.sharing.project and len(losses) == 1:
            full = take_gradients(net)
        if parallel is None:
            _check_losses(losses, modes)
    with failing_together(device_of(net), FloatingPointError):
        _check_losses(losses, modes)
    add_without_conflict(full)
    _step(net, optimizer, config, scaler)
    return tuple(losses)


def parts_of(inputs: Inputs, targets: Any, config: TrainConfig, device: torch.device) -> Parts:
    """Return the parts that a batch is gone through in, on the device."""
    examples = examples_of(inputs)
    labels = _split(moved(targets, device), examples, config.grad_accum_steps)
    columns: list[Sequence[Any]] = []
    for each in inputs:
        if not isinstance(each, torch.Tensor):  # a plain value, the same in every part
            columns.append([each] * len(labels))
            continue
        there = each.to(device)
        if config.channels_last and each.ndim == 4:
            there = there.to(memory_format=torch.channels_last)
        columns.append(there.chunk(config.grad_accum_steps))
    return [
        (tuple(given), part, examples_of(tuple(given)) / examples)
        for *given, part in zip(*columns, labels, strict=True)
    ]


def to_channels_last(net: nn.Module) -> None:
    """Give a network the memory format of images; `nn.Module.to` fails for the weights of volumes."""
    for tensor in (*net.parameters(), *net.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def _split(targets: Any, examples: int, parts: int) -> list[Any]:
    """Return targets in parts as `torch.chunk` makes them; one part holds them whatever they are."""
    if parts == 1:
        return [targets]
    size = -(-examples // parts)
    what = f"`grad_accum_steps` (={parts}): the targets of a batch"
    return [
        some_examples(targets, examples, start, min(start + size, examples), what)
        for start in range(0, examples, size)
    ]


@contextlib.contextmanager
def _too_small_said(examples: int, config: TrainConfig) -> Iterator[None]:
    """Say what a batch norm that gets one value a channel means for the data."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        part = (
            f", a part of a batch by `grad_accum_steps` (={config.grad_accum_steps}),"
            if config.grad_accum_steps > 1
            else ""
        )
        raise ValueError(
            f"a batch of {examples} example(s){part} leaves a batch norm one value a channel, which has"
            " no variance: leave out the last, incomplete batch (`drop_last=True`), or take larger ones"
        ) from error


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
    if scaler is not None:
        _scaled_step(net, optimizer, config, scaler)
        return
    norm = nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None])
    # A finite loss can have gradients that are not: of a square root at 0, say.
    if not bool(norm.isfinite()):
        raise FloatingPointError(_gradient_words(net))
    if config.clip_grad is not None:
        nn.utils.clip_grads_with_norm_(list(net.parameters()), config.clip_grad, norm)
    optimizer.step()


def _scaled_step(
    net: DynamicNetwork,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    scaler: torch.amp.GradScaler,
) -> None:
    """Make a step with scaled gradients; one in which they overflowed is left out, by the scaler."""
    scaler.unscale_(optimizer)
    if config.clip_grad is not None:
        nn.utils.clip_grad_norm_(net.parameters(), config.clip_grad)
    before = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    # It halves the scale at every overflow. Below one there is nothing to win: the gradient itself
    # is not finite, and every step to come would be left out too.
    if scaler.get_scale() < before <= 1:
        raise FloatingPointError(_gradient_words(net))


def _gradient_words(net: DynamicNetwork) -> str:
    name = next(
        n
        for n, p in net.named_parameters()
        if p.grad is not None and not bool(p.grad.isfinite().all())
    )
    return (
        f"the gradient of {name!r} is not finite though the losses are; the weights are as before"
        " this step"
    )
