"""What input a network was made for, as it says itself or as its weights at home say."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

_FRAMES = 16  # of a video, where a network says its height and width only
_SEGMENTED = 520  # height and width that torchvision's networks for segmentation were trained at


@dataclass(frozen=True, slots=True)
class MadeFor:
    """What a network was made for.

    - `input_size`: the shape of one example, as `(3, 224, 224)`.
    - `mean`, `std`: of each channel, for pixels from 0 to 1; `crop_pct`: the share of the
      shorter side that the centre crop keeps; `interpolation`: how images are resized. None where the
      network does not say.
    - `fixed`: whether it takes images of this size only, unless it is built for others.
    """

    input_size: tuple[int, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    fixed: bool = False


def made_for(model: nn.Module) -> MadeFor | None:
    """Return what a network was made for; None where nothing says it.

    Asked are timm's `pretrained_cfg` or `default_cfg`, an attribute `input_size` (the reference
    networks have one, and a network of yours may), and the weights that torchvision has for the name.

    >>> from wenable.zoo import build
    >>> made_for(build("wenable.zoo:cifar_resnet20")).input_size
    (3, 32, 32)
    """
    for name in ("pretrained_cfg", "default_cfg"):
        told = getattr(model, name, None)
        if isinstance(told, Mapping) and told.get("input_size"):
            return _of_timm(told)
    size = getattr(model, "input_size", None)
    # Some layers use the name for a number of features: a recurrent network's, say.
    if isinstance(size, list | tuple) and size and all(type(each) is int for each in size):
        return MadeFor(tuple(size))
    source = getattr(model, "wenable_source", None)
    if source is not None and source.name.startswith("torchvision:"):
        return _of_torchvision(source.name.partition(":")[2], source.arguments)
    return None


def _of_timm(told: Mapping[str, Any]) -> MadeFor:
    return MadeFor(
        tuple(told["input_size"]),
        _numbers(told.get("mean")),
        _numbers(told.get("std")),
        told.get("crop_pct"),
        told.get("interpolation"),
        bool(told.get("fixed_input_size")),
    )


def _of_torchvision(name: str, arguments: Mapping[str, Any]) -> MadeFor | None:
    weights = importlib.import_module("torchvision.models").get_model_weights(name)
    if not len(weights):
        return None
    best: Any = getattr(weights, "DEFAULT", None) or next(iter(weights))
    prepare = best.transforms()
    crop, resized = getattr(prepare, "crop_size", None), getattr(prepare, "resize_size", None)
    fixed = "image_size" in arguments or name.startswith("vit_")
    if crop is None:  # networks for segmentation resize only, those for detection neither
        side = resized[0] if resized else _SEGMENTED
        return MadeFor((3, side, side))
    high, wide = (crop * 2)[:2] if len(crop) == 1 else crop[:2]
    if "min_temporal_size" in best.meta:
        return MadeFor((3, _FRAMES, high, wide), _numbers(prepare.mean), _numbers(prepare.std))
    if "image_size" in arguments:
        high = wide = int(arguments["image_size"])
    return MadeFor(
        (3, high, wide),
        _numbers(prepare.mean),
        _numbers(prepare.std),
        min(1.0, high / min(resized)) if resized else None,
        prepare.interpolation.value,
        fixed,
    )


def _numbers(values: Any) -> tuple[float, ...] | None:
    return tuple(float(each) for each in values) if values else None
