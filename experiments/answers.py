"""Which test images a mode has right: what accuracies, and intervals of what follows, are made of."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wenable.core.readings import Reading
from wenable.modules.passes import call_network, device_name, device_of, in_eval_mode
from wenable.network.evaluation import wilson_interval


def right_answers(
    model: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]
) -> NDArray[np.bool_]:
    """Return whether a network, in the mode that it is in, has each image right, shape `(images,)`."""
    found, device = [], device_of(model)
    with in_eval_mode(model), torch.inference_mode():
        for images, labels in batches:
            outputs, _ = call_network(model, images, device)
            found.append((outputs.argmax(1).cpu() == labels).numpy())
    return np.concatenate(found)


def accuracy(right: NDArray[np.bool_], model: nn.Module, split: str) -> Reading:
    """Return the top-1 of some answers, with Wilson's 95 % interval."""
    low, high = wilson_interval(int(right.sum()), len(right))
    return Reading(
        float(right.mean()), "top-1", low, high, interval="95 % Wilson", count=len(right),
        source=f"evaluated on the {split} split", device=device_name(model),
    )  # fmt: skip
