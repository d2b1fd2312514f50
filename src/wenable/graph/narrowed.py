"""What follows for the parts of a network where widths are cut: how many channels each reads and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wenable.core.entries import Entries, count_of, entries_of_parts

Counts = tuple[int, ...]
"""A number of channels in each mode, the full one first."""
Kept = tuple[Entries, ...]
"""Which of the channels are left in each mode, the full one first."""


def counts_of(kept: Kept) -> Counts:
    """Return how many channels are left in each mode.

    >>> counts_of((8, ((0, 2), (4, 6))))
    (8, 4)
    """
    return tuple(map(count_of, kept))


def kept_of(parts: Sequence[Counts]) -> Kept:
    """Return which channels of parts beside each other are left in each mode: the first of each.

    >>> kept_of([(4, 2), (8, 4)])
    (12, ((0, 2), (4, 8)))
    """
    modes = range(len(parts[0]))
    return tuple(entries_of_parts((part[0], part[mode]) for part in parts) for mode in modes)


@dataclass(frozen=True, slots=True)
class NarrowedLayer:
    """Which channels a layer reads and writes in each mode, and in how many groups."""

    read: Kept
    written: Kept
    groups: Counts

    @property
    def inputs(self) -> Counts:
        """How many channels it reads in each mode."""
        return counts_of(self.read)

    @property
    def outputs(self) -> Counts:
        """How many channels it writes in each mode."""
        return counts_of(self.written)


@dataclass(frozen=True, slots=True)
class NarrowedPadding:
    """How many of the channels that a module pads with are too many, before and behind.

    - `axis`: the padded dimension, counted from the end.
    """

    axis: int
    before: Counts
    behind: Counts


@dataclass(frozen=True)
class Narrowing:
    """What follows for every layer and norm, and for every module that pads channels.

    - `kept`: layers that write all their channels for what cannot be followed behind them, and what it is.
    - `ends`: which channels a module writes, `(N, channels, *)`; without those that always write all.
    """

    layers: Mapping[str, NarrowedLayer]
    norms: Mapping[str, Kept]
    paddings: Mapping[str, NarrowedPadding]
    kept: Mapping[str, str]
    ends: Mapping[str, Kept]
