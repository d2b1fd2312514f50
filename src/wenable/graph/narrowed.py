"""What follows for the parts of a network where widths are cut: how many channels each reads and writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Counts = tuple[int, ...]
"""A number of channels in each mode, the full one first."""


@dataclass(frozen=True, slots=True)
class NarrowedLayer:
    """How many channels a layer reads and writes in each mode, and its groups."""

    inputs: Counts
    outputs: Counts
    groups: Counts


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
    - `ends`: how many channels a module writes, `(N, channels, *)`; without those that always write all.
    """

    layers: Mapping[str, NarrowedLayer]
    norms: Mapping[str, Counts]
    paddings: Mapping[str, NarrowedPadding]
    kept: Mapping[str, str]
    ends: Mapping[str, Counts]
