"""The run: steps over epochs, with checkpoints."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from wenable.dynamic_network import DynamicNetwork
from wenable.modules import device_name, device_of
from wenable.processes import rank, text_of_the_first, true_anywhere
from wenable.space import Mode
from wenable.training.config import TrainConfig
from wenable.training.execution_memory import ExecutionMemory, default_memory_path
from wenable.training.executions import Executions, by_pattern, choose_executions
from wenable.training.parallel import agree_on_statistics, in_parallel
from wenable.training.sampling import sample_modes
from wenable.training.state import TrainState
from wenable.training.step import Batch, autocast_of, parts_of, train_step


@runtime_checkable
class EpochBatches(Protocol):
    """A loader whose batches are a function of the epoch, so that a run can go on inside one."""

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        ...

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Go through the batches of an epoch, from number `start` on."""
        ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a run is written to, and how often.

    - `path`: the file; it is replaced whole.
    - `every_s`: seconds between two writings; the run is also written at the end of every epoch.
    - `resume`: go on from the file where it is there; without it the file is written over.
    """

    path: str | os.PathLike[str]
    every_s: float = 600.0
    resume: bool = False


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did: its place in the run, its modes, and the loss of each."""

    step: int
    steps: int
    epoch: int
    modes: tuple[Mode, ...]
    losses: tuple[float, ...]
    learning_rate: float


def train(
    net: DynamicNetwork,
    loader: Iterable[Batch] | EpochBatches,
    config: TrainConfig | None = None,
    *,
    on_step: Callable[[StepReport], None] | None = None,
    on_epoch: Callable[[int], None] | None = None,
    checkpoint: Checkpoint | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> bool:
    """Train all modes of a network at once (WeNet, Algorithm 1), in place.

    - `loader`: batches of images `(N, ...)` and labels `(N,)`: a list or a DataLoader, iterated once
      an epoch, or an `ImageBatches` (`wenable.data`), whose order is a function of the epoch.
    - `on_step`, `on_epoch`: called after every step, for progress and logs, and after every epoch
      with its number, the network in eval mode.
    - `checkpoint`: where to write the run, and whether to go on from there. A run that was stopped
      and goes on ends, on a CPU, with the very weights of one that was not.
    - `should_stop`: asked after every step; where it says so, the run is written and ends.

    Under `torchrun` (an initialised `torch.distributed`), each process trains on batches of its own
    and all hold the same weights.

    Returns whether the run is complete. The network is left in eval mode and in the full mode, with
    its averaged weights where `config.averaging` asks for them. Its modes have to be calibrated
    next: the statistics that training leaves behind belong to none of them.

    Raises `ValueError` for an empty loader, labels that do not fit, or a checkpoint of another run;
    `FloatingPointError` where a loss is NaN or infinite; the last checkpoint is good then.

    >>> import wenable as we
    >>> net = we.convert(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.ones(1, 4))
    >>> batch = torch.randn(16, 4), torch.randint(2, (16,))
    >>> train(net, [batch], TrainConfig(passes=3, epochs=2))
    True
    >>> str(net.mode), net.training
    ('1', False)
    """
    config = TrainConfig() if config is None else config
    batches = batches_of(net, loader)
    if config.channels_last:
        net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    state = TrainState(net, config, batches * config.epochs)
    if checkpoint is not None and checkpoint.resume and Path(checkpoint.path).is_file():
        state.load(checkpoint.path)
    devices = [device_of(net)] if device_of(net).type == "cuda" else []
    try:
        # What is random in a step is seeded by the step; the caller's own numbers go on as before.
        with torch.random.fork_rng(devices):
            complete = run_steps(
                state, loader, batches, lambda step: sample_modes(net, config, step, state.steps),
                on_step, on_epoch, checkpoint, should_stop,
            )  # fmt: skip
    finally:
        net.eval()
        net.set_mode(net.space.full)
    if complete and state.average is not None:
        net.load_state_dict(state.average.module.state_dict())
    return complete


def batches_of(net: DynamicNetwork, loader: Any) -> int:
    """Return the batches of an epoch; raises `ValueError` where there is nothing to train, or on."""
    batches = len(loader) if isinstance(loader, Sized) else 0
    if not batches:
        raise ValueError("`loader` must have a length above 0: a DataLoader or a list of batches")
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise ValueError("`net` has no parameter that asks for a gradient; nothing can be trained")
    return batches


def run_steps(
    state: TrainState,
    loader: Any,
    batches: int,
    modes_of: Callable[[int], tuple[Mode, ...]],
    on_step: Callable[[StepReport], None] | None = None,
    on_epoch: Callable[[int], None] | None = None,
    checkpoint: Checkpoint | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> bool:
    """Make the steps of a run that are left; return whether it is complete.

    - `batches`: of an epoch. `modes_of`: a step -> the modes that it trains, as `train_step` takes
      them.
    """
    net, config = state.net, state.config
    parallel = in_parallel(net)
    loss_function = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    mix = _mixing(config, net)
    written, stop = time.monotonic(), False
    for epoch in range(state.step // batches, config.epochs):
        net.train()
        for batch in _batches(loader, epoch, state.step % batches):
            if config.executions == "timed" and state.executions is None:
                state.choose(_fastest_executions(state, batch))
            torch.manual_seed(_seed(config.seed, state.step, rank()))
            state.schedule.step_update(state.step)
            modes = modes_of(state.step)
            rate = float(state.optimizer.param_groups[0]["lr"])
            losses = train_step(
                net, mix(batch), modes, loss_function, state.optimizer, config,
                scaler=state.scaler, parallel=parallel,
            )  # fmt: skip
            if state.average is not None:
                state.average.update_parameters(net)
            state.step += 1
            if on_step is not None:
                on_step(StepReport(state.step, state.steps, epoch, modes, losses, rate))
            stop = true_anywhere(should_stop is not None and should_stop(), device_of(net))
            ended = state.step % batches == 0
            due = checkpoint is not None and time.monotonic() - written >= checkpoint.every_s
            if checkpoint is not None and true_anywhere(stop or ended or due, device_of(net)):
                agree_on_statistics(net)
                if rank() == 0:
                    state.save(checkpoint.path)
                written = time.monotonic()
            if stop and not ended:
                return False
        agree_on_statistics(net)
        if on_epoch is not None:
            net.eval()
            on_epoch(epoch)
        if stop:
            break
    return state.step == state.steps


def _fastest_executions(state: TrainState, batch: Batch) -> Executions:
    """Return the executions that the first process finds fastest; all processes take them."""
    net, found = state.net, ""
    if rank() == 0:
        inputs, _, _ = parts_of(batch, state.config, device_of(net))[0]
        memory = ExecutionMemory(default_memory_path(), device_name(net))
        chosen = choose_executions(net, inputs, lambda: autocast_of(net, state.config), memory)
        found = json.dumps(chosen)
    return by_pattern(json.loads(text_of_the_first(found, device_of(net))))


def _batches(loader: Any, epoch: int, start: int) -> Iterator[Batch]:
    """Return the batches of an epoch from number `start` on."""
    if isinstance(loader, EpochBatches):
        return loader.batches(epoch, start)
    if start and not isinstance(loader, Sequence):
        raise ValueError(
            "`loader` draws the order of its images anew, so a run cannot go on inside an epoch;"
            " pass an ImageBatches or a list of batches"
        )
    return islice(iter(loader), start, None)


def _seed(seed: int, step: int, process: int) -> int:
    """Return a seed for what is random in one step: independent ones, however they are numbered."""
    digest = hashlib.sha256(f"{seed} {step} {process}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _mixing(config: TrainConfig, net: DynamicNetwork) -> Callable[[Batch], Batch]:
    """Return torchvision's MixUp or CutMix, as the settings say; or what leaves a batch as it is."""
    if not config.mixup and not config.cutmix:
        return lambda batch: batch
    from torchvision.transforms import v2

    with torch.no_grad():
        net.eval()
        classes = net(*net.example_batch).shape[1]
    kinds: list[nn.Module] = []
    if config.mixup:
        kinds.append(v2.MixUp(alpha=config.mixup, num_classes=classes))
    if config.cutmix:
        kinds.append(v2.CutMix(alpha=config.cutmix, num_classes=classes))
    return v2.RandomChoice(kinds)
