"""The channel shuffle of WeNet (section III-B, Fig. 4) as a fixed permutation."""

from __future__ import annotations

import torch


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
