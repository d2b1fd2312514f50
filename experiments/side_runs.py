"""Trains the sides of a comparison, and asks their modes what they have right."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import wenable as we
from experiments.answers import right_answers
from experiments.pixels import Batch, PixelSplits, TrainingPixels
from experiments.sides import Side, Spending, config_of, converted, cost_of_step, steps_of_side
from wenable.core.files import write_whole
from wenable.modules.passes import in_eval_mode
from wenable.network.dynamic_network import DynamicNetwork
from wenable.training import Checkpoint, StepReport, TrainConfig, sample_modes
from wenable.training.loop import run_steps
from wenable.training.start import start_of_run
from wenable.training.state import TrainState

CHECKPOINT_EVERY_S = 120.0


def trained(
    side: Side, make: Callable[[], nn.Module], spending: Spending, seed: int, data: PixelSplits,
    work: Path, device: torch.device, stop_at: float = float("inf"), steps: int | None = None,
) -> tuple[DynamicNetwork, dict[str, Any]] | None:  # fmt: skip
    """Return a side's network, trained or from its file, and what its training was.

    - `steps`: instead of those that the budget allows.

    A run that was stopped goes on where it was. None where it is not complete at `stop_at`, a time of
    `time.monotonic`. Raises `ValueError` for a file of other settings.
    """
    path = work / f"{side.file_name}-{seed}.safetensors"
    torch.manual_seed(seed)
    example = torch.zeros(2, *data.train.images.shape[1:])
    net = converted(side, make(), example)
    config = config_of(side, spending, seed)
    steps = steps or steps_of_side(side, net, config, len(data.train), spending)
    identity = json.loads(json.dumps({
        "side": side.name, "prepare": side.prepare, "method": net.conversion_method.to_json(),
        "config": config.to_json(), "steps": steps, "batch_size": spending.batch_size,
        "images": len(data.train), "image_size": data.train.images.shape[-1], "alone": side.alone,
    }))  # fmt: skip
    stamp = path.with_suffix(".json")
    if path.is_file() and stamp.is_file():
        found = json.loads(stamp.read_text(encoding="utf-8"))
        if found["identity"] != identity:
            raise ValueError(f"{path} was trained with other settings; take another --work")
        memory = torch.channels_last if config.channels_last else torch.preserve_format
        return we.load(path, make()).to(device, memory_format=memory), found
    work.mkdir(parents=True, exist_ok=True)
    net = net.to(device)
    checkpoint, spent = path.with_suffix(".checkpoint"), _Spent(side.name, seed)
    goes_on, started = checkpoint.is_file(), time.perf_counter()
    loader = TrainingPixels(data.train, spending.batch_size, steps, seed, device)
    run = (
        functools.partial(_train_alone, mode=net.space.uniform(side.alone))
        if side.alone
        else we.train
    )
    complete = run(
        net, loader, config, on_step=spent,
        checkpoint=Checkpoint(checkpoint, every_s=CHECKPOINT_EVERY_S, resume=True),
        should_stop=lambda: time.monotonic() > stop_at,
    )  # fmt: skip
    if not complete:
        return None
    macs = (
        steps * net.macs(net.space.uniform(side.alone))
        if side.alone
        else sum(cost_of_step(net, config, step, steps) for step in range(steps))
    )
    about = {
        "identity": identity,
        "epochs": steps * spending.batch_size / len(data.train),
        "full_passes": macs * spending.batch_size / net.macs("full") / len(data.train),
        "training_s": None if goes_on else time.perf_counter() - started,
    }
    we.save(net, path)
    write_whole(stamp, json.dumps(about, indent=1) + "\n")
    checkpoint.unlink(missing_ok=True)
    return net, about


def _train_alone(
    net: DynamicNetwork, loader: Any, config: TrainConfig, *, mode: we.Mode, on_step: Any,
    checkpoint: Checkpoint, should_stop: Callable[[], bool],
) -> bool:  # fmt: skip
    """Train one mode of a network and no other, as `train` trains all."""
    start = start_of_run(net, loader, config)
    state = TrainState(net, config, start.batches * config.epochs)
    if Path(checkpoint.path).is_file():
        state.load(checkpoint.path)
    if config.channels_last:
        net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    complete = run_steps(
        state, loader, start, lambda step: (mode,), on_step, None, checkpoint, should_stop
    )
    net.eval()
    net.set_mode("full")
    return complete


class _Spent:
    """Prints a line every hundred steps."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed = name, seed

    def __call__(self, report: StepReport) -> None:
        if report.step % 100 == 0:
            losses = [round(loss, 3) for loss in report.losses]
            print(self.name, self.seed, report.step, report.steps, losses, flush=True)


def modes_to_compare(net: DynamicNetwork, mixtures: int) -> list[we.Mode]:
    """Return the uniform modes and as many others, drawn by cost: always the same of one space."""
    config = TrainConfig(passes=2 + mixtures, sampling="macs", seed=12345)
    drawn = sample_modes(net, config, 0, 1)[2:]
    return list(dict.fromkeys((*net.space.uniform_modes(), *drawn)))


def answers_of(
    net: DynamicNetwork, modes: Sequence[we.Mode], calibration: Sequence[Batch],
    batches: Sequence[Batch],
) -> NDArray[np.bool_]:  # fmt: skip
    """Calibrate modes and return which images each has right, shape `(modes, images)`."""
    rows = []
    for mode in modes:
        if not net.is_calibrated(mode):
            we.calibrate(net, mode, [images for images, _ in calibration])
        with in_eval_mode(net), net.using(mode):
            rows.append(right_answers(net, batches))
    return np.stack(rows)


def searched(
    net: DynamicNetwork, calibration: Sequence[Batch], search: Sequence[Batch], count: int,
    journal: Path | None = None,
) -> we.Front:  # fmt: skip
    """Return the front that the search split finds, at `count` budgets of multiply-accumulates.

    - `journal`: a file from which a search that was stopped goes on.
    """
    return we.explore(
        net, search, [images for images, _ in calibration], min_accuracy=0.0,
        strategy=we.Knapsack(count=count, journal=journal),
    )  # fmt: skip
