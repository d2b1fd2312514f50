"""Small networks converted by each method, with statistics and ranges of their own in every mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

import wenable as we
from tests.helpers.networks import IMAGES, copied_if_made_before, small_resnet

METHODS: Mapping[str, object] = {
    "slimmable": we.Slimmable((1.0, 0.5, 0.25), divisor=4),
    "us-net": we.UniversallySlimmable(0.25, 0.25, divisor=4),
    "exits": we.EarlyExits(("block1", "stem")),
    "precision": we.SwitchablePrecision((32, 16, 8, 4)),
    "groups and precision": we.WeightEnablingWithPrecision(groups=(1, 2, 4), bits=(32, 8)),
    "widths and precision": [
        we.Slimmable((1.0, 0.5, 0.25), divisor=4),
        we.SwitchablePrecision((32, 16, 8)),
    ],
    "widths and exits": [we.Slimmable((1.0, 0.5), divisor=4), we.EarlyExits(("block1", "stem"))],
}
MODES: Mapping[str, Sequence[str]] = {
    "slimmable": ("1", "0.5", "0.25"),
    "us-net": ("1", "0.75", "0.5", "0.25"),
    "exits": ("end", "block1", "stem"),
    "precision": ("32-bit", "16-bit", "8-bit", "4-bit"),
    "groups and precision": ("1", "1/4", "8-bit", "1/4,precision=8-bit"),
    "widths and precision": (
        "1", "0.25", "0.5,precision=16-bit", "precision=8-bit", "0.25,precision=8-bit"
    ),
    "widths and exits": ("1", "0.5", "1,exit=block1", "0.5,exit=block1", "0.5,exit=stem"),
}  # fmt: skip


def converted_by(
    method: str, model: nn.Module | None = None, shape: Sequence[int] = IMAGES
) -> we.DynamicNetwork:
    """A network, or a new small one, that was converted and calibrated in `MODES`, in eval mode."""
    torch.manual_seed(7)  # branches of exits are new weights
    if model is None:
        return copied_if_made_before(
            f"{method} {shape}", lambda: _converted_by(method, small_resnet(), shape)
        )
    return _converted_by(method, model, shape)


def _converted_by(method: str, whole: nn.Module, shape: Sequence[int]) -> we.DynamicNetwork:
    net = we.convert(whole, torch.zeros(*shape), method=METHODS[method]).eval()  # pyright: ignore
    images = torch.randn(16, *shape[1:], generator=torch.Generator().manual_seed(5))
    we.calibrate(net, MODES[method], [images])
    return net
