"""The techniques that are tried, each as a side with its source, and the scales they are tried at."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

import wenable as we
from experiments.networks import SmallBottleneckResNet
from experiments.sides import Side, Spending
from wenable.training import TrainConfig

BASE = "Algorithm 1"
GROUPS = we.WeightEnabling(shuffle="first")
DELAYED: dict[str, Any] = {"distillation": True, "sharing": {"delay": 0.5}}


@dataclass(frozen=True, slots=True)
class Technique:
    """A technique: its side, where it is from, and what it is compared with."""

    side: Side
    source: str
    beside: str = BASE


def _technique(
    name: str, source: str, /, *methods: Any, beside: str = BASE, prepare: str = "", **settings: Any
) -> Technique:
    return Technique(Side(name, methods or (GROUPS,), settings, prepare), source, beside)


DISTILLED_LATER = "delay, then distillation"
TECHNIQUES = (
    _technique(BASE, "WeNet, section III-C"),
    _technique("delay", "DepS, ECCV 2024", sharing={"delay": 0.5}),
    _technique(DISTILLED_LATER, "DepS, ECCV 2024", **DELAYED),
    _technique("US-Net", "US-Nets, 2019", we.UniversallySlimmable(0.25, 0.025, divisor=4)),
    _technique("means of losses", "-", sharing={"losses": "mean"}),
    _technique("shuffle everywhere", "-", we.WeightEnabling(shuffle="all")),
    _technique("projected gradients", "NASViT, 2022; PCGrad, 2020", sharing={"project": True}),
    _technique(
        "delay, then alpha-divergence", "AlphaNet, 2021", beside=DISTILLED_LATER,
        distillation=True, sharing={"delay": 0.5, "divergence": "alpha"},
    ),
    _technique("costs drawn evenly", "-", sampling="macs"),
    _technique(
        "uniform modes only", "PSS-Net, 2021: a pool", sharing={"pool": ("1/2", "1/4", "1/8")}
    ),
    _technique(
        "delay, distillation, uniform modes only", "PSS-Net, 2021: a pool", beside=DISTILLED_LATER,
        distillation=True, sharing={"delay": 0.5, "pool": ("1/2", "1/4", "1/8")},
    ),
    _technique("two extremes only", "AnyDepth-DETR, 2026", passes=2),
    _technique(
        "delay, then losses that rise", "DepS, ECCV 2024", sharing={"delay": 0.5, "rise": 0.25}
    ),
    _technique(
        "delay, then the mean of earlier passes teaches", "RS-Net, 2020", beside=DISTILLED_LATER,
        distillation=True, sharing={"delay": 0.5, "teacher": "earlier"},
    ),
    _technique(
        "diagonal blocks first", "SuperFast, DAC 2025", sharing={"delay": 0.5, "first": "outward"}
    ),
    _technique(
        "diagonal blocks first, then distillation", "SuperFast, DAC 2025; DepS, ECCV 2024",
        distillation=True, sharing={"delay": 0.5, "first": "outward"},
    ),
    _technique("distillation from the start", "US-Nets, 2019", distillation=True),
    _technique("last gamma at zero", "BigNAS, 2020", prepare="zero gamma"),
    _technique(
        "US-Net with distillation", "US-Nets, 2019", we.UniversallySlimmable(0.25, 0.025, divisor=4),
        distillation=True,
    ),
)  # fmt: skip
"""What is tried, the most promising first. US-Net is beside it for orientation."""


@dataclass(frozen=True)
class Scale:
    """How much is computed.

    - `mixtures`: how many modes besides the uniform ones are compared; `images`: of the search split.
    """

    make: Callable[[], nn.Module]
    spending: Spending
    seeds: tuple[int, ...]
    mixtures: int
    images: int | None
    image_size: int = 32


def _settings(**changes: Any) -> TrainConfig:
    common: dict[str, Any] = {"passes": 4, "learning_rate": 0.1, "clip_grad": 5.0, "warmup": 0.1}
    return TrainConfig(**(common | changes))


SCALES = {
    "smoke": Scale(
        functools.partial(SmallBottleneckResNet, 8, blocks=2),
        Spending(2.0, 16, _settings(), calibration_images=16), (0,), 2, None, image_size=16,
    ),
    "short": Scale(
        functools.partial(SmallBottleneckResNet, 32),
        Spending(4.0, 128, _settings(channels_last=True), calibration_images=512), (0, 1), 16, None,
        image_size=16,
    ),
    "cpu": Scale(
        functools.partial(SmallBottleneckResNet, 32),
        Spending(4.0, 64, _settings(channels_last=True), calibration_images=1024), (0, 1), 16, None,
    ),
}  # fmt: skip
"""`smoke` runs in the tests; `short` takes ten minutes for each technique on one core, at half the size of
the images; `cpu` takes most of an hour."""
