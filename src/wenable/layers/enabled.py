"""The entries of a parameter that a layer uses in a mode."""

from __future__ import annotations

import torch

from wenable.core.entries import Entries, pieces


def enabled(tensor: torch.Tensor, axis: int, entries: Entries) -> torch.Tensor:
    """Return what is enabled along a dimension: a view, or a copy where it lies in several ranges.

    >>> enabled(torch.arange(6), 0, ((0, 2), (4, 5)))
    tensor([0, 1, 4])
    """
    found = pieces(tensor, axis, entries)
    return found[0] if len(found) == 1 else torch.cat(found, axis)


def mark(mask: torch.Tensor, rows: Entries, columns: Entries | None = None) -> None:
    """Set what is enabled of a mask, in place.

    >>> mask = torch.zeros(2, 3, dtype=torch.bool)
    >>> mark(mask, 1, ((0, 1), (2, 3)))
    >>> mask.tolist()
    [[True, False, True], [False, False, False]]
    """
    for part in pieces(mask, 0, rows):
        for entries in [part] if columns is None else pieces(part, 1, columns):
            entries.fill_(True)
