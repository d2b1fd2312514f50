"""The run: steps over epochs, with checkpoints."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wenable.core.space import Mode
from wenable.modules.batch_parts import Inputs, inputs_and_targets
from wenable.modules.passes import device_name, device_of
from wenable.modules.processes import rank, text_of_first_process, true_in_any_process
from wenable.modules.state_tensors import state_tensors
from wenable.network.dynamic_network import DynamicNetwork
from wenable.training.config import TrainConfig
from wenable.training.implementation_memory import ImplementationMemory, default_memory_path
from wenable.training.implementations import Implementations, by_option, choose_implementations
from wenable.training.loading import Batch, EpochBatches, batches_of_epoch
from wenable.training.losses import Loss
from wenable.training.parallel import agree_on_statistics, in_parallel
from wenable.training.sampling import sample_modes
from wenable.training.start import Start, buffers_put_back, start_of_run
from wenable.training.state import ScheduleChangeWarning, TrainState
from wenable.training.step import autocast_of, parts_of, to_channels_last, train_step


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

    def loss_of(self, mode: Mode) -> float | None:
        """Return the loss of a mode; None if the step did not train it, as in a delay (`Sharing`)."""
        pairs = zip(self.modes, self.losses, strict=True)
        return next((loss for trained, loss in pairs if trained == mode), None)


def train(
    net: DynamicNetwork,
    loader: Iterable[Batch] | EpochBatches,
    config: TrainConfig | None = None,
    *,
    loss: Loss | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    on_epoch: Callable[[int], None] | None = None,
    checkpoint: Checkpoint | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> bool:
    """Train all modes of a network at once (WeNet, Algorithm 1), in place.

    - `loader`: batches of images `(N, ...)` and labels: classes as whole numbers `(N,)`, or shares of
      classes `(N, classes)` that sum up to 1; `(N, H, W)` where the outputs are `(N, classes, H, W)`.
      Several inputs are a tuple or a list in the place of the images, or a dict of them by name; one
      dict of inputs and targets, as Hugging Face's data sets give, is a batch too. A list or a
      DataLoader, gone through once an epoch, or an `ImageBatches` (`wenable.data`), whose order is a
      function of the epoch. One without a length is gone through once before the first step, to count.
    - `loss`: called with the outputs of the network and the targets of the batch, whatever their
      structure; it returns one number, the mean over the examples. The cross-entropy over classes where
      nothing is said. A checkpoint does not hold it: give the same one to go on.
    - `on_step`: called after every step, for progress and logs.
    - `on_epoch`: called after every epoch with its number, the network in eval mode and with its
      averaged weights where there are any. A run that goes on from the end of an epoch calls it for
      that epoch again, since the run may have been killed before it was done.
    - `checkpoint`: where to write the run, and whether to go on from there. A run that was stopped
      and goes on ends, on a CPU, with the very weights of one that was not, unless the loader draws from
      a generator of its own, which nobody saves. It may go on to another
      number of epochs: its schedule is that of the new number from there on, which a
      `ScheduleChangeWarning` says.
    - `should_stop`: asked after every step; where it says so, the run is written and ends.

    Under `torchrun` (an initialised `torch.distributed`), each process trains on batches of its own
    and all hold the same weights.

    Returns whether the run is complete. The network is left in eval mode and in the full mode, with
    its averaged weights where `config.ema_decay` asks for them. Its modes have to be calibrated
    next: the statistics that training leaves behind belong to none of them.

    What does not fit a cross-entropy is refused before the first step (what a list or a
    `TensorDataset` holds is looked through, other loaders at their first batch): a single output,
    outputs that are not one tensor, targets of a regression, several classes at once, labels to be
    ignored, unless `loss=torch.nn.CrossEntropyLoss(ignore_index=...)` names them. With another loss
    that is its own matter; distillation, label smoothing, MixUp and CutMix need a cross-entropy.

    Raises `ValueError` for an empty loader, labels that do not fit, or a checkpoint of another run, and
    where processes differ in their settings or in the number of batches;
    `FloatingPointError` where a loss is NaN or infinite; the last checkpoint is good then.

    >>> import wenable as we
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> net = we.convert(model, torch.ones(1, 4))
    >>> batch = torch.randn(16, 4), torch.randint(2, (16,))
    >>> train(net, [batch], TrainConfig(passes=3, epochs=2))
    True
    >>> str(net.mode), net.training
    ('1', False)
    """
    config = TrainConfig() if config is None else config
    start = start_of_run(net, loader, config, loss)
    if checkpoint is not None:
        state_tensors(net)  # refuses what no checkpoint holds
    if config.channels_last:
        to_channels_last(net)
    state = TrainState(net, config, start.batches * config.epochs)
    if checkpoint is not None and checkpoint.resume and Path(checkpoint.path).is_file():
        state.load(checkpoint.path)
        if state.planned is not None:
            warnings.warn(state.change_of_schedule(), ScheduleChangeWarning, stacklevel=2)
    devices = [device_of(net)] if device_of(net).type == "cuda" else []
    try:
        # What is random in a step is seeded by the step; the caller's own numbers go on as before.
        with torch.random.fork_rng(devices):
            complete = run_steps(
                state, loader, start, lambda step: sample_modes(net, config, step, state.steps),
                on_step, on_epoch, checkpoint, should_stop,
            )  # fmt: skip
    finally:
        net.eval()
        net.set_mode(net.space.full)
    if complete and state.average is not None:
        net.load_state_dict(state.average.module.state_dict())
    return complete


def run_steps(
    state: TrainState,
    loader: Any,
    start: Start,
    modes_of: Callable[[int], tuple[Mode, ...]],
    on_step: Callable[[StepReport], None] | None = None,
    on_epoch: Callable[[int], None] | None = None,
    checkpoint: Checkpoint | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> bool:
    """Make the steps of a run that are left; return whether it is complete.

    - `start`: as `start_of_run` found it.
    - `modes_of`: a step -> the modes that it trains, as `train_step` takes them.
    """
    net, config = state.net, state.config
    parallel = in_parallel(net)
    batches = start.batches
    written, stop = time.monotonic(), False
    if state.step and state.step % batches == 0:
        _end_epoch(state, state.step // batches - 1, on_epoch)
    for epoch in range(state.step // batches, config.epochs):
        net.train()
        if epoch:  # a loader that draws its order anew draws the one of this epoch
            torch.manual_seed(_seed(config.seed, f"epoch {epoch}", rank()))
        for batch in batches_of_epoch(loader, epoch, state.step % batches, batches):
            with buffers_put_back(net) if state.step == 0 else nullcontext():
                inputs, targets = inputs_and_targets(batch, net)
                start.check(inputs, targets)
                if config.implementations == "timed" and state.implementations is None:
                    state.choose(_fastest_implementations(state, inputs, targets))
                torch.manual_seed(_seed(config.seed, state.step, rank()))
                state.schedule.step_update(state.step)
                modes = modes_of(state.step)
                rate = float(state.optimizer.param_groups[0]["lr"])
                losses = train_step(
                    net, start.mix(inputs, targets), modes, start.loss, state.optimizer, config,
                    scaler=state.scaler, parallel=parallel,
                    weights=config.sharing.loss_weights(len(modes), state.step, state.steps),
                )  # fmt: skip
            if state.average is not None:
                state.average.update_parameters(net)
            state.step += 1
            if on_step is not None:
                on_step(StepReport(state.step, state.steps, epoch, modes, losses, rate))
            stop = true_in_any_process(should_stop is not None and should_stop(), device_of(net))
            ended = state.step % batches == 0
            due = checkpoint is not None and time.monotonic() - written >= checkpoint.every_s
            if checkpoint is not None and true_in_any_process(stop or ended or due, device_of(net)):
                agree_on_statistics(net)
                if rank() == 0:
                    state.save(checkpoint.path)
                written = time.monotonic()
            if stop and not ended:
                return False
        agree_on_statistics(net)
        _end_epoch(state, epoch, on_epoch)
        if stop:
            break
    return state.step == state.steps


def _end_epoch(state: TrainState, epoch: int, on_epoch: Callable[[int], None] | None) -> None:
    if on_epoch is not None:
        state.net.eval()
        with state.averaged():
            on_epoch(epoch)


def _fastest_implementations(state: TrainState, inputs: Inputs, targets: Any) -> Implementations:
    """Return the implementations that the first process finds fastest; all processes take them."""
    net, found = state.net, ""
    if rank() == 0:
        inputs, _, _ = parts_of(inputs, targets, state.config, device_of(net))[0]
        memory = ImplementationMemory(default_memory_path(), device_name(net))
        chosen = choose_implementations(net, inputs, lambda: autocast_of(net, state.config), memory)
        found = json.dumps(chosen)
    return by_option(json.loads(text_of_first_process(found, device_of(net))))


def _seed(seed: int, part: int | str, process: int) -> int:
    """Return a seed for what is random in one step, or before an epoch: independent ones for all."""
    digest = hashlib.sha256(f"{seed} {part} {process}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
