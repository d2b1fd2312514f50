"""A side of a comparison at equal multiply-accumulates: a method, its settings, and what it may spend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

import wenable as we
from wenable.methods import Method
from wenable.network.dynamic_network import DynamicNetwork
from wenable.training import TrainConfig, sample_modes

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


def steps_of_side(
    side: Side, net: DynamicNetwork, config: TrainConfig, images: int, spending: Spending
) -> int:
    """Return how many steps a side makes: those of the budget, or of so many epochs for one mode alone."""
    if side.alone:
        return max(1, round(spending.epochs * images / spending.batch_size))
    return steps_for(net, config, images, spending)
