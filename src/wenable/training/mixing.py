"""MixUp and CutMix: torchvision's, where images have one label each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from wenable.modules.batch_parts import Inputs
from wenable.training.config import TrainConfig

Mix = Callable[[Inputs, torch.Tensor], tuple[Inputs, torch.Tensor]]


def mixing(
    config: TrainConfig, inputs: tuple[tuple[int, ...], ...], scores: tuple[int, ...]
) -> Mix:
    """Return what mixes the inputs and labels of a batch as the settings say, or leaves them.

    - `inputs`: the shape of every input; `scores`: that of the outputs.

    Raises `ValueError` where there is no one image `(N, channels, H, W)` with one label.
    """
    chosen = [name for name in ("mixup", "cutmix") if getattr(config, name)]
    if not chosen:
        return lambda given, labels: (given, labels)
    said = f"`{chosen[0]}` (={getattr(config, chosen[0])})"
    if len(inputs) != 1 or len(inputs[0]) != 4:
        raise ValueError(
            f"{said} mixes images (N, channels, H, W); the network takes"
            f" {' and '.join(map(str, inputs))}: set it to 0"
        )
    if len(scores) != 2:
        raise ValueError(
            f"{said} mixes images that have one label each; the outputs of shape {scores} have one for"
            " each position, as a mask has: set it to 0"
        )
    from torchvision.transforms import v2

    kinds: dict[str, Any] = {"mixup": v2.MixUp, "cutmix": v2.CutMix}
    made: list[nn.Module] = [
        kinds[name](alpha=getattr(config, name), num_classes=scores[1]) for name in chosen
    ]
    draw = v2.RandomChoice(made)

    def mix(given: Inputs, labels: torch.Tensor) -> tuple[Inputs, torch.Tensor]:
        whole = labels if labels.is_floating_point() else labels.long()
        image, shares = draw((given[0], whole))
        return (image,), shares

    return mix
