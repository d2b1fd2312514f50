"""Batches that are read once and kept, as far as memory allows, to be gone through again and again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any


class KeptBatches:
    """The batches of a source, which are read and decoded once and kept in memory.

    A search goes through the same images for every mode, and decoding them takes longer than a small
    network does.

    - `source`: batches that come in the same order each time, as a list or `ImageBatches`.
    - `most_mb`: how much memory they may take, in MiB. What does not fit is read again each time.

    Raises `ValueError` for an iterator, which can be gone through once only, or no memory.

    >>> import torch
    >>> kept = KeptBatches([torch.zeros(2, 3), torch.ones(1, 3)])
    >>> [len(batch) for batch in kept], len(kept)
    ([2, 1], 2)
    """

    def __init__(self, source: Iterable[Any], most_mb: float = 1024.0) -> None:
        if iter(source) is source:
            raise ValueError("`source` is an iterator; pass a list, a DataLoader or ImageBatches")
        if not most_mb > 0:
            raise ValueError(f"`most_mb` (={most_mb}) must be above 0")
        self.source = source
        self._room = int(most_mb * 2**20)
        self._kept: list[Any] = []
        self._closed = False
        """Whether nothing more is to be kept: the source has ended, or the next batch did not fit."""
        self._complete = False

    def __len__(self) -> int:
        return len(self.source) if hasattr(self.source, "__len__") else sum(1 for _ in self)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        position = 0
        while position < len(self._kept):  # it may grow while it is gone through
            yield self._kept[position]
            position += 1
        if self._complete:
            return
        for batch in self._from(position):
            if position == len(self._kept) and not self._closed:
                self._keep(batch)
            position += 1
            yield batch
        if position == len(self._kept):
            self._complete = True

    def _from(self, position: int) -> Iterator[Any]:
        """Go through the source from a batch on, without reading those before it if that can be."""
        batches = getattr(self.source, "batches", None)
        return batches(0, position) if batches else islice(iter(self.source), position, None)

    def _keep(self, batch: Any) -> None:
        size = _bytes_of(batch)
        if size > self._room:
            self._closed = True
            return
        self._room -= size
        self._kept.append(batch)
        # A pass need not be gone through to its end for this to be known.
        self._complete = hasattr(self.source, "__len__") and len(self._kept) == len(self)


def _bytes_of(batch: Any) -> int:
    parts = batch if isinstance(batch, list | tuple) else [batch]
    return sum(_bytes_of(p) if isinstance(p, list | tuple) else p.nbytes for p in parts)
