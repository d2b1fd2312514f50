"""Scikit-learn's handwritten digits in three splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import TensorDataset

from wenable.data.splits import Splits

PARTS = ("train", "search", "test")


@dataclass(frozen=True, slots=True)
class Originals:
    """Digits of one part: images `(M, 8, 8)` from 0 to 1, classes and places in the whole set `(M,)`."""

    images: torch.Tensor
    classes: torch.Tensor
    places: torch.Tensor


def split_originals(seed: int = 0) -> dict[str, Originals]:
    """Return the 1,797 digits in parts "train", "search" and "test" of 997, 300 and 500.

    The split is random, with the same share of each class in every part.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw: Any = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32) / 16
    classes = torch.tensor(raw.target, dtype=torch.long)
    rest, test = train_test_split(
        range(len(classes)), test_size=500, stratify=classes, random_state=seed
    )
    train, search = train_test_split(rest, test_size=300, stratify=classes[rest], random_state=seed)
    return {
        name: Originals(images[part], classes[part], torch.tensor(part))
        for name, part in zip(PARTS, (train, search, test), strict=True)
    }


def digits(seed: int = 0) -> Splits:
    """Return scikit-learn's 1,797 handwritten digits, images `(1, 8, 8)`: 997, 300 and 500.

    The split is random, with the same share of each class in every part. Pixels are scaled to about
    zero mean and unit deviation.

    >>> [len(part) for part in (digits().train, digits().search, digits().test)]
    [997, 300, 500]
    """
    parts = (
        TensorDataset((16 * part.images.unsqueeze(1) - 4.9) / 6.0, part.classes)
        for part in split_originals(seed).values()
    )
    return Splits(*parts)
