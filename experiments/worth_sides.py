"""What is compared in `experiments.worth`: the sides, their settings, and the scales."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torchvision
from torch import nn

import wenable as we
from experiments.networks import SmallBottleneckResNet
from experiments.sides import Side, Spending
from wenable.methods import Method
from wenable.training import TrainConfig
from wenable.zoo import cifar_resnet20

PAPER, FOUND, US_NET = "weight-enabling", "weight-enabling, as found", "US-Net"
US_NET_TAUGHT, US_NET_FOUND, JOINT, US_JOINT = (
    "US-Net, distillation", "US-Net, as found", "weight-enabling x image size", "US-Net x image size",
)  # fmt: skip
POOLED, SLIM_POOLED = "weight-enabling, uniform modes", "slimmable, as many widths"
JOINT_POOLED, SLIM_JOINT = (
    "weight-enabling x image size, uniform modes", "slimmable, as many widths, x image size"
)  # fmt: skip
EXITS_JOINT = "early exits x image size"
UNIFORM_ALONE = (POOLED, SLIM_POOLED)
"""Sides that train their uniform modes and no others: these are compared, without a search."""
COMBINED = (JOINT_POOLED, SLIM_JOINT, EXITS_JOINT)
"""Sides that train their uniform modes at every image size: of these the search split takes a front."""
ACCOUNTING = "weight-enabling, s = 20 for US-Net's steps"
ALONE = "alone"
MAIN = (
    PAPER, FOUND, US_NET, US_NET_FOUND, POOLED, SLIM_POOLED, JOINT_POOLED, SLIM_JOINT, JOINT, US_JOINT,
    EXITS_JOINT,
)  # fmt: skip
"""The sides that get all seeds."""

AS_FOUND: dict[str, Any] = {"distillation": True, "sharing": {"delay": 0.5}}
"""The full mode alone for half of the steps, then all modes with in-place distillation (DepS, 2024)."""
SHUFFLE_FOUND = "all"
"""Shuffles before every layer lay above US-Net more often than the paper's in an earlier run (Figure 5 of
`docs/results/reproduction.md`, one seed)."""


@dataclass(frozen=True)
class Scale:
    """How large a comparison is.

    - `make`: classes -> the network; `image_size`: of the data; `sizes`: the options of image size.
    - `spending`: what every side may spend; `front_modes`: how many budgets a front is searched at.
    - `divisor`: channels of US-Net's widths are multiples of it; `width_step`: how far they lie apart.
    - `data`: the data set that it is meant for, in words.
    - `warm`: whether the network comes with weights that are good already, so that no mode needs a start of
      its own: nothing is delayed.
    - `exits`: the layers after which the network may end, where early exits are compared too.
    """

    network: str
    make: Callable[[int], nn.Module]
    image_size: int
    sizes: tuple[int, ...]
    spending: Spending
    seeds: tuple[int, ...] = (0, 1, 2)
    front_modes: int = 24
    divisor: int = 4
    search_images: int | None = 2000
    groups: tuple[int, ...] = (1, 2, 4, 8, 16)
    width_step: float = 0.025
    data: str = "CIFAR-10"
    warm: bool = False
    exits: tuple[str, ...] = ()


def sides_of(scale: Scale) -> tuple[Side, ...]:
    """Return the sides, the most valuable first."""
    groups = we.WeightEnabling(scale.groups, shuffle="first")
    found = we.WeightEnabling(scale.groups, shuffle=SHUFFLE_FOUND)
    widths = we.UniversallySlimmable(0.25, scale.width_step, divisor=scale.divisor)
    size = we.ImageSize(scale.sizes)
    taught: dict[str, Any] = {"distillation": True}
    as_found = taught if scale.warm else AS_FOUND

    def pooled(modes: Iterable[str]) -> dict[str, Any]:
        return as_found | {"sharing": {**as_found.get("sharing", {}), "pool": tuple(modes)}}

    few = we.Slimmable(tuple(map(width_of_groups, scale.groups)), divisor=scale.divisor)
    sides = (
        Side(PAPER, (groups,)),
        Side(US_NET, (widths,)),
        Side(FOUND, (found,), as_found),
        Side(US_NET_FOUND, (widths,), as_found),
        Side(POOLED, (found,), pooled(f"1/{n}" for n in scale.groups[1:-1])),
        Side(SLIM_POOLED, (few,), pooled(f"{width:g}" for width in few.widths[1:-1])),
        Side(JOINT_POOLED, (found, size), pooled(["uniform"])),
        Side(SLIM_JOINT, (few, size), pooled(["uniform"])),
        Side(JOINT, (found, size), as_found),
        Side(US_JOINT, (widths, size), as_found),
        Side(US_NET_TAUGHT, (widths,), taught),
        Side(ACCOUNTING, (groups,), {"passes": 20}, steps_of=US_NET),
    )
    if not scale.exits:
        return sides
    return (*sides, Side(EXITS_JOINT, (we.EarlyExits(scale.exits), size), pooled(["uniform"])))


def width_of_groups(groups: int) -> float:
    """Return the width whose cost is about that of so many groups, in steps of 0.05.

    >>> [width_of_groups(n) for n in (1, 2, 4, 8, 16)]
    [1.0, 0.7, 0.5, 0.35, 0.25]
    """
    return round(round(20 * groups**-0.5) / 20, 2)


def alone_sides(scale: Scale) -> tuple[Side, ...]:
    """Return the uniform modes' networks as sides, each trained by itself."""
    groups: tuple[Method, ...] = (we.WeightEnabling(scale.groups, shuffle="first"),)
    return tuple(
        Side(f"{ALONE}, 1/{n}" if n > 1 else f"{ALONE}, full", groups, alone=n)
        for n in scale.groups
    )


def _settings(**changes: Any) -> TrainConfig:
    common: dict[str, Any] = {
        "passes": 4, "learning_rate": 0.1, "clip_grad": 5.0, "warmup": 0.1, "channels_last": True
    }  # fmt: skip
    return TrainConfig(**(common | changes))


def _small_mobilenet(classes: int) -> nn.Module:
    return torchvision.models.mobilenet_v2(num_classes=classes, width_mult=0.5)


def _mobilenet_v3(classes: int) -> nn.Module:
    return timm.create_model("mobilenetv3_small_100", num_classes=classes)


SCALES: Mapping[str, Scale] = {
    "smoke": Scale(
        "tiny-bottleneck-resnet", lambda classes: SmallBottleneckResNet(8, classes, 2), 16, (16, 8),
        Spending(2.0, 16, _settings(channels_last=False), 16), (0,), search_images=None,
        groups=(1, 2), front_modes=2, width_step=0.25, exits=("layer1",),
    ),
    "short": Scale(
        "small-bottleneck-resnet of 32 channels", functools.partial(SmallBottleneckResNet, 32), 16,
        (16, 12, 8), Spending(10.0, 128, _settings(), 1024), (0, 1), exits=("layer1", "layer2"),
    ),
    "warm": Scale(
        "cifar_resnet20, trained", lambda classes: cifar_resnet20(), 32, (32, 24, 16),
        Spending(1.0, 64, _settings(learning_rate=0.02), 1024), (0,), warm=True,
    ),
    "A": Scale(
        "small-bottleneck-resnet of 32 channels", functools.partial(SmallBottleneckResNet, 32), 32,
        (32, 24, 16), Spending(40.0, 64, _settings(), 2048),
    ),
    "B": Scale(
        "mobilenet-v2 x 0.5", _small_mobilenet, 128, (128, 112, 96, 80, 64),
        Spending(60.0, 64, _settings(learning_rate=0.05, weight_decay=1e-4), 2048),
        search_images=None, divisor=8, data="Caltech-101",
    ),
    "B64": Scale(
        "mobilenet-v2 x 0.5", _small_mobilenet, 64, (64, 56, 48, 40, 32),
        Spending(60.0, 64, _settings(learning_rate=0.05, weight_decay=1e-4), 2048),
        search_images=None, divisor=8, data="Caltech-101", exits=("features.6", "features.13"),
    ),
    "V3-64": Scale(
        "mobilenetv3_small_100", _mobilenet_v3, 64, (64, 56, 48, 40, 32),
        Spending(85.0, 64, _settings(learning_rate=0.05, weight_decay=1e-4), 2048),
        search_images=None, divisor=8, data="Caltech-101", exits=("blocks.2", "blocks.4"),
    ),
    "gpu": Scale(
        "small-bottleneck-resnet of 48 channels", functools.partial(SmallBottleneckResNet, 48), 32,
        (32, 24, 16), Spending(30.0, 256, _settings(precision="bfloat16"), 2048),
    ),
}  # fmt: skip
"""`smoke` runs in the tests. `short` takes half an hour a side on one core, at half the size of the
images; its networks are not trained to the end. `warm` goes on from a plainly trained ResNet-20
(`--weights`). A and B are hours a side; `B64` is B at half the size of the images, in a quarter of the
hours; `V3-64` is a MobileNet-V3-small there, with as many multiply-accumulates. `gpu` is for minutes of
one large GPU; its network is as wide as a checkpoint under 16 MB allows, which has to travel."""
