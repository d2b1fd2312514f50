"""Algorithm 1: train all modes at once, with random sampling and switchable batch norm."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from wenable.dynamic_network import DynamicNetwork
from wenable.evaluation import check_batch
from wenable.modules import call_network, device_of
from wenable.space import Mode, RandomSource, Space

Batch = tuple[torch.Tensor, torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Settings of one training run.

    - `passes`: s of Algorithm 1, the forward and backward passes of a step.
    - `counting`: what `passes` counts. `"all"`: the full network, the smallest, and s - 2 random
      modes (Algorithm 1; the paper's s = 20 is 20 passes). `"random"`: as many random modes besides
      these two ("randomly sample 20 sub-networks", section IV-A), s + 2 passes in all.
    - `epochs`: times through the loader.
    - `learning_rate`: the highest, reached after `warmup` of the steps, then a cosine down to 0.
    - `weight_decay`: not applied to norms and biases.
    - `seed`: of the sampled modes; the data's order is the loader's own.

    Raises `ValueError` for a setting outside its range.

    >>> TrainConfig(passes=4).modes_per_step
    4
    """

    passes: int = 4
    counting: Literal["all", "random"] = "all"
    epochs: int = 10
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.1
    label_smoothing: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.counting not in ("all", "random"):
            raise ValueError(f"`counting` (={self.counting!r}) must be 'all' or 'random'")
        for name in ("passes", "epochs", "seed"):
            if type(getattr(self, name)) is not int:
                raise ValueError(f"`{name}` (={getattr(self, name)!r}) must be a whole number")
        least, why = (2, ": the full and the smallest mode") if self.counting == "all" else (0, "")
        rules = [
            ("passes", self.passes >= least, f"at least {least}{why}"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "above 0 and finite"),
            ("seed", self.seed >= 0, "at least 0"),
            ("momentum", 0 <= self.momentum < 1, "from 0 to below 1"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("warmup", 0 <= self.warmup < 1, "a share of the steps, from 0 to below 1"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "from 0 to below 1"),
        ]
        for name, holds, rule in rules:
            if not holds:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be {rule}")

    @property
    def modes_per_step(self) -> int:
        """How many passes a step makes."""
        return self.passes + (2 if self.counting == "random" else 0)


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did: its place in the run, its modes, and the loss of each."""

    step: int
    steps: int
    epoch: int
    modes: tuple[Mode, ...]
    losses: tuple[float, ...]
    learning_rate: float


def sample_modes(space: Space, passes: int, rng: RandomSource) -> tuple[Mode, ...]:
    """Return the modes of one step: full, smallest, then random ones (Algorithm 1, l. 6-13)."""
    return (space.full, space.smallest, *(space.sample(rng) for _ in range(passes - 2)))


def train_step(
    net: DynamicNetwork,
    batch: Batch,
    modes: Sequence[Mode],
    loss_function: Loss,
    optimizer: torch.optim.Optimizer,
) -> tuple[float, ...]:
    """Make one step of Algorithm 1 (lines 4-20) and return the loss of each mode.

    Gradients of all modes are accumulated, as sums, before one step of the optimizer.

    Raises `ValueError` for labels that do not fit, and `FloatingPointError`, before the weights are
    touched, where a loss is NaN or infinite. The norms' running averages have seen the batch by
    then, as in any training pass; calibration does not use them.
    """
    images, labels = batch[0], batch[1].to(device_of(net))
    optimizer.zero_grad(set_to_none=True)
    losses = []
    for mode in modes:
        net.set_mode(mode)
        outputs, _ = call_network(net, images, device_of(net))
        if not losses:
            check_batch(outputs, labels)
        loss = loss_function(outputs, labels)
        losses.append(float(loss.detach()))
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss of mode {mode} is {losses[-1]}; the weights are as before this step."
                " Lower `learning_rate`, or look for NaN in the data"
            )
        loss.backward()
    _check_gradients(net)
    optimizer.step()
    return tuple(losses)


def _check_gradients(net: nn.Module) -> None:
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    # A finite loss can have gradients that are not: of a square root at 0, say.
    if not bool(torch.nn.utils.get_total_norm(gradients).isfinite()):
        name = next(
            n
            for n, p in net.named_parameters()
            if p.grad is not None and not bool(p.grad.isfinite().all())
        )
        raise FloatingPointError(
            f"the gradient of {name!r} is not finite though the losses are; the weights are as"
            " before this step"
        )


def make_optimizer(net: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return SGD with Nesterov momentum; norms and biases are not decayed."""
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups,
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
    )


def make_schedule(
    optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return a linear warm-up followed by a cosine down to 0, over `steps` steps."""
    schedulers = torch.optim.lr_scheduler
    warmup = int(config.warmup * steps)
    cosine = schedulers.CosineAnnealingLR(optimizer, max(1, steps - warmup))
    if not warmup:
        return cosine
    linear = schedulers.LinearLR(optimizer, 1 / (warmup + 1), 1.0, warmup)
    return schedulers.SequentialLR(optimizer, [linear, cosine], [warmup])


def train(
    net: DynamicNetwork,
    loader: Iterable[Batch],
    config: TrainConfig | None = None,
    *,
    on_step: Callable[[StepReport], None] | None = None,
) -> None:
    """Train all modes of a network at once (WeNet, Algorithm 1), in place.

    - `loader`: batches of images `(N, ...)` and labels `(N,)`; it must have a length, and be
      iterable once an epoch.
    - `on_step`: called after every step, for progress and logs.

    The network is left in eval mode and in the full mode. Its modes have to be calibrated next: the
    statistics that training leaves behind belong to none of them.

    Raises `ValueError` for an empty loader or labels that do not fit, `FloatingPointError` where a
    loss is NaN or infinite.

    >>> import wenable as we
    >>> net = we.convert(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.ones(1, 4))
    >>> batch = torch.randn(16, 4), torch.randint(2, (16,))
    >>> train(net, [batch], TrainConfig(passes=3, epochs=2))
    >>> str(net.mode), net.training
    ('1', False)
    """
    config = TrainConfig() if config is None else config
    batches = len(loader) if isinstance(loader, Sized) else 0
    if not batches:
        raise ValueError("`loader` must have a length above 0: a DataLoader or a list of batches")
    steps = batches * config.epochs
    optimizer = make_optimizer(net, config)
    schedule = make_schedule(optimizer, config, steps)
    loss_function = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    rng = random.Random(config.seed)
    step = 0
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise ValueError("`net` has no parameter that asks for a gradient; nothing can be trained")
    net.train()
    try:
        for epoch in range(config.epochs):
            for batch in loader:
                modes = sample_modes(net.space, config.modes_per_step, rng)
                rate = float(schedule.get_last_lr()[0])
                losses = train_step(net, batch, modes, loss_function, optimizer)
                schedule.step()
                step += 1
                if on_step is not None:
                    on_step(StepReport(step, steps, epoch, modes, losses, rate))
    finally:
        net.eval()
        net.set_mode(net.space.full)
