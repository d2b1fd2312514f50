"""Views of stored weights: which part of a weight a mode uses, and on what grid it lies.

A layer says them of the mode it is in, a bundle holds them, and a device cuts by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wenable.core.entries import Entries, checked_entries, count_of, end_of, pieces

MOST_BITS = 16
"""Of numbers that are rounded; 32 are those that are not."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """The grid of a layer that runs in few bits: its weight and its input are rounded.

    - `bits`: 2 to 16. Weights lie on a symmetric grid for each output, whose largest number is that of
      the weights which take part.
    - `scale`, `zero`: of its input, which lies on `scale * (q - zero)` with q from 0 to 2^bits - 1.

    Raises `ValueError` for numbers outside of these.
    """

    bits: int
    scale: float
    zero: int

    def __post_init__(self) -> None:
        if type(self.bits) is not int or not 2 <= self.bits <= MOST_BITS:
            raise ValueError(f"`bits` (={self.bits!r:.100}) must be a whole number from 2 to 16")
        if type(self.zero) is not int or not 0 <= self.zero < 2**self.bits:
            raise ValueError(f"`zero` (={self.zero!r:.100}) must be from 0 to {2**self.bits - 1}")
        if type(self.scale) is not float or not _FINEST <= self.scale <= _COARSEST:
            raise ValueError(f"`scale` (={self.scale!r:.100}) must be a number from 1e-30 to 1e30")


_FINEST = 1e-30
_COARSEST = 1e30


@dataclass(frozen=True, slots=True)
class View:
    """The part of a parameter that a mode uses: some of its outputs and inputs, and how it is read.

    - `rows`, `columns`: which entries of its first and its second dimension: how many of the first, or
      ranges of them, where a layer reads what others concatenate; None for all.
    - `groups`: of a convolution that keeps its groups apart in every mode, a depthwise one say: how
      many of them there are; None for as many as the graph says.
    - `rounding`: the grid that the layer's weight and input are rounded to; None for floating point.

    Raises `ValueError` for sizes that are no whole numbers above 0, and for ranges that do not ascend.

    >>> View(rows=2, columns=1).cut(np.arange(12).reshape(3, 4)).tolist()
    [[0], [4]]
    >>> View(columns=((0, 1), (2, 4))).cut(np.arange(8).reshape(2, 4)).tolist()
    [[0, 2, 3], [4, 6, 7]]
    """

    rows: Entries | None = None
    columns: Entries | None = None
    groups: int | None = None
    rounding: Rounding | None = None

    def __post_init__(self) -> None:
        for name in ("rows", "columns"):
            if getattr(self, name) is not None:
                kept = checked_entries(getattr(self, name), f"`{name}`")
                object.__setattr__(self, name, kept)
        if self.groups is not None and (type(self.groups) is not int or self.groups < 1):
            raise ValueError(f"`groups` (={self.groups!r:.100}) must be a whole number above 0")

    def cut(self, array: np.ndarray) -> np.ndarray:
        """Return the part of an array: without a copy, unless it lies in several ranges.

        Raises `ValueError` where the view leaves the array.
        """
        for axis, kept in self._checked(array):
            found = pieces(array, axis, kept)
            array = found[0] if len(found) == 1 else np.concatenate(found, axis)
        return array

    def sized(self, array: np.ndarray) -> np.ndarray:
        """Return an array of the shape of the part, never a copy: its values may be others.

        Raises `ValueError` where the view leaves the array.
        """
        for axis, kept in self._checked(array):
            (array,) = pieces(array, axis, count_of(kept))
        return array

    def _checked(self, array: np.ndarray) -> list[tuple[int, Entries]]:
        """Return which entries of which dimensions are meant; raises where the array lacks them."""
        found: list[tuple[int, Entries]] = []
        for axis, (name, kept) in enumerate((("rows", self.rows), ("columns", self.columns))):
            if kept is None:
                continue
            if axis >= array.ndim or end_of(kept) > array.shape[axis]:
                raise ValueError(f"`{name}` (={kept}) leaves a tensor of shape {array.shape}")
            found.append((axis, kept))
        return found

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back, without what is as a whole weight has it."""
        values: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("rows", "columns", "groups")
            if getattr(self, name) is not None
        }
        if self.rounding is not None:
            grid = self.rounding
            values |= {"bits": grid.bits, "scale": grid.scale, "zero": grid.zero}
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> View:
        """Return what `to_json` wrote; raises `ValueError` where it is not that."""
        unknown = set(values) - {"rows", "columns", "groups", "bits", "scale", "zero"}
        if unknown:
            raise ValueError(f"a view has no {min(unknown)!r:.100}")
        rounding = None
        if {"bits", "scale", "zero"} & set(values):
            rounding = Rounding(values["bits"], values["scale"], values["zero"])
        return cls(values.get("rows"), values.get("columns"), values.get("groups"), rounding)
