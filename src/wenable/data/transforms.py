"""What is done to an image before a network sees it: timm's and torchvision's transforms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from wenable.core.preprocessing import Preprocessing

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Crops = Literal["resized", "padded", "none"]


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """How images are prepared.

    - `size`: height and width that the network sees.
    - `crops`: in training, `"resized"`: a random part of the image at random scale, as usual for
      ImageNet; `"padded"`: the whole image, shifted by up to an eighth, as usual for CIFAR; both
      with random flips. `"none"`: as in evaluation.
    - `auto_augment`: a policy in timm's notation, as `"rand-m9-mstd0.5"`.
    - `erasing`: how often a random rectangle is erased.
    - `color_jitter`: the strength of random changes of brightness, contrast and saturation.
    - `crop_pct`: in evaluation, the share of the shorter side that the centre crop keeps.
    - `mean`, `std`: of each colour channel, for pixels from 0 to 1.
    - `interpolation`: timm's name.

    Raises `ValueError` for a setting outside its range.
    """

    size: int = 224
    crops: Crops = "resized"
    auto_augment: str | None = None
    erasing: float = 0.0
    color_jitter: float = 0.0
    crop_pct: float = 0.875
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_DEVIATION
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if self.crops not in get_args(Crops):
            allowed = ", ".join(map(repr, get_args(Crops)))
            raise ValueError(f"`crops` (={self.crops!r}) must be one of {allowed}")
        rules = [
            ("size", type(self.size) is int and self.size >= 1, "a whole number above 0"),
            ("erasing", 0 <= self.erasing <= 1, "from 0 to 1"),
            ("color_jitter", self.color_jitter >= 0, "at least 0"),
            ("crop_pct", 0 < self.crop_pct <= 1, "above 0, to 1"),
        ]
        for name, holds, rule in rules:
            if not holds:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be {rule}")

    @classmethod
    def of_evaluation(cls, preprocessing: Preprocessing) -> ImageSettings:
        """Return settings that prepare images in evaluation as a saved network wants them.

        Raises `ValueError` for another number of colour channels than three.
        """
        mean, std = preprocessing.mean, preprocessing.std
        if len(mean) != 3 or len(std) != 3:
            raise ValueError(f"`mean` (={mean}) must have 3 channels: images are read in colour")
        return cls(
            size=preprocessing.size,
            crops="none",
            crop_pct=preprocessing.crop_pct,
            mean=(mean[0], mean[1], mean[2]),
            std=(std[0], std[1], std[2]),
            interpolation=preprocessing.interpolation,
        )

    def preprocessing(self, labels: tuple[str, ...] = ()) -> Preprocessing:
        """Return what is done in evaluation, to be kept with a network."""
        return Preprocessing(
            self.size, self.mean, self.std, self.crop_pct, self.interpolation, labels
        )


def training_transform(settings: ImageSettings) -> Callable[[Any], Any]:
    """Return what makes a PIL image a tensor `(3, size, size)` in training, at random."""
    if settings.crops == "none":
        return evaluation_transform(settings)
    from timm.data.transforms_factory import create_transform

    common: dict[str, Any] = _common(settings) | {
        "is_training": True,
        "auto_augment": settings.auto_augment,
        "re_prob": settings.erasing,
        "re_mode": "pixel",
        "color_jitter": settings.color_jitter,
    }
    if settings.crops == "resized":
        return create_transform(**common)  # pyright: ignore[reportReturnType]
    # timm's own small-image recipe has no shift by padding: crops first, the rest from timm.
    from torchvision.transforms import v2

    shift = v2.RandomCrop(settings.size, padding=settings.size // 8)
    rest: Any = create_transform(**common, no_aug=False, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    return v2.Compose([v2.Resize((settings.size, settings.size)), shift, rest])


def evaluation_transform(settings: ImageSettings) -> Callable[[Any], Any]:
    """Return what makes a PIL image a tensor `(3, size, size)` in evaluation."""
    from timm.data.transforms_factory import create_transform

    return create_transform(  # pyright: ignore[reportReturnType]
        **_common(settings), is_training=False, crop_pct=settings.crop_pct
    )


def _common(settings: ImageSettings) -> dict[str, Any]:
    return {
        "input_size": (3, settings.size, settings.size),
        "mean": settings.mean,
        "std": settings.std,
        "interpolation": settings.interpolation,
    }
