"""Where the window of a convolution or of pooling stands, and how a stride is made one of 1.

A window that moves by two reads every other row and column. Its input is taken apart into phases, the
even and the odd rows and columns, each a plane of its own. Over these the window moves by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wenable.runtime.graph import Attribute
from wenable.runtime.native.steps import Tap


@dataclass(frozen=True)
class Window:
    """A window in two dimensions, each pair as rows and columns."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    begins: tuple[int, int]
    ends: tuple[int, int]

    @classmethod
    def of(
        cls, attributes: Mapping[str, Attribute], kernel: tuple[int, ...], sizes: tuple[int, int]
    ) -> Window:
        """Return the window that ONNX's attributes describe, over an input of `sizes`."""
        if len(kernel) != 2:
            raise ValueError(f"a window of {len(kernel)} dimensions, not 2")
        rows, columns = kernel
        strides = _pair(attributes.get("strides", [1, 1]))
        dilations = _pair(attributes.get("dilations", [1, 1]))
        pads = attributes.get("pads", [0, 0, 0, 0])
        assert isinstance(pads, list)
        begins, ends = _pair(pads[:2]), _pair(pads[2:])
        padding = attributes.get("auto_pad", "NOTSET")
        if padding != "NOTSET":
            totals = [0, 0]
            if padding in ("SAME_UPPER", "SAME_LOWER"):
                totals = [
                    max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
                    for size, s, d, k in zip(sizes, strides, dilations, kernel, strict=True)
                ]
            less, more = (
                _pair([each // 2 for each in totals]),
                _pair([-(-each // 2) for each in totals]),
            )
            begins, ends = (less, more) if padding != "SAME_LOWER" else (more, less)
        return cls((rows, columns), strides, dilations, begins, ends)

    @property
    def is_plain(self) -> bool:
        """Whether it moves by 1."""
        return self.strides == (1, 1)

    @property
    def is_pointwise(self) -> bool:
        """Whether it is a single place that moves by 1."""
        return self.is_plain and self.kernel == (1, 1) and {*self.begins, *self.ends} == {0}

    def places(self) -> list[tuple[int, int]]:
        """Return the rows and columns of its places, from its middle or wherever padding puts it."""
        (rows, columns), (down, across) = self.kernel, self.dilations
        top, left = self.begins
        return [(y * down - top, x * across - left) for y in range(rows) for x in range(columns)]

    def phases(self) -> list[tuple[int, int]]:
        """Return the phases that it reads, as the first row and column of each."""
        down, across = self.strides
        return sorted({(row % down, column % across) for row, column in self.places()})

    def taps(self) -> list[Tap]:
        """Return its places as phases and moves."""
        down, across = self.strides
        numbers = {phase: number for number, phase in enumerate(self.phases())}
        return [
            Tap(numbers[row % down, column % across], row // down, column // across)
            for row, column in self.places()
        ]

    def columns(
        self, most: int
    ) -> tuple[list[tuple[int, int, int, int]], list[list[tuple[int, int]]]]:
        """Return its places taken together downwards, at most so many at once.

        Returns for each run the phase, the number of places, and the row and column of the first;
        and for each run its places in the kernel.
        """
        taps, (rows, across) = self.taps(), self.kernel
        runs: list[tuple[int, int, int, int]] = []
        places: list[list[tuple[int, int]]] = []
        for x in range(across):
            column = [(taps[y * across + x], (y, x)) for y in range(rows)]
            for tap, place in sorted(column, key=lambda each: (each[0].phase, each[0].row)):
                phase, count, row, moved = (
                    runs[-1] if runs and places[-1][0][1] == x else (-1, 0, 0, 0)
                )
                if (tap.phase, tap.row) == (phase, row + count) and count < most:
                    runs[-1] = (phase, count + 1, row, moved)
                    places[-1].append(place)
                else:
                    runs.append((tap.phase, 1, tap.row, tap.column))
                    places.append([place])
        return runs, places


def _pair(values: object) -> tuple[int, int]:
    assert isinstance(values, list)
    if len(values) != 2:
        raise ValueError(f"a window of {len(values)} dimensions, not 2")
    return int(values[0]), int(values[1])
