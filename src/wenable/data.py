"""Data sets that examples use, split so that training, search and the final figures never mix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset


@dataclass(frozen=True)
class Splits:
    """Three parts of one data set.

    - `train`: for weights and norm statistics; `search`: for choosing modes; `test`: for the
      figures that are reported, seen by neither.
    """

    train: TensorDataset
    search: TensorDataset
    test: TensorDataset


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


def batches(
    data: TensorDataset, size: int, *, shuffle_seed: int | None = None
) -> DataLoader[tuple[torch.Tensor, ...]]:
    """Return a loader of batches of `size`; in a new random order each epoch where a seed is given.

    The last batch may be smaller, unless it is shuffled: then it is left out, since a batch norm
    needs more than a few images.
    """
    generator = None if shuffle_seed is None else torch.Generator().manual_seed(shuffle_seed)
    shuffle = generator is not None
    return DataLoader(data, size, shuffle=shuffle, generator=generator, drop_last=shuffle)
