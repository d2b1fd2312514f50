"""Which answers are wrong whatever the batch that an image is in: by more than rounding."""

from __future__ import annotations

import math

import torch


def margins(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the output of the label less that of the best other class, shape `(N,)`."""
    outputs, column = outputs.double(), labels.cpu()[:, None]
    own = outputs.gather(1, column)[:, 0]
    return own - outputs.scatter(1, column, -math.inf).amax(1)


def certainly_wrong(outputs: torch.Tensor, labels: torch.Tensor) -> int:
    """Return how many labels are behind by more than rounding can explain; NaN is not."""
    return int((margins(outputs.cpu(), labels) < -rounding(outputs).cpu()).sum())


def rounding(outputs: torch.Tensor) -> torch.Tensor:
    """Return a generous bound, `(N,)`, on what batches of another size change in an output."""
    precise = outputs.dtype in (torch.float32, torch.float64)
    share = (1e-3 if outputs.device.type == "cpu" else 1e-2) if precise else 5e-2
    return share * outputs.abs().amax(1)
