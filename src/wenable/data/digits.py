"""Scikit-learn's handwritten digits in three splits."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import TensorDataset

from wenable.data.splits import Splits


def digits(seed: int = 0) -> Splits:
    """Return scikit-learn's 1,797 handwritten digits, images `(1, 8, 8)`: 997, 300 and 500.

    The split is random, with the same share of each class in every part. Pixels are scaled to about
    zero mean and unit deviation.

    >>> [len(part) for part in (digits().train, digits().search, digits().test)]
    [997, 300, 500]
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw: Any = load_digits()
    images = (torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) - 4.9) / 6.0
    labels = torch.tensor(raw.target, dtype=torch.long)
    rest, test = train_test_split(
        range(len(labels)), test_size=500, stratify=labels, random_state=seed
    )
    train, search = train_test_split(rest, test_size=300, stratify=labels[rest], random_state=seed)
    parts = (TensorDataset(images[part], labels[part]) for part in (train, search, test))
    return Splits(*parts)
