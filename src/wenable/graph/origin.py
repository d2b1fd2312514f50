"""Where the channels of a tensor come from: which layers wrote them, in slices."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive channels with one history.

    - `width`: how many channels.
    - `producers`: the layers that wrote them, by qualified name; none for the network's input.
    - `combined`: whether something else was added to (or multiplied with) what the producers wrote.
    """

    width: int
    producers: frozenset[str]
    combined: bool = False

    @property
    def single_producer(self) -> str | None:
        """The one layer that wrote these channels, with nothing combined in, or None."""
        if self.combined or len(self.producers) != 1:
            return None
        return next(iter(self.producers))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the channels of a tensor come from: slices along `axis`, counted from the end (-1)."""

    axis: int
    slices: tuple[Slice, ...]

    @property
    def width(self) -> int:
        """The number of channels."""
        return sum(part.width for part in self.slices)

    @property
    def producers(self) -> frozenset[str]:
        """Every layer that wrote to these channels."""
        return frozenset().union(*(part.producers for part in self.slices))

    @property
    def single_producer(self) -> str | None:
        """The one layer that wrote all channels, with nothing combined in; None where not so."""
        return self.slices[0].single_producer if len(self.slices) == 1 else None


def combined(first: Origin, second: Origin) -> Origin | None:
    """Return the origin of a sum: the same channels, written by both sides."""
    if first.width != second.width:
        return None
    edges = sorted(_edges(first) | _edges(second))
    slices = []
    for start, stop in zip([0, *edges], edges, strict=False):
        if start != stop:
            parts = [cut(origin, start, stop).slices for origin in (first, second)]
            producers = frozenset().union(*(part.producers for side in parts for part in side))
            slices.append(Slice(stop - start, producers, combined=True))
    return Origin(first.axis, tuple(slices))


def _edges(origin: Origin) -> set[int]:
    stop, edges = 0, set()
    for part in origin.slices:
        stop += part.width
        edges.add(stop)
    return edges


def cut(origin: Origin, start: int, stop: int) -> Origin:
    """Return the origin of the channels from `start` up to `stop`."""
    slices, at = [], 0
    for part in origin.slices:
        low, high = max(start, at), min(stop, at + part.width)
        if low < high:
            slices.append(Slice(high - low, part.producers, part.combined))
        at += part.width
    return Origin(origin.axis, tuple(slices))


def widened_by(origin: Origin, factor: int) -> Origin:
    """Return the origin where every channel became `factor` neighbouring ones."""
    slices = (Slice(s.width * factor, s.producers, s.combined) for s in origin.slices)
    return Origin(origin.axis, tuple(slices))
