"""The channel shuffle of WeNet (section III-B, Fig. 4) as a fixed permutation."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.ops import Permute


def shuffle_permutation(channels: int, groups: int) -> torch.Tensor:
    """Return the channel shuffle as indices, shape `(channels,)`: position -> channel it takes.

    The channels are reshaped to `(groups, channels / groups)`, transposed and flattened. With
    `groups` 1, or equal to `channels`, this is the identity.

    Raises `ValueError` where `groups` does not divide `channels`.

    >>> shuffle_permutation(6, 2).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    if groups < 1 or channels % groups:
        raise ValueError(
            f"`groups` (={groups}) of a shuffle must divide its channels (={channels})"
        )
    return torch.arange(channels).view(groups, -1).t().flatten()


def is_identity_shuffle(channels: int, groups: int) -> bool:
    """Say whether this shuffle leaves every channel where it is."""
    return groups in (1, channels)


def shuffle_layers(channels: int, groups: int, dimensions: int) -> nn.Sequential:
    """Return the channel shuffle of inputs `(N, channels, ...)` as layers that every exporter knows.

    `torch.nn.ChannelShuffle` is an operation of its own, which torch's first ONNX exporter refuses.

    - `dimensions`: how many the input has, the batch counted.

    >>> shuffle_layers(6, 2, 3)(torch.arange(6.0).view(1, 6, 1)).flatten().tolist()
    [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    """
    order = [0, 2, 1, *range(3, dimensions + 1)]
    return nn.Sequential(
        nn.Unflatten(1, (groups, channels // groups)), Permute(order), nn.Flatten(1, 2)
    )
