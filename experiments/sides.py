"""A side of a comparison at equal multiply-accumulates: a method, its settings, and how it is trained."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import wenable as we
from experiments.answers import right_answers
from experiments.pixels import Batch, PixelSplits, TrainingPixels
from wenable.core.files import write_whole
from wenable.methods import Method
from wenable.modules.passes import in_eval_mode
from wenable.network.dynamic_network import DynamicNetwork
from wenable.training import Checkpoint, StepReport, TrainConfig, sample_modes
from wenable.training.loop import run_steps
from wenable.training.start import start_of_run
from wenable.training.state import TrainState

CHECKPOINT_EVERY_S = 120.0
COUNTED_STEPS = 200
"""How many steps' modes the mean cost of a step is taken from, before a run."""


@dataclass(frozen=True)
class Side:
    """One way to get a network of many modes.

    - `methods`: as `convert` takes them; none for a plain network.
    - `settings`: fields of `TrainConfig` that differ from the scale's; `sharing` as a dictionary.
    - `prepare`: what is done to the network before it is converted, by a name in `PREPARED`.
    - `steps_of`: the side whose number of steps it takes, whatever that costs; "" for the budget.
    - `alone`: only the network of the uniform mode 1/n is trained, by itself, one pass a step, for as
      many epochs as the budget says.
    """

    name: str
    methods: tuple[Method, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    prepare: str = ""
    steps_of: str = ""
    alone: int = 0

    @property
    def file_name(self) -> str:
        """The name as part of a file's."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.name).split())


@dataclass(frozen=True, slots=True)
class Spending:
    """What a side may spend.

    - `epochs`: the budget in *full passes*: as many multiply-accumulates as the plain network needs to go
      through the training images so often, forward and backward.
    - `training`: the settings that all sides share.
    """

    epochs: float
    batch_size: int
    training: TrainConfig
    calibration_images: int = 1024


def config_of(side: Side, spending: Spending, seed: int) -> TrainConfig:
    """Return the settings of a side's run."""
    settings = dict(side.settings)
    sharing = replace(spending.training.sharing, **settings.pop("sharing", {}))
    return replace(spending.training, **settings, sharing=sharing, epochs=1, seed=seed)


def cost_of_step(net: DynamicNetwork, config: TrainConfig, step: int, steps: int) -> int:
    """Return the forward multiply-accumulates of a step, for one image."""
    return sum(net.macs(mode) for mode in sample_modes(net, config, step, steps))


def steps_for(net: DynamicNetwork, config: TrainConfig, images: int, spending: Spending) -> int:
    """Return how many steps a side makes for the budget, at least one.

    A pass backward costs twice the one forward on every side, so that forward ones decide.
    """
    budget = spending.epochs * images * net.macs("full") / spending.batch_size
    shared = replace(config, sharing=replace(config.sharing, delay=0.0, rise=0.0))
    together = np.mean([cost_of_step(net, shared, s, COUNTED_STEPS) for s in range(COUNTED_STEPS)])
    steps = round(budget / together)
    if config.sharing.delay:
        # In a run of a thousand steps: what the first ones cost, which one mode has alone.
        alone = config.sharing.steps_alone(1000)
        delayed = np.mean([cost_of_step(net, config, step, 1000) for step in range(alone)])
        share = config.sharing.delay
        steps = round(budget / (share * delayed + (1 - share) * together))
    return max(1, steps)


def _zero_gamma(model: nn.Module) -> nn.Module:
    """Let every block begin as its shortcut: the last norm before each addition gives zeros."""
    for module in model.modules():
        last = getattr(module, "bn3", getattr(module, "bn2", None))
        if isinstance(last, nn.BatchNorm2d) and hasattr(module, "downsample"):
            nn.init.zeros_(last.weight)
    return model


PREPARED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "": lambda model: model,
    "zero gamma": _zero_gamma,
}


def converted(side: Side, model: nn.Module, example: torch.Tensor) -> DynamicNetwork:
    """Return a network as a side makes it dynamic."""
    methods = side.methods
    return we.convert(
        PREPARED[side.prepare](model), example, method=methods[0] if len(methods) == 1 else methods
    )


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
        return we.load(path, make()).to(device), found
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


def steps_of_side(
    side: Side, net: DynamicNetwork, config: TrainConfig, images: int, spending: Spending
) -> int:
    """Return how many steps a side makes: those of the budget, or of so many epochs for one mode alone."""
    if side.alone:
        return max(1, round(spending.epochs * images / spending.batch_size))
    return steps_for(net, config, images, spending)


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
