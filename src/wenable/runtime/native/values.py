"""Values of a plan for our kernels: tables of planes, whose rows and columns come to lie later.

A value is a table of numbers of planes. So a shuffle, a split, a concatenation, and whatever else moves
whole channels, is another table, and costs nothing when the network runs. How far apart the rows of a
plane lie, and how many zeros stand around it, depends on all that reads it, and is known at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Planes = np.ndarray
"""Numbers of planes, in the order and shape of a value's dimensions before its rows and columns."""

_ALIGNED = 16


class Pitch:
    """The distance of the rows of planes that one kernel goes through side by side, in values."""

    def __init__(self, least: int) -> None:
        self._least, self._joined = least, None

    def root(self) -> Pitch:
        """Return what stands for all that were joined."""
        return self if self._joined is None else self._joined.root()

    def at_least(self, values: int) -> None:
        """Make room for so many values in a row."""
        root = self.root()
        root._least = max(root._least, values)

    def join(self, other: Pitch) -> None:
        """Have the same distance from now on as another."""
        ours, theirs = self.root(), other.root()
        if ours is not theirs:
            theirs._joined = ours
            ours.at_least(theirs._least)

    @property
    def values(self) -> int:
        """The distance."""
        return self.root()._least


@dataclass(eq=False)
class Buffer:
    """Planes that one operation makes, one behind the other in memory.

    - `first`: the number of its first plane.
    - `top`, `left`, `bottom`, `right`: rows and columns of zeros that are read around a plane.
    - `clean`: whether the values between its rows have to be zeros too, though no window reads them.
    - `held`: whether it lies in the arena; if not, no step makes or reads it any more.
    - `made`, `last`: the numbers of the operations that make it and that read it last.
    - `start`: where it lies in the arena, in values.
    """

    first: int
    planes: int
    rows: int
    columns: int
    pitch: Pitch
    top: int = 0
    left: int = 0
    bottom: int = 0
    right: int = 0
    clean: bool = False
    held: bool = True
    made: int = 0
    last: int = 0
    start: int = 0

    @property
    def numbers(self) -> Planes:
        """The numbers of its planes."""
        return np.arange(self.first, self.first + self.planes)

    @property
    def has_margins(self) -> bool:
        """Whether zeros are read around its planes."""
        return any((self.top, self.left, self.bottom, self.right))

    @property
    def is_points(self) -> bool:
        """Whether its planes are single values, which lie side by side."""
        return self.rows == self.columns == 1 and not self.has_margins

    @property
    def stride(self) -> int:
        """The distance of its rows."""
        return 1 if self.is_points else self.pitch.values

    def before(self) -> int:
        """Return how many zeros stand before a plane."""
        return self.top * self.stride + self.left

    def after(self) -> int:
        """Return how many zeros stand behind a plane."""
        return self.bottom * self.stride + self.right

    def distance(self, overrun: int) -> int:
        """Return how far its planes lie apart."""
        if self.is_points:
            return 1
        extent = (self.rows - 1) * self.stride + self.columns
        return _aligned(self.before()) + _aligned(extent + max(self.after(), overrun))

    def size(self, overrun: int) -> int:
        """Return how many values it takes."""
        return _aligned(self.planes * self.distance(overrun) + overrun)

    def places(self, overrun: int) -> np.ndarray:
        """Return where its planes begin in the arena."""
        return (
            self.start + _aligned(self.before()) + np.arange(self.planes) * self.distance(overrun)
        )

    def shape(self) -> tuple[int, int, int, int, int, int]:
        """Return what a kernel is told of a plane: sizes, zeros around it, whether it writes them."""
        extent = (self.rows, self.columns, self.stride)
        return (*extent, self.before(), self.after(), int(self.has_margins or self.clean))


@dataclass(frozen=True)
class Value:
    """What an operation reads.

    - `planes`: numbers, shaped as its dimensions without the batch, and without rows and columns.
    - `rows`, `columns`: of each plane; both 1 where it is not `spatial`.
    - `spatial`: whether its last two dimensions are rows and columns.
    - `scales`: numbers of planes of one value each, by which its planes are still to be multiplied.
    - `source`: the input of the network that it lies in, -1 for the arena.
    - `pending`: what is still to be computed, of which it has only the shape.
    """

    planes: Planes
    rows: int
    columns: int
    spatial: bool
    scales: Planes | None = None
    source: int = -1
    pending: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions without the batch."""
        return (*self.planes.shape, *((self.rows, self.columns) if self.spatial else ()))

    @property
    def is_points(self) -> bool:
        """Whether every plane is a single value."""
        return self.rows == self.columns == 1


@dataclass
class Memory:
    """All buffers of a plan, and where each plane lies."""

    overrun: int
    buffers: list[Buffer] = field(default_factory=list)
    planes: int = 0
    arena: int = 0

    def buffer(self, planes: int, rows: int, columns: int) -> Buffer:
        """Return a new buffer."""
        made = Buffer(self.planes, planes, rows, columns, Pitch(columns))
        self.planes += planes
        self.buffers.append(made)
        return made

    def buffers_of(self, planes: Planes) -> list[Buffer]:
        """Return the buffers that planes lie in."""
        starts = np.array([each.first for each in self.buffers])
        numbers = np.unique(np.searchsorted(starts, planes.ravel(), side="right") - 1)
        return [self.buffers[number] for number in numbers]

    def place(self) -> np.ndarray:
        """Give every buffer its place, those that are never held together over each other.

        Returns where each plane begins.
        """
        placed: list[tuple[int, int, Buffer]] = []
        for buffer in sorted(
            filter(lambda each: each.held, self.buffers), key=lambda each: -each.size(self.overrun)
        ):
            size, start = buffer.size(self.overrun), 0
            for begin, end, other in placed:  # in the order of their places
                if other.last < buffer.made or buffer.last < other.made:
                    continue
                if begin >= start + size:
                    break
                start = max(start, end)
            buffer.start = start
            placed.append((start, start + size, buffer))
            placed.sort(key=lambda each: each[0])
        self.arena = max((end for _, end, _ in placed), default=0) + _ALIGNED
        return np.concatenate([each.places(self.overrun) for each in self.buffers]).astype(np.int64)


def _aligned(values: int) -> int:
    return -(-values // _ALIGNED) * _ALIGNED
