"""Whole settings for known networks and data, as functions that return one frozen dataclass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wenable.data.transforms import ImageSettings
from wenable.training.config import TrainConfig
from wenable.training.sharing import Sharing

_FAST: dict[str, Any] = {"channels_last": True, "implementations": "timed"}
"""How convolutions on images of some size are computed fastest, on processors as on GPUs."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained on a data set.

    - `training`: Algorithm 1, optimizer and schedule; `images`: how images are prepared, None for
      data that is prepared already.
    - `batch_size`: of all processes together.
    - `calibration_images`: how many training images norm statistics are estimated on.
    """

    training: TrainConfig
    images: ImageSettings | None
    batch_size: int
    calibration_images: int = 2048


_FROM_RANDOM_WEIGHTS: dict[str, Any] = {"distillation": True, "sharing": Sharing(delay=0.5)}
"""What lifts all modes over Algorithm 1 alone, where no weights are there to start from.

Source: DepS, ECCV 2024; measured in `docs/results/techniques.md`.
"""


def digits() -> Recipe:
    """Return a recipe for scikit-learn's digits: a minute on a CPU."""
    return Recipe(TrainConfig(passes=4, epochs=6), None, batch_size=64, calibration_images=128)


def scenes() -> Recipe:
    """Return the recipe of the demo, for scenes of digits: a minute and a half on two cores."""
    training = TrainConfig(
        passes=4, epochs=4, optimizer="adamw", learning_rate=0.002, weight_decay=0.05,
        channels_last=True, **_FROM_RANDOM_WEIGHTS,
    )  # fmt: skip
    return Recipe(training, None, batch_size=32, calibration_images=512)


def cifar() -> Recipe:
    """Return a recipe for 32x32 images from random weights: SGD, shifts and flips, a cosine."""
    training = TrainConfig(
        passes=4, epochs=60, learning_rate=0.1, weight_decay=5e-4, clip_grad=5.0, **_FAST,
        **_FROM_RANDOM_WEIGHTS,
    )  # fmt: skip
    return Recipe(training, _small_images(), batch_size=128)


def fine_tune_cifar() -> Recipe:
    """Return a short run for a converted network that comes with weights for 32x32 images."""
    training = TrainConfig(
        passes=4, epochs=3, learning_rate=0.02, distillation=True, clip_grad=5.0, **_FAST
    )
    return Recipe(training, _small_images(), batch_size=128)


def paper_resnet50() -> Recipe:
    """Return the paper's setting for ResNet-50: s = 20 and PyTorch's default training.

    Source: WeNet, section IV-A; the defaults are those of torchvision's reference scripts: SGD at
    0.1, divided by 10 every 30 of 90 epochs, batches of 256, weight decay 1e-4.
    """
    training = TrainConfig(
        passes=20, epochs=90, schedule="step", learning_rate=0.1, step_epochs=30, step_factor=0.1,
        weight_decay=1e-4, warmup=0.0, **_FAST,
    )  # fmt: skip
    return Recipe(training, ImageSettings(), batch_size=256)


def paper_mobilenet_v2() -> Recipe:
    """Return the paper's setting for MobileNet-V2: s = 20 and PyTorch's default training.

    Source: as for ResNet-50: SGD at 0.045, times 0.98 every one of 300 epochs, batches of 256,
    weight decay 4e-5.
    """
    training = TrainConfig(
        passes=20, epochs=300, schedule="step", learning_rate=0.045, step_epochs=1,
        step_factor=0.98, weight_decay=4e-5, warmup=0.0, **_FAST,
    )  # fmt: skip
    return Recipe(training, ImageSettings(), batch_size=256)


def paper_efficientnet_b0() -> Recipe:
    """Return the paper's setting for EfficientNet-B0: s = 20 and its default training.

    Source: WeNet, section IV-A; torchvision's weights of EfficientNet-B0 came from timm, whose
    hyper-parameters are taken: RMSProp as in TensorFlow at 0.048 for batches of 768, times 0.97
    every 2.4 of 450 epochs, weight decay 1e-5, averaged weights, RandAugment, random erasing.
    """
    training = TrainConfig(
        passes=20, epochs=450, optimizer="rmsproptf", schedule="step", learning_rate=0.048,
        step_epochs=2.4, step_factor=0.97, weight_decay=1e-5, warmup=3 / 450, ema_decay=0.9999,
        label_smoothing=0.1, **_FAST,
    )  # fmt: skip
    images = ImageSettings(
        auto_augment="rand-m9-mstd0.5", erasing=0.2, color_jitter=0.4, interpolation="bicubic"
    )
    return Recipe(training, images, batch_size=768)


def _small_images() -> ImageSettings:
    return ImageSettings(size=32, crops="padded", crop_pct=1.0)


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (
        digits, scenes, cifar, fine_tune_cifar, paper_resnet50, paper_mobilenet_v2, paper_efficientnet_b0,
    )
}  # fmt: skip


def recipe_named(name: str) -> Recipe:
    """Return a recipe by name; raises `ValueError` with all names for an unknown one.

    >>> recipe_named("paper-resnet50").training.passes
    20
    """
    if name not in RECIPES:
        raise ValueError(f"`recipe` (={name!r}) is unknown; allowed: {', '.join(RECIPES)}")
    return RECIPES[name]()
