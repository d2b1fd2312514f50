"""Optimizers and schedules, timm's, from the settings of a run."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from wenable.training.config import TrainConfig


def make_optimizer(net: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return timm's optimizer; norms and biases are not decayed. SGD has Nesterov momentum."""
    from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]

    settings: dict[str, Any] = {}
    if config.optimizer == "rmsproptf":
        settings = {"eps": 1e-3, "alpha": 0.9}
    name = config.optimizer
    if name == "sgd" and not config.momentum:
        name = "momentum"  # timm's name for SGD without Nesterov, which needs momentum
    return create_optimizer_v2(
        net,
        opt=name,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        **settings,
    )


def make_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int) -> Any:
    """Return timm's schedule over `steps` steps; its `step_update(step)` sets the learning rate.

    The rate is a function of the step alone, so there is nothing to save of it.
    """
    from timm.scheduler.cosine_lr import CosineLRScheduler
    from timm.scheduler.step_lr import StepLRScheduler

    warmup = int(config.warmup * steps)
    common = {
        "warmup_t": warmup,
        "warmup_lr_init": config.learning_rate / (warmup + 1),
        "warmup_prefix": True,
        "t_in_epochs": False,
    }
    if config.schedule == "cosine":
        return CosineLRScheduler(optimizer, t_initial=max(2, steps - warmup), **common)
    factor = config.step_factor if config.schedule == "step" else 1.0
    period = config.step_epochs * steps / config.epochs
    return StepLRScheduler(
        optimizer, decay_t=max(1, math.ceil(period)), decay_rate=factor, **common
    )
